"""How conversations look: pure functions from turns to HTML, in two languages.

All text from outside passes `evidence.escape`. Knows nothing of Gradio's events, of the service or
of where conversations are kept.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from app.history import Conversation, Turn
from app.page.evidence import (
    Language,
    answer_html,
    asked_html,
    draft_html,
    escape,
    evidence_html,
    notice_html,
)
from app.page.parts import button_html
from app.page.routes import source_url
from ingest.languages import question_language
from model.claims import read

Turns = tuple[Turn, ...]

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "name": "Chat",
        "clear": "New chat",
        "find": "Find a conversation…",
        "none": "Conversations are kept here, on this machine.",
        "not_found": "No conversation holds these words.",
        "rename": "Rename",
        "new_title": "New title:",
        "delete": "Delete",
        "sure": "Delete this conversation for good?",
        "export": "Save as {kind}",
        "ask": "Ask your documents…",
        "edit_last": "Change your last question…",
        "welcome": "### What would you like to know?\nEvery answer shows the words it rests on.",
        "again": "Search wider",
        "edit": "Edit question",
        "up": "✓ Good",
        "down": "✗ Wrong",
        "correct": "Correct it",
        "correction": "What should the answer have been? You may cite with [1], [2] …",
        "save": "Keep the correction",
        "kept": "Kept. Thank you.",
        "evidence": "Evidence",
        "empty": "The passages behind an answer appear here, with the cited words highlighted.",
        "waiting": "In line: number {position}…",
        "searching": "Searching your documents…",
        "found": "Found {count} passages. Reading…",
        "stopped": "Stopped.",
        "error": "Error: {message}",
        "failed": "something unexpected went wrong ({kind}); see the server's log and ask again",
    },
    "zh": {
        "name": "问答",
        "clear": "新对话",
        "find": "查找对话……",
        "none": "对话保存在这里，不离开这台电脑。",
        "not_found": "没有对话包含这些词。",
        "rename": "重命名",
        "new_title": "新标题：",
        "delete": "删除",
        "sure": "要彻底删除这个对话吗？",
        "export": "保存为 {kind}",
        "ask": "向你的文档提问……",
        "edit_last": "修改上一个问题……",
        "welcome": "### 想了解什么？\n每个回答都会指出它所依据的原文。",
        "again": "扩大检索",
        "edit": "修改问题",
        "up": "✓ 正确",
        "down": "✗ 有误",
        "correct": "纠正",
        "correction": "正确的回答应该是什么？可以用 [1]、[2] 标注引用",
        "save": "保存纠正",
        "kept": "已保存，谢谢。",
        "evidence": "依据",
        "empty": "回答所依据的段落会显示在这里，引用的文字会高亮。",
        "waiting": "排队中：第 {position} 位……",
        "searching": "正在检索文档……",
        "found": "找到 {count} 个段落，正在阅读……",
        "stopped": "已停止。",
        "error": "出错：{message}",
        "failed": "发生意外错误（{kind}）；请查看服务端日志后重试",
    },
}


def messages_of(turns: Turns, position: int = 0) -> list[dict[str, str]]:
    """Return the conversation as Gradio messages, each one line of safe HTML.

    Args:
        turns: The conversation.
        position: Of the last question in the line, 0 if it waits no more.
    """
    messages = []
    for number, turn in enumerate(turns, start=1):
        waiting = position if number == len(turns) else 0
        messages.append({"role": "user", "content": notice_html(turn.question, "question")})
        messages.append({"role": "assistant", "content": _reply(turn, str(number), waiting)})
    return messages


def _reply(turn: Turn, key: str, position: int) -> str:
    """Return the assistant's side of a turn, in the language of its question."""
    language = question_language(turn.question)
    words = WORDS[language]
    if turn.error:
        return notice_html(words["error"].format(message=turn.error), "error")
    if turn.answer is not None:
        return answer_html(
            turn.answer, language, key=key, asked=turn.standalone, rejected=rejected(turn)
        )
    asked = asked_html(turn.standalone, language)
    if turn.draft:
        return f"<div>{asked}{draft_html(turn.draft, language, stopped=turn.is_stopped)}</div>"
    if turn.is_stopped:
        return draft_html(words["stopped"], language, stopped=True)
    if position:
        line = words["waiting"].format(position=position)
    elif turn.passages is None:
        line = words["searching"]
    else:
        line = words["found"].format(count=len(turn.passages))
    return f"<div>{asked}{notice_html(line, 'waiting')}</div>"


def rejected(turn: Turn) -> list[str]:
    """Return the sentences of the draft that the verifier turned down, in order."""
    if turn.answer is None or turn.answer.status == "unverified":  # nothing was judged
        return []
    numbers = [passage.number for passage in turn.answer.passages]
    kept = {claim.text for claim in turn.answer.claims}
    return [claim.text for claim in read(turn.draft, numbers) if claim.text not in kept]


def panel_of(turns: Turns, language: Language, collection: str) -> str:
    """Return the evidence of all turns, the newest first and the older ones folded."""
    numbered = [(str(number), turn) for number, turn in enumerate(turns, start=1)]
    shown = [(key, turn) for key, turn in reversed(numbered) if turn.passages is not None]
    words = WORDS[language]
    body = "" if shown else f"<p>{words['empty']}</p>"
    link = partial(source_url, collection, language=language)
    for index, (key, turn) in enumerate(shown):
        evidence = evidence_html(turn.answer or turn.passages or (), language, key=key, link=link)
        body += (
            f'<details class="tether-turn"{"" if index else " open"}>'
            f"<summary>{escape(turn.question)}</summary>{evidence}</details>"
        )
    return f'<div class="tether-panel" lang="{language}"><h2>{words["evidence"]}</h2>{body}</div>'


def list_html(
    conversations: Sequence[Conversation], current: str, language: Language, search: str = ""
) -> str:
    """Return the conversations with what can be done to each; `current` is the id of one."""
    words = WORDS[language]
    if not conversations:
        return f'<p class="tether-nothing">{words["not_found" if search.strip() else "none"]}</p>'
    rows = "".join(_row_html(one, one.id == current, words) for one in conversations)
    return f'<ul class="tether-conversations">{rows}</ul>'


def _row_html(one: Conversation, is_current: bool, words: dict[str, str]) -> str:
    day = datetime.fromisoformat(one.changed).astimezone().strftime("%Y-%m-%d %H:%M")
    title = f"{one.title} · {one.collection} · {day}"
    kind = "is-title is-current" if is_current else "is-title"
    exports = "".join(
        f'<a class="tether-button" download href="/conversation/{escape(one.id)}.{suffix}"'
        f' title="{escape(words["export"].format(kind=name))}">{name}</a>'
        for suffix, name in (("md", "Markdown"), ("json", "JSON"))
    )
    rename = button_html(
        "rename", words["rename"], key=one.id, prompt=words["new_title"], value=one.title
    )
    delete = button_html("delete", words["delete"], key=one.id, confirm=words["sure"])
    return (
        f"<li>{button_html('open', one.title, key=one.id, title=title, kind=kind)}"
        f'<details><summary aria-label="{escape(one.title)}">⋯</summary>'
        f"<div>{rename}{exports}{delete}</div></details></li>"
    )
