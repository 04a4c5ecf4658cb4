"""What is measured on validation batches: means over batches, and metrics of torchmetrics."""

import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from steepest.errors import RecipeError
from steepest.train.metrics import Mean, rows_of


@runtime_checkable
class Metric(Protocol):
    """A metric with memory over batches, as those of torchmetrics."""

    @property
    def higher_is_better(self) -> bool | None: ...
    def update(self, *args: Any, **kwargs: Any) -> None: ...
    def compute(self) -> Any: ...
    def reset(self) -> None: ...
    def to(self, device: torch.device) -> Any: ...


Measure = Callable[..., Tensor | float] | Metric


def is_metric(measure: object) -> TypeGuard[Metric]:
    """Tell whether a measure has a memory of its own."""
    return isinstance(measure, Metric)


def metrics_for(
    task: Literal["regression", "classification"], *, classes: int = 2, scale: float = 1.0
) -> dict[str, Any]:
    """Return the metrics of torchmetrics that suit a task.

    Regression: mse, mae and r2 of predictions and targets of one shape, both times `scale` (the
    target's standard deviation where it was standardised, for errors in its own units).
    Classification: accuracy, f1 (mean over the classes) and auroc (mean of each class against the
    rest) of logits `(n, classes)` and class indices `(n,)`.

    Raises:
        RecipeError: the task is another one.
    """
    if task == "regression":
        from torchmetrics.regression import MeanAbsoluteError, MeanSquaredError, R2Score

        found = {"mse": MeanSquaredError(), "mae": MeanAbsoluteError(), "r2": R2Score()}
        return {name: Flat(metric, scale) for name, metric in found.items()}
    if task != "classification":
        raise RecipeError(f"task is 'regression' or 'classification': got {task!r}")
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassAUROC,
        MulticlassF1Score,
    )

    # To check each value of each batch would take most of the time.
    return {
        "accuracy": MulticlassAccuracy(classes, average="micro", validate_args=False),
        "f1": MulticlassF1Score(classes, validate_args=False),
        "auroc": MulticlassAUROC(classes, validate_args=False),
    }


class Flat:
    """A regression metric over all numbers of predictions `(n, ...)`, times a scale."""

    def __init__(self, metric: Metric, scale: float = 1.0) -> None:
        self.metric = metric
        self.scale = scale
        self.higher_is_better = metric.higher_is_better

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add a batch.

        Raises:
            RecipeError: the shapes differ, which would be broadcast silently.
        """
        if prediction.shape != target.shape:
            raise RecipeError(
                "A regression's predictions and targets have one shape: got "
                f"{tuple(prediction.shape)} and {tuple(target.shape)}; unsqueeze the target or "
                "squeeze the prediction"
            )
        scale = self.scale
        self.metric.update(prediction.float().flatten() * scale, target.flatten() * scale)

    def compute(self) -> Any:
        """Return the metric over all batches."""
        return self.metric.compute()

    def reset(self) -> None:
        """Forget all batches."""
        self.metric.reset()

    def to(self, device: torch.device) -> "Flat":
        """Move the memory to a device."""
        self.metric = self.metric.to(device)
        return self


@torch.no_grad()
def validate(
    model: nn.Module,
    loss_fn: Callable[..., Tensor],
    batches: Iterable[Any],
    metrics: Mapping[str, Measure] | None = None,
    *,
    forward: AbstractContextManager[Any] | None = None,
) -> dict[str, float]:
    """Measure loss and metrics in `eval` mode, predicting within the context `forward`.

    The loss and plain functions are means over the batches, weighted by their rows; a metric of
    torchmetrics begins anew and sees every row once. A metric that cannot be computed on the rows
    there are (an AUROC where a class is missing) is what torchmetrics makes of that.
    """
    functions: dict[str, Callable[..., Tensor | float]] = {"loss": loss_fn}
    remembering: dict[str, Metric] = {}
    for name, measure in (metrics or {}).items():
        if is_metric(measure):
            remembering[name] = measure
            measure.reset()
        else:
            functions[name] = measure  # type: ignore[assignment]
    means = {name: Mean() for name in functions}
    device = torch.device("cpu")  # where torchmetrics begins
    training = model.training
    model.eval()
    try:
        for *inputs, target in batches:
            with forward or nullcontext():
                prediction = model(*inputs)
            for name, function in functions.items():
                means[name].add(function(prediction, target), rows_of(target))
            if remembering and prediction.device != device:
                device = prediction.device
                remembering = {name: m.to(device) for name, m in remembering.items()}
            for metric in remembering.values():
                metric.update(prediction, target)
    finally:
        model.train(training)
    measured = {name: mean.read() for name, mean in means.items()}
    return measured | {name: _computed(metric) for name, metric in remembering.items()}


def _computed(metric: Metric) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a class without rows, or few rows
        return float(metric.compute())
