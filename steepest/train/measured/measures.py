"""What is measured on validation batches: means over batches, and metrics of torchmetrics."""

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from steepest.errors import RecipeError
from steepest.train.measured.metrics import Mean, rows_of


@runtime_checkable
class Metric(Protocol):
    """A metric with memory over batches, as those of torchmetrics."""

    @property
    def higher_is_better(self) -> bool | None: ...
    def update(self, *args: Any, **kwargs: Any) -> None: ...
    def compute(self) -> Any: ...
    def reset(self) -> None: ...
    def to(self, device: torch.device) -> Any: ...


@dataclass(frozen=True)
class OverAll:
    """A function of all predictions and targets of a validation at once, `(n, ...)` each.

    One call of a function takes a few microseconds, where the memory of a torchmetrics' metric
    takes a hundred for each batch. All predictions are in memory meanwhile.
    """

    function: Callable[[Tensor, Tensor], Tensor | float]
    higher_is_better: bool | None = None


Measure = Callable[..., Tensor | float] | Metric | OverAll


def metrics_for(
    task: Literal["regression", "classification"], *, classes: int = 2, scale: float = 1.0
) -> dict[str, OverAll]:
    """Return the metrics that suit a task, as torchmetrics computes them.

    Regression: mse, mae and r2 of predictions and targets of one shape, in units of `1 / scale`
    (the target's standard deviation where it was standardised, for errors in its own units).
    Classification: accuracy, f1 (mean over the classes) and auroc (mean of each class against the
    rest) of logits `(n, classes)` and class indices `(n,)`; a mean leaves absent classes out.

    Raises:
        RecipeError: the task is another one.
    """
    if task == "regression":
        return _regression(scale)
    if task == "classification":
        return _classification(classes)
    raise RecipeError(f"task is 'regression' or 'classification': got {task!r}")


def _regression(scale: float) -> dict[str, OverAll]:
    def flat(name: str) -> Callable[[Tensor, Tensor], Any]:
        def of(prediction: Tensor, target: Tensor) -> Tensor | float:
            # Read at the first validation: it takes a second and 80 MB.
            from torchmetrics import functional

            _check_shapes(prediction, target)
            if name == "r2_score" and target.numel() < 2:
                return math.nan
            function = getattr(functional, name)
            return function(prediction.float().flatten() * scale, target.flatten() * scale)

        return of

    return {
        "mse": OverAll(flat("mean_squared_error"), higher_is_better=False),
        "mae": OverAll(flat("mean_absolute_error"), higher_is_better=False),
        "r2": OverAll(flat("r2_score"), higher_is_better=True),
    }


def _classification(classes: int) -> dict[str, OverAll]:
    def of(prediction: Tensor, target: Tensor, *, name: str, average: str) -> Tensor:
        # Read at the first validation: it takes a second and 80 MB.
        from torchmetrics.functional import classification

        # To look at every value for a wrong one would take most of the time.
        how = {"num_classes": classes, "validate_args": False, "average": average}
        return getattr(classification, name)(prediction, target, **how)

    def auroc(prediction: Tensor, target: Tensor) -> Tensor:
        rows = torch.stack([(target == k).sum() for k in range(classes)])
        there = (rows > 0) & (rows < target.numel())  # torchmetrics gives an absent class 0
        return of(prediction, target, name="multiclass_auroc", average="none")[there].mean()

    return {
        "accuracy": OverAll(partial(of, name="multiclass_accuracy", average="micro"), True),
        "f1": OverAll(partial(of, name="multiclass_f1_score", average="macro"), True),
        "auroc": OverAll(auroc, True),
    }


def _check_shapes(prediction: Tensor, target: Tensor) -> None:
    if prediction.shape != target.shape:
        raise RecipeError(
            "A regression's predictions and targets have one shape, else they are broadcast "
            f"silently: got {tuple(prediction.shape)} and {tuple(target.shape)}; unsqueeze the "
            "target or squeeze the prediction"
        )


@torch.no_grad()
def validate(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    batches: Iterable[Any],
    metrics: Mapping[str, Measure] | None = None,
    *,
    forward: AbstractContextManager[Any] | None = None,
) -> dict[str, float]:
    """Measure loss and metrics in `eval` mode; predictions and means within context `forward`.

    The loss and plain functions are means over the batches, weighted by their rows; a metric of
    torchmetrics begins anew and sees every row once; `OverAll` sees all rows together. A metric
    that cannot be computed on the rows there are (an AUROC where a class is missing) is what
    torchmetrics makes of that.
    """
    given = metrics or {}
    functions = {"loss": loss_fn, **{k: m for k, m in given.items() if callable(m)}}
    together = {k: m for k, m in given.items() if isinstance(m, OverAll)}
    remembering = {k: m for k, m in given.items() if k not in together and isinstance(m, Metric)}
    means = {name: Mean() for name in functions if name not in remembering}
    for metric in remembering.values():
        metric.reset()
    pairs: list[tuple[Tensor, Tensor]] = []
    training = model.training
    model.eval()
    try:
        for *inputs, target in batches:
            with forward or nullcontext():
                prediction = model(*inputs)
                for name, mean in means.items():
                    mean.add(functions[name](prediction, target), rows_of(target))
            for metric in remembering.values():
                metric.to(prediction.device)
                metric.update(prediction, target)
            if together:
                pairs.append((prediction, target))
    finally:
        model.train(training)
    measured = {name: mean.read() for name, mean in means.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class without rows, or few rows
        measured |= {name: float(metric.compute()) for name, metric in remembering.items()}
        if pairs:
            whole = [_exact(torch.cat(part)) for part in zip(*pairs, strict=True)]
            measured |= {name: float(metric.function(*whole)) for name, metric in together.items()}
    return {name: measured.get(name, math.nan) for name in ("loss", *given)}


def _exact(numbers: Tensor) -> Tensor:
    """Return numbers of 16 bits as of 32, so that sums of many are right."""
    return numbers.float() if numbers.is_floating_point() and numbers.itemsize < 4 else numbers
