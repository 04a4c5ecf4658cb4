"""SC109 and SC110: each wrong loop is named at its line, its mended twin is silent."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steepest.check import Finding, watch

torch_of = torch.Generator().manual_seed(0)
X = torch.randn(32, 3, generator=torch_of)
HOLES = torch.where(torch.arange(32)[:, None] == 5, torch.nan, X)
Y = X.sum(1, keepdim=True)
STEPS = 9


class Parts:
    """A model, and its updates."""

    def __init__(self, lr: float = 0.01) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=lr)

    def loss(self, x: Tensor = X) -> Tensor:
        return nn.functional.mse_loss(self.model(x), Y)

    def steps(self) -> Iterator[int]:
        for step in range(STEPS):
            self.optimizer.zero_grad()
            yield step
            self.optimizer.step()


def nan_in_the_features(parts: Parts) -> None:
    for step in parts.steps():
        parts.loss(HOLES if step == 1 else X).backward()  # SC109


def log_of_nothing(parts: Parts) -> None:
    for _ in parts.steps():
        (parts.loss() + parts.model[:2](X).log().mean()).backward()  # SC109


def division_by_nothing(parts: Parts) -> None:
    for _ in parts.steps():
        (parts.loss() / parts.model[:2](X)).mean().backward()  # SC109


def root_of_nothing(parts: Parts) -> None:
    """The loss is finite at first, its gradient is not."""
    for _ in parts.steps():
        loss = parts.loss() + (parts.model(X) * 0).sqrt().mean()
        loss.backward()  # SC109


def features_filled(parts: Parts) -> None:
    for _ in parts.steps():
        parts.loss(HOLES.nan_to_num()).backward()
        (parts.model[:2](X) + 1e-6).log().mean().backward()


def nan_that_is_not_used(parts: Parts) -> None:
    for step in parts.steps():
        parts.loss(HOLES if step == 1 else X).backward()
        if step == 1:
            parts.optimizer.zero_grad()


def scaler_that_skips(parts: Parts) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        scaler.scale(parts.loss() * 8).backward()
        scaler.step(parts.optimizer)
        scaler.update()


def summed(parts: Parts) -> None:
    total: Tensor | float = 0.0
    for _ in parts.steps():
        loss = parts.loss()
        loss.backward()  # SC110
        total = total + loss


def summed_and_scaled(parts: Parts) -> None:
    kept = []
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        loss = parts.loss()
        scaler.scale(loss / 2).backward()  # SC110
        scaler.step(parts.optimizer)
        scaler.update()
        kept.append(loss)


def summed_numbers(parts: Parts) -> None:
    total, kept = torch.zeros(()), []
    for _ in parts.steps():
        loss = parts.loss()
        loss.backward()
        total += loss.detach()
        kept.append(loss.item())


def several_losses_in_a_step(parts: Parts) -> None:
    for _ in parts.steps():
        losses = [parts.loss() for _ in range(9)]
        for loss in losses:
            loss.backward()


def unrolled_without_detach(parts: Parts) -> None:
    state, rate = torch.zeros(32, 1), torch.ones(1, requires_grad=True)
    for _ in parts.steps():
        state = parts.model(X).detach() + state * rate
        (parts.loss() + state.mean()).backward(retain_graph=True)


def in_cycles(parts: Parts) -> None:
    for _ in parts.steps():
        loss = parts.loss()
        loss.backward()
        cycle: list[object] = [loss]
        cycle.append(cycle)


WRONG = [
    (nan_in_the_features, "SC109"),
    (log_of_nothing, "SC109"),
    (division_by_nothing, "SC109"),
    (root_of_nothing, "SC109"),
    (summed, "SC110"),
    (summed_and_scaled, "SC110"),
]
RIGHT = [
    features_filled, nan_that_is_not_used, scaler_that_skips, summed_numbers,
    several_losses_in_a_step, unrolled_without_detach, in_cycles,
]  # fmt: skip


def found(loop: Callable[[Parts], None]) -> list[Finding]:
    parts = Parts()
    with watch(parts.model, parts.optimizer) as watched:
        loop(parts)
    return [one for one in watched.findings() if one.code in ("SC109", "SC110")]


@pytest.mark.parametrize(("loop", "code"), WRONG, ids=[loop.__name__ for loop, _ in WRONG])
def test_a_wrong_number_is_named_at_its_line(loop: Callable[[Parts], None], code: str):
    findings = found(loop)
    assert [finding.code for finding in findings] == [code]
    where = findings[0].where
    assert where is not None
    assert Path(where.file).read_text().splitlines()[where.line - 1].endswith(f"# {code}")
    begins = loop.__code__.co_firstlineno
    assert begins < where.line <= begins + 8


@pytest.mark.parametrize("loop", RIGHT, ids=[loop.__name__ for loop in RIGHT])
def test_a_right_number_is_silent(loop: Callable[[Parts], None]):
    assert found(loop) == []


@pytest.mark.parametrize(
    ("loop", "told", "step"),
    [
        (nan_in_the_features, "what enters addmm with 0.weight is not finite", 2),
        (log_of_nothing, "log of 0; so it was in 3 updates in a row", 3),
        (division_by_nothing, "a division by 0", 1),
        (root_of_nothing, "is not finite, and was so before this forward", 1),
    ],
)
def test_the_first_fault_is_told(loop: Callable[[Parts], None], told: str, step: int):
    finding = found(loop)[0]
    assert (told in finding.message, finding.step) == (True, step), finding.message


def test_no_hook_is_asked_to_unpack():
    parts, unpacked = Parts(), []

    def unpack(held: Tensor) -> Tensor:
        unpacked.append(held)
        return held

    with watch(parts.model), torch.autograd.graph.saved_tensors_hooks(lambda t: t, unpack):
        loss = parts.loss(HOLES)
        loss.backward(retain_graph=True)
        as_without = len(unpacked)
    loss.backward()
    assert len(unpacked) == 2 * as_without > 0
