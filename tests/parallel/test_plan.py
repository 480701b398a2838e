"""Memory plans; the compiler for TPUs is optional, so some tests need it."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re

import jax
import jax.numpy as jnp
import pytest

from hagd_jax.errors import ConfigError, MeshError, MissingDependencyError
from hagd_jax.parallel import Plan, constrain, make_mesh, plan, sharding, topology_mesh

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs pip install 'hagd-jax[tpu]'"
)

ACCOUNT = Plan(
    topology="v5e:2x2",
    mesh="data=4",
    arguments=8 * 2**30,
    outputs=6 * 2**30,
    temporaries=3 * 2**30,
    code=512,
    aliased=2 * 2**30,
    memory=16 * 2**30,
    compile_seconds=1.25,
)


def test_the_account_adds_up():
    assert ACCOUNT.total == 15 * 2**30 + 512
    assert ACCOUNT.fits
    assert not dataclasses.replace(ACCOUNT, aliased=0).fits
    assert "total          15.00 GiB\nmemory         16.00 GiB: fits" in str(ACCOUNT)
    assert "code               512 B" in ACCOUNT.table()


def test_an_account_of_what_did_not_compile():
    account = dataclasses.replace(
        ACCOUNT, outputs=0, temporaries=0, aliased=0, problem="RESOURCE_EXHAUSTED: 40.0G"
    )
    assert not account.fits
    assert "does not fit\nRESOURCE_EXHAUSTED" in str(account)
    assert "temporaries" not in str(account)


def test_without_libtpu_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    install = re.escape('pip install "hagd-jax[tpu]"')
    with pytest.raises(MissingDependencyError, match=install):
        topology_mesh("v5e:2x2", "data=4")
    with pytest.raises(MissingDependencyError, match=install):
        plan(jnp.sin, (), topology="v5e:2x2", mesh=make_mesh("data=4"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "topology",
    [
        "",
        "v5e",
        "v5e:8",
        "v5e:4x4x4",
        "v5p:8x8",
        "v9:2x2",
        "v5e:0x2",
        "v5e:99x99",
        "v5e:2x2 ",
        "v٣:2x2",
    ],
)
def test_unknown_topologies_list_examples(topology: str):
    with pytest.raises(ConfigError, match=r"v5e:8x8.*v5p:4x4x4"):
        topology_mesh(topology, "data=-1")


@needs_libtpu
@pytest.mark.parametrize("topology", ["v5e:1x1", "v5e:2x4", "v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_each_generation_has_one_device_a_chip(topology: str):
    sides = topology.partition(":")[2].split("x")
    mesh = topology_mesh(topology, "data=1,model=-1")
    assert mesh.size == math.prod(int(side) for side in sides)


@needs_libtpu
def test_a_matmul_is_accounted_for_by_hand():
    mesh = topology_mesh("v5e:2x4", "data=2,model=4")
    x = jax.ShapeDtypeStruct((512, 1024), jnp.bfloat16, sharding=sharding(mesh, ("batch", None)))
    w = jax.ShapeDtypeStruct((1024, 4096), jnp.bfloat16, sharding=sharding(mesh, ("embed", "mlp")))

    def run(x, w):
        return constrain(x @ w, ("batch", "mlp"), mesh)

    account = plan(run, (x, w), topology="v5e:2x4", mesh=mesh)
    assert account.arguments == 2 * (512 * 1024 // 2 + 1024 * 4096 // 8)
    assert account.outputs == 2 * 512 * 4096 // 8
    assert account.code > 0
    assert account.fits
    assert "mesh data=2,model=4" in str(account)
    donated = plan(jnp.negative, (x,), topology="v5e:2x4", mesh=mesh, donate_argnums=0)
    assert donated.aliased == donated.arguments > 0


@needs_libtpu
def test_a_program_too_large_is_said_to_be():
    mesh = topology_mesh("v5e:1x1", "data=1")
    x = jax.ShapeDtypeStruct((2**17, 2**17), jnp.float32, sharding=sharding(mesh, (None, None)))
    account = plan(lambda x: jnp.sort(x, -1) + 1, (x,), topology="v5e:1x1", mesh=mesh)
    assert not account.fits
    assert account.arguments == 4 * 2**34
    assert "RESOURCE_EXHAUSTED" in account.problem


@needs_libtpu
def test_meshes_of_other_devices_are_refused():
    with pytest.raises(MeshError, match="all 4 chips"):
        topology_mesh("v5e:2x2", "")
    with pytest.raises(MeshError, match="data=2"):
        topology_mesh("v5e:2x2", "data=2")
    here = make_mesh("data=4")
    assert here is not None
    with pytest.raises(MeshError, match="topology_mesh"):
        plan(jnp.sin, (), topology="v5e:2x2", mesh=here)
    there = topology_mesh("v5e:2x2", "data=4")
    x = jax.ShapeDtypeStruct((4,), jnp.float32, sharding=sharding(here, ("batch",)))
    with pytest.raises(MeshError, match=r"args\[0\]"):
        plan(jnp.sin, (x,), topology="v5e:2x2", mesh=there)
