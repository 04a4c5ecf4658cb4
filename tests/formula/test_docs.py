"""The page on formulas: its example is a user's file, and its prompts print what they say."""

import doctest
import re
import sys
from pathlib import Path

import pytest

from steepest.formula import whole, words

PAGE = (Path(__file__).parents[2] / "docs" / "formulas.md").read_text()

FILES = ["lion", "layerwise"]
"""The files that its examples are, in their order."""


def test_the_prompts_print_what_the_page_says(tmp_path, monkeypatch):
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for name, example in zip(FILES, examples, strict=True):
        (tmp_path / f"{name}.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    prompts = "".join(re.findall(r"```pycon\n(.*?)```", PAGE, re.DOTALL))
    test = doctest.DocTestParser().get_doctest(prompts, {}, "formulas.md", None, 0)
    output = []
    result = doctest.DocTestRunner().run(test, out=output.append)
    for name in FILES:
        sys.modules.pop(name, None)
    assert result.attempted > 10
    assert result.failed == 0, "".join(output)


@pytest.mark.parametrize("name", ["words", "whole", "planner", "shapes"])
def test_the_examples_in_docstrings(name):
    result = doctest.testmod(sys.modules[f"steepest.formula.{name}"])
    assert result.attempted >= 1
    assert result.failed == 0


def test_the_page_names_every_word():
    for word in (*words.WORDS, *whole.WHOLE, *whole.FACTS):
        assert f"`{word}(" in PAGE
