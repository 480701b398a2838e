"""Tensors out of GGUF files: every type, any slice."""

from __future__ import annotations

from pathlib import Path

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hagd_jax.errors import CheckpointError
from hagd_jax.models.gguf import source as gguf_source
from hagd_jax.models.gguf.header import SUPPORTED, read_header
from hagd_jax.models.gguf.source import GgufSource
from tests.models import gguf_tiny

Kind = GGMLQuantizationType
GOLDENS = Path(__file__).parent / "goldens" / "gguf_blocks.npz"
PLAIN = (Kind.F32, Kind.F16, Kind.BF16)
GGML = tuple(kind.name for kind in SUPPORTED if kind not in PLAIN)
# How far the numbers may be from those that were quantized, as a share of their mean square: a
# step of b bits (T: three values), with the scales that ggml finds for normal numbers and one
# outlier.
ERROR = {"T": 0.6, "1": 0.6, "2": 0.4, "3": 0.12, "4": 0.05, "5": 0.02, "6": 0.01, "8": 0.001}


def source(path: Path, **stored: gguf_tiny.Stored) -> GgufSource:
    return GgufSource(read_header(gguf_tiny.write(path / "t.gguf", stored, {})))


def whole(reader: GgufSource, name: str) -> np.ndarray:
    return reader.read(name, tuple(slice(0, n) for n in reader.shape(name)))


def random_blocks(kind: Kind, rows: int, width: int) -> np.ndarray:
    """Random bytes, but for scales that are ordinary numbers."""
    rng = np.random.default_rng(kind.value)
    block, size = GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows, width // block, size), dtype=np.uint8)
    scales = rng.normal(size=(rows, width // block, 2)).astype(np.float16).view(np.uint8)
    at = 208 if kind is Kind.Q6_K else 0
    two = kind in (Kind.Q4_1, Kind.Q4_K)
    blocks[..., at : at + 4 if two else at + 2] = scales if two else scales[..., :2]
    return blocks.reshape(rows, -1)


def half(block: np.ndarray) -> float:
    return float(np.frombuffer(block.tobytes(), "<f2")[0])


def decode_q4_k(block: np.ndarray) -> np.ndarray:
    """A super-block of 256 by its definition (ggml-common.h), one number after the other.

    Eight groups of 32; group g has a 6-bit scale and a 6-bit minimum, packed into 12 bytes; two
    groups share 32 bytes, the even one in the low halves: x = d · scale · q − dmin · minimum.
    """
    d, dmin, packed, quants = half(block[:2]), half(block[2:4]), block[4:16], block[16:]
    out = np.zeros(256)
    for i in range(256):
        group, place = divmod(i, 32)
        if group < 4:
            scale, minimum = packed[group] & 63, packed[group + 4] & 63
        else:
            scale = (packed[group + 4] & 15) | (packed[group - 4] >> 6) << 4
            minimum = (packed[group + 4] >> 4) | (packed[group] >> 6) << 4
        byte = quants[group // 2 * 32 + place]
        quant = byte >> 4 if group % 2 else byte & 15
        out[i] = d * float(scale) * float(quant) - dmin * float(minimum)
    return out


def decode_q6_k(block: np.ndarray) -> np.ndarray:
    """A super-block of 256 by its definition: 6-bit numbers, low four bits apart from high two.

    Two halves of 128; of a half's four runs of 32, run r has its low bits in byte (r mod 2) · 32
    of 64, low half of the byte for r < 2, and its high bits in bits 2r of 32 shared bytes. Sixteen
    groups of 16 have a signed 8-bit scale each: x = d · scale · (q − 32).
    """
    low, high, scales = block[:128], block[128:192], block[192:208].view(np.int8)
    d = half(block[208:210])
    out = np.zeros(256)
    for i in range(256):
        part, inside = divmod(i, 128)
        run, place = divmod(inside, 32)
        byte = low[part * 64 + run % 2 * 32 + place]
        four = byte >> 4 if run >= 2 else byte & 15
        two = high[part * 32 + place] >> (2 * run) & 3
        out[i] = d * float(scales[i // 16]) * (float(four | two << 4) - 32)
    return out


@pytest.mark.parametrize("kind", GGML)
def test_agrees_with_ggml(tmp_path: Path, kind: str):
    golden = np.load(GOLDENS)
    reader = source(tmp_path, x=(golden[f"{kind}_bytes"], Kind[kind]))
    values = whole(reader, "x")
    assert values.dtype == np.float32 == reader.dtype("x")
    assert np.ptp(values) > 5
    # ggml multiplies in another order in some types: one rounding.
    np.testing.assert_allclose(values, golden[f"{kind}_values"], rtol=2e-7, atol=1e-8)
    # And it is the numbers that were quantized, within the steps of so many bits.
    bits = next(sign for sign in kind if sign in ERROR)
    error = np.mean((values - golden["values"]) ** 2) / np.mean(golden["values"] ** 2)
    assert 0 < error < ERROR[bits]


@pytest.mark.parametrize(("kind", "decode"), [(Kind.Q4_K, decode_q4_k), (Kind.Q6_K, decode_q6_k)])
def test_super_blocks_by_definition(tmp_path: Path, kind: Kind, decode):
    stored = random_blocks(kind, 3, 512)
    values = whole(source(tmp_path, x=(stored, kind)), "x")
    blocks = stored.reshape(3, 2, -1)
    want = np.array([np.concatenate([decode(b) for b in row]) for row in blocks])
    assert np.ptp(want) > 100
    np.testing.assert_allclose(values, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("kind", [Kind.Q8_0, Kind.Q4_0, Kind.Q4_1, Kind.BF16, Kind.F16, Kind.F32])
def test_what_the_gguf_package_quantized(tmp_path: Path, kind: Kind):
    values = np.random.default_rng(1).normal(size=(5, 96)).astype(np.float32)
    reader = source(tmp_path, x=(gguf.quants.quantize(values, kind), kind))
    tolerance = {Kind.F32: 0, Kind.F16: 1e-3, Kind.BF16: 8e-3, Kind.Q8_0: 0.02}.get(kind, 0.3)
    found = whole(reader, "x")
    assert found.shape == (5, 96)
    np.testing.assert_allclose(found.astype(np.float32), values, rtol=tolerance, atol=tolerance)


def test_plain_types_keep_their_dtype(tmp_path: Path):
    half_bits = np.array([[0x3F80, 0xC000, 0x7F80]], np.uint16)
    reader = source(
        tmp_path,
        a=np.array([1.5, 65504], np.float16),
        b=(half_bits.view(np.uint8), Kind.BF16),
        c=np.array([3.0], np.float32),
    )
    assert [reader.dtype(n).name for n in "abc"] == ["float16", "bfloat16", "float32"]
    np.testing.assert_array_equal(whole(reader, "a"), np.array([1.5, 65504], np.float16))
    assert whole(reader, "b").dtype == jnp.bfloat16
    np.testing.assert_array_equal(whole(reader, "b").astype(float), [[1.0, -2.0, np.inf]])
    assert reader.names() == {"a", "b", "c"}
    assert "t.gguf" in reader.describe("a")
    assert "F16" in reader.describe("a")


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory: pytest.TempPathFactory) -> GgufSource:
    """A matrix, a vector and a cube of each type."""
    stored: dict[str, gguf_tiny.Stored] = {}
    plain, golden = np.random.default_rng(2).normal(size=(12, 512)), np.load(GOLDENS)
    for kind in SUPPORTED:
        if kind in PLAIN:
            rows = gguf.quants.quantize(plain.astype(np.float32), kind)
        else:
            # ggml's two rows six times, each time with other low bits: no scale overflows.
            two = golden[f"{kind.name}_bytes"]
            rows = np.concatenate([two ^ np.uint8(change) for change in range(6)])
        stored[f"{kind.name} 2"] = (rows, kind)
        stored[f"{kind.name} 1"] = (rows[0].copy(), kind)
        stored[f"{kind.name} 3"] = (rows.reshape(3, 4, -1), kind)
    path = tmp_path_factory.mktemp("kinds") / "kinds.gguf"
    return GgufSource(read_header(gguf_tiny.write(path, stored, {})))


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.data())
def test_any_slice(every_kind: GgufSource, monkeypatch: pytest.MonkeyPatch, data: st.DataObject):
    """Against the whole tensor, dequantized by the gguf package from its own reading."""
    monkeypatch.setattr(gguf_source, "_CHUNK_BYTES", data.draw(st.sampled_from([1, 3000, 2**22])))
    name = data.draw(st.sampled_from(sorted(every_kind.names())))
    shape = every_kind.shape(name)
    index = tuple(
        slice(*sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n))))) for n in shape
    )
    found = every_kind.read(name, index)
    want = _reference(every_kind)[name][index]
    assert found.dtype == every_kind.dtype(name)
    assert found.flags.writeable
    np.testing.assert_array_equal(found.astype(np.float32), want)


_CACHE: dict[Path, dict[str, np.ndarray]] = {}


def _reference(reader: GgufSource) -> dict[str, np.ndarray]:
    path = reader.header.path
    if path not in _CACHE:
        _CACHE[path] = {
            t.name: gguf.quants.dequantize(t.data, t.tensor_type)
            for t in gguf.GGUFReader(path).tensors
        }
        assert all(np.ptp(values) > 1 for values in _CACHE[path].values())
    return _CACHE[path]


def test_reads_no_more_than_it_needs(tmp_path: Path):
    """Rows beyond the asked ones may be missing: they are not touched."""
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    reader = source(tmp_path, x=values)
    with reader.header.path.open("r+b") as file:
        file.truncate(reader.header.tensors["x"].offset + 3 * 32)
    np.testing.assert_array_equal(reader.read("x", (slice(1, 3), slice(2, 5))), values[1:3, 2:5])
    with pytest.raises(CheckpointError, match="became shorter"):
        reader.read("x", (slice(2, 4), slice(0, 8)))


def test_refuses_steps(tmp_path: Path):
    reader = source(tmp_path, x=np.ones((4, 4), np.float32))
    with pytest.raises(CheckpointError, match="steps of 1"):
        reader.read("x", (slice(0, 4, 2), slice(0, 4)))


def test_infinite_scales_become_nan_without_a_warning(tmp_path: Path):
    stored = gguf.quants.quantize(np.ones((1, 32), np.float32), Kind.Q4_0)
    stored[0, :2] = np.frombuffer(np.float16(np.inf).tobytes(), np.uint8)
    stored[0, 2] = 8  # zero times infinity
    assert np.isnan(whole(source(tmp_path, x=(stored, Kind.Q4_0)), "x")).any()
