"""What happens where the CPU's own code cannot be compiled, and what it may not touch."""

import ast
import logging
import stat
from pathlib import Path

import pytest

import hagd_jax
from hagd_jax import cli
from hagd_jax.transcoders.kernels import native


@pytest.fixture
def fresh():
    """`available` without what it remembers of this process."""
    return native.available.__wrapped__


def compiler(folder, script):
    file = folder / "compiler"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return str(file)


def test_a_compiler_that_fails_is_told_of(fresh, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", compiler(tmp_path, "echo no such header >&2; exit 1"))
    with caplog.at_level(logging.WARNING, "hagd_jax"):
        assert not fresh()
    assert "no such header" in caplog.text
    assert "computed densely" in caplog.text


def test_no_compiler_is_told_of(fresh, monkeypatch, caplog):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(native.shutil, "which", lambda _: None)
    assert not fresh()
    assert "install g++" in caplog.text


def test_a_cache_that_cannot_be_written_is_told_of(fresh, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("CXX", compiler(tmp_path, "exit 1"))
    assert not fresh()
    assert "XDG_CACHE_HOME" in caplog.text


def test_switching_it_off_is_no_fault(fresh, monkeypatch, caplog):
    monkeypatch.setenv("HAGD_NATIVE", "0")
    assert not fresh()
    assert not caplog.records


def test_only_the_command_line_changes_how_the_process_allocates():
    root = Path(hagd_jax.__file__).parent
    callers = {
        file.relative_to(root).parts[0]
        for file in root.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "keep_memory"
    }
    assert callers == {"cli"}


def test_a_process_that_calls_the_command_is_left_as_it_is(monkeypatch):
    asked = []
    monkeypatch.setattr(native, "keep_memory", lambda: asked.append(True))
    with pytest.raises(SystemExit):
        cli.main(["plan", "--help"])
    assert not asked
    monkeypatch.setattr("sys.argv", ["hagd", "plan", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert asked
