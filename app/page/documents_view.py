"""How documents look: pure functions from what a collection holds to HTML, in two languages.

All text from outside passes `evidence.escape`. Knows nothing of Gradio, of stores or of ingesting.
"""

import time
from collections.abc import Collection, Sequence
from urllib.parse import quote

from app.page.evidence import Language, escape
from app.page.parts import button_html
from app.watching import Watch
from ingest.documents import Document
from ingest.pipeline import FileOutcome
from retrieval.store import DocumentInfo

PREVIEWED = 3_000  # characters
SHOWN_DOCUMENTS = 300  # rows of the table
SHOWN_OUTCOMES = 200  # of an ingest: failures, then the latest ones
SHOWN_FAILURES = 20  # of a followed folder

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "tab": "Documents",
        "files": "Drop files here, or click to choose them",
        "name": "Name of a new collection",
        "create": "Create",
        "delete": "Delete this collection",
        "again": "Ingest all again",
        "sure_all": "Delete this whole collection, its documents and uploaded files?",
        "sure": "Remove this document from the collection?",
        "preview": "Preview",
        "ingest": "Ingest again",
        "remove": "Remove",
        "open": "Open",
        "empty": "This collection is empty. Drop files on the left: texts, PDF, Office, web pages, "
        "e-mail, tables, archives.",
        "holds": "{documents} documents · {chunks} chunks · {size}",
        "title": "Document",
        "status": "Status",
        "size": "Size",
        "ready": "ready",
        "gone": "its file is gone",
        "characters": "{count:,} characters, {chunks} chunks",
        "progress": "{done} of {total} files",
        "added": "added",
        "updated": "updated",
        "moved": "moved",
        "unchanged": "unchanged",
        "duplicate": "duplicate",
        "removed": "removed",
        "failed": "failed",
        "chunks": "{count} chunks",
        "more": "… {count:,} more characters",
        "find": "Find documents by title or path…",
        "not_found": "No document has these words in its title or path.",
        "others": "… and {count:,} more documents: find them by title or path",
        "sharing": "Who may read this collection",
        "owner": "Owner: {name}",
        "operators": "the operators",
        "nobody": "Nobody else.",
        "share": "Let somebody read it",
        "who": "Name of the user who may read this collection:",
        "unshare": "Take back",
        "unshare_from": "Take back from {name}",
        "shared": "Shared with you: you may read it, its owner changes it.",
        "watched": "Followed folders",
        "watch": "Follow",
        "watch_it": "Follow {folder}",
        "unwatch": "Stop",
        "unwatch_it": "Follow {folder} no more",
        "idle": "not followed",
        "reading": "reading…",
        "following": "followed until the server stops",
        "read": "read {when}: {counts}",
        "nothing": "no files",
        "how": "To let a collection follow a folder, start with --set serve.folders=FOLDER",
    },
    "zh": {
        "tab": "文档",
        "files": "把文件拖到这里，或点击选择",
        "name": "新文档库的名称",
        "create": "新建",
        "delete": "删除此文档库",
        "again": "全部重新读入",
        "sure_all": "要删除整个文档库及其文档和上传的文件吗？",
        "sure": "要从文档库移除这份文档吗？",
        "preview": "预览",
        "ingest": "重新读入",
        "remove": "移除",
        "open": "打开",
        "empty": "文档库是空的。把文件拖到左侧：文本、PDF、Office、网页、邮件、表格、压缩包。",
        "holds": "{documents} 份文档 · {chunks} 个片段 · {size}",
        "title": "文档",
        "status": "状态",
        "size": "大小",
        "ready": "就绪",
        "gone": "原文件已不在",
        "characters": "{count:,} 字，{chunks} 个片段",
        "progress": "{total} 个文件，已完成 {done} 个",
        "added": "已添加",
        "updated": "已更新",
        "moved": "已移动",
        "unchanged": "未变",
        "duplicate": "重复",
        "removed": "已移除",
        "failed": "失败",
        "chunks": "{count} 个片段",
        "more": "……还有 {count:,} 字",
        "find": "按标题或路径查找文档……",
        "not_found": "没有文档的标题或路径包含这些词。",
        "others": "……还有 {count:,} 份文档：可按标题或路径查找",
        "sharing": "谁可以阅读此文档库",
        "owner": "所有者：{name}",
        "operators": "管理员",
        "nobody": "没有其他人。",
        "share": "允许他人阅读",
        "who": "可以阅读此文档库的用户名：",
        "unshare": "收回",
        "unshare_from": "收回 {name} 的阅读权",
        "shared": "他人与你共享：你可以阅读，由所有者修改。",
        "watched": "跟踪的文件夹",
        "watch": "跟踪",
        "watch_it": "跟踪 {folder}",
        "unwatch": "停止",
        "unwatch_it": "不再跟踪 {folder}",
        "idle": "未跟踪",
        "reading": "正在读入……",
        "following": "跟踪中，直到服务停止",
        "read": "{when} 读入：{counts}",
        "nothing": "没有文件",
        "how": "要让文档库跟踪文件夹，请用 --set serve.folders=文件夹 启动",
    },
}


def size_text(count: int) -> str:
    """Return a number of bytes in words: "3.4 MB"."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def listing_html(
    documents: Sequence[DocumentInfo],
    gone: Collection[str],
    place: tuple[str, int],
    language: Language,
    find: str = "",
    *,
    may_change: bool = True,
) -> str:
    """Return the documents of a collection as a table, with what can be done to them.

    Args:
        documents: In the order in which they came.
        gone: Ids of those whose files no longer exist.
        place: Name of the collection, and its bytes on disk.
        language: Of the labels.
        find: Shows only documents with these words in their title or a path.
        may_change: Whether who looks may do more than read.
    """
    words, (collection, size) = WORDS[language], place
    chunks = sum(info.chunks for info in documents)
    holds = words["holds"].format(documents=len(documents), chunks=chunks, size=size_text(size))
    buttons = ""
    if may_change:
        buttons += button_html("again", words["again"])
        buttons += button_html("delete", words["delete"], confirm=words["sure_all"])
    found = [info for info in documents if _matches(info, find)]
    if found:
        body = _table_html(found, gone, collection, language, may_change=may_change)
    else:
        body = f'<p class="tether-nothing">{words["not_found" if documents else "empty"]}</p>'
    return (
        f'<div lang="{language}"><p class="tether-holds"><span>{holds}</span>{buttons}</p>{body}'
        "</div>"
    )


def _matches(info: DocumentInfo, find: str) -> bool:
    names = "\n".join([info.title, *info.uris]).casefold()
    return all(word in names for word in find.casefold().split())


def _table_html(
    found: Sequence[DocumentInfo],
    gone: Collection[str],
    collection: str,
    language: Language,
    *,
    may_change: bool,
) -> str:
    words = WORDS[language]
    head = "".join(f'<th scope="col">{words[name]}</th>' for name in ("title", "status", "size"))
    shown = found[:SHOWN_DOCUMENTS]
    rows = "".join(
        _row_html(info, info.id in gone, collection, language, may_change=may_change)
        for info in shown
    )
    rest = len(found) - len(shown)
    others = f"<p>{words['others'].format(count=rest)}</p>" if rest else ""
    return (
        f'<table class="tether-table"><thead><tr>{head}<th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{others}"
    )


def _row_html(
    info: DocumentInfo, is_gone: bool, collection: str, language: Language, *, may_change: bool
) -> str:
    words = WORDS[language]
    sources = "".join(f"<small>{escape(uri)}</small>" for uri in info.uris)
    status = "gone" if is_gone else "ready"
    size = words["characters"].format(count=info.characters, chunks=info.chunks)
    buttons = [
        button_html("preview", words["preview"], key=info.id),
        f'<a class="tether-button" target="_blank" rel="noopener"'
        f' href="{_address(collection, info.id, language)}">{words["open"]}</a>',
    ]
    if may_change:
        buttons += [
            button_html("again", words["ingest"], key=info.id),
            button_html("remove", words["remove"], key=info.id, confirm=words["sure"]),
        ]
    return (
        f'<tr><th scope="row"><span>{escape(info.title)}</span>{sources}</th>'
        f'<td class="is-{status}">{words[status]}</td><td>{size}</td>'
        f'<td class="tether-row-actions">{"".join(buttons)}</td></tr>'
    )


def _address(collection: str, document_id: str, language: Language) -> str:
    place = f"{quote(collection, safe='')}/{quote(document_id, safe='')}"
    return escape(f"/source/{place}?language={language}")


def preview_html(document: Document, collection: str, language: Language) -> str:
    """Return the beginning of a document."""
    words = WORDS[language]
    rest = len(document.text) - PREVIEWED
    more = f"<p>{words['more'].format(count=rest)}</p>" if rest > 0 else ""
    return (
        f'<section class="tether-preview"><h3><a target="_blank" rel="noopener"'
        f' href="{_address(collection, document.id, language)}">{escape(document.title)}</a></h3>'
        f'<div class="tether-text">{escape(document.text[:PREVIEWED])}</div>{more}</section>'
    )


def progress_html(outcomes: Sequence[FileOutcome], total: int, language: Language) -> str:
    """Return how far an ingest of `total` files is, and what became of each: failures first."""
    words, done = WORDS[language], len(outcomes)
    line = words["progress"].format(done=done, total=total)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    others = [outcome for outcome in reversed(outcomes) if outcome.status != "failed"]
    rows = "".join(_outcome_html(one, words) for one in [*failed, *others][:SHOWN_OUTCOMES])
    return (
        f'<div class="tether-progress" lang="{language}" role="status">'
        f'<label>{line} <progress max="{max(total, 1)}" value="{done}"></progress></label>'
        f"<ul>{rows}</ul></div>"
    )


def _outcome_html(outcome: FileOutcome, words: dict[str, str]) -> str:
    name = outcome.uri.replace("\\", "/").rstrip("/").rpartition("/")[2] or outcome.uri
    detail = outcome.message.removeprefix(f"{outcome.uri}: ")
    if outcome.chunks and not detail:
        detail = words["chunks"].format(count=outcome.chunks)
    return (
        f'<li class="is-{outcome.status}" title="{escape(outcome.uri)}"><b>{escape(name)}</b> '
        f"<em>{words[outcome.status]}</em> {escape(detail)}</li>"
    )


def sharing_html(owner: str | None, readers: Sequence[str], language: Language) -> str:
    """Return who owns a collection, None for the operators, and who may read it, to be changed."""
    words = WORDS[language]
    rows = "".join(
        f"<li><b>{escape(name)}</b> "
        + button_html(
            "unshare", words["unshare"], key=name, title=words["unshare_from"].format(name=name)
        )
        + "</li>"
        for name in readers
    )
    owned = escape(words["owner"].format(name=owner or words["operators"]))
    others = f"<ul>{rows}</ul>" if rows else f"<p>{words['nobody']}</p>"
    share = button_html("share", words["share"], prompt=words["who"])
    return (
        f'<section class="tether-around" lang="{language}"><h3>{words["sharing"]}</h3>'
        f"<p>{owned}</p>{others}{share}</section>"
    )


def shared_html(language: Language) -> str:
    """Return what somebody is told who may read a collection, and no more."""
    return f'<p class="tether-around" lang="{language}">{WORDS[language]["shared"]}</p>'


def watched_html(watches: Sequence[Watch], language: Language, *, tell_how: bool = False) -> str:
    """Return how it stands with the folders that a collection can follow.

    Args:
        watches: Of the folders that the settings name.
        language: Of the labels.
        tell_how: Say how folders get into the settings, where there are none.
    """
    words = WORDS[language]
    if not watches:
        how = f'<p class="tether-around" lang="{language}">{escape(words["how"])}</p>'
        return how if tell_how else ""
    rows = "".join(_watch_html(watch, words) for watch in watches)
    return (
        f'<section class="tether-around" lang="{language}"><h3>{words["watched"]}</h3>'
        f"<ul>{rows}</ul></section>"
    )


def _watch_html(watch: Watch, words: dict[str, str]) -> str:
    folder, is_running = str(watch.folder), watch.state in ("reading", "following")
    action = "unwatch" if is_running else "watch"
    title = words[f"{action}_it"].format(folder=folder)
    facts, failures = [], ""
    if watch.report is not None:
        counts = [f"{count} {words[what]}" for what, count in watch.report.counts.items() if count]
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(watch.read))
        told = ", ".join(counts) or words["nothing"]
        facts.append(words["read"].format(when=when, counts=told))
        failed = watch.report.failed[:SHOWN_FAILURES]
        failures = "".join(_outcome_html(outcome, words) for outcome in failed)
    said = escape(" · ".join([*facts, *filter(None, [watch.message])]))
    return (
        f'<li class="is-{watch.state}"><b>{escape(folder)}</b> <em>{words[watch.state]}</em>'
        f" {button_html(action, words[action], key=folder, title=title)}"
        f"<small>{said}</small>{f'<ul>{failures}</ul>' if failures else ''}</li>"
    )
