"""`steepest show`: an optimizer's formula, plan and kernel."""

from steepest.cli import HELP

USAGE = """usage: steepest show OPTIMIZER [hyperparameters]

Print an optimizer's formula, its plan and its kernel for these hyperparameters;
`steepest list` names the optimizers.

example:
  steepest show SGD --momentum 0.9 --nesterov"""


def main(words: list[str]) -> int:
    """Print an optimizer's formula, plan and kernel."""
    if not words or {*words} & {*HELP}:
        print(USAGE)
        return 0
    from steepest.explain import show_text

    print(show_text(words[0], words[1:]))
    return 0
