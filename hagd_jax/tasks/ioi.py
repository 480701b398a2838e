"""Indirect object identification: who gets the drink?

"When Mary and John went to the store, John gave a drink to" → " Mary" (Wang et al., 2022,
arXiv:2211.00593). The answer is the name that occurs once (the indirect object), the distractor
the one that occurs twice (the subject). The counterfactual is their ABC prompt: the three names
are replaced by three different ones, none of them in the clean prompt. It stays a grammatical
sentence of the same tokens elsewhere, and says nothing about which clean name comes next.
"""

from __future__ import annotations

import collections
import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.lexicon import NAMES, share, words
from hagd_jax.tasks.spans import slots
from hagd_jax.tasks.spread import first_templates, require_enough, suited
from hagd_jax.tasks.text import single_tokens, text_task

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer


class Scenes(NamedTuple):
    """Scenes are the words that the prompts of one split are made of.

    In a template {A} and {B} are the two names and {S} the one of them who acts. None starts with
    a name: a word at the start has no space before it, hence another token.
    """

    templates: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]


SCENES = {
    "discover": Scenes(
        templates=(
            "When {A} and {B} went to the {place}, {S} gave a {object} to",
            "After {A} and {B} met at the {place}, {S} handed a {object} to",
            "While {A} and {B} were waiting near the {place}, {S} offered a {object} to",
            "Yesterday {A} and {B} walked to the {place} together. There {S} gave the {object} to",
            "Once {A} and {B} had left the {place}, {S} passed the {object} to",
            "In the morning {A} and {B} drove to the {place}, and {S} handed the {object} to",
            "Because {A} and {B} were meeting at the {place}, {S} brought a {object} to",
            "Then {A} and {B} had a long talk at the {place}. Afterwards {S} sent a {object} to",
            "Near the gate of the {place}, {A} and {B} found a {object}, and {S} gave it to",
            "The {object} lay on a bench in the {place} when {A} and {B} arrived, and {S} "
            "handed it to",
            "My cousins {A} and {B} opened a small {place}, and {S} mentioned the {object} to",
            "There was a fight between {A} and {B} about a {object} from the {place}, until "
            "{S} returned it to",
            "The bus stopped at the {place}. Out came {A} and {B}, and {S} pointed out the "
            "{object} to",
            "Neither {A} nor {B} had ever visited the {place}. Excited, {S} described a {object} "
            "to",
            "It was dark outside the {place}, so {A} and {B} hurried. Halfway home {S} returned "
            "the {object} to",
            "According to the newspaper, {A} and {B} got married at the {place}. As a surprise, "
            "{S} presented a {object} to",
            "Thanks to a {object}, {A} and {B} became friends in the {place}. Today {S} wrote to",
            "Our teacher took {A} and {B} to the {place}, and {S} read a page about a {object} to",
            "The police questioned {A} and {B} about the {object} missing from the {place}. "
            "Nervously {S} whispered to",
            "Lunch at the {place} had cost {A} and {B} little money, and happily {S} passed the "
            "{object} to",
            "For weeks {A} and {B} had looked for the {object} in the {place}. Now {S} proudly "
            "returned it to",
            "Dear friends, listen: {A} and {B} built this {place}, and each morning {S} brings a "
            "{object} to",
            "On the road from the {place}, {A} and {B} found a {object}; {S} described it to",
            "The moment the {place} opened, {A} and {B} ran through the door, and {S} pointed a "
            "{object} out to",
            "The manager asked {A} and {B} to clean the {place}. First {S} handed the {object} to",
            "I remember {A} and {B} from the {place}: {S} always read stories about a {object} to",
            "During the storm the {place} lost power, but {A} and {B} stayed calm, and {S} "
            "passed the {object} to",
            "Of all the players at the {place}, {A} and {B} were the best. At practice {S} "
            "tossed the {object} to",
            "Somebody had left a {object} at the {place} for {A} and {B}. Without a word {S} "
            "pushed it over to",
            "Long ago the {place} belonged to {A} and {B}. Before leaving, {S} left the {object} "
            "to",
            "Should {A} and {B} buy the {object} from the {place}? After some thought {S} "
            "recommended it to",
            "Fresh snow covered the {place}. Under a tree {A} and {B} rested, and {S} offered the "
            "{object} to",
        ),
        places=words("store park school office station museum garden library airport beach"),
        objects=words("drink book ring ball gift letter key ticket bottle map"),
    ),
    "select": Scenes(
        templates=(
            "Their boss at the {place} wanted {A} and {B} to work on a {object}, so {S} "
            "explained the plan to",
            "A big crowd of guests filled the {place}, {A} and {B} among them. With a "
            "smile {S} carried a {object} over to",
            "Both of the students in the {place}, {A} and {B}, liked music. Soon {S} sang "
            "a song about a {object} to",
            "At the end of the trip to the {place}, it was up to {A} and {B} to say "
            "goodbye, and {S} promised a {object} to",
        ),
        places=words("hospital restaurant market theater church zoo"),
        objects=words("bag sandwich flower coat snack cup"),
    ),
    "test": Scenes(
        templates=(
            "The {place} was nearly empty that evening; {A} and {B} sat alone, and at "
            "last {S} showed the {object} to",
            "Two neighbors from the {place}, {A} and {B}, trusted each other, so {S} lent "
            "the {object} to",
            "There was just one {object} in the {place} that {A} and {B} could use, so "
            "{S} threw it to",
            "The rain kept {A} and {B} inside the {place}. To kill time, {S} threw a {object} to",
            "Two old rivals, {A} and {B}, shared a table in the {place}, and finally {S} "
            "slid a {object} across to",
            "Sadly the {place} was closed, and neither {A} nor {B} knew why. Later {S} "
            "mailed the {object} to",
            "Every summer the {place} hired {A} and {B}. This year {S} sold a {object} to",
            "From the window of the {place}, {A} and {B} watched the sunset. Quietly {S} "
            "slid the {object} over to",
            "Partners for years, {A} and {B} had equal shares in the {place}; this spring, without "
            "regret, {S} transferred the {object} to",
            "Inside the noisy {place}, {A} and {B} could barely hear anything, and {S} "
            "threw a {object} across to",
            "A cold wind blew as {A} and {B} reached the {place}; {S} delivered a {object} to",
            "Nothing in the {place} pleased {A} or {B}; eventually {S} shipped a {object} to",
            "Everyone danced: it was a birthday feast, and the {place} had a prize for {A} and "
            "{B}. Laughing, {S} awarded the {object} to",
            "As owners of the {place}, {A} and {B} faced a lawsuit, and reluctantly {S} mailed the "
            "{object} to",
            "Smoke rose above the {place}, yet {A} and {B} ignored it, and {S} simply slid the "
            "{object} to",
            "Rumor has it that {A} and {B} quarreled the whole night behind the {place}; by "
            "dawn {S} surrendered the {object} to",
        ),
        places=words("hotel bank farm gym bakery cafe club bar"),
        objects=words("phone pen toy card hat box coin lamp"),
    ),
}

# Two names in the prompt, three others in its counterfactual.
NAMES_NEEDED = 5


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for indirect object identification.

    Templates, names, places and objects of the three splits are disjoint. Templates and the two
    orders (ABBA: the answer is named first; BABA: second) take turns, so they are balanced.
    A split has 8 templates up to 64 prompts, and one more for every 8 prompts: of discovery up to
    32, of the test split up to 16.

    Args:
        tokenizer: Of the model; names that are not one of its tokens are left out.
        sizes: Prompts in each split.
        seed: Of the draw; the word lists and their split stay the same.

    Returns:
        The task; an answer is correct if it beats the other name. Its spans are the indirect
        object's name `io`, the subject's first and second mention `s1` and `s2`, `end` and `rest`.

    Raises:
        InputError: If the tokenizer leaves fewer than five names for a split, or there are not as
            many different prompts as asked for.
    """
    sizes = read_draw(sizes, seed, suited(SCENES["discover"].templates))
    texts = {split: _texts(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS}
    return text_task(
        "ioi",
        tokenizer,
        texts,
        description="Of two people in a sentence, name the one who receives something.",
        spans=_spans,
    )


def _spans(text: Text) -> dict[str, str]:
    """The indirect object, and the first and the second mention of the subject."""
    first, last = slots(text.template, text.clean)["A"]
    io, s1 = "AB" if text.clean[first:last] == text.answer else "BA"
    return {io: "io", s1: "s1", "S": "s2"}


def names(tokenizer: Tokenizer, split: str) -> tuple[str, ...]:
    """List the names of a split that are one token after a space.

    Args:
        tokenizer: Of the model.
        split: `discover`, `select` or `test`.

    Returns:
        The names.

    Raises:
        InputError: If there are fewer than five.
    """
    listed = share(NAMES, split)
    kept = tuple(single_tokens(tokenizer, listed))
    if len(kept) < NAMES_NEEDED:
        raise InputError(
            f"names of one token for the {split} split of ioi",
            got=f"{len(kept)} of the {len(listed)} listed",
            expected=f"at least {NAMES_NEEDED}",
            mend="This model's tokenizer splits first names; use another model or your own Task.",
        )
    return kept


def _texts(tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Text]:
    pool, scenes = names(tokenizer, split), SCENES[split]
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    templates = first_templates(scenes.templates, size)
    fillings = {t: _fillings(tokenizer, pool, scenes, t) for t in templates}
    kinds = itertools.product((True, False), templates)
    most = len(pool) * (len(pool) - 1) * min(map(len, fillings.values()))
    # Each order of each template could give so many.
    require_enough("ioi", split, -(-size // (2 * len(templates))), most)
    turns = itertools.cycle(kinds)
    kept: dict[str, Text] = {}
    while len(kept) < size:
        io_first, template = next(turns)
        text = None
        while text is None or text.clean in kept:
            filling = fillings[template][rng.integers(len(fillings[template]))]
            text = _draw(rng, pool, filling, template, io_first)
        kept[text.clean] = text
    return list(kept.values())


def _fillings(
    tokenizer: Tokenizer, pool: tuple[str, ...], scenes: Scenes, template: str
) -> list[dict[str, str]]:
    """Places and objects with which prompts of a template have the commonest number of tokens."""
    people = dict(zip("ABS", pool, strict=False))
    found = [
        {"place": place, "object": thing}
        for place, thing in itertools.product(scenes.places, scenes.objects)
    ]
    lengths = [len(tokenizer.encode(template.format(**people, **own), end=False)) for own in found]
    common = collections.Counter(lengths).most_common(1)[0][0]
    return [own for own, length in zip(found, lengths, strict=True) if length == common]


def _draw(
    rng: np.random.Generator,
    pool: tuple[str, ...],
    filling: dict[str, str],
    template: str,
    io_first: bool,
) -> Text:
    io, s, a, b, c = (str(name) for name in rng.choice(pool, NAMES_NEEDED, replace=False))
    first, second = (io, s) if io_first else (s, io)
    return Text(
        clean=template.format(A=first, B=second, S=s, **filling),
        corrupted=template.format(A=a, B=b, S=c, **filling),
        answer=io,
        distractor=s,
        template=template,
    )
