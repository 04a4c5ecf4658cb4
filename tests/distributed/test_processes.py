"""Optimizers in several processes: each worker compares with torch's class, or the reference."""

import pytest
import torch

GLOO = pytest.mark.skipif(
    not torch.distributed.is_gloo_available(), reason="this torch is built without gloo"
)


@pytest.mark.parametrize(
    ("worker", "worlds"),
    [
        pytest.param("ddp", [2], id="DistributedDataParallel", marks=GLOO),
        pytest.param("zero", [2], id="ZeroRedundancyOptimizer", marks=GLOO),
        pytest.param("fsdp", [2], id="FSDP2", marks=GLOO),
        pytest.param("fsdp_clip", [2], id="FSDP2 with clip_norm", marks=GLOO),
        pytest.param("fsdp_options", [2], id="FSDP2 with options", marks=GLOO),
        pytest.param("fsdp_every", [2], id="FSDP2 with every optimizer", marks=GLOO),
        pytest.param("checkpoint", [2, 1], id="checkpoint, and from 2 to 1", marks=GLOO),
        pytest.param("hogwild", [1], id="Hogwild"),
    ],
)
def test_trains_to_the_same_parameters(worker, worlds, run):
    for world in worlds:
        run(worker, world=world)


@GLOO
def test_a_watch_is_silent_of_clean_programs_and_waits_for_no_other_process(run):
    run("check", world=2)
