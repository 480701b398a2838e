"""WinoGrande (Sakaguchi et al., 2019, arXiv:1907.10641): which of two referents fills the gap?

As by Trinh & Le (2018), the words after the gap are scored with either referent in it. The
counterfactual exchanges the referents everywhere else in the sentence, so that the other one is
right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hagd_jax.tasks.benchmarks.items import Item, number_of, text_of
from hagd_jax.tasks.benchmarks.rows import Skipped

_LONGEST_OPTION = 200
# The official id of a row: the same for both twins, but for the number at its end.
_TWIN = re.compile(r"(.+)-\d")


def winogrande(row: Mapping[str, Any]) -> Item:
    """Read one row of WinoGrande.

    Twins share words, so they are one group: rows of one official id, or, where ids are others,
    rows of the same two options.

    Args:
        row: With `sentence`, `option1`, `option2`, `answer` ("1" or "2") and perhaps `qID`.

    Returns:
        The item.

    Raises:
        Skipped: If something is missing or does not fit, saying what.

    Example:
        >>> row = {"sentence": "The cup broke the plate as _ fell.", "option1": "cup"}
        >>> winogrande(row | {"option2": "plate", "answer": "1"}).others[0]
        'The plate broke the cup as cup fell.'
    """
    sentence, *options = (text_of(row, name) for name in ("sentence", "option1", "option2"))
    answer = number_of(row, "answer", 1, 2) - 1
    if sentence.count("_") != 1:
        raise Skipped(f"{sentence.count('_')} gaps in the sentence, not 1")
    if options[0] == options[1]:
        raise Skipped("both options are the same")
    before, after = sentence.split("_")
    if not after.strip():
        raise Skipped("nothing after the gap")
    official = _TWIN.fullmatch(str(row.get("qID") or ""))
    group = official[1] if official else "|".join(sorted(option.lower() for option in options))
    # The harness puts a blank before the scored words, also before "'s".
    end = f" {after.strip()}"
    others, lacks = _exchanged(sentence, options)
    return Item(
        group, tuple(before + option for option in options), (end, end), others, answer,
        tuple(options), lacks,
    )  # fmt: skip


def _exchanged(sentence: str, options: list[str]) -> tuple[tuple[str, ...], str]:
    """The sentence with the referents exchanged, once with either in the gap; or why not."""
    if max(map(len, options)) > _LONGEST_OPTION:
        # Two long options that begin alike would be looked for in quadratic time.
        return (), f"an option of more than {_LONGEST_OPTION} characters"
    words = re.compile("|".join(rf"\b{re.escape(o)}\b" for o in sorted(options, key=len)[::-1]))
    if set(words.findall(sentence)) != set(options):
        return (), "an option is not in the sentence, so referents cannot be exchanged"
    exchanged = words.sub(lambda found: options[found[0] == options[0]], sentence)
    before, _, after = exchanged.partition("_")
    return tuple(f"{before}{option} {after.strip()}" for option in options), ""
