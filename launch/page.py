"""The frame of all reports: one HTML file with its style, tables and pictures in it, which needs no network."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from string import Template
from typing import Any

import matplotlib
from matplotlib.figure import Figure

INK, SOFT, RULE = "#1f2933", "#66727f", "#e3e8ee"
COLORS = ("#2563a8", "#d9822b", "#2f8f6b", "#a6468c", "#6a5fc1", "#8a6d3b", "#c0392b", "#3aa0b8")
"""Of series that are told apart, in this order."""

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "report",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": "#b6c0cb",
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "legend.frameon": False,
    "legend.fontsize": 8,
}


def document(title: str, body: str, *, subtitle: str = "") -> str:
    """A whole page.

    Args:
        title: Plain text.
        body: HTML.
        subtitle: Plain text.
    """
    below = f'<p class="subtitle">{html.escape(subtitle)}</p>' if subtitle else ""
    return _PAGE.substitute(title=html.escape(title), subtitle=below, body=body)


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, marked: Iterable[tuple[int, int]] = ()) -> str:
    """A table of plain texts; the cells (row, column) that are ``marked`` stand out."""
    best = set(marked)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = []
    for number, cells in enumerate(rows):
        styles = [' class="best"' if (number, column) in best else "" for column in range(len(cells))]
        texts = zip(styles, cells, strict=True)
        body.append("<tr>" + "".join(f"<td{style}>{html.escape(cell)}</td>" for style, cell in texts) + "</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>'


def narrow(content: str) -> str:
    """HTML that would be hard to read across the whole page."""
    return f'<div class="narrow">{content}</div>'


def tiles(figures: Mapping[str, str]) -> str:
    """Figures in large type, each with what it is below."""
    parts = [
        f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span></div>" for name, value in figures.items()
    ]
    return f'<div class="tiles">{"".join(parts)}</div>'


def section(title: str, *parts: str, note: str = "") -> str:
    """Parts of HTML below a heading, with a sentence of plain text between; nothing if there are no parts."""
    told = f'<p class="note">{html.escape(note)}</p>' if note else ""
    return f"<section><h2>{html.escape(title)}</h2>{told}{''.join(parts)}</section>" if any(parts) else ""


def side_by_side(*parts: str) -> str:
    """Parts of HTML in columns, below each other on a narrow page."""
    return f'<div class="columns">{"".join(f"<div>{part}</div>" for part in parts if part)}</div>' if any(parts) else ""


def folded(title: str, content: str) -> str:
    """HTML that is shown when it is asked for."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def style() -> AbstractContextManager[None]:
    """In the block, matplotlib makes pictures that go with the page."""
    return matplotlib.rc_context(_STYLE)


def svg(figure: Figure) -> str:
    """A picture as HTML."""
    out = io.StringIO()
    with style():
        figure.savefig(out, format="svg", transparent=True)
    return "<svg" + out.getvalue().partition("<svg")[2]


_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title><style>
:root { --ink: #1f2933; --soft: #66727f; --rule: #e3e8ee; --tint: #f4f7fa; --accent: #2563a8; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink);
       max-width: 74rem; margin: 2.5rem auto 4rem; padding: 0 1.5rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -.01em; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-bottom: .35rem; border-bottom: 1px solid var(--rule); }
p { white-space: pre-line; margin: .4rem 0 1rem; }
.subtitle { color: var(--soft); margin: .5rem 0 1.5rem; }
.note { color: var(--soft); max-width: 60rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(6.9rem, 1fr)); gap: .7rem; margin: 1.4rem 0; }
.tiles div { background: var(--tint); border-radius: .5rem; padding: .7rem .8rem; }
.tiles b { display: block; font-size: 1.25rem; line-height: 1.25; font-variant-numeric: tabular-nums;
           white-space: nowrap; letter-spacing: -.01em; }
.tiles span { color: var(--soft); font-size: .82rem; }
.verdict { border-left: .25rem solid var(--accent); background: var(--tint); padding: .7rem 1rem; margin: 1rem 0; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1rem 1.6rem; }
.columns > div { min-width: 0; }
.wide { overflow-x: auto; }
.narrow { max-width: 40rem; } .narrow th, .narrow td { padding-top: .22rem; padding-bottom: .22rem; }
table { border-collapse: collapse; width: 100%; margin: .6rem 0 1.2rem; font-variant-numeric: tabular-nums; }
th, td { padding: .36rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); vertical-align: top; }
th { font-weight: 600; font-size: .85rem; color: var(--soft); }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
td:first-child { font-weight: 600; }
td.best { font-weight: 700; color: var(--accent); }
svg { display: block; max-width: 100%; height: auto; margin: .4rem 0 .8rem; }
details { margin: .6rem 0; } summary { cursor: pointer; color: var(--accent); }
pre { background: var(--tint); padding: 1rem; overflow-x: auto; font-size: .82rem; border-radius: .5rem; }
footer { margin-top: 3rem; padding-top: .8rem; color: var(--soft); font-size: .82rem;
         border-top: 1px solid var(--rule); }
@media print { body { margin: 0; max-width: none; } section { break-inside: avoid; } details { display: none; } }
</style></head><body>
<h1>$title</h1>
$subtitle
$body
</body></html>
""")
