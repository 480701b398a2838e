"""Where masks begin: the best of several scores, chosen on the select split."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from hagd_jax.brief import one_line
from hagd_jax.causal import Ablation
from hagd_jax.causal.judged import Judged, judged_prompts
from hagd_jax.errors import ConfigError, DamagedError, InputError
from hagd_jax.files import checked, finite, read_json_object, with_digest, without_digest
from hagd_jax.pipeline.config import ExtractConfig
from hagd_jax.pipeline.context import Context
from hagd_jax.pipeline.run_folder import RunFolder
from hagd_jax.pipeline.selecting import loss_of
from hagd_jax.search import StartRow, best_start
from hagd_jax.search.config import shares
from hagd_jax.tasks import Seen
from hagd_jax.units import Dictionary, Nodes, Scores

FILE = "starts.json"


@dataclasses.dataclass(frozen=True)
class Choice:
    """A choice names the scores at which masks begin, with all that was measured for it.

    Attributes:
        name: Of the scores that were chosen.
        losses: Name → KL of its highest nodes from the model, as a share of the empty circuit's,
            averaged over sizes and ablations. Empty if only one of the scores could be computed.
        sizes: Numbers of nodes of the circuits that were compared.
        ablations: Those of the search, under which they were compared.
        prompts: How many prompts of the select split they were compared on.
        table: A row for each of the scores, each ablation and each size.
        left_out: Name → why these scores could not be computed.
        signed: Whether the highest nodes are those of the highest scores, or of the largest ones.
    """

    name: str
    losses: dict[str, float]
    sizes: tuple[int, ...]
    ablations: tuple[str, ...]
    prompts: int
    table: tuple[StartRow, ...]
    left_out: dict[str, str]
    signed: bool = True

    __repr__ = one_line

    def words(self) -> str:
        """Say in a line what was chosen, by how much, and what was left out.

        Example:
            >>> rows = tuple(StartRow(name, "mean", size, 0.5, 0.5)
            ...              for name in ("ig", "relp") for size in (2, 4))
            >>> found = {"ig": 0.38, "relp": 0.312}
            >>> print(Choice("relp", found, (2, 4), ("mean",), 64, rows, {}).words())
            relp .31 (chosen), ig .38: KL as a share of the empty circuit's, mean over 2 sizes and
            1 ablation, on 64 select prompts
        """
        gone = [f"{name} is left out: {why}" for name, why in self.left_out.items()]
        if not self.table:
            return "; ".join([f"{self.name}, which alone could be computed", *gone])
        order = sorted(self.losses, key=lambda name: (name != self.name, self.losses[name]))
        each = [f"{name} {self.losses[name]:.2f}".replace(" 0.", " .") for name in order]
        under = len({row.ablation for row in self.table})
        said = (
            f"{each[0]} (chosen), {', '.join(each[1:])}: KL as a share of the empty circuit's, "
            f"mean over {len(self.sizes)} size{'s' * (len(self.sizes) > 1)} and {under} "
            f"ablation{'s' * (under > 1)}, on {self.prompts} select prompts"
        )
        return "; ".join([said, *gone])


def chooses(config: ExtractConfig) -> bool:
    """Tell whether there are several scores to choose among."""
    return len(config.starts) > 1


def ablations_of(config: ExtractConfig) -> tuple[str, ...]:
    """Return the ablations of the search, under which scores are compared."""
    if config.search == "units":
        return config.unit_masks.ablations
    return tuple(shares(loss_of(config)))


def sizes_of(config: ExtractConfig, total: int) -> tuple[int, ...]:
    """Return the numbers of nodes at which scores are compared.

    Args:
        config: The configuration.
        total: Nodes of the model.

    Returns:
        Half of the requested size, that size and twice of it, as far as these are circuits.

    Example:
        >>> sizes_of(ExtractConfig(nodes="20"), 100), sizes_of(ExtractConfig(nodes="1"), 2)
        ((10, 20, 40), (1,))
    """
    asked = config.size(total)
    larger = [2 * asked] if 2 * asked < total else []
    return tuple(sorted({max(1, asked // 2), asked, *larger}))


def looks(context: Context) -> Seen:
    """Record the select split under the ablations of the search, whose values discover gives."""
    under = ablations_of(context.config)
    look = context.task.look
    return look("select", ablation=under) | look("discover", ablation=under)


def require_choosable(context: Context) -> None:
    """Refuse several scores if there are no prompts to compare them on.

    Raises:
        InputError: If the task has no select split, or all its prompts are among the discover
            split's.
    """
    if not chooses(context.config):
        return
    task, mend = context.task, "Ask for one of --starts."
    if "select" not in task.splits:
        raise InputError(f"task {task.name!r}", got=sorted(task.splits),
                         expected="'select', to choose among starts", mend=mend)  # fmt: skip
    if task.look("discover").has(prompts := _compared(context).prompts).any():
        raise InputError(f"task {task.name!r}", got=f"{len(prompts)} select prompts, all of which "
                         "are discover prompts, too",
                         expected="others, to choose among starts", mend=mend)  # fmt: skip


def choose(
    context: Context, nodes: Dictionary, found: Mapping[str, Nodes], left_out: dict[str, str]
) -> Choice:
    """Choose among scores on the select split, unless there is one alone.

    Args:
        context: The inputs.
        nodes: The nodes inside MLPs.
        found: Name → mean scores on the discover split.
        left_out: Name → why others could not be computed.

    Returns:
        The choice.

    Raises:
        InputError: If logits are not finite, or ablating every node changes nothing.
    """
    if len(found) == 1:
        (name,) = found
        return Choice(name, {}, (), (), 0, (), left_out)
    config, judged = context.config, _compared(context)
    sizes, under = sizes_of(config, nodes.space.nodes), ablations_of(config)
    seen = context.task.look("discover", ablation=context.baseline)
    context.progress("start", 0, 1)
    start = best_start(
        context.model, judged.prompts,
        {name: Scores(each if _signed(config) else jax.tree.map(jnp.abs, each), seen)
         for name, each in found.items()},
        sizes, ablations=[Ablation(kind, judged.reference, config.seed) for kind in under],
        dictionary=nodes, batch_size=config.gradient.batch_size,
    )  # fmt: skip
    context.progress("start", 1, 1)
    count = len(judged.prompts)
    signed = _signed(config)
    return Choice(start.name, start.losses, sizes, under, count, start.table, left_out, signed)


def _signed(config: ExtractConfig) -> bool:
    """Whether masks begin at signed scores, see `UnitMaskConfig`."""
    return config.search != "units" or config.unit_masks.signed


def _compared(context: Context) -> Judged:
    """The select prompts that are no discover prompts, and what gives ablations their values."""
    task, seen = context.task, context.task.look("discover")
    return judged_prompts(task, "select", seen, causal=context.model.config.causal)


def keep(run: RunFolder, choice: Choice) -> None:
    """Write the choice with its table."""
    record = finite({"of": run.decides(FILE), **dataclasses.asdict(choice)})
    run.write(FILE, json.dumps(with_digest(record), indent=1) + "\n")


def kept(context: Context, nodes: Dictionary) -> Choice | None:
    """Read the choice that the run's folder holds.

    Returns:
        The choice; None if there is none, or it is damaged, or the search would now compare scores
        at other sizes, under other ablations or by another order.
    """
    run, config = context.run, context.config
    if run is None or not run.has(FILE):
        return None
    choice = run.whole(FILE, functools.partial(_read, run))
    now = sizes_of(config, nodes.space.nodes), ablations_of(config), _signed(config)
    if choice is None:
        return None
    if choice.table and (choice.sizes, choice.ablations, choice.signed) != now:
        return None
    return choice


def _read(run: RunFolder) -> Choice:
    path = run.path / FILE
    try:
        record = without_digest(path, read_json_object(path, error=DamagedError))
        if record.pop("of", None) != run.decides(FILE):
            raise DamagedError(str(path), got="another run's choice", expected="this run's")
        # A distance that is no number is null in JSON.
        rows = [[math.nan if x is None else x for x in row] for row in record.get("table", ())]
        return checked(Choice, {**record, "table": rows}, str(path), error=DamagedError)
    except (ConfigError, TypeError) as error:
        raise DamagedError(str(path), got="no choice", expected="what was chosen") from error
