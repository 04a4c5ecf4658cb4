"""What the arrays of a .npy or .npz file claim to be, looked at before any memory is taken."""

import math
import os
import zipfile
from typing import IO, BinaryIO

from numpy.lib import format as npy

from steepest.data.memory import memory_of_machine

# The bytes that one byte of a zip archive can stand for; numpy writes no other kinds.
MOST_EXPANDED = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def check_claims(file: BinaryIO) -> None:
    """Refuse a file whose arrays claim more than it can hold, or more than the machine's memory.

    Afterwards the file stands at its beginning.

    Raises:
        ValueError: it does, or is damaged; the message is a part of a sentence.
        zipfile.BadZipFile: it is a damaged archive.
    """
    size = os.fstat(file.fileno()).st_size
    begins = file.read(len(npy.MAGIC_PREFIX))
    file.seek(0)
    if begins == npy.MAGIC_PREFIX:
        _check_array(file, size, "its array")
    elif begins.startswith(b"PK"):
        with zipfile.ZipFile(file) as archive:
            _check_members(archive, size)
    file.seek(0)


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    members = archive.infolist()
    for member in members:
        most = MOST_EXPANDED.get(member.compress_type, 0) * min(member.compress_size, size)
        if member.file_size > most:
            raise ValueError(f"{member.filename!r} claims more bytes than it can hold")
    expanded, memory = sum(member.file_size for member in members), memory_of_machine()
    if expanded > memory:
        raise ValueError(
            f"its arrays take {expanded:,} bytes, more than the machine's memory of {memory:,}"
        )
    for member in members:
        with archive.open(member) as part:
            _check_array(part, member.file_size, f"{member.filename!r}")


def _check_array(file: IO[bytes], size: int, what: str) -> None:
    """Compare what an array's header claims with the bytes that there are."""
    version = npy.read_magic(file)  # pyright: ignore[reportArgumentType]
    if version not in HEADERS:
        raise ValueError(f"{what} is of version {version}, which holds no plain column")
    shape, _, dtype = HEADERS[version](file)  # pyright: ignore[reportArgumentType]
    if dtype.hasobject:
        return  # refused when it is read, for its objects
    claimed = math.prod(shape) * max(1, dtype.itemsize)
    if min(shape, default=0) < 0 or claimed > size:
        raise ValueError(
            f"{what} claims the shape {shape}, {claimed:,} bytes, and has {size:,} with its header"
        )
