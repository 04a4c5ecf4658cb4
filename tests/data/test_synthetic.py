"""Made-up data: the promised line, the same for the same seed."""

import pytest
import torch

from steepest.data import synthetic
from steepest.errors import DataError


def test_shapes_and_dtype():
    x, y = synthetic.line(rows=7)
    assert x.shape == y.shape == (7, 1)
    assert x.dtype == y.dtype == torch.float32


@pytest.mark.parametrize(("slope", "intercept"), [(3.0, 0.0), (-2.0, 5.0)])
def test_without_noise_the_points_lie_on_the_line(slope, intercept):
    x, y = synthetic.line(rows=100, slope=slope, intercept=intercept, noise=0.0)
    assert torch.equal(y, slope * x + intercept)


def test_noise_is_normal_and_independent_of_x():
    x, y = synthetic.line(rows=100_000, noise=0.5)
    rest = y - 3 * x
    assert abs(rest.mean()) < 0.01
    assert abs(rest.std() - 0.5) < 0.01
    assert abs((rest * x).mean()) < 0.01


def test_the_seed_alone_decides():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, again, other = synthetic.line(seed=3), synthetic.line(seed=3), synthetic.line(seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.parametrize("options", [{"rows": 0}, {"noise": -1.0}, {"noise": float("nan")}])
def test_wrong_arguments_are_refused(options):
    with pytest.raises(DataError, match="at least"):
        synthetic.line(**options)
