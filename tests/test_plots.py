"""Pictures: equal bytes, all names and marks in them, nothing that loads, a front that is true."""

import math
from typing import Literal
from xml.etree import ElementTree

import matplotlib
import pytest

from eval.plots import (
    COLOURS,
    Axis,
    Bar,
    Group,
    Line,
    Plot,
    Point,
    Series,
    bars,
    curves,
    frontier,
    one_line,
    pareto_front,
)
from eval.statistics import Estimate, wilson

SVG = "{http://www.w3.org/2000/svg}"
X, Y = Axis("facts learnt"), Axis("old facts kept")
STRANGE = '</text><script>a()</script> $x^{ $ & "灯塔" \x00'
ARMS = (
    Series("RAG", (Point(wilson(38, 40), wilson(39, 40), "k = 3"),)),
    Series(
        "LoRA 全部",
        (Point(wilson(5, 40), wilson(37, 40), "1 epoch"), Point(wilson(20, 40), 0.6, "3 epochs")),
    ),
)
GROUPS = (
    Group("base", (Bar("en", wilson(2, 40)), Bar("zh", 0.01))),
    Group("检索", (Bar("en", wilson(30, 40)), Bar("zh", wilson(31, 40)))),
)
PLOTS = {
    "frontier": lambda: frontier({"English": ARMS, "中文": ARMS[:1]}, X, Y),
    "curves": lambda: curves({"": ARMS}, Axis("step"), Y, line=Line(0.25, "chance")),
    "bars": lambda: bars({"en": GROUPS, "zh": GROUPS}, X, line=Line(0.02, "chance")),
}


def read(plot: Plot) -> ElementTree.Element:
    return ElementTree.fromstring(plot.svg)


def texts(plot: Plot, tag: str = "text") -> list[str]:
    return [str(one.text) for one in read(plot).iter(SVG + tag)]


@pytest.mark.parametrize("kind", PLOTS)
def test_equal_input_gives_equal_bytes_whatever_the_settings(kind: str) -> None:
    plot = PLOTS[kind]()
    before = dict(matplotlib.rcParams)
    with matplotlib.rc_context({"font.size": 30, "svg.hashsalt": None, "axes.facecolor": "red"}):
        assert PLOTS[kind]() == plot
    assert dict(matplotlib.rcParams) == before
    assert "<dc:date>" not in plot.svg


@pytest.mark.parametrize("kind", PLOTS)
def test_a_picture_holds_nothing_but_marks_and_text(kind: str) -> None:
    tree = read(PLOTS[kind]())
    tags = {one.tag.removeprefix(SVG) for one in tree.iter()}
    assert tags <= {"svg", "g", "defs", "path", "text", "use", "clipPath", "rect", "title"}
    links = [value for one in tree.iter() for key, value in one.attrib.items() if "href" in key]
    assert links
    assert all(link.startswith("#") for link in links)
    fonts = [one.get("style", "") for one in tree.iter(SVG + "text")]
    assert not any("DejaVu" in one for one in fonts)
    assert all("currentColor" in one for one in fonts)
    ids = [one.get("id") for one in tree.iter() if one.get("id")]
    assert len(set(ids)) == len(ids)


def test_frontier_names_arms_points_and_intervals() -> None:
    plot = PLOTS["frontier"]()
    told = texts(plot)
    for name in ("English", "中文", "facts learnt", "old facts kept", "RAG", "LoRA 全部", "k = 3"):
        assert name in told
    assert {"1 epoch", "3 epochs", "Pareto front"} <= set(told)
    assert "RAG · k = 3 · 0.950 [0.835, 0.986] n=40 / 0.975 [0.871, 0.996] n=40" in texts(
        plot, "title"
    )
    assert all(colour.lower() in plot.svg for colour in COLOURS[:2])
    assert COLOURS[2].lower() not in plot.svg


def test_bars_show_values_groups_and_chance() -> None:
    told = texts(PLOTS["bars"]())
    assert {"base", "检索", "en", "zh", "chance", "0.05", "0.01", "0.75"} <= set(told)
    alone = bars({"": [Group("a", (Bar("right", 0.5),))]}, X)
    assert "right" not in texts(alone)  # one colour needs no legend
    assert texts(alone, "title") == ["a · right · 0.5"]


def test_what_has_no_number_is_left_out_and_said() -> None:
    nan = Estimate(math.nan, math.nan, math.nan, 0, 0)
    dead = Series("dead", (Point(nan, 0.5, "1"), Point(0.5, math.inf, "2")))
    half = Series("half", (Point(0.1, 0.2, "1"), Point(nan, 0.2, "2")))
    some = [dead, half, Series("none", ())]
    for plot in (frontier({"en": some}, X, Y), curves({"en": some}, X, Y)):
        assert plot.left_out == ("en · dead", "en · half · 2", "en · none")
        assert "half" in texts(plot)
        assert not {"dead", "none"} & set(texts(plot))
        assert "nan" not in plot.svg
    groups = [Group("g", (Bar("a", 0.5), Bar("b", nan))), Group("h", (Bar("a", nan),))]
    plot = bars({"zh": [*groups, Group("i", ())]}, X)
    assert plot.left_out == ("zh · g · b", "zh · h · a", "zh · i")
    assert "h" not in texts(plot)


def test_nothing_at_all_is_still_a_picture() -> None:
    for plot in (frontier({}, X, Y), curves({"": []}, X, Y), bars({"": []}, X)):
        assert "facts learnt" in texts(plot)
        assert plot.left_out == ()
    assert "Pareto front" not in texts(frontier({}, X, Y))


def test_a_level_without_a_number_is_not_drawn() -> None:
    line = Line(math.nan, "chance")
    for plot in (curves({"": ARMS}, X, Y, line=line), bars({"": GROUPS}, X, line=line)):
        assert "chance" not in texts(plot)


def test_intervals_without_bounds_and_equal_values_are_drawn() -> None:
    alone = Estimate(2.0, math.nan, math.nan, 3, 1)
    plot = frontier({"": [Series("a", (Point(alone, alone, "b"), Point(2.0, 2.0)))]}, X, Y)
    assert texts(plot, "title") == ["a · b · 2.000 [?] n=3 / 2.000 [?] n=3", "a · 2 / 2"]


def test_strange_names_stay_names() -> None:
    series = Series(STRANGE, (Point(0.1, 0.2, STRANGE),))
    said = one_line(STRANGE)
    plot = frontier({STRANGE: [series]}, Axis(STRANGE), Axis(STRANGE))
    assert texts(plot).count(said) == 5  # title, two axes, legend, beside its point
    assert texts(curves({"": [series]}, X, Y)).count(said) == 1
    assert texts(bars({"": [Group(STRANGE, (Bar("a", 0.1),))]}, X)).count(said) <= 1


def test_more_arms_than_colours_differ_by_marker() -> None:
    many = [Series(f"arm {n}", (Point(n / 9, n / 9),)) for n in range(9)]
    assert {f"arm {n}" for n in range(9)} <= set(texts(frontier({"": many}, X, Y)))


@pytest.mark.parametrize(
    ("x", "y", "front"),
    [
        ("higher", "higher", [1, 3]),
        ("lower", "higher", [0, 1]),
        ("higher", "lower", [3, 4]),
        ("lower", "lower", [0, 2, 4]),
    ],
)
def test_pareto_front(
    x: Literal["higher", "lower"], y: Literal["higher", "lower"], front: list[int]
) -> None:
    points = [(0.0, 0.5), (0.5, 1.0), (0.3, 0.3), (1.0, 0.9), (0.9, 0.1)]
    assert pareto_front(points, x, y) == front


def test_equal_points_are_on_the_front_together() -> None:
    assert pareto_front([(1.0, 1.0), (1.0, 1.0), (1.0, 0.5)]) == [0, 1]
    assert pareto_front([]) == []
