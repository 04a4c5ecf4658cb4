"""Mixed: one optimizer whose param groups have rules of their own."""

from typing import Any

from steepest.errors import HyperparameterError
from steepest.optim import hyper
from steepest.optim.adamw import AdamW
from steepest.optim.around import AROUND, around
from steepest.optim.optimizer import Optimizer


class Mixed(Optimizer):
    """Several rules in one optimizer: each param group names its own under "optimizer".

        optimizer = optim.Mixed(
            optim.groups(model, {
                "*embed*|head.*": dict(optimizer=optim.AdamW, lr=3e-4),
                optim.matrices: dict(optimizer=optim.Muon, lr=0.02),
            }),
            clip_norm=1.0,
        )

    There is one `param_groups`, one `state_dict` and one `step`, in which one norm bounds all
    gradients. A group holds its class's name, and has the arguments of that class.

    Args:
        params: param groups, or parameters.
        optimizer: the class of the groups that name none.
        hyperparameters: of the groups that name no class; and clip_norm, clip_value, average,
            average_decay, zero_grad, norms, skip_nonfinite as every optimizer has them.

    Raises:
        HyperparameterError: a group's class has no formula, or does not take what the group has.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self, params: Any, optimizer: type[Optimizer] = AdamW, **hyperparameters: Any
    ) -> None:
        given = {word: hyperparameters.pop(word, default) for word, default in AROUND.items()}
        self._default = optimizer
        self._check_kind(optimizer)
        hyper.bind(optimizer.__name__, optimizer.__signature__, ([],), hyperparameters)
        self._own = hyperparameters
        super().__init__(params, {})
        self._around = around("Mixed", given)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_default": self._default, "_own": self._own}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a param group with the rule that it names, or the optimizer's default."""
        if not isinstance(param_group, dict):
            raise TypeError(f"a param group is a dict, not a {type(param_group).__name__}")
        group = dict(param_group)
        kind = group.pop("optimizer", self._default)
        if kind is self._default:
            group = self._own | group
        self._check_kind(kind)
        known = kind.__signature__
        words = [word for word in known.parameters if word not in ("params", *AROUND)]
        hyper.check_known(kind.__name__, group, words)
        for word in group.keys() & hyper.BOUNDS.keys() - set(words):
            raise HyperparameterError(
                f"{kind.__name__}: a param group has {word!r}, which {kind.__name__} does not "
                f"take; it takes {', '.join(words)}"
            )
        options = {word: group.pop(word) for word in words if word in group}
        bound = hyper.bind(kind.__name__, known, ([],), options)
        start = {word: bound[word] for word in words} | dict(kind.fixed)
        self._kinds[kind.__name__] = kind
        super().add_param_group({**group, "optimizer": kind.__name__, **start})

    def _check_kind(self, kind: Any) -> None:
        if not isinstance(kind, type) or not issubclass(kind, Optimizer) or kind.formula is None:
            raise HyperparameterError(
                "Mixed: a group's optimizer is a class that a formula makes, of steepest.optim or "
                f"your own, not {kind!r}; give such as optimizer=optim.AdamW"
            )
        if kind.stand_in is not None or kind.step is not Optimizer.step:
            raise HyperparameterError(
                f"Mixed: {kind.__name__} has a step or an evaluation of its own, which a mixed "
                "step would leave out; build it apart, over its own parameters"
            )
        if self.__dict__.get("_kinds", {}).get(kind.__name__, kind) is not kind:
            raise HyperparameterError(
                f"Mixed: two classes are called {kind.__name__}, by which a checkpoint knows them; "
                "give one of them another name"
            )
