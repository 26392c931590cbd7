"""Pictures for reports: a frontier, bars and curves with their intervals, as SVG text.

    plot = frontier({"English": series}, Axis("Facts learnt"), Axis("Old facts kept"))
    plot.svg       # stands alone as a file, or inside a page
    plot.left_out  # what had no number, to be said beside the picture

Each function takes panels, a mapping from a title to what is drawn under it: one panel with an
empty title, or small multiples side by side, one for each language. Equal input gives equal bytes
under one matplotlib. Text stays text, so the reader's own fonts show Chinese; the ink is
`currentColor`, so a page can make it light or dark. Knows nothing of arms, languages or pages.
"""

import math
import re
import unicodedata
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal
from xml.etree import ElementTree

from eval.statistics import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008, "Color Universal Design", less yellow and black, which vanish on white and
# on black. Eight markers against seven colours: 56 pairs before one comes again.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C8C8C")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
FONTS = (
    "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', 'PingFang SC', "
    "'Microsoft YaHei', 'Noto Sans CJK SC', 'Source Han Sans SC', sans-serif"
)
_INK = "#6a7780"  # readable on white and on black, where a picture stands alone
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"
_SIZE, _ADVANCE = 11, 6.2  # text in pixels: its size, and what a narrow character takes
_STYLE: Any = {  # matplotlib types its settings by literal keys
    "svg.fonttype": "none",  # text, not outlines
    "svg.hashsalt": "tether",
    "text.parse_math": False,  # a name with $ is a name
    "font.size": _SIZE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.22,
    "grid.linewidth": 0.7,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK
    ),
    "grid.color": _INK,
}


@dataclass(frozen=True, slots=True)
class Point:
    """One measured place; a number without an interval is a plain float."""

    x: Estimate | float
    y: Estimate | float
    label: str = ""  # for instance "3 epochs"


@dataclass(frozen=True, slots=True)
class Series:
    """Points that are joined in their order, for instance one arm over its epochs."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a group; bars of one name have one colour."""

    name: str
    value: Estimate | float


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that stand together."""

    name: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis means; limits that are None fit what is drawn."""

    label: str
    better: Literal["higher", "lower"] = "higher"
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Line:
    """A level to compare with, such as chance or a baseline; one that is no number is not drawn."""

    value: float
    name: str


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture, and the names of what could not be drawn in it."""

    svg: str
    left_out: tuple[str, ...] = ()


def frontier(
    panels: Mapping[str, Sequence[Series]],
    x: Axis,
    y: Axis,
    *,
    front_name: str = "Pareto front",
) -> Plot:
    """Return each series as joined points with intervals on both axes, and the Pareto front.

    The front is drawn as a staircase: between two points nothing was measured.

    Args:
        panels: Title to series; a name has the same colour and marker in all panels.
        x: The horizontal axis; `better` says which way the front looks.
        y: The vertical axis.
        front_name: What the legend calls the front.
    """
    kept, left_out = _finite(panels)
    names = _names(series.name for some in kept.values() for series in some)
    legend = [_entry(names, name) for name in names]
    if names:
        legend.append(_Entry(front_name, _INK, "", "--"))
    canvas = _Canvas(tuple(kept), legend, x.label, y.label)
    with _drawing(canvas) as drawing:
        for axes, some in zip(drawing.axes, kept.values(), strict=True):
            points = [point for series in some for point in series.points]
            _limit(axes, x, [point.x for point in points], "x")
            _limit(axes, y, [point.y for point in points], "y")
            places = [(_value(point.x), _value(point.y)) for point in points]
            best = sorted(places[place] for place in pareto_front(places, x.better, y.better))
            steps = "steps-pre" if x.better == "higher" else "steps-post"
            if best:
                across, up = zip(*best, strict=True)
                axes.plot(across, up, color=_INK, ls="--", lw=1, alpha=0.8, drawstyle=steps)
            for series in some:
                drawing.points(axes, series, names[series.name])
            _label_points(axes, points)
        return Plot(drawing.svg(), left_out)


def curves(
    panels: Mapping[str, Sequence[Series]], x: Axis, y: Axis, *, line: Line | None = None
) -> Plot:
    """Return lines over steps or positions, with a band for the intervals of y.

    Args:
        panels: Title to series; points are joined in the order of x.
        x: The horizontal axis, for instance training steps or the place in the context.
        y: The vertical axis.
        line: A level to compare with.
    """
    line = line if line and math.isfinite(line.value) else None
    kept, left_out = _finite(panels)
    names = _names(series.name for some in kept.values() for series in some)
    legend = [_entry(names, name) for name in names] + _line_entry(line)
    with _drawing(_Canvas(tuple(kept), legend, x.label, y.label)) as drawing:
        for axes, some in zip(drawing.axes, kept.values(), strict=True):
            points = [point for series in some for point in series.points]
            _limit(axes, x, [point.x for point in points], "x")
            _limit(axes, y, [*[point.y for point in points], *_level(line)], "y")
            if line:
                axes.axhline(line.value, color=_INK, lw=1, ls=":")
            for series in some:
                ordered = sorted(series.points, key=lambda point: _value(point.x))
                lows, highs = zip(*(_bounds(point.y) for point in ordered), strict=True)
                across = [_value(point.x) for point in ordered]
                colour = COLOURS[names[series.name] % len(COLOURS)]
                axes.fill_between(across, lows, highs, color=colour, alpha=0.15, lw=0)
                drawing.points(
                    axes, Series(series.name, tuple(ordered)), names[series.name], bars=False
                )
        return Plot(drawing.svg(), left_out)


def bars(panels: Mapping[str, Sequence[Group]], x: Axis, *, line: Line | None = None) -> Plot:
    """Return lying bars with intervals and their values, one row each, and a level to compare with.

    Args:
        panels: Title to groups; a bar's name has the same colour in all panels.
        x: The axis of the values; it begins at 0 unless `low` says otherwise.
        line: A level to compare with, such as chance.
    """
    line = line if line and math.isfinite(line.value) else None
    kept: dict[str, list[tuple[Group, list[Bar]]]] = {}
    left_out: list[str] = []
    for title, groups in (panels or {"": ()}).items():
        rows = [(one, [bar for bar in one.bars if _is_number(bar.value)]) for one in groups]
        kept[title] = [(group, some) for group, some in rows if some]
        for group, some in rows:
            missing = [bar.name for bar in group.bars if bar not in some]
            for name in missing if some or group.bars else [""]:
                left_out.append(_spoken(title, group.name, name))
    names = _names(bar.name for groups in kept.values() for _, row in groups for bar in row)
    legend = [_Entry(name, _colour(names, name), "s", "") for name in names]
    legend = [*(legend if len(legend) > 1 else []), *_line_entry(line)]
    most = max(1.0, *(sum(len(row) + 0.6 for _, row in groups) for groups in kept.values()))
    wide = max((_width(one.name) for groups in kept.values() for one, _ in groups), default=0.0)
    canvas = _Canvas(
        tuple(kept), legend, x.label, "", left=22 + min(wide, 190), right=44, height=most * 18 + 12
    )
    with _drawing(canvas) as drawing:
        for axes, drawn in zip(drawing.axes, kept.values(), strict=True):
            values = [bar.value for _, row in drawn for bar in row]
            _limit(axes, x, [*values, 0.0, *_level(line)], "x")
            drawing.rows(axes, drawn, names, most)
            if line:
                axes.axvline(line.value, color=_INK, lw=1, ls=":")
        return Plot(drawing.svg(), tuple(left_out))


def pareto_front(
    points: Sequence[tuple[float, float]],
    x: Literal["higher", "lower"] = "higher",
    y: Literal["higher", "lower"] = "higher",
) -> list[int]:
    """Return the places of the points that no other point beats.

    A point is beaten by one that is at least as good on both axes and better on one. Only the
    values count, not their intervals: a point near the front may well belong to it.
    """
    good = [
        (across if x == "higher" else -across, up if y == "higher" else -up)
        for across, up in points
    ]
    return [
        place
        for place, one in enumerate(good)
        if not any(other != one and other[0] >= one[0] and other[1] >= one[1] for other in good)
    ]


def one_line(text: str) -> str:
    """Return the text with white space made single and with what no document may hold replaced.

    Control characters and lone surrogates are not allowed in XML and cannot be written as UTF-8.
    """
    joined = " ".join(text.split())
    return "".join("\ufffd" if unicodedata.category(one) in ("Cc", "Cs") else one for one in joined)


# --- numbers ---------------------------------------------------------------------------------


def _value(number: Estimate | float) -> float:
    return number.value if isinstance(number, Estimate) else float(number)


def _is_number(number: Estimate | float) -> bool:
    return math.isfinite(_value(number))


def _bounds(number: Estimate | float) -> tuple[float, float]:
    """Return the interval, or the value twice where there is none."""
    if isinstance(number, Estimate) and math.isfinite(number.low) and math.isfinite(number.high):
        return number.low, number.high
    return _value(number), _value(number)


def _errors(number: Estimate | float) -> list[list[float]]:
    """Return the lengths below and above the value, shape (2, 1), as `errorbar` wants them."""
    (low, high), value = _bounds(number), _value(number)
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def _said(number: Estimate | float) -> str:
    return str(number) if isinstance(number, Estimate) else f"{number:g}"


def _spoken(*parts: str) -> str:
    return " · ".join(one_line(part) for part in parts if part)


def _level(line: Line | None) -> list[float]:
    return [line.value] if line else []


def _finite(
    panels: Mapping[str, Sequence[Series]],
) -> tuple[dict[str, list[Series]], tuple[str, ...]]:
    """Return the series less the points that are no numbers, and the names of what is missing."""
    kept: dict[str, list[Series]] = {}
    left_out: list[str] = []
    for title, some in (panels or {"": ()}).items():
        kept[title] = []
        for series in some:
            good = tuple(p for p in series.points if _is_number(p.x) and _is_number(p.y))
            if good:
                kept[title].append(Series(series.name, good))
                bad = [point for point in series.points if point not in good]
                left_out.extend(_spoken(title, series.name, point.label) for point in bad)
            else:
                left_out.append(_spoken(title, series.name))
    return kept, tuple(left_out)


def _names(names: Iterable[str]) -> dict[str, int]:
    """Return a place for each name, in the order in which the names first come."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


# --- the canvas: measured by hand, so that no font of this machine changes a picture ------------


@dataclass(frozen=True, slots=True)
class _Entry:
    """One line of the legend."""

    name: str
    colour: str
    marker: str
    dashes: Literal["", "-", "--", ":"]


def _colour(names: Mapping[str, int], name: str) -> str:
    return COLOURS[names[name] % len(COLOURS)]


def _entry(names: Mapping[str, int], name: str) -> _Entry:
    return _Entry(name, _colour(names, name), MARKERS[names[name] % len(MARKERS)], "-")


def _line_entry(line: Line | None) -> list[_Entry]:
    return [_Entry(line.name, _INK, "", ":")] if line else []


def _width(text: str) -> float:
    """Return about how many pixels a text takes; a Chinese character is twice as wide."""
    wide = sum(2 if unicodedata.east_asian_width(one) in "WF" else 1 for one in text)
    return wide * _ADVANCE


def _short(text: str, pixels: float) -> str:
    """Return the text, cut with an ellipsis if it is wider than so many pixels."""
    plain = one_line(text)
    if _width(plain) <= pixels:
        return plain
    while plain and _width(plain + "…") > pixels:
        plain = plain[:-1]
    return plain + "…"


@dataclass(frozen=True, slots=True)
class _Canvas:
    """The sizes of a picture, in pixels."""

    titles: tuple[str, ...]
    legend: Sequence[_Entry]
    x_label: str
    y_label: str
    left: float = 46.0
    right: float = 14.0
    height: float = 280.0  # of the plotted area

    @property
    def plotted(self) -> float:
        """The width of one plotted area."""
        return (580.0 if len(self.titles) == 1 else 360.0) - (self.left - 46.0) * 0.5

    @property
    def panel(self) -> float:
        """The width of one panel."""
        return self.left + self.plotted + self.right

    @property
    def width(self) -> float:
        """The width of the picture."""
        return self.panel * len(self.titles)

    @property
    def above(self) -> float:
        """The room for the titles and the label of the vertical axis."""
        return 8.0 + 22.0 * any(self.titles) + 20.0 * bool(self.y_label)

    @property
    def column(self) -> float:
        """The width of one column of the legend."""
        widest = max((_width(one_line(one.name)) for one in self.legend), default=0.0)
        return min(widest + 44.0, self.width - 16.0)

    @property
    def columns(self) -> int:
        """The number of columns of the legend."""
        return max(1, int((self.width - 16.0) // self.column))

    @property
    def below(self) -> float:
        """The room for the ticks, the label of the horizontal axis and the legend."""
        return 52.0 + 18.0 * -(-len(self.legend) // self.columns)

    @property
    def whole(self) -> float:
        """The height of the picture."""
        return self.above + self.height + self.below


@dataclass(slots=True)
class _Drawing:
    """A figure while it is drawn, and the words that show when the mouse rests on a mark."""

    canvas: _Canvas
    figure: "Figure"
    axes: "list[Axes]"
    words: dict[str, str] = field(default_factory=dict)  # id in the picture -> words

    def _mark(self, *parts: str) -> str:
        """Return a new id whose element will show the parts."""
        key = f"mark-{len(self.words) + 1}"
        self.words[key] = _spoken(*parts)
        return key

    def points(self, axes: "Axes", series: Series, place: int, *, bars: bool = True) -> None:
        """Draw joined points, each with its marker and its intervals."""
        colour = COLOURS[place % len(COLOURS)]
        across = [_value(point.x) for point in series.points]
        axes.plot(across, [_value(point.y) for point in series.points], color=colour, lw=1.6)
        for point in series.points:
            x, y = _value(point.x), _value(point.y)
            if bars:
                axes.errorbar(
                    x, y, _errors(point.y), _errors(point.x), fmt="none", ecolor=colour,
                    elinewidth=1, alpha=0.7,
                )  # fmt: skip
            said = f"{_said(point.x)} / {_said(point.y)}"
            axes.plot(
                [x], [y], color=colour, marker=MARKERS[place % len(MARKERS)], markersize=6.5, ls="",
                markeredgewidth=0, gid=self._mark(series.name, point.label, said),
            )  # fmt: skip

    def rows(
        self,
        axes: "Axes",
        groups: Sequence[tuple[Group, list[Bar]]],
        names: Mapping[str, int],
        most: float,
    ) -> None:
        """Draw lying bars from the top down, the group's name at the left, values at the right."""
        ticks, row = [], 0.3
        for group, bars in groups:
            ticks.append(row + len(bars) / 2)
            for bar in bars:
                colour, value = _colour(names, bar.name), _value(bar.value)
                gid = self._mark(group.name, bar.name, _said(bar.value))
                axes.barh(row + 0.5, value, 0.8, color=colour, alpha=0.9, gid=gid)
                axes.errorbar(
                    value,
                    row + 0.5,
                    xerr=_errors(bar.value),
                    fmt="none",
                    ecolor=_INK,
                    elinewidth=1.2,
                )
                axes.text(
                    1.02, row + 0.5, f"{value:.3g}", transform=axes.get_yaxis_transform(),
                    va="center_baseline",
                )  # fmt: skip
                row += 1
            row += 0.6
        axes.set_ylim(most, 0)
        room = self.canvas.left - 20
        axes.set_yticks(ticks, [_short(group.name, room) for group, _ in groups])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")

    def svg(self) -> str:
        """Return the picture as text that is the same each time."""
        # Each key that matplotlib would write of itself; dates would change the bytes.
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        with BytesIO() as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # the reader's fonts will do
            self.figure.savefig(file, format="svg", transparent=True, metadata=nothing)
            drawn = file.getvalue()
        return _tidy(drawn, self.words)


class _drawing:  # noqa: N801  # reads as a statement: with _drawing(canvas) as drawing
    """Matplotlib with our style, whatever a user's own settings are, and the axes of the panels."""

    def __init__(self, canvas: _Canvas) -> None:
        import matplotlib

        self.canvas = canvas
        self.settings = matplotlib.rc_context()

    def __enter__(self) -> _Drawing:
        import matplotlib
        from matplotlib.figure import Figure

        self.settings.__enter__()
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        canvas = self.canvas
        figure = Figure(figsize=(canvas.width / 72, canvas.whole / 72), dpi=72)
        drawing = _Drawing(canvas, figure, [])
        for place, title in enumerate(canvas.titles):
            drawing.axes.append(_panel(figure, canvas, place, title))
        _draw_legend(figure, canvas)
        return drawing

    def __exit__(self, *error: object) -> None:
        self.settings.__exit__(None, None, None)


def _panel(figure: "Figure", canvas: _Canvas, place: int, title: str) -> "Axes":
    """Return the empty axes of one panel, with its title and labels."""
    wide, high = canvas.width, canvas.whole
    left = canvas.panel * place + canvas.left
    axes = figure.add_axes(
        (left / wide, canvas.below / high, canvas.plotted / wide, canvas.height / high)
    )
    start = (canvas.panel * place + 8) / wide
    room = canvas.panel - 16
    if title:
        figure.text(start, 1 - 18 / high, _short(title, room), fontsize=13, fontweight="bold")
    if canvas.y_label:
        # Lying above its axis: nobody has to turn the head.
        figure.text(start, 1 - (canvas.above - 10) / high, _short(canvas.y_label, room))
    centre = (left + canvas.plotted / 2) / wide
    figure.text(
        centre,
        (canvas.below - 36) / high,
        _short(canvas.x_label, room),
        horizontalalignment="center",
    )
    return axes


def _draw_legend(figure: "Figure", canvas: _Canvas) -> None:
    """Draw the legend below the panels, in columns as wide as the longest name."""
    from matplotlib.lines import Line2D

    wide, high = canvas.width, canvas.whole
    for place, one in enumerate(canvas.legend):
        row, column = divmod(place, canvas.columns)
        left = 8 + column * canvas.column
        up = (canvas.below - 58 - 18 * row) / high
        across = (0, 12, 24) if one.dashes else (12,)
        figure.add_artist(
            Line2D(
                [(left + right) / wide for right in across],
                [up] * len(across),
                color=one.colour,
                linestyle=one.dashes or "none",
                linewidth=1.4,
                marker=one.marker or "none",
                markersize=6.5 if one.dashes else 9,
                markeredgewidth=0,
                markevery=[len(across) // 2],
            )
        )
        figure.text((left + 31) / wide, up - 4 / high, _short(one.name, canvas.column - 40))


def _limit(
    axes: "Axes", axis: Axis, numbers: Sequence[Estimate | float], side: Literal["x", "y"]
) -> None:
    """Set the limits so that all intervals are seen; bars and markers keep clear of the edge."""
    ends = list(chain.from_iterable(_bounds(number) for number in numbers)) or [0.0, 1.0]
    low, high = min(ends), max(ends)
    room = 0.06 * (high - low) or 0.05 * (abs(high) or 1.0)
    is_share = low >= 0 and high <= 1
    low, high = low - room, high + room
    if is_share:  # no scale beyond what a share can be
        low, high = max(low, -0.03), min(high, 1.03)
    low = axis.low if axis.low is not None else low
    high = axis.high if axis.high is not None else high
    if side == "x":
        axes.set_xlim(low, high)
    else:
        axes.set_ylim(low, high)


def _label_points(axes: "Axes", points: Sequence[Point]) -> None:
    """Write each point's label beside it where it covers nothing; else leave it to the mouse."""
    places = [tuple(axes.transData.transform((_value(p.x), _value(p.y)))) for p in points]
    taken = [(x - 5, y - 5, x + 5, y + 5) for x, y in places]  # left, bottom, right, top
    frame = axes.bbox
    for point, (x, y) in zip(points, places, strict=True):
        text = one_line(point.label)
        wide = _width(text)
        for right, up in ((8, 6), (-8 - wide, 6), (8, -14), (-8 - wide, -14), (-wide / 2, 10)):
            box = (x + right, y + up - 2, x + right + wide, y + up + 9)
            inside = box[0] >= frame.x0 and box[2] <= frame.x1 + 10 and box[3] <= frame.y1 + 8
            if text and inside and box[1] >= frame.y0 and not any(_meet(box, one) for one in taken):
                taken.append(box)
                axes.annotate(
                    text, (_value(point.x), _value(point.y)), (right, up), fontsize=10,
                    textcoords="offset points",
                )  # fmt: skip
                break


def _meet(one: tuple[float, float, float, float], other: tuple[float, float, float, float]) -> bool:
    """Return whether two boxes have a place in common."""
    return (
        one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
    )  # fmt: skip


# --- the text of a picture ---------------------------------------------------------------------


def _tidy(drawn: bytes, words: Mapping[str, str]) -> str:
    """Return matplotlib's SVG without prolog, namespaces, styles of its own and named fonts."""
    tree = ElementTree.fromstring(drawn)
    for parent in list(tree.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    for element in tree.iter():
        element.tag = element.tag.removeprefix(_SVG)
        element.attrib = {
            key.removeprefix(_XLINK): _own_ink(value) for key, value in element.attrib.items()
        }
        element.tail = None if not (element.tail or "").strip() else element.tail
        element.text = None if not (element.text or "").strip() else element.text
    for element in list(tree.iter("g")):
        if element.get("id") in words:
            title = ElementTree.Element("title")
            title.text = words[str(element.get("id"))]
            element.insert(0, title)
    _, _, wide, high = str(tree.get("viewBox")).split()
    tree.attrib = {
        "xmlns": _SVG.strip("{}"), "viewBox": f"0 0 {wide} {high}", "width": wide, "height": high,
        "color": _INK, "font-family": FONTS, "stroke-linejoin": "round",
    }  # fmt: skip
    return ElementTree.tostring(tree, encoding="unicode")


def _own_ink(value: str) -> str:
    """Return an attribute with our ink made `currentColor` and without a family of fonts."""
    value = value.replace(_INK, "currentColor")
    value = re.sub(
        r"font:\s*((?:\S+\s+)*?)([\d.]+px)\s+[^;]+", r"font-size: \2; font-weight: \1", value
    )
    return re.sub(r"font-family:[^;]+;?|font-weight:\s*;", "", value)
