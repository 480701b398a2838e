"""What is installed: every file of the package that is no Python."""

import tomllib
from pathlib import PurePosixPath

import hagd_jax
from experiments.common.script import ROOT


def test_every_file_of_the_package_is_installed():
    """An editable installation has them all, so that only this test misses one."""
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())
    patterns = patterns["tool"]["setuptools"]["package-data"]["hagd_jax"]
    folder = ROOT / hagd_jax.__name__
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    files = [path for path in files if path.suffix not in (".py", ".pyc")]
    assert len(files) > 15
    kinds = {pattern.rpartition("*")[2] for pattern in patterns}
    lost = [path for path in files if path.suffix not in kinds and path.name not in kinds]
    assert lost == []
    assert all(PurePosixPath(pattern).name.startswith(("*.", "py.typed")) for pattern in patterns)
