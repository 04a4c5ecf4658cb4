"""SC101 to SC108: each wrong loop is named at its line, its mended twin is silent."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from steepest.check import Finding, watch
from steepest.check.where import Place

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
STEPS = 3


class Parts:
    """A model, its optimizer and its loss."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01, momentum=0.9)
        self.loss_fn = nn.MSELoss()

    def loss(self) -> Tensor:
        return self.loss_fn(self.model(X), Y)


def no_zero_grad(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.loss().backward()  # SC101
        parts.optimizer.step()


def zero_grad(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        parts.loss().backward()
        parts.optimizer.step()


def zero_grad_late(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.loss().backward()
        parts.optimizer.zero_grad()  # SC102
        parts.optimizer.step()


def zero_grad_in_place_late(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.loss().backward()
        parts.optimizer.zero_grad(set_to_none=False)  # SC102
        parts.optimizer.step()


def zero_grad_in_place(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.optimizer.zero_grad(set_to_none=False)
        parts.loss().backward()
        parts.optimizer.step()


def no_backward(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        parts.loss()
        parts.optimizer.step()  # SC103


def two_steps(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        parts.loss().backward()
        parts.optimizer.step()
        parts.optimizer.step()  # SC104


def no_lr(parts: Parts) -> None:
    parts.optimizer.param_groups[0]["lr"] = 0.0
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        parts.loss().backward()
        parts.optimizer.step()  # SC105


class Lazy(torch.optim.SGD):
    """An optimizer whose step is lost."""

    def step(self, closure: Callable[[], Tensor] | None = None) -> None:  # type: ignore[override]
        """Do nothing."""


def lost_step(parts: Parts) -> None:
    parts.optimizer = Lazy(parts.model.parameters(), lr=0.01)
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        parts.loss().backward()
        parts.optimizer.step()  # SC105


def fused(parts: Parts) -> None:
    parts.optimizer = torch.optim.SGD(parts.model.parameters(), lr=0.01, fused=True)
    zero_grad(parts)


def no_gradient(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        (0 * parts.loss()).backward()
        parts.optimizer.step()


def warm_up(parts: Parts) -> None:
    for step in range(STEPS):
        parts.optimizer.param_groups[0]["lr"] = 0.01 * step
        parts.optimizer.zero_grad()
        parts.loss().backward()
        parts.optimizer.step()


def clip_late(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        parts.loss().backward()
        parts.optimizer.step()
        nn.utils.clip_grad_norm_(parts.model.parameters(), 1.0)  # SC106


def clip(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        parts.loss().backward()
        nn.utils.clip_grad_norm_(parts.model.parameters(), 1.0)
        parts.optimizer.step()
        nn.utils.clip_grad_norm_(parts.model.parameters(), torch.inf)  # which only measures


def clip_scaled(parts: Parts) -> None:
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        scaler.scale(parts.loss()).backward()
        nn.utils.clip_grad_norm_(parts.model.parameters(), 1.0)  # SC107
        scaler.step(parts.optimizer)
        scaler.update()


def clip_unscaled(parts: Parts) -> None:
    scaler = torch.amp.GradScaler("cpu")
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        scaler.scale(parts.loss()).backward()
        scaler.unscale_(parts.optimizer)
        nn.utils.clip_grad_norm_(parts.model.parameters(), 1.0)
        scaler.step(parts.optimizer)
        scaler.update()


def cut_loss(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.optimizer.zero_grad()
        parts.loss().detach().requires_grad_().backward()
        parts.optimizer.step()  # SC108


def accumulated(parts: Parts) -> None:
    for step in range(4 * STEPS):
        (parts.loss() / 4).backward()
        if step % 4 == 3:
            parts.optimizer.step()
            parts.optimizer.zero_grad()


def cleared_by_hand(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.loss().backward()
        parts.optimizer.step()
        for p in parts.model.parameters():
            assert p.grad is not None
            p.grad.zero_()


def cleared_by_data(parts: Parts) -> None:
    for _ in range(STEPS):
        parts.loss().backward()
        parts.optimizer.step()
        for p in parts.model.parameters():
            assert p.grad is not None
            p.grad.data.zero_()  # which torch does not count as a change


class Rows(nn.Module):
    """A table of which each batch uses some rows."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 1, sparse=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.table((9 * x[:, 0].sigmoid()).long())


def sparse_no_zero_grad(parts: Parts) -> None:
    parts.model = Rows()
    parts.optimizer = torch.optim.SGD(parts.model.parameters(), lr=0.01)
    for _ in range(STEPS):
        parts.loss().backward()  # SC101
        parts.optimizer.step()


def sparse(parts: Parts) -> None:
    parts.model = Rows()
    parts.optimizer = torch.optim.SGD(parts.model.parameters(), lr=0.01)
    zero_grad(parts)


WRONG = [
    (no_zero_grad, "SC101"),
    (sparse_no_zero_grad, "SC101"),
    (zero_grad_late, "SC102"),
    (zero_grad_in_place_late, "SC102"),
    (no_backward, "SC103"),
    (two_steps, "SC104"),
    (no_lr, "SC105"),
    (lost_step, "SC105"),
    (clip_late, "SC106"),
    (clip_scaled, "SC107"),
    (cut_loss, "SC108"),
]
RIGHT = [
    zero_grad,
    zero_grad_in_place,
    fused,
    no_gradient,
    warm_up,
    clip,
    clip_unscaled,
    accumulated,
    cleared_by_hand,
    cleared_by_data,
    sparse,
]


def found(loop: Callable[[Parts], None]) -> list[Finding]:
    parts = Parts()
    with watch(parts.model, parts.optimizer) as watched:
        loop(parts)
    return watched.findings()


@pytest.mark.parametrize(("loop", "code"), WRONG, ids=[loop.__name__ for loop, _ in WRONG])
def test_a_mistake_is_named_at_its_line(loop: Callable[[Parts], None], code: str):
    findings = found(loop)
    assert [finding.code for finding in findings] == [code]
    lines = Path(__file__).read_text().splitlines()
    first = loop.__code__.co_firstlineno
    blamed = first + next(
        n for n, line in enumerate(lines[first - 1 :]) if line.endswith(f"# {code}")
    )
    assert findings[0].where == Place(__file__, blamed)
    step, told, message = findings[0]
    assert (step <= STEPS, told) == (True, code)
    assert message


@pytest.mark.parametrize("loop", RIGHT, ids=[loop.__name__ for loop in RIGHT])
def test_a_right_loop_is_silent(loop: Callable[[Parts], None]):
    assert found(loop) == []


def test_torch_has_its_functions_back():
    before = torch.autograd.backward, nn.Module.zero_grad, nn.utils.clip_grad_norm_
    with watch():
        assert torch.autograd.backward is not before[0]
        with watch():
            pass
        assert torch.autograd.backward is not before[0]
    assert (torch.autograd.backward, nn.Module.zero_grad, nn.utils.clip_grad_norm_) == before
