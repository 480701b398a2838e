"""Greater-than: "The war lasted from the year 1732 to the year 17" → a year above 32.

Hanna et al., 2023 (arXiv:2305.00586). The counterfactual starts in the year 01, after which every
year is right; so does ours. A tokenizer with two-digit tokens is asked for the whole number, as
there. One that splits digits is asked for the first digit: larger ones are right, smaller ones
wrong, the same one is neither, since the next digit decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hagd_jax.errors import InputError
from hagd_jax.tasks.definition import SPLITS, Sizes, Task, Text, read_draw
from hagd_jax.tasks.lexicon import EVENTS, share
from hagd_jax.tasks.prompts import Prompts, make_prompts
from hagd_jax.tasks.spans import text_spans, with_spans
from hagd_jax.tasks.spread import Candidate, first_templates, looked, spread, suited

if TYPE_CHECKING:
    from hagd_jax.models.tokenizer import Tokenizer

TEMPLATES = {
    "discover": (
        "The {event} lasted from the year {start} to the year {century}",
        "A long {event} began in {start} and ended in {century}",
        "The {event} took place between {start} and {century}",
        "It was a great {event}, which started in {start} and stopped in {century}",
        "The records of this {event} run from {start} to {century}",
        "According to the chronicle, this {event} spanned the years {start} to {century}",
        "Her book covers the whole {event}, beginning in {start} and ending in {century}",
        "My professor wrote a thesis on the {event} that lasted from {start} until {century}",
        "From the beginning of the {event} in {start} to its end in {century}",
        "Letters about the {event} were sent between {start} and {century}",
        "An old monk described the {event} that occupied the region from {start} to {century}",
        "If the {event} really began in {start}, it cannot have ended before {century}",
        "Chapter five deals with the {event} ({start}-{century}",
        "The cost of the {event} rose every year from {start} to {century}",
        "Although the {event} was announced in {start}, it did not begin until {century}",
        "The queen was born in the first month of the {event}, in {start}, and died in {century}",
        "Taxes doubled during the {event}, which covers the years {start} through {century}",
        "Two generations remembered the {event}: it commenced in {start} and was concluded in "
        "{century}",
        "This is a map of the {event}, as it progressed between {start} and {century}",
        "After the {event} failed in {start}, a second attempt was made in {century}",
        "The king supported the {event} from {start} to {century}",
        "Every document in the archive concerns the {event} and was signed between {start} and "
        "{century}",
        "In {start} the {event} had barely begun; it had been finished by {century}",
        "The merchants' income from the {event} grew steadily between {start} and {century}",
        "To finish the {event}, the council needed all the time from {start} to {century}",
        "Before the {event}, bread was cheap: a loaf cost a penny in {start} and still a penny in "
        "{century}",
        "As a result of the {event}, the gates that were shut in {start} remained shut until "
        "{century}",
        "The church bells had been silent since the {event} of {start}, and rang next in {century}",
        "How could the {event}, begun in {start}, still be unfinished in {century}",
        "The bishop opposed the {event} in {start}, but he changed his mind in {century}",
        "Harvests were poor throughout the {event}, from about {start} to about {century}",
        "Few who witnessed the {event} of {start} were still around in {century}",
    ),
    "select": (
        "That {event} went on from {start} until {century}",
        "Nobody who lived through the {event} of {start} forgot it before {century}",
        "In {start} there was talk of a {event}, settled only in {century}",
        "The town paid for the {event}, in {start} and again in {century}",
    ),
    "test": (
        "Their {event} dragged on for decades: it opened in {start} and closed in {century}",
        "We read about the {event} of {start} through {century}",
        "Historians date the {event} to the period {start} to {century}",
        "He says that the first day of the {event} was in {start}, and the final day in {century}",
        "They planned the {event} in {start}; it was over in {century}",
        "During the {event}, that is, from {start} to {century}",
        "Scholars disagree about the {event} and assign it to any decade from {start} to {century}",
        "Once approved in {start}, the {event} met with resistance until {century}",
        "A famous poem on the {event}, composed in {start}, was not printed before {century}",
        "The duke financed the {event} in {start} and regretted it by {century}",
        "Money collected for the {event} in {start} was missing by {century}",
        "That {event} had two phases, one from {start}, the other from {century}",
        "Our lecture tomorrow treats the {event}, {start}-{century}",
        "Her ancestors, wealthy before the {event} of {start}, were beggars by {century}",
        "Under the abbot's rule the {event} advanced slowly, from {start} onward, and was "
        "complete by {century}",
        "Trade suffered because of the {event}, mainly in the decades between {start} and "
        "{century}",
    ),
}
CENTURIES = {"discover": (11, 13, 15, 17), "select": (12,), "test": (14, 16)}


class Span(NamedTuple):
    """A span holds the words of one prompt.

    Attributes:
        template: Of the sentence.
        event: What lasts.
        century: Its first two digits.
        year: The last two of its beginning.
    """

    template: str
    event: str
    century: int
    year: int

    def text(self, year: int | None = None) -> str:
        """Write the prompt, with this beginning or another."""
        start = f"{self.century}{self.year if year is None else year:02d}"
        return self.template.format(event=self.event, start=start, century=self.century)


def task(tokenizer: Tokenizer, *, sizes: Sizes | None = None, seed: int = 0) -> Task:
    """Make prompts for greater-than.

    Templates, events and centuries of the three splits are disjoint. Discovery has 8 templates
    up to 64 prompts, and one more for every 8 prompts up to 32.

    Args:
        tokenizer: Of the model.
        sizes: Prompts in each split.
        seed: Of the draw; the words of a split stay the same.

    Returns:
        The task; an answer is correct if later years are likelier together than earlier ones. Its
        spans are the first `year`, the `end` and the `rest`.

    Raises:
        InputError: If the tokenizer has neither two-digit tokens nor single digits, or there are
            not as many different prompts as asked for.
    """
    sizes = read_draw(sizes, seed, suited(TEMPLATES["discover"]))
    spans = {split: _spans(tokenizer, split, getattr(sizes, split), seed) for split in SPLITS}
    width = max(len(_ids(tokenizer, span)) for part in spans.values() for span in part)
    return Task(
        "greater_than",
        "Continue a period with a year after its beginning.",
        {split: _prompts(tokenizer, part, width) for split, part in spans.items()},
        {split: tuple(map(_text, part)) for split, part in spans.items()},
    )


def following(tokenizer: Tokenizer, prompt: str) -> tuple[int, dict[int, int]]:
    """Find the tokens that may complete the year in which a prompt breaks off.

    Args:
        tokenizer: Of the model.
        prompt: Ends with the first two digits of a year.

    Returns:
        How many digits such a token has, and number → token.

    Raises:
        InputError: If the tokenizer joins them in another way.
    """
    before = tokenizer.encode(prompt, end=False)
    for digits in (2, 1):
        found = {}
        for number in range(10**digits):
            ids = tokenizer.encode(f"{prompt}{number:0{digits}d}", end=False)
            if ids[:-1] == before:
                found[number] = ids[-1]
        if len(found) == len(set(found.values())) == 10**digits:
            return digits, found
    raise InputError(
        "task greater_than",
        got=f"a tokenizer that reads {prompt!r} and the next digits as one",
        expected="tokens of two digits or of one",
        mend="This task is not for this model.",
    )


def sides(digits: int, tokens: Mapping[int, int], year: int) -> tuple[list[int], list[int]]:
    """Divide tokens that may complete a year into those of later years and of earlier ones.

    Args:
        digits: How many digits a token has, from `following`.
        tokens: Number → token, from there.
        year: The last two digits of the beginning.

    Returns:
        The tokens of years that are greater, and of those that are not. Where a token is one digit,
        years of the same ten are in neither.

    Example:
        >>> sides(1, {number: 50 + number for number in range(10)}, 72)
        ([58, 59], [50, 51, 52, 53, 54, 55, 56])
    """
    # By tens where a token is one digit; the years of the same ten are neither.
    limit = year if digits == 2 else year // 10
    later = [token for number, token in tokens.items() if number > limit]
    own = 1 if digits == 2 else 0  # the year itself is not greater
    earlier = [token for number, token in tokens.items() if number < limit + own]
    return later, earlier


def _prompts(tokenizer: Tokenizer, spans: list[Span], width: int) -> Prompts:
    later, earlier = zip(*(_sides(tokenizer, span) for span in spans), strict=True)
    made = make_prompts(
        [_ids(tokenizer, span) for span in spans],
        [_ids(tokenizer, span, 1) for span in spans],
        later,
        earlier,
        vocab_size=tokenizer.vocab_size,
        group=[span.template for span in spans],
        width=width,
    )
    return with_spans(made, *text_spans(tokenizer, list(map(_text, spans)), {"start": "year"}))


def _text(span: Span) -> Text:
    return Text(
        span.text(), span.text(1), f"after {span.year}", f"before {span.year}", span.template
    )


def _spans(tokenizer: Tokenizer, split: str, size: int, seed: int) -> list[Span]:
    """Different prompts, templates in turn."""
    rng = np.random.default_rng([seed, SPLITS.index(split)])
    parts = list(itertools.product(share(EVENTS, split), CENTURIES[split], range(20, 80)))
    made: dict[str, Span] = {}
    candidates, templates = {}, first_templates(TEMPLATES[split], size)
    for template in templates:
        drawn = (parts[i] for i in rng.permutation(len(parts)))
        spans = (Span(template, *part) for part in drawn)
        aligned = (span for span in spans if _aligned(tokenizer, span))
        own = list(itertools.islice(aligned, looked(size, templates)))
        made |= {span.text(): span for span in own}
        candidates[template] = [
            Candidate(_text(span), (span.event, span.century, span.year // 10)) for span in own
        ]
    texts = spread("greater_than", tokenizer, split, size, candidates)
    return [made[text.clean] for text in texts]


def _ids(tokenizer: Tokenizer, span: Span, year: int | None = None) -> list[int]:
    return tokenizer.encode(span.text(year), end=False)


def _aligned(tokenizer: Tokenizer, span: Span) -> bool:
    return len(_ids(tokenizer, span)) == len(_ids(tokenizer, span, 1))


def _sides(tokenizer: Tokenizer, span: Span) -> tuple[list[int], list[int]]:
    return sides(*following(tokenizer, span.text()), span.year)
