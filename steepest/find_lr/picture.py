"""A picture of a range test: the losses over lr, and the lr that they suggest."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from steepest.train.files.checkpoint import write_whole
from steepest.train.shown.picture import TRAIN, VALIDATION, dress, new_picture, scale

if TYPE_CHECKING:
    from steepest.find_lr.found import FoundLR

HEADROOM = 0.25  # of the height of the curve, kept above it for single losses


def draw_curve(path: Path, found: "FoundLR", title: str) -> None:
    """Draw losses and smoothed losses over lr, and the suggestion, as PNG.

    Raises:
        CheckpointError: the picture cannot be written.
    """
    figure, axes = new_picture()
    axes.plot(found.lrs, found.losses, color=TRAIN, alpha=0.35, linewidth=1, label="loss")
    axes.plot(found.lrs, found.smoothed, color=TRAIN, linewidth=2, label="loss, smoothed")
    outcome = "no lr is suggested"
    if found.suggestion is not None:
        outcome = f"suggested lr {found.suggestion:g}"
        axes.axvline(found.suggestion, color=VALIDATION, linewidth=2, label=outcome)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate")
    _cut(axes, found)
    dress(axes, title, outcome, legend="lower left")
    write_whole(path, lambda temporary: figure.savefig(temporary, format="png"))


def _cut(axes: Any, found: "FoundLR") -> None:
    """Show what comes before the lowest loss in its full height, and cut what diverges above it."""
    if not found.losses:
        return
    lowest = found.smoothed.index(min(found.smoothed))
    high, low = max(found.smoothed[: lowest + 1]), found.smoothed[lowest]
    top = high + HEADROOM * (high - low)
    seen = [loss for loss in (*found.losses, *found.smoothed) if loss <= top]
    scale(axes, seen)
    if top > min(seen):
        axes.set_ylim(top=top if axes.get_yscale() == "linear" else 2 * top)
