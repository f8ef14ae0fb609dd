"""Draw a network as its coupled groups, in one page without any request."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape

from fxprune.common.text import count, listed, percent, shortened
from fxprune.costs import Cost
from fxprune.coupling import Coupling

from .coupling import Inspection, change
from .facts import GroupFacts
from .layer_rows import AxisChannels, LayerRow, layer_rows

# In units of the drawing, which is as wide as a small telephone and grows with the page.
_WIDTH, _ROW, _LANE, _MIDDLE, _BAR, _LABEL = 340, 20, 7, 112, 100, 170
_ROWS, _LANES = 16, 7  # most in one drawing, most beside each other
_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1b1f24; --soft: #59636e; --line: #d1d9e0; --rest: #848e99;
  --light: .58; }
@media screen and (prefers-color-scheme: dark) { :root { --page: #12161b; --text: #e8edf2; --soft: #9ba7b4;
  --line: #333c46; --rest: #6b7682; --light: .72; } }
body { background: var(--page); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 46rem; padding: 1rem 12px 9rem; }
h1 { font-size: 1.4rem; line-height: 1.3; overflow-wrap: anywhere; } h2 { font-size: 1.1rem; margin-top: 2rem; }
svg { display: block; max-width: 34rem; width: 100%; }
text { fill: var(--text); font: 9.5px ui-monospace, monospace; }
code, li { overflow-wrap: anywhere; } .soft { color: var(--soft); fill: var(--soft); }
.c { fill: oklch(var(--light) .14 var(--h)); stroke: oklch(var(--light) .14 var(--h)); }
i.c { background: oklch(var(--light) .14 var(--h)); border-radius: 3px; display: inline-block; height: .8em;
  width: .8em; }
.rest { fill: var(--rest); } .lane { fill: none; stroke-width: 2.5; } .dot, .bar rect, .strip rect { stroke: none; }
.row { cursor: default; outline: none; } .hit { fill: transparent; }
.row:focus .hit, .row:hover .hit { fill: var(--line); }
.row:focus-visible .hit { stroke: var(--soft); }
.lit .dim { opacity: .18; }
#note { background: var(--page); border-top: 2px solid var(--line); bottom: 0; left: 0; padding: .6rem 12px;
  position: fixed; right: 0; white-space: pre-line; max-height: 8rem; overflow: auto; overflow-wrap: anywhere; }
details { border-top: 1px solid var(--line); padding: .3rem 0; }
small { font-size: .85rem; font-weight: 400; }
summary { cursor: pointer; } summary:focus-visible { outline: 2px solid var(--soft); }
@media screen and (min-width: 62rem) {
  body { max-width: 68rem; }
  .intro { max-width: 46rem; }
  main { align-items: start; column-gap: 3rem; display: grid;
    grid-template-columns: minmax(0, 34rem) minmax(0, 1fr); }
  main h2:first-child { margin-top: 0; }
  #note { padding: .6rem max(12px, calc(50vw - 34rem)); }
}
@media print { #note, .screen { display: none; } body { padding-bottom: 0; } h2 { break-after: avoid; } }
"""
_SCRIPT = """
const note = document.getElementById("note"), all = document.querySelectorAll("[data-groups]");
const drawing = document.getElementById("drawing");
function show(row) {
  note.textContent = row.dataset.note;
  const own = row.dataset.groups.split(" ").filter(Boolean);
  drawing.classList.toggle("lit", own.length > 0);
  all.forEach(each => each.classList.toggle("dim", !each.dataset.groups.split(" ").some(g => own.includes(g))));
}
document.querySelectorAll(".row, summary").forEach(row => {
  row.addEventListener("pointerenter", () => show(row)); row.addEventListener("focus", () => show(row));
});
document.querySelectorAll("#drawing, summary").forEach(part => {
  part.addEventListener("pointerleave", () => drawing.classList.remove("lit"));
});
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def network_page(coupling: Coupling, found: Inspection) -> str:
    """Write a page with the layers in order, a colour for each group, and what is frozen.

    The page makes no request, and its policy forbids any.
    """
    rows = layer_rows(coupling)
    numbers = {group.name: number for number, group in enumerate(found.groups)}
    saved = "" if found.half is None else f"<p>With half of its channels: {_unbroken(_half(found))}.</p>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(found.model)}: coupled channels</title>
<style>{_STYLE}</style>
</head>
<body>
<h1 class="intro">{escape(_unbroken(found.answer()))}</h1>
{saved}
<p class="intro soft">Each bar is a layer, in the order of the network; its length grows with the square root of the
channels that it makes, and the thin bar above with those that it reads. A colour is a group: channels that must merge
together. A line joins the layers of a group. Grey is frozen. <span class="screen">Point at a layer or a group, or step
to it with the Tab key: it shows what belongs together, the line of
code and, where a layer is frozen, the reason.</span></p>
<main>
{_drawing(rows, numbers)}
<div>
<h2>{count(len(found.groups), "group")} <small class="soft">channels, share of the parameters</small></h2>
{"".join(_group(group, numbers, found) for group in found.groups) or "<p>There are none.</p>"}
<h2>Frozen</h2>
{_frozen(found)}
</div>
</main>
<div id="note" aria-live="polite" class="soft">Point at a layer or a group.</div>
<script>{_SCRIPT}</script>
</body>
</html>
"""


def _half(found: Inspection) -> str:
    assert found.half is not None
    return change(Cost(found.params, found.macs), found.half)


def _unbroken(text: str) -> str:
    """Join a number to its sign, prefix or unit by a space at which no line breaks."""
    return re.sub(r"(?<=[x>→]) (?=\d)|(?<=\d) (?=[kMG%])", "\N{NO-BREAK SPACE}", text.replace("->", "→"))


def _drawing(rows: Sequence[LayerRow], numbers: Mapping[str, int]) -> str:
    widest = max((max(row.width, _sum(row.reads)) for row in rows), default=1)
    lanes, left = _lanes(rows, numbers)
    drawn = [_row(row, position, widest, numbers, left) for position, row in enumerate(rows)]
    parts = []
    for first in range(0, len(rows), _ROWS):  # a page breaks between drawings, never inside one
        end = min(first + _ROWS, len(rows))
        top, bottom = (_ROW * first + 3 if first else 0), _ROW * end + (8 if end == len(rows) else 3)
        box = f"{left} {top} {_WIDTH} {bottom - top}"
        inside = [lane for lane, begins, ends in lanes if begins < end and ends >= first]
        parts.append(f'<svg viewBox="{box}">' + "\n".join([*inside, *drawn[first:end]]) + "</svg>")
    label = f"The {count(len(rows), 'layer')} of the network, coloured by group"
    return f'<div id="drawing" role="group" aria-label="{label}">\n' + "\n".join(parts) + "\n</div>"


def _lanes(rows: Sequence[LayerRow], numbers: Mapping[str, int]) -> tuple[list[tuple[str, int, int]], int]:
    """Draw a line along the layers of each group that several make, with its first and last row.

    Returns:
        The lines, and where the drawing begins: room that they do not need is left to the names of layers.
    """
    positions = defaultdict(list)
    for position, row in enumerate(rows):
        for group in dict.fromkeys(part.group for part in row.makes if part.group is not None):
            positions[group].append(position)
    ends: list[int] = []
    drawn = []
    for group, members in sorted(positions.items(), key=lambda item: item[1]):
        if len(members) < 2:
            continue
        lane = next((i for i, end in enumerate(ends) if end < members[0]), len(ends))
        ends[lane : lane + 1] = [members[-1]]
        x = 5 + _LANE * max(_LANES - 1 - lane, 0)  # from the bars to the left
        dots = "".join(f'<circle class="dot" cx="{x}" cy="{_y(position) + 9}" r="3"/>' for position in members)
        line = f'<path class="lane" d="M{x} {_y(members[0]) + 9}V{_y(members[-1]) + 9}"/>'
        number = numbers[group]
        lane_drawn = f'<g class="c" style="--h:{_hue(number)}" data-groups="{number}">{line}{dots}</g>'
        drawn.append((lane_drawn, members[0], members[-1]))
    return drawn, _LANE * max(_LANES - len(ends), 0)


def _row(row: LayerRow, position: int, widest: int, numbers: Mapping[str, int], left: int) -> str:
    groups = dict.fromkeys(numbers[part.group] for part in (*row.makes, *row.reads) if part.group is not None)
    note = escape(_note(row), quote=True)
    y, most = _y(position), 28 + left // 6 - len(str(row.width))
    name = shortened(row.name, most)
    return (
        f'<g class="row" tabindex="0" role="img" aria-label="{note}" data-note="{note}" '
        f'data-groups="{" ".join(map(str, groups))}"><rect class="hit" x="{left}" y="{y}" width="{_WIDTH}" '
        f'height="{_ROW}" rx="3"/><g class="strip">{_bar(row.reads, y + 2, 3, widest, numbers)}</g>'
        f'<g class="bar">{_bar(row.makes, y + 6, 11, widest, numbers)}</g>'
        f'<text x="{_LABEL}" y="{y + 14}">{escape(name)} <tspan class="soft">{row.width}</tspan></text></g>'
    )


def _bar(parts: Sequence[AxisChannels], y: int, height: int, widest: int, numbers: Mapping[str, int]) -> str:
    total = _sum(parts)
    if not total:
        return ""
    length = max(3.0, _BAR * math.sqrt(total / widest))
    x, drawn = _MIDDLE - length / 2, []
    for part in parts:
        share = length * part.channels / total
        colour = 'class="rest"' if part.group is None else f'class="c" style="--h:{_hue(numbers[part.group])}"'
        drawn.append(f'<rect {colour} x="{x:.1f}" y="{y}" width="{share:.1f}" height="{height}" rx="1.5"/>')
        x += share
    return "".join(drawn)


def _note(row: LayerRow) -> str:
    """Describe a layer for its note."""
    lines = [f"{row.name}  {' x '.join(map(str, row.shape))}" + (f"  {row.source}" if row.source != "-" else "")]
    for verb, parts in (("makes", row.makes), ("reads", row.reads)):
        known = [f"{part.channels} of {part.group}" for part in parts if part.group is not None]
        if known:
            lines.append(f"{verb} {listed(known, 4)}")
    return "\n".join([*lines, *row.frozen])


def _group(group: GroupFacts, numbers: Mapping[str, int], found: Inspection) -> str:
    number = numbers[group.name]
    size = f"{group.width}{', clusters of one size' if group.balanced else ''}"
    share = _unbroken(percent(group.params / found.params))
    made, read = (count(len(each), "layer") for each in (group.layers, group.readers))
    reported = f"{group.name}  channels: {size}; {share} of the parameters\nmade or carried by {made}, read by {read}"
    note = escape(reported, quote=True)
    return (
        f'<details><summary data-groups="{number}" data-note="{note}"><i class="c" style="--h:{_hue(number)}"></i> '
        f'<code>{escape(group.name)}</code> <span class="soft">{size}, {share}</span></summary>'
        f"<p>Made or carried by</p>{_list(group.layers)}<p>Read by</p>{_list(group.readers)}</details>\n"
    )


def _list(layers: Mapping[str, str]) -> str:
    items = (
        f"<li><code>{escape(layer)}</code> <span class='soft'>{escape(source)}</span></li>"
        for layer, source in layers.items()
    )
    return f"<ul>{''.join(items)}</ul>"


def _frozen(found: Inspection) -> str:
    held = [
        f"<li>{escape(each.why)}: {f'{each.weights:,} weights of' if each.weights else ''} "
        f"<code>{escape(listed(each.axes, 6))}</code> "
        f"<span class='soft'>{escape(listed([line for line in each.sources if line != '-']))}</span></li>"
        for each in found.frozen
    ]
    return f"<ul>{''.join(held)}</ul>" if held else "<p>Nothing.</p>"


def _sum(parts: Iterable[AxisChannels]) -> int:
    return sum(part.channels for part in parts)


def _y(position: int) -> int:
    return 4 + _ROW * position


def _hue(number: int) -> int:
    """Return a hue in degrees; the golden angle keeps those of near numbers apart."""
    return round(number * 137.508) % 360
