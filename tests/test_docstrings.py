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
# Examples that name things which they do not define. The list may only shrink.
PENDING = {
    "hagd_jax.pipeline.fused.step.parts_of",
    "hagd_jax.report.graph_page.graph_page",
    "hagd_jax.report.transcoder_page.transcoder_page",
    "hagd_jax.tasks.benchmarks.task",
    "hagd_jax.tasks.definition.Task.clusters",
    "hagd_jax.tasks.duplicates.overlap",
    "hagd_jax.testbeds.case.as_task",
    "hagd_jax.testbeds.compiled.compile_program",
    "hagd_jax.testbeds.compiled.compiled_prompts",
    "hagd_jax.testbeds.guise.hidden_in",
    "hagd_jax.testbeds.guise.scrambled",
    "hagd_jax.testbeds.known.compiled_case",
    "hagd_jax.testbeds.necessary.necessary_edges",
    "hagd_jax.testbeds.necessary.true_edges",
    "hagd_jax.testbeds.small_cache.small_model",
    "hagd_jax.testbeds.small_training.train_small",
    "hagd_jax.testbeds.structure.program_edges",
    "hagd_jax.testbeds.structure.program_nodes",
    "hagd_jax.transcoders.contexts.top.top_contexts",
    "hagd_jax.transcoders.measures.effects.logit_effects",
    "hagd_jax.transcoders.measures.measure.measure",
    "hagd_jax.transcoders.training.trainer.train",
}
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
            if test.examples and test.name not in PENDING:
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
