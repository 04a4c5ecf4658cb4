"""History: what LBFGS remembers of its updates, the direction that follows, and its loading.

Nocedal & Wright 2006, Algorithms 7.4 and 7.5, https://doi.org/10.1007/978-0-387-40065-5
A history is the state of LBFGS's first parameter, a dict with torch's keys: for the last updates
`old_dirs` has the gradient's changes (y), `old_stps` the parameters' (s), `ro` 1 / (y . s).
"""

from typing import Any

import torch
from torch import Tensor

from steepest.errors import StateError

LEAST_CURVATURE = 1e-10
"""A pair of changes with less says nothing of the loss's curvature."""

VECTORS = ("d", "prev_flat_grad", "old_dirs", "old_stps")
NUMBERS = ("func_evals", "n_iter", "t", "H_diag", "prev_loss", "ro", "al")


def remember(history: dict[str, Any], g: Tensor, size: int) -> None:
    """Add the last update and its change of gradient to the history (Algorithm 7.5)."""
    ys, ss, rhos = history["old_dirs"], history["old_stps"], history["ro"]
    y, s = g - history["prev_flat_grad"], history["d"] * history["t"]
    curvature = float(y.dot(s))
    if curvature > LEAST_CURVATURE:
        ys.append(y)
        ss.append(s)
        rhos.append(1.0 / curvature)
        history["H_diag"] = curvature / float(y.dot(y))  # equation 7.20
    for past in (ys, ss, rhos):
        del past[:-size]


def direction(history: dict[str, Any], g: Tensor, size: int) -> Tensor:
    """Return minus the approximate inverse Hessian times g (Algorithm 7.4)."""
    pairs = list(zip(history["old_dirs"], history["old_stps"], history["ro"], strict=True))
    alphas = []
    d = -g
    for y, s, rho in reversed(pairs):
        alphas.append(float(s.dot(d)) * rho)
        d.add_(y, alpha=-alphas[-1])
    alphas.reverse()
    d.mul_(history["H_diag"])
    for alpha, (y, s, rho) in zip(alphas, pairs, strict=True):
        d.add_(s, alpha=alpha - float(y.dot(d)) * rho)
    if history["n_iter"] > 1:  # torch keeps them in its state, so its checkpoint has them
        history["al"] = alphas + [None] * (size - len(alphas))
    return d


def fitted(
    saved: dict[str, Any], params: int, names: list[str] | None, like: Tensor
) -> dict[str, Any]:
    """Return a copy of the history in a state_dict, or refuse it.

    Args:
        saved: the state_dict, of LBFGS here or in torch.
        params: how many parameters the optimizer has.
        names: what they are called, where that is known.
        like: a vector of all of them.

    Raises:
        StateError: it is of another model or another optimizer.
    """
    groups, state = saved.get("param_groups"), saved.get("state")
    if not isinstance(groups, list) or not isinstance(state, dict) or len(groups) != 1:
        raise StateError("LBFGS: a state_dict has a dict 'state' and one group in 'param_groups'")
    if "history_size" not in groups[0]:
        raise StateError(
            "LBFGS: the state_dict's param group has no 'history_size'; it was saved by another "
            "optimizer"
        )
    keys, saved_names = groups[0]["params"], groups[0].get("param_names")
    if len(keys) != params or (names and saved_names and names != saved_names):
        raise StateError(
            "LBFGS: a history is of all parameters together, in their order: the state_dict has "
            f"{saved_names or len(keys)}, the optimizer {names or params}; build both over the "
            "same parameters"
        )
    history = state.get(keys[0], {})
    needed = {*VECTORS, *NUMBERS} - {"al"} if history.get("n_iter") else set()
    if wrong := needed - history.keys() or history.keys() - {*VECTORS, *NUMBERS}:
        raise StateError(
            f"LBFGS: the saved state {'has' if min(wrong) in history else 'lacks'} {min(wrong)!r}; "
            "it was saved by another optimizer"
        )
    return {name: _copied(value, like) for name, value in history.items()}


def _copied(value: Any, like: Tensor) -> Any:
    """Return a copy of a saved value, a vector like another, a tensor of one number as that."""
    if isinstance(value, list):
        return [_copied(part, like) for part in value]
    if not isinstance(value, Tensor):
        return value
    if value.dim() == 0:
        return value.item()
    if value.shape != like.shape:
        raise StateError(
            f"LBFGS: a saved vector has the shape {tuple(value.shape)}, the parameters together "
            f"have {like.numel()} elements; build both over the same parameters"
        )
    return torch.empty_like(like).copy_(value)
