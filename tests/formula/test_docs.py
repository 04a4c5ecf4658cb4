"""The page on formulas: its example is a user's file, and its prompts print what they say."""

import doctest
import re
import sys
from pathlib import Path

import pytest

from steepest.formula import words

PAGE = (Path(__file__).parents[2] / "docs" / "formulas.md").read_text()


def test_the_prompts_print_what_the_page_says(tmp_path, monkeypatch):
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "lion.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    prompts = "".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(prompts, {}, "formulas.md", None, 0)
    output = []
    result = doctest.DocTestRunner().run(test, out=output.append)
    sys.modules.pop("lion", None)
    assert result.attempted > 10
    assert result.failed == 0, "".join(output)


@pytest.mark.parametrize("name", ["words", "whole", "planner", "shapes"])
def test_the_examples_in_docstrings(name):
    result = doctest.testmod(sys.modules[f"steepest.formula.{name}"])
    assert result.attempted >= 1
    assert result.failed == 0


def test_the_page_names_every_word():
    for word in words.WORDS:
        assert f"`{word}(" in PAGE
