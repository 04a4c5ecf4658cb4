"""Every public name of torch.optim and its modules is here too, or says why it is not."""

import importlib
import inspect

import pytest
import torch

ROOMS = ["", ".lr_scheduler", ".swa_utils"]
AWAITED = {
    "Adafactor",
    "Muon",
    "swa_utils",
    "swap_in_optimizer_params_and_state",
    ".lr_scheduler.ChainedScheduler",
    ".lr_scheduler.ConstantLR",
    ".lr_scheduler.CosineAnnealingWarmRestarts",
    ".lr_scheduler.CyclicLR",
    ".lr_scheduler.MultiplicativeLR",
    ".lr_scheduler.OneCycleLR",
    ".lr_scheduler.SequentialLR",
}
"""What is still to come; a name that has come is taken from this list."""


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
            label = f"{room}.{name}" if room else name
            come = pytest.mark.xfail(reason="not there yet")
            yield pytest.param(room, name, id=label, marks=[come] if label in AWAITED else [])


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
    assert set(torch.optim.__all__) - set(ours.__all__) <= AWAITED


def test_names_are_found_in_torch_at_all():
    """An empty walk would pass."""
    assert {"SGD", "lr_scheduler", "swa_utils"} <= set(public(""))
    assert {"LambdaLR", "OneCycleLR"} <= set(public(".lr_scheduler"))
    assert {"AveragedModel", "SWALR", "update_bn"} <= set(public(".swa_utils"))
