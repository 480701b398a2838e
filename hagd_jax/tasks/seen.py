"""What a result was chosen by looking at, so that a judge can decide on something else."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from typing import Annotated, Any, Protocol

import jax
import numpy as np
from msgspec import Meta

from hagd_jax.brief import quoted
from hagd_jax.errors import InputError, require_is, require_list, shown
from hagd_jax.files import checked
from hagd_jax.models import LanguageModel
from hagd_jax.models.digest import digest
from hagd_jax.tasks.prompts import Prompts

# Digits of a prompt's digest: two of 10,000 distinct prompts share one in 1% of the cases.
_DIGITS = 8
_Texts = Annotated[tuple[Annotated[str, Meta(min_length=1)], ...], Meta(max_length=10**7)]
_SETS = (
    "ablations", "splits", "prompts", "others", "tasks", "models", "dictionaries"
)  # fmt: skip


class Labelled(Protocol):
    """Anything with a label, such as a `units.Dictionary`, has this interface."""

    @property
    def label(self) -> str:
        """Return the label."""
        ...


@dataclasses.dataclass(frozen=True, repr=False)
class Seen:
    """A record lists the data that decided a result; a method adds to it and never removes.

    A judge does not decide on ablations and prompts that are in it. The union `a | b` is what a
    result has seen that was made from two others. Unknown is kept by every union: a result made
    from one whose history is unknown has an unknown history, whatever else is known of it.

    Attributes:
        known: Whether this is all that was seen. A circuit file written before this was recorded
            reads as unknown, and a circuit with an unknown history is never accepted. A record of
            ablations or splits without prompts is not all: it is unknown, too.
        ablations: Values that replaced ablated units, such as `counterfactual`.
        splits: Names of splits, for reports; the prompts themselves decide.
        prompts: Digests of prompts, see `prompt_digests`.
        others: Digests of what else was read: prompts up to where they are read, see `as_read`,
            and counterfactuals.
        tasks: Names of tasks.
        models: Names and digests of models, NAME#1a2b3c4d.
        dictionaries: Labels of dictionaries; those of transcoders end with a digest.

    Raises:
        InputError: If a field is not a collection of non-empty texts, or a prompt is not a digest.

    Example:
        >>> one = Seen(ablations=["mean"], splits=["discover"], prompts=["00c0ffee"])
        >>> one | Seen(ablations=["counterfactual"], prompts=["00000001"])
        Seen(ablations counterfactual, mean; 2 prompts of discover)
        >>> (one | Seen.unknown()).known
        False
    """

    known: bool = True
    ablations: _Texts = ()
    splits: _Texts = ()
    prompts: _Texts = ()
    others: _Texts = ()
    tasks: _Texts = ()
    models: _Texts = ()
    dictionaries: _Texts = ()

    def __post_init__(self):
        if not isinstance(self.known, bool):
            raise InputError("known of Seen", got=quoted(self.known), expected="True or False")
        for name in _SETS:
            object.__setattr__(self, name, _texts(name, getattr(self, name)))
        if (self.ablations or self.splits) and not self.prompts:
            object.__setattr__(self, "known", False)
        for prompt in (*self.prompts, *self.others):
            if not re.fullmatch(f"[0-9a-f]{{{_DIGITS}}}", prompt):
                raise InputError("prompts of Seen", got=quoted(prompt),
                                 expected=f"digests of {_DIGITS} hexadecimal digits",
                                 mend="Use prompt_digests(prompts).")  # fmt: skip

    @classmethod
    def nothing(cls) -> Seen:
        """Return the record of a result that no data decided."""
        return cls()

    @classmethod
    def unknown(cls) -> Seen:
        """Return the record of a result whose history is not known."""
        return cls(known=False)

    def __or__(self, other: Seen) -> Seen:
        """What was seen by either."""
        if not isinstance(other, Seen):
            return NotImplemented
        both = {name: (*getattr(self, name), *getattr(other, name)) for name in _SETS}
        return Seen(self.known and other.known, **both)

    def has(self, prompts: Prompts) -> np.ndarray:
        """Tell which prompts are among those seen, as prompts or as counterfactuals.

        Args:
            prompts: N prompts. See `as_read` for those of a causal model.

        Returns:
            (N,) bool on the host.
        """
        mine = {*self.prompts, *self.others}
        return np.array([each in mine for each in prompt_digests(prompts)], bool)

    def to_json(self) -> dict[str, Any]:
        """Return plain values that `from_json` reads."""
        return {"known": self.known} | {name: list(getattr(self, name)) for name in _SETS}

    @classmethod
    def from_json(cls, record: Any) -> Seen:
        """Read what `to_json` returned.

        Args:
            record: The value, or None where a file has none: then nothing is known.

        Returns:
            What was seen.

        Raises:
            InputError: If it is something else.

        Example:
            >>> Seen.from_json(None) == Seen.unknown()
            True
        """
        if record is None:
            return cls.unknown()
        fields = {"known", *_SETS}
        if isinstance(record, dict) and set(record) == fields - {"others"}:
            record = record | {"known": False, "others": []}  # from before they were kept
        if not isinstance(record, dict) or set(record) != fields:
            raise InputError("seen", got=quoted(record), expected=f"the fields {sorted(fields)}")
        return checked(cls, record, "seen", error=InputError)

    def __repr__(self) -> str:
        count, of = len(self.prompts), f" of {', '.join(self.splits)}" if self.splits else ""
        parts = [f"ablations {', '.join(self.ablations)}"] if self.ablations else []
        parts += [f"{count} prompt{'s' * (count != 1)}{of}"] if count or of else []
        parts += [", ".join(x) for x in (self.tasks, self.models, self.dictionaries) if x]
        parts += [] if self.known else ["the rest unknown" if parts else "unknown"]
        return f"Seen({'; '.join(parts) or 'nothing'})"


def look(
    prompts: Prompts | None = None,
    *,
    ablation: str | Iterable[str] = (),
    split: str = "",
    task: str = "",
    model: LanguageModel | None = None,
    dictionary: Labelled | str | None = None,
) -> Seen:
    """Record what a method has seen that read these prompts.

    Args:
        prompts: The prompts that were read, or None for none.
        ablation: The ablation that the finder measured with, or several of them. Gradients from
            the counterfactual to the clean prompt have seen `counterfactual`.
        split: The prompts' split, if they are of one.
        task: The task's name.
        model: The model that read them.
        dictionary: The dictionary whose units were looked at, or its label.

    Returns:
        What was seen.

    Raises:
        InputError: If a value has another type.

    Example:
        >>> from hagd_jax.tasks import make_prompts
        >>> prompts = make_prompts([[1, 2], [3]], [[1, 4], [5]], [6, 7], [8, 9], vocab_size=10)
        >>> look(prompts, ablation="counterfactual", split="discover", dictionary="neurons")
        Seen(ablations counterfactual; 2 prompts of discover; neurons)
    """
    if prompts is not None:
        require_is("prompts", prompts, Prompts)
    if model is not None:
        require_is("model", model, LanguageModel)
    if dictionary is not None and not isinstance(getattr(dictionary, "label", dictionary), str):
        raise InputError("dictionary", got=shown(dictionary), expected="a dictionary or its label")
    if not isinstance(ablation, str):
        ablation = require_list("ablation", ablation, "the name of an ablation, or several")
    label = dictionary if isinstance(dictionary, str | None) else dictionary.label
    return Seen(
        ablations=(ablation,) if isinstance(ablation, str) else tuple(ablation),
        splits=(split,) if split else (),
        prompts=() if prompts is None else prompt_digests(prompts),
        others=() if prompts is None else _other_digests(prompts),
        tasks=(task,) if task else (),
        models=() if model is None else (f"{model.name}#{digest(model)}",),
        dictionaries=(label,) if label else (),
    )


def prompt_digests(prompts: Prompts) -> tuple[str, ...]:
    """Hash the clean tokens of each prompt, without padding.

    The same prompt has the same digest in any batch, width, split, dtype and task. Prompts that
    are answered by choosing have one digest each, of all their rows in any order.

    Args:
        prompts: N prompts, or N `Choices`.

    Returns:
        N texts of eight hexadecimal digits.

    Example:
        >>> from hagd_jax.tasks import make_prompts
        >>> rows, other = [[1, 2], [3], [1, 2]], [[1, 4], [5], [1, 5]]
        >>> one, two, three = prompt_digests(
        ...     make_prompts(rows, other, [6, 7, 6], [8, 9, 8], vocab_size=10))
        >>> one == three, one == two
        (True, False)
    """
    require_is("prompts", prompts, Prompts)
    tokens, lengths = _rows(prompts)
    rows = [row[:n].tobytes() for row, n in zip(tokens, lengths, strict=True)]
    each = len(rows) // max(len(prompts), 1)
    found = []
    for start in range(0, len(rows), each or 1):
        state = hashlib.blake2b(digest_size=_DIGITS // 2)
        for row in sorted(rows[start : start + each]):
            state.update(len(row).to_bytes(8, "little") + row)
        found.append(state.hexdigest())
    return tuple(found)


def as_read(prompts: Prompts) -> Prompts:
    """Cut prompts off behind the last position that is read, as a causal model sees them.

    What follows there cannot change its answer. Rows of the same tokens are cut at the last of
    their positions. Prompts that are answered by choosing are read to their end.

    Args:
        prompts: N prompts.

    Returns:
        The same, with shorter `length`s.

    Example:
        >>> from hagd_jax.tasks import make_prompts
        >>> prompts = make_prompts([[1, 2, 3]], [[1, 4, 3]], [6], [8], position=[1], vocab_size=10)
        >>> as_read(prompts).length
        array([2], dtype=int32)
    """
    require_is("prompts", prompts, Prompts)
    position, length = np.asarray(prompts.position), np.asarray(prompts.length)
    if position.ndim != 1 or length.shape != position.shape:
        return prompts
    last: dict[str, int] = {}
    keys = prompt_digests(prompts)
    for key, place in zip(keys, position.tolist(), strict=True):
        last[key] = max(last.get(key, 0), place + 1)
    cut = np.minimum(length, [last[key] for key in keys]).astype(np.int32)
    return dataclasses.replace(prompts, length=cut)


def _other_digests(prompts: Prompts) -> tuple[str, ...]:
    """Digests of prompts as a causal model reads them, and of counterfactuals."""
    swapped = dataclasses.replace(prompts, clean=prompts.corrupted)
    read, other = prompt_digests(as_read(prompts)), prompt_digests(as_read(swapped))
    return (*(set(read) - set(prompt_digests(prompts))), *prompt_digests(swapped), *other)


def distinct(prompts: Prompts) -> Prompts:
    """Keep the first copy of each prompt, in order.

    Args:
        prompts: N prompts.

    Returns:
        As many as are distinct.
    """
    first = {key: row for row, key in reversed(list(enumerate(prompt_digests(prompts))))}
    rows = np.array(sorted(first.values()), int)
    return jax.tree.map(lambda x: np.asarray(x)[rows], prompts)


def _rows(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
    """(R, T) tokens and (R,) lengths; malformed prompts are refused."""
    try:
        tokens, lengths = np.asarray(prompts.inputs()), np.asarray(prompts.row_length)
        whole = all(np.issubdtype(x.dtype, np.integer) for x in (tokens, lengths))
        if whole and tokens.ndim == 2 and lengths.shape == tokens.shape[:1]:
            return tokens.astype("<i8"), lengths
    except (AttributeError, TypeError, ValueError, IndexError):
        pass
    raise InputError("prompts", got="arrays that do not fit each other",
                     expected="(N, T) tokens and (N,) lengths, whole numbers",
                     mend="Use make_prompts.")  # fmt: skip


def _texts(name: str, values: Any) -> tuple[str, ...]:
    """Sorted, none twice."""
    good = isinstance(values, Iterable) and not isinstance(values, str)
    listed = list(values) if good else []
    if not good or not all(isinstance(value, str) and value for value in listed):
        raise InputError(f"{name} of Seen", got=quoted(values),
                         expected="a collection of texts, none of them empty")  # fmt: skip
    return tuple(sorted(set(listed)))
