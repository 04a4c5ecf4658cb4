"""Parameters in shared memory that two processes update (Hogwild: Niu et al. 2011).

The order of updates is the processes' own affair there, so the comparison lets them take turns:
each with an optimizer of its own, or both with one whose states are shared too. Left alone, they
must come to a fit. Runs as one process, which starts the two.
"""

from typing import NamedTuple

import torch
from group import PAIRS, Pair, assert_same_parameters, batches, model, train
from torch import multiprocessing as mp
from torch import nn

TURNS = batches(8, whole=True)
LONG = TURNS[:4] * 50


class Job(NamedTuple):
    """A shared model, and the optimizer of each process."""

    pair: Pair
    net: nn.Module
    optimizers: list[torch.optim.Optimizer]
    together: bool
    """Whether both processes share one optimizer's states."""
    free: bool
    """Whether they train at the same time, without turns."""


def work(rank, barrier, jobs):
    """Do every job's part of one process."""
    torch.set_num_threads(1)
    for job in jobs:
        if job.free:
            train(job.net, job.optimizers[rank], LONG)
            continue
        for k, batch in enumerate(TURNS):
            if k % 2 == rank:
                train(job.net, job.optimizers[rank], [batch])
            barrier.wait(timeout=60)


def in_two_processes(jobs):
    context = mp.get_context("spawn")
    barrier = context.Barrier(2)
    processes = [context.Process(target=work, args=(rank, barrier, jobs)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(90)
    assert [process.exitcode for process in processes] == [0, 0]


def with_states_shared(optimizer, net):
    """Make the states by a step of lr 0 and move them into shared memory, as for an A3C agent."""
    taught = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    train(net, optimizer, TURNS[:1])
    optimizer.zero_grad()
    for group, lr in zip(optimizer.param_groups, taught, strict=True):
        group["lr"] = lr
    for state in optimizer.state.values():
        for value in state.values():
            value.share_memory_()
    return optimizer


def optimizers(make, net, together):
    if together:
        return [with_states_shared(make(net.parameters()), net)] * 2
    return [make(net.parameters()), make(net.parameters())]


def job(pair, together=False, free=False):
    net = model().share_memory()
    return Job(pair, net, optimizers(pair.ours, net, together), together, free)


def compare(job):
    """Let one process do alone what the two did in turns."""
    alone = model()
    theirs = optimizers(job.pair.reference, alone, job.together)
    for k, batch in enumerate(TURNS):
        train(alone, theirs[k % 2], [batch])
    assert_same_parameters(job.net, alone, f"{job.pair.name} together={job.together}")


def fits(job):
    x, y = (torch.cat(parts) for parts in zip(*TURNS[:4], strict=True))
    before, after = (nn.functional.mse_loss(net(x), y).item() for net in (model(), job.net))
    assert after < 0.3 * before, (job.pair.name, before, after)


if __name__ == "__main__":
    jobs = [job(pair, together) for pair in PAIRS for together in (False, True)]
    jobs += [job(pair, free=True) for pair in PAIRS if pair.name in ("SGD", "AdamW")]
    where = [[p.data_ptr() for p in job.net.parameters()] for job in jobs]
    in_two_processes(jobs)
    assert where == [[p.data_ptr() for p in job.net.parameters()] for job in jobs]
    for job in jobs:
        fits(job) if job.free else compare(job)
