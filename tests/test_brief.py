"""Every public value reads in one line, and never as its weights."""

import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing

import jax
import jax.numpy as jnp
import jraph
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

import hagd_jax
from hagd_jax import (
    brief,
    graphs,
    interventions,
    models,
    scores,
    struct,
    testbeds,
    transcoders,
    units,
)

# Names of types that can hold arrays, or any number of values, in annotations.
HOLDERS = re.compile(
    r"Any|rray|Nodes|Edges|Mapping|dict|list|Sequence|Prompts|Params|Circuit|Mask|Graph|Callable"
    r"|Transcoder\b|Features|Dictionary|Model\b|tuple\[.*\.\.\."
)
# Recipes without arrays, whose fields are worth reading in full.
RECIPES = re.compile(
    r"Config$|^(Weight|Program|Board|Validate|Attribute|PlanMemory|ParamSpec|RopeScaling|Rule)$"
)


def classes():
    """Dataclasses and named tuples that the package exports, with their fields' types."""
    for info in pkgutil.walk_packages(hagd_jax.__path__, "hagd_jax."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", ()):
            kind = getattr(module, name)
            if not inspect.isclass(kind) or RECIPES.search(name):
                continue
            if dataclasses.is_dataclass(kind):
                yield kind, [str(field.type) for field in dataclasses.fields(kind)]
            elif hasattr(kind, "_fields"):
                yield kind, [str(type) for type in kind.__annotations__.values()]


def test_what_can_hold_arrays_says_how_it_is_printed():
    generated, count = [], 0
    for kind, types in classes():
        if not any(HOLDERS.search(type) for type in types):
            continue
        count += 1
        source = inspect.unwrap(kind.__repr__).__code__.co_filename
        if "hagd_jax" not in source:
            generated.append(f"{kind.__module__}.{kind.__name__}")
    assert count > 50
    assert not generated, "add `__repr__ = one_line`"


def values():
    case = testbeds.hand_built()[0]
    model, prompts = case.model, case.prompts
    graph = graphs.attribute(model, None, np.asarray(prompts.clean[0]))
    config = transcoders.TranscoderConfig(
        n_layers=model.config.n_layers, d_model=model.config.d_model, n_features=8, k=2
    )
    made = transcoders.init(config, jax.random.key(0))
    yield from (case, model, prompts, graph, graph.info, graph.nodes, graphs.prune(graph))
    yield from (graphs.task_graph([graph]), made, units.as_dictionary(model, made))
    yield from (units.neurons(model), units.blocks(model), units.components(model))
    yield units.Nodes.full(units.neurons(model).space, 1.0)
    yield models.forward(model, prompts.clean, capture="neuron")
    yield interventions.chain(
        interventions.add("embed", jnp.ones(12)), interventions.mask_heads(np.ones((1, 4)), 0.0)
    )
    yield scores.component_graph(model, prompts, scores.GradientConfig(steps=(1.0,)))
    # Traced, or without arrays, as in the middle of a transformation.
    yield jax.eval_shape(lambda m: m, model)
    yield jax.tree.map(lambda _: None, model)
    yield jax.tree.map(lambda _: object(), prompts)


def test_values_read_in_one_line():
    for value in values():
        for text in (repr(value), str(value)):
            assert 8 < len(text) <= 260, text
            assert "\n" not in text
            assert not re.search(r"\[\[|array\(|Array\(|\d\.\d{4}", text), text


def test_a_model_says_what_it_is():
    config = models.DecoderConfig(vocab_size=9, n_layers=3, d_model=8, n_heads=2, d_mlp=16)
    model = models.init(config, jax.random.key(0), name="tiny")
    count = sum(leaf.size for leaf in jax.tree.leaves(model.params))
    expected = (
        f"'tiny': custom, 3 layers, d_model 8, {count:,} parameters, float32, vocabulary of 9"
    )
    assert repr(model) == f"LanguageModel({expected})"


class Pair(typing.NamedTuple):
    """Anything twice."""

    one: typing.Any
    other: typing.Any


@struct.dataclass
class Shouting(interventions.Intervention):
    """An intervention of a user's own."""

    loud: typing.Any = models.scanned()


def test_interventions_of_ones_own_are_printed_so_too():
    assert repr(Shouting(jnp.ones((2, 3)))) == "Shouting(loud=float32[2, 3])"


ANY = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from(
        [np.ones((3, 4)), np.float32(1), jnp.ones(2), jnp.bfloat16, object(), jax.random.key(0),
         jraph.GraphsTuple(*[None] * 7), range(9), jax.ShapeDtypeStruct((2, 3), "f4")]
    ),
    lambda inner: st.lists(inner)
    | st.tuples(inner, inner)
    | st.dictionaries(st.text(), inner)
    | st.builds(Pair, inner, inner),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=50)
@given(ANY, ANY)
def test_anything_is_brief(one, other):
    text = brief.one_line(Pair(one, other))
    assert text.startswith("Pair(one=")
    assert len(text) <= 160
    assert text.isprintable()
    assert len(brief.brief(one)) <= 100
    assert "\n" not in brief.brief(one)
