"""Lock folders and files against other writers, in other processes and on other hosts.

The kernel holds a lock (`flock`, which NFS passes on to its server) and lets go of it when the
process ends, however that happens, so that no lock outlives its owner. Who holds it is written in
the lock's file, for messages alone. Where a file system has no locks, a file that only one process
can make (O_EXCL) stands for one. One that a killed process has left is known by its process, if
that was on this host; a message says which file to remove if it was on another.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import sys
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hagd_jax.errors import BusyError
from hagd_jax.files import system
from hagd_jax.files.digests import digest
from hagd_jax.files.parsing import LINE, parse_json
from hagd_jax.files.writing import beside, writing_to

# Name of the lock file in a folder.
LOCK = ".lock"
# Seconds between two attempts to take a lock that another process holds.
_EVERY = 0.2
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
_log = logging.getLogger(__name__)


class Lock:
    """Lock is held by this process until `release`, or until nothing refers to it.

    Args:
        file: Descriptor of the open lock file.
        path: Path of the lock file.
        made: Folders created for it, innermost first; removed on release if empty.
    """

    def __init__(self, file: int, path: Path, made: list[Path]):
        self.path = path
        self.release = weakref.finalize(self, _release, file, path, made, os.getpid())


# Locks of this process, which may hold a folder more than once; the last release frees it.
_held: weakref.WeakValueDictionary[Path, Lock] = weakref.WeakValueDictionary()


def hold_folder(folder: Path, *, wait: bool = False) -> Lock:
    """Lock a folder against other processes; the process that holds it may lock it again.

    Args:
        folder: The folder; created if absent.
        wait: Whether to wait while another process holds the lock.

    Returns:
        The lock; the folder is free once nothing refers to it, or the process ends.

    Raises:
        BusyError: If another process holds the lock and `wait` is off; the message names it.
        CheckpointError: If the folder cannot be written.
    """
    return _hold(folder.resolve() / LOCK, folder, wait)


def hold_beside(path: Path, *, wait: bool = False) -> Lock:
    """Lock a file, or a folder that is replaced as a whole, with a lock file beside it.

    Args:
        path: The file or folder.
        wait: As in `hold_folder`.

    Returns:
        The lock.

    Raises:
        BusyError: As in `hold_folder`.
        CheckpointError: If the lock file cannot be written.
    """
    # The digest separates long names that begin alike.
    name = f"{digest(path.name.encode(errors='surrogateescape'))[:8]}{LOCK}"
    with writing_to(path):
        place = path.parent.resolve() / path.name
    return _hold(beside(place, name), path, wait)


def _hold(lock: Path, what: Path, wait: bool) -> Lock:
    """Take the lock file `lock` for `what`, or return the lock that this process holds."""
    found = _held.get(lock)
    # A folder that was removed meanwhile takes its lock file along.
    if found is not None and found.release.alive and lock.exists():
        return found
    told = False
    while True:
        with writing_to(what):
            made = list(_absent(lock.parent))
            system.make_folder(lock.parent)
            file = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with writing_to(what):
                taken = _take(file, lock)
        except BaseException:
            os.close(file)
            raise
        if taken:
            _held[lock] = held = Lock(file, lock, made)
            return held
        owner, mend = _owner(file), "Wait for it with --wait, or use another place."
        os.close(file)
        if stands := _standing(lock):
            owner, mend = stands, f"{mend} If it has ended, remove {_stand_in(lock)}."
        if not wait:
            raise BusyError(
                str(what), got=f"another process that writes there: {owner}",
                expected="no other writer", mend=mend,
            )  # fmt: skip
        if not told:
            _log.warning("%s: waiting for another process that writes there: %s", what, owner)
            told = True
        time.sleep(_EVERY)


def _take(file: int, lock: Path) -> bool:
    """Lock an open file; return whether it is locked and is still the file at its path."""
    stood = same = False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        if not (stood := _stand(lock)):
            return False
    try:
        same = os.path.samestat(os.fstat(file), os.stat(lock))
    except FileNotFoundError:
        # Its owner released and removed it after we opened it.
        pass
    finally:
        if stood and not same:
            # Otherwise this process would wait for itself at its next attempt.
            _stand_in(lock).unlink(missing_ok=True)
    if not same:
        return False
    # A full disk may hold only an empty file; the lock works without a description.
    with contextlib.suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, _description().encode(), 0)
    return True


def _release(file: int, path: Path, made: list[Path], owner: int) -> None:
    """Release a lock, and remove its file and folders; a forked child keeps its parent's lock."""
    with contextlib.suppress(OSError):
        if os.getpid() == owner:
            # Remove the file before the release, so that the next holder sees that it is gone.
            # Another file at its path is another lock.
            if os.path.samestat(os.fstat(file), os.stat(path)):
                for each in (path, _stand_in(path)):
                    each.unlink(missing_ok=True)
            for folder in made:
                folder.rmdir()
    with contextlib.suppress(OSError):
        os.close(file)


def _stand_in(lock: Path) -> Path:
    """The file that stands for a lock where there are none."""
    return lock.with_name(f"{lock.name}.held")


def _stand(lock: Path) -> bool:
    """Whether this process has made the file that stands for a lock; one of a dead process goes."""
    place = _stand_in(lock)
    for _ in range(2):
        try:
            file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError:
            if not _bury(place):
                return False
            continue
        try:
            os.write(file, _description().encode())
        except OSError:
            # A file that does not say whose it is would stand for ever.
            place.unlink(missing_ok=True)
            raise
        finally:
            os.close(file)
        return True
    return False


def _bury(place: Path) -> bool:
    """Remove the file of a process that has ended on this host; whether there is none by now."""
    try:
        text = place.read_bytes()[:4096]
        record = _record(text)
        if record["host"] != socket.gethostname() or _lives(int(str(record["pid"]))):
            return False
        # Another process may do the same, and have made its own since: a name can be taken once.
        grave = beside(place)
        place.rename(grave)
        try:
            if grave.read_bytes()[:4096] != text:
                os.link(grave, place)
                return False
        finally:
            grave.unlink()
    except FileNotFoundError:
        pass
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return True


def _lives(pid: int) -> bool:
    """Whether a process of this host has not ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        # One of another user, or a number that no process has: nothing says that it has ended.
        pass
    return True


def _standing(lock: Path) -> str:
    """Who has made the file that stands for a lock; nothing if there is none."""
    try:
        file = os.open(_stand_in(lock), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        return _owner(file)
    finally:
        os.close(file)


def _absent(folder: Path) -> Iterator[Path]:
    """Yield the folder and its parents that do not exist, innermost first."""
    while not folder.exists():
        yield folder
        folder = folder.parent


def _description() -> str:
    """Describe this process in JSON, for messages of other processes."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    program = Path(sys.argv[0]) if sys.argv and sys.argv[0] else Path("python")
    module = program.name == "__main__.py"
    # `python -m hagd_jax.cli` is the same command by another name.
    name = "hagd" if module and program.parent.name == "cli" else program.name
    command = shlex.join([name, *sys.argv[1:]])
    record = {"pid": os.getpid(), "host": socket.gethostname(), "since": now, "command": command}
    return json.dumps({name: str(value)[:200] for name, value in record.items()})


def _record(text: bytes) -> Any:
    """Parse what a lock's file says, which another program may have written.

    Raises:
        ValueError: If it is not JSON within bounds; a `CheckpointError` is one.
    """
    return parse_json(text.decode(), "a lock's file", LINE)


def _owner(file: int) -> str:
    """Describe the owner of a lock from its file."""
    try:
        record = _record(os.pread(file, 4096, 0))
        told = {name: str(value)[:200] for name, value in record.items()}
        return "process {pid} on {host} since {since}, `{command}`".format(**told)
    except (OSError, ValueError, LookupError, AttributeError):
        return "one that does not say which"
