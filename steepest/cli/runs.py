"""`steepest runs`: the runs of a folder as a table."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tyro.conf import Positional

from steepest.argv import read
from steepest.report.kept import find_runs, read_run
from steepest.report.listing import (
    COLUMNS,
    ListedRun,
    cell,
    check_columns,
    differing,
    listed,
    ordered,
)

STYLES = {"finished": "green", "running": "cyan", "failed": "red"}
PIPED = 100_000  # characters: a line of a pipe is as long as it is


def main(words: list[str]) -> int:
    """Print the runs; return the exit code."""
    asked = read(runs, "runs", words)
    folder = asked["folder"]
    found = listed([read_run(run) for run in find_runs(folder)])
    check_columns(found, asked["columns"] if found else ())
    shown = ordered(found, asked["sort"], reverse=asked["reverse"]) if found else []
    if asked["json"]:
        print(json.dumps([run.told() for run in shown], indent=2))
    elif not shown:
        print(f"{folder} holds no run yet: `steepest train line` makes one")
    else:
        print_table(shown, asked["columns"])
    return 0


def runs(
    folder: Positional[Path] = Path("runs"),
    sort: str = "started",
    reverse: bool = False,
    columns: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """List the runs in a folder and in the folders in it.

    Args:
        folder: where to look
        sort: a column or an option: name, recipe, status, best, validation_loss, lr, ...
        reverse: the other way round
        columns: what to show; left out, all of them and the options that differ
        json: as JSON, for a program
    """


def print_table(shown: Sequence[ListedRun], columns: Sequence[str]) -> None:
    """Print the runs as a table, without colours and frames where no terminal reads it."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    console = Console(highlight=False, width=None if terminal else PIPED)
    metrics = {run.monitor for run in shown if run.best is not None}
    options = differing(shown)
    asked = list(columns) or [*COLUMNS, *options]
    now = datetime.now().astimezone()
    rows = {
        name: [_head(name, metrics), *(_cell(run, name, now, metrics) for run in shown)]
        for name in asked
    }
    left: list[str] = []
    table = _table(rows, shown, framed=terminal)
    while options and not columns and _width(table, console) > console.width:
        left.insert(0, options.pop())
        del rows[left[0]]
        table = _table(rows, shown, framed=terminal)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip())
    if left:
        print(f"They differ in {', '.join(left)} as well: --columns shows what is asked for.")


def _table(rows: dict[str, list[str]], shown: Sequence[ListedRun], *, framed: bool) -> Any:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD if framed else None, pad_edge=False, header_style="dim")
    for name, (head, *_) in rows.items():
        right = name not in ("name", "recipe", "status", "started")
        table.add_column(Text(head), justify="right" if right else "left", no_wrap=name == "name")
    for k, run in enumerate(shown, 1):
        style = STYLES.get(run.kept.status, "yellow")
        table.add_row(
            *(Text(row[k], style if name == "status" else "") for name, row in rows.items())
        )
    return table


def _width(table: Any, console: Any) -> int:
    """Return the characters that a table takes where there is room."""
    from rich.measure import Measurement

    return Measurement.get(console, console.options.update(width=PIPED), table).maximum


def _head(name: str, metrics: set[str]) -> str:
    if name == "best" and len(metrics) == 1:
        name = f"best {next(iter(metrics))}"
    elif name not in COLUMNS:
        return name
    return name.replace("_", " ")


def _cell(run: ListedRun, name: str, now: datetime, metrics: set[str]) -> str:
    return cell(run, name, now, one_metric=len(metrics) == 1)
