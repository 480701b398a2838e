"""Commands that README, docstrings and records name: they parse, and name scripts that exist."""

import dataclasses
import importlib
import json
import os
import re
import shlex
import sys

import pytest

from experiments.common.record import command, write
from experiments.common.script import ROOT, Places, need, parse, run
from experiments.readme import tables
from hagd_jax.errors import MissingDependencyError

ROOMS = sorted(
    path.parent.name
    for path in (ROOT / "experiments").glob("*/__init__.py")
    if path.parent.name != "common"
)
PEERS = {"experiments.speed.attribution_peer", "experiments.speed.transcoder_peer"}
FILES = [
    path
    for room in ROOMS
    for path in sorted((ROOT / "experiments" / room).glob("*.py"))
    if "__main__" in path.read_text()
]
SCRIPTS = [f"experiments.{path.parent.name}.{path.stem}" for path in FILES]
RECORDS = sorted((ROOT / "experiments" / "results").glob("*.json"))


def commands(text):
    """Command lines of scripts, without comments, redirections and square brackets."""
    lines = re.findall(r"python -m (experiments\.[^\n#\"&`|]*)", text)
    return [re.sub(r"\[.*\]", "", line).replace("FOLDER", "folder").strip(". ") for line in lines]


def parsed(line):
    module, *arguments = shlex.split(line)
    script = importlib.import_module(module)
    return parse(script.Config, arguments)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_its_command_and_takes_it(name):
    script = importlib.import_module(name)
    if name in PEERS:
        assert "by hand" in script.__doc__
        return
    own = [line for line in commands(script.__doc__) if line.split()[0] == name]
    assert own
    for line in commands(script.__doc__):
        config = parsed(line)
        assert dataclasses.is_dataclass(config)
    for field in dataclasses.fields(parsed(own[0])):
        documented = script.Config.__doc__ + Places.__doc__
        documented += "".join(base.__doc__ for base in script.Config.__mro__[1:-1])
        assert re.search(rf"\b{field.name}: ", documented), field.name


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_a_record_says_a_command_that_can_be_typed(path):
    found = re.findall(r'"command": "(.*)"', path.read_text())
    assert found
    for line in commands("\n".join(found)):
        assert parsed(line)


def test_readme_and_the_package_name_scripts_that_exist():
    texts = [(ROOT / "README.md").read_text()]
    folders = ("hagd_jax", "tests/models", "tests/testbeds")
    texts += [path.read_text() for folder in folders for path in (ROOT / folder).rglob("*.py")]
    for text in texts:
        for line in commands(text):
            assert line.split()[0] in SCRIPTS
        for named in re.findall(r"experiments/([\w/]+\.py)", text):
            assert (ROOT / "experiments" / named).exists(), named
    named = re.findall(r"\| (\w+/\w+\.py) \|", texts[0])
    assert len(set(named)) > 20
    for script in named:
        assert (ROOT / "experiments" / script).exists(), script


def test_every_record_is_written_by_a_script():
    sources = "".join(path.read_text() for path in FILES)
    for path in RECORDS:
        name = path.stem
        if name.startswith("smollm2_") and name != "smollm2_tokenizer":
            name = "smollm2"
        assert name in sources


def test_a_record_keeps_no_path_of_this_machine(tmp_path):
    write(tmp_path / "a.json", {"said": f'"{ROOT}/runs/a" is damaged'})
    assert json.loads((tmp_path / "a.json").read_text()) == {"said": '"runs/a" is damaged'}
    told = command(["/me/experiments/speed/a.py", "/me/x/text", "--model=/me/m.gguf", "--n", "3"])
    assert told == "python -m experiments.speed.a text --model=m.gguf --n 3"
    for path in RECORDS:
        assert not re.search(
            r'"(/home|/root|/tmp|/work)/', json.dumps(json.loads(path.read_text()))
        )


def test_a_missing_package_is_named_with_the_command_that_installs_it():
    with pytest.raises(MissingDependencyError, match=r"no_such_package.*pip install it"):
        need("numpy", "no_such_package", install="pip install it")


def test_readme_has_the_tables_that_its_script_writes():
    """Byte for byte: a row whose result file is gone, or was measured again, goes with it."""
    text = (ROOT / "README.md").read_text()
    body = tables.tables(ROOT / "experiments" / "results")
    assert body.count("\n|") > 100
    assert tables.rewritten(text, body) == text


@pytest.mark.parametrize("place", ["closed", "full"])
def test_help_that_nobody_takes_ends_without_a_traceback(place, monkeypatch, capsys):
    """As in `--help | head`, which is no fault, and on a full disk, which is one."""
    reads, writes = os.pipe()
    os.close(reads)
    if place == "full":
        writes = os.open("/dev/full", os.O_WRONLY)
    monkeypatch.setattr(sys, "argv", ["script", "--help"])
    with os.fdopen(writes, "w") as out, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        with pytest.raises(SystemExit) as ended:
            run(lambda _: None, Places, "It does nothing.")
    said = capsys.readouterr().err
    assert ended.value.code == (0 if place == "closed" else 2)
    assert ("No space left on device" in said) == (place == "full")
    assert "Traceback" not in said
