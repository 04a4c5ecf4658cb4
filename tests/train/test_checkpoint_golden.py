"""Files of every version of the format that was released still load: one each is kept here.

A new version keeps the old file and adds its own: `save_checkpoint(golden/checkpoint-2..., ...)`.
"""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from steepest.train.files.checkpoint import load_checkpoint, load_weights

GOLDEN = Path(__file__).parent / "golden"

WEIGHT = torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2) / 8
STATE = {
    "model": OrderedDict(
        {
            "0.weight": WEIGHT.contiguous(memory_format=torch.channels_last),
            "0.bias": torch.tensor([0.5, -0.0], dtype=torch.bfloat16),
            "empty": torch.zeros(0, 3, dtype=torch.float64),
        }
    ),
    "optimizer": {
        "state": {0: {"step": torch.tensor(7.0), "exp_avg": -WEIGHT, "used": torch.tensor([True])}},
        "param_groups": [{"lr": 1e-3, "betas": (0.9, 0.999), "params": [0, 1], "fused": None}],
    },
    "schedule": {"best": float("inf"), "milestones": {3: 1, 5: 1}, "seen": {1, 2}},
    "random": [2**70, b"\0\xff", "text \ud800", 1 + 2j, float("-inf")],
    "types": [torch.float16, torch.device("cuda:1"), torch.Size([2, 3])],
    "complex": torch.tensor([1 - 2j], dtype=torch.complex128),
    "sparse": torch.tensor([1.0, 0.0, 2.0, 0.0]).to_sparse(),
}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.is_sparse:
            return (
                b.is_coalesced() and same(a.indices(), b.indices()) and same(a.values(), b.values())
            )
        return a.dtype == b.dtype and a.stride() == b.stride() and torch.equal(a, b)
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("version", [1])
def test_a_checkpoint_of_this_version_loads(version: int):
    state = load_checkpoint(GOLDEN / f"checkpoint-{version}.safetensors")
    assert list(state) == list(STATE)
    for key in STATE:
        assert same(STATE[key], state[key]), key


@pytest.mark.parametrize("version", [1])
def test_weights_of_this_version_load(version: int):
    weights = load_weights(GOLDEN / f"weights-{version}.safetensors")
    assert weights.keys() == {"0.weight", "0.bias", "tied"}
    assert same(weights["0.weight"], WEIGHT)
    assert same(weights["0.bias"], STATE["model"]["0.bias"])
    assert same(weights["tied"], WEIGHT)
