"""The graph of a loss: read without computing anything, and never kept alive.

A node of it has no weak reference, but a dictionary `metadata` that lives as long as the node.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

VIEWS = frozenset(
    f"{name}Backward0"
    for name in ("View", "UnsafeView", "ReshapeAlias", "Transpose", "T", "Permute", "Squeeze",
                 "Unsqueeze", "ToCopy", "Clone", "Alias", "Slice", "Select", "Expand")
) | {"SqueezeBackward1"}  # fmt: skip
"""Operations that move, cast or drop values, and change none."""


def is_readable(tensor: Any) -> bool:
    """Tell whether a tensor's values may be looked at: no subclass, no trace, no capture."""
    return (
        type(tensor) in (Tensor, torch.nn.Parameter)
        and not tensor.is_meta
        and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore
        and not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())
        and tensor.layout is torch.strided
        and _is_there(tensor)
    )


def _is_there(tensor: Tensor) -> bool:
    """Tell whether the storage holds all values; FSDP2 frees that of gathered weights."""
    if tensor.numel() == 0:
        return True
    last = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    end = (tensor.storage_offset() + last + 1) * tensor.itemsize
    return tensor.untyped_storage().nbytes() >= end


def origin(tensor: Tensor) -> Any:
    """Return the node that computed a tensor's values, past views and casts; None for a leaf."""
    node = tensor.grad_fn
    while node is not None and node.name() in VIEWS:
        node = node.next_functions[0][0]
    return node


def operation(node: Any) -> str:
    """Return the name of what a node computed: "log" of LogBackward0."""
    return node.name().rsplit("::", 1)[-1].split("Backward")[0].lower()


def shape_of(node: Any) -> tuple[int, ...]:
    """Return the shape of what a node computed."""
    return tuple(node._input_metadata[0].shape)


def nodes(root: Any, through: frozenset[str] | None = None, limit: int = 10_000) -> Iterator[Any]:
    """Yield a node and those before it, the nearest first.

    Args:
        root: where to begin.
        through: names of nodes to go on from; all of them where None.
        limit: how many to visit.
    """
    seen, queue = {root}, [root]
    for node in queue:
        yield node
        if len(seen) < limit and (through is None or node.name() in through):
            new = {before: None for before, _ in node.next_functions if before is not None}
            queue.extend(before for before in new if before not in seen)
            seen.update(new)


def notes(node: Any) -> dict[str, Any]:
    """Return a node's own dictionary."""
    return node.metadata


def saved(node: Any) -> Iterator[tuple[str, Tensor]]:
    """Yield what a node has saved for backward, by name; nothing that a hook would unpack."""
    for name in dir(node):
        if not name.startswith("_raw_saved_"):
            continue
        try:
            raw = getattr(node, name)
            for one in raw if isinstance(raw, (list, tuple)) else [raw]:
                tensor = None if one is None or one.unpack_hook is not None else one.data
                if is_readable(tensor):
                    yield name.removeprefix("_raw_saved_"), tensor  # pyright: ignore
        except RuntimeError:  # freed by a backward before
            continue
