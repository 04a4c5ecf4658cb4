"""Random walks: what may happen to parameters, gradients and state between steps, happens.

Every walk is done twice with the same draws, by kernels and by the reference (`fused=False`), and
numbers are compared after each step. By hand, for longer: python tests/optim/test_fuzz.py 600
"""

import contextlib
import copy
import gc
import random
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from steepest import optim
from steepest.errors import StateError
from steepest.kernels import launch

OPTIMIZERS = {
    "SGD": {"lr": 0.1, "momentum": 0.9},
    "Adam": {"lr": 0.01},
    "AdamW": {"lr": 0.01, "amsgrad": True},
    "RMSprop": {"lr": 0.01, "momentum": 0.5},
    "Adagrad": {"lr": 0.1, "initial_accumulator_value": 0.1},
    "Adadelta": {},
    "Adamax": {"lr": 0.01},
    "RAdam": {"lr": 0.01},
    "Rprop": {},
    "Lion": {"weight_decay": 0.1},
    "AdaBelief": {"lr": 0.01},
    "Adan": {"lr": 0.01, "weight_decay": 0.1},
    "AdEMAMix": {"lr": 0.01, "alpha_warmup": 20, "beta3_warmup": 20},
}
FLAGS = {
    "SGD": ("maximize", "nesterov"),
    "Adam": ("maximize", "amsgrad"),
    "AdamW": ("maximize", "amsgrad"),
}
COUNTS = ("step", "n_averaged")
SHAPES = [(), (1,), (0,), (3, 5), (5, 3), (17,), (129,), (64, 33), (2, 3, 4, 5), (3, 1, 2)]


class Subclass(torch.Tensor):
    """A tensor that no kernel may take for a plain one."""


class Side:
    """One of two optimizers that live through the same."""

    def __init__(self, name, fused, seed):
        self.name, self.fused = name, fused
        self.params = []
        self.draw(seed)
        self.params = [self.parameter() for _ in range(4)]
        self.opt = getattr(optim, name)(self.params, fused=fused, **OPTIMIZERS[name])

    def draw(self, seed):
        """Begin the draws of an operation, the same on both sides."""
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)

    def randn(self, shape, dtype=torch.float32):
        return torch.randn(shape, dtype=dtype, generator=self.generator)

    def parameter(self):
        return nn.Parameter(self.randn(self.random.choice(SHAPES)))

    def like(self, p):
        return self.randn(p.shape, p.dtype)

    def one(self):
        return self.random.choice(self.params)

    def forget(self, p):
        p.grad = None
        self.opt.state.pop(p, None)

    def state(self):
        """A parameter's state entry at random, or None."""
        entries = [
            (p, k) for p in self.params if p in self.opt.state for k in self.opt.state[p]
            if k not in COUNTS and isinstance(self.opt.state[p][k], torch.Tensor)
        ]  # fmt: skip
        return self.random.choice(entries) if entries else None


# ---- gradients ----------------------------------------------------------------------------------


def grads_anew(side):
    for p in side.params:
        p.grad = side.like(p)


def grads_in_place(side):
    for p in side.params:
        if p.grad is not None and p.grad.layout is torch.strided:
            p.grad = p.grad.clone()
            p.grad.mul_(0.5)


def grads_by_backward(side):
    for p in side.params:
        p.grad = None
    used = [p for p in side.params if p.requires_grad and side.random.random() < 0.8]
    if used:
        sum((p * side.like(p)).sum().double() for p in used).backward()


def grads_none(side):
    for p in side.params:
        if side.random.random() < 0.5:
            p.grad = None


def grad_data(side):
    p = side.one()
    if p.grad is not None and p.grad.layout is torch.strided:
        p.grad.data = side.like(p)


def grad_transposed(side):
    p = side.one()
    p.grad = side.randn(tuple(reversed(p.shape)), p.dtype).permute(tuple(reversed(range(p.dim()))))


def grad_expanded(side):
    p = side.one()
    p.grad = side.randn((), p.dtype).expand(p.shape)


def grad_with_gaps(side):
    p = side.one()
    p.grad = side.randn((*p.shape, 2), p.dtype)[..., 0]


def grad_sparse(side):
    p = side.one()
    if p.dim() == 2:
        p.grad = side.like(p).to_sparse()


def grad_negative_view(side):
    p = side.one()
    z = torch.complex(side.like(p), side.like(p))
    p.grad = z.conj().imag


def grad_subclass(side):
    p = side.one()
    p.grad = side.like(p).as_subclass(Subclass)


def grad_aliases(side):
    p, q = side.one(), side.one()
    if p.shape == q.shape and p.dtype == q.dtype:
        p.grad = q.detach()


def grad_lazily_cloned(side):
    p = side.one()
    side.kept = side.like(p)
    p.grad = torch._lazy_clone(side.kept)


def grad_freed_and_reused(side):
    for p in side.params:
        p.grad = None
    gc.collect()
    for p in side.params:
        p.grad = side.like(p)


# ---- parameters ---------------------------------------------------------------------------------


def data_moved(side):
    p = side.one()
    p.data = p.data.clone()


def data_resized(side):
    p = side.one()
    side.forget(p)
    p.data = side.randn(side.random.choice(SHAPES), p.dtype)
    p.grad = side.like(p)


def data_smaller_at_the_same_address(side):
    p = side.one()
    if p.dim() == 2 and p.is_contiguous() and p.shape[0] > 1:
        side.forget(p)
        p.data = p.data[:-1]
        p.grad = side.like(p)


def data_other_shape_at_the_same_address(side):
    p = side.one()
    if p.dim() == 2 and p.is_contiguous():
        side.forget(p)
        p.data = p.data.view(p.shape[1], p.shape[0])
        p.grad = side.like(p)


def data_set(side):
    p = side.one()
    p.data.set_(side.like(p))


def storage_resized(side):
    p = side.one()
    if p.is_contiguous() and p.numel() and not p.is_shared():  # torch crashes on shared ones
        with torch.no_grad():
            p.untyped_storage().resize_(p.untyped_storage().nbytes() * 2)


def strides_turned(side):
    p = side.one()
    if p.dim() >= 2:
        p.data = p.data.transpose(0, 1).contiguous().transpose(0, 1)
        p.grad = side.like(p)


def channels_last(side):
    for p in side.params:
        if p.dim() == 4:
            side.forget(p)
            p.data = p.data.contiguous(memory_format=torch.channels_last)
            p.grad = side.like(p).contiguous(memory_format=torch.channels_last)


def swapped(side):
    p = side.one()
    new = nn.Parameter(side.like(p))
    p.grad = None
    torch.utils.swap_tensors(p, new)
    p.grad = side.like(p)


def dtype_changed(side):
    dtype = side.random.choice([torch.float32, torch.float64])
    for p in side.params:
        p.data = p.data.to(dtype)
        p.grad = None
        for key, value in side.opt.state.get(p, {}).items():
            if key != "step" and value is not None:
                side.opt.state[p][key] = value.to(dtype)
        p.grad = side.like(p)


def shared_memory(side):
    side.one().share_memory_()


def requires_grad(side):
    p = side.one()
    p.requires_grad_(not p.requires_grad)


def two_in_one_memory(side):
    p, q = side.one(), side.one()
    if p is not q and p.numel() and q.numel():
        side.forget(p)
        p.data = q.data.reshape(-1)[side.random.randrange(2) :].to(q.dtype)
        p.grad = side.like(p)


def apart_again(side):
    for group in side.opt.param_groups:
        group["fused"] = side.fused
    for p in side.params:
        p.data = p.data.clone(memory_format=torch.contiguous_format)
        p.grad = side.like(p)
        entry = side.opt.state.get(p, {})
        for key, value in entry.items():
            if key == "step":
                entry[key] = torch.tensor(float(value))
            elif value is not None:
                entry[key] = value.to(p.dtype, copy=True, memory_format=torch.contiguous_format)


def lazily_cloned(side):
    p = side.one()
    with contextlib.suppress(RuntimeError):  # torch cannot where memory is shared
        side.kept = torch._lazy_clone(p.detach())


# ---- state --------------------------------------------------------------------------------------


def state_replaced(side):
    if found := side.state():
        p, key = found
        side.opt.state[p][key] = side.opt.state[p][key].clone()


def state_data(side):
    if found := side.state():
        p, key = found
        side.opt.state[p][key].data = side.like(p).abs()


def state_in_gaps(side):
    if found := side.state():
        p, key = found
        wide = side.randn((*p.shape, 2), p.dtype).abs()
        side.opt.state[p][key] = wide[..., 0]


def state_deleted(side):
    p = side.one()
    if p in side.opt.state:
        del side.opt.state[p]


def state_cleared(side):
    side.opt.state.clear()


def state_plain_dict(side):
    p = side.one()
    if p in side.opt.state:
        side.opt.state[p] = {k: copy.deepcopy(v) for k, v in side.opt.state[p].items()}


def state_shared_by_two(side):
    if found := side.state():
        p, key = found
        for q in side.params:
            entry = side.opt.state.get(q, {})
            if q is not p and q.shape == p.shape and q.dtype == p.dtype and key in entry:
                side.opt.state[q][key] = side.opt.state[p][key]


def step_changed(side):
    for entry in side.opt.state.values():
        if isinstance(entry.get("step"), torch.Tensor):
            entry["step"].fill_(side.random.randrange(1, 50))
            break


def step_as_number(side):
    for entry in side.opt.state.values():
        if "step" in entry:
            entry["step"] = float(entry["step"])
            break


def step_shared(side):
    entries = [entry for entry in side.opt.state.values() if "step" in entry]
    if len(entries) > 1:
        entries[0]["step"] = entries[1]["step"]


def step_float64(side):
    for entry in side.opt.state.values():
        if "step" in entry:
            entry["step"] = torch.tensor(float(entry["step"]), dtype=torch.float64)
            break


def state_loaded(side):
    with contextlib.suppress(StateError):  # amsgrad turned on since the last step
        side.opt.load_state_dict(copy.deepcopy(side.opt.state_dict()))
    for group in side.opt.param_groups:
        group["fused"] = side.fused


def copied(side):
    side.params, side.opt = copy.deepcopy((side.params, side.opt))


# ---- groups -------------------------------------------------------------------------------------


def group_added(side):
    if len(side.params) < 8:
        p = side.parameter()
        p.grad = side.like(p)
        side.params.append(p)
        side.opt.add_param_group({"params": [p], "lr": 0.02})


def parameter_appended(side):
    if len(side.params) < 8:
        p = side.parameter()
        p.grad = side.like(p)
        side.params.append(p)
        side.opt.param_groups[0]["params"].append(p)


def parameter_exchanged(side):
    group = side.random.choice(side.opt.param_groups)
    if group["params"]:
        old, new = group["params"][0], side.parameter()
        side.forget(old)
        new.grad = side.like(new)
        side.params = [new if p is old else p for p in side.params]
        group["params"][0] = new


def parameter_removed(side):
    group = side.random.choice(side.opt.param_groups)
    if len(group["params"]) > 1:
        old = group["params"].pop()
        side.forget(old)
        side.params = [p for p in side.params if p is not old]
        gc.collect()


def group_replaced(side):
    side.opt.param_groups[0] = dict(side.opt.param_groups[0])


def lr_changed(side):
    side.random.choice(side.opt.param_groups)["lr"] = side.random.choice([0.0, 0.003, 0.05])


def decay_changed(side):
    group = side.random.choice(side.opt.param_groups)
    group["weight_decay"] = side.random.choice([0.0, 0.1])


def flag_toggled(side):
    group = side.random.choice(side.opt.param_groups)
    for flag in FLAGS.get(side.name, ("maximize",)):
        if side.random.random() < 0.5:
            group[flag] = not group[flag]


def fused_toggled(side):
    if side.fused is not False:
        group = side.random.choice(side.opt.param_groups)
        group["fused"] = None if group.get("fused") is False else False


# ---- options ------------------------------------------------------------------------------------


def clip_value_changed(side):
    side.opt.clip_value = side.random.choice([None, 0.1, 1.0])


def clip_norm_changed(side):
    side.opt.clip_norm = side.random.choice([None, 0.5, 5.0])


def built_with_other_options(side):
    """A checkpoint goes on in an optimizer that does more, or less, besides its formula."""
    draw = side.random
    options = {
        "average": draw.choice([None, "ema", "mean"]), "norms": draw.random() < 0.5,
        "zero_grad": draw.random() < 0.3, "skip_nonfinite": draw.random() < 0.3,
        "clip_value": draw.choice([None, 1.0]),
    }  # fmt: skip
    groups = [dict(group) for group in side.opt.param_groups]
    entries = {p: dict(entry) for p, entry in side.opt.state.items()}
    side.opt = type(side.opt)(groups, fused=side.fused, **options)
    side.opt.state.clear()
    side.opt.state.update(entries)


def gradient_not_finite(side):
    p = side.one()
    if p.grad is not None and p.grad.layout is torch.strided and p.numel():
        p.grad = p.grad.clone()
        p.grad.view(-1)[0] = side.random.choice([float("nan"), float("inf")])


def looked_at_averages(side):
    with contextlib.suppress(StateError), side.opt.averaged():
        pass


OPERATIONS = [
    clip_value_changed, clip_norm_changed, built_with_other_options, gradient_not_finite,
    looked_at_averages, grads_anew, grads_in_place, grads_by_backward, grads_none, grad_data,
    grad_transposed,
    grad_expanded, grad_with_gaps, grad_sparse, grad_negative_view, grad_subclass, grad_aliases,
    grad_lazily_cloned, grad_freed_and_reused, data_moved, data_resized,
    data_smaller_at_the_same_address, data_other_shape_at_the_same_address, data_set,
    storage_resized, strides_turned, channels_last, swapped, dtype_changed, shared_memory,
    requires_grad, two_in_one_memory, apart_again, lazily_cloned, state_replaced, state_data,
    state_in_gaps, state_deleted, state_cleared, state_plain_dict, state_shared_by_two,
    step_changed, step_as_number, step_shared, step_float64, state_loaded, copied, group_added,
    parameter_appended, parameter_exchanged, parameter_removed, group_replaced, lr_changed,
    decay_changed, flag_toggled, fused_toggled,
]  # fmt: skip
COMMON = [grads_anew, grads_by_backward, data_moved, grads_none, apart_again]


def outcome(side):
    """Step, and return the error where there is one."""
    try:
        side.opt.step()
    except RuntimeError as error:
        return type(error)
    return None


def compare(ours, twin, trail):
    """Compare every number, then make the twin's equal: an error shows in the step that made it."""
    for p, q in zip(ours.params, twin.params, strict=True):
        there, here = twin.opt.state.get(q, {}), ours.opt.state.get(p, {})
        assert here.keys() == there.keys(), trail
        pairs = [(p.detach(), q.detach())]
        pairs += [(here[k], there[k]) for k in here if here[k] is not None]
        for mine, reference in pairs:
            mine, reference = torch.as_tensor(mine), torch.as_tensor(reference)
            assert (mine.dtype, mine.shape) == (reference.dtype, reference.shape), trail
            rtol = 1e-4 if mine.dtype is torch.float32 else 1e-9
            assert torch.allclose(mine, reference, rtol=rtol, atol=rtol, equal_nan=True), trail
    mine, reference = ours.opt.norms, twin.opt.norms
    assert (mine is None) is (reference is None), trail
    if mine is not None:
        for kind in ("gradient", "parameter", "update", "nonfinite"):
            pair = (getattr(mine, kind), getattr(reference, kind))
            assert np.allclose(*pair, rtol=1e-3, atol=1e-3, equal_nan=True), (kind, pair, trail)
    for side in (ours, twin):
        for p, q in zip(side.params, ours.params, strict=True):
            sound = q.detach().clone().nan_to_num(1.0, 1.0, -1.0).clamp(-100, 100)
            p.data.copy_(sound)
            for key, value in ours.opt.state.get(q, {}).items():
                if key != "step" and value is not None:
                    side.opt.state[p][key].copy_(value.clone().nan_to_num(1.0, 1.0, 1.0))


def walk(name, seed, rounds):
    """Live through `rounds` of random operations, a step after each."""
    ours, twin = Side(name, None, seed), Side(name, False, seed)
    chosen, trail, served = random.Random(seed), [], 0
    for side in (ours, twin):
        grads_anew(side)
    for k in range(rounds):
        operations = [chosen.choice(COMMON)] if chosen.random() < 0.4 else []
        operations += [chosen.choice(OPERATIONS) for _ in range(chosen.randrange(3))]
        for operation in operations:
            trail.append(operation.__name__)
            for side in (ours, twin):
                side.draw(1000 * seed + k)
                operation(side)
        trail.append("step")
        assert outcome(ours) == outcome(twin), (name, seed, trail[-12:])
        served += bool(ours.opt._update and ours.opt._update.launches)
        compare(ours, twin, f"{name}, seed {seed}: {trail[-12:]}")
    return served


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_random_walk(name, seed, monkeypatch):
    if seed % 2:  # small works too go to several threads, in many chunks
        monkeypatch.setattr(launch, "PARALLEL", 100)
        monkeypatch.setattr(launch, "CHUNK", 32)
    assert walk(name, seed, 50) > 15


if __name__ == "__main__":
    deadline, seed = time.monotonic() + float(sys.argv[1]), 1000
    while time.monotonic() < deadline:
        launch.PARALLEL, launch.CHUNK = ((1 << 16), 32_768) if seed % 2 else (100, 32)
        for name in OPTIMIZERS:
            walk(name, seed, 150)
        seed += 1
    print(f"{seed - 1000} seeds for each of {len(OPTIMIZERS)} optimizers: all equal")
