"""A checkpoint that is not, byte for byte, the one that was written is refused in one sentence."""

import errno
import fcntl
import hashlib
import io
import json
import os
import pickle
import random
import re
import resource
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from steepest.errors import CheckpointError
from steepest.train.files.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_model,
    write_whole,
)
from steepest.train.files.sealed import HEAD_BYTES

STATE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor(2, dtype=torch.int8)},
    "step": 7,
    "loss": 0.5,
    "empty": torch.zeros(0, 3),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "a.safetensors", STATE)
    return tmp_path / "a.safetensors"


def refusal(path: Path) -> str:
    """Return the sentence with which a file is refused, without its name."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    text = str(caught.value)
    assert text.startswith(f"{path} ")
    assert "\n" not in text
    return text.removeprefix(f"{path} ")


# ---- damage ----------------------------------------------------------------------------------


def regions(whole: bytes) -> dict[str, range]:
    length = int.from_bytes(whole[:8], "little") + 8
    header = whole[:length]
    text = len(header.rstrip(b" "))
    content = json.loads(header[8:])
    offsets = {name: content[name]["data_offsets"] for name in ("model.weight", "model.bias")}
    return {
        "length": range(8),
        "beginning": range(8, HEAD_BYTES),
        "metadata": range(HEAD_BYTES, header.index(b'"model.weight":{')),
        "entries": range(header.index(b'"model.weight":{'), text),
        "padding": range(text, length),
        **{name: range(length + begin, length + end) for name, (begin, end) in offsets.items()},
    }


REGIONS = ["length", "beginning", "metadata", "entries", "padding", "model.weight", "model.bias"]


@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_bit_is_refused_by_its_checksum(path: Path, region: str):
    whole, draw = path.read_bytes(), random.Random(region)
    where = regions(whole)[region]
    assert len(where)
    for position in draw.choices(where, k=29):  # 203 in all
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged)
        reason = refusal(path)
        assert "checksum" in reason, position
        assert region not in ("model.weight", "model.bias") or f"of {region} differs" in reason


def cuts(size: int) -> list[int]:
    return sorted({0, 1, 7, 8, 9, 100, size // 2, size - 1, *(size * n // 50 for n in range(50))})


def test_a_file_cut_short_anywhere_is_refused(path: Path):
    whole = path.read_bytes()
    for size in cuts(len(whole)):
        path.write_bytes(whole[:size])
        of = f"{len(whole):,}" if size >= HEAD_BYTES else f"at least {HEAD_BYTES}"
        assert refusal(path) == f"is cut short: {size:,} of {of} bytes; take an older one"


@pytest.mark.parametrize("more", [b"\0", b"x" * 1000])
def test_bytes_after_the_end_are_refused(path: Path, more: bytes):
    path.write_bytes(path.read_bytes() + more)
    assert f"{len(more):,} bytes follow its end" in refusal(path)


def test_a_file_that_shrinks_while_it_is_read_is_refused(path: Path, monkeypatch):
    from steepest.train.files import unsealed

    read = unsealed._read_tensors

    def shrunk(*args: Any) -> Any:
        os.truncate(path, path.stat().st_size - 1)
        return read(*args)

    monkeypatch.setattr(unsealed, "_read_tensors", shrunk)
    assert "cut short" in refusal(path)


# ---- other files -----------------------------------------------------------------------------


class Marker:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.path,)


def torch_saved(value: object, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def old(value: object) -> bytes:
    content = torch_saved(value)
    return content + b"steepest checkpoint 1\n" + hashlib.sha256(content).digest()


TORCH = "torch.save may have written it; read it with torch.load"
FOREIGN: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "cut short: 0 of at least"),
    "text": (lambda _: b"hello\n", "cut short: 6 of at least"),
    "zeros": (lambda _: bytes(1000), "not a steepest checkpoint"),
    "png": (lambda _: b"\x89PNG\r\n\x1a\n" + bytes(1000), "not a steepest checkpoint"),
    "json": (lambda _: json.dumps([1] * 100).encode(), "not a steepest checkpoint"),
    "safetensors": (lambda _: safetensors.torch.save({"a": torch.ones(90)}), "weights alone are"),
    "torch.save": (lambda _: torch_saved({"a": 1}), TORCH),
    "torch.save of old": (lambda _: torch_saved(1, _use_new_zipfile_serialization=False), TORCH),
    "torch.save with code": (lambda marker: torch_saved(Marker(marker)), TORCH),
    "a pickle with code": (lambda m: pickle.dumps(Marker(m), protocol=2), TORCH),
    "before the release": (lambda _: old({"a": 1}), "an unreleased version of steepest wrote it"),
    "before, with code": (lambda marker: old(Marker(marker)), "an unreleased version"),
}


@pytest.mark.parametrize(("content", "match"), FOREIGN.values(), ids=FOREIGN)
def test_another_file_is_refused(tmp_path: Path, content, match: str):
    path, marker = tmp_path / "x", tmp_path / "marker"
    path.write_bytes(content(marker))
    assert match in refusal(path)
    assert not marker.exists()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    assert refusal(tmp_path / "missing") == "cannot be read: No such file or directory"
    assert "cannot be read" in refusal(tmp_path / "loop")
    assert refusal(tmp_path) == "cannot be read: Is a directory"
    assert refusal(tmp_path / "pipe") == refusal(Path("/dev/zero")) == "is not a plain file"


def test_weights_and_checkpoints_are_told_apart(path: Path):
    save_model(path.with_name("m"), nn.Linear(1, 1))
    assert refusal(path.with_name("m")) == "holds weights alone: read it with load_weights"
    with pytest.raises(CheckpointError, match="read it with load_checkpoint"):
        load_weights(path)


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


# ---- not finite ------------------------------------------------------------------------------

INF, NAN = float("inf"), float("nan")
BAD = {
    "nan": torch.tensor([1.0, NAN]),
    "inf": torch.tensor([[INF]]),
    "opposite": torch.tensor([INF, -INF]),
    "half": torch.tensor([INF], dtype=torch.bfloat16),
    "float8": torch.tensor([NAN]).to(torch.float8_e4m3fn),
    "complex": torch.tensor([complex(1, NAN)]),
    "sparse": torch.tensor([0.0, NAN]).to_sparse(),
}


@pytest.mark.parametrize("tensor", BAD.values(), ids=BAD)
def test_a_number_that_is_not_finite_is_refused_where_it_must_be(tmp_path: Path, tensor):
    path = tmp_path / "x"
    save_checkpoint(path, {"model": {"a": tensor, "b": [torch.ones(2), (tensor,)]}, "best": INF})
    load_checkpoint(path)
    load_checkpoint(path, finite=[("best",), ("absent", 1), ("model", "c")])
    for place, told in ((("model", "b"), "['b'][1][0]"), (("model",), "['a']"), ((), "['a']")):
        with pytest.raises(
            CheckpointError, match=re.escape(f"NaN or infinity in state['model']{told}")
        ):
            load_checkpoint(path, finite=[place])


def test_large_numbers_are_finite(tmp_path: Path):
    save_checkpoint(tmp_path / "x", {"model": torch.full((4,), 3e38)})
    load_checkpoint(tmp_path / "x", finite=[("model",)])


# ---- writing ---------------------------------------------------------------------------------


def test_a_full_disk_leaves_the_old_file_and_says_what_is_needed(path: Path):
    before = path.read_bytes()
    big = {"x": torch.zeros(10**6)}

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**5,) * 2)
        save_checkpoint(path, big)

    told = r"written: File too large \(it needs 4,000,\d{3} bytes and [\d,]+ are free\); free or"
    assert re.search(told, in_a_child(work))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_temporary_folder_has_no_part(path: Path, monkeypatch: pytest.MonkeyPatch):
    with tempfile.TemporaryDirectory(dir="/dev/shm") as other:
        assert Path(other).stat().st_dev != path.stat().st_dev
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setenv("TMPDIR", other)
        assert tempfile.gettempdir() == other
        begin = Path(other).stat().st_mtime_ns
        save_checkpoint(path, STATE)
        save_model(path.with_name("m"), nn.Linear(2, 2))
        load_checkpoint(path)
        assert Path(other).stat().st_mtime_ns == begin  # nothing was made in it, nor removed


def test_two_that_write_to_one_path_do_not_mix(path: Path):
    def write(temporary: Path) -> None:
        temporary.write_bytes(b"mine")
        told.append(in_a_child(lambda: save_checkpoint(path, STATE)))
        with pytest.raises(CheckpointError, match="another process or thread is writing"):
            save_checkpoint(path, STATE)

    told: list[str] = []
    write_whole(path, write)
    assert "another process or thread is writing" in told[0]
    assert path.read_bytes() == b"mine"


def test_a_file_that_another_process_just_put_in_place_is_let_be(path: Path, monkeypatch):
    """It was opened under its temporary name before it was renamed, and unlocked after."""
    temporary, flock, theirs = path.with_name(path.name + ".tmp"), fcntl.flock, b"theirs"
    temporary.write_bytes(theirs)

    def late(descriptor: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        temporary.rename(path.with_name("theirs"))
        flock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", late)
    save_checkpoint(path, {"x": 1})
    assert path.with_name("theirs").read_bytes() == theirs
    assert load_checkpoint(path) == {"x": 1}


@pytest.mark.parametrize("kind", ["symlink", "pipe", "folder"])
def test_what_lies_in_the_way_of_the_temporary_file_is_not_followed(path: Path, kind: str):
    before, temporary = path.read_bytes(), path.with_name(path.name + ".tmp")
    victim = path.with_name("victim")
    victim.write_bytes(b"as it was")
    if kind == "symlink":
        temporary.symlink_to(victim)
    elif kind == "pipe":
        os.mkfifo(temporary)
    else:
        temporary.mkdir()
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint(path, STATE)
    assert victim.read_bytes() == b"as it was"
    assert path.read_bytes() == before


def test_a_link_in_place_of_the_checkpoint_is_replaced_not_followed(path: Path):
    victim, link = path.with_name("victim"), path.with_name("link")
    victim.write_bytes(b"as it was")
    link.symlink_to(victim)
    save_checkpoint(link, STATE)
    assert victim.read_bytes() == b"as it was"
    assert load_checkpoint(link)["step"] == 7


def test_killed_while_saving_leaves_the_old_or_the_new(tmp_path: Path):
    path, draw = tmp_path / "x", random.Random(0)
    values = [torch.full((400_000,), float(value)) for value in range(4)]
    begin = time.perf_counter()
    save_checkpoint(path, {"x": values[0]})
    seconds = time.perf_counter() - begin
    for _ in range(25):
        child = os.fork()
        if child == 0:
            while True:
                for value in values:
                    save_checkpoint(path, {"x": value})
        time.sleep(draw.uniform(0, 2 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        x = load_checkpoint(path)["x"]
        assert x.shape == (400_000,)
        assert (x == x[0]).all()
        assert set(os.listdir(tmp_path)) <= {"x", "x.tmp"}
    save_checkpoint(path, STATE)
    assert os.listdir(tmp_path) == ["x"]


def test_a_folder_that_the_system_does_not_sync_is_no_fault(path: Path, monkeypatch):
    fsync = os.fsync

    def refusing(descriptor: int) -> None:
        if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_dir():
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refusing)
    save_checkpoint(path, {"x": 1})
    assert load_checkpoint(path) == {"x": 1}
