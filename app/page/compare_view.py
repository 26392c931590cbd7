"""How a comparison looks: pure functions from the columns to HTML, in two languages.

All text from outside passes `evidence.escape`. Knows nothing of Gradio's events or of the service.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from app.page.evidence import Language, answer_html, draft_html, escape, evidence_html, notice_html
from app.page.routes import source_url
from model.answers import Answer

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "tab": "Compare",
        "about": "Ask one question in several ways, and see the answers side by side.",
        "question": "Question",
        "tuned": "Fine-tuned adapter",
        "none": "none",
        "compare": "Compare",
        "stop": "Stop",
        "closed": "Closed book",
        "closed_tuned": "Fine-tuned, closed book",
        "open": "Retrieval",
        "open_tuned": "Retrieval + adapter",
        "base": "the base model",
        "adapter": "with the adapter {name}",
        "next": "Its turn comes.",
        "waiting": "In line: number {position}…",
        "working": "Working…",
        "stopped": "Stopped.",
        "failed": "something unexpected went wrong ({kind}); see the server's log and try again",
        "facts": "{seconds:.1f} s · citations: {count}",
        "evidence": "Evidence",
    },
    "zh": {
        "tab": "对比",
        "about": "用几种方式回答同一个问题，并排比较。",
        "question": "问题",
        "tuned": "微调适配器",
        "none": "无",
        "compare": "对比",
        "stop": "停止",
        "closed": "闭卷",
        "closed_tuned": "微调，闭卷",
        "open": "检索",
        "open_tuned": "检索 + 适配器",
        "base": "基础模型",
        "adapter": "加适配器 {name}",
        "next": "稍后轮到它。",
        "waiting": "排队中：第 {position} 位……",
        "working": "正在回答……",
        "stopped": "已停止。",
        "failed": "发生意外错误（{kind}）；请查看服务端日志后重试",
        "facts": "{seconds:.1f} 秒 · 引用：{count}",
        "evidence": "依据",
    },
}


@dataclass(frozen=True, slots=True)
class Column:
    """One way to answer, and how far it is."""

    retrieval: bool
    adapter: str = ""  # its name; "" is the base alone
    has_begun: bool = False
    position: int = 0  # in the line, 0 if it waits no more
    draft: str = ""
    answer: Answer | None = None
    error: str = ""  # one line

    @property
    def kind(self) -> str:
        """Its name among `WORDS`."""
        return ("open" if self.retrieval else "closed") + ("_tuned" if self.adapter else "")


def columns_html(columns: Sequence[Column], language: Language, collection: str) -> str:
    """Return the columns side by side; what the tab is for if there are none."""
    if not columns:
        return f'<p class="tether-nothing">{WORDS[language]["about"]}</p>'
    shown = "".join(
        _column_html(column, f"compare{number}", language, collection)
        for number, column in enumerate(columns, start=1)
    )
    return f'<div class="compare-columns" lang="{language}">{shown}</div>'


def _column_html(column: Column, key: str, language: Language, collection: str) -> str:
    words = WORDS[language]
    model = words["adapter"].format(name=column.adapter) if column.adapter else words["base"]
    return (
        f'<section class="compare-column is-{column.kind}"><h3>{words[column.kind]}</h3>'
        f'<p class="compare-model">{escape(model)}</p>'
        f"{_body_html(column, key, language, collection)}</section>"
    )


def _body_html(column: Column, key: str, language: Language, collection: str) -> str:
    words = WORDS[language]
    if column.error:
        return notice_html(column.error, "error")
    if column.answer is not None:
        return _answer_html(column.answer, key, language, collection)
    if column.draft:
        return draft_html(column.draft, language)
    if column.position:
        return notice_html(words["waiting"].format(position=column.position), "waiting")
    if column.has_begun:
        return notice_html(words["working"], "waiting")
    return f'<p class="tether-nothing">{words["next"]}</p>'


def _answer_html(answer: Answer, key: str, language: Language, collection: str) -> str:
    words = WORDS[language]
    count = sum(len(claim.citations) for claim in answer.claims)
    facts = words["facts"].format(seconds=answer.timings.get("total", 0.0), count=count)
    shown = f'{answer_html(answer, language, key=key)}<p class="compare-facts">{facts}</p>'
    if not answer.passages:
        return shown
    link = partial(source_url, collection, language=language)
    cards = evidence_html(answer, language, key=key, link=link)
    return f"{shown}<details><summary>{words['evidence']}</summary>{cards}</details>"
