"""A run's folder of checkpoints: the newest good one, never fewer than one, one run at a time."""

import fcntl
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.errors import CheckpointError, RecipeError
from steepest.train.files.checkpoints import Checkpoints, locked
from steepest.train.files.sealed import Sealed


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path / "run" / "checkpoints")


def state(step: int) -> dict[str, Any]:
    return {"step": step, "x": torch.full((3,), float(step))}


def steps(kept: Checkpoints) -> list[int]:
    return [int(path.name[5:15]) for path in kept.paths()]


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1
    path.write_bytes(damaged)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = {
    flip: "checksum of x differs",
    cut: "is cut short",
    empty: "is cut short",
    link: "is a link",
    pipe: "is not a plain file",
    folder: "Is a directory",
}


def test_the_newest_two_stay(kept: Checkpoints):
    assert kept.save(7, state(7)) == kept.folder / "step-0000000007.safetensors"
    assert steps(kept) == [7]
    for step in (8, 100, 12345678901):
        kept.save(step, state(step))
    assert [path.name for path in kept.paths()] == [
        "step-0000000100.safetensors",
        "step-12345678901.safetensors",
    ]
    newest = kept.newest()
    assert newest.path == kept.paths()[-1]
    assert newest.state["step"] == 12345678901
    assert newest.notes == []


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_stay_as_are_told(tmp_path: Path, keep: int):
    kept = Checkpoints(tmp_path, keep)
    for step in range(1, 6):
        kept.save(step, state(step))
        assert steps(kept) == list(range(max(1, step - keep + 1), step + 1))


def test_none_is_too_few(tmp_path: Path):
    with pytest.raises(CheckpointError, match="at least one checkpoint: got keep=0"):
        Checkpoints(tmp_path, 0)


@pytest.mark.parametrize(
    ("damage", "told"), DAMAGES.items(), ids=lambda v: getattr(v, "__name__", "")
)
def test_a_damaged_newest_is_named_and_the_one_before_is_taken(
    kept: Checkpoints, damage, told: str
):
    kept.save(1, state(1))
    newest = kept.save(2, state(2))
    damage(newest)
    found = kept.newest()
    assert found.state["step"] == 1
    assert len(found.notes) == 1
    assert str(newest) in found.notes[0]
    assert told in found.notes[0]


def test_none_whole_names_all(kept: Checkpoints):
    paths = [kept.save(step, state(step)) for step in (1, 2)]
    flip(paths[0])
    cut(paths[1])
    with pytest.raises(CheckpointError, match="whole") as caught:
        kept.newest()
    assert all(str(path) in str(caught.value) for path in paths)
    assert "\n" not in str(caught.value)


def test_without_any_it_says_so(kept: Checkpoints):
    with pytest.raises(CheckpointError, match="checkpoints has no checkpoint; begin a new run"):
        kept.newest()


def test_one_that_is_not_finite_is_passed_over(kept: Checkpoints):
    kept.save(1, state(1))
    kept.save(2, {"x": torch.tensor([float("nan")])})
    found = kept.newest(finite=[("x",)])
    assert found.state["step"] == 1
    assert "NaN or infinity in state['x']" in found.notes[0]
    assert kept.newest().notes == []


def test_a_damaged_one_goes_once_a_newer_good_one_is_there(kept: Checkpoints):
    for step in (10, 20):
        kept.save(step, state(step))
    flip(kept.paths()[-1])
    assert kept.newest().state["step"] == 10
    kept.save(15, state(15))
    assert steps(kept) == [10, 15]
    kept.save(20, state(20))
    assert steps(kept) == [15, 20]
    assert kept.newest().notes == []


@pytest.mark.parametrize("keep", [1, 2])
def test_a_damaged_one_is_written_again(kept: Checkpoints, keep: int):
    for step in (10, 20):
        kept.save(step, state(step))
    flip(kept.paths()[-1])
    kept = Checkpoints(kept.folder, keep)
    assert kept.newest().state["step"] == 10
    kept.save(20, state(20))
    assert steps(kept) == [10, 20][-keep:]
    assert kept.newest().state["step"] == 20
    kept.save(30, state(30))
    assert steps(kept) == [20, 30][-keep:]


def test_a_run_that_did_not_go_on_deletes_nothing(kept: Checkpoints):
    for step in (10, 20):
        kept.save(step, state(step))
    with pytest.raises(CheckpointError, match=r"got step 5 in a folder with step-0000000020\.safe"):
        Checkpoints(kept.folder).save(5, state(5))
    assert steps(kept) == [10, 20]


def test_only_its_own_files_are_deleted(kept: Checkpoints):
    kept.save(1, state(1))
    others = [
        "notes.txt",
        "step-1.safetensors",
        "best.safetensors",
        "step-0000000009.safetensors.bak",
    ]
    left = [f"step-{1:010d}.safetensors.tmp", f"step-{99:010d}.safetensors.tmp"]
    for name in others + left:
        (kept.folder / name).write_text("mine")
    for step in (2, 3):
        kept.save(step, state(step))
    assert sorted(os.listdir(kept.folder)) == sorted(
        [*others, "step-0000000002.safetensors", "step-0000000003.safetensors"]
    )


def test_what_cannot_be_deleted_stays(kept: Checkpoints):
    folder(kept.save(1, state(1)))
    for step in (2, 3):
        kept.save(step, state(step))
    assert steps(kept) == [1, 2, 3]
    assert kept.newest().state["step"] == 3


def test_a_folder_that_was_deleted_is_made_again(kept: Checkpoints):
    kept.save(1, state(1))
    kept.paths()[0].unlink()
    kept.folder.rmdir()
    kept.folder.parent.rmdir()
    kept.save(2, state(2))
    assert steps(kept) == [2]


def test_a_file_in_place_of_the_folder_is_told(kept: Checkpoints):
    kept.folder.parent.mkdir()
    kept.folder.touch()
    with pytest.raises(CheckpointError, match="could not be made: "):
        kept.save(1, state(1))
    with pytest.raises(CheckpointError, match="checkpoints cannot be read: Not a directory"):
        kept.newest()


def test_nothing_is_deleted_before_the_new_one_is_on_disk(kept: Checkpoints, monkeypatch):
    kept.folder.parent.mkdir()
    done: list[str] = []
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def noted_fsync(descriptor: int) -> None:
        done.append(f"sync {Path(os.readlink(f'/proc/self/fd/{descriptor}')).name}")
        fsync(descriptor)

    def noted_replace(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    def noted_unlink(path: Path) -> None:
        done.append(f"delete {path.name}")
        unlink(path)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    monkeypatch.setattr(Path, "unlink", noted_unlink)
    for step in (1, 2):
        kept.save(step, state(step))
    assert done[:2] == ["sync run", "sync step-0000000001.safetensors.tmp"]  # the new folder first
    del done[:]
    kept.save(3, state(3))
    assert done == [
        "sync step-0000000003.safetensors.tmp",
        "rename",
        "sync checkpoints",
        "delete step-0000000001.safetensors",
    ]


def test_a_save_that_fails_deletes_nothing(kept: Checkpoints, monkeypatch):
    for step in (1, 2):
        kept.save(step, state(step))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        kept.save(3, state(3))
    assert steps(kept) == [1, 2]
    assert len(os.listdir(kept.folder)) == 2


def dying(call: Callable[..., Any], calls: int, after: bool) -> Callable[..., Any]:
    """Return `call`, which kills the process when it is called once more than `calls` times."""
    left = iter(range(calls))

    def call_or_die(*args: Any, **more: Any) -> Any:
        dies = next(left, None) is None
        if not dies or after:
            result = call(*args, **more)
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return call_or_die


STAGES = [
    (os, "open"), (fcntl, "flock"), (os, "ftruncate"), (Sealed, "write"), (os, "fsync"),
    (os, "replace"), (os, "close"), (os, "listdir"), (Path, "unlink"),
]  # fmt: skip


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STAGES, ids=[name for _, name in STAGES])
def test_killed_at_a_stage_there_is_a_good_one(kept: Checkpoints, owner: Any, name: str, after):
    """Killed at the first call of a function, at the second, and so on until there is no more."""
    for step in (1, 2):
        kept.save(step, state(step))
    killed = -1
    ended = False
    while not ended:
        killed += 1
        child = os.fork()
        if child == 0:
            setattr(owner, name, dying(getattr(owner, name), killed, after))
            kept.save(3, state(3))
            os._exit(0)
        ended = os.waitpid(child, 0)[1] == 0
        found = kept.newest()
        assert found.notes == []
        assert found.state["x"].tolist() == [found.state["step"]] * 3
        assert found.state["step"] in (2, 3)
    assert killed
    assert sorted(os.listdir(kept.folder)) == [path.name for path in kept.paths()]
    assert steps(kept) == [2, 3]


def test_killed_at_any_moment_there_is_a_good_one(kept: Checkpoints):
    draw, reached = random.Random(1), 0
    begin = time.perf_counter()
    kept.save(0, {"x": torch.zeros(200_000), "step": 0})
    seconds = time.perf_counter() - begin
    for _ in range(25):
        child = os.fork()
        if child == 0:
            mine, step = Checkpoints(kept.folder), reached
            while True:
                step += 1
                mine.save(step, {"x": torch.full((200_000,), float(step)), "step": step})
        time.sleep(draw.uniform(0, 2 * seconds))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        found = kept.newest()
        assert found.notes == []
        assert (found.state["x"] == found.state["step"]).all()
        assert found.state["step"] >= reached
        reached = found.state["step"]
    kept.save(reached + 1, state(1))
    assert steps(kept)[-1] == reached + 1
    assert len(os.listdir(kept.folder)) == 2


def test_the_python_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(blocks) == 5
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks:
        exec(compile(block, "docs/checkpoints.md", "exec"), names)


# ---- one run at a time -----------------------------------------------------------------------


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
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with open(reading) as file:
        text = file.read()
    os.waitpid(child, 0)
    return text


def enter(path: Path) -> None:
    with locked(path):
        pass


def test_a_second_run_of_this_process_is_refused(tmp_path: Path):
    told = f"process {os.getpid()} trains in {tmp_path}; wait for its end, or choose another folder"
    with locked(tmp_path):
        for _ in range(2):  # a refusal lets nobody in
            with pytest.raises(RecipeError, match=told):
                enter(tmp_path)
            assert told in in_a_child(lambda: enter(tmp_path))
        (tmp_path / "again").symlink_to(tmp_path)
        with pytest.raises(RecipeError):
            enter(tmp_path / "again")
    enter(tmp_path)
    assert in_a_child(lambda: enter(tmp_path)) == ""
    assert (tmp_path / ".lock").read_bytes() == b""


def test_two_folders_are_two(tmp_path: Path):
    (tmp_path / "a").mkdir()
    with locked(tmp_path), locked(tmp_path / "a"):
        pass


def test_a_run_that_fails_lets_go(tmp_path: Path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        1 / 0
    enter(tmp_path)


def test_who_reads_the_folder_does_not_unlock_it(tmp_path: Path):
    with locked(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
        assert "trains in" in in_a_child(lambda: enter(tmp_path))


def test_a_killed_run_lets_go_though_its_own_children_live(tmp_path: Path):
    """A `DataLoader`'s workers outlive a killed run by seconds, with all its files open."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        with locked(tmp_path):
            worker = os.fork()
            if worker == 0:
                time.sleep(60)
                os._exit(0)
            os.write(writing, str(worker).encode())
            time.sleep(60)
    worker = int(os.read(reading, 100))
    try:
        with pytest.raises(RecipeError, match=f"process {child} trains"):
            enter(tmp_path)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert (tmp_path / ".lock").read_text() == str(child)
        enter(tmp_path)
    finally:
        os.kill(worker, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def test_a_child_that_leaves_lets_nobody_in(tmp_path: Path):
    context = locked(tmp_path)
    with context:
        assert in_a_child(lambda: context.__exit__(None, None, None)) == ""
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
        assert "trains in" in in_a_child(lambda: enter(tmp_path))


@pytest.mark.parametrize("kind", ["link", "folder", "absent"])
def test_a_lock_that_cannot_be_written_is_told(tmp_path: Path, kind: str):
    place, victim = tmp_path / "run", tmp_path / "victim"
    victim.write_text("as it was")
    if kind != "absent":
        place.mkdir()
    if kind == "link":
        (place / ".lock").symlink_to(victim)
    if kind == "folder":
        (place / ".lock").mkdir()
    with pytest.raises(RecipeError, match="folder is one that can be written: got "):
        enter(place)
    assert victim.read_text() == "as it was"


def test_a_file_system_without_locks_is_no_fault(tmp_path: Path, monkeypatch):
    def none(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    enter(tmp_path)
