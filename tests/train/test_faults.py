"""What a run does when its folder, its disk or another process is against it."""

import functools
import json
import math
import os
import pickle
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.cli import main
from steepest.errors import CheckpointError, RecipeError, RunError
from steepest.train import Stopped, load_checkpoint, read_metrics, save_checkpoint, train
from steepest.train.files.checkpoints import Checkpoints
from steepest.train.measured.metrics import MetricsFile

pytestmark = pytest.mark.usefixtures("no_picture")
forks = pytest.mark.skipif(
    torch.accelerator.is_available(),
    reason="a process that has an accelerator's threads cannot be forked to train",
)


@pytest.fixture
def make(make: Any) -> Any:
    """`make(**changed)` returns a small run on the CPU, where a resumed one is the same."""
    return functools.partial(make, device="cpu")


@pytest.fixture(autouse=True)
def _no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for no disk: nothing here cuts its power."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


def stopped(make: Any, folder: Path, at: int = 6, **how: Any) -> Path:
    """Leave a run in the folder that was stopped in the middle of its second epoch."""
    with pytest.raises(Stopped):
        train(make(stop=at, folder=folder, patience=9, **how))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return what a folder holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "run.json")
    }


def refused(run: Any, error: type[Exception] = CheckpointError) -> str:
    """Return the sentence with which a run is refused, which changes nothing that lives."""
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    groups = [{k: v for k, v in g.items() if k != "params"} for g in run.optimizer.param_groups]
    files = contents(Path(run.folder))
    with pytest.raises(error) as caught:
        train(run)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert not run.optimizer.state_dict()["state"]
    assert groups == [
        {k: v for k, v in g.items() if k != "params"} for g in run.optimizer.param_groups
    ]
    assert contents(Path(run.folder)) == files
    text = str(caught.value)
    assert text.isprintable()
    assert len(text) < 1000
    return text


# ---- a checkpoint that somebody made -------------------------------------------------------------

NAN, INF = math.nan, math.inf


def put(*place: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return what sets a place of a checkpoint's state to a value."""

    def change(state: dict[str, Any]) -> None:
        for key in place[:-1]:
            state = state[key]
        state[place[-1]] = value

    return change


def drop(*place: Any) -> Callable[[dict[str, Any]], None]:
    """Return what takes a place of a checkpoint's state away."""

    def change(state: dict[str, Any]) -> None:
        for key in place[:-1]:
            state = state[key]
        del state[place[-1]]

    return change


ROW = {"kind": "epoch", "epoch": 1, "step": 4, "samples": 14, "seconds": 1.0, "loss": 1.0}
TWISTER = ["MT19937", [0] * 624, 10**6, 0, 0.0]
KEPT = {
    "no place": (drop("kept", "place"), "has no place"),
    "three for a place": (put("kept", "place", value=[1, 2, 3]), "place is four whole numbers"),
    "a negative place": (put("kept", "place", value=[1, -2, 6, 20]), "place is four whole numbers"),
    "a place of text": (put("kept", "place", value="abcd"), "place is four whole numbers"),
    "a place of floats": (put("kept", "place", value=[1.0, 2, 6, 20]), "place is four"),
    "a place beyond all": (put("kept", "place", value=[1, 2**70, 6, 20]), "place is four"),
    "a place beyond the epoch": (
        put("kept", "place", value=[1, 9, 6, 20]),
        "batch is one of the 4",
    ),
    "more epochs than rows": (put("kept", "place", value=[2, 0, 8, 28]), "a row for each of 2 epo"),
    "no history": (drop("kept", "history"), "has no history"),
    "a history of text": (put("kept", "history", value="rows"), "history is a list of rows"),
    "a history of numbers": (put("kept", "history", value=[1]), "history is a list of rows"),
    "a row of other names": (put("kept", "history", value=[{"a": 1}]), "history is a list of rows"),
    "a row of tensors": (
        put("kept", "history", value=[ROW | {"loss": torch.ones(1)}]),
        "history is a list of rows",
    ),
    "a best without weights": (drop("kept", "best", "weights"), "best is a row, weights and"),
    "a best of text": (put("kept", "best", value="best"), "best is a row, weights and a number"),
    "a best that is NaN": (
        put("kept", "best", "row", "validation_loss", value=NAN),
        "best validation_loss is a finite number: got nan",
    ),
    "a best that is text": (
        put("kept", "best", "row", "validation_loss", value="a"),
        "best validation_loss is a finite number: got 'a'",
    ),
    "other best weights": (put("kept", "best", "weights", "0.bias", value=torch.ones(2)), "0.bias"),
    "numbers for weights": (put("kept", "best", "weights", value=3), "best is a row, weights and"),
    "negative patience": (put("kept", "best", "waited", value=-1), "best is a row, weights"),
    "an infinite mean": (put("kept", "epoch_loss", value=[INF, 3]), "epoch_loss is a finite total"),
    "a mean of one": (put("kept", "window", value=[1.0]), "window is a finite total"),
    "a mean of no rows": (put("kept", "window", value=[1.0, -1]), "window is a finite total"),
    "NaN seconds": (put("kept", "seconds", value=NAN), "seconds is a number of at least 0"),
    "negative rows": (put("kept", "rows", value=-1), "rows is a whole number of at least 0"),
    "rows of text": (put("kept", "rows", value="1"), "rows is a whole number of at least 0"),
    "validated at no time": (put("kept", "validated", value=-2), "validated is a number of upd"),
    "found a list": (put("kept", "found", value=[1]), "found is names and numbers"),
    "no date": (put("kept", "started", value="yesterday"), "started is a date: got 'yesterday'"),
    "a date as a number": (put("kept", "started", value=7), "started is a date: got 7"),
    "an end of text": (put("kept", "at_end", value="no"), "at_end is true or false"),
    "no random numbers": (put("kept", "random", value={}), "random is states of random numbers"),
    "random numbers of text": (put("kept", "random", "torch", value="x"), "random is states"),
    "random numbers cut short": (
        put("kept", "random", "torch", value=torch.zeros(9, dtype=torch.uint8)),
        "random is states of random numbers",
    ),
    "Python's of text": (put("kept", "random", "python", value=(3, "a", None)), "random is states"),
    "numpy's beyond its words": (put("kept", "random", "numpy", value=TWISTER), "random is states"),
    "numpy's of another kind": (
        put("kept", "random", "numpy", value=["os.system", [0] * 624, 1, 0, 0.0]),
        "random is states of random numbers",
    ),
    "the epoch's of text": (put("kept", "epoch_random", value={"torch": 1}), "epoch_random is st"),
}
PARTS = {
    "no model": (drop("model"), "has no model"),
    "a model in a list": (put("model", value=[1]), "model is names and tensors"),
    "no kept": (drop("kept"), "has no kept"),
    "kept in a list": (put("kept", value=[1]), "kept is names and values"),
    "settings in a list": (put("settings", value=[1]), "settings is names and plain values"),
    "a tensor for a setting": (put("settings", "seed", value=torch.ones(2)), "settings is names"),
    "a long setting": (put("settings", "seed", value="x" * 10**6), "settings is names and plain"),
    "a setting for terminals": (put("settings", "seed", value="\x1b[2J"), "seed was '.x1b"),
    "a name for terminals": (put("settings", "\x1b[2J", value=1), "settings is names and plain"),
    "a parameter for terminals": (put("parameters", 0, value="\x1b[2J"), "a list of names"),
    "a version for terminals": (put("versions", "torch", value="\x1b[2J"), "names and versions"),
    "a tensor's name for terminals": (put("model", "\x1b[2J", value=1), r"had: '.x1b\[2J' was int"),
    "a tensor's long name": (
        put("model", "x" * 10**6, value=1),
        "had: 'xxxx[^ ]* was int and is now",
    ),
    "parameters in a dict": (put("parameters", value={}), "parameters is a list of names"),
    "versions of numbers": (put("versions", value={"torch": 1}), "versions is names and versions"),
    "another tensor": (put("model", "0.weight", value=torch.ones(3, 8)), "0.weight was float32 .3"),
    "a sparse tensor": (
        put("model", "0.weight", value=torch.ones(8, 3).to_sparse()),
        "0.weight was float32 .8, 3. sparse_coo and is now float32 .8, 3.;",
    ),
    "a number for a tensor": (put("model", "0.weight", value=1), "0.weight was int and is now"),
    "one tensor more": (put("model", "2.weight", value=torch.ones(1)), "2.weight was float32 .1,."),
    "a NaN parameter": (put("model", "0.bias", value=torch.full((8,), NAN)), "NaN or infinity in"),
    "an infinite parameter": (put("model", "0.bias", value=torch.full((8,), INF)), "NaN or inf"),
    "a NaN state": (
        put("optimizer", "state", 0, "exp_avg", value=torch.full((8, 3), NAN)),
        "optimizer state holds numbers: got NaN",
    ),
    "a NaN step": (put("optimizer", "state", 0, "step", value=torch.tensor(NAN)), "got NaN"),
    "a state of another shape": (
        put("optimizer", "state", 0, "exp_avg", value=torch.ones(3, 8)),
        "optimizer state does not fit: .*exp_avg",
    ),
    "a state of text": (
        put("optimizer", "state", 0, "exp_avg", value="ones"),
        "optimizer state does not fit",
    ),
    "states in a list": (put("optimizer", "state", value=[1]), "optimizer is states by number"),
    "a state that is none": (put("optimizer", "state", 0, value=1), "optimizer is states by num"),
    "a state of no parameter": (
        put("optimizer", "state", 77, value={"exp_avg": torch.ones(8, 3)}),
        "optimizer state does not fit",
    ),
    "no groups": (put("optimizer", "param_groups", value=[]), "optimizer state does not fit"),
    "a group of text": (put("optimizer", "param_groups", value=["a"]), "optimizer is states by nu"),
    "a group without lr": (drop("optimizer", "param_groups", 0, "lr"), "lr of param group 0 is of"),
    "an lr of text": (
        put("optimizer", "param_groups", 0, "lr", value="os.system"),
        "lr of param group 0 is of the kind of 0.05: got 'os.system'",
    ),
    "a NaN lr": (put("optimizer", "param_groups", 0, "lr", value=NAN), "does not fit: .*lr"),
    "a group of others": (
        put("optimizer", "param_groups", 0, "params", value=[0, 0, 0, 0, 0, 0]),
        "optimizer state does not fit",
    ),
    "a schedule of text": (put("schedule", value="StepLR"), "schedule is names and values"),
    "a method of the schedule": (
        put("schedule", "step", value=3),
        "schedule has a step as it is made: got 3",
    ),
    "the schedule's optimizer": (
        put("schedule", "optimizer", value=None),
        "schedule has a optimizer as it is made",
    ),
    "a number of the schedule": (put("schedule", "gamma", value="x"), "has a gamma as it is made"),
    "a scaler of text": (put("scaler", value="x"), "scaler is finite numbers or nothing"),
    "a scaler of others": (put("scaler", value={"a": 1}), "scaler is finite numbers or nothing"),
}


def scheduled(optimizer: torch.optim.Optimizer) -> Any:
    return torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)


@pytest.mark.parametrize(("change", "message"), (KEPT | PARTS).values(), ids=KEPT | PARTS)
def test_a_checkpoint_that_no_run_writes_is_refused(
    make: Any, tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
):
    folder = stopped(make, tmp_path / "a", schedule=scheduled)
    first, newest = Checkpoints(folder / "checkpoints").paths()
    state = load_checkpoint(newest)
    first.unlink()
    change(state)
    save_checkpoint(newest, state)
    run = make(folder=folder, resume=True, patience=9, schedule=scheduled)
    text = refused(run)
    assert re.search(message, text), text


@pytest.mark.parametrize("name", ["os.system", "builtins.exec", "../../evil.py:run", "evil.run"])
@pytest.mark.parametrize(
    ("place", "message"),
    [
        (("settings", "optimizer"), "optimizer was '{name}' and is now 'Mixed'"),
        (("optimizer", "param_groups", 0, "optimizer"), "optimizer state does not fit: .*'{name}'"),
        (("settings", "kind of schedule"), "kind of schedule was '{name}' and is now 'NoneType'"),
    ],
    ids=["the optimizer", "a group's", "the schedule"],
)
def test_what_is_named_as_code_is_refused_and_imports_nothing(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, place: Any, message: str
):
    (tmp_path / "evil.py").write_text("open('ran', 'w')\ndef run(*_): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def mixed(parameters: Any) -> Any:
        return optim.Mixed(parameters, lr=0.05)

    folder = stopped(make, Path("a"), optimizer=mixed)
    for path in Checkpoints(folder / "checkpoints").paths():
        state = load_checkpoint(path)
        put(*place, value=name)(state)
        save_checkpoint(path, state)
    run, before = make(folder=folder, resume=True, patience=9, optimizer=mixed), {*sys.modules}
    assert re.search(message.format(name=re.escape(name)), refused(run))
    assert {*sys.modules} == before
    assert sorted(os.listdir()) == ["a", "evil.py"]


def test_what_is_not_finite_may_be_meant(make: Any, tmp_path: Path):
    folder = stopped(make, tmp_path / "a")
    for path in Checkpoints(folder / "checkpoints").paths():
        state = load_checkpoint(path)
        if state["kept"]["place"][2]:
            state["optimizer"]["state"][0]["exp_avg"][0, 0] = NAN
            save_checkpoint(path, state)
    text = refused(make(folder=folder, resume=True, patience=9))
    assert text.endswith("begin a new run, or override")
    with pytest.raises(RunError, match="The loss is a finite number"):
        train(make(folder=folder, resume=True, patience=9, override=True))


def test_the_checkpoint_before_one_that_is_not_finite_goes_on(
    make: Any, outcome: Any, same: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    folder = stopped(make, tmp_path / "a", checkpoint_epochs=1)
    newest = Checkpoints(folder / "checkpoints").paths()[-1]
    state = load_checkpoint(newest)
    state["model"]["0.bias"][3] = NAN
    save_checkpoint(newest, state)
    run = make(folder=folder, resume=True, patience=9, checkpoint_epochs=1, progress=True)
    found = outcome(run, train(run))
    assert f"{newest} holds NaN or infinity in state['model']['0.bias']" in capsys.readouterr().err
    whole = make(folder=tmp_path / "b", patience=9, checkpoint_epochs=1)
    same(outcome(whole, train(whole)), found)
    assert not [p for p in Checkpoints(folder / "checkpoints").paths() if p == newest]


# ---- files in place of others --------------------------------------------------------------------


class Marker:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def link(path: Path, target: str = "elsewhere") -> None:
    path.rename(path.parent.parent / target)
    path.symlink_to(path.parent.parent / target)


def zero(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Marker(path.parents[2] / "ran")))


def saved_by_torch(path: Path) -> None:
    torch.save({"kept": Marker(path.parents[2] / "ran")}, path)


def empty(path: Path) -> None:
    path.write_bytes(b"")


IN_PLACE = [pipe, link, zero, folder_instead, pickled, saved_by_torch, empty]


@pytest.mark.parametrize("instead", IN_PLACE, ids=lambda f: f.__name__)
def test_what_is_no_checkpoint_is_passed_over_or_refused(
    make: Any, outcome: Any, same: Any, tmp_path: Path, instead: Callable[[Path], None]
):
    folder = stopped(make, tmp_path / "a", checkpoint_epochs=1)
    newest = Checkpoints(folder / "checkpoints").paths()[-1]
    instead(newest)
    (folder / "old.pt").write_bytes(pickle.dumps(Marker(tmp_path / "ran")))
    run = make(folder=folder, resume=True, patience=9, checkpoint_epochs=1)
    found = outcome(run, train(run))
    whole = make(folder=tmp_path / "b", patience=9, checkpoint_epochs=1)
    same(outcome(whole, train(whole)), found)
    for path in Checkpoints(folder / "checkpoints").paths():
        if path.is_file():
            instead(path)
    text = refused(make(folder=folder, resume=True, patience=9, checkpoint_epochs=1))
    assert text.startswith(f"No checkpoint in {folder / 'checkpoints'} is whole: ")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["checkpoints", "metrics.jsonl", "tensorboard"])
def test_nothing_is_written_where_a_link_leads(make: Any, tmp_path: Path, name: str):
    folder, elsewhere = stopped(make, tmp_path / "a"), tmp_path / "elsewhere"
    if (folder / name).exists():
        (folder / name).rename(elsewhere)
    (folder / name).symlink_to(elsewhere)
    text = refused(make(folder=folder, resume=True, patience=9))
    assert text.startswith(f"A run writes within its folder: {folder / name} is a link; ")


@pytest.mark.parametrize("name", ["metrics.jsonl", "checkpoints"])
def test_a_pipe_is_refused_at_once(make: Any, tmp_path: Path, name: str):
    folder = stopped(make, tmp_path / "a")
    if name == "metrics.jsonl":
        (folder / name).unlink()
    else:
        (folder / name).rename(tmp_path / "elsewhere")
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match=f"{name} (is not a plain file|cannot be read)"):
        train(make(folder=folder, resume=True, patience=9))


LINES = {
    "nested": b"[" * 100_000 + b"\n",
    "torn": b"{" * 2**20,
    "too long": b'{"a": "' + b"x" * 2**24 + b'"}\n',
    "no text": b"\xff\xfe\n",
    "no row": b"1\n",
    "a long number": b"9" * 10**5 + b"\n",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_line_that_no_run_writes_ends_the_metrics(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes
):
    path = stopped(make, tmp_path / "a") / "metrics.jsonl"
    rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(rows[0] + line + b"".join(rows[1:]))
    assert read_metrics(path) == [json.loads(rows[0])]
    train(make(folder=path.parent, resume=True, patience=9, progress=True))
    assert "metrics.jsonl has 1 of the 3 rows that it had" in capsys.readouterr().err
    kept = read_metrics(path)
    assert kept[0] == json.loads(rows[0])
    assert [row["step"] for row in kept[1:]] == [8, 9, 12, 12]  # what came after the checkpoint


# ---- a command line against a folder that somebody made ------------------------------------------

OPTIONS = {
    "code": {"recipe": "os.system", "arguments": []},
    "a file elsewhere": {"recipe": "../../x.py:run", "arguments": []},
    "a file": {"recipe": "evil.py", "arguments": []},
    "no end in the name": {"recipe": "evil\0.py", "arguments": []},
    "another recipe": {"recipe": "table", "arguments": []},
    "options of others": {"recipe": "line", "arguments": ["--evil", "1"]},
    "another folder": {"recipe": "line", "arguments": ["--folder", "elsewhere"]},
    "help": {"recipe": "line", "arguments": ["--help"]},
    "no list": {"recipe": "line", "arguments": 3},
    "no recipe": {"arguments": []},
    "a list": ["line"],
    "nesting": "[" * 100_000,
    "no JSON": "{",
    "nothing": "",
    "too much": '{"recipe": "line", "arguments": []}' + " " * 2**24,
    "a long number": "9" * 10**5,
}


@pytest.mark.parametrize("content", OPTIONS.values(), ids=OPTIONS)
def test_options_that_no_run_writes_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    content: Any,
):
    monkeypatch.chdir(tmp_path)
    Path("evil.py").write_text("import os; os.mkdir('ran')")
    folder = Path("a")
    folder.mkdir()
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "options.json").write_text(text)
    before = set(sys.modules)
    code = main(["train", "line", "--resume", "a"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.startswith("steepest: ")
    assert err.count("\n") == 1
    assert len(err) < 1000
    assert sorted(os.listdir(tmp_path)) == ["a", "evil.py"]
    assert os.listdir(folder) == ["options.json"]
    assert not [name for name in set(sys.modules) - before if "evil" in name or "recipe_" in name]


def test_a_command_killed_as_it_began_begins_by_either_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    words = ["train", "line", "--epochs", "1", "--device", "cpu"]
    assert main([*words, "--folder", "whole"]) == 0
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, ".lock").touch()
    assert main([*words, "--folder", "a"]) == 0
    shutil.copy("whole/options.json", "b")
    capsys.readouterr()
    assert main(["train", "line", "--resume", "b"]) == 0
    assert "was killed as it began, before its first checkpoint" in capsys.readouterr().err
    for name in ("a", "b"):
        for file in ("model.safetensors", "evaluation.json"):
            assert Path(name, file).read_bytes() == Path("whole", file).read_bytes()


def test_a_recipe_whose_name_no_file_has_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text("def run(): ...")
    Path("options.json").write_text(json.dumps({"recipe": "mine\0.py", "arguments": []}))
    assert main(["train", "mine.py", "--resume", "."]) == 2
    assert "has no readable options.json" in capsys.readouterr().err


def test_options_in_a_pipe_are_refused_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    os.mkfifo(tmp_path / "options.json")
    assert main(["train", "line", "--resume", str(tmp_path)]) == 2
    assert "has no readable options.json" in capsys.readouterr().err


# ---- a disk that is full, a folder that is gone --------------------------------------------------


def in_a_child(work: Callable[[], str]) -> str:
    """Return what `work` returns in a forked process, or the sentence of its error."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        text = "nothing"
        try:
            torch.set_num_threads(1)
            text = work()
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(writing, text[:4000].encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def limited(bytes_in_a_file: int, work: Callable[[], Any]) -> str:
    """Return what comes of work in a process whose files may not grow larger than that."""

    def within() -> str:
        resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_in_a_file,) * 2)
        work()
        return "done"

    return in_a_child(within)


def resumed_is_whole(make: Any, outcome: Any, same: Any, folder: Path, **how: Any) -> None:
    """Assert that a run goes on, and ends as one that met no fault."""
    run = make(folder=folder, resume=True, **how)
    found = outcome(run, train(run))
    whole = make(folder=folder.with_name("whole"), **how)
    same(outcome(whole, train(whole)), found)
    assert not list(folder.rglob("*.tmp"))


@forks
def test_a_full_disk_within_a_save_loses_nothing(
    make: Any, outcome: Any, same: Any, tmp_path: Path
):
    how = {"checkpoint_epochs": 1}
    train(make(folder=tmp_path / "sizes", steps=1))
    first, later = (p.stat().st_size for p in Checkpoints(tmp_path / "sizes/checkpoints").paths())
    folder = tmp_path / "a"
    told = limited((first + later) // 2, lambda: train(make(folder=folder, **how)))
    path = folder / "checkpoints/step-0000000004.safetensors"
    assert re.fullmatch(
        rf"RunError: {path} could not be written: File too large "
        r"\(it needs [\d,]+ bytes and [\d,]+ are free\); free or choose another place",
        told,
    )
    assert os.listdir(folder / "checkpoints") == ["step-0000000000.safetensors"]
    assert json.loads((folder / "run.json").read_text())["status"] == "failed"
    resumed_is_whole(make, outcome, same, folder, **how)


@forks
def test_a_full_disk_within_a_row_loses_nothing(make: Any, outcome: Any, same: Any, tmp_path: Path):
    how = {"epochs": 40, "log_steps": 1}
    train(make(folder=tmp_path / "sizes", **how))
    rows = (tmp_path / "sizes/metrics.jsonl").stat().st_size
    largest = max(p.stat().st_size for p in tmp_path.glob("sizes/checkpoints/*"))
    assert largest + 2000 < rows
    folder = tmp_path / "a"
    told = limited(rows - 1000, lambda: train(make(folder=folder, **how)))
    assert told.startswith(f"RunError: {folder / 'metrics.jsonl'} could not be written: File too")
    assert not (folder / "metrics.jsonl").read_bytes().endswith(b"\n")
    resumed_is_whole(make, outcome, same, folder, **how)


@forks
@pytest.mark.parametrize("size", [0, 300, 3000], ids=lambda size: f"{size} bytes")
def test_a_disk_that_is_full_from_the_start_is_refused_before_training(
    make: Any, tmp_path: Path, size: int
):
    def loss_fn(prediction: Any, target: Any) -> Any:
        raise AssertionError("it trains")

    run = make(folder=tmp_path / "a", loss_fn=loss_fn, options={"recipe": "mine", "arguments": []})
    told = limited(size, lambda: train(run))
    assert re.match(r"(CheckpointError|RecipeError): .*(could not be written|that can be)", told), (
        told
    )
    assert run.optimizer.state_dict()["state"] == {}


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A file system of 400 kB, of which `fill()` leaves nothing."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=400k", "none", str(disk)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("to mount a file system needs rights that this user does not have")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def fill(disk: Path) -> None:
    with pytest.raises(OSError, match="No space left"), (disk / "filler").open("ab") as file:  # noqa: PT012
        while True:
            file.write(bytes(4096))
            file.flush()


MOMENTS = {  # the call of the loss, of 4 that train and 3 that validate in each of 3 epochs
    "in the first epoch": 3,
    "in the second epoch": 10,
    "in the last validation": 20,
}


@pytest.mark.parametrize("call", MOMENTS.values(), ids=MOMENTS)
@pytest.mark.parametrize("how", [{"checkpoint_epochs": 1}, {"log_steps": 1}, {}], ids=str)
def test_a_small_disk_that_fills_up(
    make: Any, outcome: Any, same: Any, small_disk: Path, call: int, how: dict[str, Any]
):
    calls = 0

    def loss_fn(prediction: Any, target: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            fill(small_disk)
        return nn.functional.mse_loss(prediction, target)

    folder = small_disk / "a"
    with pytest.raises(RunError, match="could not be written: No space left on device"):
        train(make(folder=folder, loss_fn=loss_fn, **how))
    (small_disk / "filler").unlink()
    resumed_is_whole(make, outcome, same, folder, **how)


def test_a_disk_that_fills_up_at_the_very_end(make: Any, outcome: Any, same: Any, small_disk: Path):
    def result(model: nn.Module) -> str:
        fill(small_disk)
        return ""

    folder = small_disk / "a"
    told = f"{folder / 'run.json'} could not be written: No space left on device"
    with pytest.raises(RunError, match=told):
        train(make(folder=folder, result=result))
    (small_disk / "filler").unlink()
    resumed_is_whole(make, outcome, same, folder)


def test_a_folder_that_cannot_be_written_is_refused_before_training(
    make: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "a", Path("/proc/a"), Path("/proc/self/fdinfo")):
        with pytest.raises(RecipeError, match=r"folder is one that can be written: got .*"):
            train(make(folder=folder))
        assert main(["train", "line", "--folder", str(folder)]) == 2
        assert capsys.readouterr().err.startswith("steepest: ")


def test_a_folder_that_is_deleted_is_told_of_and_goes_on(make: Any, same: Any, tmp_path: Path):
    folder, how = tmp_path / "a", {"checkpoint_epochs": 1}

    def loss_fn(prediction: Any, target: Any) -> Any:
        if folder.exists() and len(read_metrics(folder / "metrics.jsonl")) == 2:
            shutil.rmtree(folder)
        return nn.functional.mse_loss(prediction, target)

    told = rf"{folder} was deleted while a run wrote there: its checkpoint of step 8 is there again"
    with pytest.raises(RunError, match=told):
        train(make(folder=folder, loss_fn=loss_fn, **how))
    run, whole = make(folder=folder, resume=True, **how), make(folder=tmp_path / "b", **how)
    reports = [train(run), train(whole)]
    same(whole.model.state_dict(), run.model.state_dict())
    same(*([row | {"seconds": 0} for row in report.history] for report in reports))


def test_the_temporary_folder_plays_no_part(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "absent"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "mkstemp", None)
    train(make(folder=tmp_path / "a", checkpoint_epochs=1))
    assert os.listdir(tmp_path) == ["a"]


# ---- two processes, and signals ------------------------------------------------------------------


def waiting(make: Any, folder: Path, **how: Any) -> int:
    """Begin a run in a process of its own that waits in its sixth update; return its id."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        calls = 0

        def loss_fn(prediction: Any, target: Any) -> Any:
            nonlocal calls
            calls += prediction.requires_grad
            if calls == 6:
                os.write(writing, b".")
                time.sleep(60)
            return nn.functional.mse_loss(prediction, target)

        try:
            train(make(folder=folder, loss_fn=loss_fn, **how))
        finally:
            os._exit(1)
    os.close(writing)
    assert os.read(reading, 1) == b"."
    os.close(reading)
    return child


@forks
def test_a_folder_serves_one_run_at_a_time(make: Any, outcome: Any, same: Any, tmp_path: Path):
    folder = tmp_path / "a"
    how = {"checkpoint_epochs": 1, "options": {"recipe": "line", "arguments": []}}
    child = waiting(make, folder, **how)
    try:
        told = rf"process {child} trains in {folder}; wait for its end, or choose another folder"
        with pytest.raises(RecipeError, match=told):
            train(make(folder=folder, resume=True, **how))
        assert main(["train", "line", "--resume", str(folder)]) == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    resumed_is_whole(make, outcome, same, folder, **how)


MINE = """
import signal
from dataclasses import replace
from pathlib import Path
from steepest.recipes import line

def run(epochs: int = 2, rows: int = 400):
    made = line.run(epochs=epochs, rows=rows)
    calls, signals = 0, Path("signals")
    asked = signals.read_text().split() if signals.exists() else []

    def loss_fn(prediction, target):
        nonlocal calls
        calls += made.model.training
        if calls == 14:
            for name in asked:
                signal.raise_signal(getattr(signal, name))
        return made.loss_fn(prediction, target)

    return replace(made, loss_fn=loss_fn, checkpoint_epochs=1, progress=False)
"""
SIGNALS = {  # what a shell tells, and the step that is kept
    "SIGINT": (130, 14),
    "SIGTERM": (143, 14),
    "SIGINT SIGINT": (130, 10),
    "SIGTERM SIGTERM": (143, 10),
    "SIGTERM SIGINT": (130, 10),
    "SIGINT SIGTERM": (143, 10),
}


@forks
@pytest.mark.parametrize("signals", SIGNALS)
def test_signals_once_and_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], signals: str
):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    assert in_a_shell(["train", "mine.py", "--folder", "whole"]) == 0
    Path("signals").write_text(signals)
    assert in_a_shell(["train", "mine.py", "--folder", "a"]) == SIGNALS[signals][0]
    Path("signals").unlink()
    place = Checkpoints("a/checkpoints").newest().state["kept"]["place"]
    assert place[2] == SIGNALS[signals][1]
    if " " not in signals:
        told = "stopped after step 14; go on with: steepest train mine.py --resume a"
        assert told in capfd.readouterr().err
    assert in_a_shell(["train", "mine.py", "--resume", "a"]) == 0
    for name in ("model.safetensors", "best.safetensors", "evaluation.json"):
        assert Path("a", name).read_bytes() == Path("whole", name).read_bytes()


def in_a_shell(words: list[str]) -> int:
    """Return what a shell would tell of the command, which has a process of its own."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            torch.set_num_threads(1)
            code = main(words)
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return status if status >= 0 else 128 - status


def test_a_signal_from_outside(tmp_path: Path):
    """As a system that shuts down sends it to a command that it did not begin."""
    command = ["train", "line", "--folder", "a", "--epochs", "100000", "--checkpoint-seconds", "9"]
    running = subprocess.Popen(
        [sys.executable, "-m", "steepest.cli", *command],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    metrics = tmp_path / "a" / "metrics.jsonl"
    while not metrics.exists() or not read_metrics(metrics):
        assert running.poll() is None
        time.sleep(0.05)
    running.terminate()
    _, err = running.communicate(timeout=60)
    assert running.returncode == 143
    assert "go on with: steepest train line --resume a" in err
    rows = read_metrics(metrics)
    kept = Checkpoints(tmp_path / "a/checkpoints").newest().state["kept"]
    assert kept["rows"] == len(rows)
    assert kept["place"][2] >= rows[-1]["step"]


# ---- metrics that a crash tore -------------------------------------------------------------------


@pytest.mark.parametrize("kept", range(5), ids=lambda kept: f"{kept} rows")
@pytest.mark.parametrize("tail", [b"", b'{"kind": "step", "st', b'{"kind": "step", "step": 99}\n'])
def test_torn_metrics_are_cut_back_and_their_csv_is_made_again(
    tmp_path: Path, kept: int, tail: bytes
):
    path, columns = tmp_path / "metrics.jsonl", ["step", "loss"]
    rows = [{"step": step, "loss": step / 8, "ratios": {"a": 0.5}} for step in range(6)]
    for name, count in (("whole", 6), ("metrics", 4)):
        file = MetricsFile(tmp_path / f"{name}.jsonl", columns)
        for row in rows[:count]:
            file.write(row)
        file.close()
    with path.open("ab") as torn:
        torn.write(tail)
    path.with_suffix(".csv").write_bytes(b"step,loss\n0,0.0\n0,0.0\n1,0")
    file = MetricsFile(path, columns, rows=kept)
    for row in rows[file.rows :]:
        file.write(row)
    file.close()
    assert path.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert path.with_suffix(".csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
