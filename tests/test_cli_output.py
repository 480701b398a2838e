"""Standard output that is closed or full: one sentence, a status, and the work kept."""

import errno
import io
import os
import shlex
import subprocess
import sys

import pytest
import tyro
from rich.console import Console

from hagd_jax import cli
from hagd_jax.causal.ablation import ABLATIONS
from hagd_jax.cli import commands, output, plan
from hagd_jax.errors import OutputError
from hagd_jax.report.progress import Lines, bars, forgiving
from hagd_jax.tasks.definition import SPLITS

SHOW = """
import sys
from hagd_jax.cli import main, plan
def run(command, line, stop):
    from hagd_jax.cli.output import show
    from rich.markup import escape
    show(escape("a line [that] is printed"))
plan.run_plan = run
main(sys.argv[1:])
"""
PLAN = ["plan", "--model", "a", "--topology", "b", "--mesh", "c"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a system without /dev/full")
def test_a_full_output_ends_a_command_with_a_sentence(tmp_path):
    (tmp_path / "show.py").write_text(SHOW)
    command = [sys.executable, str(tmp_path / "show.py"), *PLAN]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") <= 3, done.stderr  # a sentence may be wrapped
    assert "standard output" in done.stderr
    assert "are complete" in " ".join(done.stderr.split())


def test_a_pipe_that_nobody_reads_is_a_sentence(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)

    def run(command, line, stop):
        output.show("text")

    monkeypatch.setattr(plan, "run_plan", run)
    with os.fdopen(writer, "w") as stdout:
        monkeypatch.setattr(sys, "stdout", stdout)
        with pytest.raises(SystemExit) as ended:
            cli.main(PLAN)
        assert ended.value.code == 2
        assert "Broken pipe" in capsys.readouterr().err


class Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def write(self, text):
        raise self.error

    def flush(self):
        raise self.error


ERRORS = [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(), ValueError("closed")]


@pytest.mark.parametrize("error", ERRORS)
def test_no_stream_ends_in_a_traceback(monkeypatch, error):
    monkeypatch.setattr(sys, "stdout", Broken(error))
    with pytest.raises(OutputError, match="standard output"):
        output.show("text")
    with pytest.raises(OutputError), output.finishing():
        pass
    monkeypatch.setattr(sys, "stderr", Broken(error))
    output.complain("text")
    with bars(every=0.001) as shown:
        for step in range(3):
            shown.update("score", step, 3)
        shown.say("text")


def test_output_that_is_absent_is_a_sentence(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OutputError, match="standard output"):
        output.show("text")
    forgiving(None).write("lost")


def test_help_that_cannot_be_written_is_a_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdout", Broken(ERRORS[0]))
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    assert ended.value.code == 2
    assert "standard output" in capsys.readouterr().err


def test_no_time_is_negative():
    """Where the clock or the total goes back."""
    told = io.StringIO()
    times = iter(range(100, 0, -10))

    lines = Lines(Console(file=told), clock=lambda: next(times))
    lines.update("score", 0, 10)
    lines.update("score", 5, 3)
    lines.update("masks", 0, 10)
    lines.update("masks", 9, 10)
    lines.report()
    assert "-" not in told.getvalue()
    assert "0:00:00" in told.getvalue()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a system without /dev/full")
def test_help_into_a_full_output_is_a_sentence(monkeypatch, capsys):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(SystemExit) as ended:
            cli.main(["--help"])
        assert ended.value.code == 2
    assert "standard output" in capsys.readouterr().err


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_help_names_the_command_its_choices_and_ends_with_an_example(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/hagd_jax/cli/__main__.py"])
    monkeypatch.setenv("COLUMNS", "140")  # so that options stand in one column
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert not ended.value.code
    told = capsys.readouterr().out
    assert f"usage: hagd {name} " in told
    assert "__main__" not in told
    assert " ".join(told.split()).endswith(f"Example: {commands.COMMANDS[name].example}")
    flags = {"validate": "", "extract": "judge."}
    if name in flags:
        dense = "".join(letter for letter in told if not letter.isspace() and letter != "│")
        assert f"--{flags[name]}split{{{','.join(SPLITS)}}}" in dense
        assert f"--{flags[name]}ablations[{{{','.join(ABLATIONS)}}}" in dense


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_examples_are_commands_that_parse(name):
    kinds = {each: command.load()[0] for each, command in commands.COMMANDS.items()}
    words = shlex.split(commands.COMMANDS[name].example)[1:]
    parsed = tyro.extras.subcommand_cli_from_dict(kinds, args=words)
    assert type(parsed) is kinds[name]


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_the_list_of_commands_says_what_each_says_of_itself(name):
    told = commands.COMMANDS[name]
    kind, act = told.load()
    assert callable(act)
    assert " ".join((kind.__doc__ or "").split("\n\n")[0].split()) == told.summary


def test_help_imports_no_library_that_computes():
    """Help, and a mistyped command, answer before JAX could be imported."""
    say = "import sys; from hagd_jax import cli\ntry: cli.main({!r})\nexcept SystemExit: pass\n"
    say += "print(sorted({{'jax', 'flax', 'scipy', 'orbax'}} & set(sys.modules)))"
    for words in (["--help"], ["atribute"], []):
        done = subprocess.run(
            [sys.executable, "-c", say.format(words)], capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith("[]\n"), done.stdout
