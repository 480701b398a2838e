"""Options that every command must pass on to what it calls, before anything is loaded."""

import types

import jax.numpy as jnp
import pytest

from hagd_jax import models, parallel, transcoders
from hagd_jax.cli import main, validate
from hagd_jax.models import DecoderConfig

CLUSTER = ["--cluster.coordinator", "host:1", "--cluster.processes", "2", "--cluster.process", "1"]


class Reached(Exception):
    """A call that a test waited for."""


@pytest.fixture
def calls(monkeypatch):
    """What was called before the transcoder was to be loaded, and with what."""
    seen = []
    monkeypatch.setattr(parallel, "start", lambda *args: seen.append(("start", *args)))

    def model(*_, **options):
        seen.append(("model", options))
        return types.SimpleNamespace(
            name="m", mesh=None, config=DecoderConfig(9, 1, 8, 2, 16, dtype=options["dtype"])
        )

    monkeypatch.setattr(models, "load", model)

    def load(*_, **options):
        seen.append(("transcoder", options))
        raise Reached

    monkeypatch.setattr(transcoders, "load", load)
    monkeypatch.setattr(transcoders, "open_lazy", load)
    return seen


def reach(calls, command):
    with pytest.raises(Reached):
        main([*command, "--dtype", "bfloat16", *CLUSTER])
    names = [name for name, *_ in calls]
    assert names == ["start", "model", "transcoder"]
    assert calls[0][1:] == ("host:1", 2, 1)
    for _, options in calls[1:]:
        assert jnp.dtype(options["dtype"]) == jnp.bfloat16


def test_attribute_passes_on_its_dtype_and_cluster(tmp_path, calls):
    out = ["--out", str(tmp_path / "run")]
    reach(calls, ["attribute", "--model", "m", "--prompt", "a", "--features", "f", *out])


def test_validate_passes_on_its_dtype_and_cluster(tmp_path, calls, monkeypatch):
    circuit = types.SimpleNamespace(task="capitals", model="m", dictionary="neurons")
    monkeypatch.setattr(validate, "load_circuit", lambda _: circuit)
    at = str(tmp_path / "circuit.json")
    reach(calls, ["validate", "--circuit", at, "--model", "m", "--features", "f"])
