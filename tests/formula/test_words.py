"""Every word on numbers and on tensors: torch's meaning, in float64 on numbers."""

import itertools
import math

import pytest
import torch

from steepest.formula import words

NUMBERS = [0.0, -0.0, 0.5, -0.5, 1.0, -2.0, 3.75, 1e-300, 1e300, 709.7, 709.9, -800.0]
VALUES = [*NUMBERS, math.inf, -math.inf, math.nan]

TORCH = {
    "abs": torch.abs,
    "exp": torch.exp,
    "log": torch.log,
    "sign": torch.sign,
    "sqrt": torch.sqrt,
    "maximum": torch.maximum,
    "minimum": torch.minimum,
}
ONE = [word for word in TORCH if words.ARITY.get(word, 1) == 1]
TWO = [word for word in TORCH if words.ARITY.get(word, 1) == 2]


def as_tensor(x: float) -> torch.Tensor:
    return torch.tensor(x, dtype=torch.float64)


def same(actual: float, expected: float) -> bool:
    """Equal, to the last rounding; NaN is NaN."""
    return actual == pytest.approx(expected, rel=4e-16, abs=0, nan_ok=True)


def test_every_word_is_compared_with_torch():
    assert {*TORCH, "where"} == words.WORDS.keys()


@pytest.mark.parametrize("x", VALUES)
@pytest.mark.parametrize("word", ONE)
def test_a_word_of_one_value_is_torch_s_on_a_number(word, x):
    result = words.WORDS[word](x)
    assert isinstance(result, float)
    assert same(result, TORCH[word](as_tensor(x)).item())


@pytest.mark.parametrize(("a", "b"), [*itertools.product(VALUES, repeat=2)])
@pytest.mark.parametrize("word", TWO)
def test_a_word_of_two_values_is_torch_s_on_numbers(word, a, b):
    expected = TORCH[word](as_tensor(a), as_tensor(b)).item()
    assert same(words.WORDS[word](a, b), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("word", ONE)
def test_a_word_of_one_value_is_torch_s_on_a_tensor(word, dtype):
    x = torch.tensor(VALUES, dtype=dtype)
    torch.testing.assert_close(words.WORDS[word](x), TORCH[word](x), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [0.1, 2, -1.5, math.inf, math.nan])
@pytest.mark.parametrize("word", TWO)
def test_a_number_beside_a_tensor_takes_its_dtype(word, number, dtype):
    x = torch.tensor(VALUES, dtype=dtype)
    expected = TORCH[word](x, torch.full_like(x, number))
    for given in ((x, number), (number, x)):
        actual = words.WORDS[word](*given)
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("word", "x", "expected"),
    [
        ("sqrt", -1.0, math.nan),
        ("sqrt", -math.inf, math.nan),
        ("exp", 710.0, math.inf),
        ("exp", 709.782, math.exp(709.782)),
        ("log", 0.0, -math.inf),
        ("log", -0.0, -math.inf),
        ("log", -1.0, math.nan),
        ("sign", math.nan, 0.0),
        ("sign", -0.0, 0.0),
        ("abs", -math.inf, math.inf),
    ],
)
def test_where_math_would_raise_a_word_gives_torch_s_number(word, x, expected):
    assert same(words.WORDS[word](x), expected)


@pytest.mark.parametrize("x", [x for x in NUMBERS if 0 < x < 709])
@pytest.mark.parametrize("word", ["exp", "log", "sqrt"])
def test_a_word_on_a_number_is_math_s(word, x):
    assert words.WORDS[word](x) == getattr(math, word)(x)


@pytest.mark.parametrize(
    ("condition", "expected"), [(True, 1.0), (False, 2.0), (1, 1.0), (0.0, 2.0)]
)
def test_where_chooses_between_numbers(condition, expected):
    assert words.where(condition, 1.0, 2.0) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_chooses_per_element(dtype):
    x = torch.tensor([-1.0, 0.0, math.nan, 2.0], dtype=dtype)
    for a, b in ((x, -x), (x, 0.1), (0.1, x), (x[0], x)):
        actual = words.where(x > 0, a, b)
        pairs = [torch.as_tensor(side, dtype=dtype).expand(4) for side in (a, b)]
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, torch.where(x > 0, *pairs), equal_nan=True)


def test_where_between_two_numbers_keeps_them_exact():
    actual = words.where(torch.tensor([True, False]), 0.1, 0.2)
    assert actual.tolist() == [0.1, 0.2]


@pytest.mark.parametrize(
    ("x", "expected"),
    [(4.0, 0.25), (0.0, math.inf), (-0.0, -math.inf), (math.inf, 0.0), (0, math.inf)],
)
def test_inverse_of_a_scalar_is_a_tensor_s_division(x, expected):
    assert words.inverse(x) == expected
    assert (1 / as_tensor(float(x))).item() == expected
