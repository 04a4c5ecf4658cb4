"""The options that parity with torch is tested for: rows of keyword arguments, by optimizer."""

import itertools

import pytest


def rows(**options):
    """Every combination of options, as keyword arguments."""
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


MOMENTS = rows(weight_decay=[0.0, 0.1], amsgrad=[False, True], maximize=[False, True])
ROWS = {
    "SGD": [
        *rows(momentum=[0.0, 0.9], weight_decay=[0.0, 0.1], maximize=[False, True], lr=[0.01]),
        *rows(momentum=[0.9], dampening=[0.3], weight_decay=[0.0, 0.1]),
        *rows(momentum=[0.9], nesterov=[True], weight_decay=[0.0, 0.1], maximize=[False, True]),
    ],
    "Adam": [
        *MOMENTS,
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
        {"betas": (0.0, 0.999)},
        {"betas": (0.9, 0.0), "eps": 1e-4},
        *rows(decoupled_weight_decay=[True], weight_decay=[0.0, 0.1], amsgrad=[False, True]),
    ],
    "AdamW": [*MOMENTS, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3}],
    "RMSprop": [
        *rows(momentum=[0.0, 0.9], centered=[False, True], weight_decay=[0.0, 0.1]),
        *rows(centered=[False, True], maximize=[True], alpha=[0.9], eps=[1e-3]),
    ],
    "Adagrad": [
        *rows(lr_decay=[0.0, 0.01], weight_decay=[0.0, 0.1], maximize=[False, True]),
        *rows(initial_accumulator_value=[0.0, 0.5], lr=[0.1], eps=[1e-3]),
    ],
    "Adadelta": [
        *rows(weight_decay=[0.0, 0.1], maximize=[False, True]),
        {"lr": 0.1, "rho": 0.5, "eps": 1e-3},
        {"rho": 0.0},
        {"rho": 1.0, "lr": 0.5},
    ],
    "Adamax": [
        *rows(weight_decay=[0.0, 0.1], maximize=[False, True]),
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
        {"betas": (0.0, 0.999)},
        {"betas": (0.9, 0.0), "eps": 1e-4},
    ],
    "NAdam": [
        *rows(weight_decay=[0.0, 0.1], decoupled_weight_decay=[False, True]),
        *rows(weight_decay=[0.1], decoupled_weight_decay=[False, True], maximize=[True]),
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
        {"betas": (0.0, 0.999), "momentum_decay": 0.5},
        {"betas": (0.9, 0.0), "eps": 1e-4, "momentum_decay": 0.0},
    ],
    "ASGD": [
        *rows(weight_decay=[0.0, 0.1], maximize=[False, True]),
        {"lr": 0.1, "lambd": 0.1, "alpha": 0.5, "t0": 50},
        {"t0": 150, "weight_decay": 0.1},
        {"t0": -10.0, "lambd": 0.0},
    ],
    "RAdam": [
        *rows(weight_decay=[0.0, 0.1], decoupled_weight_decay=[False, True]),
        *rows(weight_decay=[0.1], decoupled_weight_decay=[False, True], maximize=[True]),
        {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3},
        {"betas": (0.9, 0.5)},
    ],
    "Rprop": [
        *rows(maximize=[False, True]),
        {"lr": 0.1, "etas": (0.3, 1.5)},
        {"lr": 0.1, "step_sizes": (0.05, 0.2)},
        {"lr": 1.0, "step_sizes": (1e-3, 0.5)},
    ],
}
"""Each alone, and together where one changes what another does."""

RICH = [
    pytest.param("SGD", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, id="SGD rich"),
    pytest.param("Adam", {"amsgrad": True, "weight_decay": 0.1}, id="Adam rich"),
    pytest.param("AdamW", {"amsgrad": True, "maximize": True}, id="AdamW rich"),
    pytest.param("RMSprop", {"centered": True, "momentum": 0.9}, id="RMSprop rich"),
    pytest.param("Adagrad", {"lr_decay": 0.1, "initial_accumulator_value": 0.5}, id="Adagrad rich"),
    pytest.param("Adadelta", {"weight_decay": 0.1, "maximize": True}, id="Adadelta rich"),
    pytest.param("Adamax", {"weight_decay": 0.1, "maximize": True}, id="Adamax rich"),
    pytest.param("RAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}, id="RAdam rich"),
    pytest.param("NAdam", {"weight_decay": 0.1, "decoupled_weight_decay": True}, id="NAdam rich"),
    pytest.param("ASGD", {"lambd": 0.1, "t0": 3, "maximize": True}, id="ASGD rich"),
    pytest.param("Rprop", {"lr": 0.1, "etas": (0.3, 1.5), "maximize": True}, id="Rprop rich"),
]
"""Options that make an optimizer keep all the state that it can."""
