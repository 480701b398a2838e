"""The command a user types, and what it says when the input is wrong."""

import importlib.util
import json
import re

import jax
import numpy as np
import pytest

from hagd_jax import models, tasks, testbeds, transcoders
from hagd_jax.causal import Circuit, Node
from hagd_jax.cli import main
from hagd_jax.corpus import CorpusConfig, open_corpus
from hagd_jax.graphs import load_graph
from hagd_jax.graphs.graph import FEATURE
from hagd_jax.models import DecoderConfig, Tokenizer, init
from hagd_jax.tasks.modular import vocabulary
from hagd_jax.units import save_tree, tree
from tests.adder import make_adder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model that adds modulo 11, as a folder: 3 heads and 8 neurons, of which 6 do the work."""
    return str(models.save(make_adder(), tmp_path_factory.mktemp("cli") / "model"))


def arguments(folder, out, *more):
    small = ["--sizes.discover", "8", "--sizes.test", "8", "--judge.controls", "3"]
    small += ["--unit-masks.steps", "12", "--unit-masks.check-every", "6"]
    command = ["extract", "--task", "modular-addition", "--model", folder, "--nodes", "6"]
    return [*command, "--out", str(out), *small, *more]


def ended(err):
    """The stages that began, all of which must have said that they are done."""
    begun = re.findall(r"^(.*): begins$", err, re.MULTILINE)
    assert begun == re.findall(r"^(.*): done in", err, re.MULTILINE)
    # Said before the first piece of work, which compiles and may take minutes, and not after it.
    assert "are done" not in err
    return begun


def test_extract_writes_the_whole_run_and_prints_the_verdict(folder, tmp_path, capsys):
    main(arguments(folder, tmp_path / "run"))
    names = {file.name for file in (tmp_path / "run").iterdir()}
    assert names == {
        "config.json", "metrics.jsonl", "circuit.json", "report.html", "checkpoints", "masks",
        "scores.npz", "search.npz", "seen", "tree.safetensors", "validation.json",
    }  # fmt: skip
    circuit = Circuit.load(tmp_path / "run" / "circuit.json")
    assert len(circuit) <= circuit.leaves <= 6
    assert {("head", 0), ("head", 1)} <= {(node.kind, node.index) for node in circuit.nodes}
    assert circuit.task == "modular_addition"
    assert circuit.seen.known
    assert circuit.seen.ablations == ("counterfactual", "mean")
    assert circuit.seen.splits == ("discover",)
    stages = [
        json.loads(line)["stage"]
        for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert [s for i, s in enumerate(stages) if s not in [*stages[:i], "areas"]] == [
        "score", "masks", "found", "verdict", "curve"
    ]  # fmt: skip
    captured = capsys.readouterr()
    assert len(ended(captured.err)) >= 4
    # Without a terminal there are no bars, but a line a stage.
    for words in ("Scoring nodes", "Training masks", "Choosing the circuit", "Testing the circuit"):
        assert f"{words}: done" in captured.err
    out = " ".join(captured.out.split())
    for word in ("Faithfulness", "Necessity", "Accuracy kept", "control", "Report:"):
        assert word in out


def test_a_search_that_finds_nothing_says_so_and_leaves_no_circuit(folder, tmp_path, capsys):
    """One unit of six that multiply with each other is as far from the model as none."""
    with pytest.raises(SystemExit) as stop:
        main(arguments(folder, tmp_path / "run", "--nodes", "1"))
    assert stop.value.code == 1
    assert "The search found nothing" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run" / "circuit.json").exists()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    (found,) = [line for line in map(json.loads, lines) if line["stage"] == "found"]
    assert found["loss"] > 0.95 * found["empty_loss"] > 1
    assert set(found["losses"]) == {"counterfactual", "mean"}


def test_an_algorithm_without_a_model_keeps_the_one_it_trains(tmp_path, monkeypatch):
    asked = []

    def small_model(algorithm, **options):
        asked.append((algorithm.model_name, options["seed"], options["dtype"]))
        return make_adder()

    monkeypatch.setattr(testbeds, "small_model", small_model)
    command = arguments("", tmp_path / "run", "--modulus", "11", "--until", "score")
    at = command.index("--model")
    main([*command[:at], *command[at + 2 :]])
    assert asked == [("modular-11", 0, "float32")]
    kept = models.load(tmp_path / "run" / "model")
    np.testing.assert_array_equal(kept.params["unembed"]["kernel"],
                                  make_adder().params["unembed"]["kernel"])  # fmt: skip
    assert not (tmp_path / "run" / "circuit.json").exists()


def made_transcoder(folder, layers=1):
    """A transcoder's folder: features that write, though nobody trained them."""
    config = transcoders.TranscoderConfig(n_layers=layers, d_model=12, n_features=30, k=6)
    made = transcoders.init(config, jax.random.key(3))
    w_dec = 0.3 * jax.random.normal(jax.random.key(4), made.params["W_dec"].shape)
    made = made.replace(params=made.params | {"W_dec": w_dec})
    return str(transcoders.save(made, folder))


def test_extract_over_the_features_of_a_transcoder(folder, tmp_path, capsys):
    features = made_transcoder(tmp_path / "mine")
    run = tmp_path / "run"
    main(arguments(folder, run, "--features", features))
    circuit = Circuit.load(run / "circuit.json")
    assert circuit.space == (1, 3, 30)
    assert 1 <= circuit.leaves <= 6
    assert {node.kind for node in circuit.nodes} <= {"head", "feature"}
    assert any(node.kind == "feature" for node in circuit.nodes)
    assert json.loads((run / "config.json").read_text())["config"]["features"] == features
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(r"(L0\.F\d+|feature 0\.\d+ feature 1) \S*\d", out)
    report = (run / "report.html").read_text()
    assert circuit.dictionary in report
    assert "30 topk features a layer with 6 active, to their own" in report
    assert "MLP neurons" not in report
    # The folder belongs to these features.
    with pytest.raises(SystemExit):
        main(arguments(folder, run))
    assert "features was" in " ".join(capsys.readouterr().err.split())


def unexplained(folder, learned):
    """FVU of a transcoder of one layer that keeps four features, in float64 on held-out text."""
    model, own = models.load(folder), transcoders.load(learned)
    text = CorpusConfig(length=3, held_out=0.2)
    tokens = open_corpus("task:modular-addition", model, text).held_out[:].tokens
    trace = models.forward(model, tokens, capture=("mlp_in", "mlp_out")).trace
    x, y = (np.asarray(trace[site], np.float64).reshape(-1, 12) for site in ("mlp_in", "mlp_out"))
    p = {name: np.asarray(value, np.float64)[0] for name, value in own.params.items()}
    features = np.maximum(x @ p["W_enc"].T + p["b_enc"], 0)
    features[features < np.sort(features, 1)[:, -4:-3]] = 0
    missed = y - features @ p["W_dec"] - p["b_dec"]
    return (missed**2).sum() / ((y - y.mean(0)) ** 2).sum()


def test_train_transcoder_writes_what_extract_reads(folder, tmp_path, capsys):
    text = ["--corpus", "task:modular-addition", "--text.length", "3", "--text.held-out", "0.2"]
    size = ["--features", "2x", "--k", "4", "--tokens", "2500", "--contexts", "2"]
    command = ["train-transcoder", "--model", folder, "--out", str(tmp_path / "run"), *text, *size]
    main(command)
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    learned = tmp_path / "run" / "transcoder"
    assert found["mean_fvu"] == pytest.approx(unexplained(folder, learned), rel=1e-3)
    assert found["mean_fvu"] < 1
    assert found["l0"] == [4.0]
    captured = capsys.readouterr()
    # 2,500 tokens are no whole number of batches.
    assert ended(captured.err)[0] == "Training features"
    out = captured.out
    assert f"FVU {found['mean_fvu']:.3f}" in out
    assert "Jacobian mismatch" in (tmp_path / "run" / "report.html").read_text()
    main(arguments(folder, tmp_path / "circuit", "--features", str(learned)))
    assert Circuit.load(tmp_path / "circuit" / "circuit.json").space == (1, 3, 24)
    # The run is finished: asked again, it is read back.
    before = {file: file.stat().st_mtime_ns for file in learned.iterdir()}
    main(command)
    assert before == {file: file.stat().st_mtime_ns for file in learned.iterdir()}


def attribute(folder, out, *more):
    command = ["attribute", "--model", folder, "--prompt", "3 8 =", "--out", str(out)]
    return [*command, "--max-feature-nodes", "20", *more]


@pytest.mark.parametrize("over", ["neurons", "transcoder"])
def test_attribute_writes_the_graph_three_ways(folder, tmp_path, capsys, over):
    more = []
    if over == "transcoder":
        more = ["--features", made_transcoder(tmp_path / "mine"), "--target", "4", "--versus", "5"]
    main(attribute(folder, tmp_path / "run", *more))
    graph = load_graph(tmp_path / "run" / "graph.safetensors")
    assert 5 < len(graph.of_kind(FEATURE)) <= 20
    assert graph.info.words == ("3", "8", "=")
    assert graph.info.targets[0].label == "4 - 5" or over == "neurons"
    record = json.loads((tmp_path / "run" / "graph.json").read_text())
    assert record["metadata"]["prompt_tokens"] == ["3", "8", "="]
    assert "leads to" in (tmp_path / "run" / "report.html").read_text().lower()
    captured = capsys.readouterr()
    assert "replacement" in captured.out
    assert "Report:" in captured.out
    assert "memory beside the model" in " ".join((captured.out + captured.err).split())
    assert ended(captured.err) == ["Tracing features"]


def judged(folder, tmp_path, heads, *more, name="model"):
    """The verdict of `hagd validate` on the neurons that multiply and some of the heads."""
    members = (
        *(Node("head", 0, head) for head in heads),
        *(Node("neuron", 0, i) for i in range(4)),
    )
    seen = tasks.task("modular-addition", make_adder()).look(
        "discover", ablation="counterfactual", model=make_adder().replace(name=name)
    )
    circuit = Circuit(
        members, (1.0,) * len(members), (1, 3, 8), name, "modular_addition", seen=seen
    )
    circuit.save(tmp_path / "circuit.json")
    command = ["validate", "--circuit", str(tmp_path / "circuit.json"), "--model", folder]
    command += ["--sizes.test", "10", "--controls", "19", "--members", "3", "--subsets", "2"]
    main([*command, "--greedy", "0", "--ablations", "mean", "counterfactual", *more])
    return json.loads((tmp_path / "validation.json").read_text())


def test_validate_rejects_a_circuit_without_a_head_that_it_needs(folder, tmp_path, capsys):
    record = judged(folder, tmp_path, (0,), "--again", str(tmp_path / "circuit.json"))
    assert record["verdict"] == "rejected"
    claims = {(claim["name"], claim["ablation"]): claim["verdict"] for claim in record["claims"]}
    assert claims["sufficiency", "mean"] == "fails"
    assert {ablation for _, ablation in claims} == {"mean", "counterfactual", ""}
    looked = (tmp_path / "validation.html").read_text()
    assert "What was claimed, and what came of it" in looked
    assert record["command"].startswith("hagd validate")
    captured = capsys.readouterr()
    assert ended(captured.err) == ["Testing the circuit"]
    out = " ".join(captured.out.split())
    said = "claims marked * decide"
    for word in ("sufficiency*", "minimality*", "stability", "negative control", said):
        assert word in out
    with pytest.raises(SystemExit):
        judged(folder, tmp_path, (0,), "--task", "modular-multiplication")
    assert "error" in capsys.readouterr().err


def test_validate_finds_both_heads_sufficient(folder, tmp_path, capsys):
    # The folder's model has the weights of the one that the circuit knows, by another name.
    record = judged(folder, tmp_path, (0, 1), name="trained")
    assert "tested in" not in capsys.readouterr().out
    assert "trained, float32" in (tmp_path / "validation.html").read_text()
    claims = {(claim["name"], claim["ablation"]): claim["verdict"] for claim in record["claims"]}
    assert claims["sufficiency", "mean"] == claims["sufficiency", "counterfactual"] == "holds"


def test_validate_takes_units_and_the_tree_that_they_are_of(folder, tmp_path, capsys):
    seen = tasks.task("modular-addition", make_adder()).look(
        "discover", ablation="counterfactual", model=make_adder()
    )
    own = tree(make_adder(), clusters=[np.array([0, 1, 2, *[3] * 4, *[4] * 4])], seen=seen)
    save_tree(own, tmp_path / "tree")
    names = ["head 0.0", "head 0.1", "cluster 0.0"]
    about = {"model": "model", "task": "modular_addition", "seen": seen}
    Circuit.of_units(own, names, **about).save(tmp_path / "mixed.json")
    Circuit.of_units(tree(make_adder()), names[:2], **about).save(tmp_path / "plain.json")
    command = ["validate", "--model", folder, "--sizes.test", "10", "--controls", "19",
               "--claims", "core", "--ablations", "mean", "--circuit"]  # fmt: skip
    out = {}
    for more in ((), ("--tree", str(tmp_path / "tree"))):
        main([*command, str(tmp_path / "mixed.json"), *more])
        out[more] = " ".join(capsys.readouterr().out.split())
        record = json.loads((tmp_path / "validation.json").read_text())
        assert (record["members"], record["leaves"], record["units"]) == (3, 6, 11)
        assert "(3 units with 6 of 11 nodes)" in out[more]
        assert "Strongest 3 of 3 units with 6 of 11 nodes" in out[more]
        assert "cluster 0.0 cluster of neurons 4 1" in out[more]
    bare, given = out.values()
    assert "the clusters of the circuit's tree" in bare
    assert "the clusters of the circuit's tree" not in given
    for wrong in (
        [str(tmp_path / "plain.json"), "--tree", str(tmp_path / "tree")],
        [str(tmp_path / "mixed.json"), "--tree", str(tmp_path / "absent")],
    ):
        with pytest.raises(SystemExit):
            main([*command, *wrong])
        assert "error" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--target", "nothing"], "vocabulary|one token|no token"),
        (["--prompt", "3 8 = 1 2 3"], "at most 3"),
        (["--versus", "5"], "exactly one"),
        (["--memory-gb", "0.000001"], "edges_per_node|batch_size|Shorten"),
        (["--max-feature-nodes", "0"], "1 or more"),
        (["--features", "./no/such/features"], "no such folder"),
    ],
)
def test_what_cannot_be_attributed_is_said_in_one_sentence(folder, tmp_path, capsys, change, words):
    with pytest.raises(SystemExit) as stop:
        main(attribute(folder, tmp_path / "run", *change))
    assert stop.value.code == 2
    captured = capsys.readouterr()
    error = " ".join((captured.out + captured.err).split())
    assert "Traceback" not in error
    assert re.search(words, error), error
    assert not (tmp_path / "run").exists()


def test_a_transcoder_of_another_model_is_refused(folder, tmp_path, capsys):
    features = made_transcoder(tmp_path / "two layers", layers=2)
    with pytest.raises(SystemExit) as stop:
        main(arguments(folder, tmp_path / "run", "--features", features))
    assert stop.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "error:" in error
    assert re.search("2 layers.* 1 layer", error), error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--task", "modular-additoin"], "Did you mean modular_addition?"),
        (["--task", "ioi"], "single-token|one token|tokenizer"),
        (["--nodes", "0"], "a number of nodes from 1"),
        (["--levels", "3"], "at most 0"),
        (["--until", "dance"], "one of features, score"),
        (["--mesh", "data=3,model=5"], "8 devices here"),
        (["--mesh", "model=8"], "axis 'heads' of size 3"),
        (["--model", "no/such/model/anywhere"], "no/such/model"),
        (["--dtype", "int8"], "int8"),
        (["--features", "./no/such/features"], "no such folder"),
        (["--out", "{file}/run"], "a place that can be written"),
    ],
)
def test_bad_arguments_end_in_one_sentence(folder, tmp_path, capsys, change, words):
    (tmp_path / "file").write_text("")
    change = [word.format(file=tmp_path / "file") for word in change]
    command = arguments(folder, tmp_path / "run", *change)
    with pytest.raises(SystemExit) as stop:
        main(command)
    assert stop.value.code == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "error:" in error
    assert "Traceback" not in error
    assert re.search(words, error), error


@pytest.mark.parametrize("option", ["--seed", "--judge.batch-size", "--gradient.batch-size"])
def test_bad_numbers_are_refused_before_anything_runs(folder, tmp_path, capsys, option):
    with pytest.raises(SystemExit):
        main(arguments(folder, tmp_path / "run", option, "-1"))
    captured = capsys.readouterr()
    assert "or more" in " ".join((captured.out + captured.err).split())
    assert not (tmp_path / "run").exists()


def test_a_model_of_another_vocabulary_is_refused(tmp_path, capsys):
    config = DecoderConfig(vocab_size=4, n_layers=1, d_model=8, n_heads=2, d_mlp=8, max_positions=3)
    tokenizer = Tokenizer.words([*vocabulary(3)[:3], "?"])
    model = init(config, jax.random.key(0), tokenizer=tokenizer)
    models.save(model, tmp_path / "model")
    with pytest.raises(SystemExit):
        main(arguments(str(tmp_path / "model"), tmp_path / "run"))
    assert "train_modular" in capsys.readouterr().err


def test_plan_without_a_tpu_compiler_says_what_to_install(capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "libtpu" else real(name, *a)
    )
    with pytest.raises(SystemExit):
        main(["plan", "--model", "llama-70b", "--topology", "v5e:8x8", "--mesh", "data=8,model=8"])
    assert "hagd-jax[tpu]" in capsys.readouterr().err
