"""What is exact is so in programs as users compile them, not only as these tests do."""

import os
import re
import subprocess
import sys
from pathlib import Path


def test_bits_are_compared_in_a_process_of_its_own():
    ours = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS")
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ours and not name.startswith("PYTEST_XDIST")
    } | {"HAGD_TESTS_AS_USERS": "1"}
    tests = Path(__file__).parent
    files = [p for p in tests.rglob("test_*.py") if "@pytest.mark.as_users" in p.read_text()]
    command = [sys.executable, "-m", "pytest", "-q", "-m", "as_users", *map(str, files)]
    found = subprocess.run(
        command, env=environment, cwd=tests.parent, text=True,
        capture_output=True, timeout=400,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-5000:]
    assert int(re.search(r"(\d+) passed", found.stdout)[1]) >= 9
