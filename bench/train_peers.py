"""The training loops of other packages that run on torch, at their defaults.

Each trains what `train_cases` says, with torch's own optimizer of that name, validates the held-out
rows after each epoch, and is timed from its first batch to the end of its last epoch, by a callback
of its own kind. What it prints goes nowhere; what it writes (checkpoints, logs) goes to a folder
that is thrown away. A package is imported when its loop is first asked for.
"""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from train_cases import Case, Timed, final_loss, held_out, make_model, training_rows


class Clock:
    """The moments at which a training began and, so far, ended."""

    def __init__(self) -> None:
        self.begin = self.end = 0.0

    def start(self, *_: Any, **__: Any) -> None:
        """Note the first call: others are of later epochs."""
        self.begin = self.begin or perf_counter()

    def stop(self, *_: Any, **__: Any) -> None:
        """Note each call: the last one counts."""
        self.end = perf_counter()

    def timed(self, case: Case, model: nn.Module) -> Timed:
        """Return the time per training batch, and the loss."""
        return (self.end - self.begin) / case.steps * 1e6, final_loss(case, model)


def declare_operators() -> None:
    """Let a torchvision that was built for CUDA be imported beside a torch for the CPU.

    fastai brings it along, Lightning and transformers import it where it is; no loop here calls it.
    """
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _KEPT.append(library)  # its operators live as long as it does


_KEPT: list[torch.library.Library] = []
if torch.version.cuda is None:
    declare_operators()


@contextlib.contextmanager
def elsewhere() -> Iterator[Path]:
    """Have prints, bars and warnings go nowhere, and relative paths into a folder of the moment."""
    before = Path.cwd()
    with (
        tempfile.TemporaryDirectory() as folder,
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def loaders(case: Case) -> tuple[DataLoader, DataLoader]:
    """Return DataLoaders as everybody writes them."""
    training, validation = TensorDataset(*training_rows(case)), TensorDataset(*held_out(case))
    return (
        DataLoader(training, batch_size=case.batch_size, shuffle=True),
        DataLoader(validation, batch_size=case.batch_size),
    )


def make_optimizer(case: Case, model: nn.Module) -> torch.optim.Optimizer:
    """Return torch's optimizer, at its defaults but for the learning rate."""
    return getattr(torch.optim, case.optimizer)(model.parameters(), lr=case.lr)


def lightning(case: Case) -> Timed:
    """Lightning: bar, logger, a checkpoint each epoch, `self.log` in both steps."""
    import lightning as L

    clock, model = Clock(), make_model(case)

    class Task(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            x, y = batch
            loss = nn.functional.mse_loss(self.model(x), y)
            self.log("loss", loss, prog_bar=True)
            return loss

        def validation_step(self, batch: Any, index: int) -> None:
            x, y = batch
            self.log("validation_loss", nn.functional.mse_loss(self.model(x), y))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return make_optimizer(case, self.model)

        on_train_epoch_start = clock.start

    class Timer(L.Callback):
        on_train_epoch_end = clock.stop

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with elsewhere():
        trainer = L.Trainer(max_epochs=case.epochs, accelerator="cpu", callbacks=[Timer()])
        trainer.fit(Task(), *loaders(case))
    return clock.timed(case, model)


def skorch(case: Case) -> Timed:
    """skorch: its table of epochs; what it validates is given, instead of a fifth of the rows."""
    from skorch import NeuralNetRegressor
    from skorch.callbacks import Callback
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    clock = Clock()

    class Timer(Callback):
        def on_epoch_begin(self, net: Any, **_: Any) -> None:
            clock.start()

        def on_epoch_end(self, net: Any, **_: Any) -> None:
            clock.stop()

    with elsewhere():
        net = NeuralNetRegressor(
            make_model(case),
            optimizer=getattr(torch.optim, case.optimizer),
            lr=case.lr,
            batch_size=case.batch_size,
            max_epochs=case.epochs,
            iterator_train__shuffle=True,
            train_split=predefined_split(Dataset(*held_out(case))),
            callbacks=[Timer()],
        )
        net.fit(*training_rows(case))
    return clock.timed(case, net.module_)


def ignite(case: Case) -> Timed:
    """Ignite: a supervised trainer with its bar and the running loss, and an evaluator."""
    from ignite.contrib.handlers import ProgressBar
    from ignite.engine import Events, create_supervised_evaluator, create_supervised_trainer
    from ignite.metrics import Loss, RunningAverage

    clock, model, loss_fn = Clock(), make_model(case), nn.MSELoss()
    training, validation = loaders(case)
    with elsewhere():
        trainer = create_supervised_trainer(model, make_optimizer(case, model), loss_fn)
        evaluator = create_supervised_evaluator(model, {"loss": Loss(loss_fn)})
        RunningAverage(output_transform=lambda loss: loss).attach(trainer, "loss")
        ProgressBar().attach(trainer, ["loss"])
        trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda: evaluator.run(validation))
        trainer.add_event_handler(Events.EPOCH_STARTED, clock.start)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, clock.stop)
        trainer.run(training, max_epochs=case.epochs)
    return clock.timed(case, model)


def fastai(case: Case) -> Timed:
    """fastai: a Learner with its bar and its recorder, over torch's optimizer."""
    from functools import partial

    from fastai.callback.core import Callback
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from fastai.optimizer import OptimWrapper

    clock, model = Clock(), make_model(case)

    class Timer(Callback):
        before_epoch, after_epoch = clock.start, clock.stop

    with elsewhere():
        optimizer = partial(OptimWrapper, opt=getattr(torch.optim, case.optimizer))
        learner = Learner(
            DataLoaders(*loaders(case)), model, loss_func=nn.MSELoss(), opt_func=optimizer,
            cbs=[Timer()],
        )  # fmt: skip
        learner.fit(case.epochs, case.lr)
    return clock.timed(case, model)


def hugging_face(case: Case) -> Timed:
    """Hugging Face's Trainer: its bar, its logs and its checkpoints, at a constant lr."""
    import transformers
    from transformers import Trainer, TrainerCallback, TrainingArguments

    clock, model = Clock(), make_model(case)

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            prediction = self.model(x)
            return {"loss": nn.functional.mse_loss(prediction, labels), "logits": prediction}

    class Timer(TrainerCallback):
        def on_epoch_begin(self, *_: Any, **__: Any) -> None:
            clock.start()

        def on_epoch_end(self, *_: Any, **__: Any) -> None:
            clock.stop()

        def on_evaluate(self, *_: Any, **__: Any) -> None:
            clock.stop()

    def rows(x: torch.Tensor, y: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [{"x": row, "labels": label} for row, label in zip(x, y, strict=True)]

    transformers.utils.logging.set_verbosity_error()
    with elsewhere() as folder:
        trainer = Trainer(
            model=(wrapped := Wrapped()),
            args=TrainingArguments(
                output_dir=str(folder),
                num_train_epochs=case.epochs,
                per_device_train_batch_size=case.batch_size,
                per_device_eval_batch_size=case.batch_size,
                lr_scheduler_type="constant",
                max_grad_norm=0.0,
                eval_strategy="epoch",
                use_cpu=True,
                report_to="none",
            ),
            train_dataset=rows(*training_rows(case)),
            eval_dataset=rows(*held_out(case)),
            optimizers=(make_optimizer(case, wrapped), None),
            callbacks=[Timer()],
        )
        trainer.train()
    return clock.timed(case, model)


PEERS: dict[str, Callable[[Case], Timed]] = {
    "Lightning": lightning,
    "skorch": skorch,
    "Ignite": ignite,
    "fastai": fastai,
    "Hugging Face Trainer": hugging_face,
}

KERAS = {"Keras on torch": "torch", "Keras on JAX": "jax"}
"""Backends of Keras, which `train_keras` runs."""

PACKAGES: dict[str, tuple[list[str], str]] = {
    "Lightning": (["lightning"], "lightning"),
    "skorch": (["skorch"], "skorch"),
    "Ignite": (["pytorch-ignite"], "ignite.engine"),
    "fastai": (["fastai"], "fastai.learner"),
    "Hugging Face Trainer": (["transformers", "accelerate"], "transformers.trainer"),
    "Keras on torch": (["keras"], "keras"),
    "Keras on JAX": (["keras", "jax"], "keras"),
}
"""For each its distributions, and the module whose import is timed."""
