"""Public question sets by name, and how the cases of each are made.

    cases = cases_of(["xquad-given", "rgb"], Path("data"), seed=0)  # by set

A case says itself over which passages it is asked: those that are found, those that it brings, or
its gold paragraph among distractors (see `eval.cases.Case`). RGB may not be used commercially: it
is measured with and never trained on. Knows nothing of what answers.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from eval import datasets
from eval.cases import Case
from ingest.errors import UsageError

Maker = Callable[[Path, int], list[Case]]  # data folder, seed

DISTRACTORS = 4  # beside the gold paragraph: five passages in all, as in RGB
NOISE = (0.0, 0.4, 0.8, 1.0)  # shares of RGB's passages that do not answer; at 1 none does


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """A named set: the data set that it is made of, which has a licence, and how."""

    source: str  # of `eval.datasets.LICENCES`
    make: Maker


def _whole(name: str) -> Maker:
    return lambda data, seed: datasets.load(name, data)


def _given(make: Maker) -> Maker:
    return lambda data, seed: [replace(c, distractors=DISTRACTORS) for c in make(data, seed)]


def _rgb(part: Literal["zh_refine", "en_fact"], noise: float) -> Maker:
    return lambda data, seed: datasets.rgb_cases(part, data, noise=noise, seed=seed)


def _false_rgb(data: Path, seed: int) -> list[Case]:
    return [
        case
        for part in datasets.RGB_FACTS
        for case in datasets.rgb_cases(part, data, noise=0.0, seed=seed, wrong=True)
    ]


def _swapped_xquad(data: Path, seed: int) -> list[Case]:
    return datasets.counterfactual_cases("xquad", data, seed=seed)


def _hotpot(data: Path, seed: int) -> list[Case]:
    return datasets.hotpot_cases(data, seed=seed)


SETS: Mapping[str, QuestionSet] = {
    **{name: QuestionSet(name, _whole(name)) for name in datasets.SETS},
    "hotpotqa": QuestionSet("hotpotqa", _hotpot),
    "xquad-given": QuestionSet("xquad", _given(_whole("xquad"))),
    **{f"rgb-{noise:g}": QuestionSet("rgb", _rgb("zh_refine", noise)) for noise in NOISE},
    # RGB's English sets of that kind are not at hand; its 30 facts are, with fewer noisy passages.
    **{f"rgb-en-{noise:g}": QuestionSet("rgb", _rgb("en_fact", noise)) for noise in NOISE},
    "counterfactual-rgb": QuestionSet("rgb", _false_rgb),
    "counterfactual-xquad": QuestionSet("xquad", _given(_swapped_xquad)),
}
DEFAULT = ("xquad", "cmrc2018", "squad", "nomiracl")
MIXED = ("squad", "nomiracl")  # answerable and unanswerable together
GROUPS: Mapping[str, Sequence[str]] = {
    "rgb": [f"rgb-{noise:g}" for noise in NOISE],
    "rgb-en": [f"rgb-en-{noise:g}" for noise in NOISE],
    "counterfactual": ["counterfactual-rgb", "counterfactual-xquad"],
    "mixed": MIXED,
}


def named(names: Sequence[str]) -> list[str]:
    """Return the names of sets that those of sets and groups stand for, each once.

    Raises:
        UsageError: A name is unknown.
    """
    return resolved(names, tuple(SETS), GROUPS, "question set")


def resolved(
    names: Sequence[str], known: Sequence[str], groups: Mapping[str, Sequence[str]], noun: str
) -> list[str]:
    """Return the known names that names and groups of names stand for, each once.

    Args:
        names: What the user asked for.
        known: All names.
        groups: What a name may stand for.
        noun: What the names are of, for the message.

    Raises:
        UsageError: A name is unknown.
    """
    chosen = list(dict.fromkeys(one for name in names for one in groups.get(name, [name])))
    for name in chosen:
        if name not in known:
            listed = ", ".join([*known, *groups])
            raise UsageError(f"There is no {noun} {name!r}; choose from: {listed}.")
    return chosen


def cases_of(names: Sequence[str], data: Path, seed: int) -> dict[str, list[Case]]:
    """Return the cases of sets and groups of sets, by set.

    Args:
        names: Of `SETS` or `GROUPS`.
        data: The folder of the question sets.
        seed: Of what is drawn: RGB's passages, the questions and answers of made cases.

    Raises:
        UsageError: A name is unknown, or a file is missing or damaged.
    """
    return {name: SETS[name].make(data, seed) for name in named(names)}
