"""A state as JSON text and named tensors, and back.

null, booleans, whole and finite numbers, strings, lists and dicts with strings for keys are JSON's
own. Everything else is an object with one key, which begins with `$` and says what it is:

    {"$tensor": {"name": "model.weight"}}    a tensor of the file; with "order": [0, 2, 3, 1] its
                                             dimensions lie in memory in that order; with
                                             "complex": true its last one is (real, imaginary)
    {"$tensor": {"sparse": [indices, values, size, true]}}    sparse COO; true: coalesced
    {"$tuple": [...]}  {"$set": [...]}  {"$size": [2, 3]}
    {"$dict": [[key, value], ...]}                a dict with other keys
    {"$ordered": [[key, value], ...]}             an OrderedDict
    {"$counter": [[key, value], ...]}             a Counter
    {"$float": "nan"}  {"$complex": [re, im]}  {"$bytes": "base64"}
    {"$dtype": "torch.float32"}  {"$device": "cuda:0"}

No name in it leads to code: each of these words is a row of a table below.
"""

import base64
import json
import math
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steepest.errors import CheckpointError
from steepest.train.files.sealed import check_dense, no_name_twice, where

Place = tuple[object, ...]  # the keys that lead to a value

UNSAFE = re.compile(r"[^A-Za-z0-9._-]")  # in the names of tensors
SCALARS = {int, str, bool, type(None)}  # a list of these alone is JSON as it stands
DEPTH = 100  # of dicts and lists in each other
TORCH_DTYPES = {str(t): t for t in vars(torch).values() if isinstance(t, torch.dtype)}


def flatten(state: Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """Return `state` as JSON text, and its tensors by the names that stand for them there.

    A tensor that is in the state twice is in the dict once.

    Raises:
        CheckpointError: the state holds an object that only code could restore.
    """
    writing = _Writing()
    tree = writing.node(dict(state), ())
    try:
        return json.dumps(tree, separators=(",", ":"), allow_nan=False), writing.tensors
    except ValueError:
        raise CheckpointError(
            "A checkpoint holds whole numbers of up to 4,300 digits: got a longer one; "
            "keep it as a tensor or as text"
        ) from None


def unflatten(text: str, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Return the state that `flatten` made text and tensors of.

    Raises:
        CheckpointError, LookupError, RuntimeError, TypeError, ValueError: it did not make them.
    """
    unknown = next(filter(UNSAFE.search, tensors), None)
    if unknown is not None:
        raise CheckpointError(f"names a tensor {unknown!r}, as steepest does not; do not trust it")
    reading = _Reading(tensors)
    state = reading.value(json.loads(text, object_pairs_hook=no_name_twice))
    if type(state) is not dict or reading.seen != tensors.keys():
        raise CheckpointError("holds other tensors than its state; do not trust it")
    return state


def check_finite(state: object, place: Place, above: Place = ()) -> None:
    """Refuse NaN and infinity in the tensors at a place of the state, if it has that place.

    Raises:
        CheckpointError: there is one; the message lacks the file's name.
    """
    items: Any = ()
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list | tuple):
        items = enumerate(state)
    elif isinstance(state, Tensor) and not place and not _finite(state):
        raise CheckpointError(
            f"holds NaN or infinity in state{_written(above)}, from which no run goes on; "
            "take an older one"
        )
    for key, item in items:
        if not place or key == place[0]:
            check_finite(item, place[1:], (*above, key))


def _finite(tensor: Tensor) -> bool:
    if tensor.is_sparse:
        tensor = tensor._values()
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    if tensor.element_size() == 1:  # float8 has no sum
        tensor = tensor.float()
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())  # a sum may overflow


class _Writing:
    """Turns values into nodes of the tree, and gathers the tensors on the way."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[object, str] = {}  # of tensors met before, by where they lie

    def node(self, value: Any, place: Place) -> Any:
        kind = type(value)
        if kind in SCALARS or (kind is float and math.isfinite(value)):
            return value
        if len(place) > DEPTH:
            raise CheckpointError(
                f"A state has at most {DEPTH} dicts and lists in each other: got more, or one "
                f"that holds itself, at state{_written(place)[:200]}"
            )
        if kind is dict and all(type(key) is str and not key.startswith("$") for key in value):
            return {key: self.node(item, (*place, key)) for key, item in value.items()}
        if kind is list:
            return self.items(value, place)
        if kind not in WRITERS:
            raise _refused(value, place)
        word, content = WRITERS[kind]
        return {word: content(self, value, place)}

    def items(self, values: Any, place: Place) -> list[Any]:
        if SCALARS.issuperset(map(type, values)):
            return list(values)
        return [self.node(item, (*place, index)) for index, item in enumerate(values)]

    def pairs(self, value: Mapping[Any, Any], place: Place) -> list[Any]:
        keys = [self.node(key, (*place, key)) for key in value]
        items = [self.node(item, (*place, key)) for key, item in value.items()]
        return [list(pair) for pair in zip(keys, items, strict=True)]

    def tensor(self, tensor: Tensor, place: Place) -> dict[str, Any]:
        if tensor.is_sparse and not tensor.is_meta:
            parts = (tensor._indices(), tensor._values(), tensor.shape, tensor.is_coalesced())
            return {"sparse": self.items(parts, place)}
        node: dict[str, Any] = {}
        if tensor.is_complex() and tensor.layout is torch.strided:
            node["complex"] = True
            tensor = torch.view_as_real(tensor.resolve_conj())
        check_dense(tensor, f"state{_written(place)}")
        tensor = tensor.resolve_neg()
        if not tensor.is_contiguous() and (order := _order(tensor)):
            node["order"] = order
        return {"name": self._name(tensor, place), **node}

    def _name(self, tensor: Tensor, place: Place) -> str:
        spot = where(tensor)
        if spot not in self._names:
            name = plain = UNSAFE.sub("_", ".".join(map(str, place)))[:200] or "_"
            number = 1
            while name in self.tensors:
                number += 1
                name = f"{plain}-{number}"
            self._names[spot] = name
            self.tensors[name] = tensor
        return self._names[spot]


WRITERS: dict[type, tuple[str, Callable[[_Writing, Any, Place], Any]]] = {
    Tensor: ("$tensor", _Writing.tensor),
    nn.Parameter: ("$tensor", _Writing.tensor),
    tuple: ("$tuple", _Writing.items),
    set: ("$set", lambda writing, value, place: writing.items(sorted(value, key=repr), place)),
    torch.Size: ("$size", lambda _, value, place: list(value)),
    dict: ("$dict", _Writing.pairs),
    OrderedDict: ("$ordered", _Writing.pairs),
    Counter: ("$counter", _Writing.pairs),
    float: ("$float", lambda _, value, place: repr(value)),
    complex: ("$complex", lambda _, value, place: [repr(value.real), repr(value.imag)]),
    bytes: ("$bytes", lambda _, value, place: base64.b64encode(value).decode()),
    torch.dtype: ("$dtype", lambda _, value, place: str(value)),
    torch.device: ("$device", lambda _, value, place: str(value)),
}


class _Reading:
    """Turns nodes of the tree into values."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.seen: set[str] = set()

    def value(self, node: Any) -> Any:
        if type(node) is list:
            return self.items(node)
        if type(node) is not dict:
            return node
        word = next(iter(node), "")
        if not word.startswith("$"):
            return {key: self.value(item) for key, item in node.items()}
        ((word, content),) = node.items()
        return READERS[word](self, content)

    def items(self, nodes: list[Any]) -> list[Any]:
        if SCALARS.issuperset(map(type, nodes)):
            return list(nodes)
        return [self.value(node) for node in nodes]

    def pairs(self, nodes: list[Any]) -> list[tuple[Any, Any]]:
        pairs = [(self.value(key), self.value(item)) for key, item in nodes]
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key twice")
        return pairs

    def tensor(self, node: dict[str, Any]) -> Tensor:
        if "sparse" in node:
            return _sparse(*self.items(node["sparse"]))
        self.seen.add(node["name"])
        tensor = self.tensors[node["name"]]
        if "order" in node:
            tensor = _laid_out(tensor, node["order"])
        return torch.view_as_complex(tensor) if node.get("complex") else tensor


READERS: dict[str, Callable[[_Reading, Any], Any]] = {
    "$tensor": _Reading.tensor,
    "$tuple": lambda reading, content: tuple(reading.items(content)),
    "$set": lambda reading, content: set(reading.items(content)),
    "$size": lambda _, content: torch.Size(content),
    "$dict": lambda reading, content: dict(reading.pairs(content)),
    "$ordered": lambda reading, content: OrderedDict(reading.pairs(content)),
    "$counter": lambda reading, content: Counter(dict(reading.pairs(content))),
    "$float": lambda _, content: float(content),
    "$complex": lambda _, content: complex(*map(float, content)),
    "$bytes": lambda _, content: base64.b64decode(content, validate=True),
    "$dtype": lambda _, content: TORCH_DTYPES[content],
    "$device": lambda _, content: torch.device(str(content)),
}


def _order(tensor: Tensor) -> list[int] | None:
    """Return in which order the dimensions lie in memory, where each lies somewhere."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    return order if all(tensor.stride()) else None


def _laid_out(tensor: Tensor, order: list[int]) -> Tensor:
    """Return the tensor with its dimensions in memory in that order."""
    back = sorted(range(len(order)), key=order.__getitem__)
    return tensor.permute(order).contiguous().permute(back)


def _sparse(indices: Tensor, values: Tensor, size: torch.Size, coalesced: bool) -> Tensor:
    return torch.sparse_coo_tensor(
        indices, values, size, device="cpu", check_invariants=True, is_coalesced=coalesced
    )


def _refused(value: object, place: Place) -> CheckpointError:
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    advice = (
        "keep the plain tensor that it stands for"
        if isinstance(value, Tensor)
        else "convert it, for example with .item() or .tolist()"
    )
    return CheckpointError(
        f"A checkpoint holds tensors, numbers, strings, lists and dicts: got {kind} in "
        f"state{_written(place)}; {advice}"
    )


def _written(place: Place) -> str:
    return "".join(f"[{key!r}]" for key in place)
