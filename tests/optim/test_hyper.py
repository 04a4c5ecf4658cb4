"""Bounds of hyperparameters: what torch refuses we refuse, in one sentence; misspelt names too."""

import math

import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import HyperparameterError, SteepestError

NUMBERS = {
    "SGD": ["lr", "momentum", "weight_decay"],
    "Adam": ["lr", "eps", "weight_decay"],
    "AdamW": ["lr", "eps", "weight_decay"],
    "RMSprop": ["lr", "alpha", "eps", "weight_decay", "momentum"],
    "Adagrad": ["lr", "lr_decay", "weight_decay", "initial_accumulator_value", "eps"],
    "Adadelta": ["lr", "rho", "eps", "weight_decay"],
    "Adamax": ["lr", "eps", "weight_decay"],
    "RAdam": ["lr", "eps", "weight_decay"],
    "Rprop": ["lr"],
}
VALUES = [-1.0, -1e-12, -math.inf, 0, 0.5, 1, 1.0, 2.0, math.inf, True, "0.1", None, [0.1]]
ROWS = [(name, {word: v}) for name, words in NUMBERS.items() for word in words for v in VALUES]
ROWS += [
    (name, {"betas": betas})
    for name in ("Adam", "AdamW", "Adamax", "RAdam")
    for betas in [
        (0.9, 0.999), (0.0, 0.0), (1.0, 0.9), (0.9, 1.0), (-0.1, 0.9), (0.9, -0.1), (math.nan, 0.9),
        (0.9, math.nan), (0.9, math.inf), ("0.9", 0.9), 0.9, None,
    ]
]  # fmt: skip
ROWS += [
    ("Rprop", {"etas": etas})
    for etas in [
        (0.5, 1.2), (1e-9, 1e9), (0.0, 1.2), (1.0, 1.2), (0.5, 1.0), (1.2, 0.5), (-0.1, 1.2),
        (math.nan, 1.2), (0.5, math.nan), (0.5, math.inf), ("0.5", 1.2), 0.5, None,
    ]
]  # fmt: skip
ROWS += [
    ("SGD", {"nesterov": nesterov, "momentum": momentum, "dampening": dampening})
    for nesterov in (False, True)
    for momentum in (0.0, 0.9)
    for dampening in (0.0, 0.5)
]
ROWS += [("SGD", {"lr": torch.tensor([0.1, 0.2])}), ("SGD", {"lr": torch.tensor([0.1])})]


def parameters():
    return [nn.Parameter(torch.zeros(2))]


@pytest.mark.parametrize(("name", "options"), ROWS, ids=str)
def test_refused_or_accepted_as_torch_does(name, options):
    try:
        getattr(torch.optim, name)(parameters(), **options)
    except (ValueError, TypeError):
        word = next(iter(options))
        with pytest.raises(
            HyperparameterError, match=rf"^{name}: {word} (must be|needs) .*not "
        ) as e:
            getattr(optim, name)(parameters(), **options)
        assert "\n" not in str(e.value)
    else:
        getattr(optim, name)(parameters(), **options)


STRICTER = [
    ("SGD", {"lr": math.nan}),
    ("SGD", {"momentum": math.nan}),
    ("SGD", {"weight_decay": math.nan}),
    ("SGD", {"dampening": math.nan}),
    ("SGD", {"dampening": "0.9"}),
    ("Adam", {"betas": (0.9, 0.99, 0.999)}),
    ("Rprop", {"step_sizes": (-1e-6, 50)}),
    ("Rprop", {"step_sizes": (1.0, 0.5)}),
    ("Rprop", {"step_sizes": (1e-6, math.nan)}),
    ("Rprop", {"step_sizes": (1e-6,)}),
    ("Rprop", {"step_sizes": 50}),
    ("Rprop", {"etas": (0.5, 1.2, 1.3)}),
]


@pytest.mark.parametrize(("name", "options"), STRICTER, ids=str)
def test_refused_here_where_torch_fails_later_or_trains_to_nan(name, options):
    getattr(torch.optim, name)(parameters(), **options)
    with pytest.raises(HyperparameterError, match=r"must be"):
        getattr(optim, name)(parameters(), **options)


@pytest.mark.parametrize(
    "options", [{"betas": (0, 0.999)}, {"betas": [0.9, 0.999]}, {"betas": (0.9, torch.tensor(0.9))}]
)
def test_betas_may_be_any_two_numbers(options):
    """torch wants two floats or two tensors."""
    optim.Adam(parameters(), **options)


@pytest.mark.parametrize("word", ["lr", "eps", "weight_decay", "betas"])
def test_bounds_hold_in_every_group(word):
    bad = (0.9, 1.5) if word == "betas" else -1.0
    with pytest.raises(HyperparameterError, match=f"Adam: {word} must be"):
        optim.Adam([{"params": parameters()}, {"params": parameters(), word: bad}])
    optimizer = optim.Adam(parameters())
    with pytest.raises(HyperparameterError, match=f"Adam: {word} must be"):
        optimizer.add_param_group({"params": parameters(), word: bad})
    assert len(optimizer.param_groups) == 1


def test_bounds_hold_for_defaults_that_every_group_overrides():
    for module in (optim, torch.optim):
        with pytest.raises(ValueError, match=r"lr|learning rate"):
            module.SGD([{"params": parameters(), "lr": 0.1}], lr=-1.0)


def test_nesterov_is_checked_in_every_group():
    with pytest.raises(HyperparameterError, match=r"nesterov needs momentum > 0 and dampening = 0"):
        optim.SGD([{"params": parameters(), "nesterov": True}], lr=0.1)


MISSPELT = [
    ("SGD", "momentun", "momentum"),
    ("SGD", "learning_rate", None),
    ("SGD", "weight_deacy", "weight_decay"),
    ("Adam", "beta", "betas"),
    ("Adam", "amsgrd", "amsgrad"),
    ("Adam", "clipnorm", "clip_norm"),
    ("AdamW", "decoupled_weight_decay", "weight_decay"),
    ("SGD", "capturable", None),
]


@pytest.mark.parametrize(("name", "word", "meant"), MISSPELT)
def test_an_unknown_argument_is_a_type_error_with_a_hint(name, word, meant):
    with pytest.raises(TypeError, match=rf"{name}\(\) got an unknown argument '{word}'") as error:
        getattr(optim, name)(parameters(), **{word: 0.1})
    assert str(error.value).endswith(f" (did you mean {meant!r}?)" if meant else "skip_nonfinite")
    with pytest.raises(TypeError):
        getattr(torch.optim, name)(parameters(), **{word: 0.1})


@pytest.mark.parametrize(("word", "meant"), [("weight_deacy", "weight_decay"), ("betass", "betas")])
def test_a_misspelt_key_of_a_group_is_refused(word, meant):
    with pytest.raises(HyperparameterError, match=f"no '{word}' .did you mean '{meant}'"):
        optim.Adam([{"params": parameters(), word: 0.1}])


@pytest.mark.parametrize("word", ["name", "initial_lr", "max_lr", "layer", "swa_lr", "momentum"])
def test_a_groups_own_keys_stay(word):
    optimizer = optim.Adam([{"params": parameters(), word: 0.1}])
    assert optimizer.param_groups[0][word] == 0.1


def test_errors_are_value_errors():
    assert issubclass(HyperparameterError, SteepestError)
    assert issubclass(SteepestError, ValueError)


def test_too_many_positional_arguments():
    for module in (optim, torch.optim):
        with pytest.raises(TypeError):
            module.SGD(parameters(), 0.1, 0.9, 0.0, 0.0, False, True)
