"""The shapes of five models' parameters, from two numbers to 124 million."""

import torch
from torch import Tensor

Shape = tuple[int, ...]


def _resnet50() -> list[Shape]:
    shapes: list[Shape] = [(64, 3, 7, 7), (64,), (64,)]
    wide = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for block in range(blocks):
            shapes += [(width, wide, 1, 1), (width,), (width,)]
            shapes += [(width, width, 3, 3), (width,), (width,)]
            shapes += [(4 * width, width, 1, 1), (4 * width,), (4 * width,)]
            if block == 0:
                shapes += [(4 * width, wide, 1, 1), (4 * width,), (4 * width,)]
            wide = 4 * width
    return [*shapes, (1000, 2048), (1000,)]


def _gpt2(d: int = 768) -> list[Shape]:
    layer = [(d,), (d,), (d, 3 * d), (3 * d,), (d, d), (d,)]
    layer += [(d,), (d,), (d, 4 * d), (4 * d,), (4 * d, d), (d,)]
    return [(50257, d), (1024, d), *(layer * 12), (d,), (d,)]


SHAPES: dict[str, list[Shape]] = {
    "linear": [(1, 1), (1,)],
    "mlp": [(64, 13), (64,), (64, 64), (64,), (1, 64), (1,)],
    "manysmall": [(64, 64), (64,)] * 200,
    "resnet50": _resnet50(),  # 25,557,032 in 161 tensors
    "gpt2": _gpt2(),  # 124,439,808 in 148 tensors
}


def parameters(name: str) -> list[Tensor]:
    """Return a set's parameters, with gradients."""
    torch.manual_seed(0)
    params = [torch.randn(shape).requires_grad_() for shape in SHAPES[name]]
    for p in params:
        p.grad = torch.randn_like(p)
    return params
