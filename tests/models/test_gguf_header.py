"""The header parser: right on good files, a typed error on every bad one."""

from __future__ import annotations

import itertools
import struct
import time
import tracemalloc
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError
from hagd_jax.models.gguf.cursor import MAX_ITEMS
from hagd_jax.models.gguf.header import SUPPORTED, GgufHeader, read_header
from tests.models import gguf_tiny

FUZZ = settings(
    max_examples=200,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
SETTINGS = {
    **gguf_tiny.SETTINGS,
    "general.name": "tïny",
    "tokenizer.ggml.tokens": ["a", "", "ß", "日本"],
    "tokenizer.ggml.scores": [1.0, -2.5, 0.0],
    "tokenizer.ggml.add_bos_token": False,
    "nested": [[1, 2], [3], [4]],
}


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "good.gguf"
    stored: dict[str, gguf_tiny.Stored] = {**gguf_tiny.tensors()}
    for kind in SUPPORTED[3::4]:
        size = GGML_QUANT_SIZES[kind][1]
        stored[kind.name] = (np.arange(2 * size, dtype=np.uint8).reshape(2, size), kind)
    return gguf_tiny.write(path, stored, SETTINGS).read_bytes()


def parse(folder: Path, content: bytes) -> GgufHeader:
    path = folder / "file.gguf"
    path.write_bytes(content)
    return read_header(path)


def build(
    tensors: list[tuple[bytes, tuple[int, ...], int, int]] = [],  # noqa: B006 (never changed)
    keys: list[bytes] = [],  # noqa: B006
    *,
    magic: bytes = b"GGUF",
    version: int = 3,
    counts: tuple[int, int] | None = None,
    data: int = 0,
    align: int = 32,
) -> bytes:
    """A file put together by hand."""
    n_tensors, n_keys = counts or (len(tensors), len(keys))
    out = magic + struct.pack("<IQQ", version, n_tensors, n_keys) + b"".join(keys)
    for name, dims, kind, offset in tensors:
        out += text(name) + struct.pack(f"<I{len(dims)}Q", len(dims), *dims)
        out += struct.pack("<IQ", kind, offset)
    return out + bytes(-len(out) % align) + bytes(data)


def text(raw: bytes) -> bytes:
    return struct.pack("<Q", len(raw)) + raw


def key(name: bytes, kind: int, payload: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + payload


def array(kind: int, n: int, payload: bytes = b"") -> bytes:
    return struct.pack("<IQ", kind, n) + payload


def test_agrees_with_the_gguf_package(tmp_path: Path, good: bytes):
    header = parse(tmp_path, good)
    reader = gguf.GGUFReader(tmp_path / "file.gguf")
    assert header.version == 3
    assert header.metadata["general.name"] == "tïny"
    assert header.metadata["tokenizer.ggml.tokens"] == ["a", "", "ß", "日本"]
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False
    assert [a.tolist() for a in header.metadata["nested"]] == [[1, 2], [3], [4]]
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "nested":
            want, have = field.contents(), header.metadata[name]
            assert (have.tolist() if isinstance(have, np.ndarray) else have) == want
    assert list(header.tensors) == [t.name for t in reader.tensors]
    for tensor in reader.tensors:
        info = header.tensors[tensor.name]
        assert info.shape == tuple(int(n) for n in tensor.shape[::-1])
        assert (info.offset, info.n_bytes) == (tensor.data_offset, tensor.n_bytes)


def test_version_2_and_an_empty_file_list(tmp_path: Path):
    assert parse(tmp_path, build(version=2)).tensors == {}


def test_alignment_of_the_file_is_used(tmp_path: Path):
    alignment = key(b"general.alignment", 4, struct.pack("<I", 8))
    content = build([(b"a", (3,), 0, 0), (b"b", (2,), 0, 16)], [alignment], data=24, align=8)
    header = parse(tmp_path, content)
    assert header.tensors["b"].offset - header.tensors["a"].offset == 16
    assert header.tensors["a"].offset % 8 == 0
    bad = [key(b"general.alignment", 4, struct.pack("<I", n)) for n in (0, 12)]
    for wrong in [*bad, key(b"general.alignment", 8, text(b"32"))]:
        with pytest.raises(CheckpointError, match="power of two"):
            parse(tmp_path, build([], [wrong]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "at least 24 bytes"),
        (build(magic=b"GGML"), "not a GGUF file"),
        (build(version=1), "GGUF version: got 1"),
        (build(version=3 << 24), "big endian"),
        (build(counts=(2**60, 0)), "number of tensors"),
        (build(counts=(0, 2**60)), "number of metadata keys"),
        (build([(b"x" * 3, (2,), 0, 0)] * 2, data=64), "tensor 'xxx': got it twice"),
        (build([], [key(b"k", 0, b"\1")] * 2), "metadata key 'k': got it twice"),
        (build([(b"x", (), 0, 0)], data=64), "rank of tensor 'x': got 0"),
        (build([(b"x", (1,) * 5, 0, 0)], data=64), "rank of tensor 'x': got 5"),
        (build([(b"x", (0, 2), 0, 0)], data=64), r"got \(2, 0\); expected positive sizes"),
        (build([(b"x", (33,), 8, 0)], data=64), r"the last a multiple of 32 \(Q8_0\)"),
        (build([(b"x", (2,), 77, 0)], data=64), "type of tensor 'x': got 77 .*F32.*Q6_K"),
        (build([(b"x", (256,), 15, 0)], data=999), r"got 15 \(Q8_K\).*F32, F16, BF16.*MXFP4"),
        (build([(b"x", (256,), 40, 0)], data=999), r"got 40 \(NVFP4\)"),
        (build([(b"x", (128,), 11, 0)], data=999), r"the last a multiple of 256 \(Q3_K\)"),
        (build([(b"x", (256,), 23, 0)], data=96), "bytes in the file; expected at least"),
        (build([(b"x", (2,), 0, 7)], data=64), "offset of tensor 'x': got 7"),
        (build([(b"x", (2,), 0, 32)], data=64), "where data begin"),
        (build([(b"x", (2,), 0, 0), (b"y", (2,), 0, 64)], data=96), "where 'x' ends"),
        (build([(b"x", (9,), 0, 0)], data=65), "bytes in the file; expected at most"),
        (build([(b"x", (2**62, 2**62), 0, 0)], data=32), "bytes in the file"),
        (build([(b"x", (9,), 0, 0), (b"y", (2,), 0, 32)], data=96), "where 'x' ends"),
        (build([(b"\xff", (2,), 0, 0)], data=32), "UTF-8"),
        (build([], [key(b"k", 99, b"")]), "type of 'k': got 99"),
        (build([], [key(b"k", 8, struct.pack("<Q", 2**63))]), "string 0 of 'k'"),
        (build([], [struct.pack("<Q", 2**16)], data=64), "at most 65535"),
        (build([], [key(b"k", 9, array(8, 2**61))]), "length of 'k'"),
        (build([], [key(b"k", 9, array(4, 2**40))]), "length of 'k'"),
        (build([], [key(b"k", 9, array(9, 1, array(9, 1)) * 9)]), "nested"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_refuses(tmp_path: Path, content: bytes, message: str):
    with pytest.raises(CheckpointError, match=message) as caught:
        parse(tmp_path, content)
    assert "file.gguf" in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path):
    for path in (tmp_path / "none.gguf", tmp_path):
        with pytest.raises(CheckpointError, match=str(path)):
            read_header(path)


def test_a_flood_of_empty_strings_is_refused(tmp_path: Path):
    path = tmp_path / "flood.gguf"
    path.write_bytes(build([], [key(b"k", 9, array(8, MAX_ITEMS + 1))]))
    with path.open("r+b") as file:
        file.truncate(2**33)  # sparse: as many zero lengths as anyone could want
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match="at most 4194304"):
        read_header(path)
    assert time.perf_counter() - started < 1


def test_every_truncation_names_both_sizes(tmp_path: Path, good: bytes):
    header = parse(tmp_path, good)
    last = max(header.tensors.values(), key=lambda info: info.offset)
    start = min(info.offset for info in header.tensors.values())
    end = last.offset + last.n_bytes
    for size in itertools.chain(range(0, start, 3), range(start, end, 97), [end - 1]):
        with pytest.raises(CheckpointError, match=rf"{size} bytes.*at least \d+"):
            parse(tmp_path, good[:size])


@FUZZ
@given(st.binary(max_size=300))
def test_random_bytes(tmp_path: Path, noise: bytes):
    for content in (noise, b"GGUF" + noise, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + noise):
        _survive(tmp_path, content)


@FUZZ
@given(st.data())
def test_mutations(tmp_path: Path, good: bytes, data: st.DataObject):
    content = bytearray(good)
    region = st.integers(0, 2600)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(region)
        width, layout = data.draw(st.sampled_from([(1, "<B"), (4, "<I"), (8, "<Q")]))
        near = st.integers(0, 300)
        wild = st.integers(0, 2 ** (8 * width) - 1)
        value = data.draw(near | wild | st.just(2 ** (8 * width) - 1)) % 2 ** (8 * width)
        content[at : at + width] = struct.pack(layout, value)
    _survive(tmp_path, bytes(content))


@FUZZ
@given(st.integers(0, 2600), st.integers(0, 2600), st.binary(max_size=16))
def test_splices(tmp_path: Path, good: bytes, start: int, stop: int, patch: bytes):
    _survive(tmp_path, good[:start] + patch + good[stop:])


def test_the_mutated_region_covers_the_header(tmp_path: Path, good: bytes):
    first = min(info.offset for info in parse(tmp_path, good).tensors.values())
    assert 2300 < first <= 2700


def _survive(folder: Path, content: bytes) -> None:
    """Either a header whose tensors all lie in the file, or a typed error; with little memory."""
    tracemalloc.start()
    try:
        infos = list(parse(folder, content).tensors.values())
    except CheckpointError:
        infos = []
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for info in infos:
        assert 0 <= info.offset <= info.offset + info.n_bytes <= len(content)
        assert isinstance(info.kind, GGMLQuantizationType)
    assert peak < 2**20
