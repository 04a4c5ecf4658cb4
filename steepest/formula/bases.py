"""Words of the bases in which a matrix is preconditioned: Grams, eigenvectors, rotations.

A tensor of more than two dimensions counts as a matrix: its first dimension by all the others. What
is not finite makes a basis of NaN, which flows on; no decomposition is tried, for some never end.

>>> x = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
>>> gram_of_rows(x)
tensor([[ 9.,  0.],
        [ 0., 16.]])
>>> q = eigenbasis(gram_of_rows(x))
>>> from_rows(into_rows(x, q), q)
tensor([[3., 0.],
        [0., 4.]])
"""

import math

import torch
from torch import Tensor

from steepest.formula.words import Value


def gram_of_rows(x: Value) -> Value:
    """Return `X X^T`, the products of each two rows, (n, ...) -> (n, n)."""
    if not isinstance(x, Tensor):
        return x * x
    x = x.flatten(1)
    return x @ x.mT


def gram_of_columns(x: Value) -> Value:
    """Return `X^T X`, the products of each two columns, (n, ...) -> (m, m)."""
    if not isinstance(x, Tensor):
        return x * x
    x = x.flatten(1)
    return x.mT @ x


def into_rows(x: Value, basis: Value) -> Value:
    """Return `Q^T X`: each column of a matrix in the coordinates of a basis of columns."""
    if not isinstance(x, Tensor) or not isinstance(basis, Tensor):
        return basis * x
    return (basis.mT @ x.flatten(1)).view_as(x)


def from_rows(x: Value, basis: Value) -> Value:
    """Return `Q X`, what `into_rows` has made Y = Q^T X of."""
    return into_rows(x, basis.mT if isinstance(basis, Tensor) else basis)


def into_columns(x: Value, basis: Value) -> Value:
    """Return `X Q`: each row of a matrix in the coordinates of a basis of columns."""
    if not isinstance(x, Tensor) or not isinstance(basis, Tensor):
        return x * basis
    return (x.flatten(1) @ basis).view_as(x)


def from_columns(x: Value, basis: Value) -> Value:
    """Return `X Q^T`, what `into_columns` has made Y = X Q of."""
    return into_columns(x, basis.mT if isinstance(basis, Tensor) else basis)


def eigenbasis(gram: Value) -> Value:
    """Return a Gram's eigenvectors as columns, that of the largest eigenvalue first.

    Computed in float64; the unit matrix where that does not converge.
    """
    if not isinstance(gram, Tensor):
        return 1.0
    if not _is_finite(gram):
        return torch.full_like(gram, math.nan)
    try:
        vectors = torch.linalg.eigh(gram.double()).eigenvectors
    except torch.linalg.LinAlgError:  # pyright: ignore[reportPrivateImportUsage]
        return torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return vectors.flip(-1).to(gram.dtype)


def refined_basis(gram: Value, basis: Value) -> Value:
    """Return a basis one step nearer to a Gram's eigenvectors: the Q of `Gram basis = Q R`.

    Vyas et al. 2024, Algorithm 4, https://arxiv.org/abs/2409.11321: power iteration on all vectors
    at once.
    """
    if not isinstance(gram, Tensor):
        return 1.0
    product = gram @ basis
    if not _is_finite(product):
        return torch.full_like(gram, math.nan)
    return torch.linalg.qr(product).Q


def _is_finite(x: Tensor) -> bool:
    return bool(x.isfinite().all()) if x.device.type != "meta" else True
