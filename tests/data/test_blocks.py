"""Blocks: what was written comes back, as Arrow, from a file that nobody else can meet."""

import gc
import io
import os
from math import ceil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.data.blocks import BlockWriter, Field
from steepest.errors import DataError

COLUMNS = (
    Field(np.dtype(np.float32), (3,)),
    Field(np.dtype(np.float32), (1,)),
    Field(np.dtype(np.int64), ()),
)


def numbers(rows: int) -> list[np.ndarray]:
    x = np.random.default_rng(rows).normal(size=(rows, 3)).astype(np.float32)
    return [x, x[:, :1] + 1, np.arange(rows)]


def written(folder: Path, pieces: list[list[np.ndarray]], block_rows: int):
    writer = BlockWriter(folder, COLUMNS, block_rows)
    for piece in pieces:
        writer.add(*piece)
    return writer.close()


@settings(deadline=None)  # a disk has its moods
@given(pieces=st.lists(st.integers(0, 40), max_size=5), block_rows=st.integers(1, 30))
def test_what_was_written_is_mapped(tmp_path_factory, pieces, block_rows):
    parts = [numbers(rows) for rows in pieces]
    blocks = written(tmp_path_factory.getbasetemp(), parts, block_rows)
    whole = [np.concatenate(columns) for columns in zip(*parts, strict=True)] or numbers(0)
    assert blocks.rows == sum(pieces)
    assert len(blocks) == ceil(blocks.rows / block_rows)
    heights = [blocks.height(k) for k in range(len(blocks))]
    assert heights[:-1] == [block_rows] * (len(blocks) - 1)
    for k, height in enumerate(heights):
        for tensor, column in zip(blocks.map(k), whole, strict=True):
            expected = torch.from_numpy(column[k * block_rows :][:height])
            torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_blocks_are_read_one_below_the_other(tmp_path):
    x, y, z = numbers(10)
    blocks = written(tmp_path, [[x, y, z]], 4)
    buffer = blocks.buffer(3, torch.device("cpu"))
    rows = [8, 9, 0, 1, 2, 3]
    for tensor, column in zip(blocks.read([2, 0], buffer), (x, y, z), strict=True):
        assert torch.equal(tensor, torch.from_numpy(column[rows]))
    assert [len(tensor) for tensor in buffer] == [12, 12, 12]


def test_the_file_holds_arrow_streams(tmp_path):
    x, y, z = numbers(5)
    blocks = written(tmp_path, [[x, y, z]], 5)
    blocks.file.seek(0)
    frame = pl.read_ipc_stream(io.BytesIO(blocks.file.read()))
    assert np.array_equal(frame["0"].to_numpy(), x)
    assert np.array_equal(frame["1"].to_numpy(), y)
    assert np.array_equal(frame["2"].to_numpy(), z)


def test_writing_to_a_mapped_block_leaves_the_file_alone(tmp_path):
    blocks = written(tmp_path, [numbers(5)], 5)
    blocks.map(0)[0].zero_()
    assert torch.equal(blocks.map(0)[0], torch.from_numpy(numbers(5)[0]))


@pytest.mark.skipif(os.name == "nt", reason="the file has a name there until it is closed")
def test_the_file_has_no_name_and_ends_with_the_blocks(tmp_path):
    blocks = written(tmp_path / "new" / "folder", [numbers(5)], 2)
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (mapped, *_) = blocks.map(0)
    file = blocks.file
    del blocks
    gc.collect()
    assert file.closed
    assert mapped.tolist() == numbers(5)[0][:2].tolist()  # what is in use stays


def test_a_writer_that_is_given_up_closes_its_file(tmp_path):
    writer = BlockWriter(tmp_path, COLUMNS, 2)
    writer.add(*numbers(5))
    file = writer._file
    del writer
    gc.collect()
    assert file.closed


class Full(io.FileIO):
    """A file on a disk with room for 1,500 bytes, which takes 100 at a time."""

    def write(self, data):
        if self.tell() + 100 > 1500:
            raise OSError(28, "No space left on device")
        return super().write(data[:100])


def test_a_full_disk_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **_: Full(tmp_path / "file", "w+"))
    (block,) = [written(tmp_path, [numbers(10)], 10).map(0)]
    assert torch.equal(block[0], torch.from_numpy(numbers(10)[0]))
    with pytest.raises(DataError, match=r"failed after 10 rows \(No space left on device\): free"):
        written(tmp_path, [numbers(100)], 10)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file.here first, which failed after 0 rows"):
        BlockWriter(tmp_path / "file" / "here", COLUMNS, 2)
