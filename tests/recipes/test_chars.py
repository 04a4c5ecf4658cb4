"""The recipe `chars` learns to write, from any text, and leaves nothing behind when it writes."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from steepest.data.text import load_text
from steepest.errors import DataError, RecipeError
from steepest.recipes import chars
from steepest.train import Run, train

SMALL: dict[str, Any] = {"context": 16, "width": 16, "layers": 1, "heads": 2, "sample": 20}


def model_of(letters: int = 5) -> chars.Chars:
    return chars.Chars(letters, context=8, width=8, layers=2, heads=2)


def write(run: Run) -> str:
    assert run.result is not None
    return run.result(run.model)


def test_chars_learns_to_write():
    run = chars.run(**SMALL, epochs=1, prompt="Shall I ")
    report = train(replace(run, progress=False))
    letters = len(load_text().letters)
    assert report.final["validation_loss"] < 0.75 * math.log(letters)
    assert report.result.startswith("wrote:\n    Shall I ")
    assert len(report.result.replace("\n    ", "\n")) <= len("wrote:\nShall I ") + 20


def test_any_text_may_be_learned(tmp_path: Path):
    path = tmp_path / "text.txt"
    path.write_text("äbc 日本\n" * 100, "utf-8")
    run = chars.run(data=path, **SMALL, epochs=8, lr=0.02, temperature=0.01)
    report = train(replace(run, progress=False))
    assert report.final["validation_loss"] < 0.5
    assert report.result.startswith("wrote:\n    äbc 日本\n    äbc 日本")


def test_no_letter_is_predicted_from_a_later_one():
    model, ids = model_of(), torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2]])
    other = ids.clone()
    other[0, 5:] = 3
    model.eval()
    assert torch.equal(model(ids)[..., :5], model(other)[..., :5])
    assert not torch.equal(model(ids)[..., 5], model(other)[..., 5])


def test_an_earlier_letter_changes_what_is_predicted():
    model, ids = model_of().eval(), torch.tensor([[0, 1, 2, 3]])
    other = torch.tensor([[4, 1, 2, 3]])
    assert not torch.equal(model(ids)[..., 3], model(other)[..., 3])


@pytest.mark.parametrize("training", [True, False])
def test_writing_disturbs_nothing(training: bool):
    run = chars.run(**SMALL)
    run.model.train(training)
    before = torch.get_rng_state(), {k: v.clone() for k, v in run.model.state_dict().items()}
    first = write(run)
    assert write(run) == first
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(v, before[1][k]) for k, v in run.model.state_dict().items())
    assert run.model.training == training
    assert run.model.look.training == training


def test_a_prompt_longer_than_the_context_is_continued():
    prompt = "Shall I compare thee to a summer's day?"
    assert write(chars.run(**SMALL, prompt=prompt)).startswith(f"wrote:\n    {prompt}")


def test_a_low_temperature_writes_the_likeliest_letter():
    text, model, ids = load_text(), model_of(59).eval(), torch.tensor([3])
    with torch.no_grad():
        likeliest = int(model(ids[None])[0, :, -1].argmax())
    written = {chars.write(model, text, ids, 1, heat, 0) for heat in (1e-4, 1e-3)}
    assert written == {
        "\n    ".join(["wrote:", *text.decode(torch.tensor([3, likeliest])).splitlines()])
    }


def test_the_seed_chooses_model_and_writing():
    texts = [write(chars.run(**SMALL, seed=seed)) for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]


def test_vectors_do_not_decay():
    groups = chars.run(**SMALL).optimizer.param_groups
    assert [(g["weight_decay"], {p.ndim for p in g["params"]}) for g in groups] == [
        (0.0, {1}),
        (0.01, {2}),
    ]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"heads": 3}, RecipeError, "a multiple of heads, .* got width=16, heads=3"),
        ({"heads": 0}, RecipeError, "heads=0"),
        ({"temperature": 0.0}, RecipeError, "temperature is above 0: .*temperature=0.0"),
        ({"prompt": "Straße"}, DataError, "'Straße' has 'ß' too"),
        ({"data": Path("absent.txt")}, DataError, "absent.txt cannot be read"),
        ({"context": 3000}, DataError, "10 times as many letters as the context of 3000"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], error: type, message: str):
    with pytest.raises(error, match=message):
        chars.run(**SMALL | options)
