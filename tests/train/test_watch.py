"""The gradients' norm and how far each parameter moved, against values by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from steepest import optim
from steepest.data import Batches
from steepest.train import read_metrics, train
from steepest.train.measured import watch


class Parts(nn.Module):
    """A module with a parameter of zeros, one that is not used, and one that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 1)
        self.zeros = nn.Parameter(torch.zeros(1))
        self.unused = nn.Parameter(torch.ones(2))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + 0 * self.zeros + self.frozen


def by_hand(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches, every: int
) -> Any:
    """Train one epoch; return (gradient norm, ratios) of every so many updates."""
    found = []
    for k, (x, y) in enumerate(batches.epoch(0), 1):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(x), y).backward()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        gradients = [p.grad.double().flatten() for p in model.parameters() if p.grad is not None]
        optimizer.step()
        ratios = {
            name: ((p - before[name]).norm() / p.norm()).item()
            for name, p in model.named_parameters()
            if p.requires_grad
        }
        if k % every == 0:
            found.append((torch.cat(gradients).norm().item(), ratios))
    return found


def told(folder: Path) -> list[tuple[float, dict[str, float]]]:
    rows = read_metrics(folder / "metrics.jsonl")
    return [(r["gradient_norm"], r.get("ratios", {})) for r in rows if r["kind"] == "step"]


OPTIMIZERS = {
    "Adam": lambda m: optim.Adam(m.parameters(), lr=0.05),
    "clipped": lambda m: optim.SGD(m.parameters(), lr=0.05, clip_norm=0.01),
    "zeroing": lambda m: optim.SGD(m.parameters(), lr=0.05, zero_grad=True),
    "torch Adam": lambda m: torch.optim.Adam(m.parameters(), lr=0.05),
    "norms": lambda m: optim.Adam(m.parameters(), lr=0.05, norms=True),
    "norms, named": lambda m: optim.Adam(m.named_parameters(), lr=0.05, norms=True),
    "norms, groups": lambda m: optim.Adam(
        [{"params": [p]} for p in m.parameters() if p.requires_grad], lr=0.05, norms=True
    ),
}


@pytest.mark.parametrize("most_copied", [watch.MOST_COPIED, 0], ids=["copied", "summed"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_against_values_by_hand(
    make: Any,
    data: tuple[Tensor, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    optimizer: str,
    most_copied: int,
):
    monkeypatch.setattr(watch, "MOST_COPIED", most_copied)
    model, twin = (make(model=Parts).model for _ in range(2))
    how = {"model": lambda: model, "optimizer": lambda _: OPTIMIZERS[optimizer](model)}
    train(make(folder=tmp_path, log_steps=2, epochs=1, **how))
    found = told(tmp_path)
    assert len(found) == 2
    for (norm, ratios), (true_norm, true_ratios) in zip(
        found,
        by_hand(twin, OPTIMIZERS[optimizer](twin), Batches(*data, batch_size=4), 2),
        strict=True,
    ):
        assert norm == pytest.approx(true_norm, rel=1e-5)
        if most_copied == 0 and "norms" not in optimizer:
            assert ratios == {}
            continue
        updated = {"linear.weight", "linear.bias", "zeros"}
        assert set(ratios) == (updated | {"unused"} if most_copied else updated)
        for name in ("linear.weight", "linear.bias"):
            assert ratios[name] == pytest.approx(true_ratios[name], rel=1e-4)
            assert ratios[name] > 0
        assert ratios["zeros"] is None  # 0 / 0
        assert ratios.get("unused", 0) == 0


def test_gradients_that_are_sparse(make: Any, tmp_path: Path):
    rows, y = torch.tensor([1, 1, 4]), torch.ones(3, 2)
    how = {
        "model": lambda: nn.Embedding(9, 2, sparse=True),
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1),
        "batches": [(rows, y)],
        "validation": None,
    }
    run = make(folder=tmp_path, log_steps=1, epochs=1, **how)
    before = run.model.weight.detach().clone().requires_grad_()
    nn.functional.mse_loss(before[rows], y).backward()
    train(run)
    assert told(tmp_path)[0][0] == pytest.approx(before.grad.norm().item())


def test_a_model_that_gets_no_gradients_has_no_norm(make: Any, tmp_path: Path):
    free = torch.zeros(1, requires_grad=True)
    how = {"model": lambda: nn.Linear(3, 1), "loss_fn": lambda p, y: free.sum(), "validation": None}
    train(make(folder=tmp_path, log_steps=2, epochs=1, **how))
    rows = [row for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "step"]
    assert all("gradient_norm" not in row for row in rows)
    assert all(set(row["ratios"].values()) == {0.0} for row in rows)


def test_nothing_is_looked_at_where_nothing_is_kept(make: Any, monkeypatch: pytest.MonkeyPatch):
    def look(self: Any, scale: float) -> None:
        raise AssertionError

    monkeypatch.setattr(watch.Watch, "before", look)
    train(make(log_steps=1))
