"""Small models of any family, each of whose heads and neurons was written for one purpose."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from hagd_jax.errors import require_choice, require_index
from hagd_jax.models import forward
from hagd_jax.testbeds.role_plan import (
    ASK,
    BEGIN,
    LENGTH,
    PROMPTS,
    SIZES,
    SURE,
    WORDS,
    Kind,
    Plan,
    RoleCase,
    pick,
)
from hagd_jax.testbeds.sketch import STYLES, Match

_TRIES, _RIGHT = 20, 0.95


def _suppressor(plan: Plan, build: Callable[[tuple[int, int]], None], likely: float) -> None:
    """Perhaps add a head that attends as another one, and takes part of it back."""
    if plan.rng.random() < likely:
        layer = plan.layers[-1]
        place = plan.slot(layer, "suppressor")
        build(place)
        plan.copy(place, -float(plan.rng.uniform(0.25, 0.5)))


def _induction(rng: np.random.Generator, kind: Kind, name: str) -> RoleCase:
    """[a][b] … [a] → [b] (Elhage et al., 2021; Olsson et al., 2022, arXiv:2209.11895)."""
    plan = Plan(rng, kind, int(rng.integers(12, 17)), {"before": WORDS}, 2)
    s = plan.sketch
    before = plan.slot(plan.layers[0], "previous token")
    s.offset(*before, 1, 30.0)
    s.write(*before, s.space["token"], s.space["before"])

    def attend(place: tuple[int, int]) -> None:
        s.attend(*place, Match(s.space["token"], s.space["before"], SURE),
                 plan.rest_on_begin())  # fmt: skip

    found = plan.slot(plan.layers[1], "induction")
    attend(found)
    plan.copy(found, 1.0)
    _suppressor(plan, attend, 0.6)
    rows = []
    count = LENGTH - 2
    for _ in range(PROMPTS):
        own = pick(rng, plan.words, count + 1)
        i, wrong = int(rng.integers(0, count - 2)), own.pop()
        other = [wrong if j == i + 1 else token for j, token in enumerate(own)]
        ends = [BEGIN, *own, own[i]], [BEGIN, *other, own[i]]
        rows.append((*ends, own[i + 1], wrong))
    return plan.finish(name, rows)


def _names(rng: np.random.Generator, kind: Kind, name: str) -> RoleCase:
    """Of two names the one that does not come twice (Wang et al., 2022, arXiv:2211.00593)."""
    names = int(rng.integers(6, 9))
    plan = Plan(rng, kind, names + 8, {"twice": 1, "not": WORDS}, 3)
    s = plan.sketch
    people = plan.words[:names]
    # The share of attention that rests on the first token tells how often a token came.
    weight = float(rng.uniform(0.15, 0.35))
    once, again = weight / (1 + weight), weight / (2 + weight)
    twice = plan.slot(plan.layers[0], "duplicate token")
    s.attend(*twice, Match(s.space["token"], s.space["token"], SURE),
             plan.rest_on_begin(SURE + float(np.log(weight))))  # fmt: skip
    s.write(*twice, s.one_hot("token", BEGIN), s.space["twice"], -1 / (once - again))
    s.params["embed/embedding"] += once / (once - again) * s.space["twice"]
    asks = s.one_hot("token", ASK)
    tells = plan.slot(plan.layers[1], "unnamed")
    # The first token is all that it sees of itself, so its mark says nothing: rest elsewhere.
    s.attend(*tells, Match(asks, s.space["twice"], SURE), Match(asks, asks, SURE / 2))
    s.write(*tells, s.space["token"], s.space["not"])

    def attend(place: tuple[int, int]) -> None:
        s.attend(*place, Match(asks, s.one_hot("token", people), SURE), plan.rest_on_begin(10.0),
                 Match(s.space["not"][people], s.space["token"][people], -SURE))  # fmt: skip

    mover = plan.slot(plan.layers[2], "mover of the answer")
    attend(mover)
    plan.copy(mover, 1.0)
    _suppressor(plan, attend, 0.7)
    rows = []
    for _ in range(PROMPTS):
        one, two = pick(rng, people, 2)
        f = pick(rng, plan.words[names:], 7)
        start = [BEGIN, f[0], one, f[1], f[2], two, f[3], f[4]]
        again = [one, two] if rng.random() < 0.5 else [two, one]
        clean, other = ([*start, person, f[5], f[6], ASK] for person in again)
        rows.append((clean, other, again[1], again[0]))
    return plan.finish(name, rows)


def _subject(rng: np.random.Generator, kind: Kind, name: str) -> RoleCase:
    """A fact of a subject of two tokens, looked up at its last one (Meng, 2022, 2202.05262)."""
    firsts, lasts, facts = 3, 3, 4
    plan = Plan(rng, kind, firsts + lasts + facts + 12, {"before": WORDS, "fact": 4}, 3)
    s = plan.sketch
    first, last, fact, rest = np.split(plan.words, np.cumsum([firsts, lasts, facts]))
    before = plan.slot(plan.layers[0], "previous token")
    s.offset(*before, 1, 30.0)
    s.write(*before, s.space["token"], s.space["before"])
    layer, table = plan.layers[1], rng.permutation(np.resize(np.arange(facts), firsts * lasts))
    for i, which in enumerate(table):
        one, two = divmod(i, lasts)
        reads = s.one_hot("before", first[one]) + s.one_hot("token", last[two])
        s.neuron(layer, i, 2 * reads, -3, s.space["fact"][which])
    plan.inside(layer, len(table), "subject lookup")
    mover = plan.slot(plan.layers[2], "mover of the answer")
    s.attend(*mover, Match(s.one_hot("token", ASK), s.one_hot("token", last), SURE),
             plan.rest_on_begin())  # fmt: skip
    s.write(*mover, s.space["fact"], s.space["logit"][fact])
    rows = []
    while len(rows) < PROMPTS:
        (a, b), (c, d) = (pick(rng, range(firsts), 2), pick(rng, range(lasts), 2))
        right, wrong = table[a * lasts + c], table[b * lasts + d]
        if right == wrong:
            continue
        f = pick(rng, rest, 8)
        clean, other = (
            [BEGIN, *f[:4], int(first[i]), int(last[j]), *f[4:], ASK] for i, j in ((a, c), (b, d))
        )
        rows.append((clean, other, int(fact[right]), int(fact[wrong])))
    return plan.finish(name, rows)


def _lookup(rng: np.random.Generator, kind: Kind, name: str) -> RoleCase:
    """The next token is a function of the last one."""
    tokens = int(rng.integers(9, 13))
    plan = Plan(rng, kind, tokens, {}, 1)
    s, layer = plan.sketch, plan.layers[0]
    follows = rng.permutation(plan.words)
    for i, token in enumerate(plan.words):
        s.neuron(layer, i, s.one_hot("token", token), 0, s.one_hot("logit", follows[i]))
    plan.inside(layer, tokens, "token lookup")
    rows = []
    for _ in range(PROMPTS):
        own = rng.choice(plan.words, LENGTH - 2)
        one, two = pick(rng, range(tokens), 2)
        clean, other = ([BEGIN, *own.tolist(), int(plan.words[i])] for i in (one, two))
        rows.append((clean, other, int(follows[one]), int(follows[two])))
    return plan.finish(name, rows)


def _position(rng: np.random.Generator, kind: Kind, name: str) -> RoleCase:
    """The token a fixed number of places back."""
    plan = Plan(rng, kind, int(rng.integers(8, 13)), {}, 1)
    s, back = plan.sketch, int(rng.integers(2, 5))

    def attend(place: tuple[int, int]) -> None:
        s.offset(*place, back, 30.0)

    place = plan.slot(plan.layers[0], "positional")
    attend(place)
    plan.copy(place, 1.0)
    if "place" in s.space:
        some = s.one_hot("place", pick(rng, range(1, LENGTH), 4))
        s.neuron(plan.layers[0], 0, some, 0, s.space["spare"][1])
        plan.roles[f"neuron {plan.layers[0]}.0"] = "positional"
    _suppressor(plan, attend, 0.5)
    rows = []
    for _ in range(PROMPTS):
        own = rng.choice(plan.words, LENGTH - 1).tolist()
        at = len(own) - 1 - back
        wrong = int(rng.choice(plan.words[plan.words != own[at]]))
        other = [*own[:at], wrong, *own[at + 1 :]]
        rows.append(([BEGIN, *own], [BEGIN, *other], own[at], wrong))
    return plan.finish(name, rows)


def _find(rng: np.random.Generator, kind: Kind, name: str) -> RoleCase:
    """Whether a token is there: a head finds it, a neuron says so."""
    plan = Plan(rng, kind, int(rng.integers(8, 12)), {"flag": 1}, 2)
    s = plan.sketch
    sought, yes, no = plan.words[:3].tolist()
    place = plan.slot(plan.layers[0], "token finder")
    s.attend(*place, Match(s.always, s.one_hot("token", sought), SURE), plan.rest_on_begin())
    s.write(*place, s.one_hot("token", sought), s.space["flag"])
    _says(plan, yes, no, 0.0, 1.0)
    rows = []
    for _ in range(PROMPTS):
        own = rng.choice(plan.words[3:], LENGTH - 1).tolist()
        at = int(rng.integers(0, len(own)))
        there = [BEGIN, *own[:at], sought, *own[at + 1 :]]
        pair = (there, [BEGIN, *own], yes, no)
        rows.append(pair if rng.random() < 0.5 else (pair[1], pair[0], no, yes))
    return plan.finish(name, rows)


def _count(rng: np.random.Generator, kind: Kind, name: str) -> RoleCase:
    """Whether a token comes often: a head averages, a neuron compares."""
    plan = Plan(rng, kind, int(rng.integers(7, 11)), {"flag": 1}, 2)
    s = plan.sketch
    counted, yes, no = plan.words[:3].tolist()
    length, few, many = LENGTH - 1, 1, 5
    place = plan.slot(plan.layers[0], "averaging")
    s.write(*place, s.one_hot("token", counted), s.space["flag"], (length + 1) / (many - few))
    _says(plan, yes, no, -few / (many - few), 1.0)
    rows = []
    for _ in range(PROMPTS):
        own = rng.choice(plan.words[3:], length)
        sides = []
        for count in (many, few):
            side = own.copy()
            side[rng.permutation(length)[:count]] = counted
            sides.append([BEGIN, *side.tolist()])
        order = (0, 1) if rng.random() < 0.5 else (1, 0)
        said = (yes, no)
        rows.append((sides[order[0]], sides[order[1]], said[order[0]], said[order[1]]))
    return plan.finish(name, rows)


def _says(plan: Plan, yes: int, no: int, bias: float, top: float) -> None:
    """A neuron that says yes above half of the top, and another one that always says no."""
    s, layer = plan.sketch, plan.layers[1]
    difference = s.one_hot("logit", yes) - s.one_hot("logit", no)
    s.neuron(layer, 0, s.space["flag"], bias, difference)
    s.neuron(layer, 1, 0 * s.space["flag"], 1.0, -top / 2 * difference)
    plan.roles[f"neuron {layer}.0"] = "writer of the answer"


BEHAVIOURS: dict[str, Callable[[np.random.Generator, Kind, str], RoleCase]] = {
    "induction": _induction,
    "names": _names,
    "subject": _subject,
    "lookup": _lookup,
    "position": _position,
    "find": _find,
    "count": _count,
}


def role_case(behaviour: str, style: str, seed: int, size: str = "small") -> RoleCase:
    """Write a model for a behaviour, with random directions, places, layers and strengths.

    Of the models that are drawn in turn, the first that answers 95% of its prompts is taken.

    Args:
        behaviour: One of `BEHAVIOURS`.
        style: One of `sketch.STYLES`, which say what family the model is of.
        seed: Of all that is random.
        size: One of `SIZES`.

    Returns:
        The model with its prompts and the roles of its units.

    Raises:
        ConfigError: If there is no such behaviour or style.
        InputError: If the seed is no whole number.

    Example:
        >>> case = role_case("induction", "plain", 0)
        >>> sorted(set(case.roles.values()) & {"induction", "previous token"})
        ['induction', 'previous token']
    """
    require_choice("behaviour", behaviour, BEHAVIOURS)
    require_choice("style", style, STYLES)
    require_choice("size", size, SIZES)
    name = f"{behaviour} {style} {size} {require_index('seed', seed)}"
    for again in range(_TRIES):
        rng = np.random.default_rng([again, seed, zlib.crc32(name.encode())])
        case = BEHAVIOURS[behaviour](rng, (style, size), name)
        if answered(case) >= _RIGHT:
            return case
    raise RuntimeError(f"no model of {_TRIES} does what {name} is to do")


def answered(case: RoleCase) -> float:
    """Return the share of prompts on which the answer has the largest logit of all."""
    prompts = case.prompts
    at = forward(case.model.bare(), prompts.clean, read=prompts.reads).logits[:, 0]
    return float((np.asarray(at).argmax(-1) == prompts.answer).mean())
