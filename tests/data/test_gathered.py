"""A table gathered in little memory is the table that is read at once."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from steepest.data import delimited, read_table
from steepest.data.gathered import Gathered
from steepest.errors import DataError

CSV = """n,late,text,flag,day,code
1,,u,true,2024-02-29,1
2.5,,v,,2024-03-01,02
,,,false,,x
-4,7,u,TRUE,2024-03-02 10:30,4
"""


def as_float(frame: pl.DataFrame) -> pl.DataFrame:
    numbers = pl.selectors.numeric()
    return frame.with_columns(numbers.cast(pl.Float64).fill_null(float("nan")))


@pytest.mark.parametrize("block", [1, 20, 2**20])
def test_columns_and_rows_are_those_of_the_table(tmp_path, monkeypatch, block):
    monkeypatch.setattr(delimited, "BLOCK", block)
    monkeypatch.setattr(delimited, "BLOCK_PER_COLUMN", 1)
    path = tmp_path / "t.csv"
    path.write_text(CSV.replace(" 10:30", ""))
    whole, gathered = as_float(read_table(path)), Gathered(path)
    assert gathered.columns == whole.columns
    assert gathered.height == whole.height
    assert_frame_equal(as_float(pl.DataFrame([gathered[name] for name in whole.columns])), whole)
    rows = pl.concat(map(as_float, gathered.frames()), how="vertical_relaxed")
    assert_frame_equal(rows, whole)
    assert list(gathered.frames()) == []  # they were handed out


def test_parquet_comes_in_several_frames(tmp_path, monkeypatch):
    monkeypatch.setattr("steepest.data.files.CHUNK_CELLS", 4)
    frame = pl.DataFrame({"a": range(7), "b": [None, *"abcdef"]})
    frame.write_parquet(tmp_path / "t.parquet")
    gathered = Gathered(tmp_path / "t.parquet")
    frames = list(gathered.frames())
    assert len(frames) > 1
    assert_frame_equal(pl.concat(frames), as_float(frame))


def test_a_table_without_rows_is_refused(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\n")
    with pytest.raises(DataError, match="column names and no rows"):
        Gathered(path)
