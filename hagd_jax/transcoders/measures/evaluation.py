"""What was measured of a transcoder, as a record."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from hagd_jax.brief import one_line
from hagd_jax.errors import InputError
from hagd_jax.files import finite

# Edges of the density histogram, in log10 of the share of tokens: a fifth of a decade each. What
# fires more rarely than the first edge, but does fire, is counted in the first bin.
BIN_EDGES = tuple(round(-7 + 0.2 * i, 1) for i in range(36))

Floats = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """An evaluation holds what was measured of a transcoder on held-out text.

    Attributes:
        tokens: How many tokens counted.
        fvu: (L) fraction of variance unexplained; NaN where a layer writes one constant.
        l0: (L) active features a token.
        dead: (L) share of features that never fired on these tokens.
        histogram: (L, bins) living features by log10 of their density, between `BIN_EDGES`.
        loss: Cross-entropy of the model, nats a token.
        loss_replaced: With every MLP replaced by the transcoder.
        loss_ablated: With every MLP output set to zero.
        layer_loss: (L) of (replaced, ablated), with one layer at a time; or None.
        jacobian: (L) how far the transcoder's derivative is from the MLP's, E‖(J_tc − J_mlp) v‖² /
            E‖J_mlp v‖² along random v: 0 is equal, 1 no better than none; see `jacobian_match`.
        fired: (L, F) float64, on how many tokens each feature fired. It is not part of the JSON,
            nor compared: `Contexts` keeps it.
    """

    tokens: float
    fvu: Floats
    l0: Floats
    dead: Floats
    histogram: tuple[tuple[int, ...], ...]
    loss: float
    loss_replaced: float
    loss_ablated: float
    jacobian: Floats
    layer_loss: tuple[tuple[float, float], ...] | None = None
    fired: np.ndarray | None = dataclasses.field(default=None, compare=False, repr=False)

    __repr__ = one_line

    @property
    def mean_fvu(self) -> float:
        """Return the mean FVU over layers; NaN if one of them has none."""
        return sum(self.fvu) / len(self.fvu)

    @property
    def loss_recovered(self) -> float:
        """Compute (ablated − replaced) / (ablated − model): 1 is the model, 0 no MLPs."""
        return _recovered(self.loss, self.loss_replaced, self.loss_ablated)

    @property
    def layer_recovered(self) -> Floats | None:
        """Return the (L) loss recovered by each layer alone, or None if not measured."""
        if self.layer_loss is None:
            return None
        return tuple(_recovered(self.loss, *pair) for pair in self.layer_loss)

    def to_json(self) -> dict[str, Any]:
        """Return plain numbers by name, derived ones included; NaN becomes null."""
        record = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name != "fired"
        }
        record |= {"mean_fvu": self.mean_fvu, "loss_recovered": self.loss_recovered}
        return finite(record | {"layer_recovered": self.layer_recovered})

    def table(self) -> Table:
        """Make a table by layer for `rich.print`, at most 80 columns wide."""
        table = Table(
            box=box.SIMPLE_HEAD,
            title=f"FVU {self.mean_fvu:.3f}, loss recovered {self.loss_recovered:.1%}",
            caption=f"{self.tokens:,.0f} held-out tokens; cross-entropy {self.loss:.3f}, "
            f"replaced {self.loss_replaced:.3f}, without MLPs {self.loss_ablated:.3f}",
            title_style="bold",
            title_justify="left",
            caption_justify="left",
        )
        columns = {
            "layer": [str(i) for i in range(len(self.fvu))],
            "FVU": [f"{fvu:.3f}" for fvu in self.fvu],
            "L0": [f"{l0:.1f}" for l0 in self.l0],
            "dead": [f"{dead:.1%}" for dead in self.dead],
            "Jacobian": [f"{apart:.3f}" for apart in self.jacobian],
        }
        if self.layer_recovered is not None:
            columns["recovered alone"] = [f"{share:.1%}" for share in self.layer_recovered]
        for name in columns:
            table.add_column(name, justify="right")
        for row in zip(*columns.values(), strict=True):
            table.add_row(*row)
        return table

    @classmethod
    def from_json(cls, record: Any) -> Evaluation:
        """Read what `to_json` returned.

        Args:
            record: A dictionary, as JSON gives it back.

        Returns:
            An equal evaluation, without `fired`.

        Raises:
            InputError: If something is missing or of another kind.
        """
        try:
            layers = record["layer_loss"]
            found = cls(
                tokens=_number(record["tokens"]),
                fvu=_numbers(record["fvu"]),
                l0=_numbers(record["l0"]),
                dead=_numbers(record["dead"]),
                histogram=tuple(tuple(map(int, row)) for row in record["histogram"]),
                loss=_number(record["loss"]),
                loss_replaced=_number(record["loss_replaced"]),
                loss_ablated=_number(record["loss_ablated"]),
                jacobian=_numbers(record["jacobian"]),
                layer_loss=layers and tuple((_number(a), _number(b)) for a, b in layers),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "evaluation",
                got=f"{type(error).__name__}: {error}",
                expected="a record written by Evaluation.to_json",
            ) from error
        sizes = {
            len(row) for row in (found.fvu, found.l0, found.dead, found.histogram, found.jacobian)
        }
        if len(sizes) > 1 or {len(row) for row in found.histogram} != {len(BIN_EDGES) - 1}:
            raise InputError(
                "evaluation", got=f"rows of {sorted(sizes)} layers", expected="one length"
            )
        return found


def summarise(sums: Any) -> Evaluation:
    """Compute ratios and shares from sums over tokens.

    Args:
        sums: `measure.Sums` of float64.

    Returns:
        The evaluation.
    """
    total = float(sums.weight)
    fired = np.asarray(sums.fired)
    predicted = max(float(sums.predicted), 1e-30)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Of one constant output nothing is left to explain, whatever rounding says.
        varies = sums.spread > 1e-12 * total * np.sum(sums.mean**2, -1)
        fvu = np.where(varies, sums.missed / sums.spread, np.nan)
        jacobian = sums.tangent[:, 0] / sums.tangent[:, 1]
    layers = None if sums.layer_loss is None else sums.layer_loss / predicted
    return Evaluation(
        tokens=total,
        fvu=tuple(fvu.tolist()),
        l0=tuple((fired.sum(-1) / total).tolist()),
        dead=tuple((fired == 0).mean(-1).tolist()),
        histogram=tuple(tuple(histogram(row / total)) for row in fired),
        loss=float(sums.loss[0]) / predicted,
        loss_replaced=float(sums.loss[1]) / predicted,
        loss_ablated=float(sums.loss[2]) / predicted,
        jacobian=tuple(np.where(np.isfinite(jacobian), jacobian, np.nan).tolist()),
        layer_loss=None if layers is None else tuple((a, b) for a, b in layers.tolist()),
        fired=fired,
    )


def histogram(density: np.ndarray) -> list[int]:
    """Count living features in each bin of log10 density.

    Args:
        density: (F,) share of tokens on which each feature fires.

    Returns:
        A count for each pair of neighbours in `BIN_EDGES`.

    Example:
        >>> histogram(np.array([0.0, 1e-9, 1.0]))[0], sum(histogram(np.array([0.0, 1e-9, 1.0])))
        (1, 2)
    """
    alive = np.log10(density[density > 0])
    return np.histogram(np.clip(alive, BIN_EDGES[0], BIN_EDGES[-1]), BIN_EDGES)[0].tolist()


def _recovered(model: float, replaced: float, ablated: float) -> float:
    """NaN where the MLPs do not help."""
    return (ablated - replaced) / (ablated - model) if ablated > model else math.nan


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _numbers(values: Any) -> Floats:
    return tuple(map(_number, values))
