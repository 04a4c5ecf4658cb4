"""`steepest list`: each optimizer's sentence and paper."""

from steepest.cli import HELP
from steepest.errors import RecipeError


def main(words: list[str]) -> int:
    """Print each optimizer's sentence and paper."""
    if words and words[0] not in HELP:
        raise RecipeError(f"steepest list takes no option: got {words[0]}")
    from steepest.explain import list_text

    print(list_text())
    return 0
