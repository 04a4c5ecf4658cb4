"""torch.distributed.checkpoint: save shards from two processes, load them in two and in one.

Run in two processes it saves, goes on, and goes on again from what was loaded; run in one after
that, it loads the same files into plain tensors and must end at the same parameters.
"""

from functools import partial

import torch
import torch.distributed.checkpoint as dcp
from group import (
    FOLDER,
    PAIRS,
    RANK,
    WORLD,
    Pair,
    assert_same_parameters,
    batches,
    model,
    process_group,
    train,
    whole,
)
from sharding import sharded
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

from steepest import optim

TAUGHT = {"lr": 0.03}
"""An option changed before saving: it must come back with the state."""


def falling(step):
    return 0.02 / (1 + step)


OPTIONS = {"lr": falling, "average": "ema", "average_decay": 0.8, "weight_decay": 0.1}
"""Options with a memory of their own: the average and its count, the schedule's step."""
PAIRS = [
    *PAIRS,
    Pair(
        "AdamW with options",
        partial(optim.AdamW, **OPTIONS),
        partial(optim.AdamW, **OPTIONS, fused=False),
    ),
]


def everything(net, optimizer):
    """The state by parameter names; makes the state of a fresh optimizer by a step of lr 0."""
    weights, state = get_state_dict(net, optimizer)
    return {"net": weights, "optimizer": state}


def load(net, optimizer, folder):
    found = everything(net, optimizer)
    dcp.load(found, checkpoint_id=folder)
    set_state_dict(
        net, optimizer, model_state_dict=found["net"], optim_state_dict=found["optimizer"]
    )
    for group in optimizer.param_groups:
        if "schedule_step" in group:
            assert group["schedule_step"] == 4
        else:
            assert {name: group[name] for name in TAUGHT} == TAUGHT


def teach(optimizer):
    for group in optimizer.param_groups:
        if "schedule_step" not in group:
            group.update(TAUGHT)


def fresh(pair):
    """A model of other numbers, and an optimizer that has not made a step."""
    net = sharded() if WORLD == 2 else model()
    with torch.no_grad():
        for p in net.parameters():
            p.fill_(0.5)
    return net, pair.ours(net.parameters())


def save_and_resume(pair):
    net = sharded()
    optimizer, data = pair.ours(net.parameters()), batches(8)
    train(net, optimizer, data[:4])
    teach(optimizer)
    dcp.save(everything(net, optimizer), checkpoint_id=FOLDER / pair.name)
    train(net, optimizer, data[4:])
    again, resumed = fresh(pair)
    load(again, resumed, FOLDER / pair.name)
    train(again, resumed, data[4:])
    for name, p in again.named_parameters():
        torch.testing.assert_close(p, dict(net.named_parameters())[name], rtol=0, atol=0)
    alone, theirs = uninterrupted(pair)
    assert_same_parameters(net, alone, pair.name)
    if getattr(optimizer, "averages", False):
        with resumed.averaged(), theirs.averaged():
            assert_same_parameters(again, alone, f"{pair.name} averaged")
    ended = {name: whole(p) for name, p in net.named_parameters()}
    if RANK == 0:
        torch.save(ended, FOLDER / f"{pair.name}.pt")


def uninterrupted(pair):
    """The reference in one process, on whole batches."""
    net, data = model(), batches(8, whole=True)
    optimizer = pair.reference(net.parameters())
    train(net, optimizer, data[:4])
    teach(optimizer)
    train(net, optimizer, data[4:])
    return net, optimizer


def resume_alone(pair):
    net, optimizer = fresh(pair)
    load(net, optimizer, FOLDER / pair.name)
    train(net, optimizer, batches(8, whole=True)[4:])
    ended = model()
    ended.load_state_dict(torch.load(FOLDER / f"{pair.name}.pt"))
    assert_same_parameters(net, ended, pair.name)


def lr_zero_changes_nothing(pair):
    """Making the state leaves parameters as they were, and no gradient behind."""
    net, optimizer = fresh(pair)
    everything(net, optimizer)
    assert all(bool((whole(p) == 0.5).all()) for p in net.parameters())
    assert all(p.grad is None for p in net.parameters())
    assert all(group.get("schedule_step", 0) == 0 for group in optimizer.param_groups)
    train(net, optimizer, batches(1))


with process_group():
    for pair in PAIRS:
        lr_zero_changes_nothing(pair)
        if WORLD == 2:
            save_and_resume(pair)
        else:
            resume_alone(pair)
