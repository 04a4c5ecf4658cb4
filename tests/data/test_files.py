"""Reading: what a column becomes, and one sentence for every file that is no table."""

import datetime as dt
import os
from zoneinfo import ZoneInfo

import numpy as np
import polars as pl
import pytest

from steepest.data import read_table
from steepest.errors import DataError


def written(folder, content: str | bytes, name="t.csv"):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["1", "-2", "+3"], [1, -2, 3]),
        (["1", "2.5", "1e3"], [1.0, 2.5, 1000.0]),
        ([" 1", "2 ", " 3 "], [1, 2, 3]),
        (["true", "False", "TRUE"], [True, False, True]),
        (["a", " b ", "1"], ["a", "b", "1"]),
        (["1", "", "NA"], [1, None, None]),
        (["1.5", "nan", "?"], [1.5, None, None]),
        (["a", "null", "N/A"], ["a", None, None]),
        (["NA", "NA", "NA"], [None, None, None]),
        (["inf", "1", "-inf"], [float("inf"), 1.0, float("-inf")]),
        (["2024-02-29", "1969-12-31"], [dt.datetime(2024, 2, 29), dt.datetime(1969, 12, 31)]),
        (["2024-02-29 10:30", ""], [dt.datetime(2024, 2, 29, 10, 30), None]),
        (
            ["2024-02-29T10:30:01", "2024-02-29 10:30:01.5"],
            [dt.datetime(2024, 2, 29, 10, 30, 1), dt.datetime(2024, 2, 29, 10, 30, 1, 500_000)],
        ),
        (["2024-02-29T12:00:00+02:00"], [dt.datetime(2024, 2, 29, 10, tzinfo=ZoneInfo("UTC"))]),
        (["2024-02-30", "2024-02-29"], ["2024-02-30", "2024-02-29"]),
        (["12", "3,5"], ["12", "3,5"]),
        (["é", "日本"], ["é", "日本"]),
    ],
)
def test_a_column_gets_the_narrowest_type_that_holds_all_its_values(tmp_path, texts, values):
    path = written(tmp_path, "c,d\n" + "".join(f'"{text}",x\n' for text in texts))
    assert str(read_table(path)["c"].to_list()) == str(values)  # 1 is equal to 1.0


@pytest.mark.parametrize(
    ("content", "columns"),
    [
        ("a,b\n1,2\n", {"a": [1], "b": [2]}),
        ("a,b\r\n1,2\r\n", {"a": [1], "b": [2]}),
        ("a,b\n1,2", {"a": [1], "b": [2]}),
        ("a;b\n1;x,y\n", {"a": [1], "b": ["x,y"]}),
        ("a\tb\n1\tx,y\n", {"a": [1], "b": ["x,y"]}),
        ('"a;b;c",d\n1,2\n', {"a;b;c": [1], "d": [2]}),
        (" a , b\n1,2\n", {"a": [1], "b": [2]}),
        ("\ufeffa,b\n1,2\n", {"a": [1], "b": [2]}),
        ("a,b\n1,2\n\n3,4\n\n\n", {"a": [1, 3], "b": [2, 4]}),
        ('a,b\n1,"x\ny"\n2,\n', {"a": [1, 2], "b": ["x\ny", None]}),
        ('a,b\n1,"say ""hi"""\n', {"a": [1], "b": ['say "hi"']}),
        ("a\n1\n2\n", {"a": [1, 2]}),
        ('"a\nb",c\n1,2\n', {"a\nb": [1], "c": [2]}),
    ],
)
def test_csv_dialects(tmp_path, content, columns):
    assert read_table(written(tmp_path, content)).to_dict(as_series=False) == columns


def test_a_field_longer_than_the_csv_module_allows(tmp_path):
    path = written(tmp_path, f"a,b\n{'x' * 200_000},\n")
    assert read_table(path)["a"].str.len_bytes().item() == 200_000


def test_tab_separated_and_upper_case_extensions(tmp_path):
    assert read_table(written(tmp_path, "a\tb\n1\t2\n", "t.TSV"))["b"].to_list() == [2]


def test_a_path_is_no_pattern(tmp_path):
    written(tmp_path, "a,b\n1,2\n", "1.csv")
    assert read_table(written(tmp_path, "a,b\n3,4\n", "[1].csv"))["a"].to_list() == [3]
    pl.DataFrame({"a": [5]}).write_parquet(tmp_path / "[1].parquet")
    assert read_table(tmp_path / "[1].parquet")["a"].to_list() == [5]


def test_parquet_keeps_its_types(tmp_path):
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "1"], "c": [True, None]})
    frame.write_parquet(tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet").equals(frame)


@pytest.mark.parametrize(
    ("arrays", "columns"),
    [
        ({"x": [[1, 2], [3, 4]], "y": [5, 6]}, {"x0": [1, 3], "x1": [2, 4], "y": [5, 6]}),
        ({"a": [1.5, np.nan], "b": ["u", "v"]}, {"a": [1.5, np.nan], "b": ["u", "v"]}),
        ({"a": [True, False]}, {"a": [True, False]}),
        ({"a": np.array([1], ">f8"), "b": np.array([2], "f2")}, {"a": [1.0], "b": [2.0]}),
        ({"a": np.array(["2024-02-29T10"], "M8[h]")}, {"a": [dt.datetime(2024, 2, 29, 10)]}),
    ],
)
def test_npz_arrays_become_columns(tmp_path, arrays, columns):
    np.savez(tmp_path / "t.npz", **{key: np.asarray(a) for key, a in arrays.items()})
    got = read_table(tmp_path / "t.npz").to_dict(as_series=False)
    assert str(got) == str(columns)  # NaN is not equal to itself


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.txt", "a,b\n1,2\n", "has the extension '.txt': a table is .csv, .tsv, .parquet or"),
        ("table", "a,b\n1,2\n", "has no extension"),
        ("t.csv", "", "is empty"),
        ("t.parquet", "", "is empty"),
        ("t.npz", "", "is empty"),
        ("t.csv", "a,b\n", "has column names and no rows"),
        ("t.csv", "a,b", "has column names and no rows"),
        ("t.csv", "\n\n\n", "begins with an empty line"),
        ("t.csv", "\na,b\n1,2\n", "begins with an empty line"),
        ("t.csv", "a,b\n1,2\n3,4,5\n", r"line 3 has 3 fields where the first line names 2"),
        ("t.csv", "a,b\n1,2\n3\n4,5\n", r"line 3 has 1 fields where the first line names 2"),
        ("t.csv", "a,b\n1,\n3\n4,5\n", r"line 3 has 1 fields where the first line names 2"),
        ("t.csv", "x" * 200_000 + "\n1\n", "does not begin with column names"),
        ("t.csv", "a,b,a\n1,2,3\n", "names two columns 'a'"),
        ("t.csv", 'a,b\n1,"x\n3,4\n', "perhaps because of a stray quotation mark|line 3 has"),
        ("t.csv", 'a,b\n1,x"y\n3,"z"\n', "perhaps because of a stray quotation mark"),
        ("t.csv", b"a,b\n1,\xe9\n", "not UTF-8 text .it has the byte 0xe9.: save it as UTF-8"),
        ("t.csv", b"a,\xe9\n1,2\n", "not UTF-8 text .it has the byte 0xe9.: save it as UTF-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "not UTF-8 text .it has the byte 0xff."),
        ("t.parquet", "a,b\n1,2\n", "is damaged or no Parquet file"),
        ("t.npz", "a,b\n1,2\n", "cannot be read"),
    ],
)
def test_a_file_that_is_no_table_is_told_in_one_sentence(tmp_path, name, content, sentence):
    path = written(tmp_path, content, name)
    with pytest.raises(DataError, match=sentence) as caught:
        read_table(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({}, "holds no named array"),
        ({"a": np.zeros((2, 2, 2))}, r"'a' has shape \(2, 2, 2\)"),
        ({"a": np.zeros(())}, r"'a' has shape \(\)"),
        ({"a": np.zeros(2), "b": np.zeros(3)}, "different lengths: a 2, b 3"),
        ({"a": np.zeros(2, complex)}, "'a' has dtype complex128"),
        ({"a": np.zeros(2, [("f", "i4")])}, "'a' has dtype"),
        ({"a": np.zeros(0)}, "no rows"),
        ({"x0": np.zeros(2), "x": np.zeros((2, 2))}, "two columns the same name"),
    ],
)
def test_npz_arrays_that_are_no_columns_are_refused(tmp_path, arrays, sentence):
    np.savez(tmp_path / "t.npz", **arrays)
    with pytest.raises(DataError, match=sentence):
        read_table(tmp_path / "t.npz")


def test_a_plain_npy_array_is_refused(tmp_path):
    np.save(tmp_path / "t.npy", np.zeros(3))
    with pytest.raises(DataError, match="no named array"):
        read_table((tmp_path / "t.npy").rename(tmp_path / "t.npz"))


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_nothing_in_an_npz_file_is_ever_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("t.npz", x=np.array([Bomb()], dtype=object))
    np.array([Bomb()], dtype=object).dump("u.npz")
    for name in ("t.npz", "u.npz"):
        with pytest.raises(DataError, match="never unpickled"):
            read_table(name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("kind", ["parquet", "npz"])
def test_a_file_truncated_at_any_byte_is_refused(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    if kind == "npz":
        np.savez(path, x=np.arange(3), y=np.arange(3))
    else:
        pl.DataFrame({"x": [1, 2], "y": ["a", "b"]}).write_parquet(path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"damaged|empty|cannot be read"):
            read_table(path)


def test_a_missing_file_a_folder_and_a_locked_file(tmp_path, monkeypatch):
    written(tmp_path, "a,b\n1,2\n", "houses.csv")
    with pytest.raises(DataError, match=r"no file .*house.csv \(did you mean 'houses.csv'\?\)"):
        read_table(tmp_path / "house.csv")
    with pytest.raises(DataError, match=r"no file .*nowhere.x.csv: give the path of a table"):
        read_table(tmp_path / "nowhere" / "x.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_table(tmp_path)
    monkeypatch.setattr("pathlib.Path.open", lambda *_, **__: os.open("/nonexistent", 0))
    with pytest.raises(DataError, match=r"houses.csv cannot be read: "):
        read_table(tmp_path / "houses.csv")
