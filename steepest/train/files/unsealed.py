"""Reading a sealed file: nothing is believed, and nothing given back, before it is verified."""

import hashlib
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from steepest import __version__
from steepest.errors import CheckpointError
from steepest.train.files.sealed import (
    DTYPES,
    HEAD,
    HEAD_BYTES,
    HEADER_LIMIT,
    SEAL,
    VERSION,
    ZEROS,
    bytes_of,
    chunks,
    hashing,
    is_name,
    no_name_twice,
)
from steepest.train.files.whole import open_plain

OLD_SEAL = b"steepest checkpoint 1\n"  # before the first release; a SHA-256 follows
OLD_SEAL_BYTES = len(OLD_SEAL) + 32


class Entry(NamedTuple):
    """A tensor's place in the file, its offsets counted from the header's end, in bytes."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    begin: int
    end: int
    sha256: str


def read_sealed(path: Path | str, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors and metadata once every byte is known to be the one written.

    What the file declares is held against its size before memory is taken.

    Raises:
        CheckpointError: it is damaged, of another kind, of a later version or of another program;
            the message lacks the file's name.
        LookupError, OSError, RuntimeError, TypeError, ValueError: likewise.
    """
    with open_plain(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = _read_header(file, size)
        content = json.loads(header, object_pairs_hook=no_name_twice)
        metadata = content.pop("__metadata__")
        _check_kind(metadata, kind)
        entries = list(_checked(content, json.loads(metadata["sha256"]), size - 8 - len(header)))
        _check_memory(size)
        return _read_tensors(file, entries, size), metadata


def _read_header(file: BinaryIO, size: int) -> bytes:
    """Return the header, its seal verified against every byte of it."""
    start = _read(file, min(size, HEAD_BYTES))
    head = HEAD.fullmatch(start)
    if head is None:
        file.seek(max(0, size - OLD_SEAL_BYTES))
        raise _foreign(start, size, _read(file, min(size, OLD_SEAL_BYTES)))
    length, whole = int.from_bytes(start[:8], "little"), int(head[2])
    if length > HEADER_LIMIT or not HEAD_BYTES <= length + 8 <= size:
        if size < whole:
            raise _cut_short(size, f"{whole:,}")
        raise _changed("its header")
    text = start + _read(file, length + 8 - HEAD_BYTES)
    zeroed = text[:SEAL] + ZEROS.encode() + text[SEAL + 64 :]
    if hashlib.sha256(zeroed).hexdigest().encode() != head[1]:
        raise _changed("its header")
    if size < whole:
        raise _cut_short(size, f"{whole:,}")
    if size > whole:
        raise CheckpointError(
            f"is not the file that was written: {size - whole:,} bytes follow its end; "
            "take an older one"
        )
    return text[8:]


def _read(file: BinaryIO, count: int) -> bytes:
    content = bytearray(count)
    _read_into(file, memoryview(content))
    return bytes(content)


def _read_into(file: BinaryIO, view: memoryview) -> None:
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError("is cut short: it lost bytes while it was read")
        view = view[count:]


def _checked(entries: dict[str, Any], sums: dict[str, str], size: int) -> Iterator[Entry]:
    """Yield the entries in the order of their bytes, which they fill without hole or overlap."""
    if entries.keys() != sums.keys():
        raise _wrong("its tensors and their checksums have different names")
    place = 0
    for name, entry in sorted(entries.items(), key=lambda pair: pair[1]["data_offsets"]):
        dtype, shape = DTYPES.get(entry["dtype"]), entry["shape"]
        begin, end = entry["data_offsets"]
        if not is_name(name):
            raise _wrong(f"it names a tensor {name[:50]!r}")
        if dtype is None:
            raise _wrong(f"{name} has the unknown dtype {str(entry['dtype'])[:50]!r}")
        if not _is_shape(shape):
            raise _wrong(f"{name} has no shape that a tensor has")
        if type(begin) is not int or begin != place or type(end) is not int:
            raise _wrong(f"the bytes of {name} do not follow those before it")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise _wrong(f"{name} has a shape of another size than its bytes")
        place = end
        yield Entry(name, dtype, shape, begin, end, sums[name])
    if place != size:
        raise _wrong(f"its tensors have {place:,} bytes where the file has {size:,}")


def _is_shape(value: object) -> bool:
    if type(value) is not list or not all(type(size) is int and size >= 0 for size in value):
        return False
    return len(value) <= 64 and math.prod(size or 1 for size in value) < 2**63


def _check_kind(metadata: dict[str, str], kind: str) -> None:
    version = int(metadata["version"])
    if version > VERSION:
        raise CheckpointError(
            f"was written by steepest {metadata.get('steepest')} in version {version} of the "
            f"format: this is steepest {__version__}, which reads version {VERSION}; upgrade it"
        )
    if metadata["kind"] == kind:
        return
    if metadata["kind"] == "weights":
        raise CheckpointError("holds weights alone: read it with load_weights")
    raise CheckpointError("holds a checkpoint, not weights alone: read it with load_checkpoint")


def _check_memory(size: int) -> None:
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # not told by this system
        return
    if size > memory:
        raise CheckpointError(
            f"has more bytes ({size:,}) than this machine has memory ({memory:,}); "
            "load it on a larger one"
        )


def _read_tensors(file: BinaryIO, entries: list[Entry], size: int) -> dict[str, Tensor]:
    tensors = {}
    digests = [hashlib.sha256() for _ in entries]
    with hashing(size) as update:
        for entry, digest in zip(entries, digests, strict=True):
            content = _memory(entry.end - entry.begin)
            for chunk in chunks(bytes_of(content)):
                _read_into(file, chunk)
                update(digest, chunk)
            tensors[entry.name] = content
    for entry, digest in zip(entries, digests, strict=True):
        if digest.hexdigest() != entry.sha256:
            raise _changed(entry.name)
        tensors[entry.name] = _typed(tensors[entry.name], entry)
    return tensors


def _memory(size: int) -> Tensor:
    try:
        return torch.empty(size, dtype=torch.uint8, device="cpu")
    except RuntimeError:
        raise MemoryError(f"there is no memory for {size:,} bytes") from None


def _typed(content: Tensor, entry: Entry) -> Tensor:
    if entry.dtype is torch.bool and (content > 1).any():
        raise _wrong(f"{entry.name} holds bytes that are neither true nor false")
    return content.view(entry.dtype).reshape(entry.shape)


def _cut_short(size: int, whole: str) -> CheckpointError:
    return CheckpointError(f"is cut short: {size:,} of {whole} bytes; take an older one")


def _changed(what: str) -> CheckpointError:
    return CheckpointError(
        f"was changed since it was written: the checksum of {what} differs; take an older one"
    )


def _wrong(reason: str) -> CheckpointError:
    return CheckpointError(f"has a header that steepest does not write: {reason}; do not trust it")


def _foreign(start: bytes, size: int, end: bytes) -> CheckpointError:
    if end.startswith(OLD_SEAL):
        reason = "an unreleased version of steepest wrote it; train again with this one"
    elif start.startswith((b"PK\3\4", b"\x80\2")):  # a zip file; a pickle
        reason = (
            "torch.save may have written it; read it with torch.load(path, weights_only=True) and "
            "write the state with save_checkpoint"
        )
    elif size < HEAD_BYTES:
        return _cut_short(size, f"at least {HEAD_BYTES:,}")
    else:
        reason = (
            "it does not begin with a checksum, as one does; weights alone are read with "
            "safetensors.torch.load_file"
        )
    return CheckpointError(f"is not a steepest checkpoint: {reason}")
