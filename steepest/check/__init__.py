"""Watch a PyTorch training loop, and name the classic mistakes in it.

Facts need no threshold: identity, order, shape, equality. Each has a code.
"""

from steepest.check.codes import CODES, Code
from steepest.check.finding import Finding
from steepest.check.watch import Watch, watch

__all__ = ["CODES", "Code", "Finding", "Watch", "watch"]
