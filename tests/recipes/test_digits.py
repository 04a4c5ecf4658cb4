"""The recipe `digits` learns, and says what it needs."""

import sys
from dataclasses import replace

import pytest
import torch

from steepest.errors import RecipeError
from steepest.recipes import digits
from steepest.train import train


def test_digits_learns_to_read():
    run = digits.run(epochs=3)
    report = train(replace(run, progress=False))
    assert report.final["validation_accuracy"] > 0.95
    share = f"{report.final['validation_accuracy']:.1%}"
    assert report.result == f"{share} of 359 held-out digits are read rightly (by guessing: 10%)"


def test_no_digit_is_trained_on_and_validated():
    run = digits.run()
    train_x, held_out = (
        {row.numpy().tobytes() for row in batches.tensors[0]}  # type: ignore[union-attr]
        for batches in (run.batches, run.validation)
    )
    assert len(train_x | held_out) == len(train_x) + len(held_out) == 1797


def test_the_seed_chooses_split_and_model():
    splits = [digits.run(seed=seed).validation.tensors[1] for seed in (0, 0, 1)]  # type: ignore[union-attr]
    assert torch.equal(splits[0], splits[1])
    assert not torch.equal(splits[0], splits[2])


def test_without_scikit_learn_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(RecipeError, match=r"needs scikit-learn: pip install 'steepest\[digits\]'"):
        digits.run()
