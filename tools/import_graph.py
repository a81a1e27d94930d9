#!/usr/bin/env python3
"""Draw which module of a package imports which when it loads: `python tools/import_graph.py core/bgem3 > graph.svg`.

A module stands above all that it imports; a line that a longer way implies is left out.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from graphlib import TopologicalSorter
from html import escape
from pathlib import Path

from measure import ModuleFacts, load

WIDTH, ROW, HEIGHT, CHARACTER, GAP = 1180, 64, 24, 6.3, 10
COLOURS = ("#dbeafe", "#dcfce7", "#fef3c7", "#fce7f3", "#ede9fe", "#ccfbf1", "#ffedd5")

Graph = Mapping[str, set[str]]


def graph_of(modules: list[ModuleFacts]) -> dict[str, set[str]]:
    """Return module -> modules it imports, without files that only mark a folder."""
    code = {module.name: module.imports for module in modules if module.functions or module.imports}
    return {name: imports & set(code) for name, imports in code.items()}


def without_implied(graph: Graph) -> dict[str, set[str]]:
    """Leave out a line where a longer way says the same."""
    reach: dict[str, set[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        reach[name] = set().union(graph[name], *(reach[other] for other in graph[name]))
    return {name: {one for one in to if not any(one in reach[other] for other in to)} for name, to in graph.items()}


def rows_of(graph: Graph) -> list[list[str]]:
    """Return the modules in rows, top first, in an order that keeps lines short."""
    depth: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        depth[name] = 1 + max((depth[other] for other in graph[name]), default=-1)
    rows = [sorted(name for name in graph if depth[name] == level) for level in range(max(depth.values()) + 1)]
    place: dict[str, float] = {}
    for row in rows:
        row.sort(key=lambda name: sum(place[one] for one in graph[name]) / (len(graph[name]) or 1))
        place |= {name: (i + 0.5) / len(row) for i, name in enumerate(row)}
    return [part for row in reversed(rows) for part in _fitting(row)]


def _fitting(row: list[str]) -> list[list[str]]:
    """Cut a row that is wider than the picture."""
    parts: list[list[str]] = [[]]
    for name in row:
        if parts[-1] and sum(map(_width, [*parts[-1], name])) > WIDTH - GAP:
            parts.append([])
        parts[-1].append(name)
    return parts


def _width(name: str) -> float:
    return len(_label(name)) * CHARACTER + 14 + GAP


def _label(name: str) -> str:
    return name.partition(".")[2] or name


def _room(name: str) -> str:
    return _label(name).rpartition(".")[0]


def _places(rows: list[list[str]]) -> dict[str, tuple[float, float]]:
    """Return the middle of each module's box."""
    places = {}
    for level, row in enumerate(rows):
        spare = (WIDTH - sum(map(_width, row))) / (len(row) + 1)
        left = spare
        for name in row:
            places[name] = (left + _width(name) / 2, GAP + HEIGHT / 2 + level * ROW)
            left += _width(name) + spare
    return places


def draw(modules: list[ModuleFacts]) -> str:
    """Return the graph as an SVG document."""
    graph = without_implied(graph_of(modules))
    rows = rows_of(graph)
    places = _places(rows)
    rooms = sorted({_room(name) for name in graph})
    parts = [_line(places[name], places[other]) for name, others in sorted(graph.items()) for other in sorted(others)]
    parts += [_box(name, places[name], COLOURS[rooms.index(_room(name)) % len(COLOURS)]) for name in graph]
    height = 2 * GAP + HEIGHT + (len(rows) - 1) * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" font-family="monospace" '
        f'font-size="10.5">\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _line(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x, y), (to_x, to_y) = start, end
    y, to_y = y + HEIGHT / 2, to_y - HEIGHT / 2
    bend = (to_y - y) / 2
    return (
        f'<path d="M{x:.0f} {y:.0f}C{x:.0f} {y + bend:.0f} {to_x:.0f} {to_y - bend:.0f} {to_x:.0f} {to_y:.0f}" '
        f'fill="none" stroke="#94a3b8" stroke-width="0.9"/>'
    )


def _box(name: str, middle: tuple[float, float], colour: str) -> str:
    x, y = middle
    width = _width(name) - GAP
    return (
        f'<rect x="{x - width / 2:.0f}" y="{y - HEIGHT / 2:.0f}" width="{width:.0f}" height="{HEIGHT}" rx="4" '
        f'fill="{colour}" stroke="#64748b" stroke-width="0.6"/>'
        f'<text x="{x:.0f}" y="{y + 4:.0f}" text-anchor="middle" fill="#0f172a">{escape(_label(name))}</text>'
    )


if __name__ == "__main__":
    sys.stdout.write(draw(load(Path(sys.argv[1]))))
