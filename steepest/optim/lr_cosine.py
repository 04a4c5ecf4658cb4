"""CosineAnnealingLR and CosineAnnealingWarmRestarts: an lr that swings, or falls and restarts."""

import math

from torch import Tensor
from torch.optim import Optimizer

from steepest.optim.closed_form import ClosedFormLR, at_least_0, made
from steepest.schedules import cosine, restarts
from steepest.schedules.curves import cycle


class CosineAnnealingLR(ClosedFormLR):
    """Swing lr between its initial value and `eta_min` along a cosine: `schedules.cosine`.

    `eta_min + (initial_lr - eta_min) * (1 + cos(pi * epoch / T_max)) / 2`: after `T_max` epochs lr
    rises again, after `2 * T_max` it falls, as torch's does; `schedules.cosine` stays low.
    `eta_min` is a learning rate, the same for all groups, and not a factor.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, https://arxiv.org/abs/1608.03983
    Raises: HyperparameterError for a `T_max` not above 0, an `eta_min` below 0.
    """

    def __init__(
        self, optimizer: Optimizer, T_max: int, eta_min: float = 0.0, last_epoch: int = -1
    ) -> None:
        self.T_max = cosine(total=T_max).total
        self.eta_min = at_least_0("CosineAnnealingLR: eta_min", eta_min)
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `last_epoch`."""
        fall = made(cosine, total=self.T_max)
        epoch = self.last_epoch % (2 * self.T_max)
        height = fall(min(epoch, 2 * self.T_max - epoch))  # the way up mirrors the way down
        return [lr * height + self.eta_min * (1 - height) for lr in self.base_lrs]


class CosineAnnealingWarmRestarts(ClosedFormLR):
    """Let lr fall to `eta_min` along a cosine, over and over: `schedules.restarts`.

    The first fall takes `T_0` epochs, each next one `T_mult` times as many. An epoch given to
    `step` may have a fraction: `step(epoch + batch / batches)`.

    Source: Loshchilov & Hutter 2017 (SGDR), equation 5, https://arxiv.org/abs/1608.03983
    Differs from torch: where a fall ends is counted, not taken from a logarithm, whose rounding
    misses some; `last_epoch` is right after several falls of growing length.

    Raises: HyperparameterError as `schedules.restarts`, or for an epoch below 0.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        T_0: int,
        T_mult: int = 1,
        eta_min: float = 0.0,
        last_epoch: int = -1,
    ) -> None:
        schedule = restarts(first=T_0, growth=T_mult)
        self.T_0, self.T_mult = schedule.first, schedule.growth
        self.eta_min = at_least_0("CosineAnnealingWarmRestarts: eta_min", eta_min)
        self.T_cur: float = last_epoch
        self.T_i = self.T_0
        super().__init__(optimizer, last_epoch)

    def _update_lr(self, epoch: float | None = None) -> None:
        if epoch is None:
            epoch = self.last_epoch + 1 + self.T_cur % 1
        at_least_0("CosineAnnealingWarmRestarts: an epoch", epoch)
        self.T_cur, self.T_i = cycle(epoch, self.T_0, self.T_mult)
        super()._update_lr(math.floor(epoch))

    def get_lr(self) -> list[float | Tensor]:
        """Return the lr of each group at `T_cur` epochs of the `T_i` of a fall."""
        height = (1 + math.cos(math.pi * self.T_cur / self.T_i)) / 2
        return [lr * height + self.eta_min * (1 - height) for lr in self.base_lrs]
