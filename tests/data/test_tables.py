"""A table from file to tensors: the split, the parts together, the errors a user can cause."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from steepest.data import load_table, tables
from steepest.errors import DataError

EXAMPLES = Path(__file__).parents[2] / "examples"


def csv(folder, **columns):
    path = folder / "t.csv"
    pl.DataFrame(columns).write_csv(path)
    return path


@given(
    rows=st.integers(4, 300),
    validation=st.floats(0.01, 0.5),
    seed=st.integers(-(2**70), 2**70),
)
def test_the_split_depends_on_seed_and_number_of_rows_alone(rows, validation, seed):
    training = tables._training_rows(rows, validation, seed)
    torch.manual_seed(rows)
    assert (training == tables._training_rows(rows, validation, seed)).all()
    assert (~training).sum() == max(1, round(rows * validation))


def test_seeds_split_differently_and_evenly():
    splits = np.array([tables._training_rows(50, 0.2, seed) for seed in range(400)])
    held_out = (~splits).mean(axis=0)  # the share of seeds that hold out each row
    assert len({split.tobytes() for split in splits}) == 400
    assert abs(held_out - 0.2).max() < 5 * np.sqrt(0.2 * 0.8 / 400)  # five standard deviations


def test_without_validation_every_row_is_for_training(tmp_path):
    table = load_table(csv(tmp_path, a=[1.5, 2, 3], y=[1.5, 2, 4]), target="y", validation=0)
    assert table.train_x.shape == (3, 1)
    assert table.validation_x.shape == (0, 1)
    assert table.validation_y.shape == (0, 1)


def test_the_parts_of_a_table_by_hand(tmp_path):
    rng = np.random.default_rng(0)
    a, y = rng.normal(5, 2, 50), rng.normal(-3, 9, 50)
    city = rng.choice(["Rome", "Oslo"], 50)
    table = load_table(csv(tmp_path, a=a, city=city, y=y), target="y", seed=3)
    training = tables._training_rows(50, 0.2, 3)
    standard_a, standard_y = ((v - v[training].mean()) / v[training].std() for v in (a, y))
    x = np.column_stack([standard_a, city == "Oslo", city == "Rome"])
    for got, expected in [
        (table.train_x, x[training]),
        (table.validation_x, x[~training]),
        (table.train_y, standard_y[training, None]),
        (table.validation_y, standard_y[~training, None]),
    ]:
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)
    assert table.transform.features == ("a", "city=Oslo", "city=Rome")
    assert table.target.mean == pytest.approx(y[training].mean())
    assert table.target.std == pytest.approx(y[training].std())
    assert (table.target.name, table.target.task, table.target.classes) == ("y", "regression", ())
    plain = np.abs(y[~training] - y[training].mean()).mean()
    assert table.notes == (
        "target 'y' holds numbers: taken as regression",
        f"always the mean, {table.target.mean:.4g}, would have a mean absolute error (mae) of "
        f"{plain:.4g} in validation, in units of 'y'",
    )


def test_the_same_table_from_every_kind_of_file(tmp_path):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"a": rng.normal(size=20), "b": ["u", "v"] * 10, "y": [0, 1, 2, 1] * 5})
    frame.write_csv(tmp_path / "t.csv")
    frame.write_csv(tmp_path / "t.tsv", separator="\t")
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_ipc(tmp_path / "t.arrow")
    frame.write_ndjson(tmp_path / "t.jsonl")
    np.savez(tmp_path / "t.npz", **{c.name: np.array(c.to_list()) for c in frame})
    sources = [*sorted(tmp_path.iterdir()), frame, pd.DataFrame(frame.to_dict(as_series=False))]
    one, *others = [load_table(source, target="y") for source in sources]
    assert len(others) == 7
    for other in others:
        assert other.notes == one.notes
        assert other.transform.features == one.transform.features
        assert torch.equal(other.train_x, one.train_x)
        assert torch.equal(other.validation_y, one.validation_y)


def test_a_table_in_many_blocks_is_the_table_in_one(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    path = csv(tmp_path, a=rng.normal(size=50), b=rng.choice(["u", "v"], 50), y=rng.random(50))
    whole = load_table(path, target="y", seed=1)
    monkeypatch.setattr("steepest.data.delimited.BLOCK", 100)
    monkeypatch.setattr("steepest.data.delimited.BLOCK_PER_COLUMN", 1)
    blocks = load_table(path, target="y", seed=1)
    assert blocks.transform == whole.transform
    for name in ("train_x", "train_y", "validation_x", "validation_y"):
        assert torch.equal(getattr(blocks, name), getattr(whole, name))
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows[:40], "inf,u,1", *rows[40:]]))
    with pytest.raises(DataError, match="column 'a' is infinite in row 40"):
        load_table(path, target="y")


def test_notes_say_what_was_done(tmp_path):
    rows = 40
    path = csv(
        tmp_path,
        a=[None, *range(1, rows)],
        same=[1] * rows,
        name=[f"person {i}" for i in range(rows)],
        y=[0, 1] * 20,
    )
    table = load_table(path, target="y", max_categories=5)
    assert table.transform.features == ("a",)
    told = "\n".join(table.notes)
    assert "'y' holds 2 different whole numbers, 0 to 1: taken as classification" in told
    assert "column 'same' is left out: it has one value only in the training part, 1" in told
    assert "column 'name' is left out: it has 32 different texts, more than max_categ" in told
    assert "would be right in " in told
    assert len(table.notes) == 4


@pytest.mark.parametrize(
    ("columns", "options", "sentence"),
    [
        ({}, {"target": "pric"}, r"has no column 'pric' \(did you mean 'price'\?\): the target is"),
        ({}, {"target": "zzz"}, "has no column 'zzz': the target is one of 'price', 'a'"),
        ({}, {"task": "sorting"}, "task is 'regression' or 'classification': got 'sorting'"),
        ({}, {"validation": 1.0}, "validation is a share of the rows, .*: got 1.0"),
        ({}, {"validation": -0.1}, "validation is a share of the rows, .*: got -0.1"),
        ({}, {"validation": float("nan")}, "validation is a share of the rows, .*: got nan"),
        ({}, {"validation": 0.9}, "5 rows is too small to keep 4 for validation: at least 2"),
        ({}, {"max_categories": 1}, "max_categories is at least 2: got 1"),
        ({}, {"seed": 1.5}, "seed is a whole number: got 1.5"),
        ({"a": [1] * 5}, {}, "no feature column is left beside the target; column 'a' is left"),
        ({"a": [1.0, 2, float("inf"), 4, 5]}, {}, "column 'a' is infinite in row 3"),
        ({"price": [1.5, 2, None, 4, 5]}, {}, "target 'price' is missing in 1 row, first in row"),
        ({"price": [1.5] * 5}, {}, "target 'price' is 1.5 in every training row"),
        ({"price": ["a"] * 5}, {}, "target 'price' has one class, a"),
    ],
)
def test_what_a_user_can_get_wrong_is_told_in_one_sentence(tmp_path, columns, options, sentence):
    path = csv(tmp_path, **({"price": [1.5, 2, 3, 4, 5], "a": [1, 2, 3, 4, 5]} | columns))
    with pytest.raises(DataError, match=sentence):
        load_table(path, **({"target": "price"} | options))


FAULTS = {
    "empty": (b"", "is empty"),
    "header only": (b"a,y\n", "column names and no rows"),
    "ragged": (b"a,y\n1,1.5\n2\n3,2.5\n", "line 3 has 1 field where the first line names 2"),
    "one value": (b"a,b,y\n1,7,1.5\n2,7,2.5\n3,7,4\n", ("a",)),
    "all missing": (b"a,b,y\n1,,1.5\n2,NA,2.5\n3,?,4\n", ("a",)),
    "not UTF-8": (b"a,y\n\xe9,1.5\nx,2.5\ny,4\n", "is not UTF-8 text"),
    "target missing": (b"a,y\n1,1.5\n2,\n3,4\n", "'y' is missing in 1 row, first in row 2"),
    "target all missing": (b"a,y\n1,\n2,NA\n3,\n", "'y' is missing in 3 rows, first in row 1"),
    "inf": (b"a,y\n1,1.5\ninf,2.5\n3,4\n", "column 'a' is infinite in row 2"),
    "inf in the target": (b"a,y\n1,1.5\n2,-inf\n3,4\n", "column 'y' is infinite in row 2"),
    "two of one name": (b"a,a,y\n1,2,1.5\n", "names two columns 'a'"),
    "dates": (b"a,y\n2024-02-28,1.5\n2024-02-29,2.5\n2024-03-01,4\n", ("a",)),
    "thousands": (b'a,y\n"1,234.5",1.5\n"7",2.5\n"1,000,000",4\n', ("a",)),
    "thousands in the target": (b'a,y\n1,"1,234.5"\n2,"7"\n3,"12.25"\n', ("a",)),
    "decimal commas": (b'a,y\n"1.234,5",1.5\n"7",2.5\n', "such as '1.234,5', that may set off"),
    "commas that may be both": (b"a;y\n1,234;1.5\n7;2.5\n", "such as '1,234', that may set off"),
    "decimal commas in the target": (b"a;y\n1;1,5\n2;2,5\n", "target 'y' holds numbers with com"),
    "a stray quotation mark": (b'a,y\n1,"1.5\n2,2.5\n3,4\n', "stray quotation mark|has 1 field"),
    "a BOM": (b"\xef\xbb\xbfa,y\r\n1,1.5\r\n2,2.5\r\n3,4\r\n", ("a",)),
    "long fields": (b"a,y\n" + b"".join(b"%s,%d.5\n" % (c * 10**6, i) for i, c in
                    enumerate((b"u", b"v", b"u"))), (f"a={'u' * 10**6}", f"a={'v' * 10**6}")),
    "NUL bytes": (b"a,y\nu\0,1.5\nv,2.5\nu\0,4\n", ("a=u\0", "a=v")),
}  # fmt: skip


@pytest.mark.parametrize(("content", "expected"), FAULTS.values(), ids=FAULTS)
def test_csv_faults_give_a_sentence_or_the_right_features(tmp_path, content, expected):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    if isinstance(expected, tuple):
        assert load_table(path, target="y", validation=0).transform.features == expected
    else:
        with pytest.raises(DataError, match=expected) as caught:
            load_table(path, target="y", validation=0)
        assert str(caught.value).startswith(str(path))
        assert "\n" not in str(caught.value)


def test_a_table_of_a_target_alone_has_no_feature(tmp_path):
    with pytest.raises(DataError, match=r"t.csv: no feature column is left beside the target$"):
        load_table(csv(tmp_path, y=[1.5, 2, 3]), target="y")


def test_importing_the_floor_does_not_import_polars():
    code = "import sys, steepest.data as d; d.Batches; sys.exit('polars' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_diabetes_example():
    table = load_table(EXAMPLES / "diabetes.csv", target="progression")
    assert (len(table.train_x), len(table.validation_x)) == (354, 88)
    assert table.target.task == "regression"
    assert table.transform.features == (
        "age",
        "sex",
        "bmi",
        "bp",
        "s1",
        "s2",
        "s3",
        "s4",
        "s5",
        "s6",
    )
    assert table.notes[0] == "target 'progression' holds numbers: taken as regression"
    solution = torch.linalg.lstsq(table.train_x, table.train_y).solution
    rest = table.validation_x @ solution - table.validation_y
    assert rest.square().mean() < 0.6  # a linear model explains about half of the variance


def test_the_iris_example():
    table = load_table(EXAMPLES / "iris.csv", target="species")
    assert (len(table.train_x), len(table.validation_x)) == (120, 30)
    assert table.target.classes == ("setosa", "versicolor", "virginica")
    centres = torch.stack([table.train_x[table.train_y == k].mean(0) for k in range(3)])
    nearest = torch.cdist(table.validation_x, centres).argmin(1)
    assert (nearest == table.validation_y).float().mean() > 0.75
