"""The errors that a user can cause.

SteepestError
├── FormulaError          a formula leaves the language
├── HyperparameterError   a hyperparameter is out of its bounds, or unknown
├── KernelError           `fused=True` where no kernel can serve
├── StateError            a state_dict does not fit the optimizer that loads it
├── DataError             a table, a column or a split cannot be used
├── CheckpointError       a checkpoint is damaged or belongs to another run
├── RecipeError           a recipe or one of its options is wrong
└── RunError              a run that began well cannot go on

Each message is one sentence: the thing, the rule, what was given, what to do.
All are ValueErrors, as torch raises for the same mistakes.
"""

import difflib
from collections.abc import Iterable


class SteepestError(ValueError):
    """Any error that steepest raises for a user's mistake."""


class FormulaError(SteepestError):
    """A formula leaves the language; the message shows file, line and caret."""


class HyperparameterError(SteepestError):
    """A hyperparameter is out of its bounds, or unknown."""


class KernelError(SteepestError):
    """`fused=True` was asked for where no kernel can serve."""


class StateError(SteepestError):
    """A state_dict does not fit the optimizer that loads it."""


class DataError(SteepestError):
    """A table, a column or a split cannot be used; the arguments are the parts of its sentence."""

    def __str__(self) -> str:
        return "".join(map(str, self.args))


class CheckpointError(SteepestError):
    """A checkpoint is damaged, or belongs to another run."""


class RecipeError(SteepestError):
    """A recipe or one of its options is wrong."""


class RunError(SteepestError):
    """A run that began well cannot go on: its loss is not finite, or a file cannot be written."""


def nearest(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return " (did you mean 'x'?)" for the known word most like `word`, or nothing.

    At least as like as `cutoff`, from 0, nothing in common, to 1, equal but for capitals.
    """
    lowered = {k.lower(): k for k in known}
    near = difflib.get_close_matches(word.lower(), lowered, n=1, cutoff=cutoff)
    return f" (did you mean {lowered[near[0]]!r}?)" if near else ""
