"""Tether as a model of lm-evaluation-harness, so that its tasks run here, and with retrieval.

    model = HarnessModel(Scorer(*load_base("models/gemma-3-270m")), searcher=searcher)
    lm_eval.simple_evaluate(model=model, tasks=["mmlu"])  # passages stand before each prompt
    lm_eval.simple_evaluate(model=HarnessAssistant(assistant), tasks=["nq_open"])

`HarnessModel` is a local causal model through `eval.scoring.Scorer`: likelihoods and text, in
batches, with the passages that a search finds in front of every prompt if it is given a searcher.
`HarnessAssistant` answers as `tether ask` does. It has no likelihoods, so tasks that need them are
refused: whatever the assistant searches, reads and judges, no number of its generator says how
likely it is to show a text.

The one module that imports lm_eval (0.4.13; the extra `harness`). That library keeps answers in a
cache only where `use_cache` asks for it, and then takes no heed of which model gave them: leave it
out, or give each model a cache of its own. Knows nothing of tasks.
"""

import logging
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.scoring import Completion, Scorer
from eval.suites.benches import Asker
from ingest.errors import UsageError
from model.assistant import LONGEST_QUESTION
from retrieval.search import Searcher

try:
    from lm_eval.api.model import LM  # type: ignore[import-not-found, unused-ignore]
    from lm_eval.models.utils import (  # type: ignore[import-not-found, unused-ignore]
        normalize_gen_kwargs,
    )
except ImportError as error:
    raise UsageError(
        f"lm-evaluation-harness is not installed ({error}): pip install 'tether[harness]'"
    ) from error

Instance = Any  # lm_eval.api.instance.Instance: `args` are its arguments, `doc` the task's row

NEW_TOKENS = 256  # of a text, where a task does not say how many: lm-evaluation-harness's number

# What frames a question in the prompts of most tasks.
_OPENING = re.compile(r"^(?:question|q|问题|问)\s*[:：]\s*", re.IGNORECASE)
_CLOSING = re.compile(r"\s*\b(?:answer|a)\s*[:：]\s*$|\s*(?:答案|答)\s*[:：]\s*$", re.IGNORECASE)
_UNDERSTOOD = frozenset({"until", "max_gen_toks", "do_sample", "temperature"})
_log = logging.getLogger(__name__)


def last_question(prompt: str) -> str:
    """Return the question that a prompt ends with: its last paragraph, without "Question:"."""
    last = re.split(r"\n\s*\n", prompt.strip())[-1]
    return _CLOSING.sub("", _OPENING.sub("", last)).strip() or prompt.strip()


@dataclass(frozen=True, slots=True)
class _Options:
    """How a text is generated; requests of equal options are answered together."""

    stop: tuple[str, ...]
    most_new_tokens: int
    temperature: float  # 0: greedily

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "_Options":
        told = normalize_gen_kwargs(dict(given), default_max_gen_toks=NEW_TOKENS)
        temperature = float(told["temperature"]) if told["do_sample"] else 0.0
        unknown = sorted(set(told) - _UNDERSTOOD)
        if temperature and unknown:
            raise UsageError(
                f"a task samples with {', '.join(unknown)}, which is not understood here: give"
                " gen_kwargs without it, or with do_sample=False"
            )
        stop = tuple(mark for mark in told["until"] if mark)
        return cls(stop, told["max_gen_toks"], temperature)


class HarnessModel(LM):  # type: ignore[misc]
    """A causal model, as it is or with passages in front of what it reads."""

    def __init__(
        self,
        scorer: Scorer,
        *,
        searcher: Searcher | None = None,
        passages: int = 3,
        question_of: Callable[[str], str] = last_question,
        seed: int = 0,
    ) -> None:
        """Take a model, and what finds passages for it.

        Args:
            scorer: The model.
            searcher: Finds passages for every prompt but those of perplexity; None: none.
            passages: How many.
            question_of: What is searched for, given a prompt.
            seed: Of tasks that sample; each of their prompts has its own from it.
        """
        super().__init__()
        self._scorer, self._searcher, self._passages = scorer, searcher, passages
        self._question_of, self._seed = question_of, seed

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Return how likely each continuation is, and whether greedy decoding gives it.

        Raises:
            UsageError: A continuation is empty, or longer than the model can read.
        """
        del disable_tqdm
        pairs = [(self._informed(one.args[0]), one.args[1]) for one in requests]
        found = self._scorer.continuations(pairs)
        return [(score.log_probability, score.is_greedy) for score in found]

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Return how likely each text is; unlike there, the start token itself is not scored."""
        del disable_tqdm
        found = self._scorer.perplexity([one.args[0] for one in requests])
        return [score.log_probability for score in found]

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return what the model writes after each prompt.

        Raises:
            UsageError: A task samples in a way that is not understood.
        """
        del disable_tqdm
        groups: dict[_Options, list[int]] = defaultdict(list)
        for place, one in enumerate(requests):
            groups[_Options.of(one.args[1])].append(place)
        found: dict[int, str] = {}
        for options, places in groups.items():
            prompts = [self._informed(requests[place].args[0]) for place in places]
            seeds = [self._seed + place for place in places]
            said = self._written(prompts, seeds, options)
            found |= {place: one.text for place, one in zip(places, said, strict=True)}
        return [found[place] for place in range(len(requests))]

    def _written(
        self, prompts: Sequence[str], seeds: Sequence[int], options: _Options
    ) -> list[Completion]:
        most = options.most_new_tokens
        if not options.temperature:
            return self._scorer.answers(prompts, options.stop, max_new_tokens=most)
        return self._scorer.sampled(
            prompts, seeds, options.stop, temperature=options.temperature, max_new_tokens=most
        )

    def _informed(self, prompt: str) -> str:
        """Return a prompt after its passages, the best one last, next to the prompt."""
        if self._searcher is None:
            return prompt
        found = self._searcher.search(self._question_of(prompt), top_k=self._passages)
        texts = [f"[{one.number}] {one.chunk.text}" for one in reversed(found)]
        return "\n\n".join([*texts, prompt])


class HarnessAssistant(LM):  # type: ignore[misc]
    """The assistant: it searches, answers and judges; an abstention is the empty text."""

    def __init__(
        self,
        assistant: Asker,
        *,
        question_of: Callable[[Instance], str] = lambda one: last_question(one.args[0]),
    ) -> None:
        """Take an assistant.

        Args:
            assistant: With a searcher of its own.
            question_of: What is asked, given a request; say, `lambda one: one.doc["question"]`.
        """
        super().__init__()
        self._assistant, self._question_of = assistant, question_of

    def generate_until(self, requests: Sequence[Instance], disable_tqdm: bool = False) -> list[str]:
        """Return the verified claims of each answer, without citation marks, up to a stop text.

        The other options of a task are left to the assistant's settings.
        """
        del disable_tqdm
        return [self._said(one) for one in requests]

    def _said(self, request: Instance) -> str:
        question = self._question_of(request)
        if len(question) > LONGEST_QUESTION:
            _log.warning("a question is over %d characters: cut on the left", LONGEST_QUESTION)
        answer = self._assistant.ask(question[-LONGEST_QUESTION:])
        said = " ".join(claim.text for claim in answer.claims)
        cuts = [said.find(mark) for mark in _Options.of(request.args[1]).stop if mark in said]
        return said[: min(cuts)] if cuts else said

    def loglikelihood(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise _no_likelihoods()

    def loglikelihood_rolling(
        self, requests: Sequence[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Refuse.

        Raises:
            UsageError: Always.
        """
        raise _no_likelihoods()


def _no_likelihoods() -> UsageError:
    return UsageError(
        "an assistant answers in words and has no likelihoods: choose tasks that generate, or give"
        " its model as HarnessModel, which takes a searcher too"
    )
