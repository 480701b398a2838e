"""Numbers, nodes and foreign text as a person reads them."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

from hagd_jax.causal import Circuit, EdgeCircuit, Estimate, Node, Wiring
from hagd_jax.tasks.seen import Seen
from hagd_jax.units import unit_name

UNDEFINED = "not defined"
MINUS = "\N{MINUS SIGN}"
# Marks, controls, surrogates, unassigned, private use, line and paragraph separators: they can
# reorder or hide the text around them, or drive a terminal.
_ACTIVE = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})
_PLAIN = frozenset(" \n\t")


def inert(text: Any, limit: int = 300) -> str:
    r"""Make foreign text safe to display: nothing hidden, nothing active, nothing endless.

    Args:
        text: Anything; its `str` is taken.
        limit: Characters kept; the rest is counted.

    Returns:
        The text, with controls, bidirectional marks and lone surrogates written as escapes.
        It is not HTML-escaped.

    Example:
        >>> inert("a\x1b[2Jb")
        'a\\x1b[2Jb'
        >>> inert("x" * 1000, limit=3)
        'xxx… (997 more characters)'
    """
    text = str(text)
    rest = len(text) - limit
    shown = "".join(map(_visible, text[:limit]))
    return f"{shown}… ({rest:,} more characters)" if rest > 0 else shown


def _visible(char: str) -> str:
    if char in _PLAIN or unicodedata.category(char) not in _ACTIVE:
        return char
    code = ord(char)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def number(value: float) -> str:
    """Format a number with three significant digits, or as whole thousands.

    Example:
        >>> number(0.12345), number(float("nan"))
        ('0.123', 'not defined')
    """
    return _finite(value, f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.3g}")


def percent(value: float, digits: int = 1) -> str:
    """Format a share of one as a percentage.

    Example:
        >>> percent(0.9731), percent(float("nan"))
        ('97.3%', 'not defined')
    """
    return _finite(value, f"{100 * value:.{digits}f}%")


def probability(value: float) -> str:
    """Format a p-value with three decimals, or as an upper bound where those would be zero.

    Example:
        >>> probability(1 / 11), probability(1e-5)
        ('0.091', '< 0.001')
    """
    return "< 0.001" if 0 <= value < 0.001 else _finite(value, f"{value:.3f}")


def interval(estimate: Estimate) -> str:
    """Format the 95% interval of a share, in percent.

    Example:
        >>> interval(Estimate(0.97, 0.951, 0.989))
        '95.1 to 98.9'
    """
    if not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "no interval"
    low, high = (percent(end).removesuffix("%") for end in (estimate.low, estimate.high))
    return f"{low} to {high}"


def node_name(node: Node, per_expert: Sequence[int] = ()) -> str:
    """Return the short name of a node, see `units.unit_name`.

    Args:
        node: The node.
        per_expert: Neurons of an expert in each layer, of a circuit in a mixture of experts.

    Example:
        >>> node_name(Node("head", 3, 1)), node_name(Node("feature", 0, 17))
        ('L3.H1', 'L0.F17')
        >>> node_name(Node("head", 9, 6, span="end"))
        'L9.H6 at end'
    """
    name = unit_name(node.kind, node.layer, node.index, per_expert)
    return f"{name} at {node.span}" if node.span else name


def counted(circuit: Circuit | EdgeCircuit | Wiring, total: int) -> str:
    """State how large a circuit is: its nodes or edges, and its units where some hold several.

    Args:
        circuit: The circuit.
        total: Nodes or edges of the model.

    Example:
        >>> circuit = Circuit((), (), (1, 2, 3), model="small", task="copy")
        >>> counted(circuit, 5)
        '0 of 5 nodes'
    """
    what = "nodes" if isinstance(circuit, Circuit) else "edges"
    finest = f"{circuit.leaves:,} of {total:,} {what}"
    size = len(circuit)
    if size == circuit.leaves:
        return finest
    return f"{size:,} {'unit' if size == 1 else 'units'} with {finest}"


def found_under(seen: Seen) -> str:
    """Describe the ablations that a circuit was found with.

    Example:
        >>> found_under(Seen(ablations=("mean", "zero"), prompts=("00c0ffee",)))
        'found under mean and zero ablation'
        >>> found_under(Seen.unknown())
        'found under unknown ablations'
    """
    names = [inert(name, 20) for name in seen.ablations] + ["others unknown"] * (not seen.known)
    if not seen.ablations:
        return "found under unknown ablations" if not seen.known else "found under no ablation"
    return f"found under {' and '.join(names)} ablation"


def _finite(value: float, text: str) -> str:
    if math.isnan(value):
        return UNDEFINED
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    # Neither "-0.0%" nor a hyphen for a minus.
    text = text.lstrip("-") if not any(c in "123456789" for c in text.split("e")[0]) else text
    return text.replace("-", MINUS, 1) if text.startswith("-") else text
