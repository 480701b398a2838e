"""README runs: its Python is one session, its commands are run, in order and as they stand.

Where README loads SmolLM2-135M, a folder of that name holds a tiny model, whose tokenizer keeps the
words of the tasks whole; the cache of small trained models holds tiny ones that nobody trained; and
a run of the demo was interrupted when it had a transcoder. A path that exists comes before the name
of a published model, a cached model is not trained again, and an interrupted run goes on, so that
nothing of the package is replaced. Not run are: the installation; `make test` and pytest, which are
running; `make demo` and `make demo-llm`, whose commands are; a pod, which is not here.
"""

import dataclasses
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import jax
import pytest

import hagd_jax
from experiments.common.script import ROOT, Places
from experiments.readme import smollm2, tables
from hagd_jax import cli, models, pipeline, tasks, transcoders
from hagd_jax.causal import Circuit
from hagd_jax.errors import InputError
from hagd_jax.pipeline import ExtractConfig
from hagd_jax.pipeline.context import Context, Left
from hagd_jax.pipeline.features import features_run, train_config
from hagd_jax.pipeline.seen_files import remember
from hagd_jax.pipeline.stages import STAGES
from hagd_jax.testbeds import SmallTrainConfig, small_cache, small_model, train_small
from tests.experiments.conftest import save_tiny

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.S | re.M)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
COMMANDS = [
    line
    for kind, text in BLOCKS
    for line in text.splitlines()
    if not kind and re.match(r"(hagd|make|pip|python3?) ", line)
]
# The installation, and what is running now.
NOT_RUN = ("pip install", "python3 -m venv", "python -m pytest")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder to work in, with all that README takes for granted."""
    folder = tmp_path_factory.mktemp("readme")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HAGD_CACHE", str(folder / "cache"))
        save_tiny(Path("smollm2-135m"))
        save_tiny(Path("llama-2-7b"))
        Path("google").mkdir()
        save_tiny(Path("google/gemma-3-270m"))
        cache(tasks.parity(10), d_model=16, n_heads=2)
        # 130 nodes: 2 heads and 128 features.
        cache(tasks.small_algorithm("modular_addition", p=53), d_model=64, n_heads=2)
        interrupt_the_demo()
        Path("books").mkdir()
        text = " ".join(text.clean for text in texts())
        Path("books/one.txt").write_text(text)
        Path("books/two.txt").write_text(text[::-1])
        yield folder


def cache(algorithm, **size):
    """Put a tiny model where `small_model` looks for a trained one."""
    small = SmallTrainConfig(d_mlp=8, steps=2, check_every=2, batch_size=8, **size)
    digest = small_cache._digest(algorithm, SmallTrainConfig(), 0)
    model = train_small(algorithm, config=small)
    # Without its seal an entry would be trained again, which takes minutes.
    small_cache._put(model, Path("cache") / f"{algorithm.model_name}-{digest}")


def interrupt_the_demo():
    """Leave a run of `make demo` that has learnt its features and nothing else."""
    model = small_model(tasks.small_algorithm("modular_addition", p=53))
    task = tasks.task("modular_addition", model)
    asked = ExtractConfig("128", units=32, features="transcoder")
    context = Context(model, task, asked, None, None)
    run = pipeline.open_extraction("runs/demo", model, task, asked)
    context = dataclasses.replace(context, run=run)
    remember(run, STAGES[0], STAGES[0].looks(context, Left()))
    train, own = train_config(context), features_run(context)
    config = train.transcoder(model.config)
    found = transcoders.init(config, jax.random.key(0))
    w_dec = 0.1 * jax.random.normal(jax.random.key(1), found.params["W_dec"].shape)
    found = found.replace(params=found.params | {"W_dec": w_dec})
    of = own.decides("transcoder")
    transcoders.save(found, own.path / "transcoder", model_name=model.name, of=of)


def texts():
    """Prompts of a task."""
    model = models.load("smollm2-135m")
    return tasks.task("ioi", model, sizes=tasks.Sizes(256)).texts["discover"]


class Session:
    """README from its beginning: blocks of Python, and commands, each run once and in order."""

    def __init__(self):
        self.names, self.done = {}, 0

    def run(self, last):
        """Run all blocks up to one, that one included, unless they were run before."""
        for kind, text in BLOCKS[self.done : last + 1]:
            self.done += 1
            if kind == "python":
                exec(compile(text, f"README.md, block {self.done - 1}", "exec"), self.names)
            else:
                for line in text.splitlines():
                    if line.startswith("hagd "):
                        command(line)


def command(line):
    """Run a command as it stands; a pod's is only read, a plan needs the compiler of TPUs."""
    arguments = shlex.split(line, comments=True)[1:]
    if "--cluster.join" in arguments:
        return
    if arguments[0] == "plan" and importlib.util.find_spec("libtpu") is None:
        with pytest.raises(SystemExit) as stopped:
            cli.main(arguments)
        assert stopped.value.code == 2
        return
    cli.main(arguments)


@pytest.fixture(scope="module")
def session(folder):
    """The session, which the tests below go through in order."""
    return Session()


@pytest.mark.parametrize("block", range(len(BLOCKS)))
def test_a_block_runs(session, block):
    session.run(block)


def through(session, word):
    """Run up to the first block of Python that has a word, and give the names there are then."""
    session.run(
        next(i for i, (kind, text) in enumerate(BLOCKS) if kind == "python" and word in text)
    )
    return session.names


def test_commands_leave_pages_and_circuits(session, folder):
    session.run(len(BLOCKS))
    for run in ("demo", "demo-llm", "features", "mesh"):
        assert "<html" in (folder / "runs" / run / "report.html").read_text()
        circuit = Circuit.load(folder / "runs" / run / "circuit.json")
        assert circuit.seen.known
        assert circuit.seen.ablations == ("counterfactual", "mean")
    assert json.loads((folder / "runs" / "paris" / "graph.json").read_text())["nodes"]
    verdicts = json.loads((folder / "runs" / "demo-llm" / "validation.json").read_text())
    assert verdicts["verdict"] != "accepted"  # nobody trained that model


def test_captured_sites_and_interventions_are_as_said(session):
    names = through(session, "models.load")
    model, out = names["model"], names["out"]
    assert out.trace["neuron"].shape == (2, 1, 5, 12)  # layers first
    hagd_jax.causal.Circuit.load("circuit.json")
    scale = through(session, "ScaleHeads")["ScaleHeads"]
    assert issubclass(scale, models.Intervention)
    plain = models.forward(model, names["prompt"], capture=["head_out"])
    doubled = models.forward(
        model, names["prompt"], scale(2 * jax.numpy.ones((2, 4))), capture=["head_out"]
    )
    ratio = doubled.trace["head_out"][0] / plain.trace["head_out"][0]
    assert abs(ratio - 2).max() < 1e-5


def test_the_method_by_hand_gives_what_extract_gives(session):
    names = through(session, "search_masks")
    size = names["size"]
    assert len(names["circuit"]) == size
    assert {claim.name for claim in names["report"].claims} >= {"sufficiency", "necessity"}
    assert names["circuit"].seen.known
    (by_hand,) = [code for code in PYTHON if "search_masks" in code]
    assert len(by_hand.splitlines()) <= 30


def test_every_command_is_run_or_is_the_installation():
    for line in COMMANDS:
        assert line.startswith(("hagd ", "make ", *NOT_RUN)), line
    assert sum(line.startswith("hagd ") for line in COMMANDS) >= 8
    assert len(PYTHON) >= 8


def test_make_runs_the_commands_that_are_shown(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    told = "\n".join(COMMANDS)
    for target in ("demo", "demo-llm"):
        said = subprocess.run(
            ["make", "-n", target], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True
        )
        (made,) = re.findall(r"hagd (extract .*)", said.stdout)
        assert f"hagd {made}" in told
        assert re.search(rf"^make {target}\b", told, re.M)


def test_the_map_is_the_house():
    (tree,) = [text for kind, text in BLOCKS if not kind and text.startswith("hagd_jax/")]
    named = re.findall(r"^  (\w+)(?:/|, (\w+))", tree, re.M)
    rooms = {name for pair in named for name in pair if name}
    for house in ("hagd_jax", "experiments"):
        own = {path.name for path in (ROOT / house).iterdir() if path.is_dir()} - {"__pycache__"}
        assert own <= rooms, own - rooms
    assert rooms - {"errors"} <= {
        path.name for house in ("hagd_jax", "experiments") for path in (ROOT / house).iterdir()
    }
    order = [name for name, _ in named][: tree[: tree.index("experiments/")].count("\n") - 1]
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    storeys = [name.strip("()") for name in layers["contracts"][0]["layers"]]
    assert [name for name in storeys if name in order] == [
        name for name in order if name in storeys
    ]


def test_tables_are_made_from_the_records(tmp_path):
    assert tables.rewritten(README, tables.tables(Places().results)) == README
    copy = tmp_path / "README.md"
    copy.write_text(README.replace("modulo 53", "modulo 54"))
    results = tmp_path / "results"
    shutil.copytree(Places().results, results)
    accuracy = json.loads((results / "task_accuracy.json").read_text())
    ioi = next(row for row in accuracy["rows"] if (row["task"], row["split"]) == ("ioi", "test"))
    ioi["accuracy"] = 0.123
    (results / "task_accuracy.json").write_text(json.dumps(accuracy))
    tables.main(tables.Config(results=results, readme=copy))
    text = copy.read_text()
    assert "modulo 54" in text
    new = set(text.splitlines()) - set(README.splitlines())
    assert [line for line in new if "modulo 54" not in line] == [
        "| IOI accuracy, 256 prompts | 12.3% | ≥ 99% | circuits/task_accuracy.py |"
    ]
    with pytest.raises(InputError, match="results"):
        tables.rewritten("no markers", "")


def test_one_sided_and_two_sided_gates_are_told_apart():
    row = {"gates": True, "faithfulness": 1.4, "share": 0.05}
    assert smollm2.one_sided(row)
    assert not smollm2.within(row)
    assert smollm2.within(row | {"faithfulness": 0.75})
    assert not smollm2.within(row | {"gates": False, "faithfulness": 1.0})
    assert smollm2.least_share([row, row | {"share": 0.1, "faithfulness": 1.0}]) == 0.1
    assert smollm2.least_share([row]) is None
    assert smollm2.interval([0.1, 0.3]) == "0.10 to 0.30"
    assert smollm2.interval([0.0, 1.0, 2.0]) == "1.00 ± 2.48"  # 4.303 · 1 / √3
