"""The arms of the injection experiment: what a model is trained on, and how it is then asked.

    arm = Arm.parse("lora16-qa-replay-e8+rag-3")
    arm.training  # Training(recipe="lora16", lesson="qa", mitigation="replay", epochs=8)
    arm.name  # the same words again

An arm and its name are one: records, plans and reports speak of arms by name. Names are

    base  few-shot  oracle  distractors  rag-K  rag-K-answer  RECIPE-LESSON[-MITIGATION]-eN[+rag-K]

Knows nothing of models, prompts or facts.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from ingest.errors import UsageError

Recipe = Literal["full", "lora4", "lora16", "lora64"]
Lesson = Literal["text", "paraphrases", "qa", "documents", "general"]
Mitigation = Literal["none", "replay", "kl", "l2sp", "ewc", "frozen", "half", "gentle"]
Asked = Literal["zero-shot", "few-shot", "oracle", "distractors", "retrieved"]
Learns = Literal["nothing", "facts", "documents"]
Level = Literal["smoke", "cpu", "gpu"]

RECIPES: tuple[Recipe, ...] = get_args(Recipe)
LESSONS: tuple[Lesson, ...] = get_args(Lesson)
MITIGATIONS: tuple[Mitigation, ...] = get_args(Mitigation)
LEVELS: tuple[Level, ...] = get_args(Level)

_ALONE = {"base": "zero-shot", "few-shot": "few-shot"}  # no context, nothing trained
_RETRIEVED = re.compile(r"rag-([1-9]\d?)(-answer)?")
_TRAINED = re.compile(
    rf"({'|'.join(RECIPES)})-({'|'.join(LESSONS)})(?:-({'|'.join(MITIGATIONS[1:])}))?"
    r"-e([1-9]\d{0,2})(?:\+rag-([1-9]\d?))?"
)


@dataclass(frozen=True, slots=True)
class Training:
    """What is trained, on what, and how often.

    Recipes train all weights or a LoRA of that rank. Lessons are the articles about invented facts
    in one wording ("text") or in several ("paraphrases"), these with questions ("qa"), passages of
    the user's "documents" as they stand, and for comparison "general" text that says nothing of
    what is asked. Mitigations are those of `model.training.forgetting`; "half" goes half of the way
    back after training, "gentle" trains at a lower rate.

    Raises:
        UsageError: There is no such training.
    """

    recipe: Recipe
    lesson: Lesson
    epochs: int
    mitigation: Mitigation = "none"

    def __post_init__(self) -> None:
        """Refuse what cannot be trained."""
        if self.epochs < 1:
            raise UsageError(f"{self.epochs} epochs train nothing; give 1 or more.")
        if self.mitigation == "ewc" and self.rank is not None:
            # Half of a fresh adapter is zero, so the other half has no Fisher information.
            raise UsageError("ewc is for full training; choose full, or another mitigation.")

    @property
    def rank(self) -> int | None:
        """The rank of the LoRA, None if all weights are trained."""
        return None if self.recipe == "full" else int(self.recipe.removeprefix("lora"))

    @property
    def course(self) -> str:
        """What is trained in one go: its epochs, and "half" of it, are had from the same run."""
        held = () if self.mitigation in ("none", "half") else (self.mitigation,)
        return "-".join([self.recipe, self.lesson, *held])

    @property
    def name(self) -> str:
        """For instance "lora16-qa-replay-e8"."""
        held = () if self.mitigation == "none" else (self.mitigation,)
        return "-".join([self.recipe, self.lesson, *held, f"e{self.epochs}"])


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to have facts answered.

    Whoever was trained on bare questions is asked so ("zero-shot"); the others are shown the form
    of an answer by a few invented examples, which say nothing of the facts.

    Raises:
        UsageError: There is no such arm.
    """

    asked: Asked
    passages: int = 0  # how many are retrieved
    adapted: bool = False  # the answer adapter that Tether ships, or another one, is put on
    training: Training | None = None

    def __post_init__(self) -> None:
        """Refuse what has no name."""
        closed = {"zero-shot"} if self.training and self.training.lesson == "qa" else {"few-shot"}
        possible = closed | {"retrieved"} if self.training else set(get_args(Asked))
        if (
            self.asked not in possible
            or (self.passages > 0) != (self.asked == "retrieved")
            or (self.adapted and (self.asked != "retrieved" or self.training))
        ):
            raise UsageError(f"There is no arm {self!r}; give its name to Arm.parse.")

    @classmethod
    def parse(cls, name: str) -> "Arm":
        """Return the arm of that name.

        Raises:
            UsageError: There is none.
        """
        if name in ("oracle", "distractors"):
            return cls(name)  # type: ignore[arg-type]
        if name in _ALONE:
            return cls(_ALONE[name])  # type: ignore[arg-type]
        if found := _RETRIEVED.fullmatch(name):
            return cls("retrieved", int(found[1]), adapted=found[2] is not None)
        if found := _TRAINED.fullmatch(name):
            recipe, lesson, held, epochs, passages = found.groups()
            training = Training(recipe, lesson, int(epochs), held or "none")  # type: ignore[arg-type]
            if passages:
                return cls("retrieved", int(passages), training=training)
            return cls("zero-shot" if lesson == "qa" else "few-shot", training=training)
        raise UsageError(
            f'There is no arm "{name}"; arms are base, few-shot, oracle, distractors, rag-3,'
            " rag-3-answer, and trained ones such as lora16-qa-e4 or full-text-replay-e8+rag-3."
        )

    @property
    def name(self) -> str:
        """What records and reports call it; `parse` reads it."""
        retrieved = f"rag-{self.passages}"
        if self.training:
            return self.training.name + (f"+{retrieved}" if self.passages else "")
        if self.passages:
            return retrieved + ("-answer" if self.adapted else "")
        return "base" if self.asked == "zero-shot" else self.asked

    @property
    def learns(self) -> Learns:
        """Which group of facts its training is about: invented ones, or those of documents."""
        lesson = self.training.lesson if self.training else "general"
        if lesson == "documents":
            return "documents"
        return "nothing" if lesson == "general" else "facts"

    @property
    def is_closed_book(self) -> bool:
        """Whether it answers from its weights alone."""
        return self.asked in ("zero-shot", "few-shot")

    @property
    def reads_texts(self) -> bool:
        """Whether general texts are measured on it: once for each set of weights."""
        return self.is_closed_book and (self.training is not None or self.asked == "zero-shot")


def standard_arms(level: Level) -> tuple[Arm, ...]:
    """Return the arms of an experiment of that size, the most telling ones first.

    So a plan that has to leave some out leaves out the last. Arms of one course cost one training,
    that of the most epochs.

    Args:
        level: "smoke" shows the whole route on a tiny model, "cpu" fits hours on a few cores,
            "gpu" has every recipe, lesson and mitigation.
    """
    names = {"smoke": _SMOKE, "cpu": (*_CORE, *_MORE), "gpu": (*_CORE, *_MORE, *_gpu())}[level]
    return tuple(Arm.parse(name) for name in dict.fromkeys(names))


def core_arms() -> tuple[Arm, ...]:
    """Return the arms that the known claims are about; a plan has fewer facts sooner than fewer."""
    return tuple(Arm.parse(name) for name in _CORE)


_SMOKE = (
    "base", "few-shot", "oracle", "distractors", "rag-3",
    "full-qa-e4", "full-qa-e4+rag-3", "full-qa-e2", "lora4-qa-e4", "full-text-e4",
    "full-paraphrases-e4", "full-qa-half-e4", "full-qa-replay-e4", "full-general-e4",
    "full-documents-e4", "full-documents-e4+rag-3",
)  # fmt: skip
# Fewer epochs of a training cost questions alone.
_CORE = (
    "base", "few-shot", "rag-3", "full-qa-e4", "full-qa-e2", "lora16-qa-e4", "lora16-qa-e2",
    "lora16-documents-e4", "full-qa-gentle-e4", "lora16-qa-gentle-e4", "full-qa-gentle-e2",
    "lora16-qa-gentle-e2", "full-qa-e4+rag-3", "full-qa-gentle-e4+rag-3",
    "full-paraphrases-e4", "full-text-e4", "rag-1", "full-qa-e1", "lora16-qa-e1",
    "full-qa-replay-e4", "full-qa-replay-e4+rag-3", "oracle", "full-general-e4",
    "lora16-qa-e4+rag-3", "lora16-documents-e4+rag-3",
)  # fmt: skip
_MORE = (
    "full-qa-e8", "lora16-qa-e8", "full-qa-half-e4",
    "lora16-qa-replay-e4", "lora16-paraphrases-e4", "lora16-text-e4", "lora16-general-e4",
    "full-documents-e4", "lora16-documents-e8", "lora4-qa-e4", "lora64-qa-e4",
    "distractors", "rag-5",
)  # fmt: skip


def _gpu() -> tuple[str, ...]:
    """Return what else a GPU has time for: everything at 1 to 16 epochs, every mitigation."""
    epochs = (1, 2, 4, 8, 16)
    names = [f"{recipe}-qa-e{n}" for recipe in RECIPES for n in epochs]
    names += [
        f"{recipe}-{lesson}-e{n}"
        for recipe in ("full", "lora16")
        for lesson in ("paraphrases", "text", "documents", "general")
        for n in epochs
    ]
    names += [
        f"{recipe}-qa-{mitigation}-e{n}"
        for mitigation in MITIGATIONS[1:]
        for recipe in ("full", "lora16")
        for n in (4, 8, 16)
        if (recipe, mitigation) != ("lora16", "ewc")
    ]
    trained = [f"{name}+rag-3" for name in names if name.endswith("-e8")]
    return (*names, *trained)
