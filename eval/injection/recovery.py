"""Whether forgotten facts are gone or only suppressed: some are taught again, others are asked.

    learn, ask = halves(questions, lost, seed=1)
    model = relearnt(taught_model, tokenizer, learn, folder, options)

A fine-tuned model that answers a real fact no more may have lost it, or merely the way to it. So
one half of what it forgot is taught again in a few steps, and the other half is asked: what comes
back untaught was never gone (Zheng et al. 2025, "Spurious Forgetting in Continual Learning of
Language Models"). Knows nothing of arms or records.
"""

import random
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from eval.injection.arms import Training
from eval.injection.known_facts import fact_of
from eval.injection.questions import Question, known_prompt
from eval.injection.training import Course, TeachingOptions, forget_weights, taught, teach
from ingest.errors import TrainingError
from model.training.tasks import Example


def halves(
    questions: Sequence[Question], lost: Collection[str], seed: int
) -> tuple[list[Question], list[Question]]:
    """Return the forgotten questions to teach again, and those to ask.

    A fact that is asked in two languages stays on one side. Both are empty if fewer than two facts
    are lost.

    Args:
        questions: About real facts.
        lost: Case ids of those that are answered no more.
        seed: Of the order in which facts go to one side and the other.
    """
    facts = sorted({fact_of(one.case.id) for one in questions if one.case.id in lost})
    random.Random(f"{seed}:recovery").shuffle(facts)
    if len(facts) < 2:
        return [], []
    learnt = set(facts[::2])
    own = [one for one in questions if one.case.id in lost]
    return (
        [one for one in own if fact_of(one.case.id) in learnt],
        [one for one in own if fact_of(one.case.id) not in learnt],
    )


def relearnt(
    model: Any,  # noqa: ANN401 - any causal language model, with or without a LoRA
    tokenizer: Any,  # noqa: ANN401
    questions: Sequence[Question],
    folder: Path,
    *,
    epochs: int,
    seed: int,
    options: TeachingOptions,
) -> Any:  # noqa: ANN401
    """Return a copy of the model, all weights trained on some questions for a few epochs.

    Raises:
        TrainingError: The training failed.
    """
    training = Training("full", "qa", epochs)
    rows = [
        Example(
            known_prompt(one.case),
            ("" if one.case.language == "zh" else " ") + one.case.answers[0],
        )
        for one in questions
    ]
    failure = teach(model, tokenizer, Course(training, (epochs,), rows, (), seed), folder, options)
    if failure:
        raise TrainingError(failure)
    found, _ = taught(model, folder, training, seed=seed)
    forget_weights(folder, epochs)
    return found
