"""Two sides of a comparison: what is paired, what is real, what differs, and how it reads."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest

from eval.comparison import Change, Comparison, compare, compare_arms, markdown
from eval.records import Description, Run, Sample
from eval.statistics import mcnemar, paired

IDENTITY = {"weights": "w1", "code": "c1"}
DESCRIPTION = Description("answers", "tether eval answers", 0, IDENTITY)


def sample(case: int, scores: Mapping[str, float | None], arm: str = "rag") -> Sample:
    return Sample(
        suite="answers",
        arm=arm,
        case_id=f"q{case}",
        cluster=f"p{case}",
        language="en",
        question=f"Who built bridge {case}?",
        prompt="",
        output="",
        expected=("Mara Oan",),
        scores=scores,
        seconds=0.1,
        identity=IDENTITY,
    )


def run(name: str, samples: Sequence[Sample]) -> Run:
    return Run(name, DESCRIPTION, tuple(samples))


def binary(seed: int, share: float, count: int = 60) -> list[float]:
    return [float(x) for x in np.random.default_rng(seed).random(count) < share]


def test_one_score_of_independent_cases_is_tested_by_mcnemar() -> None:
    one, two = binary(1, 0.3), binary(2, 0.8)
    before = run("before", [sample(n, {"right": x}) for n, x in enumerate(one)])
    after = run("after", [sample(n, {"right": x}) for n, x in enumerate(two)])
    found = compare(before, after)
    (finding,) = found.findings
    assert (found.left, found.right) == ("before", "after")
    assert (finding.suite, finding.arm, finding.score) == ("answers", "rag", "right")
    assert finding.left.value == pytest.approx(np.mean(one))
    assert finding.right.value == pytest.approx(np.mean(two))
    assert finding.difference.value == pytest.approx(np.mean(two) - np.mean(one))
    assert finding.test == "McNemar"
    assert finding.p == finding.adjusted == mcnemar(one, two)
    assert finding.is_real and finding.left_out == 0
    assert not found.changes


def test_dependent_cases_and_degrees_are_tested_by_the_bootstrap() -> None:
    one, two = binary(1, 0.3), binary(2, 0.8)
    clusters = [f"p{n // 3}" for n in range(60)]
    left = [
        replace(sample(n, {"right": x, "f1": x / 2}), cluster=c)
        for n, (x, c) in enumerate(zip(one, clusters, strict=True))
    ]
    right = [
        replace(sample(n, {"right": x, "f1": x / 2}), cluster=c)
        for n, (x, c) in enumerate(zip(two, clusters, strict=True))
    ]
    findings = compare(run("a", left), run("b", right), seed=3).findings
    assert [finding.test for finding in findings] == ["bootstrap", "bootstrap"]
    assert findings[0].difference == paired(one, two, clusters, seed=3).difference
    assert findings[0].difference.clusters == 20
    alone = compare(
        run("a", [sample(n, {"f1": x / 2}) for n, x in enumerate(one)]),
        run("b", [sample(n, {"f1": x / 2}) for n, x in enumerate(two)]),
    )
    assert alone.findings[0].test == "bootstrap"


def test_a_run_does_not_differ_from_itself() -> None:
    same = run("a", [sample(n, {"right": x, "f1": x / 3}) for n, x in enumerate(binary(4, 0.5))])
    for finding in compare(same, same).findings:
        assert finding.difference.value == 0.0
        assert finding.p == finding.adjusted == 1.0
        assert not finding.is_real


def test_only_what_both_have_is_compared_and_the_rest_is_counted() -> None:
    left = [sample(n, {"right": 1.0, "cited": None}) for n in range(6)]
    right = [sample(n, {"right": 0.0, "cited": 1.0}) for n in range(2, 9)]
    right[0] = replace(right[0], expected=("Bo Rook",))  # q2 asks for something else now
    right[1] = replace(right[1], scores={}, failure="no answer")  # q3 failed
    findings = {one.score: one for one in compare(run("a", left), run("b", right)).findings}
    assert findings["right"].difference.count == 2  # q4 and q5
    # q0, q1, q2, q3 on the left; q2 and q6 to q8 on the right.
    assert findings["right"].left_out == 8
    assert findings["cited"].left_out == 6
    assert findings["cited"].difference.count == 0
    assert math.isnan(findings["cited"].adjusted) and not findings["cited"].is_real


def test_a_family_of_findings_is_corrected_together() -> None:
    generator = np.random.default_rng(6)
    names = [f"s{n}" for n in range(20)]  # none of them differs in truth

    def noise() -> list[Sample]:
        return [
            sample(n, dict(zip(names, map(float, generator.random(20) < 0.5), strict=True)))
            for n in range(40)
        ]

    findings = compare(run("a", noise()), run("b", noise())).findings
    assert all(finding.adjusted >= finding.p for finding in findings)
    lowest = min(findings, key=lambda finding: finding.p)
    assert lowest.adjusted == pytest.approx(min(1.0, 20 * lowest.p))
    assert not any(finding.is_real for finding in findings)


def test_a_difference_that_is_clear_stays_real_among_many_findings() -> None:
    names = [f"s{n}" for n in range(300)]
    left = [sample(n, dict.fromkeys(names, 0.25)) for n in range(30)]
    right = [sample(n, {**dict.fromkeys(names, 0.25), "s7": 0.5 + n / 99}) for n in range(30)]
    found = compare(run("a", left), run("b", right))
    assert [one.score for one in found.findings if one.is_real] == ["s7"]


def test_repeated_measurements_of_a_case_are_averaged() -> None:
    def trained(seed: int, value: float) -> list[Sample]:
        return [
            replace(sample(n, {"right": value}), identity={**IDENTITY, "adapter": f"seed {seed}"})
            for n in range(12)
        ]

    left = run("a", [*trained(0, 0.0), *trained(1, 1.0), *trained(2, 0.0)])
    right = run("b", [*trained(0, 1.0), *trained(1, 1.0), *trained(2, 0.0)])
    found = compare(left, right)
    (finding,) = found.findings
    assert finding.left.value == pytest.approx(1 / 3)
    assert finding.right.value == pytest.approx(2 / 3)
    assert (finding.difference.count, finding.test) == (12, "bootstrap")
    assert not found.changes  # the same three adapters


def test_arms_of_one_run() -> None:
    one, two = binary(1, 0.2), binary(2, 0.9)
    samples = [sample(n, {"right": x}, "base") for n, x in enumerate(one)]
    samples += [
        replace(sample(n, {"right": x}, "rag"), identity={**IDENTITY, "index": "i1"})
        for n, x in enumerate(two)
    ]
    found = compare_arms(run("a", samples), [("base", "rag"), ("base", "nobody")])
    (finding,) = found.findings
    assert finding.arm == "base against rag"
    assert finding.difference.value == pytest.approx(np.mean(two) - np.mean(one))
    assert found.changes == (Change("base against rag: index", "absent", "i1"),)


def test_what_differs_is_said() -> None:
    samples = [sample(n, {"right": 1.0}) for n in range(4)]
    changed = [replace(one, identity={**IDENTITY, "adapter": "x"}) for one in samples]
    mixed = [replace(changed[0], identity={**IDENTITY, "adapter": "y"}), *changed[1:]]
    before = run("a", [*samples, sample(0, {}, "base")])
    after = Run(
        "b",
        replace(
            DESCRIPTION, seed=1, commit="f00", identity={"weights": "w2", "code": "c1"},
            versions={"torch": "2.13.0"}, hardware={"threads": 2},
        ),
        (*mixed, sample(0, {}, "oracle")),
    )  # fmt: skip
    found = compare(before, after)
    assert found.changes == (
        Change("seed", "0", "1"),
        Change("commit", "None", "f00"),
        Change("weights", "w1", "w2"),
        Change("version of torch", "absent", "2.13.0"),
        Change("hardware: threads", "absent", "2"),
        Change("arm rag: adapter", "absent", "2 values"),
    )
    assert found.only_left == ("base (answers)",)
    assert found.only_right == ("oracle (answers)",)


def test_markdown_says_what_was_found() -> None:
    left = run("before", [sample(n, {"right": 0.0}) for n in range(20)])
    right = run("after", [sample(n, {"right": 1.0}) for n in range(20)])
    after = replace(right, description=replace(DESCRIPTION, seed=5))
    text = markdown(compare(left, after))
    assert text.startswith("# before against after\n")
    assert (
        "| answers | rag | right | 0.000 [0.000, 0.161] n=20 | 1.000 [0.839, 1.000] n=20 |" in text
    )
    assert "| McNemar | under 0.001 | under 0.001 | yes | 0 |" in text
    assert "corrected for 1 comparison, is at most 0.05" in text
    assert "| seed | 0 | 5 |" in text
    assert markdown(compare(left, after)) == text
    nothing = markdown(compare(left, left))
    assert "Nothing that the records know of." in nothing and "| no | 0 |" in nothing


def test_markdown_of_sides_without_a_common_arm() -> None:
    text = markdown(compare(run("a", [sample(0, {}, "x")]), run("b", [sample(0, {}, "y")])))
    assert "no arm in common" in text
    assert "Only in a: x (answers)." in text and "Only in b: y (answers)." in text


def test_names_cannot_leave_their_cell() -> None:
    change = Change("a|b\n\n# c", "<script>", "![x](http://example.org)")
    text = markdown(Comparison("l", "r", (), (change,)))
    row = next(line for line in text.splitlines() if "script" in line)
    assert row == "| a\\|b # c | &lt;script> | ![x]\\(http://example.org) |"


def test_what_all_arms_share_is_said_once() -> None:
    left, right = (
        Run(
            name,
            replace(DESCRIPTION, identity=IDENTITY | {"weights": name}),
            tuple(
                replace(
                    sample(case, {"right": 1.0}, arm=arm),
                    identity=IDENTITY | {"weights": name, "prompt": f"{arm}-{name}"},
                )
                for arm in ("rag", "base")
                for case in range(3)
            ),
        )
        for name in ("w1", "w2")
    )
    assert compare(left, right).changes == (
        Change("weights", "w1", "w2"),
        Change("arm rag: prompt", "rag-w1", "rag-w2"),
        Change("arm base: prompt", "base-w1", "base-w2"),
    )


def test_only_chosen_scores_are_tested_and_corrected_for() -> None:
    scores = [
        {"f1": float(case % 3 > 0), "length": float(case), "cited": None} for case in range(40)
    ]
    better = [one | {"f1": 1.0} for one in scores]
    left = run("left", [sample(case, one) for case, one in enumerate(scores)])
    right = run("right", [sample(case, one) for case, one in enumerate(better)])
    everything = compare(left, right).findings
    (chosen,) = compare(left, right, scores=("f1",)).findings
    assert [one.score for one in everything] == ["f1", "length"]  # "cited" applies to no case
    assert chosen.score == "f1" and chosen.p == everything[0].p
    assert chosen.adjusted == chosen.p <= everything[0].adjusted
