"""The generated source of a few kernels is the one that was reviewed."""

import runpy
from pathlib import Path

import pytest

golden = runpy.run_path(str(Path(__file__).parent / "golden.py"))


@pytest.mark.parametrize("name", golden["KERNELS"])
def test_source_is_the_reviewed_one(name):
    reviewed = (golden["FOLDER"] / f"{name}.txt").read_text()
    assert golden["source"](name) == reviewed, (
        "the generated kernel has changed; when that is wanted, run "
        "`python tests/kernels/golden.py` and review the diff"
    )


def test_every_golden_file_is_compared():
    assert {path.stem for path in golden["FOLDER"].iterdir()} == set(golden["KERNELS"])
