"""Checkpoints are whole or absent, hold no code, and give back what was put in."""

import errno
import json
import os
import time
from collections import OrderedDict, defaultdict
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from steepest.errors import CheckpointError
from steepest.train.files import sealed
from steepest.train.files.checkpoint import (
    load_checkpoint,
    load_weights,
    save_checkpoint,
    save_model,
    save_weights,
    write_whole,
)

STATE = {
    "weights": OrderedDict(a=torch.arange(6.0).reshape(2, 3), b=torch.tensor(2, dtype=torch.int8)),
    "step": 7,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "a.safetensors", STATE)
    return tmp_path / "a.safetensors"


def back(path: Path, value: object) -> object:
    save_checkpoint(path, {"x": value})
    return load_checkpoint(path)["x"]


VALUES = [
    None, True, 0, -1, 2**64, -(10**4000), 0.1, -0.0, 5e-324, float("inf"), -float("inf"),
    1 - 2j, complex("nan+infj"), "", "é\n\"\\\ud800\0", b"", bytes(range(256)), [], (), set(), {},
    [1, [2.5, ["x"]]], (1, (2, None)), {1, 300, 2}, {"a"}, {"a": {"b": []}}, {1: 2, (3, 4): "x"},
    {None: 1, True: 2, 2.5: 3, "x": 4}, {"$tensor": 1}, {"$": {"$dict": []}}, OrderedDict(b=1, a=2),
    OrderedDict({1: OrderedDict()}), torch.float32, torch.bool, torch.complex128, torch.quint8,
    torch.device("cpu"), torch.device("cuda:1"), torch.Size([]), torch.Size([2, 0, 3]),
]  # fmt: skip


@pytest.mark.parametrize(
    "value", VALUES, ids=lambda value: repr(value)[:40].encode("unicode_escape").decode()
)
def test_a_value_comes_back_as_it_was(tmp_path: Path, value: object):
    again = back(tmp_path / "x", value)
    assert type(again) is type(value)
    assert repr(again) == repr(value)  # the order of dicts, signs of zeros and NaN included


DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn,
    torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64,
    torch.uint32, torch.uint16, torch.uint8, torch.bool,
    torch.complex64, torch.complex128, torch.complex32,
]  # fmt: skip


def bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
    return bytes(plain.view(torch.uint8).tolist())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (3, 5, 2)], ids=str)
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_a_tensor_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype, shape):
    count = int(np.prod(shape)) * dtype.itemsize
    content = torch.randint(0, 2 if dtype is torch.bool else 256, (count,), dtype=torch.uint8)
    tensor = content.view(dtype).reshape(shape)  # NaN of every kind among them
    again = back(tmp_path / "x", tensor)
    assert again.dtype == dtype
    assert again.shape == shape
    assert bits(again) == bits(tensor)


BASE = torch.randn(4, 6, 3, 5)
LAYOUTS = {
    "transposed": BASE[0, :, :, 0].T,
    "channels last": BASE.to(memory_format=torch.channels_last),
    "permuted": BASE.permute(3, 1, 0, 2),
    "with gaps": BASE[:, ::2, 1:],
    "one of many": BASE[2, 3],
    "expanded": BASE[:, :1].expand(4, 6, 3, 5),
    "conjugated": torch.randn(3, 2, dtype=torch.complex64).mH,
    "negative": torch.randn(3, dtype=torch.complex64).conj().imag,
    "seen as negative": torch._neg_view(torch.randn(3)),
    "complex that needs a gradient": torch.randn(3, dtype=torch.complex64, requires_grad=True),
    "sparse that needs a gradient": torch.eye(2).to_sparse().requires_grad_(),
    "gaps that need a gradient": torch.randn(3, 4, requires_grad=True)[:, ::2],
    "real part": torch.randn(3, 4, dtype=torch.complex64).real,
    "needs a gradient": torch.randn(3, requires_grad=True),
    "a result": torch.randn(3, requires_grad=True) * 2,
    "parameter": nn.Parameter(torch.randn(3, 4).T),
}


@pytest.mark.parametrize("tensor", LAYOUTS.values(), ids=LAYOUTS)
def test_a_tensor_keeps_values_and_order_in_memory(tmp_path: Path, tensor: torch.Tensor):
    again = back(tmp_path / "x", tensor)
    assert type(again) is torch.Tensor
    assert not again.requires_grad
    assert torch.equal(again.to_dense(), tensor.to_dense())
    if not tensor.is_sparse:
        assert again.stride() == tensor.detach().clone(memory_format=torch.preserve_format).stride()


def test_what_is_shared_is_written_once(tmp_path: Path):
    model = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False))
    model[1].weight = model[0].weight
    save_checkpoint(tmp_path / "x", {"model": model.state_dict(), "part": model[0].weight[:2]})
    state = load_checkpoint(tmp_path / "x")
    assert state["model"]["0.weight"] is state["model"]["1.weight"]
    assert torch.equal(state["part"], model[0].weight[:2])
    assert (tmp_path / "x").stat().st_size < 1.5 * 50 * 50 * 4


@pytest.mark.parametrize("coalesced", [True, False])
def test_sparse_comes_back(tmp_path: Path, coalesced: bool):
    indices, values = torch.tensor([[0, 2, 0], [1, 3, 1]]), torch.tensor([1.0, 2.0, 4.0])
    tensor = torch.sparse_coo_tensor(indices, values, (3, 4), check_invariants=True)
    again = back(tmp_path / "x", tensor.coalesce() if coalesced else tensor)
    assert again.is_coalesced() == coalesced
    assert again._values().tolist() == ([5.0, 2.0] if coalesced else [1.0, 2.0, 4.0])
    assert torch.equal(again.to_dense(), tensor.to_dense())


def test_names_that_read_alike_stay_apart(tmp_path: Path):
    state = {"a.b": torch.tensor(1), "a": {"b": torch.tensor(2)}, "a/b": torch.tensor(3), "": {}}
    state |= {"x" * 5000: torch.tensor(4), ("a", 1): torch.tensor(5), "\0": torch.tensor(6)}
    state[""][""] = torch.tensor(7)
    again = back(tmp_path / "x", state)
    assert list(again) == list(state)
    assert again["a"] == {"b": torch.tensor(2)}
    assert [again[key] for key in state if key not in ("", "a")] == [1, 3, 4, 5, 6]
    assert again[""][""] == 7


def test_any_safetensors_reads_it(path: Path):
    kept = safetensors.torch.load_file(path)
    assert kept.keys() == {"weights.a", "weights.b"}
    assert torch.equal(kept["weights.a"], STATE["weights"]["a"])
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata()["kind"] == "checkpoint"


def test_each_tensor_begins_where_its_elements_may(tmp_path: Path):
    """As who maps the file into memory needs it."""
    state = {str(dtype): torch.ones(3, dtype=dtype) for dtype in reversed(DTYPES[:-1])}
    save_checkpoint(tmp_path / "x", state)
    content = (tmp_path / "x").read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert (8 + length) % 64 == 0
    for name, entry in json.loads(content[8 : 8 + length]).items():
        if name != "__metadata__":
            assert entry["data_offsets"][0] % sealed.DTYPES[entry["dtype"]].itemsize == 0, name


def test_an_older_reader_knows_every_dtype(tmp_path: Path):
    """Every tensor in one file, as somebody else's program would read it."""
    real = [dtype for dtype in DTYPES if not dtype.is_complex]
    tensors = {str(dtype): torch.ones(3, dtype=dtype) for dtype in real}
    save_checkpoint(tmp_path / "x", tensors)
    kept = safetensors.torch.load_file(tmp_path / "x")
    assert {name: tensor.dtype for name, tensor in kept.items()} == dict(
        zip(tensors, real, strict=True)
    )


def test_a_long_state_is_a_tensor_of_the_file(tmp_path: Path):
    """The history of a run of many epochs is longer than a header may be."""
    state = {"rows": [{"epoch": n, "loss": 1 / (n + 1), "é": "\u2028"} for n in range(30_000)]}
    state |= {"text": "x" * 2**24, "state": torch.tensor(2), "": {"$state": torch.tensor(1)}}
    save_checkpoint(tmp_path / "x", state)
    assert load_checkpoint(tmp_path / "x") == state
    tree = safetensors.torch.load_file(tmp_path / "x")["$state"]
    assert json.loads(bytes(tree.tolist()))["rows"] == state["rows"]


def test_a_header_that_could_not_be_read_is_not_written(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(sealed, "HEADER_LIMIT", 2000)
    save_weights(tmp_path / "x", {f"{n}": torch.tensor(0) for n in range(5)})
    with pytest.raises(CheckpointError, match=r"at most 2,000 bytes: got 2,\d\d\d; keep"):
        save_weights(tmp_path / "y", {f"{n}": torch.tensor(0) for n in range(14)})
    assert os.listdir(tmp_path) == ["x"]


def test_the_same_state_is_the_same_file(path: Path):
    save_checkpoint(path.with_name("b"), STATE)
    assert path.with_name("b").read_bytes() == path.read_bytes()
    assert list({0, 8}) != list({8, 0})
    save_checkpoint(path, {"set": {0, 8}})
    save_checkpoint(path.with_name("b"), {"set": {8, 0}})
    assert path.with_name("b").read_bytes() == path.read_bytes()


def itself() -> list[object]:
    value: list[object] = []
    value.append(value)
    return value


REFUSED = {
    "numpy scalar": (np.float64(1), "numpy.float64 in state"),
    "array": (np.zeros(2), r"numpy.ndarray in state\['deep'\]\['x'\]\[0\]; convert it"),
    "path": (Path("x"), "Path in state"),
    "defaultdict": (defaultdict(int), "collections.defaultdict in state"),
    "object": (object(), "builtins.object in state"),
    "module": (nn.Linear(1, 1), "Linear in state"),
    "version": (torch.__version__, "TorchVersion in state"),
    "holds itself": (itself(), "or one that holds itself"),
    "long number": (10**5000, "up to 4,300 digits"),
    "meta": (torch.empty(2, device="meta"), "on the meta device"),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        "which is quantized",
    ),
    "csr": (lambda: torch.eye(2).to_sparse_csr(), "sparse_csr"),
    "float4": (torch.zeros(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "float4"),
    "subclass": (nn.UninitializedParameter(), "UninitializedParameter in .* the plain tensor"),
}


@pytest.mark.parametrize(("value", "match"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_what_cannot_come_back_is_refused_before_it_is_written(path: Path, value, match: str):
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=match):
        save_checkpoint(
            path, {"deep": {"x": [value() if isinstance(value, FunctionType) else value]}}
        )
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_write_that_fails_leaves_the_old_file(path: Path):
    before = path.read_bytes()

    def write(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(
        CheckpointError, match=r"written: No space left on device \([\d,]+ are free"
    ):
        write_whole(path, write)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_a_folder_that_is_absent_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="could not be written: No such file"):
        save_checkpoint(tmp_path / "absent" / "x", STATE)


def test_write_sync_rename_and_sync_of_the_folder_in_this_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
):
    done: list[str] = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(descriptor: int) -> None:
        written = os.fstat(descriptor).st_size == path.stat().st_size
        name = Path(os.readlink(f"/proc/self/fd/{descriptor}")).name
        done.append(f"sync {name}" + " whole" * (written and name.endswith(".tmp")))
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        done.append(f"rename {Path(source).name} {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    save_checkpoint(path, STATE)
    assert done == [
        "sync a.safetensors.tmp whole",
        "rename a.safetensors.tmp a.safetensors",
        f"sync {path.parent.name}",
    ]


# ---- weights ---------------------------------------------------------------------------------


def test_the_model_is_kept_as_safetensors(tmp_path: Path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    save_model(tmp_path / "m", model)
    for kept in (safetensors.torch.load_file(tmp_path / "m"), load_weights(tmp_path / "m")):
        assert kept.keys() == model.state_dict().keys()
        assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())


def tied() -> nn.Module:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 20, bias=False), nn.Linear(20, 20))
    model[1].weight = model[2].weight = model[0].weight
    return model


def test_tied_weights_are_kept_once(tmp_path: Path):
    model, others, own = tied(), tied(), tied()
    save_model(tmp_path / "m", model)
    assert safetensors.torch.load_model(others, tmp_path / "m") == (set(), [])
    own.load_state_dict(load_weights(tmp_path / "m"))
    for again in (others, own):
        assert torch.equal(again[1].weight, model[0].weight)
        assert again[1].weight is again[0].weight
    assert (tmp_path / "m").stat().st_size < 2 * 20 * 20 * 4


def test_parts_of_one_memory_are_kept_apart(tmp_path: Path):
    memory = torch.arange(10.0)
    weights = {"a": memory[:6].view(2, 3), "b": memory[4:], "c": memory.to(torch.complex64).conj()}
    weights |= {"d": torch._neg_view(memory), "e": torch.ones(2, requires_grad=True) * 2}
    save_weights(tmp_path / "m", {**weights, "extra": {"not": "a tensor"}})
    kept = load_weights(tmp_path / "m")
    assert kept.keys() == weights.keys()
    assert all(torch.equal(kept[name], weights[name]) for name in kept)


def test_names_of_weights_are_kept(tmp_path: Path):
    names = ["a/b", "é", "x.parametrizations.weight.0", "format", "$tensor", "__", "a b"]
    save_weights(tmp_path / "m", {name: torch.ones(1) * i for i, name in enumerate(names)})
    kept = load_weights(tmp_path / "m")
    assert {name: kept[name].item() for name in names} == {n: i for i, n in enumerate(names)}
    assert safetensors.torch.load_file(tmp_path / "m").keys() == set(names)


@pytest.mark.parametrize("name", ["", "a\nb", "x" * 300, "__metadata__"])
def test_a_name_that_could_not_be_read_is_refused(tmp_path: Path, name: str):
    with pytest.raises(CheckpointError, match="is no name for a tensor"):
        save_weights(tmp_path / "m", {name: torch.ones(1)})
    assert not os.listdir(tmp_path)


def test_a_changed_weight_is_refused(tmp_path: Path):
    save_model(tmp_path / "m", nn.Linear(3, 2))
    damaged = bytearray((tmp_path / "m").read_bytes())
    damaged[-30] ^= 4
    (tmp_path / "m").write_bytes(damaged)
    with pytest.raises(CheckpointError, match="the checksum of weight differs"):
        load_weights(tmp_path / "m")


# ---- the process around it -------------------------------------------------------------------


def test_files_have_the_modes_that_the_umask_gives(path: Path):
    save_model(path.with_name("model"), nn.Linear(1, 1))
    write_whole(path.with_name("text"), lambda temporary: safetensors_of(temporary))
    path.with_name("other").touch()
    assert len({file.stat().st_mode for file in path.parent.iterdir()}) == 1


def safetensors_of(path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, path)  # by a file of its own, mode 600


@pytest.mark.parametrize("around", [torch.inference_mode, lambda: torch.device("meta")])
def test_what_is_set_around_it_changes_nothing(tmp_path: Path, around):
    state = {"x": torch.ones(2), "sparse": torch.eye(2).to_sparse(), "c": torch.ones(1) * 1j}
    with around():
        save_checkpoint(tmp_path / "x", state)
        again = load_checkpoint(tmp_path / "x")
    assert [again["x"].sum(), again["sparse"].to_dense().sum(), again["c"].sum()] == [2, 2, 1j]
    assert all(tensor.is_cpu for tensor in again.values())


def test_what_is_hashed_in_another_thread_keeps_its_order():
    seen = []

    class Slow:
        def update(self, chunk: memoryview) -> None:
            time.sleep(0.01 if len(chunk) > 2**16 else 0)
            seen.append(len(chunk))

    digest, sizes = Slow(), [2**20, 2**20 + 1, 3, 2**18, 1]
    with sealed.hashing(2**22) as update:
        for size in sizes:
            update(digest, memoryview(bytes(size)))
    assert seen == sizes


def test_a_large_state_is_hashed_in_another_thread(tmp_path: Path):
    """Large and small tensors by turns, with more than one chunk and with gaps."""
    shapes = [(3,), (5_000_001,), (), (1000, 70), (2_000, 700), (1,), (2**22,), (2**22 + 7,)]
    state = {str(shape): torch.randint(0, 255, shape, dtype=torch.uint8) for shape in shapes}
    state["gaps"] = state["(2000, 700)"].T[::2]
    save_checkpoint(tmp_path / "x", state)
    again = load_checkpoint(tmp_path / "x")
    assert all(torch.equal(again[name], state[name]) for name in state)
    kept = safetensors.torch.load_file(tmp_path / "x")
    assert torch.equal(kept["gaps"], state["gaps"])
