"""The formula language: words <- parse <- plan."""

from steepest.formula.parse import Formula, parse
from steepest.formula.plan import Plan, plan
from steepest.formula.words import abs, exp, log, maximum, minimum, sign, sqrt, where

__all__ = [
    "Formula",
    "Plan",
    "abs",
    "exp",
    "log",
    "maximum",
    "minimum",
    "parse",
    "plan",
    "sign",
    "sqrt",
    "where",
]
