"""SC401 to SC404: each wrong schedule is named at its line, its mended twin is silent."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.optim import lr_scheduler as of
from torch.utils.data import DataLoader, TensorDataset

from steepest.check import Finding, watch

BATCHES = 12
X = torch.randn(4 * BATCHES, 3, generator=torch.Generator().manual_seed(0))
Make = Callable[[torch.optim.Optimizer], of.LRScheduler]


class Loop:
    """A plain loop.

    Args:
        each: "epoch" or "update", after which the schedule steps.
        first: whether it steps before the update instead.
    """

    def __init__(
        self, make: Make, epochs: int = 3, *, each: str = "update", first: bool = False
    ) -> None:
        self.make, self.epochs, self.each, self.first = make, epochs, each, first

    def __call__(self) -> None:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        schedule = self.make(optimizer)
        train = DataLoader(TensorDataset(X), batch_size=4, shuffle=True)
        for _ in range(self.epochs):
            if self.each == "epoch" and self.first:
                schedule.step()
            for (x,) in train:
                optimizer.zero_grad()
                model(x).square().mean().backward()
                if self.each == "update" and self.first:
                    schedule.step()
                optimizer.step()
                if self.each == "update" and not self.first:
                    schedule.step()
            for (x,) in DataLoader(TensorDataset(X), batch_size=4):
                model(x)
            if self.each == "epoch" and not self.first:
                schedule.step()


def cosine(steps: int) -> Make:
    return lambda optimizer: of.CosineAnnealingLR(optimizer, T_max=steps)


def warm_cosine(warm: int, steps: int) -> Make:
    def make(optimizer: torch.optim.Optimizer) -> of.LRScheduler:
        parts = [of.LinearLR(optimizer, 0.1, total_iters=warm), cosine(steps)(optimizer)]
        return of.SequentialLR(optimizer, parts, milestones=[warm])

    return make


def falling(optimizer: torch.optim.Optimizer) -> of.LRScheduler:
    return of.ExponentialLR(optimizer, gamma=0.2)


def milestones(*at: int) -> Make:
    return lambda optimizer: of.MultiStepLR(optimizer, list(at))


def one_cycle(steps: int) -> Make:
    return lambda optimizer: of.OneCycleLR(optimizer, max_lr=0.1, total_steps=steps)


def to_nothing(optimizer: torch.optim.Optimizer) -> of.LRScheduler:
    return of.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / BATCHES))


def chained(optimizer: torch.optim.Optimizer) -> of.LRScheduler:
    return of.ChainedScheduler([of.ConstantLR(optimizer, 0.1, 2), falling(optimizer)], optimizer)


def restarts(optimizer: torch.optim.Optimizer) -> of.LRScheduler:
    return of.CosineAnnealingWarmRestarts(optimizer, T_0=3)


class Own(of.StepLR):
    """A schedule whose step calls that of its class."""

    def step(self, epoch: int | None = None) -> None:
        super().step(epoch)


WRONG = {
    "first": (Loop(cosine(36), first=True), "SC401"),
    "first, in epochs": (Loop(cosine(3), each="epoch", first=True), "SC401"),
    "first, two in one": (Loop(warm_cosine(2, 34), first=True), "SC401"),
    "cosine": (Loop(cosine(3)), "SC402"),
    "warm cosine": (Loop(warm_cosine(1, 2)), "SC402"),
    "falling": (Loop(falling), "SC402"),
    "falling within others": (Loop(chained), "SC402"),
    "to nothing": (Loop(to_nothing), "SC402"),
    "milestones": (Loop(milestones(1, 3)), "SC402"),
    "one cycle": (Loop(one_cycle(36), each="epoch"), "SC403"),
    "cosine of updates": (Loop(cosine(36), each="epoch"), "SC403"),
    "warm cosine of updates": (Loop(warm_cosine(6, 30), each="epoch"), "SC403"),
}
RIGHT = {
    "cosine": Loop(cosine(36)),
    "cosine of epochs": Loop(cosine(3), each="epoch"),
    "cosine of epochs stopped early": Loop(cosine(100), each="epoch"),
    "a wave in each epoch": Loop(cosine(6)),
    "warm cosine": Loop(warm_cosine(2, 34)),
    "warm cosine of epochs": Loop(warm_cosine(1, 2), each="epoch"),
    "one cycle": Loop(one_cycle(36)),
    "one cycle of epochs": Loop(one_cycle(3), each="epoch"),
    "falling each epoch": Loop(falling, each="epoch"),
    "to nothing in one epoch": Loop(to_nothing, epochs=1),
    "milestones": Loop(milestones(12, 24)),
    "early milestones": Loop(milestones(2, 4)),
    "milestones of epochs": Loop(milestones(1, 2), each="epoch"),
    "restarts": Loop(restarts),
    "restarts of epochs": Loop(restarts, each="epoch"),
    "a class of one's own": Loop(lambda optimizer: Own(optimizer, 10)),
    "a warm-up": Loop(lambda optimizer: of.LinearLR(optimizer, 0.1, total_iters=3)),
}


def found(loop: Callable[[], None], expect_steps: int | None = None) -> list[Finding]:
    with watch(expect_steps=expect_steps) as watched:
        loop()
    return [one for one in watched.findings() if one.code.startswith("SC4")]


@pytest.mark.filterwarnings("ignore:Detected call")
@pytest.mark.parametrize(("loop", "code"), WRONG.values(), ids=WRONG)
def test_a_wrong_schedule_is_named_at_its_line(loop: Loop, code: str):
    findings = found(loop)
    assert [finding.code for finding in findings] == [code], findings
    where = findings[0].where
    assert where is not None
    line = Path(where.file).read_text().splitlines()[where.line - 1]
    assert (where.file, line.strip()) == (__file__, "schedule.step()")


@pytest.mark.parametrize("loop", RIGHT.values(), ids=RIGHT)
def test_a_right_schedule_is_silent(loop: Loop):
    assert found(loop) == []


def test_a_skipped_first_update_is_the_scalers():
    p = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.1)
    schedule = cosine(9)(optimizer)
    scaler = torch.amp.GradScaler("cpu")

    def loop() -> None:
        for step in range(4):
            optimizer.zero_grad()
            scaler.scale(p.sum() * (torch.inf if step == 0 else 1)).backward()
            scaler.step(optimizer)
            scaler.update()
            schedule.step()

    with pytest.warns(UserWarning, match="Detected call"):  # torch's own, which is wrong here
        assert found(loop) == []


@pytest.mark.filterwarnings("ignore:Detected call")
def test_a_schedule_may_be_wound_on():
    p = torch.ones(1, requires_grad=True)
    optimizer = torch.optim.SGD([p], lr=0.1)
    schedule = cosine(9)(optimizer)

    def loop() -> None:
        schedule.step()
        for _ in range(4):
            p.sum().backward()
            optimizer.step()
            schedule.step()

    assert found(loop) == []


@pytest.mark.parametrize(("planned", "codes"), [(36, []), (37, ["SC404"]), (30, [])])
def test_fewer_updates_than_planned_are_told(planned: int, codes: list[str]):
    findings = found(Loop(cosine(36)), planned)
    assert [one.code for one in findings] == codes
    assert all("36 updates were made, and 37" in one.message for one in findings)


def test_an_error_is_no_plan():
    def loop() -> None:
        raise RuntimeError

    with watch(expect_steps=9) as watched, pytest.raises(RuntimeError):
        loop()
    assert [one.code for one in watched.findings()] == ["SC404"]
    with pytest.raises(RuntimeError), watch(expect_steps=9) as watched:
        loop()
    assert watched.findings() == []


def test_a_planned_training_says_that_a_warm_up_is_too_long():
    def warm(optimizer: torch.optim.Optimizer) -> of.LRScheduler:
        return of.LinearLR(optimizer, 0.1, total_iters=10)

    loop = Loop(warm, each="epoch")
    assert [one.code for one in found(loop, 36)] == ["SC403"]
    assert found(loop) == []
