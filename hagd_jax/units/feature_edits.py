"""Features set, scaled or ablated at a layer and a position."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax import struct
from hagd_jax.brief import one_line
from hagd_jax.errors import (
    InputError,
    require_choice,
    require_index,
    require_is,
    require_list,
)
from hagd_jax.interventions import chain, freeze
from hagd_jax.models import (
    Context,
    Intervention,
    LanguageModel,
    Output,
    check_tokens,
    forward,
    scanned,
    shared,
    static,
    write_gain,
)
from hagd_jax.models.arrays import read_array
from hagd_jax.models.layers import matmul
from hagd_jax.transcoders.replace import FeatureWriter, writer_fields
from hagd_jax.units.dictionary import tail
from hagd_jax.units.directed import Directed
from hagd_jax.units.features import Features, Source, directed

Regime = Literal["direct", "freeze_attention", "free"]
_SCALES = ("norm1_scale", "norm2_scale", "normf_scale", "attn_out_scale")
# What `direct` reads of the undisturbed pass besides.
_UNDISTURBED = ("mlp_out_scale", "normed_final", "logits")
# What is held at its undisturbed value.
REGIMES: dict[str, tuple[str, ...]] = {
    "direct": ("attn_pattern", *_SCALES, "mlp_out"),
    "freeze_attention": ("attn_pattern",),
    "free": (),
}


@dataclasses.dataclass(frozen=True)
class FeatureEdit:
    """An edit changes one feature in one layer at one position: f ← scale · f + value.

    Attributes:
        layer: Whose feature.
        position: Of the token.
        feature: Its number.
        value: What is added; the new activation, where `scale` is 0.
        scale: What it is multiplied by first; 0 sets, and with `value` 0 ablates.
        dictionary: Label of the dictionary whose feature it is, if that is known: the edit is then
            refused with another one. `AttributionGraph.edit` fills it in.

    Example:
        >>> FeatureEdit(layer=3, position=5, feature=17, scale=-2.0)  # turn it round, and double
        FeatureEdit(layer=3, position=5, feature=17, value=0.0, scale=-2.0, dictionary='')
    """

    layer: int
    position: int
    feature: int
    value: float = 0.0
    scale: float = 0.0
    dictionary: str = ""


class Edits(struct.PyTreeNode):
    """Edits are n feature edits as arrays, (n,) each."""

    layer: Any
    position: Any
    feature: Any
    value: Any
    scale: Any

    __repr__ = one_line

    def change(self, activation: jax.Array) -> jax.Array:
        """Compute by how much activations change: (..., n) → (..., n)."""
        return (self.scale - 1) * activation + self.value


@struct.dataclass
class EditFeatures(FeatureWriter):
    """Write what editing features changes, taking the features of the pass itself.

    Attributes:
        edits: `Edits`.
    """

    edits: Any = shared(default=None)

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, EditFeatures]:
        """Add the change along the edges of the edited features to the output."""
        found, e = self.features(ctx), self.edits
        change = e.change(found[:, e.position, e.feature])
        change = jnp.where(e.layer == ctx.index, change, 0)
        amounts = jnp.zeros_like(found).at[:, e.position, e.feature].add(change)
        written, after = self.write(amounts)
        return value + written, after


@struct.dataclass
class EditNeurons(Intervention):
    """Edit neurons, taking the activations of the pass itself.

    Attributes:
        edits: `Edits`.
    """

    edits: Any = shared()

    def on_neuron(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, EditNeurons]:
        """Replace the activations of the edited neurons."""
        e = self.edits
        change = e.change(value[:, e.position, e.feature])
        change = jnp.where(e.layer == ctx.index, change, 0)
        return value.at[:, e.position, e.feature].add(change.astype(value.dtype)), self


@struct.dataclass
class WriteAt(Intervention):
    """Add vectors to MLP outputs, and let a skip connection carry the change.

    Attributes:
        layer: (n,) which output each is added to.
        position: (n,) where.
        vector: (n, D).
        W_skip: (L, D, D), or None.
        before: (L, B, T, D) what the skip connection read before anything changed, or None.
        gain: (L, B, T, D), or what broadcasts to it, from its output to what is added to the
            stream; None where that is the same.
        reads: The site that it reads.
    """

    layer: Any = shared()
    position: Any = shared()
    vector: Any = shared()
    W_skip: Any = scanned(default=None)
    before: Any = scanned(default=None)
    gain: Any = scanned(default=None)
    reads: str = static(default="mlp_in")

    def on_mlp_out(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, WriteAt]:
        """Add this layer's vectors to its MLP output."""
        here = jnp.where((self.layer == ctx.index)[:, None], self.vector, 0)
        value = value.at[:, self.position].add(here.astype(value.dtype))
        if self.W_skip is not None:
            moved = (ctx.seen[self.reads] - self.before) @ self.W_skip.T
            moved = moved if self.gain is None else moved * self.gain
            value = value + moved.astype(value.dtype)
        return value, self


@struct.dataclass
class CapTangent(Intervention):
    """Replace the soft cap of logits by its tangent; build it with a pass of the same tokens.

    Attributes:
        before: (B, T, D) what the unembedding read in that pass.
        logits: (B, T, V) what it put out.
        table: (D, V) the unembedding.
    """

    before: Any = shared()
    logits: Any = shared()
    table: Any = shared()

    def on_logits(self, value: jax.Array, ctx: Context) -> tuple[jax.Array, CapTangent]:
        """Return the logits of that pass, moved along the tangent."""
        moved = matmul(ctx.seen["normed_final"] - self.before, self.table.astype(self.before.dtype))
        slope = 1 - jnp.square(self.logits / ctx.config.logit_softcap)
        return self.logits + slope * moved, self


def intervene(
    model: LanguageModel,
    dictionary: Source | None,
    tokens: Any,
    edits: Sequence[FeatureEdit],
    *,
    regime: Regime = "freeze_attention",
    capture: Sequence[str] = (),
) -> Output:
    """Run prompts with edited features, and let the change spread in one of three regimes.

    - `direct`: attention, norms and MLP outputs are held: the change spreads as attribution says
      it does, Δpre = ((new − a) / a) A, and reaches other features but not what they write; a skip
      connection, which is linear, carries it on. Logits with a soft cap are its tangent at the
      undisturbed pass.
    - `freeze_attention`: attention patterns are held, the rest responds.
    - `free`: everything responds.

    MLPs keep their own outputs, errors included; what a transcoder writes is only what changes.

    Args:
        model: The model.
        dictionary: A transcoder for this model; None for its neurons.
        tokens: (B, T) ids; every prompt is edited.
        edits: What is changed, one edit for each feature and place.
        regime: What is held.
        capture: Sites to return, as in `forward`.

    Returns:
        Logits and trace.

    Raises:
        ConfigError: If there is no such regime.
        InputError: If an edit is of no layer, position or feature of these, occurs twice, or is
            not finite.

    Example:
        >>> import jax
        >>> from hagd_jax.models import DecoderConfig, init
        >>> config = DecoderConfig(vocab_size=9, n_layers=2, d_model=8, n_heads=2, d_mlp=16)
        >>> model = init(config, jax.random.key(0))
        >>> off = FeatureEdit(layer=1, position=2, feature=15)
        >>> intervene(model, None, [[1, 2, 3, 4]], [off], regime="free").logits.shape
        (1, 4, 9)
    """
    require_choice("regime", regime, REGIMES)
    require_is("model", model, LanguageModel)
    nodes, tokens = directed(model, dictionary), check_tokens(model.config, tokens)
    made = _checked(edits, nodes, tokens.shape)
    held = REGIMES[regime]
    needed = (*held, nodes.source, *(_UNDISTURBED if regime == "direct" else ()))
    trace = {} if not held else forward(model, tokens, capture=needed).trace
    if regime == "direct":
        acting: Intervention = _written(model, nodes, made, trace)
        if model.config.logit_softcap:
            acting = chain(acting, _tangent(model, trace))
    elif isinstance(nodes, Features):
        acting = EditFeatures(**writer_fields(nodes.trained), edits=made)
    else:
        acting = EditNeurons(made)
    return forward(model, tokens, chain(freeze(trace, held), acting), capture=capture)


def _written(
    model: LanguageModel, nodes: Directed, edits: Edits, trace: dict[str, jax.Array]
) -> WriteAt:
    """What edits add to each MLP output, from activations of the undisturbed pass."""
    place = edits.layer, slice(None), edits.position, edits.feature
    extra: dict[str, Any] = {}
    if nodes.skip is not None:
        extra = {"W_skip": nodes.skip, "before": trace[nodes.reads], "reads": nodes.reads}
    values = nodes.values(trace | {"head_out": trace[nodes.source]})[nodes.name_of_values]
    senders, receivers, decoders = nodes.decoders(model)
    if values.shape[1] > 1:
        raise InputError(
            "tokens", got=f"{values.shape[1]} prompts", expected="one prompt with regime 'direct'"
        )
    change = edits.change(values[place][:, 0])
    edge, which = np.nonzero(senders[:, None] == np.asarray(edits.layer)[None])
    rows = decoders[edge, np.asarray(edits.feature)[which]].astype(jnp.float32)
    if nodes.writes == "mlp_out_raw":
        gain = write_gain(model, trace, "mlp_out")
        rows = rows * gain[receivers[edge], 0, edits.position[which]]
        extra |= {"gain": gain} if nodes.skip is not None else {}
    return WriteAt(
        jnp.asarray(receivers[edge]),
        edits.position[which],
        rows * change[which][:, None],
        **extra,
    )


def _tangent(model: LanguageModel, trace: dict[str, jax.Array]) -> CapTangent:
    """A soft cap's tangent at a pass: z̃ + (1 − (z̃/c)²) (z′ − z), with z′ − z = (x′ − x) W_U."""
    p, c = model.params, model.config
    table = p["embed"]["embedding"].T if c.tied else p["unembed"]["kernel"]
    return CapTangent(before=trace["normed_final"], logits=trace["logits"], table=table)


def _checked(edits: Sequence[FeatureEdit], nodes: Directed, shape: tuple[int, ...]) -> Edits:
    edits = require_list("edits", edits, "a list of FeatureEdit")
    if not edits:
        raise InputError("edits", got="none", expected="one or more")
    limits = {
        "layer": nodes.space.layers, "position": shape[1], "feature": nodes.space.features,
    }  # fmt: skip
    places = []
    for edit in edits:
        require_is("edits", edit, FeatureEdit)
        place = (require_index(f"{n} of {edit}", getattr(edit, n), limits[n]) for n in limits)
        places.append(tuple(place))
        if edit.dictionary and tail(edit.dictionary) != tail(nodes.label):
            raise InputError(
                f"dictionary of {edit}", got=nodes.label, expected=edit.dictionary,
                mend="Give the dictionary whose feature is edited.",
            )  # fmt: skip
        for name in ("value", "scale"):
            number = read_array(f"{name} of {edit}", getattr(edit, name), "a number")
            if number.ndim or not np.isfinite(number):
                raise InputError(f"{name} of {edit}", got=number, expected="a finite number")
    if len(set(places)) < len(edits):
        raise InputError("edits", got="one place twice", expected="one edit for each place")
    columns = jnp.asarray(places, jnp.int32).T
    return Edits(
        *columns,
        value=jnp.asarray([edit.value for edit in edits], jnp.float32),
        scale=jnp.asarray([edit.scale for edit in edits], jnp.float32),
    )
