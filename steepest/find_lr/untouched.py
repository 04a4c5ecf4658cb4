"""Untouched: a run may be trained within a `with`, and is bit for bit as before after it.

A copy of the model to train instead would be simpler, but a loss that is a closure over the
parameters, hooks on them and a compiled model would go on with the original. So the original is
trained: what an update replaces is put back, what it changes in place is copied back.
"""

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from steepest.train import Run
from steepest.train.resumed.randomness import random_state, set_random_state

Back = Callable[[], None]
CONTAINERS = (list, dict, set, deque, bytearray, Tensor)
OF_TORCH = vars(nn.Module()).keys()


@contextmanager
def untouched(run: Run, device: torch.device) -> Iterator[None]:
    """Put the run's model, optimizer, loss, batches and random states back at the end.

    Attributes count, too: a module's own counter or list is as before. What a user's own objects
    keep within themselves, or elsewhere, is not known here.
    """
    parts = [part for part in (run.model, run.loss_fn) if isinstance(part, nn.Module)]
    modules = {id(m): m for part in parts for m in part.modules()}
    tensors = _tensors(run.optimizer, modules.values())
    memo: dict[int, Any] = {**modules, **tensors, id(run.optimizer): run.optimizer}
    random = random_state(device, run.batches)
    with ExitStack() as back:
        back.callback(set_random_state, random, device, run.batches)
        for owner in _owners(run):
            back.callback(_attributes(owner))
        back.callback(_optimizer(run.optimizer, memo))
        for module in modules.values():
            back.callback(_module(module, memo))
        for tensor in tensors.values():
            back.callback(_tensor(tensor))
        yield


def _tensors(optimizer: torch.optim.Optimizer, modules: Any) -> dict[int, Tensor]:
    """Return the tensors that an update changes in place, each once, by identity."""
    found = [p for group in optimizer.param_groups for p in group["params"]]
    for module in modules:
        found += [*module._parameters.values(), *module._buffers.values()]
    return {id(tensor): tensor for tensor in found if tensor is not None}


def _owners(run: Run) -> list[object]:
    """Return what counts epochs or calls, perhaps, and is neither a module nor an optimizer."""
    batches = run.batches
    if isinstance(batches, DataLoader):
        return [run.loss_fn, batches, batches.dataset, batches.sampler, batches.batch_sampler]
    return [run.loss_fn, batches]


def _tensor(tensor: Tensor) -> Back:
    grad = tensor.grad if tensor.is_leaf else None
    place, copy = tensor.data, tensor.data.clone()  # .data: autograd shall not count a change
    if tensor.is_leaf:
        tensor.grad = None

    def back() -> None:
        place.copy_(copy)
        if tensor.data_ptr() != place.data_ptr():  # it was moved to another device
            tensor.data = place
        if tensor.is_leaf:
            tensor.grad = grad

    return back


def _module(module: nn.Module, memo: dict[int, Any]) -> Back:
    back_attributes = _attributes(module, vars(module).keys() - OF_TORCH, memo)
    tables = [(table, dict(table)) for table in (module._parameters, module._buffers)]

    def back() -> None:
        for table, before in tables:
            _refill(table, before)
        back_attributes()

    return back


def _optimizer(optimizer: torch.optim.Optimizer, memo: dict[int, Any]) -> Back:
    groups = [(group, dict(group)) for group in optimizer.param_groups]
    back_attributes = _attributes(optimizer)
    optimizer.state = deepcopy(optimizer.state, memo)
    for group, before in groups:
        group.update({name: deepcopy(v, memo) for name, v in before.items() if name != "params"})

    def back() -> None:
        for group, before in groups:
            _refill(group, before)
        back_attributes()
        optimizer.state = optimizer.state  # ours forgets then what it has worked out of the copies

    return back


def _attributes(owner: object, copied: Any = (), memo: dict[int, Any] | None = None) -> Back:
    """Note an object's attributes; have it work on copies of some, where they are containers."""
    try:
        own = vars(owner)
    except TypeError:  # it has none
        return lambda: None
    before = dict(own)
    for name in copied:
        if isinstance(before[name], CONTAINERS):
            own[name] = _copy(before[name], memo)
    return lambda: _refill(own, before)


def _copy(value: Any, memo: dict[int, Any] | None) -> Any:
    try:
        return deepcopy(value, memo)
    except Exception:  # an open file, a lock, a tensor of a graph: it stays
        return value


def _refill(table: dict[Any, Any], before: dict[Any, Any]) -> None:
    for name in table.keys() - before.keys():
        del table[name]
    table.update(before)
