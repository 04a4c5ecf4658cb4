"""The formula language: words <- parse <- plan <- stages."""

from steepest.formula.extras import Extras
from steepest.formula.parse import Formula, parse
from steepest.formula.plan import Plan
from steepest.formula.planner import plan
from steepest.formula.whole import (
    column_mean,
    columns,
    epsilon,
    mean,
    norm,
    orthogonalize,
    rank,
    row_mean,
    rows,
    total,
)
from steepest.formula.words import abs, exp, log, maximum, minimum, sign, sqrt, where

__all__ = [
    "Extras",
    "Formula",
    "Plan",
    "abs",
    "column_mean",
    "columns",
    "epsilon",
    "exp",
    "log",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "orthogonalize",
    "parse",
    "plan",
    "rank",
    "row_mean",
    "rows",
    "sign",
    "sqrt",
    "total",
    "where",
]
