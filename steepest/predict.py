"""What a trained model predicts of new rows, by the transform that it was trained with."""

import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from steepest.data.files import Source, chunks, label
from steepest.data.notices import Notices
from steepest.data.transform import Transform
from steepest.errors import DataError, RecipeError
from steepest.train.device import choose_device
from steepest.train.files.checkpoint import load_weights
from steepest.train.files.folder import BEST, MODEL, TRANSFORM, read_options
from steepest.train.files.whole import replacing

Network = Callable[..., nn.Module]
Weights = Literal["best", "last"]
ROWS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Predictor:
    """A trained model with what turns a table's rows into its numbers, and its numbers into words.

    Attributes:
        model: the model, ready to predict.
        transform: what was fitted to the table that it was trained on.
        device: where it computes.
    """

    model: nn.Module
    transform: Transform
    device: torch.device | str

    def predict(self, source: Source) -> tuple[pl.DataFrame, list[str]]:
        """Return a prediction for each row of a table, in order, and what to know of the rows.

        In regression the column `prediction` is in the target's own units. In classification it
        is the likeliest class, and a column `probability_<class>` stands beside it for each.

        Raises:
            DataError: the table cannot be read, or has none of the columns that are needed.
        """
        notes, frames, first, strange = Notices(), [], 0, 0
        categories = [c.name for c in self.transform.columns if c.role == "category"]
        try:
            for frame in chunks(source, text=categories, every_row=True):
                rows = frame.drop(self.transform.target.name, strict=False)
                x, _, notices = self.transform.apply(rows, first_row=first)
                outputs = self._outputs(x)
                strange += int((~outputs.isfinite()).any(1).sum())
                frames.append(self._told(outputs))
                notes += notices
                first += frame.height
            notes.check(first)
        except DataError as error:
            named = str(error).startswith(label(source))
            raise error if named else DataError(f"{label(source)}: {error}") from None
        if first == 0:
            raise DataError(f"{label(source)} has no rows: there is nothing to predict")
        told = notes.sentences()
        if strange:
            told.append(f"{strange} predictions are no finite numbers: the run's model has none")
        return pl.concat(frames), told

    @torch.inference_mode()
    def _outputs(self, x: np.ndarray) -> Tensor:
        """Return what the model gives for rows `(n, d)`: float32 `(n, outputs)`."""
        rows = torch.from_numpy(x).split(ROWS_AT_ONCE)
        found = torch.cat([self.model(part.to(self.device)).float().cpu() for part in rows])
        wanted = (len(x), self.transform.outputs)
        if found.shape != wanted:
            raise RecipeError(
                f"A model predicts {wanted[1]} numbers for a row here: got shape "
                f"{tuple(found.shape)} for {len(x)} rows"
            )
        return found

    def _told(self, outputs: Tensor) -> pl.DataFrame:
        target = self.transform.target
        if target.task == "regression":
            numbers = outputs[:, 0].double().numpy() * target.std + target.mean
            return pl.DataFrame({"prediction": numbers})
        likeliest = pl.Series(target.classes).gather(outputs.argmax(1).numpy())
        shares = {
            f"probability_{str(name).lower() if isinstance(name, bool) else name}": column
            for name, column in zip(target.classes, outputs.softmax(1).numpy().T, strict=True)
        }
        return pl.DataFrame({"prediction": likeliest, **shares})


def network_of(recipe: Callable[..., Any]) -> Network:
    """Return the function `network` that stands beside a recipe.

    Raises:
        RecipeError: there is none.
    """
    network = vars(sys.modules[recipe.__module__]).get("network")
    if not callable(network):
        raise RecipeError(
            "A recipe that predicts has a function `network(transform, ...) -> nn.Module` beside "
            f"`run`, with those of its options that the model needs: {recipe.__module__} has none"
        )
    return network  # type: ignore[return-value]


def load_predictor(
    folder: Path | str,
    network: Network,
    *,
    weights: Weights = "best",
    device: str | None = None,
) -> Predictor:
    """Return the model of a run's folder; `network(transform, ...)` builds it anew.

    `network` is given those of the run's options that it names. The best weights are those of the
    best validation, and the last ones where there was none.

    Raises:
        RecipeError: the folder holds no run of a table, or its options do not suit `network`.
        CheckpointError: the weights are damaged or of another model.
        DataError: the transform is damaged.
    """
    folder = Path(folder)
    if not (folder / TRANSFORM).is_file():
        raise RecipeError(
            f"A run that predicts has kept its transform: {folder} has no {TRANSFORM}; give the "
            f"folder of a run that was trained on a table"
        )
    transform = Transform.load(folder / TRANSFORM)
    best = folder / BEST
    path = best if weights == "best" and best.is_file() else folder / MODEL
    if not path.is_file():
        raise RecipeError(
            f"A run predicts with the weights that it has kept: {folder} has none yet; go on with "
            f"its training (--resume {folder})"
        )
    tensors = load_weights(path)
    model = _rebuilt(network, transform, read_options(folder)["options"], tensors, path)
    where = choose_device(device)
    return Predictor(model.to(where).eval(), transform, where)


def write_predictions(frame: pl.DataFrame, path: Path) -> None:
    """Write predictions in the format of the path's extension, whole or not at all.

    Raises:
        CheckpointError: the file cannot be written.
    """
    with replacing(path) as file:
        WRITERS[path.suffix.lower()](frame, file)


def check_out(path: Path, data: Path, *, force: bool) -> None:
    """Refuse a file that predictions cannot be written to, before anything is computed.

    Raises:
        RecipeError: its extension is unknown, its folder is missing, or it is there already.
    """
    if path.suffix.lower() not in WRITERS:
        raise RecipeError(f"Predictions are written as {', '.join(WRITERS)}: got {path.name}")
    if not path.parent.is_dir():
        raise RecipeError(f"There is no folder {path.parent} to write {path.name} to: make it")
    if path.exists() and data.exists() and path.samefile(data):
        raise RecipeError(f"Predictions would take the place of their own data, {data}")
    if path.exists() and not force:
        raise RecipeError(f"{path} is there already: give --force to write over it")


def _rebuilt(
    network: Network,
    transform: Transform,
    options: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    path: Path,
) -> nn.Module:
    """Build the model with the weights of `path`; one of other shapes takes no memory."""
    named = list(inspect.signature(network).parameters)[1:]
    given = {name: _plain(options[name]) for name in named if name in options}
    try:
        with torch.device("meta"):
            model = network(transform, **given)
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise RecipeError(f"The run's model cannot be built anew: {reason}") from error
    _check_shapes(model, tensors, path)
    model.load_state_dict(tensors, assign=True)
    if any(part.is_meta for part in chain(model.parameters(), model.buffers())):
        model = network(transform, **given)  # it has numbers that no state_dict holds
        model.load_state_dict(tensors)
    return model


def _plain(value: Any) -> Any:
    """Return an option as the command line gave it: JSON has no tuples."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value


def _check_shapes(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    expected = {name: tuple(part.shape) for name, part in model.state_dict().items()}
    found = {name: tuple(part.shape) for name, part in tensors.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise RecipeError(
                f"{path} is not of the model that the run's options make: {name} is "
                f"{found.get(name, 'absent')} there and {expected.get(name, 'absent')} in the model"
            )


def _write_csv(frame: pl.DataFrame, file: IO[bytes]) -> None:
    frame.write_csv(file)


def _write_tsv(frame: pl.DataFrame, file: IO[bytes]) -> None:
    frame.write_csv(file, separator="\t")


def _write_parquet(frame: pl.DataFrame, file: IO[bytes]) -> None:
    frame.write_parquet(file)


def _write_arrow(frame: pl.DataFrame, file: IO[bytes]) -> None:
    frame.write_ipc(file)


def _write_json(frame: pl.DataFrame, file: IO[bytes]) -> None:
    frame.write_ndjson(file)


WRITERS: dict[str, Callable[[pl.DataFrame, IO[bytes]], None]] = {
    ".csv": _write_csv,
    ".tsv": _write_tsv,
    ".parquet": _write_parquet,
    ".arrow": _write_arrow,
    ".jsonl": _write_json,
    ".ndjson": _write_json,
}
