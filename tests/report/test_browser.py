"""The page in a browser, at the width of a desk and of a phone, in light and dark, on paper.

Screenshots go to the test's folder: look at them after a change to the page.
"""

import json
import runpy
from collections.abc import Iterator
from pathlib import Path

import pytest

from steepest.report import write_report

HERE = Path(__file__).parent
browsing = runpy.run_path(str(HERE / "browser.py"))
folders = runpy.run_path(str(HERE / "folders.py"))
write_run, metrics, OPTIONS = folders["write_run"], folders["metrics"], folders["OPTIONS"]

pytestmark = pytest.mark.skipif(
    browsing["CHROMIUM"] is None, reason="chromium, a program of the system, is not installed"
)
LINEAR = {"weight": (1, 13), "bias": (1,)}
DEEP = {f"blocks.{k}.attention.out_projection.weight": (64, 64) for k in range(100)}
PLANTED = "</script><script>window.planted = 1</script><img src=x onerror=window.planted=2>"
DESK, PHONE = 1280, 390
FEW = {"epochs": 12, "batches": 60, "log_steps": 10}


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    with browsing["Browser"](tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Pages about one run, three, and of every other kind."""
    base = tmp_path_factory.mktemp("pages")
    lost = [row | {"loss": None} if row["step"] > 500 else row for row in metrics(**FEW)]
    runs = {
        "houses-1": {"rows": list(metrics())},
        "houses-2": {"rows": list(metrics(lr=3e-3, seed=1)), "options": OPTIONS | {"lr": 3e-3}},
        "houses-3": {"rows": list(metrics(speed=0.5, seed=2)), "options": OPTIONS | {"lr": 1e-4}},
        "linear": {
            "rows": list(metrics(LINEAR, **FEW)),
            "shapes": LINEAR,
            "weights": {"weight": [[k - 6 for k in range(13)]], "bias": [0.5]},
        },
        "digits": {
            "rows": list(metrics(named=("accuracy", "f1"), **FEW)),
            "evaluation": folders["classification"](),
        },
        "deep": {"rows": list(metrics(DEEP, **FEW)), "shapes": DEEP},
        "lost": {"rows": lost, "run": {"status": "failed", "device": PLANTED}},
        "nothing": {
            "rows": [],
            "run": {"status": "stopped"},
            "options": {PLANTED: PLANTED * 9},
            "evaluation": {"task": PLANTED},
        },
    }
    made = {name: write_run(base / "runs" / name, **given) for name, given in runs.items()}
    made["three"] = [made.pop("houses-2"), made.pop("houses-3"), made["houses-1"]]
    found = {name: base / f"{name}.html" for name in made}
    for name, path in found.items():
        write_report(made[name] if name == "three" else [made[name]], path)
    return found


PAGES = ["houses-1", "three", "linear", "digits", "deep", "lost", "nothing"]


@pytest.mark.parametrize("width", [DESK, PHONE])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_draws_its_charts(name, width, browser, pages, tmp_path):
    scheme = "dark" if width == PHONE else "light"
    browser.open(pages[name], width, scheme=scheme)
    browser.picture(tmp_path / f"{name}-{width}-{scheme}.png")
    assert browser.errors == []
    assert [asked for asked in browser.asked[1:] if not asked.startswith("data:")] == []
    charts = browser.value("document.getElementById('charts').textContent")
    drawn = browser.value("document.querySelectorAll('.plot .cartesianlayer > .subplot').length")
    assert drawn == len(json.loads(charts))
    assert (drawn == 0) == (name == "nothing")
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("typeof window.planted") == "undefined"


def test_no_chart_is_wider_than_its_card(browser, pages):
    browser.open(pages["three"], PHONE)
    wide = """[...document.querySelectorAll(".plot")].filter((plot) =>
        plot.querySelector(".main-svg").getBoundingClientRect().width > plot.clientWidth).length"""
    assert browser.value(wide) == 0


COLOUR = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
FAINT = {"light": "rgb(98, 108, 120)", "dark": "rgb(152, 162, 176)"}
PAGE = "getComputedStyle(document.body).backgroundColor"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_charts_follow_the_theme(scheme, browser, pages):
    browser.open(pages["linear"], DESK, scheme=scheme)
    before = [browser.value(COLOUR), browser.value(PAGE)]
    assert before[0] == FAINT[scheme]
    browser.value("document.querySelector('button.theme').click()")
    after = [browser.value(COLOUR), browser.value(PAGE)]
    assert after[0] == FAINT["dark" if scheme == "light" else "light"]
    assert after[1] != before[1]


def test_the_switches_redraw(browser, pages):
    browser.open(pages["three"], DESK)
    axis = "document.querySelector('.plot')._fullLayout.yaxis.type"
    title = "document.querySelector('.plot .xtitle').textContent"
    seen = "document.querySelectorAll('.plot')[0].querySelectorAll('.scatter').length"
    kind, lines = browser.value(axis), browser.value(seen)
    browser.value("document.querySelector('button.log').click()")
    assert {kind, browser.value(axis)} == {"log", "linear"}
    assert browser.value(title) == "updates"
    browser.value("document.querySelector('[data-place=seconds]').click()")
    assert browser.value(title) == "seconds"
    browser.value("document.querySelector('[data-run=\"1\"]').click()")
    assert browser.value(seen) == lines * 2 / 3
    assert browser.errors == []


def test_a_mouse_over_a_chart_reads_its_values(browser, pages, tmp_path):
    browser.open(pages["three"], DESK)
    place = browser.value(
        """(() => { const plot = document.querySelector(".plot");
        plot.scrollIntoView({block: "center"});
        const box = plot.getBoundingClientRect();
        return [box.x + 500, box.y + 150]; })()"""
    )
    browser.move(*place)
    browser.value("new Promise((done) => setTimeout(done, 300))")
    browser.picture(tmp_path / "hover.png", whole=False)
    said = browser.value("document.querySelector('.plot .hoverlayer').textContent")
    for words in ("houses-1, train", "houses-2, validation", "houses-3, train"):
        assert words in said


@pytest.mark.parametrize(("name", "chosen"), [("houses-1", None), ("three", "dark")])
def test_paper_gets_light_charts_as_vectors(name, chosen, browser, pages, tmp_path):
    browser.open(pages[name], DESK, scheme="light" if chosen else "dark")
    if chosen:
        browser.value("document.querySelector('button.theme').click()")
    paper = tmp_path / f"{name}.pdf"
    browser.paper(paper)
    written = paper.read_bytes()
    assert written.startswith(b"%PDF")
    assert 3 <= written.count(b"/Type /Page\n") <= 7
    assert b"/Subtype /Image" not in written
    assert browser.value("document.documentElement.dataset.theme") == chosen
    after = browser.value(COLOUR)
    browser.value("dispatchEvent(new Event('beforeprint'))")
    assert browser.value(COLOUR) == FAINT["light"]
    assert browser.value("document.querySelector('.plot')._fullLayout.width") == 650
    browser.value("dispatchEvent(new Event('afterprint'))")
    assert after == browser.value(COLOUR) == FAINT["dark"]
