"""FSDP2 with every optimizer that a formula makes: shards train to what the whole does.

In one process, on whole tensors, the reference does it.
"""

import inspect

from group import assert_same_parameters, batches, model, process_group, train
from sharding import sharded

from steepest import optim

OPTIONS = {"SGD": {"momentum": 0.9}, "Adafactor": {"lr": 0.1}}
EVERY = [
    cls
    for cls in (getattr(optim, name) for name in optim.__all__)
    if inspect.isclass(cls) and issubclass(cls, optim.Optimizer) and cls.formula is not None
    if cls not in (optim.SparseAdam, optim.SOAP)
]
"""A DTensor has no sparse gradient; SOAP's bases of such small matrices rest on rounding, see
fsdp_options.py for it."""


def made(cls, net, **more):
    params = [p for p in net.parameters() if p.ndim == 2 or cls is not optim.Muon]
    return cls(params, **OPTIONS.get(cls.__name__, {}), **more)


def compare(cls):
    net, alone = sharded(), model()
    start = [p.detach().clone() for p in alone.parameters()]
    train(net, made(cls, net), batches(6))
    train(alone, made(cls, alone, fused=False), batches(6, whole=True))
    assert_same_parameters(net, alone, cls.__name__)
    assert any(not p.equal(s) for p, s in zip(alone.parameters(), start, strict=True))


with process_group():
    assert len(EVERY) > 20
    for cls in EVERY:
        compare(cls)
