"""Reading: what a column becomes, and one sentence for every file that is no table."""

import datetime as dt
import io
import os
import tracemalloc
import zipfile
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steepest.data import claims, delimited, read_table
from steepest.data.files import chunks
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


def test_arrow_keeps_its_types(tmp_path):
    frame = pl.DataFrame({"a": [1, None], "b": ["x", "1"], "c": [None, None]})
    for name in ("t.arrow", "t.feather", "t.ipc"):
        frame.write_ipc(tmp_path / name)
        assert read_table(tmp_path / name).equals(frame)


@pytest.mark.parametrize(
    ("lines", "columns"),
    [
        ('{"a": 1, "b": "x"}\n{"a": 2, "b": "1"}\n', {"a": [1, 2], "b": ["x", "1"]}),
        ('{"a": 1}\n\n{"b": 2.5}', {"a": [1, None], "b": [None, 2.5]}),
        ('{"a": 1}\r\n{"a": 2.5}\r\n', {"a": [1.0, 2.5]}),
        ('{"a": "2024-02-29"}\n{"a": null}\n', {"a": [dt.datetime(2024, 2, 29), None]}),
        ('{"a": "1"}\n{"a": "NA"}\n', {"a": ["1", "NA"]}),
        ('{"a": 1}\n{"a": "x"}\n', {"a": ["1", "x"]}),
        ('{"a": true}\n{"a": null}\n', {"a": [True, None]}),
    ],
)
@pytest.mark.parametrize("kind", ["jsonl", "ndjson"])
def test_json_lines(tmp_path, lines, columns, kind):
    path = written(tmp_path, lines, f"t.{kind}")
    assert str(read_table(path).to_dict(as_series=False)) == str(columns)


def test_a_folder_of_parquet_files_is_one_table_in_the_order_of_their_names(tmp_path):
    for number in (2, 0, 1):
        pl.DataFrame({"a": [number]}).write_parquet(tmp_path / f"part-{number}.parquet")
    (tmp_path / "_SUCCESS").touch()
    assert read_table(tmp_path)["a"].to_list() == [0, 1, 2]
    pl.DataFrame({"b": [1]}).write_parquet(tmp_path / "part-3.parquet")
    with pytest.raises(DataError, match="is damaged or no Parquet file"):
        read_table(tmp_path)


def test_a_polars_frame_is_a_table(tmp_path):
    frame = pl.DataFrame({"a": [1, 2], "b": ["1", "2024-02-29"]})
    assert read_table(frame).equals(frame)
    with pytest.raises(DataError, match="the frame has column names and no rows"):
        read_table(frame.head(0))
    with pytest.raises(DataError, match="a polars frame or a pandas frame: got dict"):
        read_table({"a": [1]})


def test_a_pandas_frame_is_a_table():
    columns = {
        "whole": [1, 2],
        "number": [1.5, None],
        "flag": [True, False],
        "text": ["x", None],
        "day": [dt.datetime(2024, 2, 29), None],
        3: [1, 2],
    }
    frame = pd.DataFrame(columns, index=["u", "v"])
    frame["category"] = frame["text"].astype("category")
    frame["nullable"] = pd.array([1, None], "Int64")
    frame["zone"] = pd.to_datetime(frame["day"], utc=True)
    got = read_table(frame)
    assert got.drop("number", "zone").to_dict(as_series=False) == {
        **{str(name): values for name, values in columns.items() if name != "number"},
        "category": ["x", None],
        "nullable": [1, None],
    }
    assert str(got["number"].to_list()) == "[1.5, nan]"
    assert got["zone"].to_list() == [dt.datetime(2024, 2, 29, tzinfo=ZoneInfo("UTC")), None]
    with pytest.raises(DataError, match="two columns 'a'"):
        read_table(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(DataError, match="'a' of the frame holds values of several types, int, str"):
        read_table(pd.DataFrame({"a": [1, "x"]}))


BLOCKED = (
    'a,"b\n2",c\r\n1,x,\r\n\r\n2.5,"y, ""z""\n",true\n,,\n'
    '-3,"\n\n",TRUE\n"4",NA,\n5,"1,2\r\n3",false\n6,  6 ,false'
)


def cut(patch: pytest.MonkeyPatch, size: int) -> None:
    """Have blocks of so many bytes, or of a line."""
    patch.setattr(delimited, "BLOCK", size)
    patch.setattr(delimited, "BLOCK_PER_COLUMN", 1)


@given(size=st.integers(1, 120))
def test_where_a_file_is_cut_into_blocks_does_not_show(tmp_path_factory, size):
    path = written(tmp_path_factory.mktemp("t"), BLOCKED)
    with pytest.MonkeyPatch.context() as patch:
        cut(patch, size)
        frame = read_table(path)
    assert frame.to_dict(as_series=False) == {
        "a": [1.0, 2.5, -3.0, 4.0, 5.0, 6.0],
        "b\n2": ["x", 'y, "z"', None, None, "1,2\r\n3", "6"],
        "c": [None, True, True, None, False, False],
    }


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["1", "2.5", "3"], [1.0, 2.5, 3.0]),
        (["", "NA", "3"], [None, None, 3]),
        (["1", "x", ""], ["1", "x", None]),
        (["007", "2", "x"], ["007", "2", "x"]),
        (["true", "1", "1"], ["true", "1", "1"]),
        (["true", "TRUE", " false"], [True, True, False]),
        (["1", " 2", "3.5 "], [1.0, 2.0, 3.5]),
        (["2024-02-29", "", "2024-03-01 10:00"], ["2024-02-29", None, "2024-03-01 10:00"]),
        (["99999999999999999999", "1", "2"], [99999999999999999999, 1, 2]),
        (["1", "\u0663", "2"], ["1", "\u0663", "2"]),
    ],
)
@pytest.mark.parametrize("size", [1, 2**20])
def test_a_columns_type_is_of_all_its_values_in_whatever_blocks(
    tmp_path, monkeypatch, values, expected, size
):
    cut(monkeypatch, size)
    path = written(tmp_path, "i,c,d\n" + "".join(f"{i},{v},0\n" for i, v in enumerate(values)))
    assert str(read_table(path)["c"].to_list()) == str(expected)


@pytest.mark.parametrize("size", [1, 2**20])
def test_a_line_of_separators_is_a_row_where_every_row_is_asked_for(tmp_path, monkeypatch, size):
    cut(monkeypatch, size)
    path = written(tmp_path, 'a,b\n1,2\n\n,\n"",""\r\n\r\n3,"\n"\n,\n')
    every = [row for frame in chunks(path, every_row=True) for row in frame["a"]]
    assert every == [1, None, None, 3, None]
    assert [row for frame in chunks(path) for row in frame["a"]] == [1, 3]


def test_columns_asked_for_as_text_keep_their_zeros(tmp_path):
    path = written(tmp_path, "zip,b\n01234,1\n 99999,2\nNA,3\n")
    assert read_table(path, text=("zip",))["zip"].to_list() == ["01234", "99999", None]


@pytest.mark.parametrize("size", [1, 2**20])
def test_a_column_of_nothing_but_missing_values(tmp_path, monkeypatch, size):
    cut(monkeypatch, size)
    frame = read_table(written(tmp_path, "a,b\n,1\nNA,2\n?,3\n"))
    assert frame["a"].to_list() == [None, None, None]


def test_an_unclosed_quotation_mark_is_refused_without_a_word_from_polars(
    tmp_path, monkeypatch, capfd
):
    cut(monkeypatch, 1)
    with pytest.raises(DataError, match="line 3 has 1 field "):
        read_table(written(tmp_path, 'a,b\n1,2\n"'))
    assert capfd.readouterr().err == ""  # polars panics over such a block


def test_nul_bytes_are_text(tmp_path):
    frame = read_table(written(tmp_path, "a,b\nx\0y,1\n\0,2\n"))
    assert frame["a"].to_list() == ["x\0y", "\0"]


def test_ten_thousand_columns_are_read(tmp_path):
    names = [f"c{i}" for i in range(10_000)]
    rows = "".join(",".join([str(row)] * 10_000) + "\n" for row in range(3))
    frame = read_table(written(tmp_path, ",".join(names) + "\n" + rows))
    assert frame.columns == names
    assert frame["c9999"].to_list() == [0, 1, 2]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.txt", "a,b\n1,2\n", "has the extension '.txt': a table is .csv, .tsv, .parquet, "),
        ("table", "a,b\n1,2\n", "has no extension"),
        ("t.csv", "", "is empty"),
        ("t.parquet", "", "is empty"),
        ("t.npz", "", "is empty"),
        ("t.csv", "a,b\n", "has column names and no rows"),
        ("t.csv", "a,b", "has column names and no rows"),
        ("t.csv", "\n\n\n", "begins with an empty line"),
        ("t.csv", "\na,b\n1,2\n", "begins with an empty line"),
        ("t.csv", "a,b\n1,2\n3,4,5\n", r"line 3 has 3 fields where the first line names 2"),
        ("t.csv", "a,b\n1,2\n3\n4,5\n", r"line 3 has 1 field where the first line names 2"),
        ("t.csv", "a,b\n1,\n3\n4,5\n", r"line 3 has 1 field where the first line names 2"),
        ("t.csv", "x" * 200_000 + "\n1\n", "does not begin with column names"),
        ("t.csv", "a,b,a\n1,2,3\n", "names two columns 'a'"),
        ("t.csv", "a,,\n1,2,3\n", "names two columns ''"),
        ("t.csv", "a,b\r1,2\r", "ends its lines with CR alone: save it with LF or CRLF"),
        ("t.csv", 'a,b\n1,"x\n2,y\n3,\n', "perhaps because of a stray quotation mark|line 4"),
        ("t.csv", "a,b\n1,\n\n3\n4,5\n", r"line 4 has 1 field where the first line names 2"),
        ("t.csv", 'a,b\n"1,",\n"3,"\n4,5\n', "line 3 has 1 field "),
        ("t.csv", "a\n1\n2,3\n", "line 3 has 2 fields where the first line names 1 col"),
        ("t.csv", 'a,b\n1,"x\n3,4\n', "perhaps because of a stray quotation mark|line 3 has"),
        ("t.csv", 'a,b\n1,x"y\n3,"z"\n', "perhaps because of a stray quotation mark"),
        ("t.csv", b"a,b\n1,\xe9\n", "not UTF-8 text .it has the byte 0xe9.: save it as UTF-8"),
        ("t.csv", b"a,\xe9\n1,2\n", "not UTF-8 text .it has the byte 0xe9.: save it as UTF-8"),
        ("t.csv", "a,b\n1,2\n".encode("utf-16"), "not UTF-8 text .it has the byte 0xff."),
        ("t.parquet", "a,b\n1,2\n", "is damaged or no Parquet file"),
        ("t.npz", "a,b\n1,2\n", "cannot be read"),
        ("t.npy", "a,b\n1,2\n", "cannot be read: no .npy file, or it holds Python objects"),
        ("t.arrow", "a,b\n1,2\n", "is damaged or no Arrow file"),
        ("t.jsonl", "a,b\n1,2\n", "is damaged or no file of JSON lines"),
        ("t.jsonl", "[1]\n", "is damaged or no file of JSON lines"),
        ("t.jsonl", '{"a": true}\n{"a": 1}\n', "is damaged or no file of JSON lines"),
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


def test_npy_arrays_become_columns(tmp_path):
    np.save(tmp_path / "t.npy", np.array([[1.5, 2], [3, 4]]))
    assert read_table(tmp_path / "t.npy").to_dict(as_series=False) == {"x0": [1.5, 3], "x1": [2, 4]}
    np.save(tmp_path / "t.npy", np.array([True, False]))
    assert read_table(tmp_path / "t.npy").to_dict(as_series=False) == {"x": [True, False]}
    np.save(tmp_path / "t.npy", np.zeros((2, 2, 2)))
    with pytest.raises(DataError, match=r"'x' has shape \(2, 2, 2\)"):
        read_table(tmp_path / "t.npy")


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_nothing_in_an_npz_file_is_ever_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("t.npz", x=np.array([Bomb()], dtype=object))
    np.array([Bomb()], dtype=object).dump("u.npz")
    np.save("v.npy", np.array([Bomb()], dtype=object))
    for name in ("t.npz", "u.npz", "v.npy"):
        with pytest.raises(DataError, match="never unpickled"):
            read_table(name)
    assert not (tmp_path / "exploded").exists()


def npy(shape, dtype="<f8", data=b""):
    """Return the bytes of a .npy file whose header says what it likes."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + data


def npz(content, claimed=None, kind=zipfile.ZIP_DEFLATED):
    """Return the bytes of a .npz file of one array, whose list says that it has `claimed` bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr("x.npy", content)
    size = len(content).to_bytes(4, "little")
    told = len(content) if claimed is None else claimed
    return file.getvalue().replace(size, told.to_bytes(4, "little"))


HELD = npy((2,), data=b"16 random bytes.")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.npy", npy((10**12,)), "its array claims the shape .1000000000000,., 8,000,000,000,000"),
        ("t.npy", npy((10**12,), "<U0"), "its array claims the shape .1000000000000,., "),
        ("t.npy", npy((-1,), data=bytes(80)), "its array claims the shape .-1,."),
        ("t.npy", npy((0, 10**12)), "no rows"),
        ("t.npz", npz(npy((10**12,))), "'x.npy' claims the shape .1000000000000,., 8,000,000,000,"),
        ("t.npz", npz(npy((0, 10**12))), "no rows"),
        ("t.npz", npz(HELD, 2**31), "'x.npy' claims more bytes than it can hold"),
        ("t.npz", npz(HELD, 500, zipfile.ZIP_STORED), "'x.npy' claims more bytes than it can hold"),
        ("t.npz", npz(HELD, kind=zipfile.ZIP_LZMA), "'x.npy' claims more bytes than it can hold"),
        ("t.npz", npz(npy((10**5,), data=bytes(8 * 10**5))), "take 800,128 bytes, more than the"),
        ("t.npz", npz(b"a text"), "cannot be read: damaged or no .npz file"),
    ],
)
def test_arrays_that_claim_more_than_there_is_are_refused(
    tmp_path, monkeypatch, name, content, sentence
):
    """Forged files and bombs: neither takes memory before it is refused."""
    monkeypatch.setattr(claims, "memory_of_machine", lambda: 400_000)
    (tmp_path / name).write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=sentence):
            read_table(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_arrays_that_a_zip_makes_a_thousandth_of_are_read(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", x=np.zeros(10**6))
    assert (tmp_path / "t.npz").stat().st_size < 10_000
    assert len(read_table(tmp_path / "t.npz")) == 10**6


@pytest.mark.parametrize("kind", ["parquet", "arrow", "npz", "npy"])
def test_a_file_truncated_at_any_byte_is_refused(tmp_path, kind):
    path = tmp_path / f"t.{kind}"
    if kind == "npz":
        np.savez(path, x=np.arange(3), y=np.arange(3))
    elif kind == "npy":
        np.save(path, np.arange(3))
    elif kind == "arrow":
        pl.DataFrame({"x": [1, 2], "y": ["a", "b"]}).write_ipc(path)
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
    with pytest.raises(DataError, match=r"is a folder without .parquet files: give one"):
        read_table(tmp_path)
    monkeypatch.setattr("pathlib.Path.open", lambda *_, **__: os.open("/nonexistent", 0))
    with pytest.raises(DataError, match=r"houses.csv cannot be read: "):
        read_table(tmp_path / "houses.csv")
