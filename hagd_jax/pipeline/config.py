"""The configuration of an extraction."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

from hagd_jax.brief import quoted
from hagd_jax.causal import ValidateConfig
from hagd_jax.errors import (
    ConfigError,
    require,
    require_choice,
    require_config,
    require_flag,
    require_number,
)
from hagd_jax.hierarchy import HierarchyConfig
from hagd_jax.pipeline.describe_config import DescribeConfig
from hagd_jax.pipeline.sizes import AUTO, chosen_among, nodes_of, read_size
from hagd_jax.scores import METHODS, GradientConfig
from hagd_jax.search import (
    MaskConfig,
    RepairConfig,
    SpanConfig,
    UnitMaskConfig,
    UnitPruneConfig,
    UnitRepairConfig,
)
from hagd_jax.tasks import Sizes
from hagd_jax.transcoders import TrainConfig
from hagd_jax.units.dictionary import NEURONS

Progress = Callable[[str, int, int], None]
Prior = Literal["ig", "learner"]
Search = Literal["units", "masks", "top"]
Executor = Literal["staged", "fused"]

# The value of `features` that learns a transcoder for the run.
TRANSCODER = "transcoder"
_TEXT = "text files, hf:OWNER/NAME, task:NAME or self"
_PARTS = {
    "sizes": Sizes, "train": TrainConfig, "gradient": GradientConfig, "hierarchy": HierarchyConfig,
    "unit_masks": UnitMaskConfig, "unit_repair": UnitRepairConfig, "unit_prune": UnitPruneConfig,
    "unit_spans": SpanConfig, "masks": MaskConfig, "repair": RepairConfig,
    "describe": DescribeConfig, "judge": ValidateConfig,
}  # fmt: skip
# Settings that only a search over units reads, and those that it does not read.
_OF_UNITS = ("units", "unit_masks", "unit_repair", "unit_prune", "by_span", "unit_spans")
_OF_LEAVES = ("masks", "repair")
# Without `resample`: the judge decides only under ablations that a search did not train under.
_TRAINED = ("counterfactual", "mean")


@dataclasses.dataclass(frozen=True)
class ExtractConfig:
    """Configure an extraction.

    Attributes:
        nodes: Size of the circuit in nodes (heads, neurons or features): a number ("64") or a share
            of the model's ("5%"). It is the largest one if `search` is `units`, else the exact one.
            `auto`, with units alone, finds circuits of several shares of the nodes, and takes the
            smallest that passes the judge's gates on the select split, see `unit_sizes`.
        units: Largest number of units of the circuit, each a head, what belongs to it of an MLP, a
            node, or a whole block; read by `search` = `units` alone.
        executor: How the stages run: `staged`, one program after the other; or `fused`, up to the
            circuit as one compiled step for meshes, with a second one for a search over units.
            Both end with the same circuit.
        seed: Seed of the prompts, the masks, the controls and the bootstrap.
        sizes: Prompts in each split, if the task is given by name.
        features: The nodes inside MLPs: `neurons`; `mlps`, each MLP as one node; a transcoder, as a
            folder or hub id; or `transcoder` to learn one for this run.
        corpus: Text that a transcoder is learned from, see `hagd train-transcoder --help`. For
            algorithms the default is the examples that the model was trained on.
        train: How that transcoder is trained. Algorithms use settings for small models unless one
            of these is changed.
        gradient: How gradients are taken for the scores of nodes. Its steps are those of `ig`;
            other scores have their own.
        starts: Scores at which masks may begin, one or more of `ig`, `eap`, `eap_ig`, `relp`, `gim`
            and `conductance`. Of several, those whose highest nodes are closest to the model on the
            select split are taken, under the ablations of the search.
        search: How the circuit is chosen: `units` trains masks over heads, MLPs and the nodes
            inside them, `masks` trains masks over nodes alone, `top` keeps the nodes with the
            highest scores.
        levels: Levels of clusters that parts of MLPs are listed by where there is room, or that
            masks over nodes are opened through. By default two, or as many as the graph is large
            enough for; 0 for none.
        prior: Where masks begin: at the signed scores of `starts` (`ig`), or at the meta-learner's
            membership scores of the graph (`learner`), which reads integrated gradients.
        score_prompts: Prompts of the discover split that scores are averaged over, at most; masks
            are trained on all of them.
        graph_prompts: Prompts of the discover split that the graph is averaged over.
        candidates: Features that are nodes of the graph, those with the largest scores; the other
            features are clustered by layer.
        graph_steps: Points on the path from the counterfactual (0) to the clean prompt (1) where
            the graph's gradients are taken.
        hierarchy: How the graph is coarsened.
        unit_masks: How masks over units are trained. By default under two ablations, so that the
            judge can decide under the third: no verdict rests on what was trained for.
        unit_repair: How a circuit of units is repaired after the search; not at all by default.
        unit_prune: How units that add too little are left out of it at last; not at all by default.
        by_span: Whether each unit of the circuit that was found stays at those spans of the prompts
            alone at which it is needed, such as `head 9.6 at end`. The task must have spans.
        unit_spans: How that is measured.
        masks: How masks over nodes are trained.
        repair: How nodes are swapped after a search over nodes, or for the highest scores.
        describe: How the role, the necessity and the certified radius of each unit are measured,
            which are shown beside the circuit that was found.
        judge: How the circuit is tested: by default the claims that decide, and no more of them
            than it takes. The first ablation is that of the curve of sizes.

    Raises:
        ConfigError: If a value is impossible.

    Example:
        >>> ExtractConfig(nodes=64).nodes
        '64'
    """

    nodes: str = "20%"
    units: int = 32
    executor: Executor = "staged"
    seed: int = 0
    sizes: Sizes = Sizes()
    features: str = NEURONS
    corpus: str | None = None
    train: TrainConfig = TrainConfig()
    gradient: GradientConfig = GradientConfig()
    starts: tuple[str, ...] = ("ig",)
    search: Search = "units"
    levels: int | None = None
    prior: Prior = "ig"
    score_prompts: int = 64
    graph_prompts: int = 16
    candidates: int = 4096
    graph_steps: tuple[float, ...] = (0.3, 0.6, 0.9)
    hierarchy: HierarchyConfig = HierarchyConfig(ratio=1 / 16)
    unit_masks: UnitMaskConfig = UnitMaskConfig(batch_size=8, ablations=_TRAINED)
    unit_repair: UnitRepairConfig = UnitRepairConfig(rounds=0, ablations=_TRAINED)
    unit_prune: UnitPruneConfig = UnitPruneConfig(least=0.0)
    by_span: bool = False
    unit_spans: SpanConfig = SpanConfig(ablations=_TRAINED)
    masks: MaskConfig = MaskConfig()
    repair: RepairConfig = RepairConfig()
    describe: DescribeConfig = DescribeConfig()
    judge: ValidateConfig = ValidateConfig(claims="core")

    def __post_init__(self):
        if isinstance(self.nodes, int) and not isinstance(self.nodes, bool):
            object.__setattr__(self, "nodes", str(self.nodes))
        if self.nodes != AUTO:
            read_size(self.nodes)
        elif self.search != "units":
            raise ConfigError("nodes", got=f"{AUTO} beside search {self.search!r}",
                              expected="a number of nodes, or a share of them",
                              mend="Ask for a size, or add --search units.")  # fmt: skip
        require_number("seed", self.seed, least=0, whole=True)
        for field in ("units", "score_prompts", "graph_prompts", "candidates"):
            require_number(field, getattr(self, field), least=1, whole=True)
        if self.levels is not None:
            require_number("levels", self.levels, least=0, whole=True)
        steps = self.graph_steps
        listed = isinstance(steps, tuple | list) and len(steps) > 0
        require(listed, "graph_steps", got=quoted(steps), expected="one or more numbers")
        for step in steps:
            require_number("graph_steps", step, least=0, most=1)
        for field, kind in (("prior", Prior), ("search", Search), ("executor", Executor)):
            require_choice(field, getattr(self, field), get_args(kind))
        require_flag("by_span", self.by_span)
        for field, kind in _PARTS.items():
            require_config(field, getattr(self, field), kind)
        texts = {"features": "neurons, mlps, transcoder, a folder or a hub id", "corpus": _TEXT}
        for field, expected in texts.items():
            value = getattr(self, field)
            named = isinstance(value, str) and value.strip()
            named = named or (field == "corpus" and value is None)
            require(bool(named), field, got=quoted(value), expected=expected)
        object.__setattr__(self, "starts", _read_starts(self.starts))
        if self.prior == "learner" and self.starts != _default("starts"):
            raise ConfigError(
                "starts", got=f"{', '.join(self.starts)} beside --prior learner",
                expected="ig, the scores that the meta-learner was trained to read",
                mend="Leave out --starts or --prior.",
            )  # fmt: skip
        for field in self.unread:
            if getattr(self, field) != _default(field):
                raise ConfigError(
                    field, got=f"settings of another search beside search {self.search!r}",
                    expected="settings of the search that is run", mend=_OTHERWISE[field],
                )  # fmt: skip
        if not self.by_span and self.unit_spans != _default("unit_spans"):
            raise ConfigError("unit_spans", got="settings of a split by span, which is off",
                              expected="settings that are read", mend="Add --by-span.")  # fmt: skip

    @property
    def unread(self) -> tuple[str, ...]:
        """Name the fields that the search does not read, which must have their defaults."""
        return _OF_LEAVES if self.search == "units" else _OF_UNITS

    def record(self) -> dict[str, Any]:
        """Return the fields that decide a run, nested ones as dicts, without those not read.

        A run of an older version, which knew no search over units, no pruning, no split by span or
        one start alone, has the same record.

        Example:
            >>> "units" in ExtractConfig().record(), "units" in ExtractConfig(search="top").record()
            (True, False)
        """
        usual = ("starts",) if self.starts == _default("starts") else ()
        off = () if self.unit_prune.least else ("unit_prune",)
        off += () if self.by_span else ("by_span", "unit_spans")
        unread = (*self.unread, *usual, *off)
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in unread}

    @property
    def chooses_size(self) -> bool:
        """Tell whether the size of the circuit is chosen among several."""
        return self.nodes == AUTO

    @property
    def pruning(self) -> UnitPruneConfig:
        """Return how units are pruned, under the ablations of the search unless others are set.

        Example:
            >>> ExtractConfig().pruning.ablations
            ('counterfactual', 'mean')
        """
        under = self.unit_prune.ablations or self.unit_masks.ablations
        return dataclasses.replace(self.unit_prune, ablations=under)

    @property
    def mending(self) -> tuple[str, ...]:
        """Name the ablations under which repair and pruning look at circuits, if they are on.

        Example:
            >>> ExtractConfig().mending
            ()
            >>> ExtractConfig(unit_prune=UnitPruneConfig()).mending
            ('counterfactual', 'mean')
        """
        repairs = self.unit_repair.ablations if self.unit_repair.rounds else ()
        prunes = (self.pruning.ablations or ()) if self.unit_prune.least else ()
        return tuple(dict.fromkeys((*repairs, *prunes)))

    @property
    def unit_ablations(self) -> tuple[str, ...]:
        """Name the ablations under which a search over units and all after it look at circuits.

        Example:
            >>> ExtractConfig(unit_masks=UnitMaskConfig(ablations=("mean",))).unit_ablations
            ('mean',)
        """
        return tuple(dict.fromkeys((*self.select_ablations, *self.mending)))

    @property
    def select_ablations(self) -> tuple[str, ...]:
        """Name the ablations under which a found circuit of units is measured, and split by span.

        Example:
            >>> own = SpanConfig(ablations=("zero",))
            >>> ExtractConfig(by_span=True, unit_spans=own).select_ablations
            ('counterfactual', 'mean', 'zero')
        """
        spans = self.unit_spans.ablations if self.by_span else ()
        return tuple(dict.fromkeys((*self.unit_masks.ablations, *spans)))

    def gradient_of(self, start: str) -> GradientConfig:
        """Return how gradients are taken for one of the scores.

        Args:
            start: A name of `scores.METHODS`.

        Example:
            >>> ExtractConfig().gradient_of("ig").steps, ExtractConfig().gradient_of("relp").steps
            ((0.1, 0.3, 0.5, 0.7, 0.9), (1.0,))
        """
        if start == "ig":
            return self.gradient
        return dataclasses.replace(self.gradient, steps=METHODS[start].steps)

    def size(self, total: int) -> int:
        """Return the requested number of nodes, or the largest one that can be chosen.

        Args:
            total: Nodes of the model.

        Returns:
            From 1 to `total`.

        Raises:
            ConfigError: If `nodes` is neither a whole number from 1 to `total` nor a percentage.

        Example:
            >>> ExtractConfig(nodes="5%").size(1000)
            50
        """
        if self.chooses_size:
            return self.unit_sizes(total)[0][1]
        return nodes_of(self.nodes, total)

    def unit_sizes(self, total: int) -> tuple[tuple[int, int], ...]:
        """Return the sizes (units, nodes) that a search over units reads, largest first.

        The last one is the requested one; circuits of twice and four times as many units and nodes
        come before it, as far as they are smaller than the model. If the size is chosen, they are
        those of 60, 40, 20 and 10% of the nodes, all with as many units. This is the one place
        where `units` is cut to what there can be: a circuit has at most as many units as nodes.

        Args:
            total: Nodes of the model.

        Returns:
            One to four pairs.

        Raises:
            ConfigError: If `nodes` is impossible, see `size`; or if `units` was set to more than
                the nodes of the model.

        Example:
            >>> ExtractConfig(units=64, nodes="5%").unit_sizes(46_350)
            ((256, 9272), (128, 4636), (64, 2318))
            >>> ExtractConfig(nodes="4").unit_sizes(10)
            ((8, 8), (4, 4))
            >>> ExtractConfig(units=3, nodes="auto").unit_sizes(10)
            ((3, 6), (3, 4), (2, 2), (1, 1))
        """
        sizes = chosen_among(total) if self.chooses_size else (self.size(total),)
        if self.units > total and self.units != _default("units"):
            expected = f"1 to {total}, the number of nodes"
            raise ConfigError("units", got=self.units, expected=expected)
        if self.chooses_size:
            return tuple((min(self.units, each), each) for each in sizes)
        (nodes,) = sizes
        units = min(self.units, nodes)
        larger = [(k * units, k * nodes) for k in (4, 2) if k * nodes < total]
        return (*larger, (units, nodes))


# What to do about a setting that the search does not read.
_OTHERWISE = {
    "units": "Leave out --units: this search takes --nodes alone. Or add --search units.",
    "unit_masks": "Leave out --unit-masks, or add --search units.",
    "unit_repair": "Leave out --unit-repair, or add --search units.",
    "unit_prune": "Leave out --unit-prune, or add --search units.",
    "by_span": "Leave out --by-span, or add --search units.",
    "unit_spans": "Leave out --unit-spans, or add --search units.",
    "masks": "Set --unit-masks instead, or add --search masks.",
    "repair": "Set --unit-repair instead, or add --search masks.",
}


def _read_starts(given: Any) -> tuple[str, ...]:
    """Read distinct names of scores."""
    names = (given,) if isinstance(given, str) else given
    listed = isinstance(names, tuple | list) and len(names) > 0
    if not listed or not set(map(str, names)) <= set(METHODS) or len(set(names)) < len(names):
        raise ConfigError("starts", got=" ".join(map(quoted, names)) if listed else quoted(given),
                          expected=f"one or more of {', '.join(METHODS)}, each once")  # fmt: skip
    return tuple(names)


def _default(field: str) -> Any:
    return ExtractConfig.__dataclass_fields__[field].default
