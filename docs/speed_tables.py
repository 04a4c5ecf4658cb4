"""Put the measured tables into speed.md, from bench/results/."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mkdocs.structure.pages import Page

RESULTS = Path(__file__).parents[1] / "bench" / "results"
UNMEASURED = "*Nothing is recorded yet: `{command}` measures it.*"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Replace each mark `<!-- table: ... -->` by its table."""
    if page.file.src_uri != "speed.md":
        return markdown
    for mark, (name, command, table) in TABLES.items():
        found = _recorded(name, table) or UNMEASURED.format(command=command)
        markdown = markdown.replace(f"<!-- table: {mark} -->", found)
    return markdown


def _recorded(name: str, table: Callable[[Any], str]) -> str:
    """Return a table and what it was measured on; empty where there is nothing of it."""
    path = RESULTS / f"{name}.json"
    if not path.exists():
        return ""
    recorded = json.loads(path.read_text())
    text = table(recorded["rows"])
    return text and f"{text}\n\n{_machine(recorded['machine'])}"


def _machine(machine: dict[str, Any]) -> str:
    """Return in a sentence what a table was measured on."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"*{machine['processor']}, {machine['capability']}, {machine['threads']} threads, "
        f"Python {machine['python']}; {versions}.*"
    )


def _lines(head: list[str], body: list[list[str]], words: int = 1) -> str:
    """Return a table as Markdown, whose first columns are words and the others numbers."""
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *body])


def _against(figure: float, target: float, written: str, *, most: bool = False) -> str:
    """Return a figure; one that misses its target in bold, with the target."""
    reached = figure <= target if most else figure >= target
    return written if reached else f"**{written}** ({target:g})"


# ---- the tables -----------------------------------------------------------------------------


def steps(rows: dict[str, Any]) -> str:
    """Return how many times faster than torch's best mode, a line a rule."""
    results = rows["steps, microseconds"]
    sets = list(dict.fromkeys(r["set"] for r in results))
    body = []
    for row in dict.fromkeys(r["row"] for r in results):
        found = {r["set"]: r for r in results if r["row"] == row}
        body.append([row, *(_step(found[s]) if s in found else "" for s in sets)])
    return _lines(["in place / fresh", *sets], body)


def _step(r: dict[str, Any]) -> str:
    in_place, fresh = r["ratio in place"], r["ratio fresh"]
    return _against(in_place, r["target"], f"{in_place:.2f} / {fresh:.2f}")


def first_step(rows: dict[str, Any]) -> str:
    """Return what the first step of a process takes."""
    body = [[name, f"{value:.2f}"] for name, value in rows["first step, seconds"].items()]
    return _lines(["first step", "seconds"], body)


def bandwidth(rows: dict[str, Any]) -> str:
    """Return the memory's speed under AdamW and under torch's operations."""
    results = [r for r in rows.get("memory", []) if "gigabytes a second" in r]
    if not results:
        return ""
    names = list(results[0]["gigabytes a second"])
    body = [[name, *(f"{r['gigabytes a second'][name]:.1f}" for r in results)] for name in names]
    shares = [_against(r["figure"], r["target"], f"{r['figure']:.2f}") for r in results]
    head = ["gigabytes a second", *(r["set"] for r in results)]
    return _lines(head, [*body, ["steepest, of the best other", *shares]])


def extras(rows: dict[str, Any]) -> str:
    """Return what clip, average and norms add to AdamW."""
    results = [r for r in rows.get("memory", []) if "figure of torch" in r]
    if not results:
        return ""
    body = [
        [
            r["set"],
            *(f"{r['microseconds'][k] / 1e3:.1f}" for k in ("steepest plain", "steepest")),
            _against(r["figure"], r["target"], f"{r['figure']:.2f}", most=True),
            *(f"{r['microseconds'][k] / 1e3:.1f}" for k in ("torch plain", "torch")),
            f"{r['figure of torch']:.2f}",
        ]
        for r in results
    ]
    ours = ["AdamW, milliseconds", "with all", "times"]
    theirs = ["torch's fused AdamW", "with all", "times"]
    return _lines(["", *ours, *theirs], body)


def peers(rows: list[dict[str, Any]]) -> str:
    """Return what the other packages take."""
    return _lines(
        ["set, rule", "candidate", "microseconds", "times ours", "first step, seconds"],
        [[f"{r['set']}, {r['rule']}", r["candidate"], *_peer(r)] for r in rows],
        words=2,
    )


def _peer(r: dict[str, Any]) -> list[str]:
    if "failed" in r:
        return [r["failed"].replace("|", "\\|"), "", ""]
    times = _against(r["times ours"], r["target"], f"{r['times ours']:.2f}")
    return [f"{r['microseconds']:,.0f}", times, f"{r['first step, seconds']:.1f}"]


def training(rows: dict[str, Any]) -> str:
    """Return what a batch takes in each loop, and how many times ours that is."""
    results = rows["results"]
    names = results[0]["microseconds"]
    body = [[name, *(_batch(r, name) for r in results)] for name in names]
    body.append(["steepest above bare", *(_above(r) for r in results)])
    return _lines(["microseconds a batch (times ours)", *(r["case"] for r in results)], body)


def _batch(r: dict[str, Any], name: str) -> str:
    """Return a loop's time, and how it compares with ours: compiled, for Keras on JAX."""
    ours = "compiled" if name == "Keras on JAX" else "steepest"
    times, value = r[f"times {ours}"][name], f"{r['microseconds'][name]:.0f}"
    if name in ("memory", "bare", "steepest", "compiled"):
        return value
    targets = {"plain": r["targets"]["plain"], "Keras on JAX": 1.0}
    return f"{value} ({_against(times, targets.get(name, r['targets']['peers']), f'{times:.1f}')})"


def _above(r: dict[str, Any]) -> str:
    most, bare = r["targets"]["above"], r["microseconds"]["bare"]
    target = round(max(most["microseconds"], most["share"] * bare), 1)
    return _against(r["above bare"], target, f"{r['above bare']:.1f}", most=True)


def brought(rows: dict[str, Any]) -> str:
    """Return what packages bring along."""
    body = [
        [name, f"{found['megabytes']:,.0f}", f"{found['seconds']:.2f}"]
        for name, found in rows["brought"].items()
    ]
    return _lines(["", "megabytes", "import, seconds"], body)


def table(rows: dict[str, Any]) -> str:
    """Return how soon a large table is trained on, and how fast."""
    body = []
    for r in rows["results"]:
        if "seconds" in r:
            seconds = _against(
                r["seconds"], r["target_seconds"], f"{r['seconds']:.1f} s", most=True
            )
            memory, most = r["memory_in_tables"], r["target_memory"]
            body.append(
                [r["case"], seconds, _against(memory, most, f"{memory:.1f} tables", most=True)]
            )
        else:
            found = r["seconds_per_epoch"]
            times = _against(r["times_less"], r["target"], f"{r['times_less']:.1f} times less")
            what = f"{found['steepest']:.2f} s, plain {found['plain']:.2f} s: {times}"
            body.append([f"{r['case']}, {r['threads']} threads", what, ""])
    return _lines(["", "time", "memory"], body)


def stream(rows: dict[str, Any]) -> str:
    """Return what memory a streamed table takes."""
    size, bound = rows["file_bytes"] / 2**20, rows["memory"] / 2**20
    peaks = [f"{rows[name] / 2**20:.0f}" for name in ("peak_reading", "peak_epochs")]
    head = ["MiB of the file", "of the bound", "at most while reading", "while training"]
    return _lines(head, [[f"{size:,.0f}", f"{bound:.0f}", *peaks]])


TABLES: dict[str, tuple[str, str, Callable[[Any], str]]] = {
    "steps": ("step", "make bench", steps),
    "first step": ("step", "make bench", first_step),
    "bandwidth": ("step", "make bench", bandwidth),
    "extras": ("step", "make bench", extras),
    "peers": ("peers", "make bench-peers", peers),
    "table": ("table", "make bench", table),
    "stream": ("stream", "make bench", stream),
    "training": ("train_peers", "make bench-peers", training),
    "brought": ("train_peers", "make bench-peers", brought),
}
"""By mark: the result's file, what measures it, and what makes the table of it."""
