"""Checkpoints: one file, whole or absent, that holds no code.

A checkpoint is what `torch.save` writes, followed by a seal: a magic word and the SHA-256 of all
that comes before. `torch.load(path, weights_only=True)` still reads it by hand; `load_checkpoint`
refuses it unless every byte is the one that was written.
"""

import hashlib
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from steepest.errors import CheckpointError

MAGIC = b"steepest checkpoint 1\n"
SEAL_BYTES = len(MAGIC) + 32
PLAIN = (Tensor, int, float, complex, str, bytes, bool, type(None), torch.dtype, torch.device)


def save_checkpoint(path: Path | str, state: Mapping[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) to `path`, whole or not at all.

    Raises:
        CheckpointError: the state holds an object that only code could restore, or the file
            cannot be written; an earlier checkpoint at `path` stays as it was.
    """
    _check_plain(state, "")
    write_whole(Path(path), lambda temporary: _write_sealed(temporary, dict(state)))


def load_checkpoint(path: Path | str) -> dict[str, Any]:
    """Return the state that `save_checkpoint` wrote to `path`, its tensors on the CPU.

    Raises:
        CheckpointError: there is no such file, it was cut short or changed, or another program
            wrote it.
    """
    path = Path(path)
    _check_seal(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever torch's reader stumbles over, from many modules
        raise _refused(path, f"torch does not read it ({_first_line(error)})") from None


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
        CheckpointError: the file cannot be written.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.touch()
        mode = temporary.stat().st_mode  # the one that the user's umask gives
        write(temporary)
        temporary.chmod(mode)
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    except (OSError, RuntimeError, safetensors.SafetensorError) as error:
        with suppress(OSError):
            temporary.unlink()
        raise CheckpointError(
            f"{path} could not be written: {_first_line(error)}; free or choose another place"
        ) from error


def _write_sealed(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path)
    with path.open("r+b") as file:
        digest = hashlib.file_digest(file, "sha256").digest()
        file.write(MAGIC + digest)


def _check_seal(path: Path) -> None:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise _refused(path, "it is not a plain file")
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - SEAL_BYTES))
            seal = file.read()
            file.seek(0)
            if not seal.startswith(MAGIC) or size < SEAL_BYTES:
                raise _refused(path, "it was cut short, or another program wrote it")
            digest = _digest(file, size - SEAL_BYTES)
    except OSError as error:
        raise _refused(path, _first_line(error)) from None
    if digest != seal[len(MAGIC) :]:
        raise _refused(path, "its checksum differs, so that a byte was changed since")


def _digest(file: Any, size: int) -> bytes:
    digest = hashlib.sha256()
    while size > 0:
        block = file.read(min(size, 2**20))
        if not block:
            break
        digest.update(block)
        size -= len(block)
    return digest.digest()


def _check_plain(value: object, place: str) -> None:
    """Refuse now what `torch.load(weights_only=True)` would refuse later."""
    if type(value) in PLAIN or isinstance(value, Tensor):
        return
    if isinstance(value, dict) and type(value) in (dict, OrderedDict):
        for key, item in value.items():
            _check_plain(key, place)
            _check_plain(item, f"{place}[{key!r}]")
    elif type(value) in (list, tuple, set, torch.Size):
        for item in value:  # type: ignore[attr-defined]
            _check_plain(item, place)
    else:
        raise CheckpointError(
            f"A checkpoint holds tensors, numbers, strings, lists and dicts: got "
            f"{type(value).__module__}.{type(value).__qualname__} in state{place}; "
            "convert it, for example with .item() or .tolist()"
        )


def _sync(path: Path) -> None:
    """Wait until a file or a folder is on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path} is not a whole steepest checkpoint: {reason}; take another one")


def _first_line(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")
