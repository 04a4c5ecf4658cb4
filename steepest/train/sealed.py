"""One file of tensors in which no changed byte goes unseen: safetensors, with checksums.

8 bytes (the length of the header, little endian), a JSON header, the tensors end to end: anybody's
safetensors reads it. What is added stands in the header's `__metadata__`, a dict of strings:

    seal    SHA-256 of the 8 bytes and the header, taken with 64 zeros in the seal's own place
    bytes   the size of the whole file, in 16 digits
    sha256  JSON: the SHA-256 of each tensor's bytes, by name

Seal and bytes come first, so that their places are known before anything is parsed. The format of
safetensors: https://github.com/huggingface/safetensors#format
"""

import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from steepest.errors import CheckpointError

HEADER_LIMIT = 16 * 2**20  # bytes of a header, of any file
ALIGNMENT = 64  # bytes: where the tensors begin, for those who map the file into memory
CHUNK = 4 * 2**20  # bytes that one thread moves while another hashes
SMALL = 2**20  # bytes of a file that is hashed sooner than a thread starts

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAME_OF = {dtype: name for name, dtype in DTYPES.items()}

NAME = re.compile(r"[A-Za-z0-9._-]{1,255}")
ZEROS = "0" * 64
SEAL = len('{"__metadata__":{"seal":"') + 8  # its place in the file
HEAD = re.compile(rb'.{8}\{"__metadata__":\{"seal":"([0-9a-f]{64})","bytes":"(\d{16})"', re.DOTALL)
OLD_SEAL = b"steepest checkpoint 1\n"  # before the first release; a SHA-256 follows
OLD_SEAL_BYTES = len(OLD_SEAL) + 32
HEAD_BYTES = SEAL + 64 + len('","bytes":"') + 16 + 1


class Entry(NamedTuple):
    """A tensor's place in the file, its offsets counted from the header's end, in bytes."""

    name: str
    dtype: torch.dtype
    shape: list[int]
    begin: int
    end: int
    sha256: str


class Sealed:
    """Tensors and strings laid out as a file that is yet to be written.

    Attributes:
        size: the bytes that the file will have.
    """

    def __init__(self, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        # wide elements first: then each tensor begins at a multiple of its element's size
        self._tensors = sorted(tensors.items(), key=lambda pair: -pair[1].element_size())
        self._metadata = metadata
        self._entries, end = _entries(self._tensors)
        self.size = 0
        self.size = len(self._header(dict.fromkeys(tensors, ZEROS))) + end

    def write(self, file: BinaryIO) -> None:
        """Write the file, each tensor read once: its bytes are hashed while they are written."""
        digests = {name: hashlib.sha256() for name, _ in self._tensors}
        file.seek(len(self._header(dict.fromkeys(digests, ZEROS))))
        with _hashing(self.size) as update:
            for name, tensor in self._tensors:
                for chunk in _chunks(_bytes_of(tensor.cpu().contiguous())):
                    update(digests[name], chunk)
                    file.write(chunk)
        header = self._header({name: digest.hexdigest() for name, digest in digests.items()})
        seal = hashlib.sha256(header).hexdigest().encode()
        file.seek(0)
        file.write(header[:SEAL] + seal + header[SEAL + 64 :])

    def _header(self, digests: dict[str, str]) -> bytes:
        """Return length and header, with zeros for a seal; it has the same length each time."""
        sums = json.dumps(digests, separators=(",", ":"))
        first = {"seal": ZEROS, "bytes": f"{self.size:016d}", "sha256": sums}
        metadata = json.dumps(first | dict(self._metadata), separators=(",", ":"))
        header = f'{{"__metadata__":{metadata}{self._entries}'.encode()
        header += b" " * (-(len(header) + 8) % ALIGNMENT)
        if len(header) > HEADER_LIMIT:
            raise CheckpointError(
                f"A checkpoint's names, numbers and strings take at most {HEADER_LIMIT:,} bytes: "
                f"got {len(header):,}; keep long lists as tensors"
            )
        return len(header).to_bytes(8, "little") + header


def read_sealed(file: BinaryIO) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return a file's tensors and metadata once every byte is known to be the one written.

    `file` is unbuffered. What it declares is held against its size before memory is taken.

    Raises:
        CheckpointError: it is damaged, or another program wrote it; the message lacks the file's
            name.
    """
    size = os.fstat(file.fileno()).st_size
    header = _read_header(file, size)
    try:
        content = json.loads(header, object_pairs_hook=_no_name_twice)
        metadata = content.pop("__metadata__")
        entries = list(_checked(content, json.loads(metadata["sha256"]), size - 8 - len(header)))
    except CheckpointError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _wrong(f"{type(error).__name__} in it") from None
    _check_memory(size)
    return _read_tensors(file, entries, size), metadata


def _entries(tensors: list[tuple[str, Tensor]]) -> tuple[str, int]:
    """Return the header's part for the tensors, and the bytes that they take."""
    entries, end = {}, 0
    for name, tensor in tensors:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        dtype = NAME_OF[tensor.dtype]
        entries[name] = {"dtype": dtype, "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(entries, separators=(",", ":"))
    return ("," if entries else "") + text[1:], end


def _bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, not copied."""
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def _chunks(view: memoryview) -> Iterator[memoryview]:
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]


@contextmanager
def _hashing(size: int) -> Iterator[Callable[[Any, memoryview], object]]:
    """Give `update(digest, bytes)`; it works in a second thread where that pays.

    The thread lags by one chunk at most, so that no copies of tensors pile up.
    """
    if size < SMALL:
        yield lambda digest, chunk: digest.update(chunk)
        return
    with ThreadPoolExecutor(1) as thread:
        last = thread.submit(int)

        def update(digest: Any, chunk: memoryview) -> None:
            nonlocal last
            last.result()
            last = thread.submit(digest.update, chunk)

        yield update


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
        if not NAME.fullmatch(name):
            raise _wrong(f"it names a tensor {name[:50]!r}")
        if dtype is None:
            raise _wrong(f"{name} has the unknown dtype {str(entry['dtype'])[:50]!r}")
        if type(shape) is not list or len(shape) > 64 or not all(map(_is_size, shape)):
            raise _wrong(f"{name} has no shape that a tensor has")
        if type(begin) is not int or begin != place or type(end) is not int:
            raise _wrong(f"the bytes of {name} do not follow those before it")
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise _wrong(f"{name} has a shape of another size than its bytes")
        place = end
        yield Entry(name, dtype, shape, begin, end, sums[name])
    if place != size:
        raise _wrong(f"its tensors have {place:,} bytes where the file has {size:,}")


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        raise _wrong("it has a name twice")
    return names


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
    with _hashing(size) as update:
        for entry, digest in zip(entries, digests, strict=True):
            content = torch.empty(entry.end - entry.begin, dtype=torch.uint8)
            for chunk in _chunks(_bytes_of(content)):
                _read_into(file, chunk)
                update(digest, chunk)
            tensors[entry.name] = content
    for entry, digest in zip(entries, digests, strict=True):
        if digest.hexdigest() != entry.sha256:
            raise _changed(entry.name)
        tensors[entry.name] = _typed(tensors[entry.name], entry)
    return tensors


def _typed(content: Tensor, entry: Entry) -> Tensor:
    if entry.dtype is torch.bool and (content > 1).any():
        raise _wrong(f"{entry.name} holds bytes that are neither true nor false")
    try:
        return content.view(entry.dtype).reshape(entry.shape)
    except RuntimeError:  # no elements, and dimensions whose product torch cannot count
        raise _wrong(f"{entry.name} has no shape that a tensor has") from None


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
