"""Rules about train and eval mode: which of them dropout and normalisation were in, and when."""

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from steepest.check.gradients import Report
from steepest.check.models import Models, held
from steepest.check.taps import Rules, hear_forwards
from steepest.check.where import Place, here

EVALUATION = 3  # forwards without gradients, each with an input of its own
SAMPLE = 16  # elements of an input

Input = tuple[Any, ...] | None
"""What tells an input from others; None where its values cannot be looked at."""


class Window:
    """Forwards in train mode without gradients, after one backward and before the next.

    Attributes:
        part: what kind of module was in train mode.
        where: the first forward.
        inputs: that of each.
    """

    def __init__(self, part: nn.Module, where: Place | None) -> None:
        self.part = type(part).__name__
        self.where = where
        self.inputs: list[Input] = []

    @property
    def is_evaluation(self) -> bool:
        """Whether there were enough, none with an input that another had (Monte-Carlo dropout)."""
        several = len(self.inputs) >= EVALUATION
        return several and None not in self.inputs and len(set(self.inputs)) == len(self.inputs)


class Model:
    """A model that has modules with two modes, and an optimizer.

    Attributes:
        ref: the module within the wrappers of torch.compile and DDP.
        called: the one whose call is a forward: the compiled one, else the same.
        owners: the `id` of each optimizer.
        updates: those done by any of them.
        trained: the backwards in train mode since the last update.
        evaluated: those in eval mode.
        has_trained: whether an update has used one in train mode.
        window: the forwards without gradients since the last backward.
        last_window: the updates at the window before.
    """

    def __init__(self, root: nn.Module) -> None:
        within, called = _within(root)
        self.ref = weakref.ref(within)
        self.called = weakref.ref(called)
        self.owners: set[int] = set()
        self.updates = self.trained = self.evaluated = self.last_window = 0
        self.has_trained = False
        self.window: Window | None = None

    @property
    def training(self) -> bool:
        """Whether it is in train mode."""
        module = self.ref()
        return module is not None and module.training

    def modal(self) -> list[nn.Module]:
        """Return its modules with two modes."""
        module = self.ref()
        return [] if module is None else [part for part in module.modules() if _has_modes(part)]

    def learns_from(self, optimizer: torch.optim.Optimizer) -> bool:
        """Tell whether an update of it uses gradients of the model.

        One that was never in train mode must be trained for the most part: of a frozen backbone,
        eval mode may be meant.
        """
        module = self.ref()
        mine = {id(p) for p in held(optimizer)}
        every = [] if module is None else list(module.parameters())
        updated = [p for p in every if id(p) in mine and p.requires_grad and p.grad is not None]
        if not self.has_trained and 2 * len(updated) <= len(every):
            return False
        return any(bool((p.grad != 0).any()) for p in updated if p.layout is torch.strided)


class Modes(Rules):
    """SC301 and SC302."""

    def __init__(self, report: Report, models: Models) -> None:
        self.report = report
        self.models = models
        self._met: weakref.WeakSet[Any] = weakref.WeakSet()
        self._known: list[Model] = []
        self._closure = False

    # ---- events ------------------------------------------------------------------------------

    def backward_begins(self, roots: Any) -> None:
        """Note the modes, which are those of the forward."""
        for model in self._known:
            if model.training:
                model.trained += 1
            else:
                model.evaluated += 1
            if model.window is not None:
                self._close(model, is_last=False)

    def step_begins(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Meet an optimizer, and look at the modes that its gradients come from."""
        self._closure = closure
        if optimizer not in self._met:
            self._met.add(optimizer)
            self._meet(optimizer)
        if self._known and not closure:
            self._judge(optimizer)

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """Look at the modes within a closure, and count the update."""
        if self._known and self._closure:
            self._judge(optimizer)
        for model in self._known:
            if id(optimizer) in model.owners:
                model.updates += 1
                model.trained = model.evaluated = 0

    def ungraded_begins(self) -> None:
        """Hear forwards, if a model is in train mode."""
        for model in self._known:
            if model.training:
                hear_forwards(True)
                return

    def ungraded_ends(self) -> None:
        """Hear no more."""
        if self._known:
            hear_forwards(False)

    def forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Note a forward in train mode without gradients."""
        for model in self._known:
            if model.called() is module and not torch.is_grad_enabled():
                if model.training:
                    self._note(model, inputs)
                elif not any(model.training for model in self._known):
                    hear_forwards(False)
                return

    def finished(self) -> None:
        """Look at the last forwards."""
        for model in self._known:
            if model.window is not None:
                self._close(model, is_last=True)

    # ---- rules -------------------------------------------------------------------------------

    def _meet(self, optimizer: torch.optim.Optimizer) -> None:
        """Note which models with two modes an optimizer updates."""
        self.models.meet(optimizer)
        mine = {id(p) for p in held(optimizer)}
        self._known = [model for model in self._known if model.ref() is not None]
        known = {id(model.ref()): model for model in self._known}
        for root in self.models.roots():
            if any(id(p) in mine for p in root.parameters()):
                new = Model(root)
                model = known.get(id(new.ref()), new)
                model.owners.add(id(optimizer))
                if model is new and model.modal():
                    self._known.append(model)

    def _judge(self, optimizer: torch.optim.Optimizer) -> None:
        """SC301: every gradient of this update comes from a forward in eval mode."""
        for model in self._known:
            if id(optimizer) not in model.owners:
                continue
            if model.trained:
                model.has_trained = True
            elif model.evaluated and model.learns_from(optimizer):
                modal = model.modal()
                if modal and not any(part.training for part in modal):
                    self.report(
                        "SC301",
                        f"{_kind(model)} is updated with gradients of its eval mode, in which "
                        f"{type(modal[0]).__name__} does not do what it does in training",
                        step=model.updates,
                    )

    def _note(self, model: Model, inputs: tuple[Any, ...]) -> None:
        if model.window is None:
            training = [part for part in model.modal() if part.training]
            if not training or _finds_statistics(training):
                return
            model.window = Window(training[0], here())
        model.window.inputs.append(_sample(inputs))

    def _close(self, model: Model, *, is_last: bool) -> None:
        """SC302: the model was evaluated in train mode.

        Not where each update has such forwards before it: they make its targets.
        """
        window, model.window = model.window, None
        since, model.last_window = model.updates - model.last_window, model.updates
        if window is None or not window.is_evaluation or not model.updates:
            return
        if is_last or since > 1:
            self.report(
                "SC302",
                f"{_kind(model)} is evaluated in train mode: {len(window.inputs)} forwards without "
                f"gradients, in which {window.part} does what it does in training",
                step=model.updates,
                where=window.where,
            )


def _within(root: nn.Module) -> tuple[nn.Module, nn.Module]:
    """Return what torch.compile, DDP and the like wrap, and the module that is called."""
    called = None
    while True:
        parts = dict(root.named_children())
        wraps = set(parts) in ({"_orig_mod"}, {"module"})
        if not wraps or any(True for _ in root.parameters(recurse=False)):
            return root, called or root
        if "_orig_mod" in parts and called is None:
            called = root  # torch.compile runs hooks of what is within only as it traces it
        root = next(iter(parts.values()))


def _has_modes(module: nn.Module) -> bool:
    """Tell whether a module of torch.nn computes otherwise in train mode than in eval mode."""
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return module.track_running_stats
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return module.p > 0
    if isinstance(module, nn.RNNBase):
        return module.dropout > 0 and module.num_layers > 1
    return isinstance(module, nn.MultiheadAttention) and module.dropout > 0


def _finds_statistics(training: Iterable[nn.Module]) -> bool:
    """Tell whether the forwards are there to find new statistics, as in `update_bn`."""
    for part in training:
        if isinstance(part, nn.modules.batchnorm._NormBase):
            counted = part.num_batches_tracked
            if part.momentum is None or (counted is not None and not counted.item()):
                return True
    return False


def _sample(inputs: Any) -> Input:
    x = next(_tensors(inputs), None)
    if x is None or not x.numel():
        return None
    try:
        values = x.detach().flatten()
        some = values[:: -(-len(values) // SAMPLE)].tolist()
        return (*x.shape, values.sum(dtype=torch.float64).item(), *some)
    except (RuntimeError, TypeError, NotImplementedError):  # as within vmap
        return None


def _tensors(inputs: Any) -> Iterator[Tensor]:
    """Yield the tensors of nested lists and dicts."""
    if isinstance(inputs, Tensor):
        yield inputs
    elif isinstance(inputs, dict):
        yield from _tensors(list(inputs.values()))
    elif isinstance(inputs, (list, tuple)):
        for part in inputs:
            yield from _tensors(part)


def _kind(model: Model) -> str:
    return type(model.ref()).__name__
