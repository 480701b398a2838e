"""One of two processes of a CPU cluster; started by test_distributed.py.

python worker.py COORDINATOR PROCESS_ID FOLDER
"""

from __future__ import annotations

import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.errors import MeshError
from hagd_jax.parallel import (
    Checkpoints,
    agree,
    is_main,
    make_mesh,
    restore,
    save,
    sharding,
    start,
    to_global,
)


def expect_mesh_error(call):
    try:
        call()
    except MeshError:
        return
    raise AssertionError("no MeshError")


def main(coordinator: str, process_id: int, folder: str) -> None:
    start(coordinator, 2, process_id, local_devices=2)
    start(coordinator, 2, process_id)  # A second call does nothing.
    assert (jax.process_count(), jax.local_device_count(), jax.device_count()) == (2, 2, 4)
    assert is_main() == (process_id == 0)
    assert agree(is_main())  # The first process says yes, the second no.
    assert not agree(not is_main())

    rows = make_mesh("data=4")
    square = make_mesh("data=2,model=2")
    assert rows is not None
    assert square is not None
    expect_mesh_error(lambda: make_mesh("data=2"))  # It would leave a process without a part.

    everything = np.arange(8 * 3, dtype=np.float32).reshape(8, 3) + 1
    mine = everything[4 * process_id : 4 * process_id + 4]
    batch = to_global(rows, {"x": mine})
    assert batch["x"].shape == (8, 3)
    total = jax.jit(lambda x: jnp.sum(x * x), out_shardings=sharding(rows, ()))(batch["x"])
    assert float(total) == float(np.sum(everything**2))
    expect_mesh_error(lambda: to_global(rows, mine[:3]))
    # With the batch on one axis of a square mesh each process holds half of it, twice.
    assert to_global(square, mine).shape == (8, 3)

    weight = jax.device_put(everything, sharding(rows, ("batch", None)))
    state = {"w": weight, "key": jax.random.key(5), "step": 3, "note": np.arange(2)}
    save(folder + "/state", state)
    save(folder + "/state", state | {"step": 4})
    like = state | {
        "w": jax.ShapeDtypeStruct((8, 3), jnp.float32, sharding=sharding(square, ("embed", None)))
    }
    back = restore(folder + "/state", like)
    for shard in back["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, everything[shard.index])
    assert back["w"].sharding.mesh == square
    assert back["step"] == 4
    np.testing.assert_array_equal(jax.random.key_data(back["key"]), [0, 5])

    run = Checkpoints(folder + "/run", keep=1)
    for step in (1, 2):
        run.save(step, {"w": weight * step})
    found = run.latest({"w": weight})
    assert found is not None
    assert found[0] == 2
    for shard in found[1]["w"].addressable_shards:
        np.testing.assert_array_equal(shard.data, 2 * everything[shard.index])
    print("done", float(total))


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
