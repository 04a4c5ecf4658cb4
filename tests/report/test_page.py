"""The page: what it shows of each kind of run, and that nothing in a folder can break it."""

import json
import os
import re
import runpy
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from steepest.data.transform import fit
from steepest.errors import RecipeError
from steepest.report import report_page, write_report
from steepest.report.page import GENERATOR

folders = runpy.run_path(str(Path(__file__).with_name("folders.py")))
write_run, metrics, OPTIONS = folders["write_run"], folders["metrics"], folders["OPTIONS"]
FEW = {"epochs": 3, "batches": 20, "log_steps": 5}
LINEAR = {"weight": (1, 13), "bias": (1,)}
ONE_LINE = {"kind": "step", "epoch": 1, "step": 1, "loss": 1.0, "lr": 0.1}
PLANTED = "</script><script>alert(1)</script>\"'&<img src=x onerror=alert(2)>"


class Read(HTMLParser):
    """What a browser would read: elements, words outside of scripts, data."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.scripts: list[str] = []
        self._inside = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside == "script":
            self.scripts.append(data)
        elif self._inside != "style" and data.strip():
            self.words.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        return "\n".join(self.words)

    @property
    def charts(self) -> dict:
        return json.loads(self.scripts[0])

    @property
    def titles(self) -> list[str]:
        plots = [found for _, found in self.elements if found.get("class") == "plot"]
        return [plot["aria-label"] for plot in plots]


def read(*runs: Path) -> Read:
    return Read(report_page(runs))


def small(folder: Path, **given) -> Path:
    rows = given.pop("rows", None) or list(metrics(**FEW))
    return write_run(folder, rows=rows, **given)


CURVES = ["Loss", "MAE", "R2", "Learning rate", "Gradient norm"]
DOTS = ["Prediction and truth", "Residuals"]
KINDS = {
    "regression": ({}, [*CURVES, "Update / parameter", *DOTS]),
    "classification": (
        {"evaluation": folders["classification"]()},
        [*CURVES, "Update / parameter", "Confusion", "Recall of each class"],
    ),
    "no validation": (
        {
            "rows": [row | {"loss": 2.0} for row in [ONE_LINE] * 3],
            "evaluation": {"task": "classification", "classes": [], "confusion": []},
        },
        ["Loss", "Learning rate"],
    ),
    "a metric of the user's own": (
        {"rows": [ONE_LINE | {"kind": "epoch", "validation_half_life": 3.0}]},
        ["Loss", "Half life", "Learning rate", *DOTS],
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_has_the_charts_of_what_there_is(kind, tmp_path):
    given, titles = KINDS[kind]
    page = read(small(tmp_path / "run", **given))
    assert page.titles == titles
    assert len(page.charts) == len(titles)


def test_a_page_asks_no_network_for_anything(tmp_path):
    made = report_page([small(tmp_path / "run")])
    page = Read(made)
    links = [
        value
        for tag, given in page.elements
        for name, value in given.items()
        if name in ("src", "href", "srcset", "data", "action", "poster")
        and (tag, name) != ("a", "href")
    ]
    assert not links
    assert all(given["href"].startswith("#") for tag, given in page.elements if tag == "a")
    style = made[made.index("<style>") : made.index("</style>")]
    assert not re.search(r"@import|url\(", style)
    policy = next(g["content"] for _, g in page.elements if "http-equiv" in g)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


def test_names_from_outside_are_text(tmp_path):
    shapes = {PLANTED: (2, 2), "bias": (2,)}
    rows = list(metrics(shapes, **FEW))
    for row in rows:
        row["validation_" + PLANTED] = 1.0
    matrix = {"task": "classification", "classes": [PLANTED, "b"], "confusion": [[1, 2], [3, 4]]}
    options = OPTIONS | {PLANTED: PLANTED, "target": PLANTED}
    told = {"device": PLANTED, "schedule": PLANTED, "ended": PLANTED, "monitor": {"name": PLANTED}}
    runs = [
        small(
            tmp_path / name, shapes=shapes, rows=rows, options=options, run=told, evaluation=matrix
        )
        for name in ("<b>bold", 'quo"te')
    ]
    made = report_page(runs)
    page = Read(made)
    assert [tag for tag, _ in page.elements].count("script") == 3
    assert not {"img", "b"} & {tag for tag, given in page.elements if given}
    assert "alert(1)</script>" not in made
    assert PLANTED in page.words
    names = {trace.get("name") for chart in page.charts.values() for trace in chart["data"]}
    assert "&lt;b&gt;bold, train" in names
    assert not any(name and "<" in name for name in names)


FAULTS = {
    "run.json cut short": ("run.json", '{"name": "ta', "run.json is damaged: it holds no JSON"),
    "run.json empty": ("run.json", "", "run.json is damaged"),
    "run.json a list": ("run.json", "[1]", "run.json is damaged: it holds no JSON object"),
    "run.json nested deep": ("run.json", "[" * 100_000, "run.json is damaged"),
    "run.json a number of 9,999 digits": ("run.json", '{"a": ' + "9" * 9999 + "}", "run.json is"),
    "options.json no text": ("options.json", b"\xff\xfe\x00", "options.json is damaged"),
    "options.json huge": (
        "options.json",
        b" " * (2**25 + 1),
        "options.json is damaged: it is larger",
    ),
    "metrics.jsonl damaged": (
        "metrics.jsonl",
        json.dumps(ONE_LINE) + "\n{]\n",
        "A line of metrics.jsonl is",
    ),
    "metrics.jsonl no rows": (
        "metrics.jsonl",
        "3\n[]\n{}\n",
        "3 lines of metrics.jsonl are damaged",
    ),
    "evaluation.json uneven": (
        "evaluation.json",
        '{"task": "regression", "target": [1, 2], "prediction": [1]}',
        "it has not as many predictions as targets",
    ),
    "evaluation.json no numbers": (
        "evaluation.json",
        '{"task": "regression", "target": ["a"], "prediction": [NaN]}',
        "it holds no finite prediction",
    ),
    "evaluation.json not square": (
        "evaluation.json",
        '{"task": "classification", "classes": ["a", "b"], "confusion": [[1, 2]]}',
        "it holds no square table of counts",
    ),
    "evaluation.json ragged": (
        "evaluation.json",
        '{"task": "classification", "classes": ["a", "b"], "confusion": [[1, 2], [3]]}',
        "it holds no square table of counts",
    ),
    "evaluation.json with a gap": (
        "evaluation.json",
        '{"task": "classification", "classes": ["a", "b"], "confusion": [[1, 2], [3, null]]}',
        "it holds no square table of counts",
    ),
    "evaluation.json of no task": ("evaluation.json", "{}", "evaluation.json is damaged"),
    "best.safetensors no weights": (
        "best.safetensors",
        b"no weights at all",
        "best.safetensors cannot",
    ),
    "best.safetensors a header beyond its end": (
        "best.safetensors",
        (2**40).to_bytes(8, "little") + b"{}",
        "best.safetensors cannot be read",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_file_is_a_sentence(fault, tmp_path):
    name, content, sentence = FAULTS[fault]
    run = small(tmp_path / "run")
    (run / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert sentence in read(run).text


@pytest.mark.parametrize("name", ["run.json", "options.json", "metrics.jsonl"])
def test_a_missing_file_is_a_sentence(name, tmp_path):
    run = small(tmp_path / "run")
    (run / name).unlink()
    assert f"{name} is missing" in read(run).text


@pytest.mark.parametrize("name", ["run.json", "metrics.jsonl", "evaluation.json"])
def test_a_pipe_keeps_nobody_waiting(name, tmp_path):
    run = small(tmp_path / "run")
    (run / name).unlink()
    os.mkfifo(run / name)
    assert f"{name} " in read(run).text


def test_a_torn_last_line_is_what_a_killed_run_leaves(tmp_path):
    run = small(tmp_path / "run")
    whole = read(run)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step", "epoch": 4, "st')
    assert read(run).words == whole.words


FIELDS = [*folders["facts"](OPTIONS, LINEAR, []), "ended"]
WRONG = [None, True, -1, 1e308, "text", [], [None], [[1]], {}, {"name": []}, [{"options": 3}]]


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_of_another_kind_is_left_out(field, tmp_path):
    run = small(tmp_path / "run")
    good = json.loads((run / "run.json").read_text())
    for wrong in WRONG:
        (run / "run.json").write_text(json.dumps(good | {field: wrong}))
        assert "Loss" in read(run).titles


@pytest.mark.parametrize("wrong", WRONG, ids=json.dumps)
def test_a_row_of_other_kinds_is_left_out(wrong, tmp_path):
    row = dict.fromkeys(next(iter(metrics())), wrong) | {"kind": "epoch", "validation_x": wrong}
    assert read(write_run(tmp_path / "run", rows=[row], run={"best": wrong, "final": wrong})).words


def test_a_run_killed_at_its_start_has_no_curves(tmp_path):
    run = small(tmp_path / "run", run={"status": "stopped", "best": None, "final": None})
    for name in ("metrics.jsonl", "evaluation.json", "options.json"):
        (run / name).unlink()
    page = read(run)
    assert page.titles == []
    assert "No metrics were written, so there are no curves." in page.words
    assert "Linear" in page.words


def test_a_diverged_run_names_the_update(tmp_path):
    rows = [
        row | {"loss": None, "gradient_norm": None} if row["step"] > 30 else row
        for row in metrics(**FEW)
    ]
    page = read(small(tmp_path / "run", rows=rows))
    assert "The loss was not a finite number at update 35." in page.words
    assert None in page.charts["chart-1"]["data"][0]["y"]


def test_a_long_run_makes_a_small_page(tmp_path):
    lines = (
        f'{{"kind": "step", "epoch": 1, "step": {k}, "samples": {k}, "seconds": {k / 99}, '
        f'"loss": {2 + k % 1000 / 999 + (9 if k == 77777 else 0)}, "lr": 0.1}}\n'
        for k in range(200_000)
    )
    run = small(tmp_path / "run")
    (run / "metrics.jsonl").write_text("".join(lines))
    page = read(run)
    loss, mean = page.charts["chart-1"]["data"]
    assert max(loss["y"]) == pytest.approx(11.78, abs=0.1)
    assert len(loss["y"]) < 2000
    assert len(mean["y"]) < 200
    assert len(page.scripts[0]) < 400_000


@pytest.mark.parametrize(("layers", "drawn"), [(8, 8), (100, 100), (300, 100)])
def test_many_layers_are_a_heat_map(layers, drawn, tmp_path):
    shapes = {f"layers.{k}.weight": (2, 2) for k in range(layers)}
    page = read(small(tmp_path / "run", shapes=shapes, rows=list(metrics(shapes, **FEW))))
    data = page.charts[f"chart-{page.titles.index('Update / parameter') + 1}"]["data"]
    assert (len(data) if layers <= 8 else len(data[0]["ratios"])) == drawn
    assert data[0]["type"] == ("scatter" if layers <= 8 else "heatmap")
    assert ("100 of 300 are drawn." in page.text) == (layers == 300)


def test_the_numbers_of_a_small_model_are_shown(tmp_path):
    weights = {"weight": [[0.5, -2.0, 1e-5]], "bias": [0.25]}
    page = read(small(tmp_path / "run", weights=weights))
    for words in ("weight[0, 0]", "0.5", "\N{MINUS SIGN}2", "1e\N{MINUS SIGN}5", "bias", "0.25"):
        assert words in page.words


def test_the_weights_of_a_table_have_the_names_of_its_columns(tmp_path):
    frame = pl.DataFrame(
        {"rooms": [1.0, 2.0, 3.0], PLANTED: [3.0, 1.0, 2.0], "price": [1.0, 2.0, 4.0]}
    )
    run = small(tmp_path / "run", weights={"weight": [[0.5, -2.0]], "bias": [0.25]})
    (run / "transform.json").write_text(fit(frame, target="price")[0].to_json())
    words = read(run).words
    assert words[words.index("weight rooms") :][:2] == ["weight rooms", "0.5"]
    assert f"weight {PLANTED}" in words


def test_the_numbers_of_a_larger_model_are_not(tmp_path):
    page = read(small(tmp_path / "run", weights={"weight": [[0.5] * 51]}))
    assert "weight[0, 0]" not in page.words


def test_several_runs_have_a_colour_each_and_their_differences(tmp_path):
    older = {key: value for key, value in OPTIONS.items() if key != "clip_norm"}
    runs = [
        small(tmp_path / "a" / "run-1"),
        small(tmp_path / "b" / "run-1", options=older | {"lr": 0.01}),
        small(tmp_path / "c" / "run-2"),
    ]
    page = read(*runs)
    lines = [
        t for c in page.charts.values() for t in c["data"] if "line" in t and t["type"] == "scatter"
    ]
    assert {(t["run"], t["line"]["color"]) for t in lines} == {
        (k, f"var(--run-{k + 1})") for k in range(3)
    }
    at = page.words.index("What differs")
    after = page.words[at:]
    assert after[after.index("lr") :][:4] == ["lr", "0.001", "0.01", "0.001"]
    assert after[after.index("clip_norm") :][:4] == ["clip_norm", "none", "\N{EN DASH}", "none"]
    assert {"a/run-1", "b/run-1", "c/run-2"} <= set(page.words)


@pytest.mark.parametrize("mode", ["min", "max"])
def test_the_best_value_of_the_metric_that_chose_is_bold(mode, tmp_path):
    monitor = {"name": "validation_r2", "mode": mode}
    runs = []
    for k, value in enumerate((0.5, 0.7, 0.6)):
        row = {"kind": "epoch", "epoch": 1, "step": 9, "loss": 1.0, "validation_r2": value}
        runs.append(small(tmp_path / f"run-{k}", rows=[row], run={"monitor": monitor}))
    made = report_page(runs)
    assert re.findall("<b>([^<]*)</b>", made) == ["0.7" if mode == "max" else "0.5"]


def test_a_group_has_the_lr_that_it_began_with(tmp_path):
    group = {"tensors": 2, "parameters": 14, "options": {"lr": 1e-9, "initial_lr": 0.25}}
    page = read(small(tmp_path / "run", run={"optimizer": {"name": "SGD", "groups": [group]}}))
    at = page.words.index("SGD")
    assert page.words[at - 4 : at + 4] == [
        *("optimizer", "tensors", "parameters", "lr"),
        *("SGD", "2", "14", "0.25"),
    ]


def test_a_report_takes_the_place_of_a_report_only(tmp_path):
    run, out = small(tmp_path / "run"), tmp_path / "report.html"
    assert write_report([run], out) == out.stat().st_size
    assert GENERATOR in out.read_text()[:1000]
    write_report([run], out)
    mine = tmp_path / "mine.html"
    mine.write_text("<p>mine")
    with pytest.raises(RecipeError, match=r"mine\.html is neither; name another with --out"):
        write_report([run], mine)
    assert mine.read_text() == "<p>mine"


@pytest.mark.parametrize("out", ["no/such/folder.html", "."])
def test_a_file_that_cannot_be_written_is_a_sentence(out, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match="The report cannot be written to"):
        write_report([small(tmp_path / "run")], Path(out))


@pytest.mark.parametrize("what", ["empty", "missing", "file"])
def test_a_folder_that_is_no_run_is_refused(what, tmp_path):
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.touch()
    with pytest.raises(
        RecipeError, match=r"holds run\.json, options\.json or metrics\.jsonl: .* is no "
    ):
        report_page([path])
