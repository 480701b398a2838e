"""What a compiled program multiplies and moves, read off its text.

XLA's own `cost_analysis` counts the body of a loop once, however often it runs. Here the loops of a
program are told how often: those over the layers of a model, which are all that a step has.
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
# Names for what is there already, and loops, whose bodies are counted themselves.
FREE = {
    *("parameter", "tuple", "get-tuple-element", "bitcast", "constant"),
    *("while", "conditional", "call", "after-all", "optimization-barrier"),
}


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a program.

    Attributes:
        name: Its own.
        op: What it does.
        type: Of its result.
        args: Names of its operands.
        path: Where it comes from: JAX's names, with slashes.
        called: The computations it calls.
    """

    name: str
    op: str
    type: str
    args: tuple[str, ...]
    path: str
    called: tuple[str, ...]


def parse(text: str) -> dict[str, dict[str, Instruction]]:
    """Computation → instruction → what it is."""
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
    """Operations of products and bytes of main memory, by kind.

    Args:
        text: Of a compiled program.
        trips: How often each of its loops runs.
        kind: Path of an instruction → its kind.

    Returns:
        Floating point operations; and bytes that are read or written, each operand and result of
        each instruction that is not part of a fusion, except those kept on the chip.
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
    """2 · B · M · K · N, from the sizes of operands and result: B·M·K, B·K·N and B·M·N."""
    left, right = (_shape(table[arg].type) for arg in one.args[:2])
    out = _shape(one.type)
    batch = 1  # dimensions that all three begin with
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
    """Bytes in main memory: S(1) and on mark what stays on the chip.

    Of arrays stacked over the turns of a loop, a turn reads or writes its own slice.
    """
    total = 0
    for dtype, text, layout in ARRAY.findall(type_):
        sides = [int(side) for side in text.split(",") if side]
        if turns > 1 and sides[:1] == [turns]:
            sides = sides[1:]
        total += 0 if "S(" in layout else BYTES.get(dtype, 4) * math.prod(sides)
    return total
