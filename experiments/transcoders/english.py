"""Make an English corpus from Debian packages: text files to train transcoders on offline.

    sudo apt-get install debian-handbook python3.11-doc dict-gcide fortunes
    python -m experiments.transcoders.english runs/english

Takes about 15 seconds. Expected, with all four packages of Debian 12 (bookworm): 5,000 documents of
4,000 characters or a little more, 26 million characters, 7.3 million tokens of SmolLM2.

The script uses those of the packages that are installed. Markup is stripped; the dictionary also
loses its pronunciations and source tags, and is thinned to half of the corpus, since it is twice as
long as the rest. A document gathers whole sections, entries or sayings until it has about 4,000
characters. A file's name begins with a hash, so that sorting by name mixes the sources, and any
slice of the files, held out or trained on, holds the same kinds of text. The same packages give the
same bytes.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import html.parser
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from tyro.conf import Positional

from experiments.common.script import run
from hagd_jax.errors import InputError, MissingDependencyError

LENGTH = 4_000  # characters of a document, about
DICTIONARY = "dict-gcide"
INSTALL = "sudo apt-get install debian-handbook python3.11-doc dict-gcide fortunes"

Documents = dict[str, str]


@dataclasses.dataclass(frozen=True)
class Config:
    """Config holds the settings for making an English corpus.

    Attributes:
        folder: Folder for the text files; must be empty, created if absent.
        share: Folder in which Debian packages keep architecture-independent files.
    """

    folder: Positional[Path]
    share: Path = Path("/usr/share")


def main(config: Config) -> None:
    """Write the corpus, and print the documents and characters of each source."""
    sources, folder = corpus(config.share), config.folder
    if not sources:
        raise MissingDependencyError(
            "a corpus of English", got=f"no text of {', '.join(READERS)} in {config.share}",
            expected="one of these packages", mend=f"Install with: {INSTALL}",
        )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise InputError(
            str(folder), got="a folder with files", expected="an empty folder",
            mend="Name another folder, or empty it.",
        )  # fmt: skip
    for name, documents in sources.items():
        for place, text in documents.items():
            (folder / f"{_hash(place)}-{place}.txt").write_text(text, "utf-8")
        print(_line(name, documents.values()))
    print(_line("all", [text for some in sources.values() for text in some.values()]))


def corpus(share: Path) -> dict[str, Documents]:
    """Return the documents of each installed package, with the dictionary thinned."""
    found = {name: gather(name, read(share)) for name, read in READERS.items()}
    found = {name: documents for name, documents in found.items() if documents}
    rest = sum(size(documents) for name, documents in found.items() if name != DICTIONARY)
    if DICTIONARY in found and rest:
        found[DICTIONARY] = thin(found[DICTIONARY], rest)
    return found


def size(documents: Documents) -> int:
    """Return the total number of characters."""
    return sum(map(len, documents.values()))


def gather(name: str, units: Iterable[str]) -> Documents:
    """Join whole units into documents of at least `LENGTH` characters.

    Example:
        >>> list(gather("a", ["x" * 3000, "y" * 3000, "z"]))
        ['a-00000', 'a-00001']
    """
    texts, waiting, length = [], [], 0
    for unit in units:
        waiting.append(unit)
        length += len(unit)
        if length >= LENGTH:
            texts.append("\n\n".join(waiting) + "\n")
            waiting, length = [], 0
    if waiting:
        texts.append("\n\n".join(waiting) + "\n")
    return {f"{name}-{i:05d}": text for i, text in enumerate(texts)}


def thin(documents: Documents, characters: int) -> Documents:
    """Keep documents at regular intervals, with about `characters` characters in all."""
    share = characters / size(documents)
    return {
        place: text
        for i, (place, text) in enumerate(documents.items())
        if int((i + 1) * share) > int(i * share) or share >= 1
    }


def handbook(share: Path) -> Iterator[str]:
    """Yield the sections of the Debian Administrator's Handbook."""
    for page in sorted(share.glob("doc/debian-handbook/html/en-US/*.html")):
        if page.stem != "index":
            yield from sections(page)


def python(share: Path) -> Iterator[str]:
    """Yield the sections of Python's documentation, without its indices and changelog."""
    folder = share / "doc/python3.11/html"
    for page in sorted(folder.rglob("*.html")):
        if not re.match(r"_|genindex|contents|search|py-modindex|whatsnew/changelog", page.stem):
            yield from sections(page)


def dictionary(share: Path) -> Iterator[str]:
    """Yield the entries of the Collaborative International Dictionary of English."""
    file = share / "dictd/gcide.dict.dz"
    if not file.exists():
        return
    text = gzip.decompress(file.read_bytes()).decode("utf-8", "replace")
    # An entry begins in the first column; the first ones describe the file.
    for entry in re.split(r"\n+(?=\S)", text):
        if not entry.startswith("00-database"):
            yield plain_entry(entry)


def fortunes(share: Path) -> Iterator[str]:
    """Yield the sayings of the package fortunes."""
    for file in sorted(share.glob("games/fortunes/*")):
        if file.suffix == "" and file.name not in ("art", "ascii-art", "translate-me"):
            # Bold and underlined text is written as a character, a backspace and a character.
            text = re.sub(".\b", "", file.read_text("utf-8", "replace"))
            yield from filter(None, (saying.strip("\n") for saying in text.split("\n%\n")))


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    "debian-handbook": handbook,
    "python3.11-doc": python,
    DICTIONARY: dictionary,
    "fortunes": fortunes,
}


def plain_entry(entry: str) -> str:
    r"""Convert a dictionary entry to plain text, with one line per paragraph.

    Example:
        >>> plain_entry("Cafe \\Ca`fe'\\, n. [F. caf['e].]\n   A {house}\n   [1913 Webster]")
        'Cafe, n. [F. café.] A house'
    """
    entry = re.sub(r"\s*\\[^\\]*\\", "", entry, count=1)  # how it is pronounced
    entry = re.sub(r"\s*\[(?:[^\][]*\b)?(?:Webster|WordNet|PJC)\b[^\][]*\]", "", entry)
    entry = re.sub(r"\[([`'^\"~=,.-])([A-Za-z])\]", lambda m: _accented(m[2], m[1]), entry)
    entry = re.sub(r"\[([A-Za-z])\^\]", lambda m: _accented(m[1], "short"), entry)
    entry = re.sub(r"\[(ae|oe|AE|OE)\]", lambda m: _LIGATURES[m[1].lower()], entry)
    paragraphs = re.split(r"\n\s*\n", entry.replace("{", "").replace("}", ""))
    return "\n".join(filter(None, (" ".join(p.split()) for p in paragraphs)))


_ACCENTS = {"`": "\u0300", "'": "\u0301", "^": "\u0302", "~": "\u0303", "=": "\u0304"}
_ACCENTS |= {"-": "\u0304", "short": "\u0306", ".": "\u0307", '"': "\u0308", ",": "\u0327"}
_LIGATURES = {"ae": "æ", "oe": "œ"}


def _accented(letter: str, accent: str) -> str:
    return unicodedata.normalize("NFC", letter + _ACCENTS[accent])


def sections(page: Path) -> list[str]:
    """Return the sections of a page, each a heading with the text up to the next heading."""
    reader = _Page()
    reader.feed(page.read_text("utf-8", "replace"))
    reader.close()
    text = re.sub(r"[ \t]+\n", "\n", "".join(reader.text))
    text = re.sub(r"\n{3,}", "\n\n", text)
    return [section for s in text.split("\f") if (section := s.strip())]


class _Page(html.parser.HTMLParser):
    """_Page extracts the text of a page's body, with a form feed before each heading."""

    # Attributes of the element that holds the body, in the two books.
    BODY = (
        ("role", "main"),
        *(("class", c) for c in ("section", "chapter", "preface", "appendix")),
    )

    HEADINGS = ("h1", "h2", "h3", "h4")
    BLOCKS = (*HEADINGS, "p", "div", "li", "dt", "dd", "pre", "tr", "table", "ul", "ol", "dl")
    UNSEEN = (("class", "headerlink"), ("class", "toc"), ("class", "docnav"), ("class", "contents"))

    def __init__(self):
        super().__init__()
        self.text: list[str] = []
        # The name of the element that began the body, or a hidden part, and how many elements of
        # that name are open since.
        self.body: tuple[str, int] | None = None
        self.hidden: tuple[str, int] | None = None
        self.preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {(key, word) for key, value in attrs for word in (value or "").split()}
        if self.body is None:
            self.body = (tag, 1) if tag == "div" and not named.isdisjoint(self.BODY) else None
            return
        self.body = _opened(self.body, tag)
        if self.hidden is not None:
            self.hidden = _opened(self.hidden, tag)
        elif tag in ("script", "style") or not named.isdisjoint(self.UNSEEN):
            self.hidden = (tag, 1)
        elif tag in self.HEADINGS:
            self.text.append("\f")
        elif tag in self.BLOCKS or tag == "br":
            self._break(tag)
        self.preformatted += tag == "pre"

    def handle_endtag(self, tag: str) -> None:
        if self.body is None:
            return
        self.body = _closed(self.body, tag)
        if self.hidden is not None:
            self.hidden = _closed(self.hidden, tag)
        elif tag in self.BLOCKS:
            self._break(tag)
        self.preformatted -= tag == "pre"

    def handle_data(self, data: str) -> None:
        if self.body is None or self.hidden is not None:
            return
        if not self.preformatted:
            data = re.sub(r"\s+", " ", data)
            if not self.text or self.text[-1][-1] in " \n\f":
                data = data.lstrip()
        if data:
            self.text.append(data)

    def _break(self, tag: str) -> None:
        self.text.append("\n" if tag in ("li", "tr", "dt", "br") else "\n\n")


def _opened(element: tuple[str, int], tag: str) -> tuple[str, int]:
    return (element[0], element[1] + (tag == element[0]))


def _closed(element: tuple[str, int], tag: str) -> tuple[str, int] | None:
    left = element[1] - (tag == element[0])
    return (element[0], left) if left else None


def _hash(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:8]


def _line(name: str, texts: Iterable[str]) -> str:
    lengths = [len(text) for text in texts]
    return f"{name:<16}{len(lengths):>7,} documents {sum(lengths):>12,} characters"


if __name__ == "__main__":
    run(main, Config, __doc__)
