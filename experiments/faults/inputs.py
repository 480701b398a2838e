"""Does a file that somebody has tampered with get in, or bring the process down?

    python -m experiments.faults.inputs               # 20,000 files, some five minutes
    python -m experiments.faults.inputs --readers model circuit --files 200

Good files of every kind that the package reads are made, and mutated: bytes are changed, cut off,
doubled or put in; of JSON and YAML also whole values, by others of another type or beyond a range;
of an archive also the bytes of one array, its checksums right again. Digests are taken out
first, which would find every change. Each is read in a process that counts its memory and has
five seconds. Expected: everything is refused by a typed error, or read: as it was, or as what it
now says. Whatever is read otherwise is classified: `value` is another legal value of a field,
`numbers` another number among a tensor's or an array's own bytes, `text` other words of a text.
Writes results/inputs.json.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from experiments.common.digests import digest
from experiments.common.processes import environment
from experiments.common.record import record
from experiments.common.script import Places, run
from experiments.faults.readers import READERS, Reader
from hagd_jax.errors import CheckpointError, HagdError
from hagd_jax.files import DIGEST
from hagd_jax.models.gguf.header import read_header

SECONDS, MEGABYTES = 5.0, 512
ODD = (
    None, True, False, 0, -1, 1.5, 2**31, 2**63, -(2**63), 10**30, "", "x", "a\u2028b", "n" * 3000,
    [], {}, [[]], [1, "a"], {"a": 1}, 1e308, "../../etc/passwd",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(Places):
    """Config holds the settings for reading tampered files.

    Attributes:
        readers: Kinds of files; all of them if empty.
        files: Mutated files, shared among the kinds; of each as many, rounded up.
        work: Work as the process that reads, in this folder; the script starts itself with it.
        begin: Number of the first file of that process.
    """

    readers: tuple[str, ...] = ()
    files: int = 20_000
    work: Path | None = None
    begin: int = 0


def main(config: Config) -> None:
    """Start processes that read the files, and start another where one ends early."""
    if config.work is not None:
        return work(config)
    began, rows = time.monotonic(), []
    for name in config.readers or tuple(READERS):
        count = -(-config.files // len(config.readers or READERS))
        folder = config.runs / "inputs" / name
        folder.mkdir(parents=True, exist_ok=True)
        found = outcomes(name, folder, count, config)
        kinds = Counter(row["outcome"] for row in found)
        said = [row for row in found if row["outcome"] not in GOOD]
        rows.append({"reader": name, "files": len(found), **kinds, "bad": said[:20]})
        print(rows[-1], flush=True)
    bad = sum(len(row["bad"]) for row in rows)
    record(config.results / "inputs.json", rows, seconds=time.monotonic() - began, seed=0,
           files=sum(row["files"] for row in rows), bad=bad)  # fmt: skip
    if bad:
        sys.exit("NOT as expected")


GOOD = ("refused", "same", "value", "numbers", "text")


def outcomes(name: str, folder: Path, count: int, config: Config) -> list[dict[str, Any]]:
    """Return the outcome of every file; one that ended the process is an `abort`."""
    log = folder / "outcomes.jsonl"
    log.unlink(missing_ok=True)
    begun = -1
    while True:
        found: dict[int, dict[str, Any]] = {}
        for line in log.read_text().splitlines() if log.exists() else []:
            row = json.loads(line)
            found[row["number"]] = {"outcome": "abort"} | found.get(row["number"], {}) | row
        if len(found) >= count:
            return list(found.values())
        if begun == len(found):
            raise CheckpointError(name, got="a process that reads nothing", expected="outcomes")
        begun = len(found)
        command = [
            sys.executable, "-m", "experiments.faults.inputs", "--readers", name, "--files",
            str(count), "--work", str(folder), "--begin", str(len(found)),
        ]  # fmt: skip
        subprocess.run(command, env=environment({}), check=False, timeout=3600)


class Hang(BaseException):
    """Hang says that reading a file took longer than it may."""


def work(config: Config) -> None:
    """Read mutated files of one kind, and log each before reading it and its outcome after."""
    assert config.work is not None
    (name,), folder = config.readers, config.work
    reader, place = READERS[name], folder / "files"
    # What another process has left there would not be replaced.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    files = reader.make(place)
    for file in files:
        file.write_bytes(unsealed(file))
    good = {file: file.read_bytes() for file in files}
    whole = digest(reader.read(place))

    def late(*_: object) -> None:
        raise Hang

    signal.signal(signal.SIGALRM, late)
    for number in range(config.begin, config.files):
        rng = random.Random(f"{name} {number}")
        file = files[number % len(files)]
        raw, how = mutated(good[file], file, rng)
        file.write_bytes(raw)
        # If the process ends here, the line without an outcome tells of which file.
        note(folder, {"number": number, "file": file.name})
        note(folder, {"number": number, "outcome": outcome(reader, place, whole, how)})
        file.write_bytes(good[file])


def note(folder: Path, row: dict[str, Any]) -> None:
    """Add a line to the log."""
    with (folder / "outcomes.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")


def outcome(reader: Reader, place: Path, whole: str, how: str) -> str:
    """Read a file and classify the outcome."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        found = digest(reader.read(place))
    except HagdError:
        found = ""
    except Hang:
        return "hang"
    except Exception as error:
        return f"untyped {type(error).__name__}: {str(error)[:100]}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) / 1024 > MEGABYTES:
        return "memory"
    return "refused" if not found else "same" if found == whole else how


def mutated(raw: bytes, file: Path, rng: random.Random) -> tuple[bytes, str]:
    """Tamper with a file, and return it and the kind of change that a reader may read."""
    whole = rng.random() < 0.5
    if file.suffix == ".json" and whole:
        return json.dumps(changed(json.loads(raw), rng)).encode(), "value"
    if file.suffix == ".yaml" and whole:
        return yaml.safe_dump(changed(yaml.safe_load(raw), rng)).encode(), "value"
    if file.suffix == ".jsonl" and whole:
        lines = raw.splitlines()
        at = rng.randrange(len(lines))
        lines[at] = json.dumps(changed(json.loads(lines[at]), rng)).encode()
        return b"\n".join(lines), "text"
    if file.suffix == ".npz" and whole:
        return packed(raw, rng), "numbers"
    out = scrambled(raw, rng)
    if file.suffix in (".jsonl", ".csv"):
        return out, "text"
    begin = numbers_begin(raw, file)
    return out, "numbers" if out[:begin] == raw[:begin] else "value"


def scrambled(raw: bytes, rng: random.Random) -> bytes:
    """Change, cut out, double or put in some bytes."""
    out = bytearray(raw)
    for _ in range(rng.randint(1, 4)):
        at, what = rng.randrange(len(out) + 1), rng.randrange(4)
        if what == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif what == 1:
            del out[at : at + rng.randint(1, 20)]
        elif what == 2:
            out[at:at] = out[at : at + rng.randint(1, 40)]
        else:
            out[at:at] = rng.randbytes(rng.randint(0, 8))
    return bytes(out)


def packed(raw: bytes, rng: random.Random) -> bytes:
    """Scramble one array of an archive, whose checksums are right again."""
    held = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(held, "w") as new:
        names = old.namelist()
        chosen = rng.choice(names)
        for name in names:
            data = old.read(name)
            new.writestr(name, scrambled(data, rng) if name == chosen else data)
    return held.getvalue()


def numbers_begin(raw: bytes, file: Path) -> int:
    """Return where a file's numbers begin; what is before them says what they are."""
    if file.suffix == ".npz":
        return 0
    if file.suffix == ".gguf":
        return min(info.offset for info in read_header(file).tensors.values())
    return len(raw) if raw[8:9] != b"{" else 8 + int.from_bytes(raw[:8], "little")


def changed(value: Any, rng: random.Random) -> Any:
    """Replace, leave out or rename one value somewhere in a tree."""
    if isinstance(value, dict) and value and rng.random() < 0.8:
        name = rng.choice(sorted(value))
        rest = {key: item for key, item in value.items() if key != name}
        draw = rng.random()
        if draw < 0.15:
            return rest
        return rest | {"other": value[name]} if draw < 0.3 else value | {
            name: changed(value[name], rng)
        }  # fmt: skip
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], changed(value[at], rng), *value[at + 1 :]]
    return rng.choice(ODD)


def unsealed(file: Path) -> bytes:
    """Return the bytes of a file without its digest."""
    raw = file.read_bytes()
    if file.suffix == ".json":
        record = json.loads(raw)
        if isinstance(record, dict) and DIGEST in record:
            del record[DIGEST]
            return json.dumps(record).encode()
    if file.suffix in (".safetensors", "") and raw[8:9] == b"{":
        length = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + length])
        if header.get("__metadata__", {}).pop(DIGEST, None):
            head = json.dumps(header).encode().ljust(length)
            return raw[:8] + head + raw[8 + length :]
    return raw


if __name__ == "__main__":
    run(main, Config, __doc__)
