"""Accelerate: prepared objects, gradient accumulation, its clipping, and its saved state."""

import pytest
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


@pytest.fixture(autouse=True)
def fresh():
    """Accelerate keeps one state in a process; begin every test with none."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Session:
    """A model in the loop that Accelerate's page shows."""

    def __init__(self, net, make, data, accumulate=1):
        self.accelerator = Accelerator(cpu=True, gradient_accumulation_steps=accumulate)
        optimizer = make(net.parameters())
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.5)
        loader = DataLoader(TensorDataset(*data), batch_size=8)
        self.net, self.optimizer, self.loader, self.scheduler = self.accelerator.prepare(
            net, optimizer, loader, scheduler
        )
        assert isinstance(self.optimizer, AcceleratedOptimizer)

    def train(self, epochs):
        for _ in range(epochs):
            for x, y in self.loader:
                with self.accelerator.accumulate(self.net):
                    self.accelerator.backward(nn.functional.mse_loss(self.net(x), y))
                    self.accelerator.clip_grad_norm_(self.net.parameters(), 0.5)
                    self.optimizer.step()
                    self.scheduler.step()
                    self.optimizer.zero_grad()


@pytest.mark.parametrize("accumulate", [1, 2])
def test_trains_to_the_same_parameters(accumulate, pair, model, data, same):
    sessions = [Session(model(), make, data, accumulate) for make in pair.sides]
    for session in sessions:
        session.train(epochs=3)
    same(*(session.net for session in sessions))


def test_resumes_from_its_saved_state(pair, model, data, same, tmp_path):
    ours, reference = pair.sides
    first = Session(model(), ours, data)
    first.train(epochs=2)
    first.accelerator.save_state(str(tmp_path))
    again, alone = Session(model(seed=3), ours, data), Session(model(), reference, data)
    again.accelerator.load_state(str(tmp_path))
    again.train(epochs=2)
    alone.train(epochs=4)
    same(again.net, alone.net)
