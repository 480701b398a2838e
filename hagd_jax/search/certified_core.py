"""What a certified core is: counts of discoveries, and the radii that they certify."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from hagd_jax.errors import (
    InputError,
    require_index,
    require_is,
    require_number,
    shown,
)
from hagd_jax.files import checked
from hagd_jax.search.certificate import radii, require_kept, share_bounds
from hagd_jax.search.discoveries import read_groups
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import Nodes, Selection, Space

_FORMAT = "hagd core 1"
# Units of a record: no file holds more.
_MOST = 1 << 28


@dataclasses.dataclass(frozen=True, eq=False)
class Core:
    """A core holds how often each unit was discovered, and what that certifies.

    The bounds of all units hold at once with confidence 1 − α, see `search.certificate`.

    Attributes:
        counts: (N,) number of discoveries that contain each unit.
        subsets: R, discoveries.
        prompts: P.
        kept: k, prompts that each discovery reads.
        threshold: τ, the share of discoveries that members exceed.
        alpha: α.
        size: Units that each discovery finds; 0 if a rule decides.
        rule: `mean`, `magnitude`, or the name of a function.
        seed: Seed of the subsets.
        seen: The data that decided it.
        leaves: Number of leaves of the model; N unless units are groups of them.
        groups: N arrays of indices of leaves, or None if units are leaves.

    Raises:
        InputError: If the fields contradict each other.
        ConfigError: If the threshold or α is out of range.
    """

    counts: np.ndarray
    subsets: int
    prompts: int
    kept: int
    threshold: float = 0.5
    alpha: float = 0.05
    size: int = 0
    rule: str = "mean"
    seed: int = 0
    seen: Seen = dataclasses.field(default_factory=Seen.unknown)
    leaves: int = 0
    groups: tuple[np.ndarray, ...] | None = None

    def __post_init__(self):
        counts = np.asarray(self.counts)
        share_bounds(counts, require_index("subsets", self.subsets), 0.5)  # refuses other counts
        require_kept(self.prompts, self.kept)
        require_is("rule", self.rule, str)
        for name in ("size", "seed", "leaves"):
            object.__setattr__(self, name, require_index(name, getattr(self, name)))
        require_number("threshold", self.threshold, least=0, below=1)
        require_number("alpha", self.alpha, above=0, below=1)
        require_is("seen", self.seen, Seen)
        object.__setattr__(self, "counts", counts.astype(np.int64))
        object.__setattr__(self, "leaves", self.leaves or len(counts))
        if self.groups is not None:
            object.__setattr__(self, "groups", read_groups(self.groups, self.leaves))
        if len(counts) != (self.leaves if self.groups is None else len(self.groups)):
            raise InputError("counts", got=f"{len(counts)} units", expected="one a leaf or group")

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def share(self) -> np.ndarray:
        """Return the (N,) share of discoveries that contain each unit."""
        return self.counts / self.subsets

    @functools.cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (N,) lower and upper bounds of the probability of being discovered."""
        return share_bounds(self.counts, self.subsets, self.alpha)

    @functools.cached_property
    def radius(self) -> np.ndarray:
        """Return the (N,) most prompts whose change cannot evict each unit; −1 for no member."""
        return radii(self.bounds[0], self.prompts, self.kept, self.threshold)

    @functools.cached_property
    def barred(self) -> np.ndarray:
        """Return the (N,) most prompts whose change cannot let each unit in; −1 for no outsider."""
        return radii(1 - self.bounds[1], self.prompts, self.kept, 1 - self.threshold)

    def members(self, radius: int = 1) -> np.ndarray:
        """Return the (N,) bool units that no change of `radius` prompts can evict."""
        return self.radius >= require_index("radius", radius)

    def leaf_mask(self, radius: int = 1) -> np.ndarray:
        """Return the bool leaves of the units that no change of `radius` prompts can evict."""
        kept = self.members(radius)
        if self.groups is None:
            return kept
        mask = np.zeros(self.leaves, bool)
        for unit in np.flatnonzero(kept):
            mask[self.groups[unit]] = True
        return mask

    def selection(self, space: Space, radius: int = 1) -> Selection:
        """Return the leaves of the core as a selection of a model's nodes.

        Args:
            space: The model's nodes; the scores' rows were `Nodes.flat` of it.
            radius: As in `members`.

        Returns:
            The selection, which has seen what the core has.

        Raises:
            InputError: If the space has another number of nodes.
        """
        require_is("space", space, Space)
        return Selection(Nodes.from_flat(space, self.leaf_mask(radius)), self.seen)

    def sizes(self) -> dict[int, int]:
        """Return how many units each radius keeps, from 0 to the largest that keeps any."""
        most = int(self.radius.max())
        return {r: int((self.radius >= r).sum()) for r in range(most + 1)}

    def table(self, units: Any = None) -> list[dict[str, Any]]:
        """Return rows of plain values, to show beside the units of a circuit.

        Args:
            units: Indices of units, such as `circuit.places()`; by default the members at radius 0,
                those of the largest radius first.

        Returns:
            A row a unit: `unit`, `share`, `low` and `high` bounds, `radius` and `barred`.
        """
        if units is None:
            inside = np.flatnonzero(self.radius >= 0)
            units = inside[np.argsort(-self.counts[inside], kind="stable")]
        low, high = self.bounds
        places = [require_index("units", unit, len(self)) for unit in np.asarray(units).tolist()]
        return [
            {"unit": i, "share": round(float(self.share[i]), 4), "low": round(float(low[i]), 4),
             "high": round(float(high[i]), 4), "radius": int(self.radius[i]),
             "barred": int(self.barred[i])}
            for i in places
        ]  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads; units that were never found are left out."""
        plain = {field.name: getattr(self, field.name) for field in dataclasses.fields(_Record)
                 if hasattr(self, field.name)}  # fmt: skip
        found = np.flatnonzero(self.counts)
        groups = None if self.groups is None else [unit.tolist() for unit in self.groups]
        return plain | {
            "format": _FORMAT, "units": len(self), "seen": self.seen.to_json(), "groups": groups,
            "counts": [[int(i), int(self.counts[i])] for i in found],
        }  # fmt: skip

    @classmethod
    def from_json(cls, record: Any) -> Core:
        """Read what `to_json` returned.

        Raises:
            InputError: If it is something else.
        """
        if not isinstance(record, dict) or record.get("format") != _FORMAT:
            raise InputError("core", got=shown(record), expected=f"a record of {_FORMAT!r}")
        read = checked(_Record, record, "core", error=InputError)
        counts = np.zeros(require_index("units", read.units, _MOST), np.int64)
        for unit, count in read.counts:
            counts[require_index("unit of the core", unit, read.units)] = count
        groups = None if read.groups is None else tuple(map(np.asarray, read.groups))
        own = {k: v for k, v in vars(read).items() if k not in ("format", "units")}
        seen = Seen.from_json(read.seen)
        return cls(**own | {"counts": counts, "groups": groups, "seen": seen})

    def __repr__(self) -> str:
        sizes = self.sizes()
        certified = f"{sizes.get(1, 0):,} of {len(self):,} units at radius 1"
        most = f", {sizes[max(sizes)]:,} at {max(sizes)}" if max(sizes, default=0) > 1 else ""
        drawn = f"{self.subsets:,} discoveries from {self.kept} of {self.prompts} prompts"
        return f"Core({certified}{most}; {drawn}; {self.seen})"


@dataclasses.dataclass(frozen=True)
class _Record:
    """The JSON of a core."""

    format: str
    units: int
    counts: list[tuple[int, int]]
    subsets: int
    prompts: int
    kept: int
    threshold: float
    alpha: float
    size: int
    rule: str
    seed: int
    seen: dict[str, Any]
    leaves: int
    groups: list[list[int]] | None
