"""`steepest report`: what it writes and says."""

import runpy
import webbrowser
from pathlib import Path

import pytest

from steepest.cli import main

folders = runpy.run_path(str(Path(__file__).with_name("folders.py")))


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rows = list(folders["metrics"](epochs=2, batches=20, log_steps=5))
    return folders["write_run"](Path("runs/one"), rows=rows)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "report.html: 1 run, 4.9 MB\n"),
        (["runs/one"], "report.html: 2 runs, 5.0 MB\n"),
        (["--out", "other.html"], "other.html: 1 run, 4.9 MB\n"),
    ],
)
def test_a_page_is_written_and_named(words, said, run, capsys):
    assert main(["report", str(run), *words]) == 0
    assert capsys.readouterr().out == said
    assert Path(said.partition(":")[0]).stat().st_size > 4_800_000


def test_a_page_is_shown_when_asked(run, monkeypatch):
    shown = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    assert main(["report", str(run), "--open"]) == 0
    assert shown == [Path("report.html").resolve().as_uri()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "steepest: report needs RUN, the folder of a run, or several"),
        (["runs"], "runs is no run; `steepest runs` lists the runs"),
        (["nowhere"], "nowhere is no folder; `steepest runs` lists the runs"),
        (["runs/one", "--out", "runs/one/run.json"], "runs/one/run.json is neither"),
        (["runs/one", "--opne"], "steepest: report has no option --opne (did you mean '--open'?)"),
    ],
)
def test_a_mistake_is_refused_in_a_sentence(words, said, run, capsys):
    assert main(["report", *words]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not Path("report.html").exists()
