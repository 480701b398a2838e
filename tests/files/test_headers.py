"""Arrays and tokenizers from outside: what a header claims is asked before memory is."""

import dataclasses
import io
import json
import struct
import time
import zipfile
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Meta
from safetensors.numpy import load as native
from safetensors.numpy import save

from hagd_jax.errors import CheckpointError, ConfigError
from hagd_jax.files import checked, parse_npz, read_arrays, require_tokenizer, safetensors_header
from hagd_jax.models import Tokenizer

from .mutations import ODD, changed, damaged, mutated, outcome

ARRAYS = {"a": np.arange(6, dtype=np.int32).reshape(2, 3), "b": np.ones(2, np.float16)}


def tensors(header: Any, body: bytes = b"\0" * 28) -> bytes:
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    return struct.pack("<Q", len(text)) + text + body


HEADER = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "I32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "F16", "shape": [2], "data_offsets": [24, 28]},
}


@settings(max_examples=150)
@given(damaged(save(ARRAYS)) | changed(HEADER).map(tensors) | mutated(HEADER).map(tensors))
def test_a_mutated_file_of_tensors_is_refused_or_what_the_library_reads(tmp_path_factory, raw):
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    path.write_bytes(raw)
    found, said = outcome(lambda: read_arrays(path))
    if said:
        assert "mutated.safetensors" in said
        return
    theirs = native(raw)
    assert found[0].keys() == theirs.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(found[0][name], array)
        assert found[0][name].dtype == array.dtype


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "no header"),
        (struct.pack("<Q", 2**63) + b"{}", "a header of 9,223,372,036,854,775,808"),
        (tensors({"a": {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 28]}}),
         "4,835,703,278,458,516,698,824,704 bytes from 0 on"),
        (tensors({"a": {"dtype": "F32", "shape": [7], "data_offsets": [0, 2**40]}}), "28 bytes"),
        (tensors({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}), "true"),
        (tensors({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}), "from 0 on"),
        (tensors({"a": {"dtype": "U8", "shape": [27], "data_offsets": [0, 27]}}), "28 bytes of"),
        (tensors(b'{"a": {}, "a": 1}'), "the name 'a' twice"),
        (tensors(b"[" * 500), "levels"),
        (tensors({"__metadata__": {"a": 1}}, b""), "expected a text"),
        (tensors([]), "expected a mapping"),
    ],
)  # fmt: skip
def test_what_a_header_cannot_claim(tmp_path, raw, said):
    (tmp_path / "a").write_bytes(raw)
    with pytest.raises(CheckpointError, match=said.replace("true", "got True")):
        safetensors_header(tmp_path / "a")


def archive(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        for name, raw in members.items():
            file.writestr(f"{name}.npy", raw)
    return made.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    made = io.BytesIO()
    np.savez_compressed(made, **arrays)
    return made.getvalue()


def array(header: str, body: bytes = b"") -> bytes:
    text = header.encode("latin1") + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@settings(max_examples=100)
@given(
    st.lists(st.sampled_from("?bhilqBHILQefdFD"), min_size=1, max_size=3),
    st.lists(st.integers(0, 3), max_size=3),
    st.booleans(),
)
def test_numpy_reads_the_same_arrays(codes, shape, fortran):
    arrays = {
        code: np.asarray(np.arange(np.prod(shape)).reshape(shape), code, order="CF"[fortran])
        for code in codes
    }
    for name, found in parse_npz(npz(**arrays), "x").items():
        np.testing.assert_array_equal(found, arrays[name])
        assert found.dtype == arrays[name].dtype
        assert found.flags.writeable


@settings(max_examples=100)
@given(damaged(npz(**ARRAYS)))
def test_a_mutated_archive_is_refused_or_keeps_its_arrays(raw):
    found, said = outcome(lambda: parse_npz(raw, "x.npz", most=10**6))
    for name, held in (found or {}).items():
        # A name may be another: only arrays have a checksum.
        assert any(np.array_equal(held, one) and held.dtype == one.dtype for one in ARRAYS.values())
        assert isinstance(name, str)
    assert found is not None or "x.npz" in said


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"PK\x03\x04", "not a zip file"),
        (archive(a=b"\0" * 10**7), "10,000,000 bytes unpacked"),
        (archive(a=array(GOOD % "1000000000000,")), "0 bytes for shape .1000000000000,. of"),
        (archive(a=array(GOOD % "2, 2", b"\0" * 12)), "12 bytes for shape"),
        (archive(a=array(GOOD.replace("<f4", "|O") % "1,", b"\0" * 8)), "another kind"),
        (archive(a=array("__import__('os')")), "another kind"),
        (archive(a=array("(" * 5000)), "another kind"),
        (archive(a=array(GOOD % ("1," * 40), b"\0" * 4)), "expected as many"),
        (archive(a=b"\x80\x04."), "no NumPy array"),
    ],
)  # fmt: skip
def test_archives_that_would_grow_or_run_are_refused(raw, said):
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=said):
        parse_npz(raw, "x.npz", most=10**6)
    assert time.monotonic() - began < 1


WORDS = json.loads(Tokenizer.words(["a", "b", "c"]).json)


@settings(max_examples=80)
@given(mutated(WORDS))
def test_a_mutated_tokenizer_is_refused_or_used(raw):
    """A panic of the native library is no Exception; one that aborts would end this process."""
    found, _ = outcome(lambda: Tokenizer.from_json(raw.decode(errors="replace")))
    if found is not None:
        outcome(lambda: found.encode("a b c"))
        assert found.vocab_size <= 2**22


def added(id: Any) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": "<x>", "special": True, **flags}


@pytest.mark.parametrize("id", [10**9, 2**31, 2**22, -1, True, 1.0, "1", None])
def test_ids_that_no_vocabulary_has_never_reach_native_code(id):
    vocab = {"model": WORDS["model"] | {"vocab": {"a": 0, "b": id}}}
    for change in (vocab, {"added_tokens": [added(id)]}):
        began = time.monotonic()
        with pytest.raises(CheckpointError, match=r"id of token '(b|<x>)': got"):
            Tokenizer.from_json(json.dumps(WORDS | change))
        assert time.monotonic() - began < 2


def test_steps_of_a_tokenizer_are_bounded():
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 70_000}
    with pytest.raises(CheckpointError, match="70,000 characters"):
        require_tokenizer(json.dumps(WORDS | {"normalizer": step}))
    steps = {"type": "Sequence", "normalizers": [{"type": "Lowercase"}] * 2000}
    with pytest.raises(CheckpointError, match="more than 1,000 steps"):
        require_tokenizer(json.dumps(WORDS | {"normalizer": steps}))
    with pytest.raises(CheckpointError, match="numbers of a tokenizer"):
        require_tokenizer(json.dumps(WORDS | {"padding": {"strategy": {"Fixed": 10**12}}}))


@dataclasses.dataclass(frozen=True)
class Made:
    """A record."""

    kind: Literal["one", "two"]
    size: Annotated[int, Meta(ge=1, le=9)]
    scores: tuple[float, ...] = ()
    names: dict[str, Annotated[str, Meta(max_length=3)]] = dataclasses.field(default_factory=dict)


MADE = {"kind": "one", "size": 3, "scores": [1, 2.5], "names": {"a": "b"}}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"size": 0}, "r: size: got 0; expected an integer >= 1"),
        ({"size": True}, "r: size: got True; expected an integer"),
        ({"size": 1.0}, "r: size: got 1.0; expected an integer"),
        ({"size": "3"}, "r: size: got '3'; expected an integer"),
        ({"scores": [1, True]}, r"r: scores\[1\]: got True; expected a number"),
        ({"scores": None}, "r: scores: got None; expected a list"),
        ({"kind": "x"}, "r: kind: got 'x'; expected a value that is known"),
        ({"names": {"a": "b" * 999}}, "r: names.*; expected a text of length <= 3"),
        ({"more": 1}, "r: got the field 'more'; expected only kind, names, scores, size"),
    ],
)
def test_a_schema_names_field_value_and_what_was_expected(change, said):
    assert checked(Made, MADE, "r") == Made("one", 3, (1.0, 2.5), {"a": "b"})
    with pytest.raises(ConfigError, match=f"^{said}"):
        checked(Made, MADE | change, "r", error=ConfigError)
    with pytest.raises(ConfigError, match=r"r: got no field .size.; expected every required field"):
        checked(Made, {"kind": "one"}, "r", error=ConfigError)


@settings(max_examples=100)
@given(changed(MADE), ODD)
def test_whatever_a_record_says_it_fits_or_is_refused(value, odd):
    found, said = outcome(lambda: checked(Made, value, "r"))
    assert found is None or (1 <= found.size <= 9 and type(found.size) is int)
    assert found is not None or said.startswith("r: ")
