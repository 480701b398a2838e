"""Files are the same from process to process, whatever order Python's sets and hashes have."""

import os
import subprocess
import sys

from tests.test_full_disks import SITES

WRITE = """
import sys
from pathlib import Path
from tests.test_full_disks import SITES
for name in sys.argv[2:]:
    SITES[name](Path(sys.argv[1]), 1, None)
"""
# Not the log, whose lines have times, and not the cache, which needs a fixture.
NAMES = sorted(SITES.keys() - {"log", "rewind", "cache"})


def test_two_processes_write_the_same_bytes(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    root = os.path.dirname(os.path.dirname(__file__))
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": root}
    command = [sys.executable, "-c", WRITE, str(there), *NAMES]
    child = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
    for name in NAMES:
        SITES[name](here, 1, None)
    _, said = child.communicate()
    assert child.returncode == 0, said[-3000:]
    one, other = (
        {str(p.relative_to(at)): p.read_bytes() for p in sorted(at.rglob("*")) if p.is_file()}
        for at in (here, there)
    )
    assert one.keys() == other.keys()
    assert len(one) >= 12
    assert [name for name in one if one[name] != other[name]] == []
