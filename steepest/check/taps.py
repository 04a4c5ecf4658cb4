"""Taps: where torch tells what a training loop does.

Functions of torch are wrapped while a watch is on, and given back after the last one. A wrapper
calls what listens and then torch's own function, with the same arguments, result and errors.
Nothing is wrapped twice, and nothing listens within a graph that torch.compile traces.
"""

import functools
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from steepest.check.warned import Warnings


class Rules:
    """What listens: a family of rules overrides the events that it needs.

    The order of a plain loop: `zeroing`, `loss`, `backward_begins`, `backward_ends`, `clipping`,
    `step_begins`, `step_ends`; then `ungraded_begins`, `forward`, `ungraded_ends`.
    """

    def zeroing(self, parameters: Iterable[Tensor]) -> None:
        """Gradients are about to be cleared by `zero_grad` of an optimizer or a module."""

    def ungraded_begins(self) -> None:
        """`no_grad` or `inference_mode` begins."""

    def ungraded_ends(self) -> None:
        """The outermost of them has ended."""

    def forward(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A module is about to compute, while `hear_forwards` is on."""

    def loss(self, name: str, prediction: Tensor, target: Any, result: Any) -> None:
        """A loss of torch.nn.functional has been computed."""

    def backward_begins(self, roots: Any) -> None:
        """`backward` is about to add to gradients."""

    def backward_ends(self) -> None:
        """`backward` is done."""

    def clipping(self, parameters: list[Tensor], limit: float) -> None:
        """Gradients are about to be clipped to a norm or a value."""

    def step_begins(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """An optimizer is about to update; a closure computes the gradients within."""

    def step_ends(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer has updated."""

    def loading(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer is about to load a state_dict."""

    def loaded(self, optimizer: torch.optim.Optimizer) -> None:
        """An optimizer has loaded a state_dict."""

    def scheduling(self, scheduler: Any) -> None:
        """A scheduler of torch.optim.lr_scheduler is about to step."""

    def scaling(self, scaler: Any, what: str, optimizer: torch.optim.Optimizer | None) -> None:
        """A GradScaler is about to "scale", "unscale", "step" or "update"."""

    def epoch(self, loader: Any) -> None:
        """A DataLoader begins to hand out batches."""

    def finished(self) -> None:
        """The watch ends."""


EVENTS = [name for name in vars(Rules) if not name.startswith("_")]
LOSSES = (
    "mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "cross_entropy", "nll_loss",
    "binary_cross_entropy", "binary_cross_entropy_with_logits",
)  # fmt: skip

_FORWARD = -1  # torch counts hooks from 0
_hooks = torch.nn.modules.module._global_forward_pre_hooks

WARNING = (torch.nn.functional, torch.optim.lr_scheduler, torch.nn.utils.clip_grad,
           torch.amp.grad_scaler)  # fmt: skip
"""Modules whose functions are wrapped, and warn."""

_listening: dict[str, list[Callable[..., None]]] = {event: [] for event in EVENTS}
_undo: list[Callable[[], None]] = []
_on: list[list[Rules]] = []


def listen(rules: list[Rules]) -> None:
    """Let rules hear from now on."""
    if not _on:
        _install()
    _on.append(rules)
    _tell()


def leave(rules: list[Rules]) -> None:
    """Let rules hear no more; the last ones give torch's functions back."""
    _on[:] = [others for others in _on if others is not rules]
    _tell()
    if not _on:
        while _undo:
            _undo.pop()()


def hear_forwards(on: bool) -> None:
    """Hear every module's forward, or no more.

    It is not on in a plain loop: a global hook makes each module a microsecond dearer, and
    torch.compile compiles anew for it. torch's warning of it to compiled modules is held back.
    """
    if on:
        _hooks[_FORWARD] = _forward
    else:
        _hooks.pop(_FORWARD, None)


def _tell() -> None:
    for event, calls in _listening.items():
        every = (rule for rules in _on for rule in rules)
        calls[:] = [
            getattr(rule, event)
            for rule in every
            if getattr(type(rule), event) is not getattr(Rules, event)
        ]


def _install() -> None:
    for module in WARNING:
        _undo.append(functools.partial(setattr, module, "warnings", module.warnings))
        module.warnings = Warnings("warnings")  # pyright: ignore[reportAttributeAccessIssue]
    _wrap(torch.autograd, "backward", _backward)
    _wrap(torch.optim.Optimizer, "zero_grad", _optimizer_zero_grad)
    _wrap(nn.Module, "zero_grad", _module_zero_grad)
    _wrap(torch.optim.Optimizer, "load_state_dict", _load)
    for context in (torch.no_grad, torch.inference_mode):
        _wrap(context, "__enter__", _enter)
        _wrap(context, "__exit__", _exit)
    _wrap(torch.nn.modules.module, "_has_any_global_hook", _has_other_hook)
    _undo.append(functools.partial(hear_forwards, False))
    for name, limited in (("clip_grad_norm_", "max_norm"), ("clip_grad_value_", "clip_value")):
        _wrap_everywhere(torch.nn.utils.clip_grad, name, _clip(limited))
    for name in LOSSES:
        _wrap(torch.nn.functional, name, _loss(name))
    for scheduler in _schedulers():
        if "step" in vars(scheduler):
            _wrap(scheduler, "step", _schedule)
    for name, method in (("scale", "scale"), ("unscale", "unscale_"), ("step", "step"),
                         ("update", "update")):  # fmt: skip
        _wrap(torch.amp.GradScaler, method, _scaler(name))
    _wrap(torch.utils.data.DataLoader, "__iter__", _epoch)
    handles = [
        register_optimizer_step_pre_hook(_step_begins),
        register_optimizer_step_post_hook(_step_ends),
    ]
    _undo.extend(handle.remove for handle in handles)


def _wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Put a wrapper in a function's place, which calls `around(function, *arguments)`."""
    function = vars(owner)[name]

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        return around(function, *args, **kwargs)

    setattr(owner, name, wrapped)
    _undo.append(functools.partial(setattr, owner, name, function))


def _wrap_everywhere(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Wrap a function also where a module has imported it by name."""
    function = vars(owner)[name]
    _wrap(owner, name, around)
    for module in list(sys.modules.values()):
        if module is not owner and vars(module).get(name) is function:
            setattr(module, name, vars(owner)[name])
            _undo.append(functools.partial(setattr, module, name, function))


def _schedulers() -> list[type]:
    found: list[type] = [torch.optim.lr_scheduler.LRScheduler]
    for kind in found:
        found.extend(kind.__subclasses__())
    return found


def _backward(function: Callable[..., Any], tensors: Any, *args: Any, **kwargs: Any) -> Any:
    for call in _listening["backward_begins"]:
        call(tensors)
    result = function(tensors, *args, **kwargs)
    for call in _listening["backward_ends"]:
        call()
    return result


def _optimizer_zero_grad(function: Callable[..., Any], optimizer: Any, *a: Any, **k: Any) -> Any:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for call in _listening["zeroing"]:
        call(parameters)
    return function(optimizer, *a, **k)


def _module_zero_grad(function: Callable[..., Any], module: nn.Module, *a: Any, **k: Any) -> Any:
    parameters = list(module.parameters())
    for call in _listening["zeroing"]:
        call(parameters)
    return function(module, *a, **k)


def _load(function: Callable[..., Any], optimizer: Any, *a: Any, **k: Any) -> Any:
    for call in _listening["loading"]:
        call(optimizer)
    result = function(optimizer, *a, **k)
    for call in _listening["loaded"]:
        call(optimizer)
    return result


def _enter(function: Callable[..., Any], context: Any) -> Any:
    result = function(context)
    for call in _listening["ungraded_begins"]:
        call()
    return result


def _exit(function: Callable[..., Any], context: Any, *error: Any) -> Any:
    result = function(context, *error)
    if torch.is_grad_enabled():
        for call in _listening["ungraded_ends"]:
            call()
    return result


def _has_other_hook(function: Callable[..., Any]) -> Any:
    own = _hooks.pop(_FORWARD, None)
    try:
        return function()
    finally:
        if own is not None:
            _hooks[_FORWARD] = own


def _forward(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    if not torch.compiler.is_compiling():
        named = sys._getframe(1).f_locals.get("kwargs") or {}  # which torch's hook does not get
        for call in _listening["forward"]:
            call(module, (*inputs, *named.values()))


def _clip(limited: str) -> Callable[..., Any]:
    def around(function: Callable[..., Any], *a: Any, **k: Any) -> Any:
        if not a and "parameters" not in k:
            return function(*a, **k)
        parameters, a = (a[0], a[1:]) if a else (k.pop("parameters"), a)
        listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
        limit = a[0] if a else k.get(limited)
        if isinstance(limit, (int, float, Tensor)):
            for call in _listening["clipping"]:
                call(listed, float(limit))
        return function(listed, *a, **k)

    return around


def _loss(name: str) -> Callable[..., Any]:
    def around(function: Callable[..., Any], input: Any, target: Any, *a: Any, **k: Any) -> Any:
        result = function(input, target, *a, **k)
        for call in _listening["loss"]:
            call(name, input, target, result)
        return result

    return around


def _schedule(function: Callable[..., Any], scheduler: Any, *a: Any, **k: Any) -> Any:
    for call in _listening["scheduling"]:
        call(scheduler)
    return function(scheduler, *a, **k)


def _scaler(what: str) -> Callable[..., Any]:
    def around(function: Callable[..., Any], scaler: Any, *a: Any, **k: Any) -> Any:
        optimizer = a[0] if what in ("unscale", "step") and a else k.get("optimizer")
        for call in _listening["scaling"]:
            call(scaler, what, optimizer)
        return function(scaler, *a, **k)

    return around


def _epoch(function: Callable[..., Any], loader: Any) -> Any:
    for call in _listening["epoch"]:
        call(loader)
    return function(loader)


def _step_begins(optimizer: Any, args: Any, kwargs: Any) -> None:
    given = [*args[1:], kwargs.get("closure")]
    closure = any(callable(part) for part in given)
    for call in _listening["step_begins"]:
        call(optimizer, closure)


def _step_ends(optimizer: Any, args: Any, kwargs: Any) -> None:
    for call in _listening["step_ends"]:
        call(optimizer)
