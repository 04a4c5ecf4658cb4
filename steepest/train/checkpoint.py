"""Checkpoints: one file, whole or absent, that holds no code.

A checkpoint is a safetensors file whose metadata tell what the tensors are to each other: `sealed`
has the bytes, `tree` the state. `load_checkpoint` refuses it unless every byte is the one that was
written.
"""

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import safetensors.torch
import torch
from torch import nn

from steepest import __version__
from steepest.errors import CheckpointError
from steepest.train.sealed import Sealed, read_sealed
from steepest.train.tree import Place, flatten, nonfinite, unflatten

if os.name == "posix":
    import fcntl

FORMAT = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
NO_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # for a FIFO's other end


def save_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path`, whole or not at all.

    A tensor comes back with its values, dtype, shape and order in memory, on the CPU and as one
    that needs no gradient; one that is there twice is written once and comes back as one.

    Raises:
        CheckpointError: the state holds an object that only code could restore, or the file
            cannot be written; an earlier checkpoint at `path` stays as it was.
    """
    tree, tensors = flatten(state)
    versions = {"steepest": __version__, "torch": str(torch.__version__)}
    metadata = {"format": "pt", "checkpoint": str(FORMAT), **versions, "state": tree}
    sealed = Sealed(tensors, metadata)
    with _replacing(Path(path), sealed.size) as file:
        sealed.write(file)


def load_checkpoint(path: Path | str, finite: Iterable[Place] = ()) -> dict[str, Any]:
    """Return the state that `save_checkpoint` wrote to `path`, its tensors on the CPU.

    Args:
        path: the file; nothing of it is given back before all of it is verified.
        finite: places in the state where NaN and infinity are refused, each the keys that lead
            there: `[("model", "0.weight"), ("optimizer",)]`. A place that is absent is passed over.

    Raises:
        CheckpointError: there is no such file, it was cut short or changed, another program or a
            later version wrote it, or a number is not finite where it must be.
    """
    try:
        with open(path, "rb", buffering=0, opener=_open_plain) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise CheckpointError("is not a checkpoint: it is not a plain file")
            tensors, metadata = read_sealed(file)
        state = unflatten(_tree_of(metadata), tensors)
    except CheckpointError as error:
        raise CheckpointError(f"{path} {error}") from None
    except (OSError, MemoryError, RuntimeError) as error:
        raise CheckpointError(f"{path} cannot be read: {_first_line(error)}") from None
    _check_finite(Path(path), state, finite)
    return state


def save_model(path: Path | str, model: nn.Module) -> None:
    """Write the model's parameters and buffers to `path` as safetensors, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    write_whole(Path(path), lambda temporary: safetensors.torch.save_model(model, str(temporary)))


def write_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` with a temporary file beside `path` and put it in place once it is on disk.

    Killed at any moment, `path` holds the old file or the new one; what a killed write leaves
    behind, the next one overwrites.

    Raises:
        CheckpointError: the file cannot be written; what `path` held stays as it was.
    """
    with _replacing(path) as file:
        mode = os.fstat(file.fileno()).st_mode  # what the user's umask gives, and no other
        write(Path(file.name))
        os.chmod(file.name, mode)


@contextmanager
def _replacing(path: Path, size: int | None = None) -> Iterator[BinaryIO]:
    """Give a file of (`size`) bytes to write, which takes the place of `path` once it is on disk.

    It is locked, as two processes that write to one path would mix their bytes.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "r+b", opener=_open_own) as file:
            try:
                yield file
                file.flush()
                sync(temporary)
                if os.name == "nt":
                    file.close()  # Windows renames no open file
                os.replace(temporary, path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink()
                raise
        sync(path.parent)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(_why_unwritten(path, error, size)) from error


def _open_own(path: str, flags: int) -> int:
    """Open a plain file for this process alone, empty; never one that a link leads to."""
    while True:
        descriptor = os.open(path, flags | os.O_CREAT | NO_LINK | NO_WAIT, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EEXIST, f"{path} is there and is not a plain file")
            _lock(descriptor, path)
            if _is_at(descriptor, path):
                os.ftruncate(descriptor, 0)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # its writer has put it in place meanwhile


def _lock(descriptor: int, path: str) -> None:
    if os.name != "posix":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OSError(errno.EBUSY, f"another process is writing {path}") from None
    except OSError:  # a file system without locks
        return


def _is_at(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _open_plain(path: str, flags: int) -> int:
    return os.open(path, flags | NO_WAIT)


def _tree_of(metadata: Mapping[str, str]) -> str:
    """Return the tree of a checkpoint of this format.

    Raises:
        CheckpointError: it is of a later format, or weights alone.
    """
    version = metadata.get("checkpoint", "")
    if not version.isdecimal():
        raise CheckpointError("is a file of weights, not a checkpoint; read it with load_model")
    if int(version) > FORMAT:
        raise CheckpointError(
            f"was written by steepest {metadata.get('steepest')} as checkpoint format {version}: "
            f"this is steepest {__version__}, which reads format {FORMAT}; upgrade steepest"
        )
    return metadata["state"]


def _check_finite(path: Path, state: Mapping[str, Any], places: Iterable[Place]) -> None:
    for place in places:
        part: Any = state
        for key in place:
            part = part.get(key) if isinstance(part, Mapping) else None
        found = nonfinite(part, place)
        if found is not None:
            raise CheckpointError(
                f"{path} holds NaN or infinity in state{found}, so that a run cannot go on from "
                "it; take an older one"
            )


def sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _why_unwritten(path: Path, error: Exception, size: int | None) -> str:
    reason = _first_line(error)
    if isinstance(error, OSError) and error.errno in FULL:
        with suppress(OSError):
            free = shutil.disk_usage(path.parent).free
            needs = "" if size is None else f"it needs {size:,} bytes and "
            reason += f" ({needs}{free:,} are free)"
    return f"{path} could not be written: {reason}; free or choose another place"


def _first_line(error: BaseException) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")
