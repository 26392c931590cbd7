"""The one route from a question to an `Answer`: search, read, generate, judge.

Who asks what something is gets the sentence that defines it, if a likely one does. Else a trained
reader reads an answer in a passage's own words, the generator drafts one, and the likelier of those
that the verifier supports is the answer; else, unless the draft refused, the likeliest sentence is
quoted, or nothing is said. Knows nothing of the screen or the shell.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ingest.errors import QuestionError, UsageError
from model.answers import Answer, Citation, Claim, Status
from model.claims import Draft, DraftClaim, marked, read
from model.evidence import Sentence
from model.generators import Decoding, Generator
from model.prompts import Prompt, PromptOptions, build_memory_prompt, build_prompt, pack
from model.verifier import QuestionEvidence, Verifier
from retrieval.passages import Passage
from retrieval.search import Searcher

LONGEST_QUESTION = 2_000  # characters

ABSTENTION = {
    "en": "The documents do not say.",
    "zh": "文档中没有说明。",
}


@dataclass(frozen=True, slots=True)
class Retrieved:
    """The passages that were found, before anything is generated."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Drafted:
    """A piece of the draft. Unverified: a door must show it as a draft, never as an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The verified answer, which replaces the draft."""

    answer: Answer


Event = Retrieved | Drafted | Finished


@dataclass
class _Timings:
    """Seconds by stage and token counts of one answer."""

    values: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to the stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.values[name] = self.values.get(name, 0.0) + time.perf_counter() - start

    def close(self) -> dict[str, float]:
        """Return the stages and the total."""
        return self.values | {"total": time.perf_counter() - self.started}


class Assistant:
    """Answers questions from passages, with citations, or abstains."""

    def __init__(
        self,
        *,
        generator: Generator,
        verifier: Verifier,
        searcher: Searcher | None = None,
        prompt: PromptOptions | None = None,
        decoding: Decoding | None = None,
        top_k: int = 5,
        reads_first: bool = True,
    ) -> None:
        """Put the parts together.

        Args:
            generator: Writes the draft.
            verifier: Weighs the sentences of the passages and judges each claim of the draft.
            searcher: Finds passages; None if every question brings its own.
            prompt: What goes into the prompt.
            decoding: How the draft is decoded.
            top_k: Passages a question.
            reads_first: A likely definition, or what a trained reader alone is sure of, is the
                answer at once, and nothing is generated; else there is always a draft before.
        """
        self._generator = generator
        self._verifier = verifier
        self._searcher = searcher
        self._prompt = prompt or PromptOptions()
        self._decoding = decoding or Decoding()
        self._top_k = top_k
        self._reads_first = reads_first
        self._calibration = verifier.calibration

    def ask(
        self,
        question: str,
        *,
        passages: Sequence[Passage] | None = None,
        retrieval: bool = True,
        top_k: int | None = None,
    ) -> Answer:
        """Return the verified answer; see `stream` for arguments and errors."""
        events = self.stream(question, passages=passages, retrieval=retrieval, top_k=top_k)
        return next(event.answer for event in events if isinstance(event, Finished))

    def stream(
        self,
        question: str,
        *,
        passages: Sequence[Passage] | None = None,
        retrieval: bool = True,
        top_k: int | None = None,
    ) -> Iterator[Event]:
        """Yield `Retrieved`, then `Drafted` pieces, then one `Finished`.

        Args:
            question: In Chinese or English.
            passages: Answer from these instead of searching.
            retrieval: False answers from the model's memory alone: never "supported".
            top_k: Passages to find, instead of the assistant's own number.

        Raises:
            QuestionError: The question is empty or longer than `LONGEST_QUESTION` characters.
            GeneratorError: The generator failed.
        """
        question = checked_question(question)
        timings = _Timings()
        if not retrieval:
            yield from self._recite(question, timings)
            return
        with timings.stage("search"):
            found = tuple(self._find(question, passages, top_k))
        yield Retrieved(found)
        with timings.stage("evidence"):
            evidence = self._verifier.weigh(question, found)
            sure = self._definition(evidence) or self._read(evidence) if self._reads_first else None
        if sure:
            yield Finished(_answer(evidence, [sure], found, "supported", timings.close()))
            return
        text, scores = "", list[float]()
        if evidence.best()[1] >= self._calibration.abstain_below[evidence.language]:
            for piece in self._draft(evidence, timings, scores):
                text += piece
                yield Drafted(piece)
        with timings.stage("verify"):
            draft = Draft(text, sum(scores) / len(scores) if scores else None)
            claims, status = self._verified(evidence, draft)
        yield Finished(_answer(evidence, claims, found, status, timings.close()))

    def _find(
        self, question: str, passages: Sequence[Passage] | None, top_k: int | None
    ) -> Sequence[Passage]:
        """Return the passages given, else those found."""
        if passages is not None:
            return passages
        if self._searcher is None:
            raise UsageError("nothing to search; name a collection or pass passages")
        return self._searcher.search(question, top_k=top_k or self._top_k)

    def _draft(
        self, evidence: QuestionEvidence, timings: _Timings, scores: list[float]
    ) -> Iterator[str]:
        """Yield the generator's draft over the likeliest sentences; fill the tokens' scores."""
        with timings.stage("prompt"):
            packed = pack(
                evidence.sentences,
                evidence.relevance,
                self._generator.count_tokens,
                self._prompt.passage_tokens,
            )
            prompt = build_prompt(evidence.question, packed, self._prompt)
        yield from self._generate(prompt, timings, scores)

    def _generate(
        self, prompt: Prompt, timings: _Timings, scores: list[float] | None = None
    ) -> Iterator[str]:
        """Yield pieces and note the time to the first and the token counts."""
        timings.values["prompt_tokens"] = self._generator.count_tokens(prompt.as_text())
        start = time.perf_counter()
        pieces: list[str] = []
        with timings.stage("generate"):
            for piece in self._generator.stream(prompt, self._decoding, scores):
                if not pieces:
                    timings.values["first_token"] = time.perf_counter() - start
                pieces.append(piece)
                yield piece
        timings.values["generated_tokens"] = self._generator.count_tokens("".join(pieces))

    def _recite(self, question: str, timings: _Timings) -> Iterator[Event]:
        """Answer from the model's memory: for comparison, shown as unverified."""
        prompt = build_memory_prompt(question)
        draft = ""
        for piece in self._generate(prompt, timings):
            draft += piece
            yield Drafted(piece)
        claims = tuple(Claim(claim.text) for claim in read(draft, []))
        text = " ".join(claim.text for claim in claims)
        yield Finished(Answer(question, text, claims, (), "unverified", timings.close()))

    def _verified(self, evidence: QuestionEvidence, draft: Draft) -> tuple[list[Claim], Status]:
        """Return the likelier of what a draft says and what was read, else a quotation."""
        drafted = read(draft.text, list(evidence.by_passage()))
        judged = (self._judge(evidence, one, draft.confidence) for one in drafted)
        claims = [claim for claim in judged if claim]
        span = self._read(evidence, draft if draft.text.strip() else None)
        if span and span.support > max((claim.support for claim in claims), default=0.0):
            return [span], "supported"
        # What a generator would not answer is not quoted either.
        if not claims and not draft.is_refusal and (quotation := self._quotation(evidence)):
            return [quotation], "supported"
        return claims, _status(claims, drafted)

    def _judge(
        self, evidence: QuestionEvidence, drafted: DraftClaim, confidence: float | None
    ) -> Claim | None:
        """Return the claim with exact citations if the verifier supports it."""
        verdict = self._verifier.judge_answer(evidence, drafted.text, drafted.cited, confidence)
        if not verdict.supported:
            return None
        return Claim(drafted.text, tuple(map(_cite, verdict.sentences)), verdict.support)

    def _read(self, evidence: QuestionEvidence, draft: Draft | None = None) -> Claim | None:
        """Return the answer that a trained reader is sure enough of, alone or beside a draft."""
        found = self._verifier.read_answer(evidence, draft)
        if found is None or not found.verdict.supported:
            return None
        citations = tuple(map(_cite, found.verdict.sentences))
        return Claim(found.text, citations, found.verdict.support, is_span=True)

    def _quotation(self, evidence: QuestionEvidence) -> Claim | None:
        """Return a definition, else the likeliest sentence, if it answers well enough."""
        if definition := self._definition(evidence):
            return definition
        index, _ = evidence.best()
        return self._whole(evidence, index, evidence.sentences[index]) if index >= 0 else None

    def _definition(self, evidence: QuestionEvidence) -> Claim | None:
        """Return the likeliest definition of what is asked, if it answers well enough."""
        defining = evidence.definitions
        index = max(defining, key=evidence.relevance.__getitem__, default=-1)
        return self._whole(evidence, index, defining[index]) if index >= 0 else None

    def _whole(self, evidence: QuestionEvidence, index: int, shown: Sentence) -> Claim | None:
        """Return sentence `index`, as it is shown, as a quotation if it is likely enough."""
        relevance = evidence.relevance[index]
        if relevance < self._calibration.sentence[evidence.language].threshold:
            return None
        return Claim(shown.text, (_cite(shown),), relevance, is_quotation=True)


def checked_question(question: str) -> str:
    """Return the question without surrounding space.

    Raises:
        QuestionError: It is empty or too long.
    """
    question = question.strip()
    if not question:
        raise QuestionError('the question is empty; write one, e.g. tether ask "What is ...?"')
    if len(question) > LONGEST_QUESTION:
        raise QuestionError(
            f"the question has {len(question):,} characters, more than {LONGEST_QUESTION:,};"
            " put long text into a document, ingest it, and ask about it"
        )
    return question


def _cite(sentence: Sentence) -> Citation:
    """Return the citation of one sentence."""
    return Citation(
        sentence.passage.number,
        sentence.passage.chunk.document_id,
        sentence.start,
        sentence.end,
        sentence.text,
    )


def _status(claims: Sequence[Claim], drafted: Sequence[DraftClaim]) -> Status:
    """Return what became of a draft."""
    if not claims:
        return "abstained"
    return "supported" if len(claims) == len(drafted) else "partial"


def _answer(
    evidence: QuestionEvidence,
    claims: Sequence[Claim],
    passages: tuple[Passage, ...],
    status: Status,
    timings: dict[str, float],
) -> Answer:
    """Return the answer whose text holds verified claims with their marks, and nothing else."""
    if not claims:
        text = ABSTENTION[evidence.language]
        return Answer(evidence.question, text, (), passages, "abstained", timings)
    parts = []
    for claim in claims:
        words = _quoted(claim.text) if claim.is_quotation else claim.text
        parts.append(marked(words, [citation.passage_number for citation in claim.citations]))
    joint = "" if evidence.language == "zh" else " "
    return Answer(evidence.question, joint.join(parts), tuple(claims), passages, status, timings)


def _quoted(text: str) -> str:
    """Return the text in quotation marks of its language."""
    return f"“{text}”"
