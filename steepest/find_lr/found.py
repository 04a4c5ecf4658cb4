"""What a learning-rate range test has found: its curve, the lr that it suggests, and why."""

import csv
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from steepest.train.files.checkpoint import write_whole

SHARE = 0.1  # of the steps: what a smoothed loss reaches back, and what the first level is made of
DIVERGED = 4.0  # times the lowest smoothed loss
BELOW = 10.0  # how far below the lr of the lowest loss the suggestion lies
SURE = 2.5  # standard errors that the loss must fall to count as moved: chance does so in 1 of 14


@dataclass(frozen=True)
class FoundLR:
    """What a range test has found.

    Attributes:
        lrs: the learning rates tried, rising; of the first param group, where there are several.
        losses: the loss at each, measured before the update with it.
        smoothed: an exponential mean of the losses so far, its bias corrected.
        suggestion: a learning rate to train with; None where the losses suggest none.
        reason: why that one, or why none, in a sentence.
    """

    lrs: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggestion: float | None
    reason: str

    def draw(self, path: Path | str, title: str = "learning-rate range test") -> None:
        """Draw the curve and the suggestion as PNG.

        Raises:
            CheckpointError: the picture cannot be written.
        """
        from steepest.find_lr.picture import draw_curve  # matplotlib takes its time

        draw_curve(Path(path), self, title)

    def write(self, path: Path | str) -> None:
        """Write the curve as CSV: lr, loss, smoothed.

        Raises:
            CheckpointError: the file cannot be written.
        """

        def rows(temporary: Path) -> None:
            with temporary.open("w", encoding="utf-8", newline="") as file:
                lines = csv.writer(file, lineterminator="\n")
                lines.writerow(["lr", "loss", "smoothed"])
                lines.writerows(zip(self.lrs, self.losses, self.smoothed, strict=True))

        write_whole(Path(path), rows)


class Curve:
    """The losses of a test of so many steps, while it runs.

    Attributes:
        first: how many losses tell where the loss began.
        rose: whether the loss has diverged: it is not finite, or 4 times the lowest smoothed one.
        connected: whether a gradient has reached a parameter.
    """

    def __init__(self, steps: int) -> None:
        self.first = max(2, round(SHARE * steps))
        self.keep = 1 - 1 / self.first
        self.lrs: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.rose = False
        self.connected = False
        self._sum = 0.0
        self._lowest = math.inf

    def add(self, lr: float, loss: float, connected: bool = True) -> None:
        """Add the loss at an lr; one that is not finite only counts as diverged."""
        self.connected = connected
        if not math.isfinite(loss):
            self.rose = True
            return
        self._sum = self.keep * self._sum + (1 - self.keep) * loss
        now = self._sum / (1 - self.keep ** (len(self.lrs) + 1))
        self.lrs.append(lr)
        self.losses.append(loss)
        self.smoothed.append(now)
        if len(self.lrs) > self.first:
            self._lowest = min(self._lowest, now)
            self.rose = now - self._lowest > (DIVERGED - 1) * abs(self._lowest)

    def found(self) -> FoundLR:
        """Return what the curve tells."""
        suggestion, reason = self._judged()
        curve = tuple(self.lrs), tuple(self.losses), tuple(self.smoothed)
        return FoundLR(*curve, suggestion, reason)

    def _judged(self) -> tuple[float | None, str]:
        if not self.losses:
            return None, (
                "the loss of the first batch is not finite, before any update: look for NaN in "
                "the data and in what the model begins with"
            )
        if not self.connected:
            return None, (
                f"no lr moved the loss, {self.losses[0]:.3g} at first, as no gradient reached a "
                "parameter: is the model connected to the loss, are its outputs saturated?"
            )
        if len(self.losses) <= self.first:
            return None, (
                f"the loss diverged at once, by lr {self.lrs[-1]:.2g}: begin lower, with --start "
                f"{self.lrs[0] / 1000:.2g}"
            )
        best = min(range(self.first, len(self.smoothed)), key=self.smoothed.__getitem__)
        level, low = fmean(self.losses[: self.first]), self.smoothed[best]
        if level - low <= self._least_fall(best, level):
            return None, self._not_moved(level)
        fell = f"a tenth of lr {self.lrs[best]:.2g}, at which the smoothed loss was lowest, "
        fell += f"{low:.3g} from {level:.3g}, "
        falling = "though it was still falling: a higher --end may show more"
        how = falling if best == len(self.lrs) - 1 and not self.rose else "before it rose"
        return _rounded(self.lrs[best] / BELOW), fell + how

    def _least_fall(self, best: int, level: float) -> float:
        """Return how far the loss must fall to have moved: more than batches differ by chance."""
        steps = [b - a for a, b in zip(self.losses[:best], self.losses[1 : best + 1], strict=True)]
        noise = math.sqrt(fmean(step * step for step in steps) / 2)
        error = math.sqrt(1 / self.first + (1 - self.keep) / (1 + self.keep))
        return max(SURE * noise * error, 1e-3 * abs(level))

    def _not_moved(self, level: float) -> str:
        if self.rose:
            return (
                f"no lr lowered the loss, {level:.3g} at first, and by lr {self.lrs[-1]:.2g} it "
                "rose: is the model at its optimum, or --start too high? --steps 1000 tells more"
            )
        return (
            f"no lr up to {self.lrs[-1]:.2g} moved the loss, {level:.3g} at first, by more than "
            "batches differ by chance: are the targets constant or random? --steps 1000 tells more"
        )


def _rounded(lr: float) -> float:
    """Return an lr of two digits, as a person would write it."""
    return float(f"{lr:.1e}")
