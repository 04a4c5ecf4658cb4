"""What docs/training.md and docs/cli.md show is what happens."""

import re
import shlex
from pathlib import Path

import pytest

from steepest.cli import main

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text("utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "docs"}
    for block in blocks("training.md", "python"):
        exec(compile(block, "docs/training.md", "exec"), names)


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    (recipe,) = blocks("cli.md", "python")
    (tmp_path / "my_recipe.py").write_text(recipe)
    commands = [line for block in blocks("cli.md", "console") for line in block.splitlines()]
    assert len(commands) == 11
    printed = []
    for command in commands:
        assert main(shlex.split(command.removeprefix("$ steepest "))) == 0, command
        printed.append(capsys.readouterr().out)
    shown = blocks("cli.md", "text")[0]
    numbers = re.compile(r"[-+]?\d[\d.,]*")  # their last digits are the machine's
    assert numbers.sub("N", printed[0]) == numbers.sub("N", shown)
