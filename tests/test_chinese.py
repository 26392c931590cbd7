"""Reports of suites and comparisons in Chinese: each English text has its own, and none is left."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.laboratory.suites import SUITES, module_of
from docs.generate import ROOT
from eval.answering import BASELINES, MEASURES
from eval.chinese import ABOUT, CHINESE, LEGEND, say
from eval.comparison import compare
from eval.comparison import markdown as compared
from eval.outcomes import degenerate_outputs
from eval.pages import Page, Table, markdown
from eval.records import Description, Run, Sample
from eval.suites import decoding, position
from eval.suites.attacks import ATTACKS
from eval.suites.pages import suite_page
from eval.suites.suite import BASELINE, without_baselines

LAYOUTS = [module_of(name).LAYOUT for name in SUITES]
HAN = re.compile("[\u4e00-\u9fff]")
TWO_WORDS = re.compile(r"\b[a-z]{2,},? [a-z]{2,}\b")
ASKERS = ("assistant", "generator alone")
ARMS = {
    "answers": ["assistant"],
    "retrieval": ["lexical", "dense", "hybrid", "reranked"],
    "verifier": ["verifier"],
    "benchmarks": [
        "assistant, given passages", "assistant, from memory", "model, likeliest choice",
        "model, text",
    ],
    "position": [f"{one}, {spot.name}" for one in ASKERS for spot in position.SPOTS],
    "decoding": [
        f"{how}, {shots}, {context}"
        for how in ("greedy", f"beam {decoding.BEAMS}", "temperature 0.3")
        for shots in decoding.SHOTS
        for context in decoding.PASSAGES
    ],
    "injection-attack": [
        f"{one}, {when}" for one in ASKERS for when in ("under attack", "without attack")
    ],
    "reversal": ["from memory", "after the text"],
}  # fmt: skip
DULL = {
    "answers": BASELINES,
    "retrieval": ["random order"],
    "verifier": ["always supported", "never supported"],
    "benchmarks": [
        "always abstain", "repeats the question", "guess", "always the first",
        "always the longest", "zlib", "bytes",
    ],
    "reversal": ["a choice at random"],
}  # fmt: skip
KINDS = {
    "injection-attack": ["attacks"],
    "reversal": [
        "facts, as stated", "facts, in reverse", "fictitious descriptions, as stated",
        "fictitious names, in reverse", "parents, child to parent", "parents, parent to child",
    ],
}  # fmt: skip
SCORES = (
    "right label right_supported right_unsupported correct attempted hallucinated misled choice"
    " wrong_if_attempted choice_normalised nats tokens bits bytes chosen margin said success silent"
    " unfounded"
).split()
FEW = ("right", "label", "choice", "success")


def run_of(name: str) -> Run:
    """Return a run of which every arm made something of each kind, and one sample failed.

    Its first arm has all scores, the others few, since every figure costs a bootstrap.
    """
    columns = [column.label for column in module_of(name).LAYOUT.columns]
    scores = dict.fromkeys([*SCORES, *columns, *(one.name for one in MEASURES)], 1.0)
    arms = [*ARMS[name], *(BASELINE + one for one in DULL.get(name, degenerate_outputs([])))]
    samples = [
        Sample(
            name, arm, case, case, language, "问", "", "答", ("答",),
            scores if arm == arms[0] else dict.fromkeys(FEW, 1.0), 1.0, {"way": str(copy)}, kind,
            confidence=0.5,
        )
        for kind in KINDS.get(name, ["xquad"])
        for language in ("en", "zh")[name == "benchmarks" :]
        for case in cases_of(name, kind, language)
        for arm in arms
        for copy in range(decoding.DRAWS if arm.startswith("temperature") else 1)
    ]  # fmt: skip
    failed = replace(samples[0], case_id="坏", scores={}, failure="坏了")
    return Run(name, Description(name, "tether", 0, {}), (*samples, failed))


def cases_of(name: str, kind: str, language: str) -> list[str]:
    if name == "injection-attack":
        return [one.id for one in ATTACKS if one.language == language]
    return [f"{language}-{kind}-{number}" for number in (1, 2)]


def test_every_text_that_is_said_has_its_chinese() -> None:
    said = [
        node.args[0].value
        for path in Path(ROOT / "eval").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "say"
        if isinstance(node.args[0], ast.Constant)
    ]
    assert len(said) > 30
    assert [text for text in said if text not in CHINESE] == []


def test_every_suite_has_its_chinese() -> None:
    for layout in LAYOUTS:
        labels = [column.label for column in (*layout.columns, *layout.pooled)]
        known = {
            text for text in (layout.title, *labels) if text in CHINESE or say(text, "zh") != text
        }
        assert known == {layout.title, *labels}
        for english, chinese in ((layout.about, ABOUT), (layout.legend, LEGEND)):
            assert figures(english) == figures(chinese[layout.title])  # else one was changed alone
    assert set(ABOUT) == set(LEGEND) == {layout.title for layout in LAYOUTS}


def figures(text: str) -> set[str]:
    return set(re.findall(r"\d+(?:\.\d+)?", text))


def test_both_languages_have_the_same_places_to_fill_in() -> None:
    def places(text: str) -> list[str]:
        return sorted(re.findall(r"\{\w+\}|#", text))

    assert {text for text in CHINESE if places(text) != places(CHINESE[text])} == set()


def test_a_name_is_said_in_its_parts_and_what_is_unknown_stays() -> None:
    assert say("generator alone, first of 3", "zh") == "仅生成模型，3 段中居首"
    assert say("temperature 0.3, few-shot, from memory", "zh") == "温度 0.3，有例子，凭记忆"
    assert say("xquad, zh", "zh") == "xquad，中文"
    assert say("my own, set", "zh") == "my own, set"
    assert say("generator alone, first of 3", "en") == "generator alone, first of 3"


@pytest.mark.parametrize("name", SUITES)
def test_a_chinese_report_holds_no_english(name: str) -> None:
    page = suite_page(run_of(name), module_of(name).LAYOUT, "zh")
    text, _ = markdown(page)
    assert page.language == "zh" and "坏了" in text
    assert set(TWO_WORDS.findall(text)) <= {"et al"}
    assert [
        one for one in own_names(page) if re.search("[a-z]{2}", one) and not HAN.search(one)
    ] == []


def own_names(page: Page) -> Iterator[str]:
    """Yield the names that stand over and before the rows of tables, ids of attacks left out."""
    ids = {attack.id for attack in ATTACKS}
    for block in page.blocks:
        if isinstance(block, Table):
            yield from block.columns
            yield from (str(row[0]) for row in block.rows if row[0] not in ids)


def test_a_chinese_comparison_holds_no_english() -> None:
    run = without_baselines(run_of("position"))
    scores = {"right": 1.0, "cites gold": 1.0, "prompt tokens": 9.0}
    run = replace(run, samples=tuple(replace(one, scores=scores) for one in run.samples[:60]))
    fewer = tuple(one for one in run.samples if one.arm != "generator alone, first of 1")
    other = Run("other", Description("x", "y", 1, {}, versions={"torch": "2"}), fewer)
    text = compared(compare(run, other), "zh")
    assert TWO_WORDS.findall(text) == []
    assert "| 套件 | 方案 | 得分 |" in text and "仅生成模型，3 段中居首" in text
    assert "只在 position 中有：仅生成模型，1 段中居首（position）" in text
    assert "| 种子 | 0 | 1 |" in text and "| 版本：torch | 无 | 2 |" in text
    assert "没有共同的方案" in compared(compare(run, replace(run, samples=())), "zh")
