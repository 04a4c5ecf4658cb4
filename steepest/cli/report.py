"""`steepest report`: one HTML page about one run or several."""

import webbrowser
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from steepest.argv import read
from steepest.errors import RecipeError


def main(words: list[str]) -> int:
    """Write the page; return the exit code."""
    from steepest.figures import counted, size
    from steepest.report import write_report

    asked = read(report, "report", words)
    folders, out = asked["run"], asked["out"]
    if not folders:
        raise RecipeError(
            "report needs RUN, the folder of a run, or several: write `steepest report "
            "runs/line-1`; `steepest runs` lists them"
        )
    length = write_report(folders, out)
    print(f"{out}: {counted(len(folders), 'run')}, {size(length)}")
    if asked["open"]:
        webbrowser.open(out.resolve().as_uri())
    return 0


def report(
    run: Positional[
        Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN ...", help_behavior_hint="")]
    ] = (),
    out: Path = Path("report.html"),
    open: bool = False,
) -> None:
    """Write one HTML page about one run or several: it opens from a file and needs no network.

    Args:
        run: folders of runs
        out: the page; a new file, or an earlier report
        open: show the page in the browser
    """
