"""Batches: every row once per epoch, an order fixed by seed and epoch, no copy that is not told."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.data import Batches, batches
from steepest.errors import DataError

ROWS = 23


def rows_of(epoch) -> list[int]:
    return [int(row) for (x,) in epoch for row in x]


@given(
    rows=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    shuffle=st.booleans(),
    seed=st.integers(-(2**70), 2**70),
    n=st.integers(0, 2**40),
)
def test_every_row_appears_exactly_once_in_an_epoch(rows, batch_size, shuffle, seed, n):
    b = Batches(torch.arange(rows), batch_size=batch_size, shuffle=shuffle, seed=seed)
    epoch = list(b.epoch(n))
    assert sorted(rows_of(epoch)) == list(range(rows))
    assert len(epoch) == len(b)
    assert [len(x) for (x,) in epoch[:-1]] == [batch_size] * (len(b) - 1)


@given(
    rows=st.integers(1, 60), batch_size=st.integers(1, 60), chunk_batches=st.integers(1, 4),
    shuffle=st.booleans(), drop_last=st.booleans(), data=st.data(),
)  # fmt: skip
def test_an_epoch_from_a_later_start_ends_as_the_whole_epoch_does(
    rows, batch_size, chunk_batches, shuffle, drop_last, data
):
    batch_size = min(batch_size, rows)
    b = Batches(
        torch.arange(rows), batch_size=batch_size, shuffle=shuffle, drop_last=drop_last, seed=5
    )
    start = data.draw(st.integers(0, len(b)))
    whole = [x.tolist() for (x,) in b.epoch(3)]
    with pytest.MonkeyPatch.context() as patch:  # the chunks must not show in what comes out
        patch.setattr(batches, "CHUNK_BATCHES", chunk_batches)
        assert [x.tolist() for (x,) in b.epoch(3, start=start)] == whole[start:]


@pytest.mark.parametrize(
    ("rows", "batch_size", "drop_last", "sizes"),
    [
        (10, 4, False, [4, 4, 2]),
        (10, 4, True, [4, 4]),
        (8, 4, True, [4, 4]),
        (8, 4, False, [4, 4]),
        (3, 4, False, [3]),
        (4, 1, True, [1, 1, 1, 1]),
    ],
)
@pytest.mark.parametrize("shuffle", [True, False])
def test_sizes_of_batches(rows, batch_size, drop_last, sizes, shuffle):
    b = Batches(torch.arange(rows), batch_size=batch_size, drop_last=drop_last, shuffle=shuffle)
    assert [len(x) for (x,) in b] == sizes
    assert len(b) == len(sizes)


def test_rows_of_all_tensors_stay_together():
    x = torch.randn(ROWS, 3, 2)
    y = torch.arange(ROWS)
    seen = 0
    for batch_x, batch_y in Batches(x, y, batch_size=4):
        torch.testing.assert_close(batch_x, x[batch_y], rtol=0, atol=0)
        seen += len(batch_y)
    assert seen == ROWS


def test_the_order_depends_on_seed_and_epoch_alone():
    orders = {
        (seed, n): tuple(rows_of(Batches(torch.arange(ROWS), seed=seed).epoch(n)))
        for seed in range(4)
        for n in range(4)
    }
    assert len(set(orders.values())) == 16  # seed 0, epoch 1 is not seed 1, epoch 0
    far = Batches(torch.arange(ROWS), seed=2**32)  # of which torch's generator drops the 1
    assert tuple(rows_of(far.epoch(0))) not in orders.values()
    torch.manual_seed(99)
    again = Batches(torch.arange(ROWS), seed=2, batch_size=5)
    assert rows_of(again.epoch(3)) == list(orders[2, 3])
    assert rows_of(again.epoch(1)) == list(orders[2, 1])
    assert rows_of(Batches(torch.arange(ROWS), seed=np.int64(2)).epoch(1)) == list(orders[2, 1])


def test_the_order_is_the_same_in_every_version():
    """A run is resumed by a later steepest: the order may not change."""
    assert Batches(torch.arange(8), seed=0).order(0).tolist() == [2, 0, 7, 1, 6, 3, 5, 4]


def test_shuffled_orders_are_uniform():
    places = np.zeros((5, 5))
    b = Batches(torch.arange(5), seed=1)
    for n in range(2000):
        places[np.arange(5), b.order(n).numpy()] += 1
    assert abs(places - 400).max() < 5 * np.sqrt(2000 * 0.2 * 0.8)  # five standard deviations


def test_iter_counts_epochs():
    b = Batches(torch.arange(ROWS), seed=7)
    first, second = iter(b), iter(b)  # counted when begun, not when first read
    assert rows_of(second) == rows_of(b.epoch(1))
    assert rows_of(first) == rows_of(b.epoch(0))
    assert rows_of(b) == rows_of(b.epoch(2))


def test_torchs_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    list(Batches(torch.arange(ROWS)))
    assert torch.equal(torch.get_rng_state(), state)


def test_without_shuffle_batches_are_views_of_the_data():
    x = torch.arange(ROWS)
    for number, (batch,) in enumerate(Batches(x, batch_size=4, shuffle=False)):
        assert batch.data_ptr() == x[4 * number :].data_ptr()


def test_shuffled_batches_leave_the_data_alone():
    x = torch.arange(ROWS)
    for (batch,) in Batches(x, batch_size=4):
        batch.zero_()
    assert x.tolist() == list(range(ROWS))


def test_a_batch_changed_in_place_leaves_the_graph_of_another_alone():
    weight = torch.ones(1, requires_grad=True)
    first, second = (x for (x,) in Batches(torch.arange(4.0), batch_size=2))
    loss = (first * weight).sum()  # needs `first` as it is now
    second += 1
    loss.backward()
    assert weight.grad == first.sum()


def test_tensors_of_one_batch_may_lie_on_different_devices():
    x, y = next(iter(Batches(torch.empty(6, device="meta"), torch.arange(6), batch_size=4)))
    assert [x.device.type, y.device.type] == ["meta", "cpu"]
    assert len(set(y.tolist())) == 4


def test_large_rows_are_gathered_a_few_batches_at_a_time():
    x = torch.zeros(64, 2**20 // 4)  # 1 MiB a row
    (first,), (second,) = list(Batches(x, batch_size=2).epoch(0))[:2]
    (third,) = list(Batches(x, batch_size=2).epoch(0))[2]
    assert first.untyped_storage().nbytes() == 4 * 2**20
    assert second.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
    assert third.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()


@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint16, torch.bool]
)
def test_dtypes_are_kept(dtype):
    x = torch.arange(5).to(dtype)
    batches = Batches(x, x[:, None], batch_size=5)
    ((vector, column),) = batches.epoch(0)
    assert torch.equal(vector, x[batches.order(0)])
    assert torch.equal(column, x[batches.order(0), None])


def test_columns_without_width_and_strided_tensors():
    x, y = torch.zeros(6, 0), torch.arange(12).reshape(2, 6).T
    got = [(a.shape, b) for a, b in Batches(x, y, batch_size=4)]
    assert [shape for shape, _ in got] == [(4, 0), (2, 0)]
    assert sorted(torch.cat([b for _, b in got]).tolist()) == y.tolist()


def test_to_keeps_the_count_of_epochs():
    batches = Batches(torch.arange(10), batch_size=10)
    list(batches)
    [(second,)] = batches.to("cpu")
    assert torch.equal(second, batches.order(1))


def test_to_keeps_options_and_order():
    b = Batches(torch.arange(ROWS), batch_size=3, seed=4, drop_last=True)
    moved = b.to("cpu")
    assert rows_of(moved.epoch(2)) == rows_of(b.epoch(2))
    assert next(iter(b.to("meta")))[0].device.type == "meta"


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Batches(), "need at least one tensor: got none"),
        (lambda: Batches(np.ones(3)), "argument 1 is of type ndarray; convert it with torch.as_"),
        (lambda: Batches(torch.ones(3), torch.tensor(1.0)), "argument 2 has no dimension"),
        (lambda: Batches(torch.ones(3), torch.ones(4)), r"equal length: got lengths \[3, 4\]"),
        (lambda: Batches(torch.ones(0, 2)), "at least one row: got tensors of length 0"),
        (lambda: Batches(torch.ones(3), batch_size=0), "batch_size is at least 1: got 0"),
        (lambda: Batches(torch.ones(3), batch_size=2.0), "batch_size is a whole number: got 2.0"),
        (lambda: Batches(torch.ones(3), batch_size=True), "batch_size is a whole number: got True"),
        (lambda: Batches(torch.ones(3), seed="a"), "seed is a whole number: got 'a'"),
        (lambda: Batches(torch.ones(3), batch_size=4, drop_last=True), "got 3 rows and batch_si"),
        (lambda: Batches(torch.ones(3)).epoch(-1), "epoch is at least 0: got -1"),
        (lambda: Batches(torch.ones(3)).epoch(0, start=-1), "start is at least 0: got -1"),
        (lambda: Batches(torch.ones(3)).epoch(0, start=2), "1 batches cannot start at batch 2"),
    ],
)
def test_wrong_arguments_are_refused_at_once(make, sentence):
    with pytest.raises(DataError, match=sentence):
        make()
