"""The page of a training: one HTML file with curves, samples and settings. No script, nothing fetched, no server."""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from gesso.files import atomic_file
from gesso.tuning.judging import SHOWN, read_copies, verdict_on
from gesso.tuning.samples import SAMPLES, read_note
from gesso.tuning.settings import TuningSettings
from gesso.tuning.verdict import FIGURES, Figure

WIDTH, HEIGHT, LEFT, BOTTOM = 720, 240, 56, 28
MAX_COLUMNS = 12  # of samples: the first, the last and some between
_COLOURS = ("#5e35b1", "#e65100", "#00796b", "#c2185b", "#1565c0", "#558b2f", "#6d4c41", "#455a64")

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
Row = Mapping[str, float]
WORDS = {"seen": "error seen", "held": "error held out"}  # for figures whose name alone would not do
CURVES = ("score", "likeness", "prompts", "copies")
LIKENESS = {
    "controlnet": "how well the hint of a drawn picture agrees with the one that it was drawn by; 0 as the hints of "
    "two other pictures, 1 as the picture itself that the hint is of",
    "distil": "how well a picture agrees with the teacher's of the same prompt and noise in all of its steps; 0 as "
    "the model did in so few steps before, 1 as the teacher in half of its steps. <b>gap</b>: prompts less those "
    "of the teacher",
}
LIKE_YOURS = "0 as the model drew before, 1 as like your pictures as they are among themselves"
DRIFT = {
    "controlnet": "by how much the model's error about its own pictures grows when it is shown their hints; below 0 "
    "they help"
}
SAID = "change of what the model says about other prompts, as a share of its own error"
MEANING = (
    "<b>likeness</b>: {likeness}. "
    "<b>prompts</b>: how often a picture fits its own prompt better than another's, by the model as it was; 0.5 is "
    "chance. <b>copies</b>: share of pictures that are copies of one of yours. <b>drift</b>: {drift}. "
    "<b>error</b>: at fixed noise, of that at the start. "
    "<b>learned</b>: fall of the error, held out or else seen, as a share of the largest fall. <b>score</b>: likeness "
    "x learned x following prompts x share without copies, each from 0 to 1. Behind each value, its 95 % interval."
)
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.15rem .6rem;text-align:left;border-bottom:1px solid #ddd}
svg{width:100%;height:auto}img{width:100%;min-width:5rem;display:block}.samples td,.samples th{padding:2px;border:0}
.samples{width:100%}.pairs td{width:11%}.pairs td:nth-child(3n){width:auto}.copy{background:#ffe0e0}
.best{background:#e8f5e9}small{color:#666;white-space:nowrap}p.best{padding:.5rem .8rem}
.note{background:#fff3e0;padding:.5rem .8rem}h1{font-size:1.5rem}
h2{font-size:1.15rem;margin-top:2rem}
"""


def write_page(folder: Path, settings: TuningSettings, facts: Mapping[str, Any]) -> Path:
    """Make FOLDER/report.html from its log and samples."""
    path = folder / "report.html"
    with atomic_file(path) as file:
        file.write(render_page(folder, settings, facts).encode())
    return path


def render_page(folder: Path, settings: TuningSettings, facts: Mapping[str, Any]) -> str:
    """The page as text. Everything that comes from files or settings is escaped."""
    rows = read_log(folder / "log.jsonl")
    reports = [row for row in rows if "seen" in row]
    last = max((row["step"] for row in rows), default=0)
    title = Path(settings.output).stem or "LoRA"
    told = ", ".join(f"{key}: {value}" for key, value in facts.items())
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title>",
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        f"<style>{_STYLE}</style><h1>{escape(title)}</h1>",
        f"<p>Step {last:.0f} of {settings.steps}. {escape(told)}.</p>",
    ]
    if note := read_note(folder / SAMPLES):
        parts.append(f'<p class="note">{escape(note)}</p>')
    for row in rows:
        if "not_finite_at" in row:
            text = f"At step {row['not_finite_at']:.0f} the gradient was not finite: back to step {row['step']:.0f}"
            parts.append(f'<p class="note">{text}, at {row["rate"]:g} of the learning rate.</p>')
    parts += [*_verdict(folder, settings.kind), *_copies(folder)]
    parts += [
        "<h2>Loss at fixed noise</h2>",
        "<p>The error of the network with the same noise at the same eight timesteps every time, so that points can be "
        "compared. <b>seen</b>: pictures that are trained on. <b>held</b>: pictures that never are. Seen falling while "
        "held rises is copying.</p>",
        curves({kind: _points(reports, kind) for kind in ("seen", "held")}),
    ]
    kind = "held" if any("held" in row for row in reports) else "seen"
    times = sorted({int(key.split("_")[1]) for row in reports for key in row if key.startswith(f"{kind}_")})
    if times:
        parts += [
            f"<h2>The same by timestep ({kind})</h2>",
            "<p>High timesteps decide the layout, low ones the details. Each curve is divided by its first value.</p>",
            curves({f"t = {time}": _relative(_points(reports, f"{kind}_{time}")) for time in times}),
        ]
    trained = [row for row in rows if "loss" in row]
    parts += [
        "<h2>Loss in training</h2>",
        "<p>Means over the steps since the last point. Each step draws its own timesteps, which matters more than what "
        "was learned: this curve shows explosions and little else.</p>",
        curves({"loss": _points(trained, "loss")}),
    ]
    if samples := sorted((folder / SAMPLES).glob("*.png")):
        parts += ["<h2>Samples</h2>", _samples(samples, settings)]
    parts += ["<h2>Settings</h2>", "<table>"]
    parts += [
        f"<tr><td>{escape(name)}<td>{escape(str(value))}" for name, value in asdict(settings).items() if value != ""
    ]
    return "\n".join([*parts, "</table>", ""])


def _verdict(folder: Path, kind: str) -> list[str]:
    """What was measured at each report, and which step is best."""
    verdict = verdict_on(folder)
    if not verdict.steps:
        return []
    parts = [f'<h2>Verdict</h2><p class="best">{escape(verdict.reason[:1].upper() + verdict.reason[1:])}.</p>']
    parts += [f'<p class="note">{escape(line[:1].upper() + line[1:])}.</p>' for line in verdict.warnings]
    rows = [(one.step, one.figures()) for one in verdict.steps]
    shown = [name for name in FIGURES if any(name in figures for _, figures in rows)]
    parts += ["<table><tr><th>step", *(f"<th>{escape(WORDS.get(name, name))}" for name in shown)]
    for step, figures in rows:
        best = ' class="best"' if step == verdict.best else ""
        cells = "".join(f"<td>{_cell(figures.get(name))}" for name in shown)
        parts.append(f"<tr{best}><td>{step}{cells}")
    meaning = MEANING.format(likeness=LIKENESS.get(kind, LIKE_YOURS), drift=DRIFT.get(kind, SAID))
    parts.append(f"</table><p>{meaning}</p>")
    measured = {name: [(float(step), one[name]) for step, one in rows if name in one] for name in CURVES}
    curves_of = {name: [(step, one.value) for step, one in points] for name, points in measured.items()}
    bands = {name: [(step, one.low, one.high) for step, one in points] for name, points in measured.items()}
    return [*parts, curves(curves_of, bands)] if any(curves_of.values()) else parts


def _cell(figure: Figure | None) -> str:
    return "" if figure is None else f"<b>{figure.value:.2f}</b> <small>{figure.low:.2f} to {figure.high:.2f}</small>"


def _copies(folder: Path) -> list[str]:
    """The drawn pictures that are most like a training picture, each beside it."""
    found = read_copies(folder)
    if found is None:
        return []
    threshold, alike = float(found["threshold"]), [float(value) for value in found.get("alike", ())]
    among = f" Among themselves, your pictures reach {max(alike):.2f}." if alike else ""
    parts = [
        "<h2>Copies</h2>",
        f"<p>{int(found['copies'])} of {int(found['samples'])} pictures that step {int(found['step'])} drew are copies "
        f"of a training picture, by {escape(str(found['by']))}: their similarity is {threshold:.2f} or more.{among} "
        "Below, the most similar ones (left) beside the training picture (right).</p>",
        '<table class="samples pairs">',
    ]
    cells = []
    for number, place in enumerate(found.get("shown", ())):
        pair = [folder / SHOWN / side / f"{number:02}.png" for side in ("drawn", "yours")]
        if all(path.exists() for path in pair):
            name, value = found["nearest"][int(place)]
            mark = ' class="copy"' if float(value) >= threshold else ""
            cells.append(
                f"<td{mark}>{_picture(pair[0])}<td{mark}>{_picture(pair[1])}<td{mark}>{float(value):.2f}<br>"
                f"<small>{escape(str(name))}</small>"
            )
    rows = ["<tr>" + "".join(cells[first : first + 3]) for first in range(0, len(cells), 3)]
    return [*parts, *rows, "</table>"]


def _picture(path: Path) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def read_log(path: Path) -> list[dict[str, float]]:
    """The rows of a log in the order of their steps; of rows that a run which was cut off wrote twice, the last.

    Torn lines are left out.
    """
    if not path.exists():
        return []
    rows: dict[tuple[float, bool, bool], dict[str, float]] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int | float):
            rows[row["step"], "seen" in row, "not_finite_at" in row] = row
    return [rows[key] for key in sorted(rows)]


def _points(rows: Sequence[Row], key: str) -> list[tuple[float, float]]:
    return [(row["step"], row[key]) for row in rows if key in row]


def _relative(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    first = points[0][1] if points and points[0][1] else 1.0
    return [(x, y / first) for x, y in points]


def curves(
    lines: Mapping[str, list[tuple[float, float]]],
    bands: Mapping[str, list[tuple[float, float, float]]] | None = None,
) -> str:
    """Curves over steps as an SVG picture; those without points are left out. bands: step, low and high, shaded"""
    shown = {name: points for name, points in lines.items() if points}
    if not shown:
        return "<p>Nothing yet.</p>"
    xs = [x for points in shown.values() for x, _ in points]
    shaded = {name: points for name, points in (bands or {}).items() if len(points) > 1 and name in shown}
    ys = [y for points in shown.values() for _, y in points]
    ys += [y for points in shaded.values() for _, *both in points for y in both]
    high_x, (low, high) = max(max(xs), 1), (min(ys), max(ys))
    low, high = (low - 0.05 * (high - low), high + 0.05 * (high - low)) if high > low else (low - 0.5, high + 0.5)

    def place(x: float, y: float) -> str:
        across = LEFT + x / high_x * (WIDTH - LEFT - 90)
        down = 8 + (1 - (y - low) / (high - low)) * (HEIGHT - BOTTOM - 8)
        return f"{across:.1f},{down:.1f}"

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-size="11" font-family="sans-serif">']
    for share in (0.0, 0.5, 1.0):
        value = low + share * (high - low)
        x, y = place(0, value).split(",")
        parts.append(f'<line x1="{x}" x2="{WIDTH - 90}" y1="{y}" y2="{y}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end" dominant-baseline="middle">{value:.4g}</text>')
        parts.append(
            f'<text x="{place(share * high_x, low).split(",")[0]}" y="{HEIGHT - 8}" text-anchor="middle">'
            f"{share * high_x:.0f}</text>"
        )
    for number, (name, points) in enumerate(shown.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        if band := shaded.get(name):
            edge = [place(x, high) for x, _, high in band] + [place(x, low) for x, low, _ in reversed(band)]
            parts.append(f'<polygon points="{" ".join(edge)}" fill="{colour}" opacity="0.12"/>')
        if len(points) == 1:
            x, y = place(*points[0]).split(",")
            parts.append(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>')
        path = " ".join(place(*point) for point in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        parts.append(f'<text x="{WIDTH - 82}" y="{18 + 15 * number}" fill="{colour}">{escape(name)}</text>')
    return "".join([*parts, "</svg>"])


def _samples(paths: Sequence[Path], settings: TuningSettings) -> str:
    grid: dict[int, dict[int, Path]] = {}
    for path in paths:
        at, _, which = path.stem.partition("-")
        if at.isdigit() and which.isdigit():
            grid.setdefault(int(which), {})[int(at)] = path
    steps = sorted({step for row in grid.values() for step in row})
    if len(steps) > MAX_COLUMNS:
        steps = [steps[round(i * (len(steps) - 1) / (MAX_COLUMNS - 1))] for i in range(MAX_COLUMNS)]
    parts = ['<table class="samples"><tr>', *(f"<th>step {step}" for step in steps)]
    for place in sorted(grid):
        parts.append("<tr>")
        for step in steps:
            drawn = grid[place].get(step)
            data = "" if drawn is None else base64.b64encode(drawn.read_bytes()).decode()
            parts.append(f'<td><img alt="" src="data:image/png;base64,{data}">' if data else "<td>")
        if place < len(settings.sample_prompts):
            parts.append(f'<tr><td colspan="{len(steps)}">{escape(settings.sample_prompts[place])}')
    return "".join([*parts, "</table>"])
