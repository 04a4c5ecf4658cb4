"""Optimizers beyond torch give the numbers of the packages that people installed for them."""

import prodigyopt
import pytest
import pytorch_optimizer
import schedulefree
import torch
from torch import nn

from steepest import optim

BETAS = {"betas": (0.8, 0.9)}
THREE = {"betas": (0.8, 0.7, 0.9)}
DECAY = {"lr": 0.1, "weight_decay": 0.3}
FIXED = {"precondition_frequency": 20}
MAXIMIZE = {"maximize": True}
BETA = {"momentum": 0.8}
LAMB = {"eps": 1e-30, "bias_correction": False}
LARS = DECAY | {"trust_coefficient": 0.1}
PRODIGY = {"d0": 0.01, "d_coef": 9.0}
PACKAGES = {
    "LAMB": pytorch_optimizer.Lamb,
    "Prodigy": prodigyopt.Prodigy,
    "ScheduleFreeSGD": schedulefree.SGDScheduleFree,
    "ScheduleFreeAdamW": schedulefree.AdamWScheduleFree,
}
"""What pytorch_optimizer has under another name, in float32 alone, or with an eps too many."""
DEBIASED = {"weight_decouple": False, "adam_debias": True}
ROWS = [
    # The package keeps the moments' bias, bounds norms by 10 and adds eps to one: 1e-30 is none.
    ("LAMB", LAMB, DEBIASED),
    ("LAMB", LAMB | DECAY | BETAS | MAXIMIZE, DEBIASED),
    ("LARS", {}, {}),
    ("LARS", LARS | BETA | {"dampening": 0.4} | MAXIMIZE, {}),
    ("LARS", LARS | BETA | {"nesterov": True}, {}),
    ("LARS", LARS | {"momentum": 0.0}, {}),
    ("ScheduleFreeSGD", {}, {}),
    ("ScheduleFreeSGD", DECAY | BETA | {"warmup_steps": 9, "r": 1.5}, {}),
    ("ScheduleFreeSGD", {"weight_lr_power": 1.0, "warmup_steps": 30}, {}),
    ("ScheduleFreeAdamW", {}, {}),
    ("ScheduleFreeAdamW", DECAY | BETAS | {"eps": 0.1, "warmup_steps": 9, "r": 1.5}, {}),
    ("ScheduleFreeAdamW", {"weight_lr_power": 1.0, "warmup_steps": 30}, {}),
    ("Prodigy", {}, {}),
    ("Prodigy", PRODIGY | BETAS, {}),
    ("Prodigy", PRODIGY | DECAY | {"use_bias_correction": True}, {}),
    ("Prodigy", PRODIGY | DECAY | {"decouple": False, "safeguard_warmup": True}, {}),
    ("Prodigy", PRODIGY | {"growth_rate": 1.02, "beta3": 0.9, "betas": (0.5, 0.9)}, {}),
    ("Lion", {}, {}),
    ("Lion", DECAY | BETAS | MAXIMIZE, {}),
    ("AdaBelief", {}, {}),
    ("AdaBelief", {"eps": 0.1} | BETAS | MAXIMIZE, {}),
    ("AdaBelief", DECAY, {}),
    ("AdaBelief", DECAY | {"decoupled_weight_decay": False}, {"weight_decouple": False}),
    ("AdaBelief", BETAS | {"amsgrad": True}, {"ams_bound": True}),
    # No row maximizes with Adan: the package's first change of the gradient is then -2 g, not 0.
    ("Adan", {}, {}),
    ("Adan", DECAY | THREE | {"eps": 0.1}, {}),
    ("Adan", DECAY | {"no_prox": True}, {"weight_decouple": True}),
    ("AdEMAMix", {}, {"alpha": 2.0}),
    ("AdEMAMix", THREE | MAXIMIZE | {"alpha": 5.0, "eps": 0.1}, {}),
    # The paper decouples the weight decay, the package does when it is told to.
    ("AdEMAMix", DECAY, {"alpha": 2.0, "weight_decouple": True}),
    ("AdEMAMix", {"alpha": 5.0, "alpha_warmup": 10, "beta3_warmup": 10}, {"t_alpha_beta3": 10}),
    # A new order of the eigenvectors is the package's own: no basis is refined within 20 updates.
    ("SOAP", FIXED, {}),
    ("SOAP", DECAY | BETAS | FIXED | {"max_precondition_dim": 3, "shampoo_beta": 0.7}, {}),
    ("AdEMAMix", {"alpha": 5.0, "alpha_warmup": 99, "beta3_warmup": 99}, {"t_alpha_beta3": 99}),
]
"""The optimizer, our options, and those that the package has instead or by another default."""
OURS = {"decoupled_weight_decay", "amsgrad", "no_prox", "alpha_warmup", "beta3_warmup"}
OURS |= {"bias_correction"}
"""Options that the package calls something else."""


def parameters(dtype):
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 4), (17,), ()]
    return [nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in shapes]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("fused", [None, False], ids=["kernel", "reference"])
@pytest.mark.parametrize(("name", "options", "instead"), ROWS, ids=str)
def test_twenty_steps_as_the_package_makes_them(name, options, instead, fused, dtype, close):
    sides = [parameters(dtype), parameters(dtype)]
    shared = {word: value for word, value in options.items() if word not in OURS}
    optimizers = [
        getattr(optim, name)(sides[0], **options, fused=fused),
        (PACKAGES.get(name) or getattr(pytorch_optimizer, name))(sides[1], **shared, **instead),
    ]
    if name.startswith("ScheduleFree"):
        optimizers[1].train()
    for _ in range(20):
        grads = [torch.randn_like(p.detach()) for p in sides[0]]
        for optimizer, params in zip(optimizers, sides, strict=True):
            for p, g in zip(params, grads, strict=True):
                p.grad = g.clone()
            optimizer.step()
    for p, q in zip(*sides, strict=True):
        close(p.detach(), q.detach())
    if name.startswith("ScheduleFree"):
        for optimizer in optimizers:
            optimizer.eval()
        for p, q in zip(*sides, strict=True):
            close(p.detach(), q.detach())
