"""Every example in a docstring runs as it stands, beside the names of its own module."""

import doctest
import importlib
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import hagd_jax as hagd

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# What any reader of these pages has imported already.
GIVEN = {"hagd": hagd, "jax": jax, "jnp": jnp, "np": np}


def modules():
    found = pkgutil.walk_packages(hagd.__path__, "hagd_jax.")
    return [module.name for module in found if not module.name.endswith("__main__")]


def examples():
    finder = doctest.DocTestFinder(exclude_empty=True)
    for name in modules():
        module = importlib.import_module(name)
        for test in finder.find(module, name):
            if test.examples:
                yield pytest.param(test, vars(module), id=test.name)


@pytest.mark.parametrize(("test", "own"), list(examples()))
def test_an_example_runs(test, own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    test.globs = {**own, **GIVEN}
    said = []
    found = doctest.DocTestRunner(optionflags=FLAGS).run(test, out=said.append)
    assert found.attempted
    assert not found.failed, "".join(said)


def test_there_are_as_many_examples_as_ever():
    assert len(list(examples())) >= 150
