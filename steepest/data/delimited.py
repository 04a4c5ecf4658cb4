"""CSV and TSV files -> frames of a few MiB, one after another.

polars reads the text. Blocks of whole lines are cut off here, as polars takes the file's whole
size in memory, and what it does not check is checked: a line that lacks fields.
"""

import csv
import io
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import IO, Any

import polars as pl

from steepest.data.typed import MISSING, cleaned, typed
from steepest.errors import DataError
from steepest.figures import counted

BLOCK = 2 * 2**20
BLOCK_PER_COLUMN = 2**13  # some hundred rows at least, as each column of a frame takes its time
LONGEST_LINE = 256 * 2**20
LONGEST_HEADER = 16 * 2**20


def read_delimited(
    path: Path, text: Collection[str] = (), *, every_row: bool = False
) -> Iterator[pl.DataFrame]:
    """Hand out the rows of a CSV or TSV file in frames, all with the columns of its first line.

    A column is of whole numbers, numbers, booleans, texts or nulls, by its values in this frame
    alone; those named in `text` are of texts. A line without any value is no row; of `every_row`
    it is one, if it has separators.

    Raises:
        DataError: the file is not UTF-8, a line has too few or too many fields, or a quotation
            mark stands where none may.
    """
    names, separator = read_header(path)
    parser = _Parser(names, separator, text, every_row)
    try:
        with path.open("rb") as file:
            _pass_header(file)
            for block in _blocks(file, parser.header, max(BLOCK, BLOCK_PER_COLUMN * len(names))):
                frame = parser.parse(block)
                if frame.height:
                    yield frame
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(_fault(path, len(names), separator)) from error


def read_header(path: Path) -> tuple[list[str], str]:
    """Return the column names and the separator: the comma, semicolon or tab most frequent there.

    Raises:
        DataError: there is no line of names, two are the same, or they are not UTF-8.
    """
    try:
        with path.open("rb") as file:
            line = _pass_header(file)
            if len(line) >= LONGEST_HEADER:
                raise DataError(f"{path} begins with a line of more than {LONGEST_HEADER:,} bytes")
            text = line.decode("utf-8-sig")
            if text.count("\r") > 1 and "\n" not in text:
                raise DataError(f"{path} ends its lines with CR alone: save it with LF or CRLF")
            separator = max(",;\t", key=re.sub('"[^"]*"', "", text).count)
            lines = io.StringIO(text, newline="")
            names = [name.strip() for name in next(csv.reader(lines, delimiter=separator), [])]
    except UnicodeDecodeError as error:
        raise DataError(_not_utf8(path, error)) from error
    except csv.Error as error:
        raise DataError(f"{path} does not begin with column names: {error}") from error
    if not any(names):
        raise DataError(f"{path} begins with an empty line: its first line names the columns")
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{path} names two columns {name!r}: column names are all different")
        seen.add(name)
    return names, separator


def _pass_header(file: IO[bytes]) -> bytes:
    """Read the first line; a quoted name may hold line ends."""
    line = file.readline(LONGEST_HEADER)
    while line.count(b'"') % 2 and len(line) < LONGEST_HEADER:
        more = file.readline(LONGEST_HEADER)
        if not more:
            break
        line += more
    return line


def _blocks(file: IO[bytes], header: bytes, size: int) -> Iterator[bytes]:
    """Hand out whole lines, so many bytes or one line at a time, each block behind the header."""
    rest = b""
    while new := file.read(size):
        block = b"".join((header, rest, new))
        del new  # a block is held once while it is parsed
        end = _end_of_line(block)
        if end > len(header):
            rest = block[end:]
            block = block[:end]
            yield block
        elif len(block) > LONGEST_LINE:
            raise DataError(
                f"{file.name} has a line of more than {LONGEST_LINE // 2**20} MiB, perhaps because "
                f"of a stray quotation mark"
            )
        else:
            rest = block[len(header) :]
    if rest:
        yield header + rest


def _end_of_line(block: bytes) -> int:
    """Return where the last whole line ends: not at a line end inside quotation marks."""
    end = block.rfind(b"\n") + 1
    while block.count(b'"', 0, end) % 2:
        end = block.rfind(b"\n", 0, block.rfind(b'"', 0, end)) + 1
    return end


class _Parser:
    """Parse blocks of lines, each in the types of the one before it where they fit."""

    def __init__(
        self, names: list[str], separator: str, text: Collection[str], every_row: bool
    ) -> None:
        self.names = names
        self.every_row = every_row
        self.separator = separator
        # Numbers for names: polars shall not meet a quotation mark or a line end there.
        self.columns = [str(i) for i in range(len(names))]
        self.header = (separator.join(self.columns) + "\n").encode()
        chosen = set(text)
        self.text = {str(i): pl.String for i, name in enumerate(names) if name in chosen}
        self.schema: pl.Schema | None = None

    def parse(self, block: bytes) -> pl.DataFrame:
        """Return the block's rows.

        Raises:
            PolarsError: they cannot be read.
        """
        if block.count(b'"') % 2:
            raise pl.exceptions.ComputeError("a quotation mark is not closed")
        frame = self._typed(block)
        if frame.columns != self.columns or self._lacks_fields(frame, block):
            raise pl.exceptions.ComputeError("a line has too few or too many fields")
        frame = frame.with_columns(cleaned(c) for c in frame if c.dtype == pl.String)
        counts = [column.null_count() for column in frame]
        if min(counts) > 0:
            frame = self._rows(frame, block)
            counts = [column.null_count() for column in frame]
        empty = {column.name for column, n in zip(frame, counts, strict=True) if n == frame.height}
        frame = frame.with_columns(pl.col(empty).cast(pl.Null)) if empty else frame
        frame.columns = self.names
        return frame

    def _typed(self, block: bytes) -> pl.DataFrame:
        if self.schema is not None:
            try:
                return self._read(block, schema=self.schema)
            except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
                pass  # another type is needed
        try:
            frame = self._read(block, schema_overrides=self.text, infer_schema_length=None)
        except (
            pl.exceptions.PolarsError
        ):  # such as digits of another script, numbers at first sight
            frame = self._read(block, infer_schema=False)
            frame = frame.with_columns(
                typed(cleaned(column)) for column in frame if column.name not in self.text
            )
        before = self.schema or {}
        self.schema = pl.Schema((c.name, _wider(c, before.get(c.name))) for c in frame)
        return frame

    def _rows(self, frame: pl.DataFrame, block: bytes) -> pl.DataFrame:
        """Drop the lines that are no rows, from a block that may have some."""
        no_value = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
        if self.every_row and no_value.any():
            lines = _bare(block).removesuffix(b"\n").split(b"\n")
            no_value &= pl.Series([line in (b"", b"\r") for line in lines[1:]])
        return frame.filter(~no_value)

    def _read(self, block: bytes, **types: Any) -> pl.DataFrame:
        return pl.read_csv(block, separator=self.separator, null_values=list(MISSING), **types)

    def _lacks_fields(self, frame: pl.DataFrame, block: bytes) -> bool:
        """Say whether a line lacks fields, for which polars puts missing values silently."""
        if frame.to_series(-1).null_count() == 0:
            return False
        bare = _bare(block)
        lines = frame.height + 1  # with the header
        if b"\n\n" in bare or b"\n\r\n" in bare:
            lines -= len(re.findall(rb"(?<=\n)\r?\n", bare))
        return bare.count(self.separator.encode()) != lines * (frame.width - 1)


def _bare(block: bytes) -> bytes:
    """Return a block's lines with an x for all that stands in quotation marks."""
    return re.sub(rb'"[^"]*"', b"x", block) if b'"' in block else block


def _wider(column: pl.Series, before: pl.DataType | None) -> pl.DataType:
    """Return the type in which to try a column's next values; one without values tells nothing."""
    if before is None:
        return column.dtype
    narrower = before == pl.Float64 and column.dtype == pl.Int64
    return before if narrower or column.null_count() == len(column) else column.dtype


def _fault(path: Path, width: int, separator: str) -> str:
    """Say in one sentence what is wrong with a file that could not be read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=separator)
            for row in rows:
                if row and len(row) != width:
                    return (
                        f"{path}, line {rows.line_num} has {counted(len(row), 'field')} where the "
                        f"first line names {counted(width, 'column')}: every line has the "
                        f"same number of fields"
                    )
    except UnicodeDecodeError as error:
        return _not_utf8(path, error)
    except csv.Error as error:
        return f"{path} is not a CSV file: {error}"
    return (
        f"{path} is not a CSV file, perhaps because of a stray quotation mark: a field that holds "
        f"one stands in quotation marks and has it doubled"
    )


def _not_utf8(path: Path, error: UnicodeDecodeError) -> str:
    byte = error.object[error.start]
    return f"{path} is not UTF-8 text (it has the byte 0x{byte:02x}): save it as UTF-8"
