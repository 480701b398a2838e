"""README runs: its Python is one session, its commands are run, in order and as they stand.

Where README loads SmolLM2-135M, a folder of that name holds a tiny model, whose tokenizer keeps the
words of the tasks whole; the cache of small trained models holds tiny ones that nobody trained. A
path that exists comes before the name of a published model, and a cached model is not trained
again, so nothing of the package is replaced. Not run are: the installation; `make test` and pytest,
which are running; `make demo` and `make demo-llm`, whose commands are; a pod, which is not here.
"""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from experiments.common.script import ROOT
from hagd_jax import cli, models, tasks
from hagd_jax.testbeds import SmallTrainConfig, small_cache, train_small
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
        cache(tasks.small_algorithm("modular_addition", p=53), d_model=64)
        cache(tasks.parity(10), d_model=16)
        Path("books").mkdir()
        text = " ".join(text.clean for text in texts())
        Path("books/one.txt").write_text(text)
        Path("books/two.txt").write_text(text[::-1])
        yield folder


def cache(algorithm, d_model):
    """Put a tiny model where `small_model` looks for a trained one."""
    small = SmallTrainConfig(
        d_model=d_model, n_heads=2, d_mlp=8, steps=2, check_every=2, batch_size=8
    )
    digest = small_cache._digest(algorithm, SmallTrainConfig(), 0)
    model = train_small(algorithm, config=small)
    models.save(model, Path("cache") / f"{algorithm.model_name}-{digest}")


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


def test_readme_is_a_page_of_code():
    assert len(PYTHON) >= 8
    assert sum(line.startswith("hagd ") for line in COMMANDS) >= 8
    (by_hand,) = [code for code in PYTHON if "search_masks" in code]
    assert len(by_hand.splitlines()) <= 30
