"""The words of bases: what they promise, on matrices, on more dimensions, on what has no basis."""

import pytest
import torch

from steepest.formula import (
    eigenbasis,
    from_columns,
    from_rows,
    gram_of_columns,
    gram_of_rows,
    into_columns,
    into_rows,
    refined_basis,
)

SHAPES = [(1, 1), (5, 3), (3, 5), (4, 2, 3, 2), (2, 1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_rotations_are_products_of_the_first_dimension_and_the_others(shape, close):
    x = torch.randn(shape, dtype=torch.float64)
    matrix = x.reshape(shape[0], -1)
    left, right = gram_of_rows(x), gram_of_columns(x)
    close(left, matrix @ matrix.T)
    close(right, matrix.T @ matrix)
    q_left, q_right = eigenbasis(left), eigenbasis(right)
    close(into_rows(x, q_left), (q_left.T @ matrix).view(shape))
    close(into_columns(x, q_right), (matrix @ q_right).view(shape))
    close(from_rows(into_rows(x, q_left), q_left), x)
    close(from_columns(into_columns(x, q_right), q_right), x)


def test_an_eigenbasis_is_sorted_and_a_refined_one_comes_near_to_it():
    x = torch.randn(6, 9, dtype=torch.float64)
    gram = gram_of_rows(x)
    _, vectors = torch.linalg.eigh(gram)
    basis = eigenbasis(gram)
    assert ((basis.T @ vectors.flip(1)).abs() - torch.eye(6)).abs().max() < 1e-12
    refined = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64)).Q
    for _ in range(300):
        refined = refined_basis(gram, refined)
    assert ((refined.T @ basis).abs() - torch.eye(6)).abs().max() < 1e-6
    one = refined_basis(gram, basis.roll(1, 1))
    assert (one.T @ one - torch.eye(6)).abs().max() < 1e-12


@pytest.mark.parametrize("special", [torch.nan, torch.inf])
def test_what_is_not_finite_makes_a_basis_of_nan(special):
    gram = torch.eye(3)
    gram[1, 2] = special
    assert eigenbasis(gram).isnan().all()
    assert refined_basis(gram, torch.eye(3)).isnan().all()


def test_a_decomposition_that_fails_leaves_the_basis_that_is_there(monkeypatch):
    def fails(_):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "eigh", fails)
    assert torch.equal(eigenbasis(torch.ones(3, 3)), torch.eye(3))


def test_on_numbers_they_mean_a_matrix_of_one():
    assert gram_of_rows(3.0) == gram_of_columns(3.0) == 9.0
    assert eigenbasis(9.0) == refined_basis(9.0, 1.0) == 1.0
    assert from_rows(into_rows(3.0, 1.0), 1.0) == from_columns(into_columns(3.0, 1.0), 1.0) == 3.0
