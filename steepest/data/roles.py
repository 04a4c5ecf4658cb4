"""What the columns of a table are and what they become, for people."""

import io
from collections.abc import Iterable, Sequence

from steepest.data.columns import Column
from steepest.data.notices import shown
from steepest.data.target import Target

Row = tuple[str, str, str, str]
HEADER: Row = ("column", "role", "values", "becomes")
MOST_SHOWN = 40  # columns
WIDTH = 100


def describe(target: Target, columns: Sequence[Column], rows: int) -> list[Row]:
    """Return a row for the target and for each column: name, role, values, what they become."""
    told = [_target_row(target, rows)]
    told += [_column_row(column, rows) for column in columns[:MOST_SHOWN]]
    if rest := columns[MOST_SHOWN:]:
        used = sum(1 for column in rest if column.features)
        told.append((f"{len(rest):,} more", "", "", f"{used:,} of them used"))
    return told


def rendered(rows: Iterable[Row], width: int = WIDTH) -> str:
    """Return the rows as a table of text, `width` letters wide at most."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in HEADER:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))  # no markup: a name may hold square brackets
    text = io.StringIO()
    Console(file=text, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())


def _target_row(target: Target, rows: int) -> Row:
    if target.task == "regression":
        return target.name, "target", f"{rows:,}", _scaled(target.mean, target.std)
    shown = ", ".join(map(str, target.classes[:5])) + (", ..." if len(target.classes) > 5 else "")
    return target.name, "target", f"{rows:,}", f"{len(target.classes)} classes: {shown}"


def _column_row(column: Column, rows: int) -> Row:
    values = f"{rows:,}, {column.missing:,} missing" if column.missing else f"{rows:,}"
    return column.name, _role(column), values, _becomes(column)


def _role(column: Column) -> str:
    if column.role == "category" and column.left_out:
        return "text"
    return column.role or "none"


def _becomes(column: Column) -> str:
    if column.left_out:
        return f"left out: {column.left_out}"
    if column.role == "category":
        return f"{len(column.categories)} columns of 0 and 1"
    fill = f"; {shown(column.fill)} where missing" if column.missing else ""
    if column.role == "boolean":
        return f"0 or 1{fill}"
    unit = f"{column.unit}, " if column.unit else ""
    return f"{unit}{_scaled(column.mean, column.std)}{fill}"


def _scaled(mean: float, std: float) -> str:
    sign = "+" if mean < 0 else "-"
    return f"(x {sign} {shown(abs(mean))}) / {shown(std)}"
