"""Count the FLOPs and memory traffic of a compiled program from its HLO text.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs. Here the caller
gives the trip count. A training step has loops over the layers of a model only.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable

INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%(?P<name>\S+) = (?P<type>\(.*?\)|\S+) (?P<op>[\w\-]+)\((?P<args>[^)]*)\)"
)
COMPUTATION = re.compile(r"^(?:ENTRY )?%(?P<name>\S+) \(.*\{$")
ARRAY = re.compile(r"(\w+)\[([\d,]*)\](\{[^}]*\})?")
BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8}
# Operations that move no data, and control flow, whose bodies are counted separately.
FREE = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant"),
    *("while", "conditional", "call", "after-all", "optimization-barrier"),
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """Instruction describes one HLO instruction.

    Attributes:
        name: Name of the instruction.
        op: HLO opcode, such as `dot`.
        type: HLO type of the result.
        args: Names of the operands.
        path: JAX's name of the operation (`op_name`), with slashes.
        called: Names of the computations it calls.
    """

    name: str
    op: str
    type: str
    args: tuple[str, ...]
    path: str
    called: tuple[str, ...]


def parse(text: str) -> dict[str, dict[str, Instruction]]:
    """Parse HLO text into a mapping from computation name to its instructions by name."""
    program: dict[str, dict[str, Instruction]] = {}
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
        if begins := COMPUTATION.match(line):
            current = program[begins["name"]] = {}
        elif found := INSTRUCTION.match(line):
            path = re.search(r'op_name="([^"]*)"', line)
            called = re.findall(r"(?:calls|body|condition|to_apply|_computation)=%([\w.\-]+)", line)
            branches = re.search(r"branch_computations=\{([^}]*)\}", line)
            called += re.findall(r"%([\w.\-]+)", branches[1]) if branches else []
            current[found["name"]] = Instruction(
                found["name"], found["op"], found["type"],
                tuple(re.findall(r"%([\w.\-]+)", found["args"])),
                path[1] if path else "", tuple(called),
            )  # fmt: skip
    return program


def account(text: str, trips: int, kind: Callable[[str], str]) -> tuple[Counter[str], Counter[str]]:
    """Count a program's FLOPs in matrix products and its bytes of main-memory traffic, by kind.

    Args:
        text: HLO text of a compiled program.
        trips: Trip count of each of its loops.
        kind: Maps the path of an instruction to its kind.

    Returns:
        FLOPs by kind, and bytes read or written by kind. Traffic counts the operands and results of
        all instructions outside fusions, except arrays that stay in on-chip memory.
    """
    program = parse(text)
    bodies = {
        name
        for instructions in program.values()
        for one in instructions.values()
        if one.op == "while"
        for name in one.called
    }
    fused = {
        name
        for instructions in program.values()
        for one in instructions.values()
        if one.op not in ("while", "conditional", "call")
        for name in one.called
    }
    flops: Counter[str] = Counter()
    moved: Counter[str] = Counter()

    def count(name: str, times: int, *, fused_in: bool, turns: int) -> None:
        table = program[name]
        for one in table.values():
            if one.op in ("dot", "convolution"):
                flops[kind(one.path)] += times * _product(one, table)
            if not fused_in and one.op not in FREE:
                types = [one.type, *(table[arg].type for arg in one.args if arg in table)]
                moved[kind(one.path)] += times * sum(_size(each, turns) for each in types)
            for callee in one.called:
                again = trips if callee in bodies else 1
                count(callee, times * again, fused_in=fused_in or callee in fused,
                      turns=max(turns, again))  # fmt: skip

    entry = re.search(r"^ENTRY %(\S+)", text, re.MULTILINE)
    assert entry is not None
    count(entry[1], 1, fused_in=False, turns=1)
    return flops, moved


def _product(one: Instruction, table: dict[str, Instruction]) -> int:
    """Return 2 · B · M · K · N, from the sizes B·M·K, B·K·N (operands) and B·M·N (result)."""
    left, right = (_shape(table[arg].type) for arg in one.args[:2])
    out = _shape(one.type)
    batch = 1  # product of the leading dimensions that all three share
    for sides in zip(left, right, out, strict=False):
        if len(set(sides)) > 1:
            break
        batch *= sides[0]
    squared = math.prod(left) * math.prod(right) / (math.prod(out) * batch)
    return round(2 * math.prod(out) * math.sqrt(squared))


def _shape(type_: str) -> list[int]:
    found = ARRAY.match(type_)
    assert found is not None
    return [int(side) for side in found[2].split(",") if side]


def _size(type_: str, turns: int) -> int:
    """Return the bytes of a type in main memory; layouts S(1) and above are on-chip memory.

    An array stacked over the trips of a loop counts one slice a trip.
    """
    total = 0
    for dtype, text, layout in ARRAY.findall(type_):
        sides = [int(side) for side in text.split(",") if side]
        if turns > 1 and sides[:1] == [turns]:
            sides = sides[1:]
        total += 0 if "S(" in layout else BYTES.get(dtype, 4) * math.prod(sides)
    return total
