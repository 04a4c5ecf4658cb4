"""A model of DTensors."""

from group import WORLD, model
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard


def sharded() -> nn.Sequential:
    """The small model, its layers and then the whole sharded over all processes."""
    mesh = init_device_mesh("cpu", (WORLD,))
    net = model()
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)
