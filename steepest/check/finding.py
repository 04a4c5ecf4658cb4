"""Finding: one mistake, with its evidence and its place in the user's code."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from steepest.check.codes import CODES
from steepest.check.where import Place


@dataclass(frozen=True)
class Finding:
    """A mistake that was seen; unpacks as `step, code, message`.

    Attributes:
        step: the updates that the optimizer had done when it was seen.
        code: its code, as "SC101".
        message: the mistake in one sentence, with names, values and shapes.
        where: file and line of the user's code, None where no line is to blame.
    """

    step: int
    code: str
    message: str
    where: Place | None = None

    def __iter__(self) -> Iterator[Any]:
        return iter((self.step, self.code, self.message))

    def __str__(self) -> str:
        place = "" if self.where is None else f"{self.where}: "
        return f"{place}{self.code} {self.message} (step {self.step})"

    @property
    def is_fact(self) -> bool:
        """Whether it is a fact; else it is a symptom, which has a threshold."""
        return CODES[self.code].is_fact

    @property
    def title(self) -> str:
        """The mistake in a few words."""
        return CODES[self.code].title

    @property
    def why(self) -> str:
        """Why it matters."""
        return CODES[self.code].why

    @property
    def mend(self) -> str:
        """What mends it, as code."""
        return CODES[self.code].mend

    def plain(self) -> dict[str, Any]:
        """Return all of it as values that JSON has."""
        told = asdict(self) | {"kind": "fact" if self.is_fact else "symptom"}
        return told | {"why": self.why, "mend": self.mend}
