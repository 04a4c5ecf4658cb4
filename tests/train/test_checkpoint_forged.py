"""Files made to harm, whose checksums are right: refused, and nothing of them runs."""

import hashlib
import json
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.errors import CheckpointError
from steepest.train.files.checkpoint import load_checkpoint
from steepest.train.files.sealed import SEAL


def refusal(path: Path) -> str:
    """Return the sentence with which a file is refused, without its name."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path} ")
    assert "\n" not in text
    return text.removeprefix(f"{path} ")


def sealed(header: bytes, data: bytes = b"", size: int | None = None) -> bytes:
    """Return a file with that header, whose seal, length and size are set right."""
    size = 8 + len(header) + len(data) if size is None else size
    header = re.sub(rb'"bytes":"\d{16}"', b'"bytes":"%016d"' % size, header)
    text = len(header).to_bytes(8, "little") + header
    assert text[SEAL : SEAL + 64] == b"0" * 64
    seal = hashlib.sha256(text).hexdigest().encode()
    return text[:SEAL] + seal + text[SEAL + 64 :] + data


def forged(
    entries: Any = None,
    tree: Any = None,
    data: bytes = bytes(8),
    size: int | None = None,
    **meta: Any,
) -> bytes:
    """Return a file with those parts, by default one that loads: {"x": tensor([0.0, 0.0])}."""
    if entries is None:
        entries = {"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    sums = {}
    for name, entry in entries.items():
        begin, end = entry["data_offsets"] if isinstance(entry, dict) else (0, 0)
        if isinstance(begin, int) and isinstance(end, int) and size is None:
            sums[name] = hashlib.sha256(data[begin:end]).hexdigest()
        else:
            sums[name] = "0" * 64
    tree = {"x": {"$tensor": {"name": "x"}}} if tree is None else tree
    state = tree if isinstance(tree, str) else json.dumps(tree)
    first = {"seal": "0" * 64, "bytes": "0" * 16, "sha256": json.dumps(sums)}
    first |= {"kind": "checkpoint", "version": "1", "steepest": "9.9", "state": state} | meta
    return sealed(json.dumps({"__metadata__": first, **entries}, separators=(",", ":")).encode(),
                  data, size)  # fmt: skip


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def doubled(content: bytes) -> bytes:
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    data = content[8 + len(header) :]
    header = header[: SEAL - 8] + b"0" * 64 + header[SEAL + 56 :]
    text = header.rstrip(b" ")
    return sealed(text[:-1] + b"," + text[text.index(b'"x":{"dtype"') :], data)


FORGED: dict[str, tuple[bytes, str]] = {
    "a name twice": (doubled(forged()), "a name twice"),
    "an unknown dtype": (forged({"x": entry("F33")}), "unknown dtype 'F33'"),
    "code for a dtype": (forged({"x": entry("os.system")}), "unknown dtype 'os.system'"),
    "a list for a dtype": (forged({"x": entry([1])}), "does not write"),
    "a negative size": (forged({"x": entry(shape=[-2])}), "no shape that a tensor has"),
    "two negative sizes": (forged({"x": entry(shape=[-1, -2])}), "no shape"),
    "a size beyond all": (forged({"x": entry(shape=[2**70])}), "no shape"),
    "a product beyond all": (forged({"x": entry(shape=[2**62, 4])}), "no shape"),
    "no elements, beyond all": (
        forged({"x": entry(shape=[0, 2**62, 2**62], offsets=[0, 0])}, data=b""), "no shape"),
    "a float for a size": (forged({"x": entry(shape=[2.0])}), "no shape"),
    "a text for a shape": (forged({"x": entry(shape="ab")}), "no shape"),
    "many dimensions": (forged({"x": entry(shape=[1] * 65 + [2])}), "no shape"),
    "another size": (forged({"x": entry(shape=[3])}), "another size"),
    "an end before the beginning": (forged({"x": entry(offsets=[8, 0])}), "do not follow"),
    "a negative beginning": (forged({"x": entry(offsets=[-8, 0])}), "do not follow"),
    "an end beyond the file": (
        forged({"x": entry(shape=[2**38], offsets=[0, 2**40])}), "where the file has 8"),
    "a hole": (forged({"x": entry(), "y": entry(offsets=[12, 20])}, data=bytes(20)), "not follow"),
    "an overlap": (forged({"x": entry(), "y": entry(offsets=[4, 12])}, data=bytes(12)), "not fol"),
    "bytes of no tensor": (forged(data=bytes(12)), "8 bytes where the file has 12"),
    "no bool": (forged({"x": entry("BOOL", [8])}, data=b"\2" * 8), "neither"),
    "no entry": (forged({"x": 3}), "does not write"),
    "a control character": (forged({"x\0y": entry()}), "it names a tensor 'x"),
    "a name of 300 letters": (forged({"x" * 300: entry()}), "it names a tensor 'x"),
    "other checksums": (forged(sha256="{}"), "different names"),
    "no JSON for checksums": (forged(sha256="{"), "does not write"),
    "no version": (forged(version="one"), "does not write"),
    "a later version": (forged(version="2"),
        "written by steepest 9.9 in version 2 of the format: this is steepest"),
    "no kind": (forged(kind=None), "holds"),
}  # fmt: skip

TREES: dict[str, Any] = {
    "no dict": [1],
    "no JSON": "{",
    "nesting": "[" * 100_000,
    "nesting in a dict": '{"x":' * 100_000,
    "a long number": '{"x":' + "9" * 5000 + "}",
    "NaN": '{"x": {"$tensor": {"name": "x"}}, "y": NaN, "y": 1}',
    "an unknown word": {"x": {"$os.system": "mkdir marker"}},
    "an import": {"x": {"$import": "os"}},
    "two words": {"x": {"$tuple": [], "$list": []}},
    "an absent tensor": {"x": {"$tensor": {"name": "y"}}},
    "no tensor": {"x": 1},
    "a tensor's name in a list": {"x": {"$tensor": {"name": ["x"]}}},
    "an order that is none": {"x": {"$tensor": {"name": "x", "order": [0, 0]}}},
    "an order of others": {"x": {"$tensor": {"name": "x", "order": [7]}}},
    "no pairs for complex": {"x": {"$tensor": {"name": "x", "complex": True, "order": [1]}}},
    "sparse of a number": {"x": {"$tensor": {"sparse": [1, 2, 3, 4]}}},
    "sparse beyond its size": {"x": {"$tensor": {"sparse": [
        {"$tensor": {"name": "x"}}, {"$tensor": {"name": "x"}}, {"$size": [1]}, True]}}},
    "a dtype that is code": {"x": {"$dtype": "os.system"}},
    "torch's own function as a dtype": {"x": {"$dtype": "torch.load"}},
    "a device that is none": {"x": {"$device": "disk"}},
    "a key that cannot be one": {"x": {"$dict": [[[], 1]]}},
    "a key twice": {"x": {"$dict": [[1, 1], [1, 2]]}},
    "an element that cannot be one": {"x": {"$set": [[]]}},
    "a size of text": {"x": {"$size": ["a"]}},
    "a size beyond all": {"x": {"$size": [2**70]}},
    "bytes that are none": {"x": {"$bytes": "%%"}},
    "a float that is none": {"x": {"$float": "one"}},
    "a complex of three": {"x": {"$complex": [1, 2, 3]}},
}  # fmt: skip
FORGED |= {
    f"long state: {name}": (forged({"$state": entry("U8", [len(text)], [0, len(text)])}, data=text,
                                   state=None), "steepest|tensors")
    for name, text in {"none": b"[]", "no ASCII": b"\xff", "nesting": b"[" * 10**5}.items()
}  # fmt: skip
FORGED |= {
    f"state: {name}": (forged(tree=tree), "steepest|tensors") for name, tree in TREES.items()
}


def test_the_forged_file_that_is_right_loads(tmp_path: Path):
    (tmp_path / "x").write_bytes(forged())
    assert torch.equal(load_checkpoint(tmp_path / "x")["x"], torch.zeros(2))


@pytest.mark.parametrize(("content", "match"), FORGED.values(), ids=FORGED)
def test_a_forged_file_is_refused(tmp_path: Path, content: bytes, match: str):
    before = set(sys.modules)
    (tmp_path / "x").write_bytes(content)
    assert re.search(match, refusal(tmp_path / "x"))
    assert os.listdir(tmp_path) == ["x"]
    assert set(sys.modules) == before


@pytest.mark.parametrize("name", ["../x", "/abs", "a/../../b", "a b"])
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str):
    tree = {"x": {"$tensor": {"name": name}}}
    (tmp_path / "x").write_bytes(forged({name: entry()}, tree))
    assert "names a tensor" in refusal(tmp_path / "x")


def test_a_long_header_is_refused_unread(tmp_path: Path):
    path = tmp_path / "x"
    path.write_bytes(sealed(forged()[8:-8].replace(forged()[SEAL : SEAL + 64], b"0" * 64)
                            + b" " * 2**24, bytes(8)))  # fmt: skip
    assert "checksum of its header" in refusal(path)


def in_a_child(work: Callable[[], None]) -> str:
    """Return what `work` raises in a forked process, or nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = ""
        try:
            work()
        except BaseException as error:
            text = str(error) or type(error).__name__
        os.write(writing, text[:4000].encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def hollow(path: Path, size: int) -> None:
    """Write a file with one tensor of so many bytes that take no room on the disk."""
    entries = {"x": entry("U8", [size], [0, size])}
    start = len(forged(entries, data=b"", size=0))
    path.write_bytes(forged(entries, data=b"", size=start + size))
    os.truncate(path, start + size)


def load_within(path: Path, memory: int) -> str:
    """Return why a file cannot be loaded by a process that gets so many bytes more."""

    def work() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + memory,) * 2)
        load_checkpoint(path)

    return in_a_child(work)


def test_a_terabyte_of_nothing_is_refused_within_little_memory(tmp_path: Path):
    (tmp_path / "zeros").touch()
    os.truncate(tmp_path / "zeros", 2**40)
    assert "not a steepest checkpoint" in load_within(tmp_path / "zeros", 2**24)
    hollow(tmp_path / "forged", 2**40)
    assert "than this machine has memory" in load_within(tmp_path / "forged", 2**24)


def test_memory_that_is_not_there_is_told(tmp_path: Path):
    hollow(tmp_path / "x", 2**27)
    told = "cannot be read: there is no memory for 134,217,728 bytes"
    assert told in load_within(tmp_path / "x", 2**26)
