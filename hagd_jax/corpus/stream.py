"""Documents that come one after another, packed into rows; any position can be had again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import grain
import numpy as np

from hagd_jax.brief import one_line
from hagd_jax.corpus.layout import Batch, Layout
from hagd_jax.errors import InputError

Example = Mapping[str, Any]


class Documents(Protocol):
    """Documents are the part of `datasets.IterableDataset` that is used here."""

    def __iter__(self) -> Iterator[Example]:
        """The examples, from the start or from the state that was loaded."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the position after the last example."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the next `__iter__` begin at a position."""
        ...


@dataclasses.dataclass(eq=False)
class Stream(grain.IterDataset[Batch]):
    """A stream yields rows of the documents that `keep` accepts, over and over.

    As in a text of files, documents follow each other without a gap, a separator between two, and
    the last row before the end is filled up.

    Attributes:
        open: Opens the documents anew, so that iterators do not disturb each other.
        encode: Tokens of an example; none if it holds no text.
        keep: Whether the i-th document belongs to this part.
        layout: How a row begins.
    """

    open: Callable[[], Documents]
    encode: Callable[[Example], list[int]]
    keep: Callable[[int], bool]
    layout: Layout

    __repr__ = one_line

    def __post_init__(self):
        super().__init__()

    def __iter__(self) -> StreamIterator:
        return StreamIterator(self)


@dataclasses.dataclass(frozen=True)
class Place:
    """A place is a reading position between two documents.

    Attributes:
        source: State of the documents; None at their start.
        document: How many came before.
        found: Whether one of them was of this part.
        waiting: Their tokens that do not fill a row yet.
    """

    source: dict[str, Any] | None = None
    document: int = 0
    found: bool = False
    waiting: tuple[int, ...] = ()

    __repr__ = one_line


class StreamIterator(grain.DatasetIterator[Batch]):
    """Iterate over the rows of a `Stream`.

    Its state is the place before the document read last, and how many rows were given since. It
    stays small however long that document is; restoring reads it once more.

    Args:
        stream: The stream.
    """

    def __init__(self, stream: Stream):
        super().__init__()
        self._stream = stream
        self._go_to(Place())

    def __next__(self) -> Batch:
        body = self._stream.layout.body
        while len(self._waiting) < body and (self._read() or self._start_again()):
            pass
        row, self._waiting = self._waiting[:body], self._waiting[body:]
        self._given += 1
        if len(row) < body:
            self._go_to(Place())
        real = np.arange(body) < len(row)
        return self._stream.layout.rows(np.resize(row, body), real)

    def get_state(self) -> dict[str, Any]:
        """Return the position as JSON values."""
        place = dataclasses.asdict(self._before)
        return place | {"waiting": list(self._before.waiting), "given": self._given}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go to a position that `get_state` returned."""
        names = [field.name for field in dataclasses.fields(Place)]
        place, given = Place(**{name: state[name] for name in names}), int(state["given"])
        self._go_to(dataclasses.replace(place, waiting=tuple(place.waiting)))
        if given:
            self._read()
            self._waiting = self._waiting[given * self._stream.layout.body :]
            self._given = given

    def _go_to(self, place: Place) -> None:
        self._documents: Documents | None = None  # opened when the first one is read
        self._before, self._given = place, 0
        self._source, self._document, self._found = place.source, place.document, place.found
        self._waiting = np.asarray(place.waiting, np.int64)

    def _read(self) -> bool:
        """Take in the next document; False if there is none."""
        if self._documents is None:
            self._documents = self._stream.open()
            if self._source is not None:
                self._documents.load_state_dict(self._source)
            self._iterator = iter(self._documents)
        waiting = tuple(self._waiting.tolist())
        before = Place(self._source, self._document, self._found, waiting)
        example = next(self._iterator, None)
        if example is None:
            return False
        self._before, self._given = before, 0
        self._source, self._document = self._documents.state_dict(), self._document + 1
        if self._stream.keep(before.document):
            self._append(self._stream.encode(example))
        return True

    def _append(self, tokens: list[int]) -> None:
        if not tokens:
            return
        separator = self._stream.layout.separator
        between = [separator] if self._found and separator is not None else []
        self._waiting = np.concatenate([self._waiting, np.asarray(between + tokens, np.int64)])
        self._found = True

    def _start_again(self) -> bool:
        """At the end of the documents, begin again unless tokens are left for one more row."""
        if len(self._waiting):
            return False
        if not self._found:
            raise InputError(
                "stream of documents",
                got=f"no text in this part of {self._document} documents",
                expected="some",
                mend="Use more documents, or another share to hold out (held_out).",
            )
        self._go_to(Place())
        return True
