"""Draw docs/architecture.svg and write docs/architecture.md from the real imports: `scripts/architecture`.

Rooms are the folders of src/gesso and the modules beside them. Their rows are the layers of the import contract in
pyproject.toml, their arrows the imports that grimp sees, their words the docstrings of their `__init__.py`. The rest
is a layered drawing (Sugiyama, Tagawa & Toda 1981): long arrows get a place of their own in each row that they cross,
rows are put in the order with the fewest crossings, and then pulled straight.
"""

import ast
import math
import random
import re
import textwrap
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

import grimp

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gesso"
PICTURE = ROOT / "docs" / "architecture.svg"
PAGE = ROOT / "docs" / "architecture.md"


@dataclass(frozen=True)
class Room:
    name: str
    docstring: str  # its first paragraph, on one line: "Caption: what it holds."
    lines: int  # of Python, with docstrings and blank lines
    imports: frozenset[str]  # other rooms, not counting imports for type checkers alone

    @property
    def caption(self) -> str:
        return self.docstring.partition(":")[0].rstrip(".")


# ---- what the code says ----------------------------------------------------------------------------------------------


def layers() -> list[list[str]]:
    """The rows of the contract that exist, from the command line down; `__main__` is a door and no room."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (contract,) = (c for c in contracts if c["type"] == "layers")
    rows = [[name.strip(" ()") for name in re.split(r"[|:]", row)] for row in contract["layers"]]
    rows = [[name for name in row if name != "__main__" and files_of(name)] for row in rows]
    return [row for row in rows if row]


def files_of(room: str) -> list[Path]:
    folder, module = SOURCE / room, SOURCE / f"{room}.py"
    return sorted(folder.rglob("*.py")) or ([module] if module.is_file() else [])


def rooms() -> dict[str, Room]:
    graph = grimp.build_graph("gesso", exclude_type_checking_imports=True, cache_dir=None)
    imports: dict[str, set[str]] = {name: set() for row in layers() for name in row}
    for module in graph.modules:
        for target in graph.find_modules_directly_imported_by(module):
            one, other = ([*path.split("."), ""][1] for path in (module, target))
            if one in imports and other in imports and one != other:
                imports[one].add(other)
    found = {}
    for name, others in imports.items():
        files = files_of(name)
        init = SOURCE / name / "__init__.py"
        docstring = ast.get_docstring(ast.parse((init if init.is_file() else files[0]).read_text(encoding="utf-8")))
        first = " ".join((docstring or "").split("\n\n")[0].split())
        lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)
        found[name] = Room(name, first, lines, frozenset(others))
    return found


def shared(house: Mapping[str, Room]) -> list[str]:
    """Single modules, and rooms that most others import: arrows to them would hide the rest, so they are the ground."""
    users = {name: sum(name in room.imports for room in house.values()) for name in house}
    return [name for name in house if users[name] > len(house) / 2 or not (SOURCE / name).is_dir()]


def arrows(house: Mapping[str, Room]) -> list[tuple[str, str]]:
    """The imports between rooms that do not follow from others by a chain (the transitive reduction)."""
    ground = set(shared(house))
    direct = {name: sorted(room.imports - ground) for name, room in house.items() if name not in ground}
    reached: dict[str, set[str]] = {}

    def all_below(name: str) -> set[str]:
        if name not in reached:
            reached[name] = set(direct[name]).union(*(all_below(other) for other in direct[name]))
        return reached[name]

    return [
        (name, other)
        for name, others in direct.items()
        for other in others
        if not any(other in all_below(between) for between in others if between != other)
    ]


# ---- the drawing -----------------------------------------------------------------------------------------------------

WIDTH, MARGIN = 840, 14
BOX, BOX_HEIGHT = 134, 70
LANE = 14  # width that an arrow takes where it crosses a row
GAP = 14  # between neighbours in a row
ROW = 104  # from the top of a row to the top of the next
STRIP = 40  # the same of what is drawn as the ground
BAR = BOX - 20  # length of the bar of the largest room

Node = tuple[str, ...]  # (room,), or (from, to, row) where an arrow crosses a row


def width_of(node: Node) -> float:
    return BOX if len(node) == 1 else LANE


def rows_with_lanes(
    rows: Sequence[Sequence[str]], edges: Iterable[tuple[str, str]]
) -> tuple[list[list[Node]], dict[tuple[str, str], list[Node]]]:
    """The rows with a place for each arrow that crosses one, and each arrow as the places that it goes through."""
    level = {name: index for index, row in enumerate(rows) for name in row}
    nodes: list[list[Node]] = [[(name,) for name in row] for row in rows]
    paths = {}
    for one, other in edges:
        path: list[Node] = [(one,)]
        for crossed in range(level[one] + 1, level[other]):
            path.append((one, other, str(crossed)))
            nodes[crossed].append(path[-1])
        paths[one, other] = [*path, (other,)]
    return nodes, paths


def crossings(upper: Sequence[Node], lower: Sequence[Node], below: Mapping[Node, Sequence[Node]]) -> int:
    place = {node: index for index, node in enumerate(lower)}
    ends = [place[other] for node in upper for other in sorted(below[node], key=place.__getitem__)]
    return sum(one > other for index, one in enumerate(ends) for other in ends[index + 1 :])


def ordered(
    nodes: list[list[Node]], below: Mapping[Node, Sequence[Node]], above: Mapping[Node, Sequence[Node]]
) -> list[list[Node]]:
    """The order of each row with the fewest crossings that barycentre sweeps from many starts come to."""
    dice = random.Random(0)
    best, fewest = nodes, math.inf
    for _ in range(400):
        rows = [dice.sample(row, len(row)) for row in nodes]
        for _ in range(6):
            for index in [*range(1, len(rows)), *range(len(rows) - 2, -1, -1)]:
                for towards, links in ((index - 1, above), (index + 1, below)):
                    if 0 <= towards < len(rows):
                        place = {node: i for i, node in enumerate(rows[towards])}

                        def middle(
                            item: tuple[int, Node],
                            place: Mapping[Node, int] = place,
                            links: Mapping[Node, Sequence[Node]] = links,
                        ) -> float:
                            spots = [place[other] for other in links[item[1]] if other in place]
                            return sum(spots) / len(spots) if spots else item[0]

                        rows[index] = [node for _, node in sorted(enumerate(rows[index]), key=middle)]
            count = sum(crossings(upper, lower, below) for upper, lower in pairwise(rows))
            if count < fewest:
                best, fewest = [list(row) for row in rows], count
    return best


def places(
    rows: Sequence[Sequence[Node]], below: Mapping[Node, Sequence[Node]], above: Mapping[Node, Sequence[Node]]
) -> dict[Node, float]:
    """The middle of each node from left to right: near its neighbours above and below, no two touching."""
    x: dict[Node, float] = {}
    for row in rows:
        step = (WIDTH - 2 * MARGIN) / len(row)
        x.update({node: MARGIN + step * (index + 0.5) for index, node in enumerate(row)})
    for _ in range(300):
        for row in rows:
            for node in row:
                near = [x[other] for other in (*below[node], *above[node])]
                pull = 1.0 if len(node) > 1 else 0.5
                x[node] += pull * ((sum(near) / len(near) if near else x[node]) - x[node])
            for _ in range(60):  # pushed apart, and back into the picture
                for one, other in pairwise(row):
                    lack = (width_of(one) + width_of(other)) / 2 + GAP - (x[other] - x[one])
                    if lack > 0:
                        x[one], x[other] = x[one] - lack / 2, x[other] + lack / 2
                for node in row:
                    half = width_of(node) / 2 + MARGIN
                    x[node] = min(max(x[node], half), WIDTH - half)
    return x


def svg(rows: Sequence[Sequence[str]], house: Mapping[str, Room]) -> str:
    """The picture: light boxes with dark words and grey arrows, legible on light and on dark pages."""
    ground = shared(house)
    floors = [[name for name in row if name not in ground] for row in rows]
    floors = [row for row in floors if row]
    nodes, paths = rows_with_lanes(floors, arrows(house))
    below: dict[Node, list[Node]] = {node: [] for row in nodes for node in row}
    above: dict[Node, list[Node]] = {node: [] for row in nodes for node in row}
    for path in paths.values():
        for one, other in pairwise(path):
            below[one].append(other)
            above[other].append(one)
    order = ordered(nodes, below, above)
    x = places(order, below, above)
    y = {node: MARGIN + index * ROW for index, row in enumerate(order) for node in row}
    bottom = MARGIN + len(order) * ROW
    height = bottom + STRIP * len(ground) + 66
    largest = max(room.lines for room in house.values())

    def port(node: Node, neighbour: Node, neighbours: Sequence[Node]) -> float:
        """Where on the edge of a box an arrow starts or ends, so that several do not meet in one point."""
        if len(node) > 1:
            return x[node]
        spots = sorted(neighbours, key=x.__getitem__)
        spread = min(26.0, (BOX - 30) / max(len(spots), 1))
        return x[node] + (spots.index(neighbour) - (len(spots) - 1) / 2) * spread

    parts = []
    for (upper, lower), path in sorted(paths.items()):
        start = port(path[0], path[1], below[path[0]])
        words = f"M{start:.0f} {y[path[0]] + BOX_HEIGHT}"
        for before, node in pairwise(path):
            top = y[node] - (7 if node is path[-1] else 0)
            at = port(node, before, above[node])
            from_y = y[before] + BOX_HEIGHT
            bend = (top - from_y) / 2
            words += f"C{start:.0f} {from_y + bend:.0f} {at:.0f} {top - bend:.0f} {at:.0f} {top}"
            start = at
            if node is not path[-1]:
                words += f"V{y[node] + BOX_HEIGHT}"
        parts.append(f'<path d="{words}" marker-end="url(#end)"><title>{upper} imports {lower}</title></path>')
    boxes = [node for row in order for node in row if len(node) == 1]
    parts += [box(house[node[0]], x[node], y[node], largest) for node in boxes]
    parts += [wide(house[name], bottom + STRIP * index) for index, name in enumerate(ground)]
    legend = [
        "An arrow leads from a room to one that it imports; what a chain of arrows says already is left out,",
        "and so are arrows to the modules at the foot, which any room may import.",
        f"The bar is a room's size; it is full at {largest:,} lines of Python.",
    ]
    for index, words in enumerate(legend):
        parts.append(f'<text class="note" x="{WIDTH / 2:.0f}" y="{height - 45 + 17 * index}">{words}</text>')
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
            "<title>The rooms of gesso and what they import</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="end" viewBox="0 0 8 8" refX="1" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
            '<path class="head" d="M0 0L8 4L0 8Z"/></marker></defs>',
            *parts,
            "</svg>\n",
        ]
    )


STYLE = (
    "text{font-family:'DejaVu Sans',Verdana,Arial,sans-serif;fill:#1f2430;text-anchor:middle}"
    ".name{font-size:15px;font-weight:bold}.what{font-size:10.5px}.note{font-size:11px;fill:#868b98}"
    "path{fill:none;stroke:#868b98;stroke-width:1.6}.head{fill:#868b98;stroke:none}"
    "rect{fill:#eceaf6;stroke:#6a5acd;stroke-width:1.2}.bar{fill:#6a5acd;stroke:none}.track{fill:#d3cfee;stroke:none}"
)


def box(room: Room, middle: float, top: float, largest: int) -> str:
    lines = textwrap.wrap(room.caption, 21)
    assert len(lines) <= 3, f"{room.name}: {room.caption!r} does not fit into three lines of 21 characters"
    first = top + 46 - 6 * len(lines)
    words = "".join(
        f'<text class="what" x="{middle:.0f}" y="{first + 12 * index:.0f}">{escape(line)}</text>'
        for index, line in enumerate(lines)
    )
    bar = f'x="{middle - BAR / 2:.0f}" y="{top + BOX_HEIGHT - 11:.0f}" height="4"'
    return group(
        room,
        f'<rect x="{middle - BOX / 2:.0f}" y="{top:.0f}" width="{BOX}" height="{BOX_HEIGHT}" rx="6"/>'
        f'<text class="name" x="{middle:.0f}" y="{top + 19:.0f}">{room.name}</text>{words}'
        f'<rect class="track" {bar} width="{BAR}"/>'
        f'<rect class="bar" {bar} width="{max(1, BAR * room.lines / largest):.0f}"/>',
    )


def wide(room: Room, top: float) -> str:
    return group(
        room,
        f'<rect x="{MARGIN}" y="{top:.0f}" width="{WIDTH - 2 * MARGIN}" height="34" rx="6"/>'
        f'<text x="{WIDTH / 2:.0f}" y="{top + 22:.0f}"><tspan class="name">{room.name}</tspan>'
        f'<tspan class="what" dx="10">{escape(room.caption)}</tspan></text>',
    )


def group(room: Room, shapes: str) -> str:
    """Shapes with the room's own words, which a browser shows under the pointer."""
    title = f"<title>{escape(room.docstring)} {room.lines:,} lines.</title>"
    return f'<g data-room="{room.name}" data-lines="{room.lines}">{title}{shapes}</g>'


# ---- the page --------------------------------------------------------------------------------------------------------

PAGE_TEXT = """# Architecture

Written by `scripts/architecture`, like the picture, from the imports in the code, the import contract in
`pyproject.toml` and the docstring of each room; do not edit. A test fails when a room or an arrow is missing here.

![The rooms of gesso in layers; arrows say which imports which](architecture.svg)

Each folder of `src/gesso/` is a room with one job. A room imports rooms that lie below it, never one above, and rooms
side by side do not know each other; `scripts/check` holds that. So a reader can start anywhere and needs only what lies
below, and the lower half is usable by itself: networks without samplers, samplers without networks, requests without
torch. Why it is cut that way: [decisions](decisions/README.md).

| room | what it holds | lines | imports |
| --- | --- | ---: | --- |
{rows}

## The way of a picture

A command of `cli` builds one `TextToImageRequest` and hands it to `pipelines`, which asks `runtime` for the model,
`text` and `families` for the conditioning, `diffusion` for schedule and sampler, and gives the result with its recipe
to `pictures`. Training walks the same rooms from the other end, with the same functions. A sketch of the data on that
way stands at the head of the [decisions](decisions/README.md).
"""


def page(rows: Sequence[Sequence[str]], house: Mapping[str, Room]) -> str:
    table = []
    for name in (name for row in rows for name in row):
        room = house[name]
        imports = ", ".join(f"`{other}`" for row in rows for other in row if other in room.imports) or "nothing"
        table.append(f"| `{name}` | {room.docstring.replace('|', chr(92) + '|')} | {about(room.lines)} | {imports} |")
    return PAGE_TEXT.format(rows="\n".join(table))


def about(lines: int) -> str:
    """To the hundred, so that the page does not change with every commit."""
    return f"{max(100, round(lines, -2)):,}" if lines >= 50 else str(lines)


# ---- freshness -------------------------------------------------------------------------------------------------------

SIZES_MAY_LAG = 0.2


def drawn_sizes(picture: str) -> dict[str, int]:
    return {name: int(lines) for name, lines in re.findall(r'data-room="(\w+)" data-lines="(\d+)"', picture)}


def made(sizes: Mapping[str, int] | None = None) -> tuple[str, str]:
    """Picture and page. A size in `sizes` that is about right is kept, so that a few lines make nothing stale."""
    house = {}
    for name, room in rooms().items():
        drawn = (sizes or {}).get(name, 0)
        near = abs(room.lines - drawn) <= SIZES_MAY_LAG * max(room.lines, 250)
        house[name] = Room(room.name, room.docstring, drawn, room.imports) if drawn and near else room
    rows = layers()
    return svg(rows, house), page(rows, house)


def stale() -> list[str]:
    """The files of docs/ that no longer say what the code does."""
    picture, text = made(drawn_sizes(PICTURE.read_text(encoding="utf-8")))
    fresh = {PICTURE: picture, PAGE: text}
    return [path.name for path, words in fresh.items() if path.read_text(encoding="utf-8") != words]


def main() -> None:
    picture, text = made()
    PICTURE.write_text(picture, encoding="utf-8")
    PAGE.write_text(text, encoding="utf-8")
    print(f"{PICTURE.relative_to(ROOT)} {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
