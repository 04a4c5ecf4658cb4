"""What every worker shares: its process group, a model, its batches, and the pairs to compare.

A worker is a program that runs once in each of two processes and ends with status 0 when all it
asserts holds: `python ddp.py RANK WORLD FOLDER`. Processes meet in a file of the folder.
"""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steepest import optim
from steepest.formula import sign

RANK, WORLD, FOLDER = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
WAIT = timedelta(seconds=60)


def lion(p, g, exp_avg, *, lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0):
    beta1, beta2 = betas
    update = sign(beta1 * exp_avg + (1 - beta1) * g)
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    p = (1 - lr * weight_decay) * p - lr * update
    return p, exp_avg


class Lion(optim.Optimizer, formula=lion):
    """A user's own optimizer, which torch does not have."""


class Pair(NamedTuple):
    """An optimizer and what it must equal; both take parameters and further options."""

    name: str
    ours: Callable[..., torch.optim.Optimizer]
    reference: Callable[..., torch.optim.Optimizer]


def namesakes(name: str, **options) -> Pair:
    """Pair our class of a name with torch's."""
    made = (partial(getattr(module, name), **options) for module in (optim, torch.optim))
    return Pair(name, *made)


PAIRS = [
    namesakes("SGD", lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.01),
    namesakes("AdamW", lr=0.01, weight_decay=0.1),
    namesakes("Adagrad", lr=0.05),
    namesakes("RMSprop", lr=0.01, centered=True),
    Pair("Lion", partial(Lion, lr=0.01), partial(Lion, lr=0.01, fused=False)),
]


@contextmanager
def process_group() -> Iterator[None]:
    """Meet the other process, and part from it without a race.

    Destroying a gloo group while the other side still works ends in "terminate called without an
    active exception" now and then: wait, and let go of whatever holds the group, first. After an
    error nothing is destroyed, which could wait for ever.
    """
    torch.set_num_threads(1)
    address = (FOLDER / f"world{WORLD}" / "rendezvous").as_uri()
    dist.init_process_group("gloo", init_method=address, rank=RANK, world_size=WORLD, timeout=WAIT)
    yield
    dist.barrier()
    gc.collect()
    dist.destroy_process_group()


def model() -> nn.Sequential:
    """A small model whose last bias has one element: of two shards of it, one is empty."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1))


def batches(count: int, whole: bool = False) -> list[tuple[Tensor, Tensor]]:
    """Batches of 8 rows, whole or this process's half of each."""
    generator = torch.Generator().manual_seed(2)
    made = []
    for _ in range(count):
        x = torch.randn(8, 5, generator=generator)
        y = x.sum(1, keepdim=True).sin() + 0.1 * torch.randn(8, 1, generator=generator)
        mine = slice(None) if whole else slice(RANK, None, WORLD)
        made.append((x[mine], y[mine]))
    return made


def train(
    net: nn.Module, optimizer: torch.optim.Optimizer, data: list[tuple[Tensor, Tensor]]
) -> None:
    """The plain loop."""
    for x, y in data:
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x), y).backward()
        optimizer.step()


def whole(t: Tensor) -> Tensor:
    """Return a tensor that may be spread over processes, in one piece."""
    t = t.detach()
    return t.full_tensor() if hasattr(t, "full_tensor") else t


def assert_same_parameters(net: nn.Module, other: nn.Module, label: str) -> None:
    """Compare parameters by name, up to some rounding."""
    theirs = dict(other.named_parameters())
    for name, p in net.named_parameters():
        expected = whole(theirs[name])
        torch.testing.assert_close(
            whole(p),
            expected,
            rtol=2e-5,
            atol=2e-6,
            msg=lambda m, name=name: f"{label} {name}: {m}",
        )
