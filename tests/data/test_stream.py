"""Stream: every row once per epoch, an order fixed by seed and epoch, a bound on memory."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steepest.data import Stream, stream
from steepest.data.blocks import BlockWriter, Field
from steepest.data.ordered import Ordered
from steepest.errors import DataError

ROWS = 23
X, Y = Field(np.dtype(np.float32), (2,)), Field(np.dtype(np.int64), ())


@pytest.fixture(scope="session")
def blocks(tmp_path_factory):
    """`blocks(rows, block_rows)`: x is the row's number and half of it, y the number."""

    def make(rows: int = ROWS, block_rows: int = 4):
        writer = BlockWriter(tmp_path_factory.getbasetemp(), (X, Y), block_rows)
        number = np.arange(rows)
        writer.add(np.stack([number, number / 2], 1), number)
        return writer.close()

    return make


def buffers_of(patch: pytest.MonkeyPatch, count: int) -> None:
    """Have a buffer hold so many blocks."""
    patch.setattr(stream, "_buffer_bytes", lambda *_: stream.MEMORY // 3 // count)


def rows_of(epoch) -> list[int]:
    return [int(row) for _, y in epoch for row in y]


@settings(deadline=None)  # a disk has its moods
@given(
    rows=st.integers(1, 60), block_rows=st.integers(1, 9), buffer=st.integers(1, 5),
    batch_size=st.integers(1, 70), shuffle=st.booleans(), seed=st.integers(-(2**70), 2**70),
    n=st.integers(0, 2**40),
)  # fmt: skip
def test_every_row_appears_exactly_once_in_an_epoch(
    blocks, rows, block_rows, buffer, batch_size, shuffle, seed, n
):
    with pytest.MonkeyPatch.context() as patch:
        buffers_of(patch, buffer)
        s = Stream(blocks(rows, block_rows), batch_size=batch_size, shuffle=shuffle, seed=seed)
        epoch = list(s.epoch(n))
        assert rows_of(epoch) == s.order(n).tolist()
    assert sorted(rows_of(epoch)) == list(range(rows))
    assert len(epoch) == len(s)
    assert [len(y) for _, y in epoch[:-1]] == [batch_size] * (len(s) - 1)
    for x, y in epoch:
        assert torch.equal(x, torch.stack([y, y / 2], 1))


@settings(deadline=None)  # a disk has its moods
@given(
    rows=st.integers(1, 60), block_rows=st.integers(1, 9), buffer=st.integers(1, 5),
    batch_size=st.integers(1, 60), shuffle=st.booleans(), drop_last=st.booleans(), data=st.data(),
)  # fmt: skip
def test_an_epoch_from_a_later_start_ends_as_the_whole_epoch_does(
    blocks, rows, block_rows, buffer, batch_size, shuffle, drop_last, data
):
    batch_size = min(batch_size, rows)
    options = {"batch_size": batch_size, "shuffle": shuffle, "drop_last": drop_last}
    with pytest.MonkeyPatch.context() as patch:
        buffers_of(patch, buffer)
        s = Stream(blocks(rows, block_rows), seed=5, **options)
        start = data.draw(st.integers(0, len(s)))
        whole = [y.tolist() for _, y in s.epoch(3)]
        assert len(whole) == len(s)
        assert [y.tolist() for _, y in s.epoch(3, start=start)] == whole[start:]


def test_without_shuffle_rows_come_as_they_were_written(blocks):
    assert rows_of(Stream(blocks(), batch_size=5, shuffle=False)) == list(range(ROWS))


def test_the_order_depends_on_seed_and_epoch_alone(blocks):
    orders = {
        (seed, n): tuple(rows_of(Stream(blocks(), seed=seed).epoch(n)))
        for seed in range(4)
        for n in range(4)
    }
    assert len(set(orders.values())) == 16
    torch.manual_seed(99)
    again = Stream(blocks(), seed=2, batch_size=5)
    assert rows_of(again.epoch(3)) == list(orders[2, 3])
    assert rows_of(again.epoch(1)) == list(orders[2, 1])


def test_the_order_is_the_same_in_every_version(blocks, monkeypatch):
    """A run is resumed by a later steepest: the order may not change."""
    buffers_of(monkeypatch, 3)
    assert Stream(blocks(11, 2), seed=0).order(0).tolist() == [0, 7, 2, 6, 1, 3, 5, 9, 10, 4, 8]


def test_one_buffer_is_shuffled_wholly(blocks):
    places = np.zeros((5, 5))
    s = Stream(blocks(5, 2), seed=1)
    for n in range(2000):
        places[np.arange(5), s.order(n).numpy()] += 1
    assert abs(places - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)  # five standard deviations


def test_rows_of_a_sorted_file_mix(blocks, monkeypatch):
    """A batch's mean strays as that of rows from 64 random blocks: `sqrt(1/100 + 1/64)`."""
    buffers_of(monkeypatch, 64)
    s = Stream(blocks(40_000, 50), batch_size=100)
    means = np.array([y.float().mean().item() for _, y in s.epoch(0)])
    spread = np.arange(40_000).std()
    assert (means - 20_000).std() < 1.3 * spread * np.sqrt(1 / 100 + 1 / 64)
    neighbours = np.abs(np.diff(s.order(0).numpy())) == 1
    assert neighbours.mean() < 0.002


def test_iter_counts_epochs(blocks):
    s = Stream(blocks(), seed=7)
    first, second = iter(s), iter(s)
    assert rows_of(second) == rows_of(s.epoch(1))
    assert rows_of(first) == rows_of(s.epoch(0))


def test_epochs_may_be_read_at_the_same_time(blocks):
    s = Stream(blocks(), batch_size=5)
    pairs = list(zip(s.epoch(0), s.epoch(1), strict=True))
    assert rows_of(one for one, _ in pairs) == rows_of(s.epoch(0))
    assert rows_of(two for _, two in pairs) == rows_of(s.epoch(1))


def test_batches_that_are_kept_stay_as_they_are(blocks, monkeypatch):
    buffers_of(monkeypatch, 2)
    assert rows_of(list(Stream(blocks(), batch_size=3))) == rows_of(Stream(blocks(), batch_size=3))


def test_torchs_global_random_state_is_left_alone(blocks):
    state = torch.get_rng_state()
    list(Stream(blocks()))
    assert torch.equal(torch.get_rng_state(), state)


def test_to_keeps_options_order_and_the_count_of_epochs(blocks):
    s = Stream(blocks(), batch_size=3, seed=4, drop_last=True)
    list(s)
    moved = s.to("cpu")
    assert isinstance(moved, Ordered)  # what a run needs to begin an epoch anywhere
    assert len(moved) == len(s) == 7
    assert rows_of(moved) == rows_of(s.epoch(1))
    assert next(iter(s.to("meta")))[0].device.type == "meta"


@pytest.mark.parametrize("memory", [stream.LEAST_MEMORY, stream.MEMORY, 3 * 2**30])
@pytest.mark.parametrize("width", [1, 20, 5000, 300_000])
def test_a_buffer_and_its_order_take_a_third_of_the_memory(memory, width, blocks, monkeypatch):
    rows = stream.block_rows(width * 4 + 8, memory)
    part = blocks(1, 1)
    wide = type(part)(part.file, (Field(np.dtype(np.float32), (width,)), Y), rows, 0, ())
    held = Stream(wide, memory=memory)._blocks_per_buffer() * rows
    assert 0.9 * memory / 3 < held * (width * 4 + 8 + 8) <= memory / 3


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"batch_size": 0}, "batch_size is at least 1: got 0"),
        ({"batch_size": 2.0}, "batch_size is a whole number: got 2.0"),
        ({"seed": "a"}, "seed is a whole number: got 'a'"),
        ({"batch_size": 24, "drop_last": True}, "got 23 rows and batch_size=24; lower batch_size"),
        ({"memory": 2**20}, r"memory is at least 33554432 bytes \(32 MiB\): got 1048576"),
    ],
)
def test_wrong_arguments_are_refused_at_once(blocks, arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        Stream(blocks(), **arguments)


@pytest.mark.parametrize(
    ("n", "start", "sentence"),
    [
        (-1, 0, "epoch is at least 0: got -1"),
        (0, -1, "start is at least 0: got -1"),
        (0, 2, "1 batches cannot start at batch 2"),
    ],
)
def test_a_wrong_epoch_is_refused_at_once(blocks, n, start, sentence):
    with pytest.raises(DataError, match=sentence):
        Stream(blocks()).epoch(n, start=start)
