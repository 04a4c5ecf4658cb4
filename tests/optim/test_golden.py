"""Golden trajectories: every optimizer, step by step, is what its paper's equations say.

equations.py is the independent truth: it catches a wrong formula, where the parity of a kernel with
its reference cannot and torch has nothing to compare with.
"""

import inspect
import itertools
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from steepest import optim

equations = runpy.run_path(str(Path(__file__).parent / "equations.py"))


def rows(**options):
    """Every combination of options, as keyword arguments."""
    return [
        dict(zip(options, values, strict=True)) for values in itertools.product(*options.values())
    ]


DECAY = {"weight_decay": [0.0, 0.3]}
MAXIMIZE = {"maximize": [False, True]}
WIDE = {"lr": 0.1, "betas": (0.6, 0.7), "eps": 0.1}
"""Numbers that make everything matter: a fresh mean, a second moment that falls, a large eps."""
FALL = rows(**DECAY, **MAXIMIZE)
AMSGRAD = rows(**{k: [v] for k, v in WIDE.items()}, amsgrad=[False, True], **DECAY, **MAXIMIZE)
ROWS = {
    "SGD": [
        {},
        *rows(lr=[0.1], momentum=[0.0, 0.9], **DECAY, **MAXIMIZE),
        *rows(lr=[0.1], momentum=[0.9], dampening=[0.4], **DECAY),
        *rows(lr=[0.1], momentum=[0.9], nesterov=[True], **DECAY, **MAXIMIZE),
    ],
    "Adam": [{}, *AMSGRAD, WIDE | {"weight_decay": 0.3, "decoupled_weight_decay": True}],
    "AdamW": [{}, *AMSGRAD],
    "RMSprop": [
        {},
        *rows(lr=[0.1], alpha=[0.7], eps=[0.1], centered=[False, True], **DECAY, **MAXIMIZE),
        *rows(momentum=[0.8], centered=[False, True], **DECAY),
    ],
    "Adagrad": [
        {},
        *rows(lr=[0.1], lr_decay=[0.0, 0.5], eps=[0.1], **DECAY, **MAXIMIZE),
        {"initial_accumulator_value": 0.5, "lr_decay": 0.5},
    ],
    "Adadelta": [{}, *rows(lr=[0.5], rho=[0.6], eps=[0.1], **DECAY, **MAXIMIZE)],
    "Adamax": [{}, *({**WIDE, **row} for row in rows(**DECAY, **MAXIMIZE))],
    "RAdam": [
        {},
        *({"lr": 0.1, "eps": 0.1, **row} for row in rows(**DECAY, **MAXIMIZE)),
        *rows(lr=[0.1], weight_decay=[0.3], decoupled_weight_decay=[True], **MAXIMIZE),
        {"betas": (0.6, 0.9)},
        {"betas": (0.6, 0.5)},
    ],
    "Rprop": [
        *rows(**MAXIMIZE),
        {"lr": 0.1, "etas": (0.3, 1.5)},
        {"lr": 0.1, "step_sizes": (0.09, 0.11)},
        {"lr": 1.0, "step_sizes": (0.01, 0.5)},
    ],
    "Muon": [
        {},
        *rows(lr=[0.1], momentum=[0.6], nesterov=[False, True], weight_decay=[0.0, 0.3]),
        {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw", "eps": 100.0},
        {"lr": 0.1, "ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3, "adjust_lr_fn": "original"},
    ],
    "Adafactor": [
        {},
        *rows(lr=[0.6], beta2_decay=[-0.5], d=[1.0, 1.3], **DECAY, **MAXIMIZE),
        *rows(lr=[0.1], eps=[(0.6, 2.0), (None, 2.0)]),
    ],
    "NAdam": [
        {},
        *({**WIDE, "momentum_decay": 3.0, **row} for row in rows(**DECAY, **MAXIMIZE)),
        WIDE | {"weight_decay": 0.3, "decoupled_weight_decay": True},
    ],
    "ASGD": [{}, *rows(lr=[0.1], lambd=[0.5], alpha=[0.6], t0=[2], **DECAY, **MAXIMIZE)],
    "LAMB": [{}, *({**WIDE, "bias_correction": b, **row} for b in (True, False) for row in FALL)],
    "LARS": [
        {},
        *rows(lr=[0.5], trust_coefficient=[0.2], momentum=[0.0, 0.7], **DECAY, **MAXIMIZE),
        {"lr": 0.5, "trust_coefficient": 0.2, "nesterov": True},
        {"lr": 0.5, "trust_coefficient": 0.2, "dampening": 0.4},
    ],
    "CautiousAdamW": [{}, *({**WIDE, **row} for row in FALL)],
    "CautiousLion": [{}, *rows(lr=[0.1], betas=[(0.6, 0.7), (0.9, 0.5)], **DECAY, **MAXIMIZE)],
    "ScheduleFreeSGD": [
        {},
        *rows(lr=[0.1], momentum=[0.7], warmup_steps=[0, 4], **DECAY, **MAXIMIZE),
        *rows(lr=[0.1], warmup_steps=[4], r=[0.0, 1.5], weight_lr_power=[0.0, 1.0]),
    ],
    "ScheduleFreeAdamW": [
        {},
        *({**WIDE, "warmup_steps": n, **row} for n in (0, 4) for row in FALL),
        *rows(lr=[0.1], warmup_steps=[4], r=[0.0, 1.5], weight_lr_power=[0.0, 1.0]),
    ],
    "SOAP": [
        {},
        *rows(**{k: [v] for k, v in WIDE.items()}, precondition_frequency=[1, 3], **DECAY),
        *rows(
            lr=[0.1],
            shampoo_beta=[0.5],
            precondition_frequency=[2],
            max_precondition_dim=[2, 3, 4],
            **MAXIMIZE,
        ),
    ],
    "Lion": [{}, *rows(lr=[0.1], betas=[(0.6, 0.7), (0.9, 0.5)], **DECAY, **MAXIMIZE)],
    "AdaBelief": [
        {},
        *AMSGRAD,
        *({**row, "decoupled_weight_decay": False} for row in AMSGRAD if row["weight_decay"]),
    ],
    "Adan": [
        {},
        *rows(
            lr=[0.1], betas=[(0.6, 0.7, 0.8)], eps=[0.1], no_prox=[False, True], **DECAY, **MAXIMIZE
        ),
    ],
    "AdEMAMix": [
        {},
        *rows(lr=[0.1], betas=[(0.6, 0.7, 0.9)], eps=[0.1], alpha=[5.0], **DECAY, **MAXIMIZE),
        *rows(beta3_warmup=[None, 4, 100], alpha_warmup=[None, 5, 100]),
    ],
}
CASES = [
    pytest.param(name, options, id=f"{name}-" + "-".join(f"{k}={v}" for k, v in options.items()))
    for name, table in ROWS.items()
    for options in table
]
ROUGH = {"Muon": 0.1}
"""How far from the equations, in units of lr, one that torch has in bfloat16 may end."""
STEPS = 7
"""RAdam's mean of squares serves from the sixth on."""
SKIPPED = 2
"""The step, from 0, at which the second parameter has no gradient: it counts its own updates."""


def numbers():
    """Return two parameters, and gradients that grow, shrink, turn and vanish."""
    draws = np.random.default_rng(5)
    start = draws.standard_normal((2, 3, 4))
    sizes = np.array([1.0, 4.0, 0.1, 2.0, 0.01, 1.0, 0.3])[:STEPS, None, None, None]
    grads = sizes * (0.5 + draws.standard_normal((STEPS, 2, 3, 4)))
    grads[1:3, :, 0, 0] = grads[0, :, 0, 1] = 0.0
    return start, grads


def test_every_optimizer_has_rows():
    classes = inspect.getmembers(optim, inspect.isclass)
    found = [name for name, cls in classes if getattr(cls, "formula", None)]
    found.remove("SparseAdam")  # takes no dense gradients: test_sparse.py
    found.remove("Prodigy")  # sees all parameters at once: below
    assert sorted(found) == sorted(ROWS)
    assert set(found) <= set(optim.__all__)


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_every_step_is_what_the_equations_say(name, options, fused):
    """Two groups: the second has half the lr, and misses a step."""
    start, grads = numbers()
    kind, truth = getattr(optim, name), equations[name.lower()]
    lr = options.get("lr", inspect.signature(kind).parameters["lr"].default)
    params = [nn.Parameter(torch.tensor(values)) for values in start]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": lr / 2}]
    optimizer = kind(groups, **options, fused=fused)
    found = []
    for t, both in enumerate(grads):
        for p, g in zip(params, both, strict=True):
            p.grad = torch.tensor(g)
        if t == SKIPPED:
            params[1].grad = None
        optimizer.step()
        found.append([p.detach().numpy().copy() for p in params])

    first = list(truth(start[0], grads[:, 0], **options))
    second = list(
        truth(start[1], np.delete(grads[:, 1], SKIPPED, axis=0), **{**options, "lr": lr / 2})
    )
    second.insert(SKIPPED, second[SKIPPED - 1])
    for t, (now, *wanted) in enumerate(zip(found, first, second, strict=True), 1):
        far = {"rtol": 1e-12, "atol": max(1e-12, lr * ROUGH.get(name, 0.0))}
        np.testing.assert_allclose(now, wanted, **far, err_msg=f"step {t}")


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize(
    ("name", "options"), [pytest.param(*c.values, id=c.id) for c in CASES if "Free" in c.id]
)
def test_what_a_schedule_free_training_comes_to_is_what_the_equations_say(name, options, fused):
    """By `averaged()`, and by `eval()`, out of which `train()` leads back to where it learned."""
    start, grads = numbers()
    p = nn.Parameter(torch.tensor(start[0]))
    optimizer = getattr(optim, name)([p], **options, fused=fused)
    for t, x in enumerate(equations[name.lower()](start[0], grads[:, 0], **options, result=True)):
        p.grad = torch.tensor(grads[t, 0])
        optimizer.step()
        learning = p.detach().clone()
        with optimizer.averaged():
            np.testing.assert_allclose(p.detach(), x, rtol=1e-12, atol=1e-12)
        assert torch.equal(p, learning)
        optimizer.eval()
        np.testing.assert_allclose(p.detach(), x, rtol=1e-12, atol=1e-12)
        optimizer.train()
        torch.testing.assert_close(p.detach(), learning, rtol=1e-12, atol=1e-12)


PRODIGY = [
    {},
    *rows(d0=[0.1], betas=[(0.6, 0.7)], eps=[0.1], decouple=[False, True], **DECAY, **MAXIMIZE),
    *rows(
        d0=[0.01], d_coef=[9.0], use_bias_correction=[False, True], safeguard_warmup=[False, True]
    ),
    {"d0": 0.01, "d_coef": 2.0, "growth_rate": 1.1, "beta3": 0.5},
]


@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize("options", PRODIGY, ids=str)
def test_every_step_of_prodigy_is_what_the_equations_say(options, fused):
    """Three parameters, two groups; the second misses a step, the third begins later. Slopes keep
    their signs, so that the step size grows."""
    start, grads = numbers()
    start = [*start, start[0] / 2]
    grads = [[*both, both[0] + both[1]] for both in 1 + abs(grads)]
    params = [nn.Parameter(torch.tensor(values)) for values in start]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5}]
    optimizer = optim.Prodigy(groups, **options, fused=fused)
    grads[SKIPPED][1] = grads[0][2] = grads[1][2] = None
    wanted = equations["prodigy"](start, grads, [1.0, 0.5, 0.5], **options)
    for t, (slopes, truth) in enumerate(zip(grads, wanted, strict=True), 1):
        for p, g in zip(params, slopes, strict=True):
            p.grad = None if g is None else torch.tensor(g)
        optimizer.step()
        for p, theta in zip(params, truth, strict=True):
            np.testing.assert_allclose(p.detach(), theta, rtol=1e-11, atol=1e-11, err_msg=f"{t}")
    assert len({float(optimizer.state[p]["d"]) for p in params}) == 1
    assert float(optimizer.state[params[0]]["d"]) > options.get("d0", 1e-6)
