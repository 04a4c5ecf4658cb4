"""Clean programs: no fact is told of any, whether or not the watch knows the model.

The programs are the public functions of the files in clean/, as a person would write them. One
with a single model and optimizer takes `tell`, which it calls with both.
"""

import gc
import inspect
import runpy
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import nn

from steepest.check import Finding, Watch, watch

FOLDER = Path(__file__).parent / "clean"

Program = Callable[..., None]


def programs() -> list[Program]:
    """Return the public functions that are written in the folder's files."""
    found = []
    for path in sorted(FOLDER.glob("*.py")):
        for name, thing in runpy.run_path(str(path)).items():
            own = inspect.isfunction(thing) and thing.__code__.co_filename == str(path)
            if own and not name.startswith("_"):
                found.append(pytest.param(thing, id=f"{path.stem}-{name}"))
    return found


def takes_tell(program: Program) -> bool:
    return "tell" in inspect.signature(program).parameters


def facts(watched: Watch) -> list[Finding]:
    return [finding for finding in watched.findings() if finding.is_fact]


pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script. is deprecated")  # torch's jvp
PROGRAMS = programs()
TELLING = [param for param in PROGRAMS if takes_tell(param.values[0])]  # type: ignore[arg-type]


@pytest.fixture(scope="module", autouse=True)
def little_memory() -> Iterator[None]:
    """Leave what other tests have made out of each look through memory, which is quick then."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_clean_program_is_silent(program: Program):
    with watch() as watched:
        if takes_tell(program):
            program(lambda model, optimizer: None)
        else:
            program()
    assert facts(watched) == []


@pytest.mark.parametrize("program", TELLING)
def test_a_clean_program_is_silent_where_the_model_is_known(program: Program):
    watches: list[Watch] = []
    with ExitStack() as open_watches:

        def tell(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
            watches.append(open_watches.enter_context(watch(model, optimizer)))

        program(tell)
    assert watches
    assert [facts(watched) for watched in watches] == [[]] * len(watches)


def test_there_are_many():
    assert len(PROGRAMS) >= 60
