"""A streamed table: the numbers of the whole one, from a survey of few rows and little memory."""

import datetime as dt
import random
import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from steepest.data import Stream, delimited, files, read_table, streamed, writing
from steepest.data.seeds import drawn
from steepest.data.streamed import LEAST_MEMORY, stream_table
from steepest.data.survey import surveyed
from steepest.data.transform import fit
from steepest.errors import DataError

ROWS = 2000
TRAINING = np.flatnonzero(streamed._split(0.2, 0)(0, ROWS))
HELD_OUT = np.setdiff1d(np.arange(ROWS), TRAINING)
EARLY, LATE, OTHER = int(TRAINING[700]), int(TRAINING[-3]), int(HELD_OUT[-5])


def noise(i: int) -> float:
    return random.Random(i).gauss(100, 3)


COLUMNS: dict[str, Any] = {
    "number": noise,
    "whole": lambda i: i % 17,
    "large": lambda i: f"{1e200 * (i % 5 + 1):g}",
    "far off": lambda i: 1e6 if i == LATE else noise(i),
    "missing": lambda i: "" if i % 7 == 0 else noise(i),
    "missing late": lambda i: "NA" if i == LATE else noise(i),
    "missing first": lambda i: "" if i < 1500 else noise(i),
    "missing always": lambda i: "",
    "missing in training": lambda i: 1.5 * i if i in HELD_OUT else "",
    "constant": lambda i: 3,
    "constant in training": lambda i: i if i in HELD_OUT else 3,
    "constant but for one": lambda i: 4 if i == LATE else 3,
    "boolean": lambda i: i % 3 == 0,
    "boolean, one missing": lambda i: "?" if i == LATE else i % 3 == 0,
    "boolean but for one": lambda i: "maybe" if i == LATE else i % 3 == 0,
    "text": lambda i: ("red", "green", "blue")[i % 3],
    "text, one rare": lambda i: "pink" if i == LATE else ("red", "green")[i % 2],
    "text, one missing": lambda i: "" if i == LATE else ("red", "green")[i % 2],
    "text, one held out": lambda i: "pink" if i == OTHER else ("red", "green")[i % 2],
    "text, missing held out": lambda i: "" if i == OTHER else ("red", "green")[i % 2],
    "text, always the same": lambda i: "red",
    "number but for one": lambda i: "none" if i == LATE else i % 5,
    "number but for one held out": lambda i: "none" if i == OTHER else i % 5,
    "date": lambda i: dt.date(2024, 1, 1) + dt.timedelta(i % 400),
    "date but for one": lambda i: "soon" if i == LATE else dt.date(2024, 1, 1 + i % 28),
    "time": lambda i: f"2024-02-{1 + i % 28:02} {i % 24:02}:30",
    "thousands": lambda i: f"{1000 * noise(i):,.2f}",
    "thousands now and then": lambda i: "1,234,567" if i == LATE else i % 40,
    "thousands but for one": lambda i: "soon" if i == LATE else f"{i % 9},000,000",
    "thousands that one tells": lambda i: "1,234,567" if i == LATE else f"{1 + i % 900},000",
    "decimal commas but for one": lambda i: "soon" if i == LATE else f"{i},5",
    "many texts": lambda i: f"name {i}",
    "many texts late": lambda i: f"name {i if i > 1500 else i % 5}",
}

TARGETS: dict[str, Any] = {
    "numbers": noise,
    "whole numbers": lambda i: i % 60,
    "few numbers": lambda i: i % 5 * 2,
    "classes": lambda i: i % 3,
    "rare class": lambda i: 2 if i == LATE else i % 2,
    "texts": lambda i: "abc"[i % 3],
    "rare text": lambda i: "z" if i == LATE else "abc"[i % 3],
    "booleans": lambda i: i % 2 == 0,
    "thousands": lambda i: f"{1e6 + i:,.1f}",
}


def csv(path: Path, columns: dict[str, Any], rows: int = ROWS) -> Path:
    lines = [";".join(columns)]
    lines += [";".join(str(make(i)) for make in columns.values()) for i in range(rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Chunks of a few rows, and a survey of few more than it must have."""
    monkeypatch.setattr(delimited, "BLOCK", 4096)
    monkeypatch.setattr(files, "CHUNK_CELLS", 400)
    monkeypatch.setattr(writing, "PIECE", 500)
    monkeypatch.setattr(streamed, "surveyed", partial(few, surveyed))


def few(survey, *args, **options):
    found = survey(*args, **{**options, "memory": 3000})
    assert found.fair.sum() < found.rows / 5
    return found


def whole(source: Any, **options: Any) -> Any:
    """Fit and apply in memory, with the same parts."""
    frame = read_table(source, options.get("categorical", ()))
    training = streamed._split(0.2, 0)(0, frame.height)
    return fit(frame, training=training, **options)[0].apply(frame)


def rows_of(blocks) -> tuple[np.ndarray, np.ndarray]:
    parts = list(Stream(blocks, shuffle=False))
    x, y = (torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True))
    return x, y


def assert_as_whole(table, source, **options) -> None:
    """Compare all but the medians, which fill for missing values and count in their means."""
    frame = read_table(source, options.get("categorical", ()))
    training = streamed._split(0.2, 0)(0, frame.height)
    transform, notes = fit(frame, training=training, **options)
    assert len(table.notes) == len(notes) + len(transform.apply(frame).notes.sentences())
    for got, column in zip(table.transform.columns, transform.columns, strict=True):
        assert replace(got, **dict.fromkeys(ESTIMATED, 0)) == replace(
            column, **dict.fromkeys(ESTIMATED, 0), left_out=seen(column.left_out)
        )
        slack = 0.5 if column.missing else 1e-6
        assert (got.fill - column.fill) / column.std == pytest.approx(0, abs=1)
        assert (got.mean - column.mean) / column.std == pytest.approx(0, abs=slack)
        assert got.std / column.std == pytest.approx(1, abs=slack)
    assert table.target.mean == pytest.approx(transform.target.mean, rel=1e-5)
    assert table.target.std == pytest.approx(transform.target.std, rel=1e-5)
    assert replace(table.target, mean=0, std=1) == replace(transform.target, mean=0, std=1)
    assert table.transform.rows == transform.rows == len(training)
    close = partial(np.testing.assert_allclose, rtol=2e-5, atol=2e-5)
    applied = table.transform.apply(frame)
    for blocks, part in ((table.train, training), (table.validation, ~training)):
        x, y = rows_of(blocks)
        close(x, applied.x[part])
        close(y, applied.y[part])
    scaled = [c.role in ("numeric", "date") for c in table.transform.columns for _ in c.features]
    x = rows_of(table.train)[0][:, scaled].astype(float)
    close(x.mean(0), 0)
    close(x.std(0), 1)


ESTIMATED = ("fill", "mean", "std")


def seen(left_out: str) -> str:
    """Return why a column is left out as a survey tells it, which has not seen all its texts."""
    return re.sub(r"it has \d+ different texts, more", "it has more different texts", left_out)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_column_becomes_what_it_becomes_in_memory(tmp_path, name):
    columns = {"x": noise, name: COLUMNS[name], "y": noise}
    source = csv(tmp_path / "t.csv", columns)
    table = stream_table(source, target="y", folder=tmp_path)
    assert_as_whole(table, source, target="y")


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_becomes_what_it_becomes_in_memory(tmp_path, name):
    source = csv(tmp_path / "t.csv", {"x": noise, "y": TARGETS[name]})
    table = stream_table(source, target="y", folder=tmp_path)
    assert_as_whole(table, source, target="y")


FAULTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "a target that is missing": (lambda i: "" if i in (EARLY, LATE) else noise(i), {}),
    "a target that is infinite": (lambda i: "inf" if i == LATE else noise(i), {}),
    "a held-out target that is infinite": (lambda i: "inf" if i == OTHER else noise(i), {}),
    "a text among numbers": (lambda i: "soon" if i == LATE else noise(i), {}),
    "a text in a regression": (
        lambda i: "soon" if i == LATE else "abc"[i % 3],
        {"task": "regression"},
    ),
    "a fraction in a classification": (
        lambda i: 2.5 if i == LATE else i % 400,
        {"task": "classification"},
    ),
    "a class that is held out": (lambda i: "z" if i == OTHER else "abc"[i % 3], {}),
    "a text like a count": (lambda i: "row 3, missing in 4 rows" if i == LATE else noise(i), {}),
    "a class like a count": (lambda i: "row 3, 4 training rows" if i == OTHER else "ab"[i % 2], {}),
    "one class": (lambda i: "a", {}),
    "one number": (lambda i: 20.5, {}),
    "commas that may mean two things": (lambda i: f"{i % 9},5", {}),
    "one comma": (lambda i: "1,5" if i == LATE else f"{1 + i % 900}.000.000", {}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_target_is_refused_as_in_memory(tmp_path, name):
    make, options = FAULTS[name]
    source = csv(tmp_path / "t.csv", {"x": noise, "y": make})
    with pytest.raises(DataError) as expected:
        whole(source, target="y", **options)
    with pytest.raises(DataError) as refused:
        stream_table(source, target="y", folder=tmp_path, **options)
    assert str(refused.value) == f"{source}: {expected.value}"


BASE = {name: COLUMNS[name] for name in ("number", "missing", "text", "boolean", "date")}


@pytest.mark.parametrize("kind", ["csv", "parquet", "folder", "arrow", "jsonl", "npz", "frame"])
def test_every_kind_of_table_is_streamed(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(files, "SLICED", 0)
    source: Any = csv(tmp_path / "t.csv", {**BASE, "y": noise})
    frame = read_table(source)
    if kind == "npz":
        frame = frame.select("number", "y")
    write = {
        "csv": lambda path: None,
        "parquet": lambda path: frame.write_parquet(path, row_group_size=700),
        "arrow": lambda path: frame.write_ipc(path, record_batch_size=300),
        "jsonl": frame.write_ndjson,
        "npz": lambda path: np.savez(path, **{c.name: c.to_numpy() for c in frame}),
    }
    if kind == "folder":
        source = tmp_path / "folder"
        source.mkdir()
        frame[:900].write_parquet(source / "a.parquet")
        frame[900:].write_parquet(source / "b.parquet")
    elif kind == "frame":
        source = frame
    else:
        source = tmp_path / f"t.{kind}"
        write[kind](source)
    assert_as_whole(stream_table(source, target="y", folder=tmp_path), source, target="y")


@pytest.mark.parametrize(
    "options",
    [
        {"drop": ["number"]},
        {"categorical": ["whole"]},
        {"numeric": ["number but for one"]},
        {"task": "classification", "target": "whole"},
        {"task": "regression", "target": "whole"},
        {"target": "text"},
        {"max_categories": 2},
    ],
)
def test_options_mean_what_they_mean_in_memory(tmp_path, options):
    names = ("number", "whole", "text", "number but for one")
    source = csv(tmp_path / "t.csv", {name: COLUMNS[name] for name in names} | {"y": noise})
    options = {"target": "y", **options}
    assert_as_whole(stream_table(source, folder=tmp_path, **options), source, **options)


@pytest.mark.parametrize("dtype", [pl.Float32, pl.Int16, pl.UInt64, pl.Decimal(10, 2), pl.Date])
def test_types_of_parquet_files(tmp_path, dtype):
    numbers = pl.Series([None, *range(1, ROWS)], dtype=pl.Int32).cast(dtype)
    frame = pl.DataFrame({"x": numbers, "y": np.arange(ROWS) * 1.5, "list": [[1, 2]] * ROWS})
    frame.write_parquet(source := tmp_path / "t.parquet", row_group_size=100)
    assert_as_whole(stream_table(source, target="y", folder=tmp_path), source, target="y")


def test_a_survey_that_has_all_rows_gives_what_memory_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed, "surveyed", surveyed)
    source = csv(tmp_path / "t.csv", {**BASE, "y": noise})
    table = stream_table(source, target="y", folder=tmp_path)
    frame = read_table(source)
    training = streamed._split(0.2, 0)(0, ROWS)
    transform, notes = fit(frame, training=training, target="y")
    assert (table.transform, table.notes) == (transform, notes)
    x, _ = rows_of(table.train)
    assert np.array_equal(x, transform.apply(frame).x[training])


def test_batches_are_those_of_a_table(tmp_path):
    source = csv(tmp_path / "t.csv", {"x": noise, "y": lambda i: i % 3})
    table = stream_table(source, target="y", folder=tmp_path, memory=2 * LEAST_MEMORY)
    training, validation = table.batches(50, seed=4)
    assert (training.rows, validation.rows) == (len(TRAINING), len(HELD_OUT))
    assert (training.batch_size, training.seed, training.shuffle) == (50, 4, True)
    assert not validation.shuffle
    assert training.memory == validation.memory == 2 * LEAST_MEMORY
    x, y = next(iter(training))
    assert (x.dtype, x.shape) == (torch.float32, (50, 1))
    assert (y.dtype, y.shape) == (torch.int64, (50,))
    assert next(iter(table.batches(device="meta")[1]))[0].device.type == "meta"


def test_all_rows_may_be_trained_on(tmp_path):
    source = csv(tmp_path / "t.csv", {"x": noise, "y": noise})
    table = stream_table(source, target="y", validation=0, folder=tmp_path)
    assert (table.train.rows, table.validation) == (ROWS, None)
    assert table.batches()[1] is None


def test_a_rows_part_depends_on_seed_and_number_alone():
    whole = streamed._split(0.3, 5)(0, 10_000)
    parts = [streamed._split(0.3, 5)(first, 100) for first in range(0, 10_000, 100)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert abs(whole.mean() - 0.7) < 5 * np.sqrt(0.21 / 10_000)
    others = [streamed._split(0.3, seed)(0, 10_000) for seed in (6, 5 + 2**64)]
    for other in others:
        assert abs((other & whole).mean() - 0.49) < 5 * np.sqrt(0.25 / 10_000)


def test_the_parts_are_the_same_in_every_version():
    """A run is resumed by a later steepest: its rows may not change parts."""
    assert drawn("split", 0, 7, 2).tolist() == [4018761653619368657, 14922909055337212669]


def test_random_numbers_of_rows_are_uniform_in_every_bit():
    bits = np.unpackbits(drawn("sample", 0, 0, 10_000).view(np.uint8)).reshape(10_000, 64)
    assert abs(bits.mean(0) - 0.5).max() < 5 * 0.5 / 100


def test_a_survey_takes_the_memory_that_it_is_given(tmp_path):
    source = csv(tmp_path / "t.csv", {f"x{i}": noise for i in range(9)} | {"y": noise})
    options = {"target": "y", "task": None, "seed": 0, "text": (), "max_categories": 50}
    split = streamed._split(0.2, 0)
    found = surveyed(source, split=split, memory=50_000, **options)
    assert 20_000 < found.frame.filter(pl.Series(found.fair)).estimated_size() <= 50_000
    assert (~found.fair).sum() < 40  # rows that were taken for a reason
    everything = surveyed(source, split=split, memory=2**30, **options)
    assert everything.frame.height == ROWS


def test_nothing_is_left_in_the_folder(tmp_path):
    source = csv(tmp_path / "t.csv", {"x": noise, "y": noise})
    stream_table(source, target="y", folder=tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_without_room_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    source = csv(tmp_path / "t.csv", {"x": noise, "y": noise})
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=8 * ROWS - 1))
    with pytest.raises(
        DataError, match=r"takes 0\.0 GiB and has 0\.0: free space there, or choose"
    ):
        stream_table(source, target="y", folder=tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target": "z"}, r"t\.csv has no column 'z': the target is one of 'x', 'y'$"),
        ({"task": "guess"}, "task is 'regression' or 'classification': got 'guess'"),
        ({"max_categories": 1}, "max_categories is at least 2: got 1"),
        ({"memory": 1000}, r"memory is at least 134217728 bytes \(128 MiB\): got 1000"),
        ({"validation": 1.0}, "validation is a share of the rows, from 0 to below 1: got 1.0"),
        ({"seed": 0.5}, "seed is a whole number: got 0.5"),
        ({"drop": ["why"]}, r"t\.csv: drop names columns of the table: there is no 'why'"),
        ({"drop": ["x"]}, r"t\.csv: no feature column is left beside the target"),
        ({"source": "none.csv"}, r"there is no file none\.csv"),
    ],
)
def test_wrong_options_are_refused_in_one_sentence(tmp_path, options, sentence):
    source = csv(tmp_path / "t.csv", {"x": noise, "y": noise})
    options = {"source": source, "target": "y", "folder": tmp_path, **options}
    with pytest.raises(DataError, match=sentence) as refused:
        stream_table(options.pop("source"), **options)
    assert str(refused.value).count("t.csv") <= 1


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_tiny_table_is_refused(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(streamed, "surveyed", surveyed)
    source = csv(tmp_path / "t.csv", {"x": noise, "y": noise}, rows)
    with pytest.raises(DataError, match=f"table of {rows} rows? is too small to draw the rows of"):
        stream_table(source, target="y", folder=tmp_path)


def test_large_tables_are_told_from_small_ones(tmp_path, monkeypatch):
    frame = pl.DataFrame({"x": range(1000)})
    frame.write_parquet(tmp_path / "a.parquet")
    size = (tmp_path / "a.parquet").stat().st_size
    assert streamed.is_large(tmp_path / "a.parquet", size - 1)
    assert not streamed.is_large(str(tmp_path / "a.parquet"), size)
    frame.write_parquet(tmp_path / "b.parquet")
    assert streamed.is_large(tmp_path, size)
    assert not streamed.is_large(tmp_path / "none.csv")  # which is for its reader to refuse
    assert not streamed.is_large(frame, 1)
    assert not streamed.is_large(tmp_path)
    monkeypatch.setattr(streamed, "memory_of_machine", lambda: 4 * size)
    assert streamed.is_large(tmp_path)
