"""Regular expressions of tokenizers: those that are published pass, those that hang do not."""

import json
import time

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from hagd_jax.errors import CheckpointError, InputError
from hagd_jax.files.patterns import require_pattern
from hagd_jax.models import Tokenizer
from hagd_jax.models.gguf import tokenizer as gguf_tokenizer

# Of tokenizer.json files on the hub: GPT-4o's and Mistral's, DeepSeek's, BLOOM's, Gemma's, CLIP's.
PUBLISHED = [
    *(cut for cuts in gguf_tokenizer._CUTS.values() for cut in cuts),
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+",
    r" {2,}",
    r"<\|startoftext\|>|<\|endoftext\|>|'s|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    r"\d{1,3}(?=(?:\d{3})*\b)",
    "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
    r"(?i)'s|'t|'re|\p{L}+",
]
HANGS = [
    *("(a+)+b", "(a|a)*b", "(?:a*)*b", "((a)+b?)*c", "(a?){500}b", r"\s*\s*\s*x", "(?:a|b|ab)+c"),
    *(r"(a)\1+", r"(?<n>a)\k<n>", "a**b", "a{2}{3}*b", "(?:a+){2,}b", "a" * 9000, "a{1000000}"),
    *("a?" * 28 + "a" * 28, "(?:a|a)" * 26 + "x", "a{0,1000}" * 5 + "b", "a{,99}" * 3 + "b"),
    *(
        "(?:a?)" * 28 + "a" * 28,
        "a{1,9}" * 8 + "b",
        "(?:a?a?a?a?|a){1}" * 9 + "b",
        "a?" * 9 + "a*x",
    ),
    *("a*a*(?i)b|a*c", "(?:a*(?i)a*)a*c", "(?i)" + "a?" * 28, "(?:(?:a|a|a|a)?)" * 9 + "x"),
    *("(?=a*a*a*)b", "(?x) (a+ # )\n)+", "(a+", ")", "(?(1)a|b)", "((((a*)*)*)*)", "(?~a)"),
]


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_patterns_of_published_tokenizers_pass(pattern):
    require_pattern(pattern)
    tokenizers.Regex(pattern)


@pytest.mark.parametrize("pattern", [each for each in HANGS if each != "(a+"])
def test_patterns_that_may_take_long_are_refused(pattern):
    with pytest.raises(CheckpointError, match="bounded time"):
        require_pattern(pattern)


def test_a_tokenizer_with_such_a_pattern_is_refused_before_it_is_built(tmp_path):
    split = pre_tokenizers.Split(tokenizers.Regex("a+b"), "isolated")
    native = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    native.pre_tokenizer = split
    record = json.loads(native.to_str())
    assert Tokenizer(json.dumps(record)).vocab_size == 1
    record["pre_tokenizer"]["pattern"]["Regex"] = "(a+)+b"
    with pytest.raises(CheckpointError, match=r"pattern '\(a\+\)\+b': got a repeated group"):
        Tokenizer(json.dumps(record))


def test_a_text_that_a_pattern_takes_too_long_for_is_refused_by_name():
    """The engine stops after ten million steps at one place, and the library's Rust panics."""
    native = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, "a"))
    slow = tokenizers.Regex("a?" * 28 + "a" * 28)
    native.pre_tokenizer = pre_tokenizers.Split(slow, "isolated")
    # An object of the library is not parsed, so no pattern of it has been refused.
    tokenizer = Tokenizer.from_native(native)
    assert tokenizer.encode("aaaa") == [0]
    long = "a" * 28
    for encode in (tokenizer.encode, lambda text: tokenizer.encode_batch(["a", text])):
        with pytest.raises(InputError, match=r"text: got 'aaa.*retry-limit"):
            encode(long)
    assert tokenizer.encode("aaaa") == [0]


PIECES = [
    *("a", "b", r"\s", "[ab]", "(", "(?:", ")", "|", "*", "+", "?", "{2}", "{2,}", "(?=", "[^a"),
    *("a?" * 9, "(?:a|a)" * 9, "{0,99}", "{,9}", "(?i)", "(?:a?|a)" * 5),
]


@settings(max_examples=150)
@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_what_passes_ends_soon(pattern):
    """Where the engine takes it; 300 letters take an exponential one for ever."""
    try:
        require_pattern(pattern)
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
    except Exception:  # the library raises nothing narrower
        return
    began = time.perf_counter()
    split.pre_tokenize_str("a" * 300 + "c")
    assert time.perf_counter() - began < 2
