"""Means, metrics as JSON lines, and the picture made of them."""

import json
import math
from pathlib import Path

import pytest
import torch

from steepest.errors import CheckpointError
from steepest.train import Mean, MetricsFile, read_metrics
from steepest.train.measured.metrics import rows_of
from steepest.train.shown.picture import draw_losses


def test_a_mean_is_weighted():
    mean = Mean()
    assert math.isnan(mean.read())
    mean.add(torch.tensor(1.0), 3)
    mean.add(5.0, 1)
    assert mean.read() == 2.0
    assert (mean.total, mean.rows) == (8.0, 4)


class Far(torch.Tensor):
    """A number on an accelerator, where reading waits."""

    is_cpu = False  # type: ignore[assignment]
    reads = 0

    def item(self) -> float:
        Far.reads += 1
        return super().item()


def test_numbers_on_an_accelerator_are_read_late(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Far, "reads", 0)
    mean = Mean()
    for _ in range(99):
        mean.add(torch.tensor(2.0).as_subclass(Far), 5)
    assert (Far.reads, mean.rows, mean.total) == (0, 495, 0.0)
    assert mean.read() == 2.0
    for _ in range(100):
        mean.add(torch.tensor(4.0).as_subclass(Far), 5)
    assert (Far.reads, mean.total) == (199, 495 * 2.0 + 500 * 4.0)


@pytest.mark.parametrize(
    ("target", "rows"),
    [(torch.zeros(3, 2), 3), (torch.zeros(()), 1), ([1, 2], 2), (5, 1), ({"a": 1}, 1)],
    ids=str,
)
def test_rows_are_counted(target: object, rows: int):
    assert rows_of(target) == rows


def test_lines_wait_for_a_flush(tmp_path: Path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    row = {"step": 1, "loss": 0.5, "nan": math.nan, "inf": -math.inf}
    file.write(row)
    row["step"] = 2  # later, which is another row's business
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    file.flush()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert json.loads(text) == {"step": 1, "loss": 0.5, "nan": None, "inf": None}
    assert text.endswith("\n")
    file.close()


@pytest.mark.parametrize(
    "tail",
    ['{"step": 5}\n', '{"step": 3', "garbage\n", "[1]\n", "\n", '{"step": 9}\n{"step": 2}\n', ""],
)
def test_a_continued_file_is_cut_back(tmp_path: Path, tail: str):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 4}\n' + tail)
    file = MetricsFile(path, ["step", "loss"], rows=2)
    file.write({"step": 6, "loss": 0.5, "ratios": {"a": 1.0}})
    file.close()
    text = path.read_text().replace(', "loss": 0.5, "ratios": {"a": 1.0}', "")
    assert path.with_suffix(".csv").read_text() == "step,loss\n1,\n4,\n6,0.5\n"
    assert text == '{"step": 1}\n{"step": 4}\n{"step": 6}\n'
    assert [row["step"] for row in read_metrics(path)] == [1, 4, 6]


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path):
    with pytest.raises(CheckpointError, match="could not be opened"):
        MetricsFile(tmp_path / "absent" / "metrics.jsonl")


EPOCH = {"kind": "epoch", "epoch": 1, "step": 10, "loss": 0.5}
PICTURES = {
    "nothing": [],
    "one epoch": [EPOCH],
    "null": [EPOCH | {"loss": None, "validation_loss": None}],
    "negative": [EPOCH | {"loss": -1.0}, EPOCH | {"epoch": 2, "step": 20, "loss": 30.0}],
    "zero": [EPOCH | {"loss": 0.0}, EPOCH | {"epoch": 2, "step": 20, "loss": 30.0}],
    "far apart": [
        *({"kind": "step", "epoch": 1, "step": n, "loss": 10.0**-n} for n in range(1, 9)),
        EPOCH | {"validation_loss": 1e-5},
    ],
}


@pytest.mark.parametrize("rows", PICTURES.values(), ids=PICTURES)
def test_any_metrics_make_a_picture(tmp_path: Path, rows: list):
    draw_losses(tmp_path / "loss.png", rows, "a run: with $x^$ signs_and 100 %")
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
