"""Run a worker in several processes at once, and say what it said when it fails."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

WORKERS = Path(__file__).parent / "workers"
WARNINGS = [
    "error",
    "ignore:`torch.jit.:DeprecationWarning",  # torch.distributed.optim's own, on being imported
]
LIMIT = 120
"""Seconds after which processes that wait for each other are ended."""


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., None]:
    """`run("ddp", world=2)` runs workers/ddp.py in two processes, which must end with status 0."""

    def start(name: str, world: int) -> None:
        flags = [word for warning in WARNINGS for word in ("-W", warning)]
        folder = tmp_path / f"world{world}"
        folder.mkdir()
        said = [folder / f"rank{rank}.txt" for rank in range(world)]
        processes = []
        for rank, path in enumerate(said):
            command = [sys.executable, *flags, WORKERS / f"{name}.py", str(rank), str(world)]
            with path.open("w") as out:
                processes.append(
                    subprocess.Popen([*command, tmp_path], stdout=out, stderr=subprocess.STDOUT)
                )
        try:
            ended = [process.wait(LIMIT) for process in processes]
        finally:
            for process in processes:
                process.kill()
        assert ended == [0] * world, "\n".join(path.read_text() for path in said)

    return start
