"""A text becomes numbers and windows, and what is no text is refused."""

from pathlib import Path

import pytest
import torch

from steepest.data.text import Text, load_text
from steepest.errors import DataError


def text_of(letters: int) -> Text:
    return Text("ab", torch.arange(letters))


def test_the_sonnets_are_there():
    text = load_text()
    assert text.decode(text.ids).startswith("From fairest creatures we desire increase,\n")
    assert "Shall I compare thee to a summer's day?" in text.decode(text.ids)
    assert len(text.ids) > 20_000


def test_a_file_becomes_numbers_and_back(tmp_path: Path):
    path = tmp_path / "words.txt"
    path.write_text("öba b\n", "utf-8")
    text = load_text(path)
    assert text.letters == "\n abö"
    assert text.ids.tolist() == [4, 3, 2, 1, 3, 0]
    assert text.decode(text.ids) == "öba b\n"
    assert text.encode("ab").tolist() == [2, 3]


def test_windows_predict_the_next_letter():
    x, y, held_out_x, held_out_y = text_of(1000).windows(16)
    assert torch.equal(x + 1, y)
    assert torch.equal(held_out_x + 1, held_out_y)
    assert (x[:3, 0].tolist(), y.max().item()) == ([0, 2, 4], 898)
    assert held_out_x[:, 0].tolist() == [900, 916, 932, 948, 964, 980]
    assert x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()  # views, no copies


def test_the_shortest_text_gives_one_window_to_validate():
    _, _, held_out_x, _ = text_of(50).windows(4)
    assert held_out_x.tolist() == [[45, 46, 47, 48]]
    with pytest.raises(DataError, match="10 times as many letters as the context of 5: got 50"):
        text_of(50).windows(5)


@pytest.mark.parametrize(
    ("bytes_", "message"),
    [
        (None, "cannot be read .No such file"),
        (b"", "at least one letter: .* is empty"),
        (b"caf\xe9", "is in UTF-8: .* is not, at byte 3"),
    ],
    ids=["absent", "empty", "latin1"],
)
def test_what_is_no_text_is_refused(tmp_path: Path, bytes_: bytes | None, message: str):
    path = tmp_path / "t.txt"
    if bytes_ is not None:
        path.write_bytes(bytes_)
    with pytest.raises(DataError, match=message):
        load_text(path)


def test_letters_and_contexts_that_cannot_be_are_refused():
    with pytest.raises(DataError, match="'abxy' has 'xy' too"):
        text_of(9).encode("abxy")
    with pytest.raises(DataError, match="context is at least 1: got 0"):
        text_of(9).windows(0)
