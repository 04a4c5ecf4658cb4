"""`steepest list`: each optimizer's sentence and paper."""

from steepest.cli import HELP
from steepest.errors import RecipeError

USAGE = """usage: steepest list

Each optimizer's name, what it does in a sentence, and its paper; `steepest show` has more of one.

example:
  steepest list"""


def main(words: list[str]) -> int:
    """Print each optimizer's sentence and paper."""
    if {*words} & {*HELP}:
        print(USAGE)
        return 0
    if words:
        raise RecipeError(f"list takes no option: got {words[0]}")
    from steepest.explain import list_text

    print(list_text())
    return 0
