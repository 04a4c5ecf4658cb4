"""A folder for one run at a time, by a lock that the system lets go when its process ends."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steepest.errors import RecipeError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
FAR = 2**30  # the byte that is locked, beyond all content: Windows reads no locked one

_held: dict[tuple[int, int], int] = {}  # device and inode of a lock: the process that has it
_opening = threading.Lock()


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Keep every other run out of `folder` meanwhile, by a lock on the file `.lock` in it.

    The file stays behind, empty, and holds nobody up: the lock ends with the process, however that
    ends, and a child that it forked (a `DataLoader`'s worker) does not have it.

    Raises:
        RecipeError: a run of another process or of this one has the folder, or `.lock` cannot be
            written.
    """
    folder = Path(folder)
    with _opening:
        descriptor = _lock(folder)
        status = os.fstat(descriptor)
        key = status.st_dev, status.st_ino
        _held[key] = os.getpid()
    try:
        yield
    finally:
        if _held.pop(key) == os.getpid():  # not in a child that was forked meanwhile
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _lock(folder: Path) -> int:
    path = folder / LOCK
    try:
        if _is_held(path):  # not opened: to close a file gives up the locks of the whole process
            raise _taken(folder, str(os.getpid()))
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        raise RecipeError(
            f"A run's folder is one that can be written: got {error.strerror} for {path}; "
            "choose another folder"
        ) from None
    try:
        _take(descriptor)
    except (BlockingIOError, PermissionError):
        owner = os.read(descriptor, 20).decode("ascii", "replace")
        os.close(descriptor)
        raise _taken(folder, owner) from None
    except OSError:  # a file system without locks
        pass
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _is_held(path: Path) -> bool:
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    return _held.get((status.st_dev, status.st_ino)) == os.getpid()


def _take(descriptor: int) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, FAR)


def _taken(folder: Path, owner: str) -> RecipeError:
    who = f"process {owner}" if owner.isdecimal() else "another process"
    return RecipeError(
        f"A folder holds one run at a time: {who} trains in {folder}; wait for its end, or choose "
        "another folder"
    )
