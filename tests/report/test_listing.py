"""`steepest runs`: what is listed, in which order, and whether a run is alive."""

import errno
import json
import os
import re
import runpy
import sys
from pathlib import Path

import pytest

from steepest import lock
from steepest.cli import main
from steepest.report import read_run
from steepest.report.kept import EVALUATION, METRICS, OPTIONS, RUN
from steepest.report.listing import since
from steepest.train.files import folder as contract

folders = runpy.run_path(str(Path(__file__).with_name("folders.py")))
write_run, metrics = folders["write_run"], folders["metrics"]
FEW = {"epochs": 2, "batches": 20, "log_steps": 5}


def made(folder: Path, *, options=None, **run) -> Path:
    given = folders["OPTIONS"] | (options or {})
    return write_run(folder, options=given, run=run, rows=list(metrics(**FEW)))


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """Three runs under runs/, one of them a level deeper, and what is none."""
    monkeypatch.chdir(tmp_path)
    made(
        Path("runs/b"),
        options={"lr": 0.1},
        started="2026-03-01T10:00:00+00:00",
        best={"epoch": 1, "step": 20, "value": 0.3},
        seconds=5,
    )
    made(
        Path("runs/a"),
        options={"lr": 0.01},
        started="2026-03-02T10:00:00+00:00",
        best={"epoch": 2, "step": 40, "value": 0.1},
        seconds=300,
    )
    made(
        Path("runs/sweep/c"),
        options={"lr": 1e-3, "optimizer": "SGD"},
        started="2026-03-02T10:00:00+05:00",
        best=None,
        seconds=None,
    )
    Path("runs/empty").mkdir()
    Path("runs/notes.txt").touch()
    return Path("runs")


def told(capsys, *words) -> list[dict]:
    assert main(["runs", *words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


ORDERS = {
    "--sort name": "abc",
    "--sort name --reverse": "cba",
    "": "bca",
    "--sort best": "abc",
    "--sort best --reverse": "bac",
    "--sort seconds": "bac",
    "--sort lr": "cab",
    "--sort optimizer": "bac",
    "--sort hidden": "bac",
}


@pytest.mark.parametrize("words", ORDERS)
def test_runs_are_in_the_order_asked_for(words, runs, capsys):
    order = [run["name"] for run in told(capsys, *words.split())]
    if words in ("--sort optimizer", "--sort hidden"):  # equal values: as they are found
        assert set(order[:2]) == {"a", "b"}
    else:
        assert "".join(order) == ORDERS[words]


def test_a_metric_that_is_better_when_it_is_higher_sorts_so(runs, capsys):
    for name, value in {"runs/a": 0.1, "runs/b": 0.3}.items():
        path = Path(name, "run.json")
        monitor = {"name": "validation_r2", "mode": "max"}
        told_best = {"best": {"value": value}, "monitor": monitor}
        path.write_text(json.dumps(json.loads(path.read_text()) | told_best))
    order = [run["name"] for run in told(capsys, "--sort", "best")]
    assert order[:2] == ["b", "a"]


def test_the_best_are_told_among_runs_of_one_task(tmp_path, capsys):
    tasks = {
        "a": ("table", "iris.csv", "loss", "min"),
        "b": ("table", "houses.csv", "loss", "min"),
        "c": ("line", None, "loss", "min"),
        "d": ("table", "iris.csv", "accuracy", "max"),
    }
    for value in (0.2, 0.1, 0.3):
        for task, (recipe, data, metric, mode) in tasks.items():
            run = made(
                tmp_path / f"{task}{value}",
                options={"data": data},
                best={"value": value},
                monitor={"name": f"validation_{metric}", "mode": mode},
            )
            path = run / "options.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"recipe": recipe}))
    low, high = ("0.1", "0.2", "0.3"), ("0.3", "0.2", "0.1")
    for words, rising, falling in (((), low, high), (("--reverse",), high, low)):
        order = [run["name"] for run in told(capsys, str(tmp_path), "--sort", "best", *words)]
        expected = [("c", rising), ("b", rising), ("d", falling), ("a", rising)]
        assert order == [f"{task}{value}" for task, values in expected for value in values]


def test_the_table_has_the_options_that_differ(runs, capsys):
    assert main(["runs"]) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "name"
    assert head.split()[-2:] == ["optimizer", "lr"]
    assert "best validation loss" in head
    assert rows[0].startswith("b ")
    assert rows[0].split()[-2:] == ["AdamW", "0.1"]
    assert "5 min 0 s" in rows[2]


def test_the_table_has_the_columns_asked_for(runs, capsys):
    assert main(["runs", "--columns", "lr", "name"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["lr", "name"],
        ["0.1", "b"],
        ["0.001", "c"],
        ["0.01", "a"],
    ]


def test_a_terminal_gets_as_many_options_as_fit(runs, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "124")
    assert main(["runs"]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines[:-1])) <= 124
    assert lines[1].split()[-1] == "optimizer"
    assert lines[-1].startswith("They differ in lr as well")


@pytest.mark.parametrize("words", [["--sort", "lrr"], ["--columns", "name", "lrr"]])
def test_an_unknown_column_is_refused_with_a_near_one(words, runs, capsys):
    assert main(["runs", *words]) == 2
    assert "got lrr (did you mean 'lr'?)" in capsys.readouterr().err


def test_no_runs_are_a_sentence(runs, capsys):
    assert main(["runs", "runs/empty"]) == 0
    assert capsys.readouterr().out.startswith("runs/empty holds no run yet")
    assert told(capsys, "runs/empty") == []
    assert main(["runs", "nowhere"]) == 2
    assert "nowhere gives none (no such file or directory)" in capsys.readouterr().err


def test_a_run_itself_is_listed_alone(runs, capsys):
    assert [run["name"] for run in told(capsys, "runs/a")] == ["a"]


def test_names_do_not_steer_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    made(Path("runs/\x1b[2J[red]x"), options={"[bold]y": "\x1b]0;z\a"})
    made(Path("runs/two"), options={"[bold]y": "1"})
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "[2J[red]x" in out
    assert "[bold]y" in out


def test_a_run_that_has_not_ended_tells_its_metrics(tmp_path, capsys):
    run = made(tmp_path / "run", status="stopped", final=None, best=None, seconds=None)
    (found,) = told(capsys, str(tmp_path))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = rows[-1]
    assert found["epochs"] == 2
    assert found["steps"] == 40
    assert found["seconds"] == last["seconds"]
    assert found["validation_loss"] == last["validation_loss"]
    losses = [row["validation_loss"] for row in rows if row["kind"] == "epoch"]
    assert found["best"] == {"name": "validation_loss", "value": min(losses)}


def test_a_run_of_an_older_steepest_is_listed(tmp_path, capsys):
    run = made(tmp_path / "run")
    (run / "run.json").unlink()
    (found,) = told(capsys, str(tmp_path))
    assert (found["status"], found["epochs"], found["recipe"]) == ("unknown", 2, "table")


def test_a_run_is_running_as_long_as_its_process_lives(tmp_path):
    run = made(tmp_path / "run", status="running")
    for path in run.iterdir():
        os.utime(path, (0, 0))  # it has been silent for long
    held, let_go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:  # another process, which trains
        with lock.locked(run):
            os.write(held[1], b".")
            os.read(let_go[0], 1)
            os._exit(0)  # killed: it does not let go by itself
    os.read(held[0], 1)
    try:
        assert read_run(run).status == "running"
    finally:
        os.write(let_go[1], b".")
        os.waitpid(child, 0)
    assert (run / lock.LOCK).stat().st_size
    assert read_run(run).status == "stopped?"


def test_a_run_that_nobody_has_is_not_running(tmp_path):
    run = made(tmp_path / "run", status="running")
    assert read_run(run).status == "stopped?"
    with lock.locked(run):
        assert read_run(run).status == "running"
    assert read_run(run).status == "stopped?"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another lock")
def test_a_run_is_believed_where_the_system_has_no_locks(tmp_path, monkeypatch):
    import fcntl

    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    run = made(tmp_path / "run", status="running")
    (run / lock.LOCK).touch()
    monkeypatch.setattr(fcntl, "flock", none)
    assert lock.is_held(run) is None
    assert read_run(run).status == "running"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has another lock")
def test_whoever_asks_turns_no_run_away_that_begins(tmp_path, monkeypatch):
    import fcntl

    with open(tmp_path / lock.LOCK, "w") as asking:
        fcntl.flock(asking, fcntl.LOCK_SH)
        monkeypatch.setattr(lock.time, "sleep", lambda _: asking.close())
        with lock.locked(tmp_path):
            assert lock.is_held(tmp_path)


def test_the_names_of_files_are_those_that_training_writes():
    ours = RUN, OPTIONS, METRICS, EVALUATION
    assert ours == (contract.RUN, contract.OPTIONS, contract.METRICS, contract.EVALUATION)


AGES = {
    0: "just now",
    44: "just now",
    60: "1 min ago",
    89 * 60: "89 min ago",
    91 * 60: "2 h ago",
    35 * 3600: "35 h ago",
    37 * 3600: "2 d ago",
    800 * 86400: "800 d ago",
}


@pytest.mark.parametrize("seconds", AGES)
def test_an_age_is_said_as_people_say_it(seconds):
    assert since(seconds) == AGES[seconds]
