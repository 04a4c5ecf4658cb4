"""Checkpoints: the newest few of a run, in a folder of their own."""

import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from steepest.errors import CheckpointError
from steepest.lock import locked
from steepest.train.files.checkpoint import load_checkpoint, save_checkpoint
from steepest.train.files.tree import Place
from steepest.train.files.whole import sync

__all__ = ["Checkpoints", "Newest", "locked"]

NAME = re.compile(r"step-(\d{10,})\.safetensors")
LEFT = re.compile(rf"{NAME.pattern}\.tmp")  # by a save that was killed


class Newest(NamedTuple):
    """The newest good checkpoint.

    Attributes:
        path: its file.
        state: what was saved.
        notes: a sentence for each newer one that is damaged.
    """

    path: Path
    state: dict[str, Any]
    notes: list[str]


class Checkpoints:
    """The `keep` newest checkpoints of one run, as `step-0000001250.safetensors` in `folder`.

    The folder is made when it is needed. Files with other names are left alone.
    """

    def __init__(self, folder: Path | str, keep: int = 2) -> None:
        if keep < 1:
            raise CheckpointError(f"A run keeps at least one checkpoint: got keep={keep}")
        self.folder = Path(folder)
        self.keep = keep
        self._damaged: set[Path] = set()

    def save(self, step: int, state: Mapping[str, Any]) -> Path:
        """Write the checkpoint of a step, wait until it is on disk, then delete what is too old.

        Raises:
            CheckpointError: it cannot be written, or the folder has one of a later step, which a
                run that goes on from `newest` does not meet; those before it stay as they were.
        """
        path = self.folder / f"step-{step:010d}.safetensors"
        self._make_folder()
        later = [old for old in self.paths() if _step(old) > step and old not in self._damaged]
        if later:
            raise CheckpointError(
                f"A run's checkpoints go up: got step {step} in a folder with {later[-1].name}; "
                "go on from that one, or choose another folder"
            )
        save_checkpoint(path, state)
        self._tidy(path)
        return path

    def newest(self, finite: Iterable[Place] = ()) -> Newest:
        """Load the newest checkpoint that is whole; a damaged one is noted and passed over.

        Args:
            finite: where the state must hold finite numbers, as for `load_checkpoint`.

        Raises:
            CheckpointError: there is none, or none that is whole; the message names them all.
        """
        finite = list(finite)
        notes: list[str] = []
        for path in reversed(self.paths()):
            try:
                if path.is_symlink():
                    raise CheckpointError(f"{path} is a link, where a run writes plain files")
                return Newest(path, load_checkpoint(path, finite), notes)
            except CheckpointError as error:
                notes.append(str(error))
                self._damaged.add(path)
        if notes:
            raise CheckpointError(f"No checkpoint in {self.folder} is whole: {'; '.join(notes)}")
        raise CheckpointError(f"{self.folder} has no checkpoint; begin a new run")

    def paths(self) -> list[Path]:
        """Return the checkpoints' files, the oldest step first."""
        try:
            names = [name for name in os.listdir(self.folder) if NAME.fullmatch(name)]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"{self.folder} cannot be read: {error.strerror}") from None
        return sorted((self.folder / name for name in names), key=_step)

    def _make_folder(self) -> None:
        if self.folder.is_dir():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            sync(self.folder.parent)
        except OSError as error:
            raise CheckpointError(
                f"{self.folder} could not be made: {error.strerror}; choose another place"
            ) from None

    def _tidy(self, newest: Path) -> None:
        """Delete what the newest checkpoint makes needless; what cannot be deleted stays."""
        damaged, self._damaged = self._damaged - {newest}, set()
        good = [path for path in self.paths() if path not in damaged]
        left = [self.folder / name for name in os.listdir(self.folder) if LEFT.fullmatch(name)]
        for path in [*good[: -self.keep], *damaged, *left]:
            with suppress(OSError):
                path.unlink()


def _step(path: Path) -> int:
    match = NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])
