"""Lightning: automatic and manual optimization, a checkpoint, and resuming from it."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class Automatic(LightningModule):
    """Lightning steps; a scheduler follows each epoch."""

    def __init__(self, net, make):
        super().__init__()
        self.net, self.make = net, make

    def training_step(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        optimizer = self.make(self.net.parameters())
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]


class Manual(LightningModule):
    """The module steps: one optimizer for each layer, in turns, the first with a closure."""

    def __init__(self, net, make):
        super().__init__()
        self.net, self.make = net, make
        self.automatic_optimization = False

    def training_step(self, batch):
        first, last = self.optimizers()

        def closure():
            first.zero_grad()
            loss = self.loss(batch)
            self.manual_backward(loss)
            return loss

        self.toggle_optimizer(first)
        first.step(closure)
        self.untoggle_optimizer(first)
        self.toggle_optimizer(last)
        last.zero_grad()
        self.manual_backward(self.loss(batch))
        last.step()
        self.untoggle_optimizer(last)

    def loss(self, batch):
        x, y = batch
        return nn.functional.mse_loss(self.net(x), y)

    def configure_optimizers(self):
        return [self.make(self.net[k].parameters()) for k in (0, 2)]


@pytest.fixture
def loader(data):
    return DataLoader(TensorDataset(*data), batch_size=8)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        pytest.param(Automatic, {}, id="automatic"),
        pytest.param(Automatic, {"gradient_clip_val": 0.1}, id="clipped"),
        pytest.param(Automatic, {"accumulate_grad_batches": 2}, id="accumulated"),
        pytest.param(Automatic, {"precision": "bf16-mixed"}, id="bf16"),
        pytest.param(Manual, {}, id="manual"),
    ],
)
def test_trains_to_the_same_parameters(module, options, pair, model, loader, same):
    nets = []
    for make in pair.sides:
        net = model()
        Trainer(max_epochs=3, **QUIET, **options).fit(module(net, make), loader)
        nets.append(net)
    same(*nets)


def test_resumes_from_a_checkpoint(pair, model, loader, same, tmp_path):
    ours, reference = pair.sides
    first = Trainer(max_epochs=2, **QUIET)
    first.fit(Automatic(model(), ours), loader)
    first.save_checkpoint(tmp_path / "two.ckpt")
    net, twin = model(seed=3), model()
    Trainer(max_epochs=4, **QUIET).fit(
        Automatic(net, ours), loader, ckpt_path=tmp_path / "two.ckpt", weights_only=True
    )
    Trainer(max_epochs=4, **QUIET).fit(Automatic(twin, reference), loader)
    same(net, twin)
