"""A transform: the same numbers from the same rows always, in pieces, after a save, on new data."""

import datetime as dt
import json
import re
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.data import Transform, saved
from steepest.data.notices import Notices
from steepest.data.roles import rendered
from steepest.data.transform import fit
from steepest.errors import DataError

ROWS = 12
FRAME = pl.DataFrame(
    {
        "age": [None, *range(1, ROWS)],
        "city": ["Oslo", "Rome", None, "Bonn"] * 3,
        "member": [True, False, None] * 4,
        "since": [dt.date(2024, 2, day) for day in range(1, ROWS + 1)],
        "name": [f"person {i}" for i in range(ROWS)],
        "paid": [f"{i},000.5" for i in range(1, ROWS + 1)],
        "price": [1.5 * i for i in range(ROWS)],
    }
)
TRAINING = np.arange(ROWS) % 4 != 3


@pytest.fixture
def transform() -> Transform:
    return fit(FRAME, target="price", training=TRAINING, max_categories=5)[0]


def classes(values) -> Transform:
    return fit(pl.DataFrame({"a": range(len(values)), "y": values}), target="y")[0]


def test_what_columns_become(transform):
    assert transform.features == (
        "age", "city=(missing)", "city=Oslo", "city=Rome", "member", "since", "paid",
    )  # fmt: skip
    x, y, notes = transform.apply(FRAME)
    assert (x.dtype, y.dtype) == (np.float32, np.float32)
    assert (x.shape, y.shape) == ((ROWS, 7), (ROWS, 1))
    np.testing.assert_allclose(x[TRAINING][:, [0, 5, 6]].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(x[TRAINING][:, [0, 5, 6]].std(0), 1, atol=1e-6)
    np.testing.assert_allclose(y[TRAINING].std(), 1, atol=1e-6)
    assert x[:4, 1:4].tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 0, 0]]
    assert notes.filled == {"age": 1, "member": 4}
    assert notes.sentences() == [
        "'city': 3 rows hold categories that the training part lacks (such as 'Bonn'), all zeros "
        "there"
    ]


@given(size=st.integers(1, ROWS))
def test_rows_are_encoded_in_pieces_as_in_one(size):
    transform, _ = fit(FRAME, target="price", training=TRAINING, max_categories=5)
    whole = transform.apply(FRAME)
    pieces = [transform.apply(part) for part in FRAME.iter_slices(size)]
    np.testing.assert_array_equal(np.concatenate([piece.x for piece in pieces]), whole.x)
    np.testing.assert_array_equal(np.concatenate([piece.y for piece in pieces]), whole.y)
    total = Notices()
    for piece in pieces:
        total += piece.notes
    assert total == whole.notes


def test_a_saved_transform_gives_the_same_bits(transform, tmp_path):
    path = tmp_path / "transform.json"
    path.write_text(transform.to_json(), "utf-8")
    again = Transform.load(path)
    assert again == transform
    np.testing.assert_array_equal(again.apply(FRAME).x, transform.apply(FRAME).x)


@pytest.mark.parametrize("values", [["a", "é\n"] * 3, [True, False] * 3, [1, 2, 3] * 2])
def test_classes_keep_their_types_in_json(values):
    transform = classes(values)
    again = Transform.from_json(transform.to_json())
    assert again == transform
    assert [type(label) for label in again.classes] == [type(label) for label in transform.classes]
    assert again.outputs == len(set(values))


def test_the_order_of_columns_and_what_is_new_do_not_matter(transform):
    turned = FRAME.select(reversed(FRAME.columns)).with_columns(id=pl.lit(7))
    x, y, notes = transform.apply(turned)
    np.testing.assert_array_equal(x, transform.apply(FRAME).x)
    assert y is not None
    assert notes.extra == ("id",)
    assert "not used: 'id'" in notes.sentences()


def test_texts_of_a_file_are_encoded_as_the_types_of_another(transform):
    """A chunk of CSV has its dates, and numbers among stray texts, as texts."""
    texts = FRAME.with_columns(pl.all().cast(pl.String))
    np.testing.assert_array_equal(transform.apply(texts).x, transform.apply(FRAME).x)


def test_without_the_target_there_is_no_y(transform):
    x, y, _ = transform.apply(FRAME.drop("price"))
    assert y is None
    assert len(x) == ROWS


def test_missing_columns_are_filled_and_told(transform):
    x, _, notes = transform.apply(FRAME.drop("age", "city", "member", "name"))
    assert x[0, :5].tolist() == [pytest.approx(0, abs=1), 1, 0, 0, 0.5]
    empty = FRAME.with_columns(age=None, city=None, member=None)
    np.testing.assert_array_equal(x, transform.apply(empty).x)
    assert notes.absent == ("age", "city", "member")
    assert notes.sentences() == [
        f"column '{name}' is missing: its fill value stands in every row"
        for name in ("age", "city", "member")
    ]


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (FRAME.select("name", "price"), "has the columns that the model was trained on, 'age', 'c"),
        (pl.DataFrame({"x": [1]}), "'since', 'paid': got 'x'"),
        (FRAME.with_columns(age=float("inf")), "column 'age' is infinite in row 101"),
        (FRAME.with_columns(age=1e39), "column 'age' is 1e.39 in row 101, further from the tra"),
        (FRAME.with_columns(price=None), "target 'price' is missing in 12 rows, first in row 101"),
    ],
)
def test_rows_that_do_not_fit_are_refused(transform, frame, sentence):
    with pytest.raises(DataError, match=sentence):
        transform.apply(frame, first_row=100)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"drop": ["agee"]}, r"drop names columns of the table: there is no 'agee' .did you mean"),
        ({"numeric": ["x"]}, "numeric names columns of the table: there is no 'x'"),
        ({"drop": ["age"], "numeric": ["age"]}, "'age' is given as drop and as numeric: choose"),
        ({"drop": ["price"]}, "'price' is given as target and as drop: choose"),
        ({"categorical": ["name"]}, "'name' is no category: it has 9 different texts, more than"),
        ({"numeric": ["city"]}, "column 'city' cannot be numeric: it holds no such value"),
        ({"drop": FRAME.columns[:-1]}, "no feature column is left beside the target; column 'age'"),
    ],
)
def test_roles_that_cannot_be_meant_are_refused(options, sentence):
    with pytest.raises(DataError, match=sentence):
        fit(FRAME, target="price", training=TRAINING, max_categories=5, **options)


def test_roles_that_are_asked_for():
    transform, notes = fit(
        FRAME, target="price", drop=["since", "name"], categorical=["age"], numeric=["member"]
    )
    assert [c.role for c in transform.columns if c.features] == [
        "category", "category", "numeric", "numeric",
    ]  # fmt: skip
    assert "age=11" in transform.features
    assert "column 'since' is left out: drop names it" in notes


def test_a_description_has_a_row_for_each_column(transform):
    assert transform.describe() == [
        ("price", "target", "12", "(x - 7.5) / 5.05"),
        ("age", "numeric", "12, 1 missing", "(x - 5.611) / 2.865; 5.5 where missing"),
        ("city", "category", "12, 3 missing", "3 columns of 0 and 1"),
        ("member", "boolean", "12, 4 missing", "0 or 1; 0.5 where missing"),
        ("since", "date", "12", "days since 1970, (x - 19,759) / 3.367"),
        ("name", "text", "12", "left out: it has 9 different texts, more than max_categories=5"),
        ("paid", "numeric", "12", "(x - 6000) / 3367"),
    ]
    assert classes([1, 2, 3, 4, 5, 6]).describe()[0][3] == "6 classes: 1, 2, 3, 4, 5, ..."


def test_a_description_is_rendered_as_text():
    rows = [("[red]", "numeric", "3", "(x - 1) / 2"), ("b", "text", "3", "left out: " + "z" * 90)]
    lines = rendered(rows).splitlines()
    assert lines[0].split() == ["column", "role", "values", "becomes"]
    assert lines[2].split() == ["[red]", "numeric", "3", "(x", "-", "1)", "/", "2"]
    assert max(map(len, lines)) <= 100
    assert "".join(lines[3:]).count("z") == 90


def test_ten_thousand_columns_are_fitted_and_described_in_short():
    frame = pl.DataFrame(
        {f"c{i}": [0.0, i, 1.0, 2.0] for i in range(10_000)} | {"y": [1.5, 2, 3, 4]}
    )
    transform, notes = fit(frame, target="y")
    assert transform.apply(frame).x.shape == (4, 10_000)
    assert len(transform.describe()) == 42
    assert transform.describe()[-1] == ("9,960 more", "", "", "9,960 of them used")
    assert len(notes) == 1
    same, notes = fit(frame.with_columns(pl.exclude("y", "c1") * 0), target="y")
    assert same.features == ("c1",)
    assert len(notes) == 42
    assert notes[-1] == "9959 more columns are left out"


def damaged(**changes) -> str:
    """Return a good transform's JSON with parts of its first column or itself changed."""
    raw = json.loads(fit(FRAME, target="price", max_categories=5)[0].to_json())
    for name, value in changes.items():
        part = {"column": raw["columns"][0], "city": raw["columns"][1], "target": raw["target"]}
        place, _, key = name.partition("_")
        (part[place] if key else raw)[key or name] = value
    return json.dumps(raw)


HOSTILE = {
    "": "it is no JSON",
    "[]": r"its format is '\[\]'",
    "{": "it is no JSON",
    "[" * 100_000: "it is no JSON",
    '{"format": 1e999}': "its format is 'inf'",
    '{"format": NaN}': "it is no JSON: it holds NaN, and numbers are finite",
    damaged(format=2): "its format is '2', and this version reads 1",
    damaged(columns={}): "its columns may not be '{}'",
    damaged(columns=[1]): "its column may not be '1'",
    damaged(columns=[]): "its columns become no number",
    damaged(rows=-1): "its rows may not be '-1'",
    damaged(rows=1.5): "its rows may not be '1.5'",
    damaged(target=None): "its target may not be 'None'",
    damaged(column_name=3): "its name may not be '3'",
    damaged(column_name="city"): "two of its columns have one name",
    damaged(column_name="price"): "two of its columns have one name",
    damaged(column_mean="1"): "its mean may not be '1'",
    damaged(column_mean=True): "its mean may not be 'True'",
    damaged(column_mean=10**400): "its mean may not be '1000",
    damaged(column_std=0): "its std may not be '0'",
    damaged(column_std=-1.5): "its std may not be '-1.5'",
    damaged(column_std=1e999): "it is no JSON|its std may not be 'inf'",
    damaged(column_role="code"): "its role may not be 'code'",
    damaged(column_role=None): "its column 'age' has no role",
    damaged(column_role=[]): r"its role may not be '\[\]'",
    damaged(column_role="category"): "its column 'age' is a category without any",
    damaged(column_role="date"): "its column 'age' is a date without a unit",
    damaged(column_unit="years"): "its unit may not be 'years'",
    damaged(column_surprise=1): "a column has no 'surprise'",
    damaged(city_categories="ab"): "its categories may not be 'ab'",
    damaged(city_categories=["a", "a"]): "its categories may not be",
    damaged(city_categories=["a", 1]): "its categories may not be",
    damaged(city_categories=[["a"]]): "its categories may not be",
    damaged(target_task="sorting"): "its task may not be 'sorting'",
    damaged(target_classes=["a", "b"]): "its task is regression with 2 classes",
    damaged(target_classes=["a", 1]): "its classes are of several types",
    damaged(target_classes=[1.5]): "its classes may not be",
    damaged().replace('"name": "age", ', ""): "a column lacks a part",
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_a_text_that_is_no_transform_is_refused_in_a_sentence(text):
    with pytest.raises(DataError, match=HOSTILE[text]) as caught:
        Transform.from_json(text)
    assert len(str(caught.value)) < 200


def test_what_all_hostile_texts_are_made_from_is_good():
    assert Transform.from_json(damaged()).rows == ROWS


def test_a_file_that_is_no_transform_is_refused_by_its_name(tmp_path, monkeypatch):
    path = tmp_path / "transform.json"
    with pytest.raises(DataError, match=r"transform.json cannot be read: No such file"):
        Transform.load(path)
    path.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"transform.json is damaged: it is not UTF-8 text"):
        Transform.load(path)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"transform.json is damaged: its format is 'None'"):
        Transform.load(path)
    monkeypatch.setattr(saved, "LARGEST_FILE", 1)
    with pytest.raises(DataError, match=r"transform.json is larger than 0 MiB"):
        Transform.load(path)


def test_numbers_survive_json_to_the_last_bit(transform):
    columns = tuple(replace(c, mean=0.1 + 0.2) if c.role == "numeric" else c
                    for c in transform.columns)  # fmt: skip
    changed = replace(transform, columns=columns)
    assert re.search(r"0\.30000000000000004", changed.to_json())
    assert Transform.from_json(changed.to_json()) == changed
