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
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

import torch
from torch import Tensor

from steepest import __version__
from steepest.errors import CheckpointError

VERSION = 1  # of this format
HEADER_LIMIT = 16 * 2**20  # bytes of a header, of any file
ALIGNMENT = 64  # bytes: where the tensors begin, for those who map the file into memory
CHUNK = 4 * 2**20  # bytes that one thread moves while another hashes
SMALL = 2**16  # bytes that are hashed sooner than another thread takes them

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
    "C64": torch.complex64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
NAME_OF = {dtype: name for name, dtype in DTYPES.items()}

ZEROS = "0" * 64
SEAL = len('{"__metadata__":{"seal":"') + 8  # its place in the file
HEAD = re.compile(rb'.{8}\{"__metadata__":\{"seal":"([0-9a-f]{64})","bytes":"(\d{16})"', re.DOTALL)
HEAD_BYTES = SEAL + 64 + len('","bytes":"') + 16 + 1


class Sealed:
    """Tensors and strings laid out as a file that is yet to be written.

    Attributes:
        size: the bytes that the file will have.
    """

    def __init__(self, kind: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
        # wide elements first: then each tensor begins at a multiple of its element's size
        self._tensors = dict(sorted(tensors.items(), key=lambda pair: -pair[1].element_size()))
        entries, length = _entries(self._tensors)
        versions = {"version": str(VERSION), "steepest": __version__, "torch": torch.__version__}
        metadata = {"format": "pt", "kind": kind, **versions, **metadata}
        self._rest = f",{_json(metadata)[1:]}{entries}"
        self.size = 0
        self._rest += " " * (-len(self._header(dict.fromkeys(tensors, ZEROS))) % ALIGNMENT)
        self._begin = len(self._header(dict.fromkeys(tensors, ZEROS)))
        self.size = self._begin + length
        if self._begin > HEADER_LIMIT:
            raise CheckpointError(
                f"The names and shapes of a file's tensors take at most {HEADER_LIMIT:,} bytes: "
                f"got {self._begin:,}; keep fewer and larger tensors"
            )

    def write(self, file: BinaryIO) -> None:
        """Write the file, each tensor read once: its bytes are hashed while they are written."""
        digests = {name: hashlib.sha256() for name in self._tensors}
        file.seek(self._begin)
        with hashing(self.size) as update:
            for name, tensor in self._tensors.items():
                for chunk in chunks(bytes_of(tensor.detach().cpu().contiguous())):
                    update(digests[name], chunk)
                    file.write(chunk)
        header = self._header({name: digest.hexdigest() for name, digest in digests.items()})
        seal = hashlib.sha256(header).hexdigest().encode()
        file.seek(0)
        file.write(header[:SEAL] + seal + header[SEAL + 64 :])

    def _header(self, digests: dict[str, str]) -> bytes:
        """Return length and header, with zeros for a seal; it has the same length each time."""
        sums = _json(_json(digests))
        head = f'"seal":"{ZEROS}","bytes":"{self.size:016d}","sha256":{sums}'
        header = f'{{"__metadata__":{{{head}{self._rest}'.encode()
        return len(header).to_bytes(8, "little") + header


def check_dense(tensor: Tensor, name: str) -> None:
    """Refuse what the file cannot hold: other layouts and dtypes, and tensors without values.

    Raises:
        CheckpointError: the tensor called `name` is such a one.
    """
    kind = ""
    if tensor.is_meta:
        kind = "on the meta device, without values"
    elif tensor.is_quantized:
        kind = "quantized"
    elif tensor.is_nested:
        kind = "nested"
    elif tensor.layout is not torch.strided:
        kind = f"of layout {tensor.layout}"
    elif tensor.dtype not in NAME_OF:
        kind = f"of dtype {tensor.dtype}"
    if kind:
        raise CheckpointError(
            f"A checkpoint holds plain tensors of the usual dtypes: got {name}, which is {kind}; "
            "convert it, for example with .to_dense() or .dequantize()"
        )


def is_name(name: str) -> bool:
    """Return whether a tensor of a file can be called that."""
    return 0 < len(name) <= 255 and name.isprintable() and name != "__metadata__"


def no_name_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the names of a JSON object with their values.

    Raises:
        CheckpointError: a name stands there twice, of which JSON's readers take any.
    """
    names = dict(pairs)
    if len(names) < len(pairs):
        raise CheckpointError("has a name twice, as steepest does not; do not trust it")
    return names


def where(tensor: Tensor) -> object:
    """Return what only tensors have in common that are the same part of memory, seen alike."""
    if not tensor.numel():
        return object()
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


def _entries(tensors: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return the header's end, which tells of the tensors, and the bytes that they take."""
    entries, end = {}, 0
    for name, tensor in tensors.items():
        if not is_name(name):
            raise CheckpointError(
                f"Weights have names of 1 to 255 letters that can be printed: {name[:50]!r} is no "
                "name for a tensor; rename it"
            )
        begin, end = end, end + tensor.nbytes
        dtype = NAME_OF[tensor.dtype]
        entries[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": (begin, end)}
    return f",{_json(entries)[1:]}" if entries else "}", end


_json = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def bytes_of(tensor: Tensor) -> memoryview:
    """Return the bytes of a contiguous tensor on the CPU, not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def chunks(view: memoryview) -> Iterator[memoryview]:
    """Yield the bytes in parts that a thread moves while another hashes the one before."""
    for start in range(0, len(view), CHUNK):
        yield view[start : start + CHUNK]


@contextmanager
def hashing(size: int) -> Iterator[Callable[[Any, memoryview], object]]:
    """Give `update(digest, bytes)`; it works in a second thread where that pays.

    The thread lags by one chunk at most, so that no copies of tensors pile up.
    """
    if size < 16 * SMALL:
        yield lambda digest, chunk: digest.update(chunk)
        return
    with ThreadPoolExecutor(1) as thread:
        last = thread.submit(int)

        def update(digest: Any, chunk: memoryview) -> None:
            nonlocal last
            last.result()
            if len(chunk) < SMALL:
                digest.update(chunk)
            else:
                last = thread.submit(digest.update, chunk)

        yield update
