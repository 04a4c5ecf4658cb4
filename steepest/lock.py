"""A folder for one run at a time, by a lock that the system lets go when its process ends."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from steepest.errors import RecipeError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

LOCK = ".lock"
FAR = 2**30  # the byte that Windows locks, beyond all content: it reads no locked one
PAUSES = (0.01, 0.05)  # seconds until a lock is tried again, which `is_held` may have for a moment
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # for the other end of a FIFO

_descriptors: set[int] = set()


@contextmanager
def locked(folder: Path | str) -> Iterator[None]:
    """Keep every other run out of `folder` meanwhile, by a lock on the file `.lock` in it.

    The file stays behind, empty, and holds nobody up: the lock ends with the process, however that
    ends. On a file system that has no locks it keeps nobody out.

    Raises:
        RecipeError: a run of another process or of this one has the folder, or `.lock` cannot be
            written.
    """
    descriptor = _lock(Path(folder))
    _descriptors.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _descriptors:  # not in a child that was forked meanwhile
            _descriptors.remove(descriptor)
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
            os.close(descriptor)


def is_held(folder: Path | str) -> bool | None:
    """Tell whether a living process has `folder`; None where the system cannot tell.

    It is told by sharing the lock for a moment, unless it is held.
    """
    try:
        descriptor = os.open(Path(folder) / LOCK, os.O_RDONLY | NO_LINK | NO_WAIT)
    except FileNotFoundError:  # a run makes one before all else, and it stays behind
        return False
    except OSError:
        return None
    try:
        _take(descriptor, shared=True)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:  # a file system without locks
        return None
    finally:
        os.close(descriptor)
    return False


def _lock(folder: Path) -> int:
    path = folder / LOCK
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | NO_LINK, 0o666)
    except OSError as error:
        raise RecipeError(
            f"A run's folder is one that can be written: got {error.strerror} for {path}; "
            "choose another folder"
        ) from None
    try:
        _take_soon(descriptor)
    except (BlockingIOError, PermissionError):
        owner = os.read(descriptor, 20).decode("ascii", "replace")
        os.close(descriptor)
        raise _taken(folder, owner) from None
    except OSError:  # a file system without locks
        pass
    with suppress(OSError):  # a full disk: then the process that is refused gets no number
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _take_soon(descriptor: int) -> None:
    for pause in PAUSES:
        with suppress(BlockingIOError, PermissionError):
            return _take(descriptor)
        time.sleep(pause)
    return _take(descriptor)


def _take(descriptor: int, *, shared: bool = False) -> None:
    if sys.platform == "win32":
        os.lseek(descriptor, FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)


def _taken(folder: Path, owner: str) -> RecipeError:
    who = f"process {owner}" if owner.isdecimal() else "another process"
    return RecipeError(
        f"A folder holds one run at a time: {who} trains in {folder}; wait for its end, or choose "
        "another folder"
    )


def _close_in_child() -> None:
    """Close the locks that a forked child inherits.

    A `DataLoader`'s workers outlive a killed run by seconds; they would keep it from being resumed.
    """
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_close_in_child)
