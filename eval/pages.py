"""Reports: plain blocks become one self-contained HTML page, and the same as Markdown.

    page = Page("Retrieve or fine-tune?", "en", "Retrieve: it is right 5 times as often.",
                (Figure("Frontier", plot.svg, "Up and right is better.", "RAG lies far right."),
                 Table("Arms", ("arm", "right"), (("RAG", mean(...)), ("LoRA", None)))))
    text = html(page)                                # opens offline, runs no script
    text, pictures = markdown(page, "report-files")  # pictures: file name -> SVG

All text of a block is text: what came from a document or a model cannot become markup, in either
form. Equal pages give equal bytes: no dates, no random ids. Words of the page's own come in Chinese
and English. Knows nothing of arms, records or how a picture was drawn.
"""

import html as html_text
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from eval.plots import FONTS, one_line
from eval.statistics import Estimate

Cell = str | float | Estimate | None  # None: not measured

WORDS = {
    "en": {
        "right": "✓ right",
        "wrong": "✗ wrong",
        "unjudged": "not judged",
        "question": "Question",
        "expected": "Expected",
        "silent": "(no answer)",
        "missing": "no number",
        "left_out": "Not drawn, for want of a number",
        "arm": "Arm",
        "training": "Training",
        "indexing": "Indexing",
        "answering": "One answer",
        "per_right": "Per right answer",
        "commands": "How to reproduce",
        "costs": "What it costs",
        "join": ": ",
    },
    "zh": {
        "right": "✓ 正确",
        "wrong": "✗ 错误",
        "unjudged": "未评判",
        "question": "问题",
        "expected": "应答",
        "silent": "（无回答）",
        "missing": "无数值",
        "left_out": "因无数值而未绘出",
        "arm": "方案",
        "training": "训练",
        "indexing": "建立索引",
        "answering": "每个回答",
        "per_right": "每个正确回答",
        "commands": "如何重现",
        "costs": "代价",
        "join": "：",
    },
}


@dataclass(frozen=True, slots=True)
class Text:
    """Paragraphs, parted by empty lines; no markup is read."""

    text: str
    title: str = ""
    language: str = ""  # here and below: of this block, where it is not the page's


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells, each as long as `columns`; the first column names the row."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            ValueError: A row is longer or shorter than the columns.
        """
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"A row of the table {self.title!r} does not fit its columns.")


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture with what it says in words, for those who cannot see it too."""

    title: str
    svg: str
    caption: str
    alternative: str
    left_out: tuple[str, ...] = ()  # what could not be drawn
    language: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """What one arm said to a question; `is_right` is None where nobody judged."""

    text: str
    is_right: bool | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One question and what each arm said, in the order of the columns; None: it was not asked."""

    question: str
    expected: str
    said: tuple[Said | None, ...]
    language: str = ""


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Samples of several arms beside each other; `columns` are the names of the arms."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[Sample, ...]
    note: str = ""
    language: str = ""

    def __post_init__(self) -> None:
        """Check the shape.

        Raises:
            ValueError: A sample has not one answer for each arm.
        """
        if any(len(row.said) != len(self.columns) for row in self.rows):
            raise ValueError(f"A sample of {self.title!r} does not fit its arms.")


@dataclass(frozen=True, slots=True)
class Commands:
    """Lines for a shell, in order."""

    lines: tuple[str, ...]
    title: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one arm took, in seconds; None: it has no such part."""

    name: str
    training: float | None = None
    indexing: float | None = None
    answering: float | None = None  # one answer, on average
    per_right: float | None = None  # everything, divided by the right answers


@dataclass(frozen=True, slots=True)
class Costs:
    """What each arm took."""

    rows: tuple[Cost, ...]
    title: str = ""
    note: str = ""
    language: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks under a common heading; their own headings are one level below it."""

    title: str
    blocks: "tuple[Block, ...]"
    language: str = ""


Block = Text | Table | Figure | SideBySide | Commands | Costs | Section


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    language: str  # "en" or "zh"; any other has English words of the page's own
    verdict: str  # the answer, in a sentence
    blocks: tuple[Block, ...]
    footer: str = ""


def seconds(value: float) -> str:
    """Return a duration in the unit that reads best, for instance "12.5 min"."""
    for size, unit in ((3600.0, "h"), (60.0, "min"), (1.0, "s")):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value * 1000:.3g} ms"


def html(page: Page) -> str:
    """Return the page as one HTML document that loads nothing and runs nothing.

    Raises:
        ValueError: A figure's SVG is no plain picture.
    """
    writer = _Html(page.language)
    blocks = "\n".join(writer.block(block, 2) for block in page.blocks)
    footer = f"\n<footer>{_paragraphs(page.footer)}</footer>" if page.footer else ""
    return (
        f'<!DOCTYPE html>\n<html lang="{_text(page.language)}">\n<head>\n<meta charset="utf-8">\n'
        # Should anything slip through the escaping, the browser still refuses to run or load it.
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
        "form-action 'none'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{_text(page.title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<header>\n<h1>{_text(page.title)}</h1>\n"
        f'<div class="verdict">{_paragraphs(page.verdict)}</div>\n</header>\n'
        f"{blocks}{footer}\n</main>\n</body>\n</html>\n"
    )


def markdown(page: Page, figures_folder: str = "") -> tuple[str, dict[str, str]]:
    """Return the page as Markdown, and the pictures that it shows.

    Args:
        page: The report.
        figures_folder: Where the caller will write the pictures, relative to the Markdown file.

    Returns:
        The text, and file name to SVG; a name holds no folder.

    Raises:
        ValueError: A figure's SVG is no plain picture.
    """
    writer = _Markdown(page.language, figures_folder)
    parts = [f"# {_escaped(page.title)}", f"**{_escaped(page.verdict)}**"]
    for block in page.blocks:
        parts += writer.block(block, 2)
    if page.footer:
        parts += ["---", *_escaped_paragraphs(page.footer)]
    return "\n\n".join(parts) + "\n", writer.pictures


# --- what both forms share -----------------------------------------------------------------------


def _words(language: str) -> dict[str, str]:
    return WORDS["zh" if language.startswith("zh") else "en"]


def _number(value: float) -> str:
    """Return three decimals for shares, fewer digits for larger numbers, integers as they are."""
    if isinstance(value, int):
        return str(value)
    size = abs(value)
    return f"{value:.3f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:.0f}"


def _plain(cell: Cell, words: dict[str, str]) -> str:
    """Return a cell as plain text."""
    if cell is None or (isinstance(cell, Estimate) and not cell.count):
        return "–"
    if isinstance(cell, str):
        return one_line(cell)
    if not math.isfinite(cell.value if isinstance(cell, Estimate) else cell):
        return words["missing"]
    return str(cell) if isinstance(cell, Estimate) else _number(cell)


def _is_numeric(table: Table, column: int) -> bool:
    """Return whether a column holds numbers alone, and so stands to the right."""
    return column > 0 and not any(isinstance(row[column], str) for row in table.rows)


def _cost_table(costs: Costs, words: dict[str, str]) -> Table:
    """Return the costs as a table, less the columns that nobody has."""
    names = ("training", "indexing", "answering", "per_right")
    used = [name for name in names if any(getattr(cost, name) is not None for cost in costs.rows)]
    rows = []
    for cost in costs.rows:
        values: list[float | None] = [getattr(cost, name) for name in used]
        cells = (
            seconds(value) if value is not None and math.isfinite(value) else value
            for value in values
        )
        rows.append((cost.name, *cells))
    columns = (words["arm"], *(words[name] for name in used))
    title = costs.title or words["costs"]
    return Table(title, columns, tuple(rows), costs.note, costs.language)


def _mark(said: Said, words: dict[str, str]) -> str:
    return (
        words["unjudged"] if said.is_right is None else words["right" if said.is_right else "wrong"]
    )


def _split(text: str) -> Iterator[str]:
    """Yield the paragraphs of a text, each on one line."""
    for part in re.split(r"\n\s*\n", text):
        if part.strip():
            yield one_line(part)


# --- pictures ----------------------------------------------------------------------------------

_DRAWN = frozenset(
    "svg g defs path text tspan title desc use clipPath rect line circle ellipse polyline".split()
)
_SVG, _XLINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}"


def _picture(figure: Figure, prefix: str) -> Any:  # noqa: ANN401  # an Element, untyped in defusedxml
    """Return the checked SVG as a tree whose ids begin with `prefix`, to be unique in a page.

    Raises:
        ValueError: It is no XML, or holds what no picture needs: a script, a handler, a link.
    """
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        tree = fromstring(figure.svg)
    except (ElementTree.ParseError, DefusedXmlException) as error:
        raise ValueError(f"The figure {figure.title!r} is no SVG: {error}") from error
    for element in tree.iter():
        element.tag = str(element.tag).removeprefix(_SVG)
        if element.tag not in _DRAWN:
            raise ValueError(
                f"The figure {figure.title!r} holds <{element.tag}>, which no picture needs."
            )
        element.attrib = {
            key.removeprefix(_XLINK): _attribute(key.removeprefix(_XLINK), value, prefix)
            for key, value in element.attrib.items()
        }
    return tree


def _attribute(name: str, value: str, prefix: str) -> str:
    """Return the value with the ids in it made unique.

    Raises:
        ValueError: It runs or loads something.
    """
    loads = re.search(r"url\(\s*['\"]?(?!#|['\"])|@import|\\", value, re.IGNORECASE)
    if name.lower().startswith("on") or loads or (name == "href" and not value.startswith("#")):
        raise ValueError(f"A figure has the attribute {name}={value!r}, which no picture needs.")
    if name == "id":
        return prefix + value
    if name == "href":
        return f"#{prefix}{value[1:]}"
    return re.sub(r"url\((['\"]?)#", rf"url(\g<1>#{prefix}", value)


def _file_name(place: int, title: str) -> str:
    """Return a name that any file system takes, whatever the title says."""
    words = "-".join(re.findall(r"[a-z0-9]+", title.lower()))[:40].strip("-")
    return f"figure-{place}{'-' if words else ''}{words}.svg"


# --- HTML --------------------------------------------------------------------------------------


def _text(text: str) -> str:
    """Return text on one line in which nothing is markup."""
    return html_text.escape(one_line(text), quote=True)


def _paragraphs(text: str) -> str:
    return "".join(f"<p>{_text(part)}</p>" for part in _split(text))


class _Html:
    """Writes blocks; counts them, so that every id is its own."""

    def __init__(self, language: str) -> None:
        self.languages = [language]
        self.count = 0

    @property
    def words(self) -> dict[str, str]:
        """The page's own words, in the language of the block that is being written."""
        return _words(self.languages[-1])

    def block(self, block: Block, level: int) -> str:
        """Return a block with its heading at that level."""
        self.count += 1
        key = f"block-{self.count}"
        differs = block.language and block.language != self.languages[-1]
        self.languages.append(block.language or self.languages[-1])
        title, body = self._title_and_body(block, key, level)
        self.languages.pop()
        heading = f'<h{level} id="{key}">{_text(title)}</h{level}>\n' if title else ""
        named = f' aria-labelledby="{key}"' if title else ""
        lang = f' lang="{_text(block.language)}"' if differs else ""
        return f"<section{lang}{named}>\n{heading}{body}\n</section>"

    def _title_and_body(self, block: Block, key: str, level: int) -> tuple[str, str]:
        if isinstance(block, Costs):
            block = _cost_table(block, self.words)
        if isinstance(block, Section):
            below = min(level + 1, 6)
            return block.title, "\n".join(self.block(one, below) for one in block.blocks)
        if isinstance(block, Table):
            return block.title, self._table(block)
        if isinstance(block, Figure):
            return block.title, self._figure(block, key)
        if isinstance(block, SideBySide):
            return block.title, self._samples(block)
        if isinstance(block, Commands):
            lines = "\n".join(_text(line) for line in block.lines)
            pre = f'<pre tabindex="0" lang="en"><code>{lines}</code></pre>'
            return block.title or self.words["commands"], pre
        return block.title, _paragraphs(block.text)

    def _table(self, table: Table) -> str:
        classes = ["number" if _is_numeric(table, n) else "text" for n in range(len(table.columns))]
        head = "".join(
            f'<th scope="col" class="{one}">{_text(name)}</th>'
            for one, name in zip(classes, table.columns, strict=True)
        )
        scales = [_scale([row[n] for row in table.rows]) for n in range(len(table.columns))]
        rows = []
        for row in table.rows:
            cells = [
                f'<td class="{one}">{self._cell(cell, scale)}</td>'
                for one, cell, scale in zip(classes, row, scales, strict=True)
            ]
            first = f'<th scope="row">{self._cell(row[0], scales[0])}</th>' if row else ""
            rows.append(f"<tr>{first}{''.join(cells[1:])}</tr>")
        body = "\n".join(rows)
        return (
            f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table></div>{_note(table.note)}"
        )

    def _cell(self, cell: Cell, scale: tuple[float, float]) -> str:
        plain = _plain(cell, self.words)
        if not isinstance(cell, Estimate) or not cell.count or not math.isfinite(cell.value):
            return _text(plain)
        value, _, interval = plain.partition(" ")
        return f"<b>{_text(value)}</b> <small>{_text(interval)}</small>{_interval_bar(cell, scale)}"

    def _figure(self, figure: Figure, key: str) -> str:
        tree = _picture(figure, f"{key}-")
        tree.attrib.pop("xmlns", None)  # HTML knows what an svg is
        tree.set("role", "img")
        tree.set("aria-label", one_line(figure.alternative))
        drawing = ElementTree.tostring(tree, encoding="unicode")
        caption = _paragraphs(figure.caption) + self._left_out(figure)
        return (
            f'<figure><div class="scroll" tabindex="0">{drawing}</div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )

    def _left_out(self, figure: Figure) -> str:
        if not figure.left_out:
            return ""
        names = "; ".join(figure.left_out)
        return f'<p class="note">{_text(self.words["left_out"] + self.words["join"] + names)}</p>'

    def _samples(self, block: SideBySide) -> str:
        cards = "\n".join(self._sample(block.columns, row) for row in block.rows)
        return f"{cards}{_note(block.note)}"

    def _sample(self, columns: Sequence[str], row: Sample) -> str:
        differs = row.language and row.language != self.languages[-1]
        lang = f' lang="{_text(row.language)}"' if differs else ""
        answers = []
        for name, said in zip(columns, row.said, strict=True):
            if said is None:
                body = '<p class="none">–</p>'
            else:
                kind = {True: "right", False: "wrong", None: "unjudged"}[said.is_right]
                text = _paragraphs(said.text) or f'<p class="none">{self.words["silent"]}</p>'
                body = (
                    f'<p class="mark {kind}">{_mark(said, self.words)}</p><div{lang}>{text}</div>'
                )
            answers.append(f'<li><p class="name">{_text(name)}</p>{body}</li>')
        expected = f"{self.words['expected']}{self.words['join']}"
        return (
            f'<article><p class="question"{lang}>{_text(row.question)}</p>'
            f'<p class="expected">{expected}<span{lang}>{_text(row.expected)}</span></p>'
            f"<ul>{''.join(answers)}</ul></article>"
        )


def _note(note: str) -> str:
    return f'\n<div class="note">{_paragraphs(note)}</div>' if note.strip() else ""


def _scale(cells: Sequence[Cell]) -> tuple[float, float]:
    """Return the ends of the scale that the intervals of one column share."""
    ends = [
        end
        for cell in cells
        if isinstance(cell, Estimate)
        for end in (cell.value, cell.low, cell.high)
        if math.isfinite(end)
    ]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    return (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)


def _interval_bar(cell: Estimate, scale: tuple[float, float]) -> str:
    """Return a thin bar: where on the scale the interval lies, and a tick at the value."""
    low, high = scale

    def place(value: float) -> float:
        return 100 * (value - low) / (high - low)

    spread = ""
    if math.isfinite(cell.low) and math.isfinite(cell.high):
        start, end = place(cell.low), place(cell.high)
        spread = f'<i style="left:{start:.1f}%;width:{end - start:.1f}%"></i>'
    at = f'<i class="at" style="left:{place(cell.value):.1f}%"></i>'
    return f'<span class="bar" aria-hidden="true">{spread}{at}</span>'


# --- Markdown ----------------------------------------------------------------------------------


def _escaped(text: str) -> str:
    """Return text on one line in which no Markdown, HTML or bare address is read as markup."""
    line = re.sub(r"[\\`*_\[\]<>|#!~$&@{}]|://|(?<=www)\.", _slashed, one_line(text))
    return re.sub(r"^([-+=]|\d+(?=[.)](?:\s|$)))", _listed, line)


def _slashed(match: re.Match[str]) -> str:
    return f"\\{match[0]}"


def _listed(match: re.Match[str]) -> str:
    """Return the start of a line so that it begins no list and underlines no heading."""
    return f"{match[0]}\\" if match[0].isdigit() else f"\\{match[0]}"


def _escaped_paragraphs(text: str) -> list[str]:
    return [_escaped(part) for part in _split(text)]


class _Markdown:
    """Writes blocks as paragraphs of Markdown, and keeps the pictures."""

    def __init__(self, language: str, folder: str) -> None:
        self.languages = [language]
        self.folder = folder
        self.pictures: dict[str, str] = {}

    @property
    def words(self) -> dict[str, str]:
        """The page's own words, in the language of the block that is being written."""
        return _words(self.languages[-1])

    def block(self, block: Block, level: int) -> list[str]:
        """Return the paragraphs of a block with its heading at that level."""
        self.languages.append(block.language or self.languages[-1])
        title, body = self._title_and_body(block, level)
        self.languages.pop()
        return [*([f"{'#' * level} {_escaped(title)}"] if title else []), *body]

    def _title_and_body(self, block: Block, level: int) -> tuple[str, list[str]]:
        if isinstance(block, Costs):
            block = _cost_table(block, self.words)
        if isinstance(block, Section):
            below = min(level + 1, 6)
            return block.title, [part for one in block.blocks for part in self.block(one, below)]
        if isinstance(block, Table):
            return block.title, [self._table(block), *_escaped_paragraphs(block.note)]
        if isinstance(block, Figure):
            return block.title, self._figure(block)
        if isinstance(block, SideBySide):
            return block.title, [self._samples(block), *_escaped_paragraphs(block.note)]
        if isinstance(block, Commands):
            lines = [one_line(line) for line in block.lines]
            longest = max((len(run) for run in re.findall("`+", "\n".join(lines))), default=0)
            fence = "`" * max(3, longest + 1)
            return block.title or self.words["commands"], ["\n".join([f"{fence}sh", *lines, fence])]
        return block.title, _escaped_paragraphs(block.text)

    def _table(self, table: Table) -> str:
        marks = ["---:" if _is_numeric(table, n) else "---" for n in range(len(table.columns))]
        rows = [[_plain(cell, self.words) for cell in row] for row in table.rows]
        return _rows([table.columns, *rows], marks)

    def _figure(self, figure: Figure) -> list[str]:
        name = _file_name(len(self.pictures) + 1, figure.title)
        tree = _picture(figure, "")
        tree.attrib = {"xmlns": _SVG.strip("{}"), **tree.attrib}
        self.pictures[name] = ElementTree.tostring(tree, encoding="unicode") + "\n"
        folder = quote(self.folder.rstrip("/"))
        place = f"{folder}/{name}" if folder else name
        parts = [
            f"![{_escaped(figure.alternative)}]({place})",
            *_escaped_paragraphs(figure.caption),
        ]
        if figure.left_out:
            names = "; ".join(figure.left_out)
            parts.append(_escaped(self.words["left_out"] + self.words["join"] + names))
        return parts

    def _samples(self, block: SideBySide) -> str:
        columns = (self.words["question"], self.words["expected"], *block.columns)
        rows = []
        for row in block.rows:
            said = ["–" if one is None else self._said(one) for one in row.said]
            rows.append([row.question, row.expected, *said])
        return _rows([columns, *rows], ["---"] * len(columns))

    def _said(self, said: Said) -> str:
        text = said.text.strip() or self.words["silent"]
        return f"{_mark(said, self.words)}{self.words['join']}{text}"


def _rows(rows: Sequence[Sequence[str]], marks: Sequence[str]) -> str:
    """Return a table of Markdown; the first row is the head."""
    lines = [f"| {' | '.join(_escaped(cell) for cell in row)} |" for row in rows]
    return "\n".join([lines[0], f"| {' | '.join(marks)} |", *lines[1:]])


_STYLE = (
    f":root {{ --fonts: {FONTS};\n"
    """  --ink: #1c2b33; --quiet: #566873; --line: #dde4e8; --paper: #ffffff; --ground: #f6f8f9;
  --accent: #0b6b63; --soft: #e3f3f1; --right: #0b6b63; --wrong: #a8322a; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e4ebee; --quiet: #9fb0b9; --line: #2c3940; --paper: #172026; --ground: #10171b;
  --accent: #5fd0c3; --soft: #16352f; --right: #5fd0c3; --wrong: #f2a199; } }
* { box-sizing: border-box; }
body { margin: 0; color: var(--ink); background: var(--ground); font: 16px/1.6 var(--fonts); }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; }
h1 { margin: 0 0 .75rem; font-size: 1.15rem; color: var(--quiet); font-weight: 600; }
h2 { margin: 2.5rem 0 .75rem; font-size: 1.4rem; line-height: 1.3; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1.15rem; line-height: 1.3; }
h4, h5, h6 { margin: 1.25rem 0 .5rem; font-size: 1rem; }
p { margin: 0 0 .75rem; }
h1, h2, h3, h4, p, td, th { overflow-wrap: anywhere; unicode-bidi: isolate; }
section > p, .note, figcaption { max-width: 46rem; }
.verdict { margin-bottom: 1rem; padding: 1.1rem 1.25rem; border-left: 5px solid var(--accent);
  border-radius: 6px; background: var(--soft); font-size: clamp(1.1rem, 1rem + .6vw, 1.35rem);
  line-height: 1.45; font-weight: 600; }
.verdict p:last-child, footer p:last-child { margin: 0; }
.scroll { overflow-x: auto; }
figure .scroll, table, article, pre { background: var(--paper); border: 1px solid var(--line); }
figure { margin: 0; }
figure .scroll { padding: .75rem; border-radius: 8px; }
figure svg { display: block; margin: 0 auto; max-width: none; color: var(--ink);
  font-family: inherit; }
figure svg text { paint-order: stroke; stroke: var(--paper); stroke-width: 3px; }
figcaption, .note { margin-top: .6rem; color: var(--quiet); font-size: .93rem; }
table { border-collapse: collapse; min-width: 100%; font-size: .93rem; }
th, td { padding: .5rem .7rem; text-align: left; vertical-align: top; overflow-wrap: normal;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
th { font-weight: 600; } thead th { color: var(--quiet); background: var(--ground); }
tbody th, td.text { min-width: 7rem; max-width: 26rem; overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
thead .number { white-space: normal; }
td small { color: var(--quiet); font-size: .85em; }
.bar { display: block; position: relative; height: 4px; min-width: 6rem; margin-top: 5px;
  background: var(--line); border-radius: 2px; }
.bar i { position: absolute; top: 0; height: 4px; border-radius: 2px; background: var(--accent);
  opacity: .55; }
.bar .at { top: -2px; width: 2px; height: 8px; margin-left: -1px; background: var(--ink);
  opacity: 1; }
article { margin: 0 0 1rem; padding: 1rem; border-radius: 8px; }
.question { margin-bottom: .25rem; font-weight: 600; }
.expected { color: var(--quiet); font-size: .93rem; }
article ul { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(14rem, 100%), 1fr));
  gap: .6rem; margin: 0; padding: 0; list-style: none; }
article li { padding: .6rem .75rem; border: 1px solid var(--line); border-radius: 6px;
  background: var(--ground); font-size: .93rem; }
article li p { margin: 0 0 .25rem; }
.name { color: var(--quiet); font-size: .87rem; }
.mark { font-weight: 600; } .right { color: var(--right); } .wrong { color: var(--wrong); }
.none, .unjudged { color: var(--quiet); }
pre { margin: 0; padding: .8rem 1rem; overflow-x: auto; border-radius: 8px; font-size: .88rem; }
code { font-family: ui-monospace, "SF Mono", Consolas, "Noto Sans Mono", monospace; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line);
  color: var(--quiet); font-size: .88rem; }
@media (min-width: 46rem) { figure svg { max-width: 100%; height: auto; } }
@media print {
  :root { --ink: #000; --quiet: #444; --ground: #fff; --paper: #fff; --line: #bbb; --soft: #eee;
    --accent: #0b6b63; --right: #0b6b63; --wrong: #a8322a; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  body { font-size: 11pt; } main { max-width: none; padding: 0; }
  .scroll, pre { overflow: visible; } pre { white-space: pre-wrap; }
  figure svg { max-width: 100%; height: auto; }
  figure, article, tr { break-inside: avoid; } h2, h3 { break-after: avoid; }
}
"""
)
