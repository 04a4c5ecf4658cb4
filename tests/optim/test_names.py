"""Every public name of torch.optim and its modules is here too, or says why it is not."""

import copy
import importlib
import inspect

import pytest
import torch

ROOMS = ["", ".lr_scheduler", ".swa_utils"]


def public(room):
    """The names that torch offers in a room, and classes and functions that it defines there."""
    theirs = importlib.import_module(f"torch.optim{room}")
    made_there = {
        name
        for name, value in inspect.getmembers(theirs)
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == theirs.__name__
    }
    return sorted({*theirs.__all__, *made_there})


def rows():
    for room in ROOMS:
        for name in public(room):
            yield pytest.param(room, name, id=f"{room}.{name}" if room else name)


@pytest.mark.parametrize(("room", "name"), list(rows()))
def test_a_name_of_torch_is_there_or_says_why_not(room, name):
    ours = importlib.import_module(f"steepest.optim{room}")
    try:
        found = getattr(ours, name)
    except AttributeError as error:
        said = str(error)
        assert "has no attribute" not in said, said
        assert name in said
        assert len(said.split()) > 5, "a sentence says why not and what to use"
        return
    theirs = getattr(importlib.import_module(f"torch.optim{room}"), name)
    assert inspect.isclass(found) == inspect.isclass(theirs)
    if inspect.isclass(theirs) and issubclass(theirs, torch.optim.Optimizer):
        assert issubclass(found, torch.optim.Optimizer)


def test_a_star_import_brings_what_torchs_does():
    """`from steepest.optim import *` must not leave a name of torch's undefined."""
    ours = importlib.import_module("steepest.optim")
    assert set(torch.optim.__all__) - set(ours.__all__) == set()


def test_names_are_found_in_torch_at_all():
    """An empty walk would pass."""
    assert {"SGD", "lr_scheduler", "swa_utils"} <= set(public(""))
    assert {"LambdaLR", "OneCycleLR"} <= set(public(".lr_scheduler"))
    assert {"AveragedModel", "SWALR", "update_bn"} <= set(public(".swa_utils"))


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_torch_can_swap_in_other_parameters_and_states(name):
    """For the time of a step: what is swapped in is updated, what was there before stays."""
    sides = []
    for rooms in (importlib.import_module("steepest.optim"), torch.optim):
        torch.manual_seed(0)
        p, other = (torch.nn.Parameter(torch.randn(5)) for _ in range(2))
        optimizer = getattr(rooms, name)([p], lr=0.1, weight_decay=0.1)
        for k in range(4):
            p.grad, other.grad = torch.randn(5), torch.randn(5)
            optimizer.step()
            if k in (1, 2):
                saved = copy.deepcopy(optimizer.state_dict())
                before = p.detach().clone(), copy.deepcopy(dict(optimizer.state[p]))
                saved["param_groups"][0]["lr"] = 0.5
                with rooms.swap_in_optimizer_params_and_state(optimizer, {"p": other}, saved):
                    optimizer.step()
                assert torch.equal(p, before[0])
                assert optimizer.param_groups[0]["lr"] == 0.1
                for key, value in optimizer.state[p].items():
                    assert value is None or torch.equal(value, before[1][key])
        sides.append([p.detach(), other.detach()])
    torch.testing.assert_close(*sides)
