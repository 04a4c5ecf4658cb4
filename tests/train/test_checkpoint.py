"""Checkpoints are whole or absent, and hold no code."""

import io
import os
import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from steepest.errors import CheckpointError
from steepest.train import load_checkpoint, save_checkpoint, save_model
from steepest.train.checkpoint import MAGIC, write_whole

STATE = {
    "weights": OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.tensor(2, dtype=torch.int8)),
    "nested": [1, 2.5, "text", None, True, (3, 4), {5: 6}],
    "nan": float("inf"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "checkpoint.pt", STATE)
    return tmp_path / "checkpoint.pt"


def test_comes_back_as_it_was(path: Path):
    state = load_checkpoint(path)
    assert torch.equal(state["weights"]["a"], STATE["weights"]["a"])
    assert state["weights"]["b"].dtype == torch.int8
    assert state["nested"] == STATE["nested"]
    assert state["nan"] == float("inf")
    assert torch.load(path, weights_only=True)["nested"] == STATE["nested"]  # by hand
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


def test_cut_short_anywhere_is_refused(path: Path):
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match="not a whole steepest checkpoint"):
            load_checkpoint(path)


def test_a_changed_bit_is_refused_anywhere(path: Path):
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"checksum|cut short"):
            load_checkpoint(path)


class Marker:
    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def sealed(content: bytes) -> bytes:
    import hashlib

    return content + MAGIC + hashlib.sha256(content).digest()


def torch_saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


FOREIGN = {
    "empty": lambda marker: b"",
    "text": lambda marker: b"hello\n",
    "png": lambda marker: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "a plain torch.save": lambda marker: torch_saved({"a": 1}),
    "bytes after the end": lambda marker: sealed(torch_saved({"a": 1})) + b"\0",
    "only a seal": lambda marker: sealed(b""),
    "a sealed text": lambda marker: sealed(b"hello\n"),
    "a sealed pickle with code": lambda marker: sealed(torch_saved(Marker(marker))),
    "a sealed bare pickle with code": lambda marker: sealed(pickle.dumps(Marker(marker))),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_a_foreign_file_is_refused(tmp_path: Path, content):
    path, marker = tmp_path / "checkpoint.pt", tmp_path / "marker"
    path.write_bytes(content(marker))
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt is not a whole steepest checkpoint"):
        load_checkpoint(path)
    assert not marker.exists()


def test_what_is_no_file_is_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "value",
    [np.float64(1), np.zeros(2), Path("x"), defaultdict(int), object(), torch.nn.Linear(1, 1)],
    ids=lambda value: type(value).__name__,
)
def test_what_only_code_restores_is_refused_before_it_is_written(path: Path, value: object):
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"in state\['deep'\]\['x'\]"):
        save_checkpoint(path, {"deep": {"x": [value]}})
    assert path.read_bytes() == before


def test_a_write_that_fails_leaves_the_old_file(path: Path):
    before = path.read_bytes()

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="could not be written: No space left on device"):
        write_whole(path, write)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["checkpoint.pt"]


def test_a_folder_that_is_absent_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint(tmp_path / "absent" / "checkpoint.pt", STATE)


def test_file_and_folder_are_synced_in_order(path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def noted_replace(self: Path, target: Path) -> Path:
        done.append(f"rename {self.name} {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    save_checkpoint(path, STATE)
    temporary = "checkpoint.pt.tmp"
    assert done == [
        f"sync {temporary}",
        f"rename {temporary} checkpoint.pt",
        f"sync {path.parent.name}",
    ]


KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from steepest.train import load_checkpoint, save_checkpoint

torch.set_num_threads(1)
path = Path(sys.argv[1])
save_checkpoint(path, {"x": torch.zeros(500_000)})
kinds = set()
for _ in range(20):
    child = os.fork()
    if child == 0:
        while True:
            for value in (1.0, 2.0):
                save_checkpoint(path, {"x": torch.full((500_000,), value)})
    time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    x = load_checkpoint(path)["x"]
    assert x.shape == (500_000,) and (x == x[0]).all()
    kinds.add(x[0].item())
print(sorted(kinds))
"""


def test_killed_while_saving_leaves_the_old_or_the_new(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} <= {"checkpoint.pt", "checkpoint.pt.tmp"}


def test_the_model_is_kept_as_safetensors(tmp_path: Path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save_model(tmp_path / "model.safetensors", model)
    kept = safetensors.torch.load_file(tmp_path / "model.safetensors")
    assert kept.keys() == model.state_dict().keys()
    assert torch.equal(kept["0.weight"], model[0].weight)
    other = tmp_path / "other"
    other.touch()
    assert (tmp_path / "model.safetensors").stat().st_mode == other.stat().st_mode


def test_tied_weights_are_kept(tmp_path: Path):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    save_model(tmp_path / "model.safetensors", model)
    again = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    again[1].weight = again[0].weight
    safetensors.torch.load_model(again, tmp_path / "model.safetensors")
    assert torch.equal(again[1].weight, model[0].weight)
