"""Hugging Face's Trainer: an optimizer handed over, a class handed over, and resuming."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from transformers import Trainer, TrainingArguments


class Rows(Dataset):
    def __init__(self, data):
        self.x, self.y = data

    def __len__(self):
        return len(self.x)

    def __getitem__(self, k):
        return {"x": self.x[k], "labels": self.y[k]}


class Regression(nn.Module):
    """A model that returns its loss, as the Trainer wants it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, labels):
        out = self.net(x)
        return {"loss": nn.functional.mse_loss(out, labels), "logits": out}


def arguments(folder, **options):
    return TrainingArguments(
        output_dir=str(folder),
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        per_device_train_batch_size=8,
        num_train_epochs=3,
        max_grad_norm=0.5,
        logging_strategy="no",
        **{"save_strategy": "no", **options},
    )


def trained(net, rows, args, make, **how):
    """Train a model with an optimizer and a scheduler of one's own."""
    optimizer = make(net.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    module = Regression(net)
    Trainer(module, args, train_dataset=rows, optimizers=(optimizer, scheduler)).train(**how)
    return net


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"bf16": True}],
    ids=["plain", "accumulated", "bf16"],
)
def test_trains_to_the_same_parameters(options, pair, model, data, same, tmp_path):
    args = arguments(tmp_path, **options)
    same(*(trained(model(), Rows(data), args, make) for make in pair.sides))


def test_a_class_and_its_options(pair, model, data, same, tmp_path):
    """The Trainer makes the optimizer, with groups of its own."""
    nets = []
    for kind, options in zip(pair[:2], pair[2:], strict=True):
        net = model()
        Trainer(
            Regression(net),
            arguments(tmp_path, weight_decay=0.1),
            train_dataset=Rows(data),
            optimizer_cls_and_kwargs=(kind, options),
        ).train()
        nets.append(net)
    same(*nets)


def test_resumes_from_a_checkpoint(pair, model, data, same, tmp_path):
    ours, reference = pair.sides
    args = arguments(tmp_path, save_strategy="steps", save_steps=6)
    trained(model(), Rows(data), args, ours)
    there = str(tmp_path / "checkpoint-6")
    net = trained(model(seed=3), Rows(data), args, ours, resume_from_checkpoint=there)
    same(net, trained(model(), Rows(data), arguments(tmp_path), reference))
