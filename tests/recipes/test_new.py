"""`steepest new` writes a start that runs at once, and never over a file."""

import io
import shlex
import sys
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from steepest.cli import main
from steepest.recipes import recipe_lines

ROOT = Path(__file__).parents[2]
IRIS = f"--data {ROOT / 'examples' / 'iris.csv'} --target species"
Steepest = Callable[[str], tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name in [name for name in sys.modules if name.startswith("recipe_")]:
        del sys.modules[name]


@pytest.fixture
def steepest(capsys: pytest.CaptureFixture[str]) -> Steepest:
    def call(words: str) -> tuple[int, str, str]:
        code = main(shlex.split(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_a_new_recipe_runs_at_once(steepest: Steepest):
    code, out, err = steepest("new my_recipe.py")
    assert (code, err) == (0, "")
    assert out.splitlines()[1:] == [
        "  train:    steepest train my_recipe.py",
        "  options:  steepest train my_recipe.py --help",
    ]
    code, out, _ = steepest("train my_recipe.py")
    assert code == 0
    height = float(out.partition("(0.5, 0.5) is ")[2].split()[0])
    assert height == pytest.approx(1.247, abs=0.05)


BEGAN = {
    "line": "--rows 100 --epochs 1",
    "table": f"{IRIS} --epochs 1",
    "digits": "--epochs 1 --width 4",
    "chars": "--epochs 1 --width 16 --layers 1 --context 8 --sample 5",
}


@pytest.mark.parametrize("name", sorted(recipe_lines()))
def test_a_recipe_that_began_as_a_built_in_one_runs(steepest: Steepest, name: str):
    code, out, _ = steepest(f"new 'my own.py' --from {name}")
    assert code == 0
    needed = " --data DATA --target TARGET" if name == "table" else ""
    assert out.splitlines()[1] == f"  train:    steepest train 'my own.py'{needed}"
    text = Path("my own.py").read_text()
    assert (
        f"\n# It began as the recipe `{name}` of steepest. Train it: steepest train 'my own.py'\n"
        in text
    )
    assert steepest(f"train 'my own.py' {BEGAN[name]}")[0] == 0


def test_the_comments_name_the_file(steepest: Steepest):
    Path("folder").mkdir()
    steepest("new folder/mine.py")
    text = Path("folder/mine.py").read_text()
    assert "# Train it:         steepest train folder/mine.py\n" in text
    assert "FILE" not in text


def test_a_file_is_written_over_by_force_alone(steepest: Steepest):
    Path("mine.py").write_text("mine")
    code, _, err = steepest("new mine.py")
    assert code == 2
    assert "mine.py is there already; choose another name, or write over it with --force" in err
    assert Path("mine.py").read_text() == "mine"
    assert steepest("new mine.py --force --from line")[0] == 0
    assert "def run(" in Path("mine.py").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("new", "steepest: new needs FILE.py; see steepest new --help"),
        ("new mine", "ends in .py: got mine; call it mine.py"),
        ("new mine.py --from lin", "got 'lin' (did you mean 'line'?)"),
        ("new mine.py --form line", "no option --form (did you mean '--from'?)"),
        ("new json.py", "imported instead of the module json"),
        ("new torch.py", "imported instead of the module torch"),
        ("new absent/mine.py", "absent/mine.py cannot be written: No such file or directory"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused(steepest: Steepest, words: str, message: str):
    code, out, err = steepest(words)
    assert (code, out) == (2, "")
    assert message in err
    assert list(Path().iterdir()) == []


def code_lines(path: Path) -> int:
    """Count lines of code: no blank ones, comments and docstrings."""
    lines: set[int] = set()
    start = True
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(io.StringIO(file.read()).readline):
            if token.type in (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT):
                start = True
            elif token.type not in (tokenize.NL, tokenize.COMMENT, tokenize.ENDMARKER):
                if not (start and token.type == tokenize.STRING):
                    lines.update(range(token.start[0], token.end[0] + 1))
                start = False
    return len(lines)


@pytest.mark.parametrize("name", sorted(recipe_lines()))
def test_a_recipe_is_short_enough_to_be_copied(name: str):
    assert code_lines(ROOT / "steepest" / "recipes" / f"{name}.py") < 80
