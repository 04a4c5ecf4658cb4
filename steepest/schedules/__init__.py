"""Schedules: pure functions of the step, such as `cosine(1e-3, total=10_000, warmup=500)`.

A schedule is a function `step -> value`, where `step` counts the updates (or the epochs) done. Its
value is a hyperparameter, or multiplies one; left to itself it starts from 1, and `1e-3 * schedule`
is another schedule. A schedule remembers nothing: it cannot be called in the wrong order, and a run
resumes from its step alone. Any function of one number is a schedule; those of this file are values
besides: immutable, comparable, picklable, printed as they were written.
`steepest.optim.lr_scheduler` has torch's class names over the same functions.
"""

from steepest.schedules.curves import (
    constant,
    cosine,
    exponential,
    join,
    linear,
    multi_step,
    polynomial,
    restarts,
    step_decay,
    warmup,
)
from steepest.schedules.schedule import Schedule

__all__ = ["Schedule", "constant", "cosine", "exponential", "join", "linear", "multi_step",
           "polynomial", "restarts", "step_decay", "warmup"]  # fmt: skip
