"""The decoder against its own algebra in float64, on one device and on eight."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers

from hagd_jax import models
from hagd_jax.errors import ConfigError, HagdError, InputError
from hagd_jax.models import BLOCK_SITES, SITES, DecoderConfig, RopeScaling, forward, init
from hagd_jax.models.model import _forward
from hagd_jax.models.sites import ON_REQUEST_SITES
from hagd_jax.parallel import make_mesh
from tests.models.noise import noisy, on_mesh

LLAMA = DecoderConfig(
    vocab_size=24, n_layers=3, d_model=16, n_heads=4, n_kv_heads=2, d_mlp=32, norm="rms",
    positions="rotary", activation="silu", gated_mlp=True, qkv_bias=False, attn_out_bias=False,
    mlp_bias=False,
)  # fmt: skip
NEOX = DecoderConfig(
    vocab_size=24, n_layers=2, d_model=16, n_heads=2, d_mlp=32, positions="rotary", rotary_dim=4,
    activation="gelu", parallel_residual=True,
)  # fmt: skip
# What Gemma 3 and OLMo 2 have beyond Llama, and soft caps that bend.
GEMMA = LLAMA.replace(
    norm_offset=True, norm_placement="both", qk_norm="head", window=2, window_layers=(0, 2),
    rope_local_theta=9.0, query_scalar=3.0, attn_softcap=1.5, scale_embed=True, logit_softcap=2.0,
    tied=True,
)  # fmt: skip
OLMO = LLAMA.replace(norm_placement="after", qk_norm="all", qkv_bias=True, attn_out_bias=True)
BARE = DecoderConfig(
    vocab_size=7, n_layers=2, d_model=8, n_heads=2, d_mlp=12, norm="none", causal=False,
    max_positions=5,
)  # fmt: skip
TOKENS = np.random.default_rng(0).integers(0, 7, (4, 5))
EPS = 2e-6


def numpy_params(model):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), model.params)


def test_bidirectional_relu_transformer_without_norm_equals_numpy():
    model = noisy(BARE)
    # Halved, logits are of size one, and so is what the tolerance is for.
    model = model.replace(params=jax.tree.map(lambda x: x / 2, model.params))
    p = numpy_params(model)
    x = p["embed"]["embedding"][TOKENS] + p["positions"]["embedding"][: TOKENS.shape[1]]
    b = p["blocks"]
    for i in range(2):
        a = b["attn"]
        q, k, v = (
            np.einsum("btd,dhk->bthk", x, a[n]["kernel"][i]) + a[n]["bias"][i] for n in "qkv"
        )
        scores = np.einsum("bthk,bshk->bhts", q, k) / 2.0
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        heads = np.einsum("bhts,bshk->bthk", weights, v)
        x = x + np.einsum("bthk,hkd->btd", heads, a["o"]["kernel"][i]) + a["o"]["bias"][i]
        hidden = np.maximum(x @ b["mlp"]["in"]["kernel"][i] + b["mlp"]["in"]["bias"][i], 0)
        x = x + hidden @ b["mlp"]["out"]["kernel"][i] + b["mlp"]["out"]["bias"][i]
    expected = x @ p["unembed"]["kernel"]
    found = forward(model, TOKENS).logits
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=EPS * 10)


@pytest.mark.parametrize("config", [LLAMA, NEOX], ids=["llama", "neox"])
def test_sites_add_up(config):
    """The stream is the sum of what was written to it; writes are activations times weights."""
    model = noisy(config)
    out = forward(model, TOKENS, capture=SITES)
    t = {site: np.asarray(value, np.float64) for site, value in out.trace.items()}
    p = numpy_params(model)["blocks"]
    zero = np.zeros(config.d_model)
    for i in range(config.n_layers):
        bias = p["attn"]["o"].get("bias", np.tile(zero, (config.n_layers, 1)))[i]
        write = np.einsum("bthk,hkd->bthd", t["head_out"][i], p["attn"]["o"]["kernel"][i])
        np.testing.assert_allclose(t["head_write"][i], write, atol=EPS)
        np.testing.assert_allclose(t["attn_out"][i], write.sum(2) + bias, atol=EPS)
        mlp_bias = p["mlp"]["out"].get("bias", np.tile(zero, (config.n_layers, 1)))[i]
        mlp = t["neuron"][i] @ p["mlp"]["out"]["kernel"][i] + mlp_bias
        np.testing.assert_allclose(t["mlp_out"][i], mlp, atol=EPS)
        total = t["resid_pre"][i] + t["attn_out"][i] + t["mlp_out"][i]
        np.testing.assert_allclose(t["resid_post"][i], total, atol=EPS)
        middle = t["resid_pre"][i] + (0 if config.parallel_residual else t["attn_out"][i])
        np.testing.assert_allclose(t["resid_mid"][i], middle, atol=EPS)
        stream = t["resid_mid"][i]
        centred = stream - (stream.mean(-1, keepdims=True) if config.norm == "layer" else 0)
        normed = centred / t["norm2_scale"][i] * p["norm2"]["scale"][i]
        normed += p["norm2"].get("bias", np.zeros((config.n_layers, 1)))[i]
        np.testing.assert_allclose(t["mlp_in"][i], normed, atol=EPS * 5)
    np.testing.assert_allclose(t["attn_pattern"].sum(-1), 1, atol=1e-6)
    assert np.all(np.triu(t["attn_pattern"], 1) == 0)
    np.testing.assert_array_equal(t["resid_pre"][0], t["embed"])
    np.testing.assert_array_equal(t["resid_final"], t["resid_post"][-1])
    np.testing.assert_array_equal(t["logits"], out.logits)


@pytest.mark.as_users
@pytest.mark.parametrize(
    "config", [LLAMA, NEOX, GEMMA, OLMO], ids=["llama", "neox", "gemma", "olmo"]
)
def test_capturing_changes_nothing(config):
    model = noisy(config)
    plain = forward(model, TOKENS).logits
    # Sites that every pass computes anyway cost no rounding at all.
    ordinary = set(SITES) - ON_REQUEST_SITES
    np.testing.assert_array_equal(forward(model, TOKENS, capture=ordinary).logits, plain)
    # A copy of the stream for each head is the same sum in another order.
    np.testing.assert_allclose(forward(model, TOKENS, capture=SITES).logits, plain, atol=1e-5)


def test_padding_on_the_right_is_never_seen():
    model = noisy(LLAMA)
    padded = np.concatenate([TOKENS, TOKENS[:, ::-1]], axis=1)
    np.testing.assert_allclose(
        forward(model, padded).logits[:, :5], forward(model, TOKENS).logits, atol=EPS
    )


@pytest.mark.parametrize(
    ("config", "mesh"),
    [(c, m) for c in (LLAMA, NEOX) for m in ("data=4,model=2", "data=2", "data=8")]
    + [(GEMMA, "data=4,model=2"), (OLMO, "data=4,model=2")],
)
def test_a_mesh_changes_nothing(config, mesh):
    one = noisy(config)
    many = on_mesh(one, make_mesh(mesh))
    tokens = np.tile(TOKENS, (2, 1))
    expected = forward(one, tokens, capture=["neuron", "resid_post"])
    found = forward(many, tokens, capture=["neuron", "resid_post"])
    np.testing.assert_allclose(found.logits, expected.logits, atol=1e-5)
    assert len(found.logits.sharding.device_set) == make_mesh(mesh).size
    for site, value in expected.trace.items():
        assert np.abs(value).max() > 0.1
        # Without norms before them, the neurons of the last one are as large as 20.
        np.testing.assert_allclose(found.trace[site], value, atol=1e-5, rtol=1e-6)


def test_gradient_equals_finite_differences():
    start = noisy(NEOX)
    with jax.enable_x64():
        wide = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float64)), start.params)
        model = start.replace(config=NEOX.replace(dtype="float64"))

        def loss(scale):
            params = jax.tree.map(lambda x: x * scale, wide)
            return jnp.sum(jnp.sin(forward(model.replace(params=params), TOKENS).logits))

        slope = float(jax.grad(loss)(jnp.float64(1.0)))
        ends = [float(loss(jnp.float64(1 + step))) for step in (1e-6, -1e-6)]
    assert abs(slope) > 1
    # Float64: rounding of 1e-16 · 50 over 2e-6.
    np.testing.assert_allclose(slope, (ends[0] - ends[1]) / 2e-6, rtol=1e-6)


def test_remat_gives_the_same_gradient():
    model = noisy(LLAMA)

    def loss(params, remat):
        return forward(model.replace(params=params), TOKENS, remat=remat).logits.var()

    plain, again = (jax.grad(loss)(model.params, remat) for remat in (False, True))
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


@pytest.mark.slow
def test_eighty_layers_compile_fast():
    """A Python loop would take 11 s and 25 s; the scan must stay under 5 s and 10 s."""
    config = LLAMA.replace(n_layers=80, d_model=64, d_mlp=128)
    model = models.abstract(config)
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    start = time.monotonic()
    jax.jit(lambda m, t: forward(m, t).logits).lower(model, tokens).compile()
    forward_seconds = time.monotonic() - start
    gradient = jax.grad(lambda p, t: forward(model.replace(params=p), t).logits.sum())
    jax.jit(gradient).lower(model.params, tokens).compile()
    gradient_seconds = time.monotonic() - start - forward_seconds
    assert forward_seconds < 5
    assert gradient_seconds < 10


def test_only_structure_recompiles():
    model = noisy(BARE.replace(vocab_size=9))
    forward(model, TOKENS)
    size = _forward._cache_size()
    for seed in range(3):
        other = noisy(BARE.replace(vocab_size=9), seed)
        forward(other.replace(name=str(seed)), (TOKENS + seed) % 7)
    assert _forward._cache_size() == size
    forward(model, TOKENS, capture=["neuron"])
    assert _forward._cache_size() == size + 1


def test_seventy_billion_parameters_in_shape_only():
    config = LLAMA.replace(
        vocab_size=32000, n_layers=80, d_model=8192, n_heads=64, n_kv_heads=8, d_mlp=28672,
        d_head=128, rotary_dim=128, dtype="bfloat16",
    )  # fmt: skip
    model = models.abstract(config, mesh=make_mesh("data=4,model=2"))
    count = sum(np.prod(x.shape, dtype=np.int64) for x in jax.tree.leaves(model.params))
    assert count == 68_976_648_192  # Llama-2-70B
    out = jax.eval_shape(
        lambda m, t: forward(m, t, capture=["neuron"]), model, jax.ShapeDtypeStruct((8, 64), int)
    )
    assert out.trace["neuron"].shape == (80, 8, 64, 28672)
    assert out.logits.dtype == jnp.float32


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        ([[7]], "0 to 6"),
        ([[-1]], "0 to 6"),
        (np.zeros((2, 0), int), "at least one token"),
        ([1, 2], "Wrap one prompt"),
        ([[1], [1, 2]], "unequal length"),
        ([[0.5]], "integer ids"),
        (np.zeros((1, 6), int), "max_positions = 5"),
        ("a text", "no tokenizer"),
    ],
)
def test_bad_tokens_are_refused_before_tracing(tokens, words):
    with pytest.raises(InputError, match=words):
        forward(init(BARE, jax.random.key(0)), tokens)


@pytest.mark.parametrize(
    ("read", "words"),
    [
        ([[5]] * 4, "got 5 to 5; expected 0 to 4"),
        ([[-1]] * 4, "got -1 to -1"),
        ([[0]], r"got shape \(1, 1\); expected integers from 0 to 4 of shape \(4, n\)"),
        ([[]] * 4, r"got shape \(4, 0\)"),
        ([0, 1], r"got shape \(2,\)"),
        ([[0.0]] * 4, "dtype float64; expected integers"),
        ([[True]] * 4, "dtype bool; expected integers"),
        ([[0], [0, 1]], "unequal length"),
    ],
)
def test_positions_to_read_are_those_of_tokens(read, words):
    with pytest.raises(InputError, match=f"read: .*{words}"):
        forward(init(BARE, jax.random.key(0)), TOKENS, read=read)


@pytest.mark.parametrize("number", [int, np.int8, np.asarray, jnp.int32])
def test_logits_are_read_at_the_positions_asked_for(number):
    model = noisy(BARE)
    whole = forward(model, TOKENS).logits
    some = forward(model, TOKENS, read=[[number(4), number(0)]] * 4).logits
    np.testing.assert_allclose(some, whole[:, jnp.array([4, 0])], atol=EPS)


def test_a_text_is_what_its_tokenizer_makes_of_it():
    """All that the template adds, in its order, as the tokenizers library itself gives it."""
    native = tokenizers.Tokenizer.from_str(models.Tokenizer.words(list("abcdefg")).json)
    native.post_processor = tokenizers.processors.TemplateProcessing(
        single="f g $A e", special_tokens=[("e", 4), ("f", 5), ("g", 6)]
    )
    expected = native.encode("a b").ids
    assert expected == [5, 6, 0, 1, 4]
    model = noisy(BARE).replace(tokenizer=models.Tokenizer(native.to_str()))
    np.testing.assert_array_equal(forward(model, "a b").logits, forward(model, [expected]).logits)


@pytest.mark.parametrize("capture", [3, None, ["resid_post", 3], [["neuron"]]])
def test_what_is_no_site_is_named(capture):
    with pytest.raises(HagdError, match="capture: got"):
        forward(init(BARE, jax.random.key(0)), TOKENS, capture=capture)


def test_unknown_site_names_the_nearest():
    with pytest.raises(ConfigError, match="'resid_post'"):
        forward(init(BARE, jax.random.key(0)), TOKENS, capture=["resid_pots"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_kv_heads": 3}, "n_kv_heads = 3"),
        ({"d_model": 9}, "multiple of n_heads"),
        ({"positions": "rotary", "rotary_dim": 3}, "even number"),
        ({"activation": "swish"}, "activation"),
        ({"n_layers": 0}, "a whole number, 1 or more"),
        ({"tied": True, "unembed_bias": True}, "tied"),
        ({"norm_eps": 0.0}, "norm_eps: got 0.0; expected a number, 1e-30 or more"),
        ({"positions": "rotary", "rope_theta": float("nan")}, "rope_theta: got nan"),
        (
            {"positions": "rotary", "rope_scaling": RopeScaling("factors", factors=(1.0,))},
            "factors: got 1 of them; expected 2",
        ),
        (
            {"positions": "rotary", "rotary_dim": 2, "rope_scaling": RopeScaling("dynamic", 2.0)},
            "at least 4 with dynamic",
        ),
        ({"n_layers": 1.0}, "n_layers: got 1.0; expected a whole number"),
        ({"n_heads": np.int64(2)}, "n_heads: got np.int64"),
        ({"d_head": -4}, "d_head: got -4; expected a whole number, 0 or more"),
        ({"tied": "no"}, "tied: got 'no'; expected True or False"),
        ({"norm_eps": "small"}, "norm_eps: got 'small'; expected a number, 1e-30 or more"),
        ({"norm": None}, "norm: got None; expected one of layer, rms, none"),
        (
            {"positions": "rotary", "rope_scaling": {"kind": "linear"}},
            "rope_scaling: got dict {kind}; expected a RopeScaling",
        ),
    ],
)
def test_bad_configurations_are_refused(change, words):
    fields = {"vocab_size": 7, "n_layers": 1, "d_model": 8, "n_heads": 2, "d_mlp": 12}
    with pytest.raises(ConfigError, match=words):
        DecoderConfig(**(fields | change))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "ntk"}, "kind: got 'ntk'"),
        ({"kind": "linear", "factor": 0.0}, "factor: got 0.0"),
        ({"kind": "linear", "factor": float("inf")}, "factor: got inf"),
        ({"kind": "llama3", "factor": 8.0}, "original_max_positions: got 0"),
        (
            {"kind": "llama3", "original_max_positions": 8, "low_freq_factor": 4.0},
            "low_freq_factor: got 4.0; expected less than the high 4.0",
        ),
        ({"kind": "factors"}, "factors: got none"),
        ({"kind": "factors", "factors": (1.0, -2.0)}, r"factors\[1\]: got -2.0"),
    ],
)
def test_impossible_stretchings_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        RopeScaling(**fields)


def test_every_block_site_is_reached_in_the_listed_order():
    model = init(LLAMA, jax.random.key(0))
    trace = forward(model, TOKENS, capture=SITES).trace
    assert set(trace) == set(SITES)
    assert {site for site, value in trace.items() if value.shape[0] == 3} >= set(BLOCK_SITES)
