"""Train a small transformer to add modulo p, in seconds on a laptop.

One layer without norms, ReLU, learned positions; AdamW whose strong weight decay makes it
generalise rather than remember ("grokking", Power et al., 2022, arXiv:2201.02177; Nanda et al.,
2023, arXiv:2301.05217, found what such models compute). A large step and batches of a part of
the pairs make it generalise within a few hundred steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from hagd_jax.errors import ConfigError, InputError
from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer, forward, init
from hagd_jax.parallel import constrain
from hagd_jax.tasks import modular

OnStep = Callable[[int, int, Mapping[str, float]], None]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How the model looks and how it is trained.

    Attributes:
        n_layers: Blocks; one is enough, two work as well.
        d_model: Width of the residual stream.
        n_heads: Attention heads.
        d_mlp: MLP neurons a layer.
        steps: Most steps of AdamW.
        batch_size: Pairs a step, drawn with replacement; 0 for 256 up to p = 64, else 512.
        learning_rate: After a warm-up of ten steps.
        weight_decay: Of every parameter, times the learning rate.
        target: Accuracy on the pairs of the select split at which training may stop.
        patience: Checks in a row that must reach the target.
        check_every: Steps from one check to the next; they run as one compiled scan.
    """

    n_layers: int = 1
    d_model: int = 128
    n_heads: int = 4
    d_mlp: int = 512
    steps: int = 3000
    batch_size: int = 0
    learning_rate: float = 5e-3
    weight_decay: float = 0.5
    target: float = 0.995
    patience: int = 2
    check_every: int = 50

    def __post_init__(self):
        for field in ("steps", "learning_rate", "patience", "check_every"):
            if not getattr(self, field) > 0:
                raise ConfigError(field, got=getattr(self, field), expected="more than 0")
        for field in ("batch_size", "weight_decay"):
            if not getattr(self, field) >= 0:
                raise ConfigError(field, got=getattr(self, field), expected="0 or more")


def train(
    p: int,
    *,
    seed: int = 0,
    config: TrainConfig | None = None,
    on_step: OnStep | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> LanguageModel:
    """A transformer trained to add modulo p.

    It sees the `train` pairs of `modular.shares(p)` and stops by the select pairs; discover and
    test pairs are never looked at. Same seed, configuration and machine, same model.

    Args:
        p: The modulus.
        seed: Of the initial weights and the batches.
        config: Model and training; the defaults reach the target for p = 53 and 113.
        on_step: Called after each check as on_step(step, most steps, metrics) with `loss` and
            `train_accuracy` (means since the last check) and `select_accuracy`.
        mesh: Weights by the rules of `parallel.RULES`, batches split over its `data` axis.

    Returns:
        The model, with a tokenizer of the words "0" to "p − 1" and "=". It is returned even if
        the target was not reached after `steps`: the last metrics say so.

    Raises:
        InputError: If p is not a whole number, or so small that no pairs are left to train on.
    """
    config = config or TrainConfig()
    pairs = modular.shares(p)
    if len(pairs["train"]) == 0:
        raise InputError(
            "p", got=p, expected="3 or more to train a model: the splits need every pair"
        )
    init_key, key = jax.random.split(jax.random.key(seed))
    tokenizer = Tokenizer.words(modular.vocabulary(p))
    model = init(
        decoder_config(p, config), init_key, mesh=mesh, tokenizer=tokenizer, name=f"modular-{p}"
    )
    rows, select = (jnp.asarray(modular.tokens(pairs[s], p)) for s in ("train", "select"))
    rates = config.learning_rate, config.weight_decay
    batch_size = config.batch_size or (256 if p <= 64 else 512)
    opt_state = _optimizer(*rates).init(model.params)
    reached = 0
    for step in range(0, config.steps, config.check_every):
        keys = jax.random.split(jax.random.fold_in(key, step), config.check_every)
        model, opt_state, metrics = _chunk(
            model, opt_state, keys, rows, select, rates, batch_size=batch_size
        )
        metrics = {name: float(value) for name, value in metrics.items()}
        if on_step is not None:
            on_step(step + config.check_every, config.steps, metrics)
        reached = reached + 1 if metrics["select_accuracy"] >= config.target else 0
        if reached == config.patience:
            break
    return model


def decoder_config(p: int, config: TrainConfig) -> DecoderConfig:
    """The transformer that `train` trains.

    Args:
        p: The modulus.
        config: Its size.

    Returns:
        Its configuration.
    """
    return DecoderConfig(
        vocab_size=p + 1,
        n_layers=config.n_layers,
        d_model=config.d_model,
        n_heads=config.n_heads,
        d_mlp=config.d_mlp,
        max_positions=3,
        norm="none",
        positions="learned",
        activation="relu",
    )


def _optimizer(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
    rate = optax.warmup_constant_schedule(0.0, learning_rate, 10)
    # A shorter memory of squared gradients than Adam's .999, as they shrink fast here.
    return optax.adamw(rate, b2=0.98, weight_decay=weight_decay)


@functools.partial(jax.jit, static_argnames=("batch_size",), donate_argnames=("model", "opt_state"))
def _chunk(
    model: LanguageModel,
    opt_state: optax.OptState,
    keys: jax.Array,
    rows: jax.Array,
    select: jax.Array,
    rates: tuple[Any, Any],
    *,
    batch_size: int,
) -> tuple[LanguageModel, optax.OptState, dict[str, jax.Array]]:
    """As many steps as there are keys, then a look at the select pairs."""
    optimizer = _optimizer(*rates)

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, tuple]:
        model, opt_state = carry
        chosen = jax.random.randint(key, (batch_size,), 0, len(rows))
        batch = constrain(rows[chosen], ("batch", None), model.mesh)
        (loss, accuracy), grads = jax.value_and_grad(_loss, has_aux=True)(model, batch)
        updates, opt_state = optimizer.update(grads.params, opt_state, model.params)
        model = model.replace(params=optax.apply_updates(model.params, updates))
        return (model, opt_state), (loss, accuracy)

    (model, opt_state), (loss, accuracy) = jax.lax.scan(step, (model, opt_state), keys)
    metrics = {"loss": loss.mean(), "train_accuracy": accuracy.mean()}
    return model, opt_state, metrics | {"select_accuracy": _loss(model, select)[1]}


def _loss(model: LanguageModel, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy at the last position, and accuracy."""
    p = model.config.vocab_size - 1
    sums = (tokens[:, 0] + tokens[:, 1]) % p
    logits = forward(model, tokens).logits[:, -1]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, sums).mean()
    return loss, (jnp.argmax(logits[:, :p], axis=-1) == sums).mean()
