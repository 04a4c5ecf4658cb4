"""LBFGS: a step along the gradient, turned by the curvature that the last steps have met.

Nocedal & Wright 2006, Algorithms 7.4 and 7.5, https://doi.org/10.1007/978-0-387-40065-5
Differs from Nocedal & Wright, as torch does: a pair whose curvature is 1e-10 or less is not
remembered; without a line search every update but the first has the length lr.
Differs from torch: where the loss or its gradient is not finite, the parameters return to the last
point where both were, and the step ends; they return there when the closure raises, too. Half
precision is computed in float32. Scalars of the state are numbers, not tensors. A saved state is
copied when it is loaded, and refused where it does not fit. A history may be shortened at any time.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from steepest.errors import HyperparameterError, SteepestError
from steepest.optim import flat
from steepest.optim.flat import is_finite, largest
from steepest.optim.history import direction, fitted, remember
from steepest.optim.hyper import check_known
from steepest.optim.line_search import Point, strong_wolfe
from steepest.optim.optimizer import Optimizer

Closure = Callable[[], Any]


class LBFGS(Optimizer):
    """Limited-memory BFGS: steps by curvature, for a loss that can be evaluated again.

    One `step(closure)` makes up to `max_iter` updates. It suits a smooth loss over all data.

    Args:
        params: the parameters, in one group.
        lr: the length of an update, or the first that the line search tries.
        max_iter: most updates in one step.
        max_eval: most evaluations of the loss in one step; `max_iter * 5 // 4` if left out.
        tolerance_grad: the step ends when no element of the gradient is larger.
        tolerance_change: the step ends when the loss or the parameters change no more than this.
        history_size: how many updates are remembered, two vectors of all parameters for each.
        line_search_fn: "strong_wolfe", or None for updates of length `lr`.
        clip_norm: must stay None: a scaled gradient is not that of the loss that is searched.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1,
        max_iter: int = 20,
        max_eval: int | None = None,
        tolerance_grad: float = 1e-7,
        tolerance_change: float = 1e-9,
        history_size: int = 100,
        line_search_fn: str | None = None,
        *,
        clip_norm: None = None,
    ) -> None:
        _check({"max_iter": max_iter})
        defaults = {
            "lr": lr,
            "max_iter": max_iter,
            "max_eval": max_iter * 5 // 4 if max_eval is None else max_eval,
            "tolerance_grad": tolerance_grad,
            "tolerance_change": tolerance_change,
            "history_size": history_size,
            "line_search_fn": line_search_fn,
        }
        super().__init__(params, defaults)
        self.clip_norm = clip_norm

    @property
    def clip_norm(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Always None: the line search needs the loss's own gradient."""
        return None

    @clip_norm.setter
    def clip_norm(self, bound: float | None) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        if bound is not None:
            raise HyperparameterError(
                "LBFGS: clip_norm must stay None, for a scaled gradient is not that of the loss "
                f"that curvature and line search go by, got {bound!r}; "
                'line_search_fn="strong_wolfe" keeps updates from growing too long'
            )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add the one param group.

        Raises:
            HyperparameterError: there is one already, or a hyperparameter is out of bounds.
        """
        if self.param_groups:
            raise HyperparameterError(
                "LBFGS: there is one param group, for the curvature is that of all parameters "
                "together, got a second; give all parameters as one list"
            )
        _check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state_dict of this class or of torch's; tensors are copied.

        Raises:
            StateError: it does not fit; the optimizer is unchanged.
        """
        history: dict[str, Any] = {}
        group, like = self.param_groups[0], flat.gradient(self._params())

        def fit(_: Any, saved: dict[str, Any]) -> None:
            fits = fitted(saved, len(group["params"]), group.get("param_names"), like)
            _check(saved["param_groups"][0])
            history.update(fits)

        last = self.register_load_state_dict_pre_hook(fit)
        try:
            super().load_state_dict(state_dict)
        finally:
            last.remove()
        if history:  # torch casts it to the dtype of the first parameter, this is whole
            self._history().update(history)

    # ---- the step -----------------------------------------------------------------------------

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:
        """Make up to `max_iter` updates.

        Args:
            closure: clears the gradients, evaluates the loss, calls `backward`, returns the loss.

        Returns:
            What the closure returned first, before any update.

        Raises:
            SteepestError: there is no closure, or it leaves no number or no gradient.
        """
        group, history = self.param_groups[0], self._history()
        result, loss, g = self._evaluate(closure)
        evaluations = 1
        history.setdefault("n_iter", 0)
        history["func_evals"] = history.get("func_evals", 0) + 1
        if not (math.isfinite(loss) and is_finite(g)) or largest(g) <= group["tolerance_grad"]:
            return result
        now = Point(0.0, loss, 0.0, g)
        for last in [False] * (group["max_iter"] - 1) + [True]:
            start = self._aim(now)
            if start.slope > -group["tolerance_change"]:
                break
            if group["line_search_fn"] is not None:
                now, count = self._search(closure, start, group["max_eval"] - evaluations)
            else:
                now, count = self._go(closure, start, look=not last)
            history["func_evals"] += count
            evaluations += count
            if evaluations >= group["max_eval"] or self._is_at_rest(start, now):
                break
        return result

    def _aim(self, now: Point) -> Point:
        """Choose direction and length of the next update; return its start, with the slope."""
        group, history = self.param_groups[0], self._history()
        history["n_iter"] += 1
        t = float(group["lr"])
        if history["n_iter"] == 1:
            history.update(old_dirs=[], old_stps=[], ro=[], H_diag=1)
            t *= 1.0 / max(1.0, float(now.g.abs().sum()))
        else:
            remember(history, now.g, group["history_size"])
        d = direction(history, now.g, group["history_size"])
        history.update(d=d, t=t, prev_flat_grad=now.g, prev_loss=now.loss)
        return Point(0.0, now.loss, float(now.g.dot(d)), now.g)

    def _search(self, closure: Closure | None, start: Point, left: int) -> tuple[Point, int]:
        """Go along the direction as far as the line search finds good."""
        history, params = self._history(), self._params()
        origin, d, t = flat.copy(params), history["d"], 0.0

        def at(t: float) -> Point:
            flat.move(params, origin, d, t)
            _, loss, g = self._evaluate(closure)
            slope = float(g.dot(d))
            finite = math.isfinite(loss) and math.isfinite(slope)
            return Point(t, loss if finite else math.inf, slope, g)

        try:
            now, count = strong_wolfe(at, start, history["t"], largest(d), left)
            t = now.t
        finally:  # the last trial need not be the best, and the closure may have raised
            flat.move(params, origin, d, t)
            history["t"] = t
        return now, count

    def _go(self, closure: Closure | None, start: Point, look: bool) -> tuple[Point, int]:
        """Go the chosen length along the direction; look there, and turn back if it is bad."""
        history, params = self._history(), self._params()
        origin, d, t, good = flat.copy(params), history["d"], history["t"], False
        flat.move(params, origin, d, t)
        if not look:  # the next step evaluates the loss there, perhaps on another batch
            return start, 0
        try:
            _, loss, g = self._evaluate(closure)
            good = math.isfinite(loss) and is_finite(g)
        finally:
            if not good:
                flat.move(params, origin, d, 0.0)
                history["t"] = 0.0
        return (Point(t, loss, 0.0, g) if good else start), 1

    def _is_at_rest(self, start: Point, now: Point) -> bool:
        """Tell whether an update has ended at a minimum, or has changed next to nothing."""
        group = self.param_groups[0]
        return (
            now.t == 0
            or largest(now.g) <= group["tolerance_grad"]
            or largest(self._history()["d"] * now.t) <= group["tolerance_change"]
            or abs(now.loss - start.loss) < group["tolerance_change"]
        )

    # ---- what it works on ---------------------------------------------------------------------

    def _params(self) -> list[Tensor]:
        return self.param_groups[0]["params"]

    def _history(self) -> dict[str, Any]:
        """The state, which torch keeps with the first parameter."""
        return self.state[self._params()[0]]

    def _evaluate(self, closure: Closure | None) -> tuple[Any, float, Tensor]:
        """Return what the closure returned, that as a number, and the gradient."""
        if not callable(closure):
            raise SteepestError(
                "LBFGS: step needs a closure, for it evaluates the loss several times, got "
                f"{closure!r}; write `def closure(): optimizer.zero_grad(); loss = ...; "
                "loss.backward(); return loss` and call step(closure)"
            )
        with torch.enable_grad():
            result = closure()
        loss = _number(result)
        if all(p.grad is None for p in self._params()):
            raise SteepestError(
                "LBFGS: the closure must leave a gradient, got none at any parameter; call "
                "loss.backward() in it"
            )
        return result, loss, flat.gradient(self._params())


def _number(loss: Any) -> float:
    """Return a loss as a number."""
    if isinstance(loss, Tensor) and loss.numel() == 1 and not loss.is_complex():
        return float(loss.detach())
    if isinstance(loss, int | float):
        return float(loss)
    given = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else repr(loss)
    raise SteepestError(f"LBFGS: the closure must return the loss, one real number, got {given}")


# ---- hyperparameters ----------------------------------------------------------------------------


def _is_count(x: Any) -> bool:
    return isinstance(x, int) and not isinstance(x, bool) and x >= 1


BOUNDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "lr": ("one number, at least 0", lambda x: float(x) >= 0),
    "max_iter": ("a whole number, at least 1", _is_count),
    "max_eval": ("a whole number, at least 1", _is_count),
    "tolerance_grad": ("a number", lambda x: not math.isnan(x)),
    "tolerance_change": ("a number", lambda x: not math.isnan(x)),
    "history_size": ("a whole number, at least 1", _is_count),
    "line_search_fn": ("None or 'strong_wolfe'", lambda x: x in (None, "strong_wolfe")),
}


def _check(group: Mapping[str, Any]) -> None:
    """Refuse hyperparameters that are misspelt or out of bounds."""
    check_known("LBFGS", group, BOUNDS)
    for name, (rule, holds) in BOUNDS.items():
        try:
            good = name not in group or holds(group[name])
        except (TypeError, ValueError, RuntimeError):
            good = False
        if not good:
            raise HyperparameterError(f"LBFGS: {name} must be {rule}, not {group[name]!r}")
