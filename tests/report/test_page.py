import base64
import dataclasses
import hashlib
import json
import re
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import ColumnDataSource
from hypothesis import given
from hypothesis import strategies as st

from hagd_jax.causal import About, Estimate, Faithfulness, SizePoint, curve_areas, sizes_of
from hagd_jax.report.page import _marked, page
from hagd_jax.tasks.definition import Text
from hagd_jax.units import Nodes
from tests.report.made_up import MIXED, NAN, SPACE, make_evidence, make_report

HOSTILE = (
    "</script><script>alert(1)</script>'\"><img src=x onerror=alert(2)>{{7*7}}\u202e\x1b[2J\ud800"
)
# Half of a surrogate pair is in no file, so in no configuration.
WRITTEN = HOSTILE.replace("\ud800", "")
WORDS = ("whole model", "no node left", "circuit alone", "model without it")
URLS = ("src", "href", "action", "formaction", "poster", "data", "srcset", "xlink:href", "ping")


class Read(HTMLParser):
    """What a browser would make of a page: tags, words, scripts, rows of figures."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.scripts, self.styles = [], [], [], []
        self.measures, self.cell = {}, None
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "script":
            self.scripts.append("")
        if tag == "tr":
            self.cell = self.measures.setdefault(attrs.get("data-measure"), [])
        if tag == "td" and "data-value" in attrs:
            self.cell.append([float(attrs["data-value"]), ""])

    def handle_data(self, data):
        where = self.cdata_elem
        if where == "script":
            self.scripts[-1] += data
        elif where == "style":
            self.styles.append(data)
        else:
            self.words.append(data)
            if self.cell:
                self.cell[-1][1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def read(report):
    return Read(page(report))


def hostile_report():
    return make_report(
        title=HOSTILE,
        circuit=dataclasses.replace(
            make_report().circuit, model=HOSTILE, task=HOSTILE, config={WRITTEN: [WRITTEN]}
        ),
        evidence=[make_evidence(HOSTILE), make_evidence("mean", reference=HOSTILE)],
        curve_ablation=HOSTILE,
        texts=(Text(HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE),) * 6,
        facts={HOSTILE: HOSTILE, "command": HOSTILE, "description": HOSTILE},
    )


def figures(read):
    """The plots as Bokeh's own reader sees them, by the element they go into."""
    items = json.loads(read.scripts[0], parse_constant=pytest.fail)
    return {name: Document.from_json(item["doc"]) for name, item in items.items()}


def column(document, name):
    """A column of the plot's largest data source."""
    sources = document.select({"type": ColumnDataSource})
    found = [source.data[name] for source in sources if name in source.data]
    return np.asarray(max(found, key=len), float)


def test_hostile_text_changes_no_tag():
    """The same tags with the same attribute names, whatever the words are."""
    dull = "x" * len(HOSTILE)
    plain = make_report(
        title=dull,
        circuit=dataclasses.replace(make_report().circuit, model=dull, task=dull),
        evidence=[make_evidence(dull), make_evidence("mean", reference=dull)],
        texts=(Text(dull, dull, dull, dull, dull),) * 6,
        curve_ablation=dull,
        facts={dull: dull, "command": dull, "description": dull},
    )
    attacked, calm = Read(page(hostile_report())), Read(page(plain))
    shape = [(tag, sorted(attrs)) for tag, attrs in attacked.tags]
    assert shape == [(tag, sorted(attrs)) for tag, attrs in calm.tags]
    assert not [a for _, attrs in attacked.tags for a in attrs if a.startswith("on")]
    assert "<script>alert(1)</script>" in attacked.text
    assert "{{7*7}}" in attacked.text


def test_hostile_text_is_visible_and_writable():
    html = page(hostile_report())
    assert html.encode("utf-8")
    shown = Read(html)
    outside = "".join(shown.words) + shown.scripts[0]
    assert not set("\u202e\x1b\ud800") & set(outside)
    assert "\\u202e\\x1b[2J\\ud800" in shown.text
    assert "<" not in shown.scripts[0]


def test_only_the_two_own_scripts_may_run(read):
    (policy,) = [a["content"] for t, a in read.tags if t == "meta" and "http-equiv" in a]
    digests = [
        "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in read.scripts[1:]
    ]
    assert len(read.scripts) == 3
    assert f"script-src '{digests[0]}' '{digests[1]}';" in policy
    assert policy.startswith("default-src 'none'")


def test_page_is_offline(read):
    for tag, attrs in read.tags:
        for name in URLS:
            assert attrs.get(name, "data:,") == "data:,", (tag, attrs)
    style = " ".join(read.styles) + " ".join(a.get("style") or "" for _, a in read.tags)
    assert "url(" not in style
    assert "@import" not in style
    # The library alone may name addresses, in its licence and its messages.
    own = [read.scripts[0], read.scripts[2], style, *(str(a) for _, a in read.tags)]
    assert not [text for text in own if "http:" in text or "https:" in text]


def test_endless_text_is_cut():
    long = "z" * 100_000
    plain = make_report()
    texts = (Text(long, long, long, long, long),) * 6
    report = make_report(
        title=long,
        circuit=dataclasses.replace(plain.circuit, model=long, task=long, config={"a": long}),
        texts=texts,
        facts={long: long, "command": long, "description": long},
    )
    assert len(page(report)) - len(page(plain)) < 60_000


def test_every_figure_is_the_reports(report, read):
    expected = {
        "Same top token": [e.alone.match for e in report.evidence],
        "Faithfulness": [e.alone.faithfulness.ratio_of_means.value for e in report.evidence],
        "Near on prompts": [e.alone.faithfulness.within.value for e in report.evidence],
        "Accuracy kept": [e.alone.kept.value for e in report.evidence],
        "of the model's": [e.alone.preservation.value for e in report.evidence],
        "Lost without it": [e.necessity.value for e in report.evidence],
        "Best control": [max(e.chance) for e in report.evidence],
        "Mean control": [sum(e.chance) / len(e.chance) for e in report.evidence],
        "Mean of ratios": [e.alone.faithfulness.mean_of_ratios for e in report.evidence],
        "Median prompt": [e.alone.faithfulness.median for e in report.evidence],
        "Lower quartile": [e.alone.faithfulness.lower_quartile for e in report.evidence],
        "Upper quartile": [e.alone.faithfulness.upper_quartile for e in report.evidence],
        "Worst decile": [e.alone.faithfulness.worst_decile for e in report.evidence],
        "Invalid prompts": [e.alone.faithfulness.invalid for e in report.evidence],
    }
    for place, word in enumerate(WORDS):
        expected[f"Accuracy, {word}"] = [e.accuracy[place].value for e in report.evidence]
    for measure, values in expected.items():
        cells = read.measures[measure]
        assert [cell[0] for cell in cells] == pytest.approx(values, rel=1e-12), measure
        for value, (_, text) in zip(values, cells, strict=True):
            assert f"{100 * value:.1f}%" in text, measure
    for place, word in enumerate(WORDS):
        cells = read.measures[f"Logit difference, {word}"]
        assert [cell[0] for cell in cells] == [e.metric[place] for e in report.evidence]
    assert [c[0] for c in read.measures["KL from model"]] == [e.kl[2] for e in report.evidence]
    assert [c[0] for c in read.measures["p-value"]] == [1 / 11] * 2
    for name in ("Sufficiency", "Necessity", "Minimality"):
        # Under the counterfactual, which it was found with, it decides nothing.
        first, second = (text.strip() for _, text in read.measures[name])
        assert first == "✓ holdsdecides nothing"
        assert second.startswith("✓ holds")
    # What is hardest to game comes first.
    assert next(name for name in read.measures if name) == "Same top token"
    assert "The circuit is 8.1% of the model" in read.text


def test_intervals_are_shown(report, read):
    for found, (_, text) in zip(report.evidence, read.measures["Faithfulness"], strict=True):
        _, low, high = found.alone.faithfulness.ratio_of_means
        assert f"{100 * low:.1f} to {100 * high:.1f}" in text


def test_plots_hold_the_reports_numbers(report, read):
    plots = figures(read)
    assert sorted(plots) == [
        "controls", "features", "heads", "size-accuracy", "size-faithfulness", "size-kl",
    ]  # fmt: skip
    drawn = [point for point in report.curve if point.nodes]
    curve = plots["size-faithfulness"]
    assert column(curve, "nodes").tolist() == [point.nodes for point in drawn]
    assert column(curve, "faithfulness").tolist() == [p.faithfulness.value for p in drawn]
    assert column(plots["size-kl"], "kl").tolist() == [point.kl for point in drawn]
    chance = [control for e in report.evidence for control in e.chance]
    assert column(plots["controls"], "x").tolist() == chance
    score = np.asarray(report.scores.heads).ravel()
    shade = np.sign(score) * np.sqrt(np.abs(score) / np.abs(score).max())
    assert np.abs(score).max() > 0
    np.testing.assert_allclose(column(plots["heads"], "shade"), shade)
    order = np.argsort(-report.scores.flat())
    ranks = np.argsort(order) + 1
    assert column(plots["heads"], "rank").tolist() == ranks[: score.size].tolist()
    assert column(plots["features"], "rank").tolist() == ranks[score.size :].tolist()


def test_every_plot_has_its_place(read):
    places = [attrs["id"] for _, attrs in read.tags if attrs.get("class") == "plot"]
    assert sorted(places) == sorted(json.loads(read.scripts[0]))


def test_node_table_lists_members_then_the_best_others(report, read):
    rows = [attrs["data-member"] for tag, attrs in read.tags if "data-member" in attrs]
    assert rows == ["1"] * 7 + ["0"] * 79


def test_node_table_of_a_scattered_circuit():
    """Members come first into a full table, however low they rank."""
    report = make_report(space=(2, 3, 400), size=806)
    worst = report.circuit.nodes[0]
    scores = Nodes(np.array(report.scores.heads), np.array(report.scores.features))
    {"head": scores.heads, "neuron": scores.features}[worst.kind][worst.layer, worst.index] = -99.0
    lone = dataclasses.replace(report.circuit, nodes=(worst,), scores=(-99.0,))
    shown = Read(page(dataclasses.replace(report, circuit=lone, scores=scores)))
    members = [attrs["data-member"] for _, attrs in shown.tags if "data-member" in attrs]
    assert members == ["0"] * 199 + ["1"]
    assert "806" in shown.text


@pytest.mark.parametrize(
    ("space", "size"),
    [((1, 4, 512), 64), ((30, 9, 1536), 2318), ((1, 1, 1), 1), ((2, 3, 40), 0), ((2, 3, 40), 86)],
)
def test_any_shape_and_size(space, size):
    html = page(make_report(space=space, size=size))
    shown = Read(html)
    plots = figures(shown)
    layers, heads, neurons = space
    assert len(column(plots["heads"], "shade")) == layers * heads
    if layers * neurons <= 4096:
        assert len(column(plots["features"], "shade")) == layers * neurons
    else:
        members = make_report(space=space, size=size).circuit.mask().features.sum(1)
        assert column(plots["features"], "members").tolist() == members.tolist()
    assert len(html) < 2_500_000
    assert sum("data-member" in attrs for _, attrs in shown.tags) == min(
        200, layers * (heads + neurons)
    )


def test_summed_scores_of_a_large_model_are_right():
    report = make_report(space=(12, 2, 512), size=500)
    plot = figures(Read(page(report)))["features"]
    score, member = np.asarray(report.scores.features), np.asarray(report.circuit.mask().features)
    np.testing.assert_allclose(column(plot, "helps"), np.where(score > 0, score, 0).sum(1))
    np.testing.assert_allclose(column(plot, "hinders"), np.where(score < 0, score, 0).sum(1))
    kept = np.where(member & (score > 0), score, 0).sum(1)
    assert kept.sum() > 0
    np.testing.assert_allclose(column(plot, "member_helps"), kept)


@pytest.mark.parametrize("space", [(2, 3, 40), (12, 2, 512)], ids=["tiles", "bars"])
def test_features_are_called_features(space):
    """Everywhere that a report on neurons says neurons."""
    ours, theirs = (
        Read(page(make_report(space=space, size=20, dictionary=d)))
        for d in ("runs/tc#1a2b3c4d", "neurons")
    )
    assert "runs/tc#1a2b3c4d" in ours.text
    assert "it stays in, whatever is ablated" in ours.text
    assert "neuron" not in ours.text.lower() + ours.scripts[0].lower()
    assert "MLP features" in ours.text
    assert "MLP neurons" in theirs.text
    assert "feature" not in theirs.text.lower()
    assert re.search(r"\bL\d+\.F\d+\b", ours.text)


def test_what_is_not_defined_says_so():
    nothing = Estimate(NAN, NAN, NAN)
    whole = make_evidence().alone
    found = make_evidence(
        alone=whole._replace(
            faithfulness=Faithfulness(nothing, NAN, NAN, NAN, NAN, NAN, 1.0, nothing),
            kept=nothing,
            preservation=nothing,
        ),
        necessity=nothing,
        chance=(NAN, NAN),
    )
    scores = Nodes(np.full((2, 3), NAN), np.full((2, 40), NAN))
    curve = (SizePoint(3, 0.1, nothing, nothing, NAN),)
    shown = Read(page(make_report(evidence=[found], scores=scores, curve=curve)))
    for measure in (
        "Faithfulness",
        "Accuracy kept",
        "Lost without it",
        "Best control",
        "Median prompt",
    ):
        ((value, text),) = shown.measures[measure]
        assert np.isnan(value)
        assert "not defined" in text
    assert set(figures(shown)) >= {"heads", "features", "controls"}


def test_a_report_with_nothing_measured():
    bare = make_report(evidence=(), curve=(), texts=(), facts={})
    shown = Read(page(bare))
    assert sorted(figures(shown)) == ["features", "heads"]
    assert "No experiment was run" in shown.text


def test_differences_between_prompt_and_counterfactual_are_marked(report):
    html = page(report)
    assert "<mark>1</mark> 2 =" in html
    assert "<mark>4</mark> 2 =" in html


@given(*[st.text("ab \n", max_size=40)] * 2)
def test_marked_pieces_are_the_text_and_equal_pieces_are_in_both(text, other):
    pieces = _marked(text, other)
    assert "".join(piece for piece, _ in pieces) == text
    assert any(marked for _, marked in pieces) <= (text != other)
    equal = re.findall(r"\s+|\S+", "\0".join(piece for piece, marked in pieces if not marked))
    theirs = iter(re.findall(r"\s+|\S+", other))
    # In the same order: each is found behind the one before it.
    parts = [part for word in equal for part in word.split("\0") if part]
    assert "".join(parts) in other or all(part in theirs for part in parts)


def test_prompts_of_many_words_are_compared_in_no_time():
    """Of 300 words whose differences take a matcher of all pairs seconds."""
    one, other = "a b " * 150, "b a " * 149 + "c a "
    began = time.perf_counter()
    pieces = _marked(one, other)
    assert time.perf_counter() - began < 0.1
    assert "".join(piece for piece, _ in pieces) == one
    longer = _marked(f"x {one}", f"y {one}")
    assert longer == [("x", True), (f" {one}", False)]


def test_areas_over_the_ten_sizes_are_told():
    total = make_report().total
    sizes, f = sizes_of(total), lambda n: (n / total) ** 0.5
    estimates = [Estimate(f(n), 0, 1) for n in sizes]
    points = [SizePoint(n, n / total, e, e, 0.0) for n, e in zip(sizes, estimates, strict=True)]
    odd = SizePoint(sizes[-2] + 1, 0.0, Estimate(9, 9, 9), estimates[0], 0.0)
    found = curve_areas([odd, *points], total)
    shares = np.array(sizes) / total
    assert found.cpr == pytest.approx(np.trapezoid(shares**0.5, shares))
    assert found.cmd == pytest.approx(np.trapezoid(1 - shares**0.5, shares))
    text = Read(page(make_report(curve=(*points, odd)))).text
    assert f"they are {found.cmd:.3f} from the model" in text
    assert curve_areas(points[1:], total) is None
    assert "CMD" not in Read(page(make_report())).text


@pytest.mark.parametrize("ran", [True, False])
def test_chance_is_shown_only_where_it_was_measured(ran):
    found = make_evidence("mean") if ran else make_evidence("mean", controls=(), chance=())
    text = " ".join(Read(page(make_report(evidence=[found]))).text.split())
    chance = text[text.index("Against chance") :]
    assert ("a random circuit" in chance) == ran
    assert ("so none was run" in chance) != ran


def test_units_are_listed_with_their_nodes_folded_below():
    points = [SizePoint(n, n / 32, Estimate(f, f, f), Estimate(f, f, f), 1 - f, units)
              for n, f, units in ((27, 0.8, 5), (31, 0.9, 10))]  # fmt: skip
    report = make_report(space=tuple(SPACE), circuit=MIXED, curve=tuple(points))
    shown = page(report)
    assert "(5 units with 27 of 32 nodes)" in shown
    table = shown[shown.index('<table class="units">') :]
    table = table[: table.index("</table>")]
    heads = re.findall(r"<th [^>]*>(.*?)</th>", table)
    assert heads == ["layer", "unit", "kind", "nodes", "score"]
    named = re.findall(r"<code>(.*?)</code>", table)
    assert named == ["layers 0-1", "head 2.0", "cluster 2.0", "neuron 2.5", "mlp 3"]
    folded = re.findall(r"<summary><code>(.*?)</code></summary><span[^>]*>(.*?)</span>", table)
    assert {name: words.split() for name, words in folded} == {
        "layers 0-1": [f"L{i}.H{j}" for i in range(2) for j in range(2)]
        + [f"L{i}.N{j}" for i in range(2) for j in range(6)],
        "cluster 2.0": ["L2.N1", "L2.N2", "L2.N3"],
        "mlp 3": [f"L3.N{j}" for j in range(6)],
    }
    assert "@units" in shown  # under the pointer, in the plots against size
    # A circuit of nodes has no such list.
    alone = page(make_report())
    assert 'class="units"' not in alone
    assert "@units" not in alone


def units_of(shown):
    """Headings with their tooltips, and the cells of each row."""
    table = shown[shown.index('<table class="units">') :]
    table = table[: table.index("</table>")]
    heads = [
        (name, tip) for tip, name in re.findall(r'<th [^>]*?(?:title="(.*?)")?>(.*?)</th>', table)
    ]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in table.split("<tr>")[2:]]
    return heads, rows


def test_what_is_known_of_units_is_shown_and_said_in_words():
    roles = ["induction", "<b>&", "unnamed", "token lookup", "inert"]
    rows = [About(role, 0.1 * i, i or None) for i, role in enumerate(roles)]
    circuit = MIXED.described(rows)
    shown = page(make_report(space=tuple(SPACE), circuit=circuit))
    heads, cells = units_of(shown)
    names = ["layer", "unit", "kind", "nodes", "score", "role", "necessity", "radius"]
    assert [name for name, _ in heads] == names
    told = {re.search("<code>(.*?)</code>", row[1])[1]: row[5:] for row in cells}
    assert told == {
        unit.name: [role.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;"),
                    f"{10 * i}.0%", str(i) if i else "-"]
        for i, (unit, role) in enumerate(zip(circuit.units, roles, strict=True))
    }  # fmt: skip
    (legend,) = re.findall(r'<p class="note" id="columns">(.*?)</p>', shown)
    for name, tip in heads[5:]:
        assert tip.startswith(f"{name.capitalize()} is")
        assert tip.removeprefix(name.capitalize()) in legend
    assert 'id="columns"' not in page(make_report(space=tuple(SPACE), circuit=MIXED))


def test_single_nodes_of_which_something_is_known_are_listed_as_units():
    report = make_report()
    circuit = report.circuit.described([About("inert", 0.0)] * len(report.circuit))
    shown = page(dataclasses.replace(report, circuit=circuit))
    _, cells = units_of(shown)
    assert len(cells) == len(circuit)
    assert {row[5] for row in cells} == {"inert"}
    # It is spoken of as a circuit of nodes all the same.
    assert "from the same scores" in shown
    assert "as many heads and neurons" in shown
    assert "Each unit is a single node" in shown
