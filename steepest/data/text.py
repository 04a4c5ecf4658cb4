"""A text -> numbers, one for each letter, and windows over them to predict the next letter."""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from steepest.data.seeds import check_whole
from steepest.errors import DataError

VALIDATION = 10  # the last tenth of a text is kept for validation
OVERLAP = 8  # windows to train on begin an eighth of their length after the one before


@dataclass(frozen=True, eq=False)
class Text:
    """A text as numbers.

    Attributes:
        letters: the different letters, signs and spaces among them, in order.
        ids: the number of each letter of the text, int64 `(n,)`.
    """

    letters: str
    ids: Tensor

    def encode(self, written: str) -> Tensor:
        """Return the number of each letter, int64 `(len(written),)`.

        Raises:
            DataError: the text has no such letter.
        """
        if unknown := sorted(set(written) - set(self.letters)):
            raise DataError(
                f"a prompt has letters that the text has: {written!r} has {''.join(unknown)!r} too"
            )
        return _numbers(self.letters, written)

    def decode(self, ids: Tensor) -> str:
        """Return what the numbers `(n,)` stand for."""
        return "".join(self.letters[k] for k in ids.tolist())

    def windows(self, context: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return windows and their next letters, to train on and, from the last tenth, to validate.

        All four are views of `ids`, int64 `(windows, context)`. Those to train on overlap: each
        letter is in eight of them.

        Raises:
            DataError: the context is below 1, or too long for the text.
        """
        check_whole("context", context, at_least=1)
        kept = len(self.ids) - len(self.ids) // VALIDATION
        if len(self.ids) - kept <= context:
            raise DataError(
                f"a text has more than {VALIDATION} times as many letters as the context of "
                f"{context}: got {len(self.ids):,}; give a longer one, or lower context"
            )
        train = self.ids[:kept].unfold(0, context + 1, max(1, context // OVERLAP))
        held_out = self.ids[kept:].unfold(0, context + 1, context)
        return train[:, :-1], train[:, 1:], held_out[:, :-1], held_out[:, 1:]


def load_text(path: Path | str | None = None) -> Text:
    """Read a text file in UTF-8; without one, 38 of Shakespeare's sonnets (1609).

    Raises:
        DataError: the file cannot be read, is empty, or is no such text.
    """
    source = files("steepest.data") / "sonnets.txt" if path is None else Path(path)
    try:
        text = source.read_text("utf-8")
    except OSError as error:
        raise DataError(f"a text is a file: {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"a text is in UTF-8: {path} is not, at byte {error.start:,}; convert it, as "
            "iconv -f latin1 -t utf-8 does"
        ) from None
    if not text:
        raise DataError(f"a text has at least one letter: {path} is empty")
    letters = "".join(sorted(set(text)))
    return Text(letters, _numbers(letters, text))


def _numbers(letters: str, text: str) -> Tensor:
    number = {letter: k for k, letter in enumerate(letters)}
    return torch.tensor([number[letter] for letter in text])
