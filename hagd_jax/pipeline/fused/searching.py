"""The parts of a step that train masks, and that measure, repair and choose circuits."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hagd_jax.models import forward
from hagd_jax.pipeline.fused.means import means_of, places_of
from hagd_jax.pipeline.fused.parts import Given, Said, StepBatch
from hagd_jax.pipeline.fused.setting import Setting, swap_sizes
from hagd_jax.pipeline.fused.state import State
from hagd_jax.search import Tree
from hagd_jax.search.mask_steps import Search, start, start_logits, traced, update
from hagd_jax.search.objective import Target, counterfactual, distances, mixed
from hagd_jax.search.schedule import schedule, trained_at
from hagd_jax.search.tree import ranks


def tree_of(state: State) -> Tree:
    """Make the tree of the levels above the nodes."""
    setting = state.setting
    return Tree(state.clusters, setting.size.counts if setting.graph else ())


def begin(state: State, given: Given) -> tuple[State, Said]:
    """Initialise masks at the prior."""
    setting = state.setting
    learnt = setting.config.prior == "learner"
    logits = start_logits(state.prior if learnt else state.score, tree_of(state))
    key = jax.random.key(setting.config.seed)
    masks = start(key, logits, len(setting.sizes), setting.config.masks)
    return state.replace(masks=masks), {}


def search(state: State, given: Given) -> tuple[State, Said]:
    """Update the masks on a batch."""
    setting, batch, config = state.setting, given.batch, state.setting.config.masks
    target = target_on(state, given)
    plan = schedule(config, setting.space.nodes, setting.asked, len(state.clusters))
    sizes = jnp.asarray(trained_at(setting.sizes, config, plan))
    masks, metrics = update(
        given.model, Search(given.dictionary(state), tree_of(state), sizes), target,
        scale_of(state, batch), state.masks, (batch.size, batch.opened), traced(config),
    )  # fmt: skip
    return state.replace(masks=masks), metrics


def target_on(state: State, given: Given) -> Target:
    """Select the model's behaviour on the prompts of the batch."""
    batch, prompts = given.batch, given.batch.prompts
    at = forward(given.model, prompts.inputs(), read=prompts.reads).logits
    target = Target(prompts, at.reshape(len(prompts), -1, *at.shape[1:]), prompts.metric(at))
    if state.tables is None or batch.groups is None:
        return target
    means, places = means_of(state.tables, batch.groups), places_of(batch.groups)
    return target._replace(means=means, places=places)


def ablated(state: State, given: Given, target: Target, number: int) -> dict[str, jax.Array]:
    """Compute what closed nodes are set to: counterfactual (0) or mean (1) ablation."""
    nodes = given.dictionary(state)
    other = counterfactual(given.model, nodes, target.prompts)
    return mixed(given.model, nodes, target, other, float(number), jax.random.key(0))


def scale_of(state: State, batch: StepBatch) -> jax.Array:
    """Compute the model's mean metric on the discover split, the unit of its errors."""
    mean = state.metric / batch.totals[0]
    return jnp.where(jnp.abs(mean) > 1e-3, mean, 1.0)


def settle(state: State, given: Given) -> tuple[State, Said]:
    """Read the circuit from the masks, or from the scores without masks."""
    setting = state.setting
    row = state.score
    if setting.masks:
        place = setting.sizes.index(setting.asked)
        kept = [level[place] for level in state.masks.kept]
        row = ranks(tree_of(state), kept, jnp.float32(setting.asked))
    return state.replace(mask=highest(row, setting.asked)), {}


def highest(scores: jax.Array, size: int) -> jax.Array:
    """Mark the `size` highest of (N,) scores; ties go to the earlier one."""
    return jnp.zeros(len(scores), bool).at[jax.lax.top_k(scores, size)[1]].set(True)


def ask(state: State, rows: list[jax.Array] | jax.Array, valid: Any = None) -> State:
    """Request the measurement of circuits in the next turns."""
    some = jnp.stack(rows) if isinstance(rows, list) else rows
    here = jnp.ones(len(some), bool) if valid is None else valid
    few = len(state.rows) - len(some)
    return state.replace(
        rows=jnp.pad(some, ((0, few), (0, 0))), valid=jnp.pad(here, (0, few)),
        apart=jnp.zeros_like(state.apart),
    )  # fmt: skip


def measure(state: State, given: Given) -> tuple[State, Said]:
    """Add a batch to the circuits' distances from the model under each ablation."""
    batch, nodes, target = given.batch, given.dictionary(state), target_on(state, given)
    scale = scale_of(state, batch)

    def under(ablation: int) -> jax.Array:
        values = ablated(state, given, target, ablation)

        def one(asked: tuple[jax.Array, jax.Array]) -> jax.Array:
            row, valid = asked

            def far() -> jax.Array:
                mask = jnp.broadcast_to(row.astype(jnp.float32), (len(batch.weight), len(row)))
                kl, off = distances(given.model, nodes, target, values, mask, scale)
                return jnp.stack([kl @ batch.weight, off @ batch.weight])

            return jax.lax.cond(valid, far, lambda: jnp.zeros(2))

        return jax.lax.map(one, (state.rows, state.valid)).T

    total, nothing = state.apart, jnp.zeros_like(state.apart)
    for number in range(2 if state.tables is not None else 1):
        share = batch.shares[number]
        more = jax.lax.cond(share > 0, lambda n=number: under(n), lambda: nothing)
        total = total + share * more
    return state.replace(apart=total), {"kl": total[0, 0]}


def losses_of(state: State, weight: float, total: jax.Array) -> jax.Array:
    """Compute the (P,) losses of the measured circuits; infinite for those not measured."""
    found = (state.apart[0] + weight * state.apart[1]) / total
    return jnp.where(state.valid, found, jnp.inf)


def before(state: State, given: Given) -> tuple[State, Said]:
    """Request the loss of the circuit before repair."""
    return ask(state, [state.mask]), {}


def repairing(state: State, given: Given) -> tuple[State, Said]:
    """Record that loss, and begin to swap."""
    repairs = state.setting.repairs
    assert repairs is not None
    loss = losses_of(state, repairs.metric, given.batch.totals[1])[0]
    losses = jnp.full_like(state.losses, jnp.nan).at[0].set(loss)
    return state.replace(losses=losses, moving=jnp.int32(1)), {"loss": loss}


def still(state: State, given: Given) -> tuple[State, Said]:
    """Begin a new gradient of the loss."""
    return state.replace(slope=jnp.zeros_like(state.slope)), {}


def slope(state: State, given: Given) -> tuple[State, Said]:
    """Add a batch to the gradient of the loss with respect to the mask."""
    batch, repairs, nodes = given.batch, state.setting.repairs, given.dictionary(state)
    assert repairs is not None
    target, scale = target_on(state, given), scale_of(state, batch)
    few = 2 if state.tables is not None else 1
    others = [ablated(state, given, target, number) for number in range(few)]

    def loss(row: jax.Array) -> jax.Array:
        mask = jnp.broadcast_to(row, (len(batch.weight), len(row)))
        total = jnp.float32(0)
        for number, values in enumerate(others):
            kl, off = distances(given.model, nodes, target, values, mask, scale)
            total = total + batch.shares[number] * ((kl + repairs.metric * off) @ batch.weight)
        return total

    def far() -> jax.Array:
        return jax.grad(loss)(state.mask.astype(jnp.float32))

    more = jax.lax.cond(state.moving > 0, far, lambda: jnp.zeros_like(state.slope))
    return state.replace(slope=state.slope + more), {}


def propose(state: State, given: Given) -> tuple[State, Said]:
    """Request the losses of the swaps that the gradient favours."""
    rows = proposals(state.mask, state.slope, state.setting)
    valid = jnp.broadcast_to(state.moving > 0, (len(rows),))
    return ask(state, rows, valid), {}


def proposals(mask: jax.Array, slope: jax.Array, setting: Setting) -> jax.Array:
    """Make (P, N) circuits of the same size, likelier ones first, as `search.repair` does."""
    leave = jnp.argsort(jnp.where(mask, -slope, jnp.inf), stable=True)
    enter = jnp.argsort(jnp.where(mask, jnp.inf, slope), stable=True)
    found = []
    for out, into, many in swap_sizes(setting):
        row = mask.at[leave[out : out + many]].set(False)
        found.append(row.at[enter[into : into + many]].set(True))
    return jnp.stack(found) if found else jnp.zeros((0, len(mask)), bool)


def take(state: State, given: Given) -> tuple[State, Said]:
    """Accept the best swap; if none helps, request pairs of those that cost least."""
    repairs, setting = state.setting.repairs, state.setting
    assert repairs is not None
    state, better, found = _taken(state, given)
    rows = doubled(state, found[: len(swap_sizes(setting))], 2 * repairs.pairs)
    going = (state.moving > 0) & ~better
    valid = (rows.sum(1) == setting.asked) & going
    asked = ask(state, rows, valid)
    state = asked.replace(moving=jnp.where(going, 2, state.moving))
    return state, {"loss": _latest(state)}


def doubled(state: State, found: jax.Array, most: int) -> jax.Array:
    """Make (P, N) circuits from every two of the swaps with the least losses."""
    few = min(most, len(found))
    pairs = list(itertools.combinations(range(few), 2))
    if not pairs:
        return jnp.zeros((0, state.rows.shape[1]), bool)
    moved = state.rows[jnp.argsort(found, stable=True)[:few]] ^ state.mask
    one, other = np.array(pairs).T
    return state.mask ^ moved[one] ^ moved[other]


def take_pairs(state: State, given: Given) -> tuple[State, Said]:
    """Accept the best pair of swaps; if none helps, repair is done."""
    pairs = state.moving == 2
    after, better, _ = _taken(state, given)
    moving = jnp.where(pairs & ~better, 0, jnp.minimum(state.moving, 1))
    state = after.replace(moving=moving)
    return state, {"loss": _latest(state)}


def _taken(state: State, given: Given) -> tuple[State, jax.Array, jax.Array]:
    """The state with the best circuit that was measured, if it is better; and all losses."""
    repairs = state.setting.repairs
    assert repairs is not None
    found = losses_of(state, repairs.metric, given.batch.totals[1])
    best = jnp.argmin(found)
    better = found[best] < _latest(state) * (1 - repairs.least)
    place = jnp.sum(jnp.isfinite(state.losses))
    losses = jnp.where(better, state.losses.at[place].set(found[best]), state.losses)
    mask = jnp.where(better, state.rows[best], state.mask)
    return state.replace(mask=mask, losses=losses), better, found


def _latest(state: State) -> jax.Array:
    """The loss of the circuit after the last swap."""
    return jnp.nanmin(state.losses)


def compare(state: State, given: Given) -> tuple[State, Said]:
    """Request the distances of the circuit and of the highest scores."""
    return ask(state, [state.mask, highest(state.score, state.setting.asked)]), {}


def pick(state: State, given: Given) -> tuple[State, Said]:
    """Keep masks if they are as close to the model as the highest scores."""
    ours, theirs = kl = state.apart[0, :2] / given.batch.totals[1]
    keeps = ours <= 1.01 * theirs + 1e-3
    mask = jnp.where(keeps, state.rows[0], state.rows[1])
    return state.replace(keeps=keeps, kl=kl, mask=mask), {"masks_kl": ours, "top_kl": theirs}


def check(state: State, given: Given) -> tuple[State, Said]:
    """Request the losses of the circuit and of the empty one."""
    return ask(state, [state.mask, jnp.zeros_like(state.mask)]), {}


def note(state: State, given: Given) -> tuple[State, Said]:
    """Record those losses."""
    found = losses_of(state, state.setting.config.masks.metric, given.batch.totals[1])[:2]
    return state.replace(found=found), {"loss": found[0], "empty_loss": found[1]}
