"""A schedule by its name, as a command line gives it."""

from collections.abc import Callable
from typing import Literal

from steepest.errors import RecipeError
from steepest.schedules.curves import cosine, linear, warmup

Name = Literal["constant", "linear", "cosine"]


def named_schedule(name: Name, *, total: int, warmup_steps: int) -> Callable[[int], float] | None:
    """Return the multiplier of lr over so many updates, the first of them spent on the warmup.

    Raises:
        RecipeError: the warmup is negative, or as long as the run.
    """
    if not 0 <= warmup_steps < total:
        raise RecipeError(
            f"warmup is a number of updates from 0 to below the run's {total}: got {warmup_steps}"
        )
    if name == "constant":
        return warmup(warmup_steps) if warmup_steps else None
    return {"linear": linear, "cosine": cosine}[name](total=total, warmup=warmup_steps)
