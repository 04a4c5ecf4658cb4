"""The page of the codes: each example is named as it says, or silent."""

import re
from pathlib import Path

import pytest

from steepest.check import CODES, Finding, Watch, watch

PAGE = Path(__file__).parents[2] / "docs" / "check.md"
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
SECTION = re.compile(r"^### (SC\d+): (.*)\n((?:(?!^#).*\n)*)", re.MULTILINE)


def sections() -> dict[str, tuple[str, str, list[str]]]:
    """Return title, text and examples by code."""
    found = SECTION.findall(PAGE.read_text())
    return {code: (title, text, BLOCK.findall(text)) for code, title, text in found}


def found_in(example: str) -> list[Finding]:
    before = BLOCK.findall(PAGE.read_text().partition("<!-- before each example -->")[2])[0]
    names: dict[str, object] = {}
    exec(compile(before, "before.py", "exec"), names)
    with watch() as watched:
        exec(compile(example, "example.py", "exec"), names)
    own = names.get("w")
    return [*watched.findings(), *(own.findings() if isinstance(own, Watch) else [])]


def test_each_code_has_its_section_in_order():
    titles = {code: title for code, (title, _, _) in sections().items()}
    assert titles == {code: entry.title for code, entry in CODES.items()}


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # torch's own word
@pytest.mark.parametrize("code", CODES)
def test_the_wrong_example_is_named(code: str):
    wrong, _ = sections()[code][2]
    findings = found_in(wrong)
    assert [finding.code for finding in findings] == [code]
    where = findings[0].where
    assert where is not None
    assert where.file == "example.py"


@pytest.mark.parametrize("code", CODES)
def test_the_right_example_is_silent(code: str):
    _, right = sections()[code][2]
    assert found_in(right) == []
