"""Mutations of a good file: of its bytes, its structure and its values."""

import json

from hypothesis import strategies as st

from hagd_jax.errors import HagdError

# What a value may become: of another type, beyond a range, or an attack.
ODD = st.sampled_from(
    [None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63), 10**30, "", "x", "a\u2028b", "\ud800",
     "n" * 3000, [], {}, [[]], [1, "a"], {"a": 1}, float("nan"), float("inf"), 1e308]
)  # fmt: skip


def outcome(read):
    """What a reader gives, and what it says where it refuses: by a typed error, and on one line."""
    try:
        return read(), ""
    except HagdError as error:
        said = str(error)
    assert said.isprintable()
    assert 0 < len(said) < 700, said
    return None, said


@st.composite
def damaged(draw, raw: bytes) -> bytes:
    """A few bytes changed, cut off, doubled or put in."""
    raw = bytearray(raw)
    for _ in range(draw(st.integers(1, 4))):
        at, what = draw(st.integers(0, max(len(raw) - 1, 0))), draw(st.integers(0, 3))
        if what == 0 and raw:
            raw[at] = draw(st.integers(0, 255))
        elif what == 1:
            del raw[at : at + draw(st.integers(1, 20))]
        elif what == 2:
            raw[at:at] = raw[at : at + draw(st.integers(1, 40))]
        else:
            raw[at:at] = draw(st.binary(max_size=8))
    return bytes(raw)


@st.composite
def changed(draw, value, depth: int = 4):
    """One value somewhere in a tree replaced, left out or doubled."""
    if isinstance(value, dict) and value and depth and draw(st.integers(0, 3)):
        name = draw(st.sampled_from(sorted(value)))
        rest = {key: item for key, item in value.items() if key != name}
        if not draw(st.integers(0, 5)):
            return rest | {draw(st.text(max_size=4)): value[name]}
        return rest if not draw(st.integers(0, 5)) else value | {
            name: draw(changed(value[name], depth - 1))
        }  # fmt: skip
    if isinstance(value, list) and value and depth and draw(st.integers(0, 3)):
        at = draw(st.integers(0, len(value) - 1))
        if not draw(st.integers(0, 5)):
            return [*value[:at], *value[at + 1 :]]
        return [*value[:at], draw(changed(value[at], depth - 1)), *value[at + 1 :]]
    return draw(ODD)


def mutated(value):
    """The text of a JSON value, whose values or whose bytes are changed."""
    text = json.dumps(value).encode()
    return damaged(text) | changed(value).map(lambda new: json.dumps(new).encode())
