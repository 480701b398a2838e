import base64
import dataclasses
import hashlib
import json

import numpy as np
import pytest
import tokenizers

from hagd_jax.errors import InputError
from hagd_jax.models import DecoderConfig, LanguageModel, Tokenizer
from hagd_jax.report.feature_cards import SHADES, cards, striking, token_text
from hagd_jax.report.transcoder_page import TranscoderReport, points_of_log, transcoder_page
from hagd_jax.report.transcoder_plots import Point, thinned
from hagd_jax.transcoders import Contexts, Evaluation, Transcoder, TranscoderConfig
from hagd_jax.transcoders.contexts.context import LayerContexts
from hagd_jax.transcoders.measures.effects import LogitEffects
from hagd_jax.transcoders.measures.evaluation import BIN_EDGES
from tests.report.test_page import HOSTILE, URLS, Read, column, figures

LAYERS, FEATURES, ROWS, LENGTH, KEPT = 3, 20, 9, 12, 4
WINDOW = (5, 2)
NAN = float("nan")
CONFIG = TranscoderConfig(n_layers=LAYERS, d_model=8, n_features=FEATURES, k=3)
# Words of a tokenizer cannot hold whitespace.
NASTY = (
    "</script><script>alert(1)</script>",
    "'\"><img/src=x/onerror=alert(2)>",
    "\u202egnihton\u2066",
    "\x1b[2J\u200b\U000e0001",
    "{{7*7}}{%raw%}",
    "<!--<script>",
    "z" * 100_000,
)


def words(extra=()):
    names = [*extra, *(f"word{i}" for i in range(30))]
    return Tokenizer.words(names[:30])


def made_layer(rng, layer):
    value = -np.sort(-rng.gamma(2, 1, (FEATURES, KEPT)).astype(np.float32), 1)
    row = np.stack([rng.permutation(ROWS)[:KEPT] for _ in range(FEATURES)]).astype(np.int32)
    position = rng.integers(1, LENGTH, (FEATURES, KEPT)).astype(np.int32)
    nearby = rng.uniform(0, 1, (FEATURES, KEPT, sum(WINDOW) + 1)).astype(np.float16)
    nearby[rng.random(nearby.shape) < 0.6] = 0
    nearby[..., WINDOW[0]] = 1
    # Feature 4 never fires, feature 5 twice.
    value[4], row[4], position[4], nearby[4] = 0, -1, -1, 0
    value[5, 2:], row[5, 2:], position[5, 2:], nearby[5, 2:] = 0, -1, -1, 0
    effects = LogitEffects(
        rng.integers(0, 30, (FEATURES, 6)).astype(np.int32),
        rng.normal(size=(FEATURES, 6)).astype(np.float32),
    )
    return LayerContexts(np.arange(FEATURES, dtype=np.int32), value, row, position, nearby, effects)


@pytest.fixture(scope="module")
def contexts():
    rng = np.random.default_rng(0)
    layers = {layer: made_layer(rng, layer) for layer in range(LAYERS)}
    weight = np.ones((ROWS, LENGTH), np.float32)
    weight[:, 0] = 0
    fired = rng.integers(1, 9, (LAYERS, FEATURES)).astype(np.float32)
    fired[:, 4] = 0
    fired[0, 7] = 80
    return Contexts(
        model="small",
        transcoder="made up",
        digest="01234567",
        window=WINDOW,
        tokens=rng.integers(0, 30, (ROWS, LENGTH)).astype(np.int32),
        weight=weight,
        fired=fired,
        largest=np.stack([part.value[:, 0] for part in layers.values()]),
        layers=layers,
    )


def made_evaluation(**changes):
    counts = np.random.default_rng(2).integers(0, 5, (LAYERS, len(BIN_EDGES) - 1))
    found = Evaluation(
        tokens=1234.0,
        fvu=(0.125, 0.25, 0.375),
        l0=(3.0, 2.5, 2.0),
        dead=(0.05, 0.1, 0.0),
        histogram=tuple(tuple(row) for row in counts.tolist()),
        loss=2.0,
        loss_replaced=2.5,
        loss_ablated=7.0,
        jacobian=(0.1, 0.2, 0.4),
        layer_loss=((2.1, 3.0), (2.2, 4.0), (2.05, 2.5)),
    )
    return dataclasses.replace(found, **changes)


def made_report(contexts=None, **changes):
    points = (
        Point(100, 0.9),
        Point(200, 0.7),
        Point(100, 0.8, 0.5, True),
        Point(200, 0.6, 0.9, True),
    )
    report = TranscoderReport(
        title="Transcoder of small",
        model="small",
        config=CONFIG,
        evaluation=made_evaluation(),
        points=points,
        contexts=contexts,
        tokenizer=words(),
        facts={"seconds": "12.5", "command": "hagd train-transcoder small"},
    )
    return dataclasses.replace(report, **changes)


@pytest.fixture(scope="module")
def read(contexts):
    return Read(transcoder_page(made_report(contexts)))


def embedded(read):
    return json.loads(read.scripts[1], parse_constant=pytest.fail)


def test_cards_are_the_contexts(contexts):
    tokenizer = words()
    found = cards(contexts, [(2, 3), (0, 5), (0, 4), (2, 3)], tokenizer, contexts_per_feature=3)
    assert [(f["l"], f["f"]) for f in found["features"]] == [(0, 4), (0, 5), (2, 3)]
    assert [len(f["c"]) for f in found["features"]] == [0, 2, 3]
    for shown in found["features"]:
        true = contexts.feature(shown["l"], shown["f"])
        assert shown["d"] == pytest.approx(true.density, rel=1e-3)
        assert shown["m"] == pytest.approx(true.largest, rel=1e-3)
        for side, pairs in (("up", true.raised), ("down", true.lowered)):
            assert [found["words"][w] for w, _ in shown[side]] == [
                tokenizer.token(token) for token, _ in pairs
            ]
            np.testing.assert_allclose([v for _, v in shown[side]], [v for _, v in pairs], 1e-3)
        for context, (ids, firing, shades, peak, row, position) in zip(
            true.contexts[:3], shown["c"], strict=True
        ):
            assert [found["words"][i] for i in ids] == [tokenizer.token(t) for t in context.tokens]
            assert (firing, row, position) == (context.firing, context.row, context.position)
            assert peak == pytest.approx(context.activations[firing], rel=1e-3)
            dense = np.zeros(len(ids))
            for place, shade in shades:
                assert shade > 0
                dense[place] = shade / SHADES
            np.testing.assert_allclose(
                dense, context.activations / true.largest, atol=1.01 / SHADES
            )


def test_the_page_embeds_what_was_asked_for(contexts):
    report = made_report(contexts)
    found = embedded(Read(transcoder_page(report, features_per_layer=2, also=[(1, 4), (1, 9)])))
    asked = {(feature["l"], feature["f"]) for feature in found["features"]}
    assert asked == {*striking(contexts, 2), (1, 4), (1, 9)}
    with pytest.raises(InputError, match="no contexts"):
        transcoder_page(report, also=[(1, FEATURES)])


def test_striking_features_fire_strongly_and_not_everywhere(contexts):
    chosen = striking(contexts, 5)
    for layer in range(LAYERS):
        found = [feature for at, feature in chosen if at == layer]
        rare = [f for f in range(FEATURES) if f != 4 and contexts.density[layer, f] <= 0.1]
        best = sorted(rare, key=lambda f: -contexts.largest[layer, f])[:5]
        assert found == best
    everything = [feature for at, feature in striking(contexts, 99) if at == 0]
    assert sorted(everything) == [f for f in range(FEATURES) if f != 4]
    assert everything[-1] == 7


def test_hostile_text_changes_no_tag(contexts):
    def shape(report):
        shown = Read(transcoder_page(report))
        return shown, [(tag, sorted(attrs)) for tag, attrs in shown.tags]

    dull = "x" * len(HOSTILE)
    calm, expected = shape(
        made_report(contexts, title=dull, model=dull, facts={dull: dull, "command": dull})
    )
    attacked, tags = shape(
        made_report(
            contexts,
            title=HOSTILE,
            model=HOSTILE,
            facts={HOSTILE: HOSTILE, "command": HOSTILE},
            tokenizer=words(NASTY),
        )
    )
    assert tags == expected
    assert len(attacked.scripts) == len(calm.scripts) == 4
    assert not [a for _, attrs in attacked.tags for a in attrs if a.startswith("on")]
    assert "<script>alert(1)</script>" in attacked.text
    assert not set("<>&") & set(attacked.scripts[1])


def test_hostile_tokens_are_harmless_text(contexts):
    html = transcoder_page(made_report(contexts, tokenizer=words(NASTY)))
    assert html.encode("utf-8")
    shown = Read(html)
    texts = embedded(shown)["words"]
    assert NASTY[0][:30] in "".join(texts)
    assert "\\u202egnihton\\u2066" in texts
    assert "\\x1b[2J\\u200b\\U000e0001" in texts
    assert not set("\u202e\u2066\x1b\u200b") & set("".join(texts) + "".join(shown.words))
    assert max(map(len, texts)) < 100
    assert any("(99,960 more characters)" in text for text in texts)


def test_the_script_never_reads_markup_out_of_data(read):
    for sink in (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "document.write",
        "eval(",
        "DOMParser",
    ):
        assert sink not in read.scripts[3]


def test_only_the_two_own_scripts_may_run_and_nothing_is_loaded(read):
    (policy,) = [a["content"] for t, a in read.tags if t == "meta" and "http-equiv" in a]
    digests = [
        "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in read.scripts[2:]
    ]
    assert f"script-src '{digests[0]}' '{digests[1]}';" in policy
    assert policy.startswith("default-src 'none'")
    for tag, attrs in read.tags:
        for name in URLS:
            assert attrs.get(name, "data:,") == "data:,", (tag, attrs)
    style = " ".join(read.styles) + " ".join(a.get("style") or "" for _, a in read.tags)
    own = [*read.scripts[:2], read.scripts[3], style, *(str(a) for _, a in read.tags)]
    assert not [text for text in own if "http:" in text or "https:" in text or "url(" in text]


def test_headline_figures_are_the_evaluations(read):
    assert "With 2.5 of 20 features active a token, it explains 75.0%" in read.text
    for words in ("25.0%", "90.0%", "2.5", "5.0%", "1,234", "2.5 with every MLP replaced"):
        assert words in read.text


def test_plots_hold_the_evaluations_numbers(read):
    plots = figures(read)
    e = made_evaluation()
    assert sorted(plots) == [
        "density", "layer-dead", "layer-fvu", "layer-jacobian", "layer-l0", "layer-loss",
        "learnt-fvu", "learnt-loss",
    ]  # fmt: skip
    assert column(plots["layer-fvu"], "value").tolist() == list(e.fvu)
    assert column(plots["layer-l0"], "value").tolist() == list(e.l0)
    assert column(plots["layer-dead"], "value").tolist() == list(e.dead)
    np.testing.assert_allclose(column(plots["layer-loss"], "value"), [0.9, 0.9, 0.9])
    counts = np.sum(e.histogram, 0)
    assert column(plots["density"], "features").tolist() == np.trim_zeros(counts, "f").tolist()
    np.testing.assert_allclose(np.log10(column(plots["density"], "right")[-1]), BIN_EDGES[-1])
    assert column(plots["learnt-fvu"], "tokens").tolist() == [100, 200]
    assert column(plots["learnt-loss"], "loss_recovered").tolist() == [0.5, 0.9]
    places = [attrs["id"] for _, attrs in read.tags if attrs.get("class") == "plot"]
    assert sorted(places) == sorted(plots)


def test_a_page_without_contexts_or_points(contexts):
    bare = Read(transcoder_page(made_report(points=(), facts={}, tokenizer=None)))
    assert "Its features" not in bare.text
    assert "How it learnt" not in bare.text
    assert embedded(bare)["features"] == []
    numbered = embedded(Read(transcoder_page(made_report(contexts, tokenizer=None))))
    assert all(text.startswith("#") for text in numbered["words"])


def test_what_is_not_defined_says_so():
    evaluation = made_evaluation(
        fvu=(0.1, NAN, 0.2), loss_ablated=1.0, layer_loss=None, histogram=((0,) * 35,) * 3
    )
    shown = Read(transcoder_page(made_report(evaluation=evaluation)))
    assert "not defined" in shown.text
    assert "it stands in for the MLPs of small." in shown.text
    assert "layer-loss" not in figures(shown)
    assert column(figures(shown)["layer-fvu"], "value").tolist() == [0.1, 0.0, 0.2]


def test_token_texts():
    tokenizer = words(["a\u202eb"])
    assert token_text(tokenizer, 0) == "a\\u202eb"
    assert token_text(tokenizer, 9999) == "#9999"
    assert token_text(None, 3) == "#3"

    native = tokenizers.Tokenizer(tokenizers.models.WordLevel({"\n\n": 0, "\t x": 1, "": 2}))
    lines = Tokenizer(native.to_str())
    assert [token_text(lines, i) for i in range(3)] == ["↵↵", "⇥ x", "#2"]


def test_logs_are_read_and_broken_lines_skipped(tmp_path):
    evaluation = made_evaluation().to_json() | {"stage": "evaluation", "trained": 150}
    unmeasured = evaluation | {"trained": 160, "loss_recovered": None}
    lines = [
        json.dumps({"stage": "transcoder", "step": 1, "tokens": 100, "fvu": 0.5, "loss": 1.0}),
        json.dumps(evaluation),
        json.dumps(unmeasured),
        json.dumps({"stage": "verdict", "tokens": 5}),
        json.dumps({"stage": "transcoder", "tokens": None, "fvu": 0.5}),
        json.dumps([1, 2]),
        '{"stage": "transcoder", "tok',
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("\n".join(lines))
    points = points_of_log(file)
    assert points[:2] == [Point(100, 0.5), Point(150, 0.25, 0.9, True)]
    assert np.isnan(points[2].loss_recovered)
    assert len(points) == 3
    assert points_of_log(tmp_path / "none") == []


def test_the_report_of_a_run(tmp_path, contexts):
    row = {"stage": "transcoder", "tokens": 400, "fvu": 0.5}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row))
    decoder = DecoderConfig(vocab_size=30, n_layers=LAYERS, d_model=8, n_heads=2, d_mlp=16)
    model = LanguageModel({}, decoder, words(), name="tiny")
    transcoder = Transcoder({}, CONFIG)
    report = TranscoderReport.of_run(
        tmp_path, transcoder, model, made_evaluation(), contexts, {"a": "b"}
    )
    assert report.points == (Point(400, 0.5), Point(400, 0.25, 0.9, True))
    assert "Transcoder of tiny" in Read(transcoder_page(report)).text


def test_thinning_keeps_the_curve():
    tokens = np.arange(1, 20_001)
    fvu = 1 / np.sqrt(tokens)
    points = thinned(
        [Point(float(t), float(f)) for t, f in zip(tokens, fvu, strict=True)], most=200
    )
    assert 100 < len(points) <= 201
    for point in points:
        assert point.fvu == pytest.approx(point.tokens**-0.5, rel=0.01)
    few = [Point(1.0, 0.5), Point(2.0, 0.4)]
    assert thinned(few) == few


def test_a_large_transcoder_makes_a_page_of_some_megabytes(contexts):
    """Texts of tokens are written once, and only active neighbours have a shade."""
    rng = np.random.default_rng(1)
    layers = {layer: made_layer(rng, layer) for layer in range(30)}
    tall = lambda x: np.tile(x, (10, 1))  # noqa: E731
    large = dataclasses.replace(
        contexts, layers=layers, fired=tall(contexts.fired), largest=tall(contexts.largest)
    )
    plain = len(transcoder_page(made_report()))
    assert len(transcoder_page(made_report(large))) - plain < 30 * 20 * KEPT * 120
