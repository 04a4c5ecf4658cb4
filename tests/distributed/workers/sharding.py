"""A model of DTensors."""

from group import WORLD, model
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard


def sharded(mesh: DeviceMesh | None = None) -> nn.Sequential:
    """The small model, its layers and then the whole sharded over all processes, or a mesh."""
    mesh = init_device_mesh("cpu", (WORLD,)) if mesh is None else mesh
    net = model()
    for layer in (net[0], net[2]):
        fully_shard(layer, mesh=mesh)
    return fully_shard(net, mesh=mesh)
