"""`steepest find-lr`: what it prints, what it leaves, and its exit codes."""

import csv
import json
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steepest.cli import main

EXAMPLES = Path(__file__).parents[1] / "examples"
Steepest = Callable[[str], tuple[int, str, str]]

DEAD = """
from dataclasses import replace
from steepest.recipes import line

def run():
    made = line.run(rows=200)
    return replace(made, loss_fn=lambda prediction, target: (0 * prediction + target).mean())
"""


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("recipe_dead", None)


@pytest.fixture
def steepest(capsys: pytest.CaptureFixture[str]) -> Steepest:
    def call(words: str) -> tuple[int, str, str]:
        code = main(shlex.split(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_it_suggests_writes_the_curve_and_says_how_to_go_on(steepest: Steepest):
    code, out, _ = steepest("find-lr line --rows 2000 --lr 0.5 --momentum=0.5 --steps 40")
    assert code == 0
    first, curve, train = out.splitlines()
    suggestion = first.partition("line: suggested lr ")[2].partition(", a tenth of lr ")[0]
    assert 0.01 < float(suggestion) < 1
    assert curve == "  curve in lr.png and lr.csv"
    expected = f"steepest train line --rows 2000 --momentum=0.5 --lr {suggestion}"
    assert train == f"  train: {expected}"
    assert {path.name for path in Path().iterdir()} == {"lr.png", "lr.csv"}
    assert Path("lr.png").read_bytes().startswith(b"\x89PNG")
    with Path("lr.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["lr"]) == 1e-7
    assert 20 < len(rows) <= 40
    assert steepest(expected.removeprefix("steepest ") + " --epochs 1")[0] == 0
    options = json.loads(Path("runs/line-1/options.json").read_text())["options"]
    assert (options["lr"], options["momentum"]) == (float(suggestion), 0.5)


def test_its_own_options_are_read_and_left_out_of_the_command(steepest: Steepest):
    iris = f"--data {EXAMPLES / 'iris.csv'} --target species"
    code, out, _ = steepest(
        f"find-lr table {iris} --start 1e-4 --end=3 --steps 25 --out a.png --accumulate 2"
    )
    assert code == 0
    assert out.splitlines()[-1].startswith(
        f"  train: steepest train table {iris} --accumulate 2 --lr "
    )
    with Path("a.csv").open() as file:
        lrs = [float(row["lr"]) for row in csv.DictReader(file)]
    assert lrs[0] == 1e-4
    assert lrs[-1] == pytest.approx(3, rel=0.9)


def test_a_loss_that_no_lr_moves_fails_the_command(steepest: Steepest):
    Path("dead.py").write_text(DEAD)
    code, out, _ = steepest("find-lr dead.py")
    assert code == 1
    assert "no lr to suggest: no lr moved the loss" in out
    assert "is the model connected to the loss" in out
    assert "train:" not in out
    assert Path("lr.png").exists()


def test_help_shows_the_recipes_options_and_its_own(steepest: Steepest):
    for words in ("find-lr", "find-lr --help"):
        assert steepest(words)[1].startswith("usage: steepest find-lr RECIPE")
    code, out, err = steepest("find-lr line --help")
    assert (code, err) == (0, "")
    for words in (
        "usage: steepest find-lr line",
        "--momentum FLOAT",
        "--start FLOAT",
        "--out PATH",
    ):
        assert words in out
    assert "--patience" not in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("find-lr lin", "got 'lin' (did you mean 'line'?)"),
        ("find-lr --steps 30 line", "The recipe comes before its options: got --steps first"),
        (
            "find-lr line --strat 1",
            "steepest: find-lr line has no option --strat (did you mean '--st",
        ),
        ("find-lr line --start 0", "start is a learning rate, a number above 0: got 0.0"),
        ("find-lr line --start 1 --end 0.1", "start lies below end: got start=1 and end=0.1"),
        ("find-lr line --steps 5", "steps is a whole number of at least 20: got 5"),
        ("find-lr line --accumulate 0", "accumulate is a whole number above 0: got 0"),
        ("find-lr line --out lr.svg", "a picture that ends in .png: got lr.svg"),
        (
            "find-lr table",
            "steepest: find-lr table needs --data and --target; see steepest f",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(steepest: Steepest, words: str, message: str):
    code, out, err = steepest(words)
    assert (code, out) == (2, "")
    assert message in err
    assert list(Path().iterdir()) == []


def test_a_picture_that_cannot_be_written_is_refused(steepest: Steepest):
    code, _, err = steepest("find-lr line --rows 100 --steps 20 --out absent/lr.png")
    assert code == 2
    assert "absent/lr.png could not be written" in err


def test_a_table_beside_the_picture_is_not_written_over(steepest: Steepest):
    Path("mine.csv").write_text("x,y\n1,2\n")
    code, _, err = steepest("find-lr line --steps 30 --out mine.png")
    assert (code, "mine.csv is there already" in err) == (2, True)
    assert Path("mine.csv").read_text() == "x,y\n1,2\n"
