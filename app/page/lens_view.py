"""How the lens looks: pure functions from what was seen to HTML, in two languages.

Every step is a radio button and the section behind it, so that clicks and arrow keys go through
the steps without a script. All text from outside passes `evidence.escape`. Knows nothing of
Gradio's events or of models.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.page.evidence import Language, escape, notice_html
from model.lens import Beam, BeamStep, Candidate, Ending, Step, View, path_of

Lane = Literal["told", "untold"]  # with the passage, without it

WORDS: dict[Language, dict[str, str]] = {
    "en": {
        "tab": "Lens",
        "about": "See how the model finds each word of an answer, with a passage and without it.",
        "question": "Question",
        "passage": "Passage, if there is one",
        "take": "Take it from my documents",
        "taken": "The nearest passage of your documents: {title}",
        "none": "No passage of your documents comes near this question.",
        "lead": "Who chooses the tokens",
        "steps": "Steps at most",
        "look": "Look",
        "stop": "Stop",
        "waiting": "In line: number {position}…",
        "loading": "Loading the model for the first look; this may take a minute…",
        "reading": "Reading the prompt…",
        "stopped": "Stopped.",
        "error": "Error: {message}",
        "failed": "something unexpected went wrong ({kind}); see the server's log and look again",
        "told": "With the passage",
        "untold": "Without the passage",
        "says": "The model says:",
        "token": "It ended the text itself.",
        "text": "The text stops here: the prompt names these characters as its end.",
        "length": "It was not done, but this is as far as you let it go.",
        "walk": "Choose a step; the arrow keys go to the next one.",
        "end": "End of the text: {share}",
        "entropy": "Uncertainty: {bits} bits",
        "chosen": "chosen",
        "cut": "outside top-p, never drawn",
        "from": "after",
        "next": "token",
        "so_far": "text",
        "score": "score",
        "score_title": "log-probability a token; the highest wins",
        "finished": "ended",
        "best": "on the way to the best text",
        "over": "There is no such step on this side.",
        "prompt": "What the model reads",
    },
    "zh": {
        "tab": "透镜",
        "about": "看模型如何一步步选出答案中的每个词元，有资料与没有资料各会怎样。",
        "question": "问题",
        "passage": "资料（可不填）",
        "take": "从我的文档中取",
        "taken": "你的文档中最接近的段落：{title}",
        "none": "你的文档中没有与此问题相近的段落。",
        "lead": "由谁选词元",
        "steps": "最多步数",
        "look": "观察",
        "stop": "停止",
        "waiting": "排队中：第 {position} 位……",
        "loading": "首次观察需要载入模型，可能要一分钟……",
        "reading": "正在阅读提示词……",
        "stopped": "已停止。",
        "error": "出错：{message}",
        "failed": "发生意外错误（{kind}）；请查看服务端日志后重试",
        "told": "有资料",
        "untold": "无资料",
        "says": "模型说：",
        "token": "模型自己结束了文本。",
        "text": "到此为止：提示词规定这些字符表示结束。",
        "length": "尚未说完，但已到你设定的步数。",
        "walk": "点选一步，用方向键前后移动。",
        "end": "结束的概率：{share}",
        "entropy": "不确定度：{bits} 比特",
        "chosen": "选中",
        "cut": "在 top-p 之外，不会被抽到",
        "from": "接自",
        "next": "词元",
        "so_far": "文本",
        "score": "得分",
        "score_title": "每个词元的平均对数概率，最高者胜出",
        "finished": "已结束",
        "best": "通向最佳文本",
        "over": "这一侧没有这一步。",
        "prompt": "模型读到的内容",
    },
}


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen so far: the steps of one path, or those of a beam search a lane."""

    lanes: tuple[Lane, ...]  # the first one chooses
    prompts: tuple[str, ...]  # of each lane
    steps: tuple[Step, ...] = ()
    beams: tuple[tuple[BeamStep, ...], ...] = ()  # of each lane; the others wait until one is done

    @property
    def in_order(self) -> list[int]:
        """The lanes' places as they stand side by side: with the passage first."""
        return sorted(range(len(self.lanes)), key=lambda i: self.lanes[i])


def sight_html(sight: Sight | None, language: Language) -> str:
    """Return what was seen, the newest step chosen; how to begin if there is nothing yet."""
    words = WORDS[language]
    if sight is None:
        return f'<p class="tether-nothing">{words["about"]}</p>'
    if any(sight.beams):
        text, ending, steps = _beams_html(sight, language)
    else:
        text, ending, steps = _walk_html(sight, language)
    if not steps:
        return notice_html(words["reading"], "waiting") + _prompts_html(sight, words)
    close = f" <em>{words[ending]}</em>" if ending else ""
    return (
        f'<div class="lens" lang="{language}">'
        f'<p class="lens-text">{words["says"]} <q>{escape(text)}</q>{close}</p>'
        f'<div class="lens-steps" role="radiogroup" aria-label="{words["walk"]}">'
        f"{''.join(steps)}</div>{_prompts_html(sight, words)}</div>"
    )


def _prompts_html(sight: Sight, words: dict[str, str]) -> str:
    shown = "".join(
        f'<div class="lens-lane"><h3>{words[sight.lanes[i]]}</h3>'
        f"<pre>{escape(sight.prompts[i])}</pre></div>"
        for i in sight.in_order
    )
    summary = f"<summary>{words['prompt']}</summary>"
    return f'<details class="lens-prompts">{summary}<div class="lens-lanes">{shown}</div></details>'


def _step_html(number: int, chosen: Candidate, body: str, *, is_newest: bool) -> str:
    """Return the button of a step and the section that it shows."""
    checked = " checked" if is_newest else ""
    share = _percent(chosen.probability)
    return (
        f'<label class="lens-token" style="--share:{chosen.probability:.4f}">'
        f'<input type="radio" name="lens-step" value="{number}"{checked}>'
        f"<bdi>{escape(chosen.text)}</bdi><small>{share}</small></label>"
        f'<section class="lens-step">{body}</section>'
    )


# --- A path --------------------------------------------------------------------------------------


def _walk_html(sight: Sight, language: Language) -> tuple[str, Ending, list[str]]:
    """Return the text, why it ends, and the steps of a path."""
    if not sight.steps:
        return "", "", []
    last = sight.steps[-1]
    shown = [
        _step_html(
            step.number,
            step.views[0].chosen,
            _moved_html(sight, step) + _lanes_html(sight, step, WORDS[language]),
            is_newest=step is last,
        )
        for step in sight.steps
    ]
    return last.text, last.ending, shown


def _moved_html(sight: Sight, step: Step) -> str:
    """Return how the passage moves the probability of the chosen token."""
    by_lane = dict(zip(sight.lanes, step.views, strict=True))
    if len(by_lane) < 2:
        return ""
    before, after = (by_lane[lane].chosen.probability for lane in ("untold", "told"))
    direction = "up" if after > before else "down"
    return (
        f'<p class="lens-moved is-{direction}"><bdi>{escape(step.views[0].chosen.text)}</bdi> '
        f"<span>{_percent(before)}</span> → <b>{_percent(after)}</b></p>"
    )


def _lanes_html(sight: Sight, step: Step, words: dict[str, str]) -> str:
    lanes = "".join(
        f'<div class="lens-lane is-{sight.lanes[i]}"><h3>{words[sight.lanes[i]]}</h3>'
        f"{_view_html(step.views[i], words)}</div>"
        for i in sight.in_order
    )
    return f'<div class="lens-lanes">{lanes}</div>'


def _view_html(view: View, words: dict[str, str]) -> str:
    """Return one distribution as bars, and what it says of the end and of itself."""
    rows = [_row_html(one, view.chosen.token, words) for one in view.candidates]
    if all(one.token != view.chosen.token for one in view.candidates):
        rows += ['<li class="is-gap">⋯</li>', _row_html(view.chosen, view.chosen.token, words)]
    end = words["end"].format(share=_percent(view.end))
    entropy = words["entropy"].format(bits=f"{abs(view.entropy):.1f}")
    return f'<ol>{"".join(rows)}</ol><p class="lens-facts">{end} · {entropy}</p>'


def _row_html(one: Candidate, chosen: int, words: dict[str, str]) -> str:
    kinds = " ".join(
        name
        for name, holds in (("is-chosen", one.token == chosen), ("is-cut", one.is_cut))
        if holds
    )
    mark = f'<em title="{words["chosen"]}">✓</em>' if one.token == chosen else ""
    title = f' title="{words["cut"]}"' if one.is_cut else ""
    return (
        f'<li class="{kinds}"{title}><bdi>{escape(one.text)}</bdi>{mark}'
        f'<span class="lens-bar"><i style="width:{100 * one.probability:.2f}%"></i></span>'
        f"<span>{_percent(one.probability)}</span></li>"
    )


def _percent(probability: float) -> str:
    """Return a probability for people: "83%", "4.1%", "<0.1%"."""
    percent = 100 * probability
    if 0 < percent < 0.1:
        return "&lt;0.1%"
    return f"{percent:.1f}%" if percent < 10 else f"{percent:.0f}%"


# --- Beams ---------------------------------------------------------------------------------------


def _beams_html(sight: Sight, language: Language) -> tuple[str, Ending, list[str]]:
    """Return the best text of the first lane, why it ends, and the steps of all lanes."""
    words, paths = WORDS[language], [path_of(steps) for steps in sight.beams]
    longest = max(map(len, sight.beams))
    shown = []
    for place in range(longest):
        lanes = "".join(
            f'<div class="lens-lane is-{sight.lanes[i]}"><h3>{words[sight.lanes[i]]}</h3>'
            f"{_tree_html(sight.beams[i], place, paths[i], words)}</div>"
            for i in sight.in_order
            if sight.beams[i]
        )
        chosen = _chosen_at(sight.beams, paths, place)
        body = f'<div class="lens-lanes">{lanes}</div>'
        shown.append(_step_html(place + 1, chosen, body, is_newest=place == longest - 1))
    best = paths[0][-1]
    return best.text, best.ending if sight.beams[0][-1].is_last else "", shown


def _chosen_at(
    beams: Sequence[Sequence[BeamStep]], paths: Sequence[Sequence[Beam]], place: int
) -> Candidate:
    """Return the token that stands for a step: of the best text, else the best one there."""
    if place < len(paths[0]):
        return paths[0][place].chosen
    step = next(steps[place] for steps in beams if place < len(steps))
    return (step.beams or step.finished)[0].chosen


def _tree_html(
    steps: Sequence[BeamStep], place: int, path: Sequence[Beam], words: dict[str, str]
) -> str:
    """Return the beams of one step: what each goes on from, and how it scores."""
    if place >= len(steps):
        return f'<p class="tether-nothing">{words["over"]}</p>'
    step = steps[place]
    known = steps[place - 1].finished if place else ()
    ended = [beam for beam in step.finished if beam not in known]
    on_path = path[place] if place < len(path) else None
    rows = [
        _beam_html(str(number), beam, words, is_first=not place, is_best=beam is on_path)
        for number, beam in enumerate(step.beams, start=1)
    ]
    rows += [
        _beam_html("■", beam, words, is_first=not place, is_best=beam is on_path) for beam in ended
    ]
    head = "".join(f"<th scope=col>{words[name]}</th>" for name in ("from", "next", "so_far"))
    score = f'<th scope=col title="{words["score_title"]}">{words["score"]}</th>'
    return (
        f"<table><thead><tr><th></th>{head}{score}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _beam_html(
    number: str, beam: Beam, words: dict[str, str], *, is_first: bool, is_best: bool
) -> str:
    best = f' <em title="{words["best"]}">★</em>' if is_best else ""
    ended = f" <em>{words['finished']}</em>" if beam.ending else ""
    kind = ' class="is-chosen"' if is_best else ""
    return (
        f"<tr{kind}><th scope=row>{number}{best}</th><td>{'' if is_first else beam.parent + 1}</td>"
        f"<td><bdi>{escape(beam.chosen.text)}</bdi> {_percent(beam.chosen.probability)}</td>"
        f"<td><bdi>{escape(beam.text)}</bdi>{ended}</td><td>{beam.score:.2f}</td></tr>"
    )
