"""`steepest show`: an optimizer's formula, plan and kernel."""

from steepest.cli import HELP


def main(words: list[str]) -> int:
    """Print an optimizer's formula, plan and kernel."""
    from steepest.explain import show_text

    if not words or {*words} & {*HELP}:
        print("usage: steepest show OPTIMIZER [--momentum 0.9 ...]")
        return 0
    print(show_text(words[0], words[1:]))
    return 0
