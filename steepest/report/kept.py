"""A run folder -> what is known of the run, as far as its files can be read."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from steepest.errors import RecipeError
from steepest.lock import is_held
from steepest.report.values import mapping, number, read_json, text, whole

RUN, OPTIONS, METRICS = "run.json", "options.json", "metrics.jsonl"
EVALUATION = "evaluation.json"
STATUSES = ("running", "finished", "stopped", "failed")


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """What is known of a run, without its curves.

    Attributes:
        folder: where its files are.
        recipe, arguments: the command that made it.
        options: all options of the recipe.
        facts: run.json, not yet checked; empty where it cannot be read.
        status: running, finished, stopped or failed; "stopped?" where its process died without
            a word, "unknown" where nothing tells.
        monitor, mode: the metric that decides which weights are the best; "min" or "max".
        faults: a sentence for each file that could not be read.
    """

    folder: Path
    recipe: str = ""
    arguments: list[str] = field(default_factory=list)
    options: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    status: str = "unknown"
    monitor: str = ""
    mode: str = "min"
    faults: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return text(self.folder.resolve().name or str(self.folder))

    @property
    def started(self) -> datetime | None:
        """When the run began, by the clock that it had."""
        with suppress(ValueError):
            found = datetime.fromisoformat(text(self.facts.get("started")))
            return found if found.tzinfo else found.astimezone()
        return None

    @property
    def seconds(self) -> float | None:
        """The time taken, in seconds."""
        return number(self.facts.get("seconds"))

    @property
    def parameters(self) -> int | None:
        """How many numbers the model learns."""
        return whole(self.facts.get("parameters"))


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a run."""
    return any((folder / name).is_file() for name in (RUN, OPTIONS, METRICS))


def read_run(folder: Path) -> KeptRun:
    """Return what the files of a run tell.

    Raises:
        RecipeError: the folder holds no run.
    """
    if not is_run(folder):
        what = "is no run" if folder.is_dir() else "is no folder"
        raise RecipeError(
            f"A run's folder holds {RUN}, {OPTIONS} or {METRICS}: {folder} {what}; "
            "`steepest runs` lists the runs under runs/"
        )
    faults: list[str] = []
    facts, options = _read(folder / RUN, faults), _read(folder / OPTIONS, faults)
    monitor = mapping(facts.get("monitor"))
    return KeptRun(
        folder=folder,
        recipe=text(options.get("recipe")),
        arguments=[text(word) for word in options.get("arguments") or () if isinstance(word, str)],
        options=mapping(options.get("options")),
        versions={key: text(options.get(key)) for key in ("steepest", "torch", "python")},
        facts=facts,
        status=_status(folder, facts),
        monitor=text(monitor.get("name")),
        mode="max" if monitor.get("mode") == "max" else "min",
        faults=faults,
    )


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the run folders in a folder and in the folders in it; or itself, if it is one.

    Raises:
        RecipeError: there is no such folder.
    """
    if is_run(folder):
        yield folder
        return
    for inner in _folders(folder):
        if is_run(inner):
            yield inner
        else:
            with suppress(RecipeError):  # a folder that may not be read hides its runs, no others
                yield from filter(is_run, _folders(inner))


def labels(runs: Sequence[KeptRun]) -> list[str]:
    """Return a name for each run, each another, as short as can be."""
    named = [run.name for run in runs]
    if len(set(named)) < len(named):
        named = [text(f"{run.folder.resolve().parent.name}/{run.name}") for run in runs]
    if len(set(named)) < len(named):
        named = [text(str(run.folder)) for run in runs]
    return [f"{name} ({k + 1})" if name in named[:k] else name for k, name in enumerate(named)]


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(inner for inner in folder.iterdir() if inner.is_dir())
    except OSError as error:
        reason = (error.strerror or "it cannot be read").lower()
        raise RecipeError(
            f"Runs are looked for in a folder: {folder} gives none ({reason}); name another, "
            "or make a first run with `steepest train line`"
        ) from None


def _read(path: Path, faults: list[str]) -> Mapping[str, Any]:
    try:
        return read_json(path)
    except FileNotFoundError:
        faults.append(f"{path.name} is missing, and what it would tell is left out.")
    except OSError as error:
        faults.append(f"{path.name} cannot be read ({error.strerror}).")
    except ValueError as error:
        faults.append(f"{path.name} is damaged: it {error}; what it told is left out.")
    return {}


def _status(folder: Path, facts: Mapping[str, Any]) -> str:
    status = facts.get("status")
    if status not in STATUSES:
        return "unknown"
    return "stopped?" if status == "running" and is_held(folder) is False else str(status)
