"""What the untrained model of an experiment knows, of the documents and of the world.

    known = ask(scorer_of(source, "cpu"), rows, passages=48)
    known.new    # questions about the documents that it cannot answer: what it can learn
    known.facts  # real facts that it can answer: what it can forget

Asking takes minutes, so what came of it is kept in a file. Knows nothing of arms, plans or reports.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ingest.errors import UsageError

if TYPE_CHECKING:
    from eval.scoring import Scorer
    from model.training.questions import QuestionRow

_PROMPTS = 3  # greedy askings, each after other examples
_SAMPLES = 1  # drawn answers beside each, for what the model shall not know


@dataclass(frozen=True, slots=True)
class Known:
    """What was found, before anything was planned."""

    passages: int  # that questions were made from
    questions: "tuple[QuestionRow, ...]"
    unknown: tuple[bool, ...]  # of each question, whether the model never answers it
    facts: tuple[str, ...]  # ids of `eval.injection.known_facts` that the model answers

    @property
    def new(self) -> "list[QuestionRow]":
        """The questions that the model never answers."""
        return [row for row, is_new in zip(self.questions, self.unknown, strict=True) if is_new]


def ask(scorer: "Scorer", rows: "Sequence[QuestionRow]", passages: int) -> Known:
    """Return what a model knows: SliCK's Unknown of the questions, and what it answers of facts.

    Args:
        scorer: The model.
        rows: Questions about documents.
        passages: That they were made from.
    """
    from eval.cases import Case
    from eval.injection.knowledge import knowledge_of, known_cases
    from eval.injection.known_facts import candidates
    from eval.knowledge import Asking

    cases = [
        Case(str(number), row.language, row.question, row.answers, answerable=True)
        for number, row in enumerate(rows)
    ]
    labels = knowledge_of(scorer, cases, Asking(prompts=_PROMPTS, samples=_SAMPLES))
    facts = known_cases(scorer, candidates(), Asking(prompts=_PROMPTS, samples=0))
    unknown = tuple(one.label == "Unknown" for one in labels)
    return Known(passages, tuple(rows), unknown, tuple(case.id for case in facts))


def scorer_of(source: str, device: str) -> "Scorer":
    """Return what lets the untrained model answer."""
    from eval.scoring import Scorer
    from model.training.loop import pick_device
    from model.training.tasks import load_base

    model, tokenizer = load_base(source, device=pick_device(device).type)
    return Scorer(model.eval(), tokenizer)


def keep(known: Known, path: Path, command: str) -> None:
    """Write what was found for a command."""
    from retrieval.store import replace_file

    told = asdict(known) | {"command": command}
    replace_file(path, json.dumps(told, ensure_ascii=False, indent=1).encode())


def read_kept(path: Path, command: str) -> Known | None:
    """Return what was kept for a command, None if there is nothing.

    Raises:
        UsageError: The file is damaged.
    """
    from model.training.questions import QuestionRow

    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text("utf-8"))
        rows = [row | {"answers": tuple(row["answers"])} for row in told["questions"]]
        questions = tuple(QuestionRow(**row) for row in rows)
        known = Known(told["passages"], questions, tuple(told["unknown"]), tuple(told["facts"]))
        return known if told["command"] == command else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path} is damaged; remove it, and give the command again.") from error
