"""A readable page about what was done: words, tables with the baselines, pictures."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from meshsim.check import InputError
from meshsim.render.output import save_text, target

STYLE = """
:root { color-scheme: light; }
body { max-width: 1080px; margin: 32px auto; padding: 0 20px; color: #1a1c22; background: #fff;
  font: 16px/1.5 system-ui, "DejaVu Sans", sans-serif; }
h1 { font-size: 26px; margin: 0 0 8px; } h2 { font-size: 19px; margin: 34px 0 8px; }
p { margin: 8px 0; max-width: 75ch; } .grey, figcaption, caption { color: #62656d; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 8px 0; font-size: 15px; }
caption { text-align: left; padding: 4px 0; }
th, td { padding: 5px 14px; text-align: right; border-bottom: 1px solid #e3e5e9;
  font-variant-numeric: tabular-nums; white-space: nowrap; }
th { font-weight: 600; }
tbody th, thead th.first { text-align: left; }
td.best { font-weight: 700; background: #e9f5ec; }
figure { margin: 18px 0; } img, video { max-width: 100%; height: auto; display: block; }
figcaption { font-size: 14px; margin-top: 6px; }
"""

# what the keys of a report are called
NAMES = {
    "model": "model",
    "persistence": "persistence",
    "time_mean": "own time mean",
    "last_period": "last period repeated",
    "one_step": "one step",
    "rollout_50": "50 steps",
    "rollout_all": "whole rollout",
    "reynolds": "Re",
    "relative_l2": "relative L2",
    "rmse": "RMSE",
}
FIRST = ("one_step", "rollout_50", "rollout_all")
TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".gif": "image/gif",
    ".svg": "image/svg+xml",
    ".webp": "image/webp",
    ".mp4": "video/mp4",
}


def report(
    report: Mapping[str, Any],
    pictures: Mapping[str, str | Path],
    out: str | Path = "report.html",
) -> Path:
    """Write a report as one page that holds its pictures.

    Arguments:
        report: what is known, each part optional: "title"; "what", one or several paragraphs;
            "seconds"; "parameters"; "stages" {name: seconds}; "cases", a list of {"name",
            "reynolds", …} with {metric: value} under "model" and under each baseline, and the
            {quantity, quantity_true} of the wake under "wake"; "metrics" {field: {metric: value}}
            beside "baselines" {name: {field: {metric: value}}}.
        pictures: {caption: file}, .png, .gif, .jpg, .svg, .webp or .mp4.
        out: a .html.

    Returns:
        `out`.

    Raises:
        InputError: a picture that cannot be read or shown.
        WorkError: `out` cannot be written.
    """
    path = target(out, (".html", ".htm"))
    title = str(report.get("title", "meshsim: a learned simulator on flows it never saw"))
    cases = list(report.get("cases", []))
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [f"<p>{escape(text)}</p>" for text in _words(report, cases)]
    if cases:
        parts += _errors(cases)
        parts += _wakes(cases)
    if report.get("metrics"):
        parts += _metrics(report["metrics"], report.get("baselines", {}))
    if pictures:
        parts.append("<h2>Pictures</h2>")
        parts += [_figure(caption, Path(file)) for caption, file in pictures.items()]
    if report.get("stages"):
        rows = [[name, f"{seconds:.1f}"] for name, seconds in report["stages"].items()]
        parts += ["<h2>Where the time went</h2>", _table([["stage", "seconds"]], rows)]
    body = "\n".join(parts)
    return save_text(
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n",
        path,
    )


def _words(report: Mapping[str, Any], cases: Sequence[Mapping[str, Any]]) -> list[str]:
    what = report.get("what", [])
    words = [what] if isinstance(what, str) else list(what)
    if not words and cases:
        words.append(
            "A reference solver computed flows on a mesh; a graph network learned from some of"
            f" them how the flow changes from one time to the next, and then continued"
            f" {len(cases)} others, which it had never seen, from their first state alone."
        )
    known = []
    if "parameters" in report:
        known.append(f"{int(report['parameters']):,} parameters".replace(",", "\u202f"))
    if "seconds" in report:
        minutes, seconds = divmod(round(float(report["seconds"])), 60)
        known.append(f"{minutes} min {seconds} s in all" if minutes else f"{seconds} s in all")
    return [*words, *([", ".join(known) + "."] if known else [])]


def _name(key: str) -> str:
    return NAMES.get(key, key.replace("_", " "))


def _number(value: Any) -> str:
    """Three figures, or a dash for what is not known.

    >>> _number(0.012345), _number(None), _number(1234.5)
    ('0.0123', '–', '1234')
    """
    if not isinstance(value, int | float) or value != value:
        return "–"
    if isinstance(value, int) or abs(value) >= 1000:
        return f"{value:.0f}"
    text = f"{value:#.3g}".rstrip(".")
    return text.replace("-", "−")


def _label(case: Mapping[str, Any], i: int) -> str:
    name = str(case.get("name", f"case {i + 1}"))
    return f"{name} (Re {case['reynolds']:.4g})" if "reynolds" in case else name


def _errors(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """One table a metric: cases down, the model and its baselines across."""
    who = _union(
        [k for k, v in case.items() if isinstance(v, Mapping) and k != "wake"] for case in cases
    )
    who.sort(key=lambda key: key != "model")
    metrics = _union(case[k] for case in cases for k in who if k in case)
    metrics.sort(key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
    parts = ["<h2>Errors, the model beside its baselines</h2>"]
    parts.append('<p class="grey">RMSE on flows that were not trained on; lower is better, ')
    parts[-1] += "the best of each row is marked.</p>"
    for metric in metrics:
        present = [k for k in who if any(metric in case.get(k, {}) for case in cases)]
        rows: list[list[str]] = []
        marks: set[tuple[int, int]] = set()
        for i, case in enumerate(cases):
            values = [case.get(k, {}).get(metric) for k in present]
            rows.append([_label(case, i), *map(_number, values)])
            numbers = [v for v in values if isinstance(v, int | float) and v == v]
            if len(numbers) > 1:
                marks |= {(i, j + 1) for j, v in enumerate(values) if v == min(numbers)}
        parts.append(_table([["flow", *map(_name, present)]], rows, marks, _name(metric)))
    return parts


def _wakes(cases: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the flow does in the end: the model's wake beside the true one."""
    wakes = [case.get("wake") or {} for case in cases]
    names = [k for k in _union(wakes) if any(f"{k}_true" in wake for wake in wakes)]
    if not names:
        return []
    head = ["flow"]
    for key in names:
        head += [f"{_name(key)}, model", "true", "off by"]
    rows = []
    for i, (case, wake) in enumerate(zip(cases, wakes, strict=True)):
        row = [_label(case, i)]
        for key in names:
            value, true = wake.get(key), wake.get(f"{key}_true")
            off = "–"
            if isinstance(value, int | float) and isinstance(true, int | float) and true:
                off = f"{100 * (value - true) / abs(true):+.1f} %"
            row += [_number(value), _number(true), off.replace("-", "−")]
        rows.append(row)
    return ["<h2>The wake</h2>", _table([head], rows)]


def _metrics(
    metrics: Mapping[str, Mapping[str, float]],
    baselines: Mapping[str, Mapping[str, Mapping[str, float]]],
) -> list[str]:
    """Fields and metrics down, the model and its baselines across."""
    rows: list[list[str]] = []
    marks: set[tuple[int, int]] = set()
    for field, values in metrics.items():
        for metric, value in values.items():
            line = [value, *(b.get(field, {}).get(metric) for b in baselines.values())]
            numbers = [v for v in line if isinstance(v, int | float) and v == v]
            if len(numbers) > 1:
                marks |= {(len(rows), j + 1) for j, v in enumerate(line) if v == min(numbers)}
            rows.append([f"{field}, {_name(metric)}", *map(_number, line)])
    head = ["field, metric", "model", *map(_name, baselines)]
    return ["<h2>Errors, the model beside its baselines</h2>", _table([head], rows, marks)]


def _union(groups: Iterable[Iterable[str]]) -> list[str]:
    """All names, in the order of their first appearance."""
    return list(dict.fromkeys(name for group in groups for name in group))


def _table(
    head: Sequence[Sequence[str]],
    rows: Sequence[Sequence[str]],
    best: set[tuple[int, int]] | None = None,
    title: str = "",
) -> str:
    lines = ['<div class="wide"><table>']
    if title:
        lines.append(f"<caption>{escape(title)}</caption>")
    for row in head:
        cells = [
            f"<th{' class=first' if not i else ''}>{escape(c)}</th>" for i, c in enumerate(row)
        ]
        lines.append(f"<thead><tr>{''.join(cells)}</tr></thead>")
    lines.append("<tbody>")
    for i, row in enumerate(rows):
        cells = [f"<th>{escape(row[0])}</th>"]
        for j, cell in enumerate(row[1:], 1):
            mark = " class=best" if (i, j) in (best or ()) else ""
            cells.append(f"<td{mark}>{escape(cell)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return "\n".join([*lines, "</tbody></table></div>"])


def _figure(caption: str, file: Path) -> str:
    """A picture or a movie inside the page."""
    kind = TYPES.get(file.suffix.lower())
    if kind is None:
        raise InputError(f"{file}: expected a picture ending in {' '.join(TYPES)}")
    try:
        data = f"data:{kind};base64,{b64encode(file.read_bytes()).decode('ascii')}"
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from error
    text = escape(caption)
    if kind.startswith("video"):
        shown = f'<video src="{data}" autoplay loop muted controls></video>'
    else:
        shown = f'<img src="{data}" alt="{text}">'
    return f"<figure>{shown}<figcaption>{text}</figcaption></figure>"
