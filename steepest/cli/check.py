"""`steepest check`: run a training script with the watch on, and name its mistakes."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from steepest.errors import RecipeError

if TYPE_CHECKING:
    from steepest.check import Finding
    from steepest.check.where import Place

FOUND = 1

USAGE = """usage: steepest check [--stop] [--json FILE] SCRIPT.py [its arguments]
       steepest check [--stop] [--json FILE] -m MODULE [its arguments]

Run a training script as python does, watch its optimizers, losses and schedules, and name the
classic mistakes: what, where, why it matters, and what mends it, on stderr at the end.

  --stop       stop at the first mistake
  --json FILE  write the findings as JSON, too; - is stdout
  -m MODULE    run a module, as python -m does

exit code: 0 nothing was found, 1 a mistake was, 2 the script failed, or what it exits with itself

example:
  steepest check train.py --epochs 1"""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        raise RecipeError(f"check: {message}; see steepest check --help")


def main(words: list[str]) -> int:
    """Run a script and print what was found; return the exit code."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--stop", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("-m", dest="module", action="store_true")
    parser.add_argument("script", nargs=argparse.REMAINDER)
    given = parser.parse_args(words)
    if given.help or not words:
        print(USAGE)
        return 0
    if not given.script:
        raise RecipeError("check runs a script: got none; see steepest check --help")
    if not given.module and not Path(given.script[0]).is_file():
        raise RecipeError(f"check runs a script: there is no file {given.script[0]}")
    from steepest.check.script import Script

    script = Script(given.script, module=given.module, stop=given.stop)
    script.run()
    findings = script.watch.findings() if script.watch is not None else []
    facts = [finding for finding in findings if finding.is_fact]
    sys.stdout.flush()
    print("\n".join(told(findings, script.watch is not None)), file=sys.stderr)
    if given.json is not None:
        text = json.dumps([finding.plain() for finding in findings], indent=2) + "\n"
        print(text, end="") if str(given.json) == "-" else given.json.write_text(text)
    return script.code or (FOUND if facts else 0)


def shown(where: "Place | None") -> str:
    """Return a place as an editor takes it, from this folder if it is within."""
    if where is None:
        return ""
    path = Path(where.file)
    file = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return f"{file}:{where.line}: "


def told(findings: "list[Finding]", listened: bool) -> Iterator[str]:
    """Return findings as people read them."""
    if not listened:
        yield "steepest check: the script never imported torch"
        return
    for finding in findings:
        yield f"\n{shown(finding.where)}{finding.code} {finding.title} (step {finding.step})"
        yield f"  seen: {finding.message}"
        yield f"  why:  {finding.why}"
        yield f"  mend: {finding.mend}"
    count = f"{len(findings)} mistake{'s' * (len(findings) != 1)}" if findings else "no mistake"
    yield f"{chr(10) if findings else ''}steepest check: {count} found"
