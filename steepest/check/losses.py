"""Rules about losses: what enters them is what they take, in the shape of the target.

Values are looked at in the first calls of each loss, then now and then.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steepest.check.graph import (
    VIEWS,
    is_readable,
    nodes,
    notes,
    operation,
    origin,
    shape_of,
)
from steepest.check.taps import Rules
from steepest.check.where import here

CLOSE = 20  # calls of a loss, and backwards, that are looked at closely
SELDOM = 64  # then one call of so many
ROWS = 8  # that sum to 1: fewer may do so by chance

PAIRED = frozenset(("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"))
LAYERS = frozenset(
    f"{name}Backward0" for name in ("Addmm", "Mm", "Convolution", "Linear", "Relu", "Gelu")
)
ELEMENTWISE = frozenset(
    f"{name}Backward0"
    for name in ("Mean", "Sum", "Div", "Mul", "Add", "Sub", "Neg", "Sqrt", "Pow", "Abs", "Log",
                 "Where", "Clamp", "ClampMin", "Cosh", "ToCopy")
)  # fmt: skip
"""What makes a loss of a difference: nothing that treats one dimension apart."""
TOLD = "steepest.check: told"
DIFFERENCE = "steepest.check: difference"

Report = Callable[..., None]


class Losses(Rules):
    """SC303 to SC306."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.step = 0
        self._calls: dict[str, int] = {}
        self._backwards = 0
        _subtractions.begin(self)

    # ---- events ------------------------------------------------------------------------------

    def loss(self, name: str, prediction: Tensor, target: Any, result: Any) -> None:
        """Look at what a loss was given."""
        calls = self._calls[name] = self._calls.get(name, 0) + 1
        if calls > CLOSE and calls % SELDOM:
            return
        given = is_readable(prediction) and is_readable(target) and is_readable(result)
        if not (given and result.requires_grad):
            return
        with torch.no_grad():
            if name in PAIRED:
                self._shapes(name, prediction, target)
            elif prediction.requires_grad:
                self._values(name, prediction)
            if name in ("cross_entropy", "nll_loss"):
                self._ignored(name, prediction, target, result)

    def backward_begins(self, roots: Any) -> None:
        """Look for a difference of (N, 1) and (N,) in a loss written by hand."""
        self._backwards += 1
        if self._backwards == CLOSE:
            _subtractions.end(self)
        if self._backwards >= CLOSE or not isinstance(roots, Tensor) or roots.grad_fn is None:
            return
        for node in nodes(roots.grad_fn, ELEMENTWISE, limit=20):
            if node.name() == "SubBackward0" and DIFFERENCE in notes(node):
                left, right, where = notes(node)[DIFFERENCE]
                self.report(
                    "SC305",
                    f"a difference of shapes {left} and {right} is {shape_of(node)}: "
                    "every prediction against every target",
                    step=self.step,
                    where=where,
                )

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """Count the updates."""
        self.step += 1

    def finished(self) -> None:
        """Look at differences no more."""
        _subtractions.end(self)

    # ---- rules -------------------------------------------------------------------------------

    def _shapes(self, name: str, prediction: Tensor, target: Tensor) -> None:
        """SC305: a prediction and a target that broadcast to more than either."""
        both = torch.broadcast_shapes(prediction.shape, target.shape)
        if both.numel() > max(prediction.numel(), target.numel()):
            self.report(
                "SC305",
                f"{name} of shapes {tuple(prediction.shape)} and {tuple(target.shape)} compares "
                f"{tuple(both)} pairs: every prediction against every target",
                step=self.step,
            )

    def _values(self, name: str, prediction: Tensor) -> None:
        """SC303 and SC304: probabilities or logits in the wrong loss."""
        node = origin(prediction)
        made = "" if node is None else node.name()
        if name == "cross_entropy" and prediction.dim() > 1 and prediction.shape[1] > 1:
            rows = _some(prediction)
            if _sums_to_1(rows, 1e-2 if made == "SoftmaxBackward0" else 1e-3):
                if made == "SoftmaxBackward0" or _differ(rows):
                    what = (
                        "cross_entropy takes logits and was given probabilities: all "
                        f"{_count(rows)} rows looked at are at least 0 and sum to 1"
                    )
                    self.report("SC303", what, step=self.step)
            elif made == "LogSoftmaxBackward0" and _sums_to_1(rows.float().exp(), 1e-2):
                what = "cross_entropy takes logits and was given the result of log_softmax"
                self.report("SC304", what, step=self.step)
        elif name == "binary_cross_entropy_with_logits":
            if made in ("SigmoidBackward0", "SoftmaxBackward0"):
                what = f"{name} takes logits and was given the result of {operation(node)}"
                self.report("SC304", what, step=self.step)
        elif name == "nll_loss" and prediction.dim() > 1:
            top = float(_some(prediction).max()) if prediction.numel() else 0.0
            if made == "SoftmaxBackward0" or (made in LAYERS and top > 0):
                what = (
                    "nll_loss takes log-probabilities, which are at most 0, and was given the "
                    f"result of {operation(node)}, up to {top:.3g}"
                )
                self.report("SC304", what, step=self.step)

    def _ignored(self, name: str, prediction: Tensor, target: Tensor, result: Tensor) -> None:
        """SC306: a mean over no target at all."""
        if target.is_floating_point() or result.numel() != 1 or not result.isnan():
            return
        first = target.flatten()[:1]
        if first.numel() and bool((target == first).all()) and bool(prediction.isfinite().all()):
            if result.grad_fn is not None:
                notes(result.grad_fn)[TOLD] = True
            self.report(
                "SC306",
                f"all {target.numel()} targets of {name} are {int(first)}, which it ignores: the "
                "mean over none is nan",
                step=self.step,
            )


def _some(prediction: Tensor) -> Tensor:
    """Return a corner of a prediction, all classes of it, at most 256 rows in each dimension."""
    rows = prediction.detach()[:256]
    for dim in range(2, rows.dim()):
        rows = rows.narrow(dim, 0, min(4, rows.shape[dim]))
    return rows


def _differ(rows: Tensor) -> bool:
    """Tell whether enough rows are looked at, and they are not what a zero layer gives to all."""
    return _count(rows) >= ROWS and bool((rows != rows[:1]).any())


def _count(rows: Tensor) -> int:
    return rows.numel() // rows.shape[1]


def _sums_to_1(rows: Tensor, within: float) -> bool:
    """Tell whether all values are at least 0 and sum to 1 over the classes."""
    if rows.numel() == 0 or not bool((rows >= 0).all()):
        return False
    return bool(((rows.float().sum(1) - 1).abs() < within).all())


# ---- differences by hand ---------------------------------------------------------------------


class Subtractions:
    """Marks the node of a difference of (N, 1) and (N,), while anyone asks for it."""

    def __init__(self) -> None:
        self._asking: list[object] = []

    def begin(self, who: object) -> None:
        """Look at each `a - b` of tensors from now on."""
        if not self._asking:
            subtract = Tensor.__sub__

            def marked(left: Tensor, right: Any) -> Tensor:
                result = subtract(left, right)
                if type(right) is Tensor and type(result) is Tensor and result.grad_fn is not None:
                    _mark(left, right, result)
                return result

            Tensor.__sub__ = marked  # pyright: ignore
        self._asking.append(who)

    def end(self, who: object) -> None:
        """Look no more, unless others ask."""
        if who in self._asking:
            self._asking.remove(who)
            if not self._asking:
                del Tensor.__sub__  # torch's own is a class above


_subtractions = Subtractions()


def _mark(left: Tensor, right: Tensor, result: Tensor) -> None:
    if result.dim() != 2 or left.dim() + right.dim() != 3 or not is_readable(result):
        return
    column, row = (left, right) if left.dim() == 2 else (right, left)
    n = row.shape[0]
    of_a_model = column.requires_grad != row.requires_grad  # else pairs are meant
    if n > 1 and tuple(column.shape) == (n, 1) and of_a_model and not _is_made_wide(column):
        notes(result.grad_fn)[DIFFERENCE] = tuple(left.shape), tuple(right.shape), here()


def _is_made_wide(column: Tensor) -> bool:
    """Tell whether (N, 1) was just made of (N,), as one does to compare all pairs."""
    node = column.grad_fn
    if node is None:
        of = column._base
        return of is not None and of.dim() == 1 and of.numel() == column.numel()
    before = node.next_functions[0][0] if node.name() in VIEWS else None
    return before is not None and len(shape_of(before)) == 1
