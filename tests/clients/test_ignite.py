"""Ignite: its supervised trainer, its schedulers, and its Checkpoint."""

import pytest
import torch
from ignite.engine import Events, create_supervised_trainer
from ignite.handlers import Checkpoint, DiskSaver, PiecewiseLinear
from torch import nn


class Session:
    """A model with its trainer and what a checkpoint keeps."""

    def __init__(self, net, make, data, accumulate=1):
        self.net, self.optimizer = net, make(net.parameters())
        self.trainer = create_supervised_trainer(
            net, self.optimizer, nn.MSELoss(), gradient_accumulation_steps=accumulate
        )
        self.batches = list(zip(*(part.split(8) for part in data), strict=True))
        self.schedule = PiecewiseLinear(self.optimizer, "lr", [(0, 0.01), (8, 0.05), (16, 0.001)])
        self.trainer.add_event_handler(Events.ITERATION_STARTED, self.schedule)
        self.kept = {
            "model": net,
            "optimizer": self.optimizer,
            "schedule": self.schedule,
            "trainer": self.trainer,
        }


@pytest.mark.parametrize("accumulate", [1, 2])
def test_trains_to_the_same_parameters(accumulate, pair, model, data, same):
    sessions = [Session(model(), make, data, accumulate) for make in pair.sides]
    for session in sessions:
        session.trainer.run(session.batches, max_epochs=3)
    same(*(session.net for session in sessions))


def test_resumes_from_its_checkpoint(pair, model, data, same, tmp_path):
    ours, reference = pair.sides
    first = Session(model(), ours, data)
    keep = Checkpoint(first.kept, DiskSaver(str(tmp_path), create_dir=False), filename_pattern="c")
    first.trainer.add_event_handler(Events.EPOCH_COMPLETED(once=2), keep)
    first.trainer.run(first.batches, max_epochs=2)
    again, alone = Session(model(seed=3), ours, data), Session(model(), reference, data)
    Checkpoint.load_objects(again.kept, torch.load(tmp_path / "c", weights_only=True))
    again.trainer.run(again.batches, max_epochs=4)
    alone.trainer.run(alone.batches, max_epochs=4)
    same(again.net, alone.net)
