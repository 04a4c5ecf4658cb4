"""The watch inside of trainers: no fact is told of a clean training, and a mistake is."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from transformers import Trainer as Transformers
from transformers import TrainingArguments

from steepest.check import watch

QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "max_epochs": 3,
}


def network():
    return nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.Dropout(0.1), nn.Linear(7, 1))


def facts(watched):
    return [str(finding) for finding in watched.findings() if finding.is_fact]


class Module(LightningModule):
    """A network with validation and a scheduler."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def training_step(self, batch):
        return F.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch):
        self.log("loss", F.mse_loss(self.net(batch[0]), batch[1]))

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)]


class Adversaries(LightningModule):
    """Two networks in turns, by manual optimization."""

    def __init__(self):
        super().__init__()
        self.makes, self.judges = nn.Linear(2, 5), nn.Linear(5, 1)
        self.automatic_optimization = False

    def training_step(self, batch):
        of_maker, of_judge = self.optimizers()
        fake = self.makes(torch.randn(len(batch[0]), 2))
        self.toggle_optimizer(of_judge)
        of_judge.zero_grad()
        loss = F.softplus(-self.judges(batch[0])).mean()
        self.manual_backward(loss + F.softplus(self.judges(fake.detach())).mean())
        of_judge.step()
        self.untoggle_optimizer(of_judge)
        self.toggle_optimizer(of_maker)
        of_maker.zero_grad()
        self.manual_backward(F.softplus(-self.judges(fake)).mean())
        of_maker.step()
        self.untoggle_optimizer(of_maker)

    def configure_optimizers(self):
        return [torch.optim.Adam(net.parameters()) for net in (self.makes, self.judges)]


class Regression(nn.Module):
    """A model that returns its loss, as Transformers wants it."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, x, labels):
        out = self.net(x)
        return {"loss": F.mse_loss(out, labels), "logits": out}


@pytest.mark.parametrize(
    ("module", "options"),
    [
        pytest.param(Module, {}, id="automatic"),
        pytest.param(Module, {"gradient_clip_val": 0.1}, id="clipped"),
        pytest.param(Module, {"accumulate_grad_batches": 3}, id="accumulated"),
        pytest.param(Module, {"precision": "bf16-mixed"}, id="bf16"),
        pytest.param(Adversaries, {}, id="manual"),
    ],
)
def test_lightning_is_silent(module, options, data):
    loader = DataLoader(TensorDataset(*data), batch_size=8, shuffle=True)
    validation = DataLoader(TensorDataset(*data), batch_size=16)
    with watch() as watched:
        Trainer(**QUIET, **options).fit(module(), loader, validation if module is Module else None)
    assert facts(watched) == []


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"gradient_accumulation_steps": 2}, id="accumulated"),
        pytest.param({"bf16": True}, id="bf16"),
        pytest.param({"warmup_steps": 3, "lr_scheduler_type": "cosine"}, id="warm-up"),
        pytest.param({"eval_strategy": "epoch"}, id="evaluated"),
    ],
)
def test_transformers_is_silent(options, data, tmp_path):
    rows = [{"x": x, "labels": y} for x, y in zip(*data, strict=True)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], disable_tqdm=True,
        per_device_train_batch_size=8, num_train_epochs=3, logging_strategy="no",
        save_strategy="no", **options,
    )  # fmt: skip
    with watch() as watched:
        Transformers(Regression(), arguments, train_dataset=rows, eval_dataset=rows).train()
    assert facts(watched) == []


class Forgetful(Adversaries):
    """Its loop has lost a line."""

    def training_step(self, batch):
        for optimizer in self.optimizers():
            self.manual_backward(
                F.mse_loss(self.judges(self.makes(batch[1].expand(-1, 2))), batch[1])
            )
            optimizer.step()


def test_a_mistake_inside_of_lightning_is_told(data):
    with watch() as watched:
        Trainer(**QUIET).fit(Forgetful(), DataLoader(TensorDataset(*data), batch_size=8))
    assert "SC101" in [finding.code for finding in watched.findings()]


def test_a_compiled_model_is_silent(data, model):
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    compiled = torch.compile(net)
    with watch(net, optimizer) as watched:
        for x, y in zip(*(part.split(8) for part in data), strict=True):
            optimizer.zero_grad()
            F.mse_loss(compiled(x), y).backward()
            optimizer.step()
    assert facts(watched) == []
