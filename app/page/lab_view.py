"""How the laboratory looks: pure functions from runs to HTML, in two languages.

All text from outside passes `evidence.escape`; a report is a page of its own, in a frame that may
run no script. Knows nothing of Gradio's events or of how anything is measured.
"""

import time
from collections.abc import Sequence

from app.laboratory.runs import Kept, Progress
from app.page.evidence import Language, escape
from app.page.parts import button_html

SHOWN_LINES = 8  # of what a run says

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "tab": "Lab",
        "about": "Nothing has been measured here yet. Choose what to measure, and start.",
        "what": "What to measure",
        "limit": "Questions of each set and language",
        "budget": "Time to spend",
        "start": "Start",
        "stop": "Stop",
        "asked": "60m, 2h … or gpu; smoke takes a tiny model, to see the way. The documents of the"
        " collection above are what is learnt and searched.",
        "operators": "The laboratory is for operators; ask one of them.",
        "failed": "something unexpected went wrong ({kind}); see the server's log and try again",
        "title": "Run",
        "begun": "Begun",
        "model": "Model",
        "samples": "Samples",
        "state": "State",
        "open": "Read",
        "open_run": "Read the report of {name}",
        "tab_open": "Open in a tab of its own",
        "report": "Report of {name}",
        "running": "running",
        "finished": "finished",
        "stopped": "not finished",
        "failed_run": "failed",
        "damaged": "damaged",
        "now": "{title}: {state}",
        "ended": "stopped; what was measured is kept, and the same run goes on from there",
        "counted": "{samples:,} samples",
        "sampled": "{done:,} of {total:,} samples",
        "arms": "{done} of {total} arms",
        "said": "What it says",
        "frontier": "Retrieve or fine-tune? (frontier)",
        "answers": "Answers, with their citations",
        "retrieval": "Retrieval: what is found",
        "verifier": "Verifier: what is supported",
        "benchmarks": "Benchmarks: reading, facts, choices",
        "position": "Position of the right passage",
        "decoding": "Decoding: greedy, beam, sampling",
        "injection-attack": "Attacks inside documents",
        "reversal": "Reversal: facts the other way round",
    },
    "zh": {
        "tab": "实验室",
        "about": "这里还没有测量结果。请选择要测量的内容，然后开始。",
        "what": "测量内容",
        "limit": "每个题集每种语言的题数",
        "budget": "可用时间",
        "start": "开始",
        "stop": "停止",
        "asked": "如 60m、2h，或 gpu；smoke 用极小模型，只看流程。"
        "学习和检索的是上方所选文档库中的文档。",
        "operators": "实验室仅供管理员使用；请联系管理员。",
        "failed": "发生意外错误（{kind}）；请查看服务端日志后重试",
        "title": "测量",
        "begun": "开始时间",
        "model": "模型",
        "samples": "样本",
        "state": "状态",
        "open": "阅读",
        "open_run": "阅读 {name} 的报告",
        "tab_open": "在新标签页中打开",
        "report": "{name} 的报告",
        "running": "进行中",
        "finished": "已完成",
        "stopped": "未完成",
        "failed_run": "失败",
        "damaged": "已损坏",
        "now": "{title}：{state}",
        "ended": "已停止；已测量的内容会保留，再次开始同一测量时从中断处继续",
        "counted": "{samples:,} 个样本",
        "sampled": "{total:,} 个样本，已完成 {done:,} 个",
        "arms": "{total} 个方案，已完成 {done} 个",
        "said": "运行输出",
        "frontier": "检索还是微调？（frontier）",
        "answers": "回答及其引用",
        "retrieval": "检索：找到了什么",
        "verifier": "核验：哪些有据",
        "benchmarks": "公开题集：阅读、事实、选择",
        "position": "正确段落的位置",
        "decoding": "解码：贪心、束搜索、采样",
        "injection-attack": "文档中的攻击",
        "reversal": "反向提问事实",
    },
}


def suite_name(suite: str, language: Language) -> str:
    """Return what a suite, or the frontier, is called; the records' own word for a new one."""
    return WORDS[language].get(suite, suite)


def progress_html(progress: Progress | None, language: Language) -> str:
    """Return how far the latest run is; nothing if there was none."""
    if progress is None:
        return ""
    words = WORDS[language]
    state = words["ended" if progress.state == "stopped" else _state_word(progress.state)]
    facts, bar = [_duration(progress.seconds)], ""
    if not progress.sampled:
        facts.append(words["counted"].format(samples=progress.samples))
    for unit, counted in (("sampled", progress.sampled), ("arms", progress.arms)):
        if counted:
            done, total = counted
            facts.append(words[unit].format(done=done, total=total))
            bar = f'<progress value="{done}" max="{max(total, 1)}"></progress>'
    said = "\n".join(escape(line) for line in progress.said[-SHOWN_LINES:])
    title = escape(words["now"].format(title=progress.title, state=state))
    return (
        f'<section class="lab-now is-{progress.state}" lang="{language}" aria-live="polite">'
        f"<h3>{title}</h3>{bar}<p>{escape(' · '.join(facts))}</p>"
        + (f'<pre aria-label="{escape(words["said"])}">{said}</pre>' if said else "")
        + "</section>"
    )


def list_html(runs: Sequence[Kept], language: Language) -> str:
    """Return the runs as a table, with a button that opens each."""
    words = WORDS[language]
    if not runs:
        return f'<p class="tether-nothing">{words["about"]}</p>'
    names = ("title", "begun", "model", "samples", "state")
    head = "".join(f'<th scope="col">{words[name]}</th>' for name in names)
    rows = "".join(_row_html(run, language) for run in runs)
    return (
        f'<div class="lab-runs" lang="{language}"><table><thead><tr>{head}<td></td></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _row_html(run: Kept, language: Language) -> str:
    words = WORDS[language]
    begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.started))
    kind = suite_name(run.suite, language) if run.suite else words["damaged"]
    read = button_html(
        "open", words["open"], key=run.name, title=words["open_run"].format(name=run.name)
    )
    return (
        f'<tr class="is-{run.state}"><th scope="row">{escape(kind)}<br>'
        f"<small>{escape(run.name)}</small></th><td>{begun}</td><td>{escape(run.model)}</td>"
        f"<td>{run.samples:,}</td><td>{words[_state_word(run.state)]}</td><td>{read}</td></tr>"
    )


def report_html(name: str, page: str, address: str, language: Language) -> str:
    """Return a report in a frame.

    Args:
        name: Of its run.
        page: The whole report, an HTML document.
        address: Where it can be read alone.
        language: Of what stands around it.
    """
    words = WORDS[language]
    title = escape(words["report"].format(name=name))
    # An empty `sandbox` takes everything from it: scripts, forms, its origin, other frames.
    return (
        f'<section class="lab-report" lang="{language}"><h3>{title}</h3>'
        f'<p><a href="{escape(address)}" target="_blank" rel="noopener">{words["tab_open"]}</a></p>'
        f'<iframe sandbox="" title="{title}" srcdoc="{escape(page)}"></iframe></section>'
    )


def _state_word(state: str) -> str:
    return "failed_run" if state == "failed" else state


def _duration(seconds: float) -> str:
    """Return a duration as minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
