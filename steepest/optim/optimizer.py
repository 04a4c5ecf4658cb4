"""Optimizer: a torch.optim.Optimizer made from a formula."""

import inspect
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.optim.optimizer as torch_optimizer
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.autograd import profiler
from torch.compiler import is_dynamo_compiling

from steepest.errors import HyperparameterError, StateError
from steepest.formula import parse
from steepest.optim import hyper
from steepest.optim.around import AROUND, Around, Norms, around, changed, norms
from steepest.optim.averaged import swapped
from steepest.optim.hyper import Rule
from steepest.optim.in_backward import InBackward
from steepest.optim.scheduled import Scheduled, Schedules, schedules, values
from steepest.optim.state import State, fitted, numbered, plain
from steepest.optim.update import Update

_plain = inspect.unwrap
"""Take torch's method without what keeps torch.compile out of it: that imports torch._dynamo at
the first call, 0.9 seconds even where nothing is compiled."""

ATTEMPTS = 10  # to make an update while another thread drops gradients


class Optimizer(torch.optim.Optimizer):
    """A torch.optim.Optimizer whose update is a formula.

    Make one from a formula in two lines:

        class Lion(Optimizer, formula=lion):
            "Lion: the sign of an interpolated momentum."

    A class without a formula is what a subclass of torch's is: it brings its own `step`, and its
    constructor calls `super().__init__(params, defaults)`.

    The constructor of one with a formula takes `params`, the formula's hyperparameters with
    their defaults, and:

    Args:
        foreach: accepted for torch's sake; every step is one pass over all tensors anyhow.
        maximize: maximize the objective instead of minimizing it.
        capturable: must stay False; a captured graph would repeat one step's scalars.
        differentiable: record the step for autograd; the reference serves, and replaces the states.
        fused: None uses a kernel wherever one serves, True insists on it, False never does.
        clip_norm: scale the gradients, while they are read, so that the Euclidean norm of all
            of them is at most this; `grad_norm` tells the norm before. Gradients stay unchanged.
            It may be changed between steps, and is not part of a state_dict.
        clip_value: bound each element of the gradients, while they are read, to plus and minus
            this. It may be changed between steps.
        average: keep an average of the parameters as a state: "ema", an exponential moving
            average, or "mean", that of all steps; `with optimizer.averaged():` swaps it in.
        average_decay: how much of the average an "ema" keeps at a step.
        zero_grad: set the gradients to zero as they are read, so that no `zero_grad()` is needed.
        norms: have `norms` tell the norms of gradients, parameters and updates.
        skip_nonfinite: change nothing in a step with a gradient that is NaN or infinite, and
            count it in `skipped_steps`.

    A number among the hyperparameters may be a schedule, a function of the steps made (such as
    `lr=cosine(1e-3, total=10_000, warmup=500)`): each step evaluates it, `param_groups` show it.

    Differs from torch: sparse gradients serve every optimizer, and count as dense ones;
    bfloat16 and float16 are computed in float32 and rounded once; with a GradScaler the scale is
    folded into the step, whatever `fused` is, and `grad` keeps it; bounds hold in every group.

    Raises:
        HyperparameterError: a hyperparameter is out of bounds (torch's bounds).
        KernelError: at a step, `fused=True` where no kernel can serve.
    """

    formula: ClassVar[Any] = None
    """The parsed formula (`steepest.formula.Formula`); None in a class that has none."""
    fixed: ClassVar[Mapping[str, Any]] = {}
    options: ClassVar[tuple[str, ...]] = hyper.LAYOUT

    _step_supports_amp_scaling = False  # GradScaler unscales the gradients for a user's own step
    _update: Update | None = None
    swapped: bool = False
    """Whether the averages stand in the parameters' place (`averaged`)."""
    _in_backward: InBackward | None = None
    stand_in: ClassVar[Callable[[Tensor, Mapping, Mapping], Tensor | None] | None] = None
    """What stands for `p` in an evaluation, of its state and its group; None where p itself does,
    or its average."""
    _last: Update | None = None
    """The update of the last step, which knows its norms."""

    def __init_subclass__(
        cls,
        formula: Callable | None = None,
        defaults: Mapping[str, Any] | None = None,
        fixed: Mapping[str, Any] | None = None,
        options: Iterable[str] = hyper.LAYOUT,
    ) -> None:
        """Give a class its formula.

        Args:
            formula: the update rule.
            defaults: defaults that differ from the formula's.
            fixed: hyperparameters that this class settles, and its constructor does not take.
            options: what follows the hyperparameters in torch's class of this name, in its order;
                `*` begins what must be named.
        """
        super().__init_subclass__()
        if "step" in vars(cls):
            cls._step_supports_amp_scaling = False
        if formula is None:
            if "__init__" in vars(cls):
                cls.__signature__ = hyper.own_signature(cls)
            return
        cls.formula = parse(formula)
        cls._step_supports_amp_scaling = "step" not in vars(cls)
        cls.fixed = fixed or {}
        cls.options = tuple(options)
        cls.__signature__ = hyper.signature(cls.formula, defaults or {}, cls.fixed, cls.options)

    def __init__(self, params: Any, *args: Any, **options: Any) -> None:
        self._around = Around()
        self.scheduled = Scheduled(type(self).__name__)
        """The hyperparameters that are functions of the steps made."""
        self._kinds: dict[str, type[Optimizer]] = {}
        """The classes of the groups that name one (`Mixed`)."""
        self._norm: float | None = None
        self.skipped_steps = 0
        """How many steps `skip_nonfinite` has left out."""
        if self.formula is None:
            super().__init__(params, *args, **options)
            return
        name = type(self).__name__
        ruled = next(c for c in type(self).__mro__ if "formula" in vars(c))
        bound = hyper.bind(name, ruled.__signature__, (params, *args), options)
        del bound["params"]
        self._around = around(name, {word: bound.pop(word) for word in AROUND})
        defaults = {**bound, **self.fixed}
        if "fused" not in self.options and defaults["fused"] is None:
            del defaults["fused"]  # so that groups and state_dicts have exactly torch's keys
        self.scheduled.inherited = schedules(defaults, self.formula)
        defaults |= values(self.scheduled.inherited, 0)
        hyper.check(name, defaults, self.formula)
        super().__init__(params, defaults)

    @property
    def clip_norm(self) -> float | None:
        """The bound of the norm of all gradients together, or None; may be set at any time."""
        return self._around.clip_norm

    @clip_norm.setter
    def clip_norm(self, bound: float | None) -> None:
        self._around = changed(type(self).__name__, self._around, clip_norm=bound)

    @property
    def clip_value(self) -> float | None:
        """The bound of each element of the gradients, or None; may be set at any time."""
        return dict(self._around.given).get("clip_value")

    @clip_value.setter
    def clip_value(self, bound: float | None) -> None:
        self._around = changed(type(self).__name__, self._around, clip_value=bound)

    @property
    def averages(self) -> bool:
        """Whether an average of the parameters is kept."""
        return self._around.extras.average is not None

    # ---- groups and state ---------------------------------------------------------------------

    def rule(self, group: Mapping[str, Any]) -> Rule:
        """Return the formula and the defaults that serve a param group."""
        kind = self._kinds.get(group.get("optimizer", ""))
        if kind is None:
            assert self.formula is not None
            return Rule(type(self).__name__, self.formula, self.defaults, self.fixed)
        return Rule(kind.__name__, kind.formula, hyper.defaults(kind.__signature__), kind.fixed)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group with options of its own, as torch does, after checking them."""
        found: Schedules = {}
        if isinstance(param_group, dict) and (self.formula is not None or self._kinds):
            name, formula, defaults, _ = self.rule(param_group)
            hyper.check_known(name, param_group, {**defaults, **self.defaults})
            found = self.scheduled.of(param_group, formula)
            if found:  # on a copy: the schedules stay in the user's own
                param_group = param_group | values(found, 0)
            hyper.check(name, {**self.defaults, **param_group}, formula)
        _plain(torch.optim.Optimizer.add_param_group)(self, param_group)
        self._check_served()
        self.scheduled.add(self.param_groups[-1], found)
        self._update = None

    @classmethod
    def cannot_serve(cls, p: Tensor) -> str | None:
        """Say what a parameter must be for this rule, and what to do; None where it is that."""
        return None

    def _check_served(self) -> None:
        """Refuse the group just added where its class cannot serve a parameter."""
        group = self.param_groups[-1]
        kind = self._kinds.get(group.get("optimizer", ""), type(self))
        for k, p in enumerate(group["params"]):
            if reason := kind.cannot_serve(p):
                del self.param_groups[-1]
                raise HyperparameterError(
                    f"{kind.__name__}: {reason}; the group's parameter {k} is {p.dtype}, "
                    f"{p.layout}, of shape {tuple(p.shape)}"
                )

    @property
    def state(self) -> State:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The state by parameter: `state[p]["exp_avg"]`; entries may be replaced."""
        return self._state

    @state.setter
    def state(self, value: Mapping[Any, Any]) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._state = State(self._forget, value)
        self._forget()

    def _forget(self) -> None:
        self._update = None
        if self._in_backward is not None:
            self._in_backward.updates.clear()

    def forget_in_backward(self) -> None:
        """Let go of hooks that have been removed."""
        self._in_backward = None

    def __getstate__(self) -> dict[str, Any]:
        own = ("_around", "scheduled", "_kinds", "skipped_steps")
        return {**super().__getstate__(), **{name: self.__dict__[name] for name in own}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = dict(state)
        entries = own.pop("state", None)
        self._norm = None
        super().__setstate__(own)
        self.scheduled.shown.clear()
        if entries is not None:
            self._state = State(self._forget, entries)
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        """Return the state by torch's keys and layout, so that torch.optim can load it."""
        self._refuse_swapped("saved")
        first = self.register_state_dict_post_hook(plain, prepend=True)
        try:
            return _plain(torch.optim.Optimizer.state_dict)(self)
        finally:
            first.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict of this optimizer or of torch's class of the same name.

        Parameters are matched by name when both sides have names, else by position; one without
        an entry starts afresh. Tensors are copied. How to run (`fused`, `foreach`, `capturable`,
        `differentiable`) stays as this optimizer has it.

        Raises:
            StateError: it does not fit; the optimizer is unchanged.
        """
        if self.formula is None and not self._kinds:
            _plain(torch.optim.Optimizer.load_state_dict)(self, state_dict)
            return
        if not isinstance(state_dict, dict):
            given = type(state_dict).__name__
            raise StateError(
                f"{type(self).__name__}: a state_dict is a dict, not a {given}; load the file "
                "with torch.load and pass what its optimizer returned from state_dict()"
            )
        last = self.register_load_state_dict_pre_hook(fitted)
        try:
            _plain(torch.optim.Optimizer.load_state_dict)(self, state_dict)
        finally:
            last.remove()
        numbered(self)

    # ---- the step -----------------------------------------------------------------------------

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, or set them to zero."""
        if not set_to_none or profiler._is_profiler_enabled:
            super().zero_grad(set_to_none)
            return
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @property
    def grad_norm(self) -> Tensor | None:
        """The norm of all gradients at the last step, before clipping; None without `clip_norm`."""
        return None if self._norm is None else torch.tensor(self._norm)

    @property
    def norms(self) -> Norms | None:
        """The norms of the last step, with `norms=True`; None where none was made."""
        if self._in_backward is not None:
            return self._in_backward.norms() if self._around.extras.norms else None
        last = self._last
        if last is None or last.skipped or not last.around.extras.norms:
            return None
        return norms(last.sums(), self.param_groups, last.scale)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Swap the average of each parameter in, within a `with`, and back after it.

        Raises:
            StateError: there is no average yet, or a step or a save within.
        """
        with swapped(self):
            yield

    @property
    def around(self) -> Around:
        """What is done around the formula: the arguments that torch's optimizers do not have."""
        return self._around

    def step_in_backward(self, model: nn.Module | None = None) -> InBackward:
        """Update each parameter in the backward pass, when its gradient is complete, and free that.

        Gradients never all exist at once. The loop stays as it is: `step()` then finds no gradients
        and only ends the step (schedules advance). Each backward is an update: gradients do not
        accumulate. Not for a GradScaler, nor for DDP, which change gradients after the hook.

        Args:
            model: its trainable parameters must all be the optimizer's; None does not check.

        Returns:
            The hooks; `remove()` takes them away.

        Raises:
            HyperparameterError: `clip_norm`, `skip_nonfinite` and totals need all gradients; or
                there is no formula to update one parameter by.
        """
        if type(self).step is not Optimizer.step or (self.formula is None and not self._kinds):
            raise HyperparameterError(
                f"{type(self).__name__}: step_in_backward updates by a formula, one parameter at a "
                f"time, and {type(self).__name__} has none, but a step of its own; call step() "
                "after backward"
            )
        if self._in_backward is not None:
            self._in_backward.remove()
        self._in_backward = InBackward(self, model)
        return self._in_backward

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The closure's loss, or None.
        """
        if is_dynamo_compiling():
            return _apart(self, closure)
        if (
            self._optimizer_step_pre_hooks
            or self._optimizer_step_post_hooks
            or torch_optimizer._global_optimizer_pre_hooks
            or torch_optimizer._global_optimizer_post_hooks
            or profiler._is_profiler_enabled
        ):
            return _observed_step(self, *([] if closure is None else [closure]))
        return self._step(closure)

    # torch wraps `step` to call hooks and to show in the profiler, which costs some microseconds;
    # marked as wrapped, it is left alone, and the wrapper is entered only when one is there.
    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]

    @property
    def rests(self) -> bool:
        """Whether `eval()` has been called, and no `train()` since (`ScheduleFree`)."""
        return self.stand_in is not None and not all(
            group.get("train_mode", True) for group in self.param_groups
        )

    def check_learning(self) -> None:
        """Refuse an update while something else stands in the parameters' place."""
        if self.swapped:
            self._refuse_swapped("updated")
        if self.rests:
            raise StateError(
                f"{type(self).__name__}: no step is made in evaluation; call optimizer.train() "
                "before, or evaluate `with optimizer.averaged():`, which needs neither eval() nor "
                "train()"
            )

    def _refuse_swapped(self, what: str) -> None:
        if self.swapped:
            raise StateError(
                f"{type(self).__name__}: nothing is {what} while the averages stand in the "
                "parameters' place; do it outside of `with optimizer.averaged():`"
            )

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        self.check_learning()
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = 1.0
        own = self.__dict__
        if "grad_scale" in own or "found_inf" in own:  # GradScaler sets both for this call
            if own.get("found_inf"):
                self._left_out()
                return loss
            if own.get("grad_scale") is not None:
                scale = 1.0 / float(own["grad_scale"])
        try:
            self._step_once(scale)
        except (ArithmeticError, struct.error) as error:
            raise HyperparameterError(
                f"{type(self).__name__}: a scalar of the formula cannot be computed from the "
                f"hyperparameters: {error}; see param_groups"
            ) from error
        return loss

    def _left_out(self) -> None:
        """End a step that changed nothing: what is not finite must not stay in the gradients."""
        if self._around.extras.zero_grad:
            _plain(torch.optim.Optimizer.zero_grad)(self, set_to_none=False)

    def _step_once(self, scale: float) -> None:
        counted = self.scheduled.evaluate(self.param_groups)
        update, around = self._update, self._around
        if update is None or not update.step(self.param_groups, scale, around):
            if self.formula is None and not self._kinds:
                raise NotImplementedError(f"{type(self).__name__} has no formula and no own step()")
            formulas = [self.rule(group).formula for group in self.param_groups]
            for _ in range(ATTEMPTS):  # another thread may drop a gradient meanwhile
                update = Update(formulas, self.param_groups, self.state, around)
                if update.step(self.param_groups, scale, around):
                    break
            else:
                raise AssertionError("an update just made does not fit")
            self._update = update if update.lasting else None
        self._last = update
        self._norm = None if around.clip_norm is None else update.norm
        if update.skipped:
            self.skipped_steps += 1
            self._left_out()
            return
        for group in counted:
            group["schedule_step"] += 1


_observed_step = torch.optim.Optimizer.profile_hook_step(Optimizer._step)


@_disable_dynamo  # which imports torch._dynamo only when it is called
def _apart(optimizer: Optimizer, closure: Callable[[], Any] | None) -> Any:
    """Make a step between graphs: torch.compile cannot trace into a kernel, nor need it."""
    return _observed_step(optimizer, *([] if closure is None else [closure]))
