"""What the best weights predict of the validation rows, for a reader of the run's folder."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.train.measured.weights import copied
from steepest.train.run import Run

MOST_POINTS = 2000
MOST_CLASSES = 100


@torch.no_grad()
def evaluation(
    run: Run, weights: Mapping[str, Any] | None, batches: Iterable[Any]
) -> dict[str, Any] | None:
    """Return predictions beside their targets, or a confusion matrix; None for other tasks.

    A regression has predictions and targets of one shape `(n,)` or `(n, 1)`, a classification
    logits `(n, classes)` and indices `(n,)`. A table's own units and names of classes come from
    the run's transform. The model is left as it was.
    """
    if run.validation is None:
        return None
    kept = copied(run.model.state_dict())
    training = run.model.training
    if weights is not None:
        run.model.load_state_dict(weights)
    try:
        run.model.eval()
        return _of(run, batches)
    finally:
        run.model.load_state_dict(kept)
        run.model.train(training)


def _of(run: Run, batches: Iterable[Any]) -> dict[str, Any] | None:
    points: list[tuple[Tensor, Tensor]] = []
    confusion: Tensor | None = None
    for *inputs, target in batches:
        prediction = run.model(*inputs)
        if _is_regression(prediction, target):
            points.append((prediction.flatten().float().cpu(), target.flatten().cpu()))
        elif _is_classification(prediction, target):
            classes = prediction.shape[1]
            named = (target >= 0) & (target < classes)  # not what a loss is told to ignore
            pairs = target[named].cpu() * classes + prediction[named].argmax(1).cpu()
            counted = pairs.bincount(minlength=classes * classes).view(classes, classes)
            confusion = counted if confusion is None else confusion + counted
        else:
            return None
    if confusion is not None:
        return {"task": "classification", "classes": _names(run, len(confusion))} | {
            "confusion": confusion.tolist()
        }
    return _regression(run, points) if points else None


def _regression(run: Run, points: list[tuple[Tensor, Tensor]]) -> dict[str, Any]:
    predictions, targets = (torch.cat(part) for part in zip(*points, strict=True))
    every = -(-len(targets) // MOST_POINTS)  # evenly spaced, so that all of the rows are shown
    mean, std = (getattr(run.transform, name, usual) for name, usual in UNITS)
    shown = {"target": targets[::every], "prediction": predictions[::every]}
    return {"task": "regression"} | {k: (v * std + mean).tolist() for k, v in shown.items()}


UNITS = (("target_mean", 0.0), ("target_std", 1.0))


def _names(run: Run, classes: int) -> list[str]:
    named = getattr(run.transform, "classes", ()) or range(classes)
    return [str(name) for name in named]


def _is_regression(prediction: Any, target: Any) -> bool:
    if not isinstance(prediction, Tensor) or not isinstance(target, Tensor):
        return False
    return (
        prediction.shape == target.shape
        and target.is_floating_point()
        and prediction.numel() == prediction.shape[0]
    )


def _is_classification(prediction: Any, target: Any) -> bool:
    if not isinstance(prediction, Tensor) or not isinstance(target, Tensor):
        return False
    return (
        prediction.ndim == 2
        and target.shape == prediction.shape[:1]
        and target.dtype == torch.int64
        and prediction.shape[1] <= MOST_CLASSES
    )
