"""Train small transformers to compute algorithms, in seconds to a minute on a laptop.

ReLU, learned positions, and for addition one layer without norms; AdamW whose strong weight decay
makes it generalise rather than remember ("grokking", Power et al., 2022, arXiv:2201.02177; Nanda
et al., 2023, arXiv:2301.05217, found what such models compute). A large step and batches of a part
of the examples make it generalise within a few hundred steps.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from hagd_jax.errors import InputError, TrainingError, require_number
from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer, forward, init
from hagd_jax.parallel import Checkpoints, Pace, constrain
from hagd_jax.tasks import modular
from hagd_jax.tasks.algorithm import TRAIN, Algorithm

# Examples of a part that are made at most; the second are those that training stops by.
MOST_EXAMPLES = 30_000
# Seconds between two checkpoints of a training.
_SAVE_EVERY = 5.0
_MOST = {TRAIN: MOST_EXAMPLES, "select": 2_000}

OnStep = Callable[[int, int, Mapping[str, float]], None]


@dataclasses.dataclass(frozen=True)
class SmallTrainConfig:
    """Configure a small model and its training.

    Attributes:
        n_layers: Blocks; 0 for as many as the algorithm needs.
        d_model: Width of the residual stream.
        n_heads: Attention heads.
        d_mlp: MLP neurons a layer.
        steps: Most steps of AdamW.
        batch_size: Examples a step, drawn with replacement; 0 for 256, or 512 if there are more
            than 3,200 to train on.
        learning_rate: After a warm-up of ten steps.
        weight_decay: Of every parameter, times the learning rate.
        target: Accuracy on the select split at which training may stop.
        patience: Checks in a row that must reach the target.
        check_every: Steps from one check to the next; they run as one compiled scan.
    """

    n_layers: int = 0
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
        for field in ("d_model", "n_heads", "d_mlp", "steps", "patience", "check_every"):
            require_number(field, getattr(self, field), least=1, whole=True)
        for field in ("n_layers", "batch_size"):
            require_number(field, getattr(self, field), least=0, whole=True)
        require_number("learning_rate", self.learning_rate, above=0)
        for field in ("weight_decay", "target"):
            require_number(field, getattr(self, field), least=0)


def train_small(
    algorithm: Algorithm,
    *,
    seed: int = 0,
    config: SmallTrainConfig | None = None,
    on_step: OnStep | None = None,
    mesh: jax.sharding.Mesh | None = None,
    checkpoints: Checkpoints | None = None,
) -> LanguageModel:
    """Train a small transformer to compute an algorithm.

    It sees examples of the `train` part and stops by those of the select split; discover and
    test examples are never looked at. Same seed, configuration and machine, same model.

    Args:
        algorithm: What to learn, such as `parity(10)`.
        seed: Of the initial weights and the batches.
        config: Model and training; the defaults reach the target for the algorithms here.
        on_step: Called after each check as on_step(step, most steps, metrics) with `loss` and
            `train_accuracy` (means since the last check) and `select_accuracy`.
        mesh: Weights by the rules of `parallel.RULES`, batches split over its `data` axis.
        checkpoints: Where the training is saved every few seconds, and goes on from.

    Returns:
        The model, with a tokenizer of the algorithm's words. It is returned even if the target
        was not reached after `steps`: the last metrics say so.

    Raises:
        InputError: If there are no examples to train on.
        TrainingError: If the loss is not finite.

    Example:
        >>> from hagd_jax.tasks.algorithms import parity
        >>> tiny = SmallTrainConfig(n_layers=1, d_model=8, n_heads=1, d_mlp=8, steps=1)
        >>> model = train_small(parity(4), config=tiny)
        >>> hagd.tasks.task("parity", model).name
        'parity'
    """
    config = config or SmallTrainConfig()
    rows, select = _examples(algorithm)
    init_key, key = jax.random.split(jax.random.key(seed))
    shape, words = decoder_config(algorithm, config), Tokenizer.words(algorithm.words)
    model = init(shape, init_key, mesh=mesh, tokenizer=words, name=algorithm.model_name)
    rates = config.learning_rate, config.weight_decay
    batch_size = config.batch_size or (256 if len(rows[0]) <= 3200 else 512)
    scored = _Scored(int((rows[1] >= 0).any(0).argmax()), algorithm.candidates)
    begun, state = 0, (model.params, _optimizer(*rates).init(model.params), 0)
    if checkpoints is not None:
        begun, state = checkpoints.latest(state) or (begun, state)
    (params, opt_state, reached), pace = state, Pace(_SAVE_EVERY)
    model = model.replace(params=params)
    for step in range(begun, config.steps, config.check_every):
        keys = jax.random.split(jax.random.fold_in(key, step), config.check_every)
        model, opt_state, metrics = _chunk(
            model, opt_state, keys, rows, select, rates, batch_size=batch_size, scored=scored
        )  # fmt: skip
        metrics = {name: float(value) for name, value in metrics.items()}
        done = step + config.check_every
        _require_finite(metrics["loss"], done)
        reached = reached + 1 if metrics["select_accuracy"] >= config.target else 0
        last = reached == config.patience or done >= config.steps
        report = on_step and functools.partial(on_step, done, config.steps, metrics)
        save = None
        if checkpoints is not None and not last:
            save = functools.partial(checkpoints.save, done, (model.params, opt_state, reached))
        pace(report, save)
        if last:
            break
    return model


def _examples(algorithm: Algorithm) -> tuple[Any, Any]:
    """Return the rows to train on and those of the select split, each as tokens and answers."""
    tables = (algorithm.table(part, most) for part, most in _MOST.items())
    rows, select = (tuple(jnp.asarray(x, jnp.int32) for x in table) for table in tables)
    if not len(rows[0]):
        raise InputError(
            f"training examples of {algorithm.name}",
            got="none",
            expected="some: the splits need every input",
            mend="Use a larger one.",
        )
    return rows, select


def _require_finite(loss: float, step: int) -> None:
    """Refuse to go on from a mean of losses that is not finite: what overflowed once stays so."""
    if not math.isfinite(loss):
        raise TrainingError(
            f"step {step}", got="NaN or infinity", expected="finite numbers",
            mend="Try a smaller learning_rate.",
        )  # fmt: skip


def train_modular(
    p: int,
    operation: str = "add",
    *,
    seed: int = 0,
    config: SmallTrainConfig | None = None,
    on_step: OnStep | None = None,
    mesh: jax.sharding.Mesh | None = None,
) -> LanguageModel:
    """Train a transformer to add or multiply modulo p; see `train_small`.

    Args:
        p: The modulus.
        operation: `add` or `multiply`.
        seed: As there; so are the rest.
        config: The defaults reach the target for p = 53 and 113.
        on_step: Called after each check.
        mesh: Devices.

    Returns:
        The model.

    Raises:
        InputError: If p is not a whole number, 3 or more.
    """
    algorithm = modular.algorithm(p, operation)
    return train_small(algorithm, seed=seed, config=config, on_step=on_step, mesh=mesh)


def decoder_config(algorithm: Algorithm, config: SmallTrainConfig) -> DecoderConfig:
    """Configure the transformer that `train_small` trains.

    Args:
        algorithm: What it computes.
        config: Its size.

    Returns:
        Its configuration.
    """
    return DecoderConfig(
        vocab_size=len(algorithm.words),
        n_layers=config.n_layers or algorithm.n_layers,
        d_model=config.d_model,
        n_heads=config.n_heads,
        d_mlp=config.d_mlp,
        max_positions=algorithm.width,
        norm=algorithm.norm,
        positions="learned",
        activation="relu",
    )


def _optimizer(learning_rate: Any, weight_decay: Any) -> optax.GradientTransformation:
    rate = optax.warmup_constant_schedule(0.0, learning_rate, 10)
    # A shorter memory of squared gradients than Adam's .999, as they shrink fast here.
    return optax.adamw(rate, b2=0.98, weight_decay=weight_decay)


class _Scored(NamedTuple):
    """Which logits are scored: from the first position that has an answer, among candidates."""

    first: int
    candidates: tuple[int, ...]


@functools.partial(
    jax.jit,
    static_argnames=("batch_size", "scored"),
    donate_argnames=("model", "opt_state"),
)
def _chunk(
    model: LanguageModel,
    opt_state: optax.OptState,
    keys: jax.Array,
    rows: tuple[jax.Array, jax.Array],
    select: tuple[jax.Array, jax.Array],
    rates: tuple[Any, Any],
    *,
    batch_size: int,
    scored: _Scored,
) -> tuple[LanguageModel, optax.OptState, dict[str, jax.Array]]:
    """As many steps as there are keys, then a look at the select examples."""
    optimizer = _optimizer(*rates)
    measure = functools.partial(_loss, scored=scored)

    def step(carry: tuple, key: jax.Array) -> tuple[tuple, tuple]:
        model, opt_state = carry
        chosen = jax.random.randint(key, (batch_size,), 0, len(rows[0]))
        tokens, answers = (constrain(table[chosen], ("batch", None), model.mesh) for table in rows)
        (loss, accuracy), grads = jax.value_and_grad(measure, has_aux=True)(model, tokens, answers)
        updates, opt_state = optimizer.update(grads.params, opt_state, model.params)
        model = model.replace(params=optax.apply_updates(model.params, updates))
        return (model, opt_state), (loss, accuracy)

    (model, opt_state), (loss, accuracy) = jax.lax.scan(step, (model, opt_state), keys)
    metrics = {"loss": loss.mean(), "train_accuracy": accuracy.mean()}
    return model, opt_state, metrics | {"select_accuracy": measure(model, *select)[1]}


def _loss(
    model: LanguageModel, tokens: jax.Array, answers: jax.Array, scored: _Scored
) -> tuple[jax.Array, jax.Array]:
    """Mean cross-entropy where there is an answer, and accuracy among the candidates."""
    answers = answers[:, scored.first :]
    counts = answers >= 0
    logits = forward(model, tokens).logits[:, scored.first :]
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(answers, 0))
    ids = jnp.asarray(scored.candidates)
    right = ids[jnp.argmax(logits[..., ids], axis=-1)] == answers
    total = counts.sum()
    return jnp.where(counts, loss, 0).sum() / total, (right & counts).sum() / total
