"""The formula language: words <- parse <- plan <- stages."""

from steepest.formula.bases import (
    eigenbasis,
    from_columns,
    from_rows,
    gram_of_columns,
    gram_of_rows,
    into_columns,
    into_rows,
    refined_basis,
)
from steepest.formula.extras import Extras
from steepest.formula.parse import Formula, parse
from steepest.formula.plan import Plan
from steepest.formula.planner import plan
from steepest.formula.whole import (
    column_mean,
    columns,
    elements,
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
    "eigenbasis",
    "elements",
    "epsilon",
    "exp",
    "from_columns",
    "from_rows",
    "gram_of_columns",
    "gram_of_rows",
    "into_columns",
    "into_rows",
    "log",
    "maximum",
    "mean",
    "minimum",
    "norm",
    "orthogonalize",
    "parse",
    "plan",
    "rank",
    "refined_basis",
    "row_mean",
    "rows",
    "sign",
    "sqrt",
    "total",
    "where",
]
