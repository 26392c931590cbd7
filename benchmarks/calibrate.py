"""Fit the verifier's logistic functions and their thresholds; write model/calibration.json.

    python -m benchmarks.calibrate --data ../shared/data --pairs PAIRS --cache DIR
    python -m benchmarks.calibrate ... --read RUN/head --verify RUN/head --out FILE   # with heads

Questions are none of those that heads learnt from, nor of the dev rows of
`benchmarks/answering.py`; claims are the dev parts of `eval.verification` and the dev rows of
`benchmarks/build_verify_data.py` (--pairs), on which no head is trained. Thresholds and figures
come from five-fold cross-validation over whole paragraphs or groups: the lowest ones with which at
most --wrong of the answers are wrong. --wrong-left bounds what the reader leaves to a draft more
tightly: there are the near misses, of which people ask more than these questions show.
Drafts of the generator are kept in --cache, so that a stopped run goes on where it was.
"""

import argparse
import hashlib
import json
import math
import random
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from app.assembly import build_encoder, build_generator, resolve_adapter, resolve_prompt
from app.settings import Settings, load_settings
from benchmarks.train_heads import is_dev
from eval.cases import Case
from eval.confidence import expected_calibration_error
from eval.datasets import find_data, load, read_rows
from eval.metrics import f1
from eval.verification import LabelledPair
from eval.verification import load as load_labelled
from model import evidence as ev
from model.adapters import read_adapter
from model.alignment import Aligner
from model.claims import Draft, read
from model.cross_encoder import CrossEncoder, Head, Reading, load_head
from model.head_verifier import Heads, HeadVerifier
from model.prompts import build_prompt, pack
from model.verifier import (
    HELD_SHARE,
    Calibration,
    Logistic,
    OverlapVerifier,
    QuestionEvidence,
    is_grounded,
    locate,
)
from retrieval.encoders import Encoder, EncoderIdentity, OnnxEncoder, Vectors
from retrieval.onnx import OnnxBert
from retrieval.search import given_passages

# Of train files only the articles that `benchmarks.train_heads` keeps aside.
QUESTIONS = {
    "en": ("squad/squad.train.jsonl.gz", "nq/nq_oracle.dev.jsonl.gz"),
    "zh": ("drcd/drcd.dev.jsonl.gz",),
}
# Labelled sets whose licences allow their use; the rest of the claims are built from questions.
STATEMENTS = ("wice", "fm2", "fever_symmetric", "begin", "nomiracl")
# What grounded drafts share by rule tells nothing about which of them are right.
RULED = ("says", "terms", "pairs", "_missing", "negation_differs")
# A span is a passage's own words, so these are the same for all; nothing was generated.
SAME_FOR_SPANS = (*RULED, "verbatim", "reader_agrees")
# Beside a `verify` head these are enough: with all of them other sets were judged no better.
BESIDE_HEAD = ("verified", "terms_in_best", "similarity")
RIGHT_F1 = 0.5  # a draft at or above it counts as right

Row = tuple[dict[str, float], int, str]  # features, label, cluster


class RememberingEncoder:
    """Wraps an encoder and never embeds the same text twice, nor in a later run."""

    def __init__(self, encoder: Encoder, file: Path) -> None:
        self._encoder = encoder
        self._file = file
        self._vectors: dict[str, np.ndarray] = {}
        if file.exists():
            with np.load(file, allow_pickle=False) as kept:
                self._vectors = dict(zip(kept["keys"].tolist(), kept["vectors"], strict=True))

    def save(self) -> None:
        """Keep all vectors for later runs."""
        np.savez(self._file, keys=list(self._vectors), vectors=np.stack([*self._vectors.values()]))

    @property
    def identity(self) -> EncoderIdentity:
        return self._encoder.identity

    def encode_queries(self, texts: list[str]) -> Vectors:
        return self._remembered("query", texts, self._encoder.encode_queries)

    def encode_passages(self, texts: list[str]) -> Vectors:
        return self._remembered("passage", texts, self._encoder.encode_passages)

    def count_tokens(self, text: str) -> int:
        return self._encoder.count_tokens(text)

    def _remembered(
        self, kind: str, texts: list[str], encode: Callable[[list[str]], Vectors]
    ) -> Vectors:
        def key(text: str) -> str:
            return hashlib.sha256(f"{kind}\n{text}".encode()).hexdigest()

        new = list(dict.fromkeys(text for text in texts if key(text) not in self._vectors))
        if new:
            self._vectors |= {key(t): v for t, v in zip(new, encode(new), strict=True)}
        rows = [self._vectors[key(text)] for text in texts]
        return np.stack(rows) if rows else np.empty((0, self.identity.dimension), np.float32)


class RememberingReader(CrossEncoder):
    """A `read` head that never reads the same passage for the same question twice."""

    def __init__(self, bert: OnnxBert, head: Head) -> None:
        super().__init__(bert, head)
        self._known: dict[Any, list[Reading | None]] = {}

    def read_ranges(
        self, pairs: Sequence[tuple[str, str]], ranges: Sequence[Sequence[tuple[int, int]]]
    ) -> list[list[Reading | None]]:
        keys = [(pair, tuple(parts)) for pair, parts in zip(pairs, ranges, strict=True)]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        found = super().read_ranges([pairs[i] for i in new], [ranges[i] for i in new])
        self._known |= {keys[i]: one for i, one in zip(new, found, strict=True)}
        return [self._known[key] for key in keys]


@dataclass(frozen=True)
class Asked:
    """A question with the passages that retrieval would bring: with the gold one or without."""

    case: Case
    texts: tuple[str, ...]
    answerable: bool


def choose_cases(data: Path, language: str, count: int, seed: int) -> list[Case]:
    """Return cases of both files alike, of as many paragraphs as there are, that no head learnt."""
    measured = {case.gold_context for name in ("xquad", "squad") for case in load(name, data)}
    generator = random.Random(seed)
    chosen: list[Case] = []
    for number, file in enumerate(QUESTIONS[language], start=1):
        by_paragraph: dict[str, list[Case]] = {}
        for _, row in read_rows(data / file):
            aside = ".train." not in file or is_dev(row.get("title") or row["context"])
            if aside and row["answerable"] and row["context"] not in measured:
                case = Case(
                    row["id"],
                    language,
                    row["question"],
                    tuple(row["answers"]),
                    True,
                    row["context"],
                )
                by_paragraph.setdefault(row["context"], []).append(case)
        turns = [generator.sample(cases, len(cases)) for cases in by_paragraph.values()]
        generator.shuffle(turns)
        in_turn = [case for turn in zip_longest(*turns) for case in turn if case]
        chosen += in_turn[: count * number // len(QUESTIONS[language]) - len(chosen)]
    generator.shuffle(chosen)
    return chosen


def with_passages(cases: Sequence[Case], encoder: Encoder, seed: int) -> list[Asked]:
    """Return each case with its five nearest paragraphs; a third of them without the gold one.

    Those then hold its answer nowhere: a neighbour may say the same as the gold paragraph.
    """
    paragraphs = list(dict.fromkeys(case.gold_context or "" for case in cases))
    similarity = (
        encoder.encode_queries([c.question for c in cases]) @ encoder.encode_passages(paragraphs).T
    )  # (cases, paragraphs)
    generator = random.Random(seed)
    asked = []
    for case, own in zip(cases, similarity, strict=True):
        gold = paragraphs.index(case.gold_context or "")
        others = [int(place) for place in np.argsort(-own) if place != gold]
        without_gold = generator.random() < 1 / 3
        if without_gold:
            chosen = [j for j in others if not _holds(paragraphs[j], case.answers)][:5]
        else:
            chosen = sorted([gold, *others[:4]], key=lambda j: -own[j])
        asked.append(Asked(case, tuple(paragraphs[j] for j in chosen), not without_gold))
    return asked


def _holds(text: str, answers: Iterable[str]) -> bool:
    plain = ev.normalise(text)
    return any(ev.normalise(answer) in plain for answer in answers)


def sentence_rows(asked: Asked, evidence: QuestionEvidence) -> list[Row]:
    """Return each sentence's features and whether it holds the gold answer."""
    answers = asked.case.answers if asked.answerable else ()
    rows = []
    for sentence, features in zip(evidence.sentences, evidence.features, strict=True):
        is_gold = sentence.passage.chunk.text == asked.case.gold_context
        holds = is_gold and _holds(sentence.text, answers)
        rows.append((features, int(holds), asked.case.cluster))
    return rows


def fit(rows: Sequence[Row], names: Sequence[str], balanced: bool = False) -> Logistic:
    """Return the logistic function with the least regularised log loss.

    The fewer rows there are, the more the weights are held back.

    Features are brought to one scale first, so that all are regularised alike (cosines span a
    tenth of what shares span), and the scale is folded back into the weights.
    """
    from sklearn.linear_model import LogisticRegression

    x = np.array([[features[name] for name in names] for features, _, _ in rows])
    y = np.array([label for _, label, _ in rows])
    if len(set(y.tolist())) < 2:  # nothing to tell apart, so nothing is ever supported
        return Logistic(-30.0, dict.fromkeys(names, 0.0))
    mean, scale = x.mean(axis=0), np.where(x.std(axis=0) > 0, x.std(axis=0), 1.0)
    strength = min(1.0, len(rows) / 1000)
    model = LogisticRegression(
        C=strength, max_iter=2000, class_weight="balanced" if balanced else None
    )
    model.fit((x - mean) / scale, y)
    weights = model.coef_[0] / scale
    bias = float(model.intercept_[0] - weights @ mean)
    return Logistic(
        round(bias, 4),
        {name: round(float(w), 4) for name, w in zip(names, weights, strict=True)},
    )


def auroc(scores: Iterable[float], labels: Iterable[int]) -> float:
    """Return the area under the ROC curve."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(list(labels), list(scores)))


def risk_threshold(scored: Sequence[tuple[float, bool]], wrong: float) -> float:
    """Return the lowest score from which on at most a share of the answers is wrong.

    1.0, which no probability of a logistic function reaches, if there is none.
    """
    ordered = sorted(scored, reverse=True)
    errors = np.cumsum([not right for _, right in ordered])
    lower = [score for score, _ in ordered][1:] + [-1.0] * bool(ordered)
    allowed = [
        score
        for number, ((score, _), below) in enumerate(zip(ordered, lower, strict=True), start=1)
        if below < score and errors[number - 1] <= wrong * number
    ]
    return allowed[-1] if allowed else 1.0


def balanced_threshold(scored: Sequence[tuple[float, int]]) -> float:
    """Return the threshold with the greatest balanced accuracy."""
    from sklearn.metrics import roc_curve

    false_rate, true_rate, thresholds = roc_curve([y for _, y in scored], [s for s, _ in scored])
    return round(float(thresholds[int((true_rate - false_rate).argmax())]), 4)


class Drafter:
    """Drafts answers as the assistant does, remembered on disk by their prompts."""

    def __init__(self, settings: Settings, cache: Path) -> None:
        self.generator = build_generator(settings)
        self._options = resolve_prompt(settings)
        self._decoding = settings.decoding
        self._adapter = resolve_adapter(settings)
        self._cache = cache

    def draft(self, evidence: QuestionEvidence) -> Draft:
        """Return the draft over the likeliest sentences."""
        count, budget = self.generator.count_tokens, self._options.passage_tokens
        packed = pack(evidence.sentences, evidence.relevance, count, budget)
        prompt = build_prompt(evidence.question, packed, self._options)
        told = (self.generator.identity, self._adapter and self._adapter.sha256, self._decoding)
        key = hashlib.sha256(f"{told}{prompt}".encode()).hexdigest()
        file = self._cache / f"{key}.json"
        if not file.exists():
            scores: list[float] = []
            text = "".join(self.generator.stream(prompt, self._decoding, scores))
            confidence = sum(scores) / len(scores) if scores else None
            file.write_text(json.dumps([text, confidence], ensure_ascii=False), "utf-8")
        return Draft(*json.loads(file.read_text("utf-8")))


def answer_rows(
    asked: Asked, evidence: QuestionEvidence, draft: Draft, verifier: OverlapVerifier
) -> list[tuple[Row, bool]]:
    """Return the features of a draft's first claim in its best passage, and whether it is right."""
    rows = []
    for claim in read(draft.text, range(1, 6))[:1]:
        places = [
            locate(evidence, claim.text, members) for members in evidence.by_passage().values()
        ]
        options = verifier.claim_features(evidence, claim.text, places, draft.confidence)
        best = max(options, key=lambda f: (f["terms"] + f["verbatim"], f["relevance"]))
        right = (
            asked.answerable and f1(claim.text, asked.case.answers, asked.case.language) >= RIGHT_F1
        )
        rows.append(((best, int(right), asked.case.cluster), is_grounded(best, HELD_SHARE)))
    return rows


def span_rows(
    asked: Asked, evidence: QuestionEvidence, draft: Draft | None, verifier: HeadVerifier
) -> list[tuple[Row, bool]]:
    """Return the features of what was read, alone or beside a draft, and whether it is right."""
    rows = []
    for i, features in verifier.span_features(evidence, draft).items():
        text = evidence.readings[i].text
        right = asked.answerable and f1(text, asked.case.answers, asked.case.language) >= RIGHT_F1
        row = (features, int(right), asked.case.cluster)
        rows.append((row, is_grounded(features, HELD_SHARE)))
    return rows


def statements(data: Path, pairs: Path, limit: int, seed: int) -> dict[str, list[LabelledPair]]:
    """Return at most `limit` labelled claims of each set, and as many built ones a language."""
    groups = {name: load_labelled(name, "dev", data) for name in STATEMENTS}
    for number, line in enumerate((pairs / "dev.jsonl").read_text("utf-8").splitlines()):
        row = json.loads(line)
        if row["source"] not in STATEMENTS:  # those rows are of the half that heads learn from
            groups.setdefault(row["source"], []).append(
                LabelledPair(
                    str(number), row["claim"], (row["evidence"],), row["label"],
                    row["language"], row["kind"], row["group"],
                )
            )  # fmt: skip
    for group in groups.values():
        random.Random(seed).shuffle(group)
    return {name: group[:limit] for name, group in groups.items()}


def statement_rows(chosen: Sequence[LabelledPair], verifier: OverlapVerifier) -> list[Row]:
    """Return the features of each claim against that of its texts which supports it best."""
    pairs = [(one.claim, text) for one in chosen for text in one.evidence]
    features = iter(verifier.pair_features(pairs))
    rows = []
    for one in chosen:
        options = [next(features) for _ in one.evidence]
        best = max(options, key=lambda f: (f.get("verified", 0.0), f["similarity"]))
        rows.append((best, one.label, one.group))
    return rows


def cross_validated(
    rows: Sequence[Row], names: Sequence[str], balanced: bool = False, folds: int = 5
) -> list[float]:
    """Return each row's probability by a function fitted on the other folds' clusters."""
    fold = [int(hashlib.sha256(c.encode()).hexdigest(), 16) % folds for _, _, c in rows]
    scores = [0.0] * len(rows)
    for k in range(folds):
        rest = [r for r, f in zip(rows, fold, strict=True) if f != k]
        function = fit(rest, names, balanced)
        for i, f in enumerate(fold):
            if f == k:
                scores[i] = function.probability(rows[i][0])
    return scores


def load_heads(encoder: Encoder, read: Path | None, verify: Path | None) -> Heads:
    """Return the heads in these folders, on this encoder."""
    if not isinstance(encoder, OnnxEncoder):
        return Heads()
    bert, base = encoder.bert, encoder.identity.weights_hash
    return Heads(
        RememberingReader(bert, load_head(read, bert, base)) if read else None,
        Aligner(bert, load_head(verify, bert, base)) if verify else None,
    )


def adapter_hashes(settings: Settings, *heads: Path | None) -> dict[str, str]:
    """Return the hashes of the adapters that the fit belongs to, by role."""
    answer = resolve_adapter(settings)
    found = [answer] if answer else []
    found += [read_adapter(folder) for folder in heads if folder]
    return {adapter.role: adapter.sha256 for adapter in found}


def without_fit() -> Calibration:
    """Return functions with which evidence can be built before anything is fitted."""
    start = Logistic(-4.0, {"terms": 3.0, "similarity": 2.0, "terms_around": 1.0})
    both = {"en": start, "zh": start}
    return Calibration(both, both, both, {"en": 0.0, "zh": 0.0})


def as_json(function: Logistic) -> dict[str, Any]:
    """Return the function as it stands in calibration.json."""
    return {
        "bias": function.bias,
        "weights": dict(function.weights),
        "threshold": function.threshold,
    }


def with_threshold(function: Logistic, threshold: float) -> Logistic:
    """Return the function with another threshold."""
    return Logistic(function.bias, function.weights, threshold)


def main() -> None:
    """Fit everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--questions", type=int, default=400, help="questions a language")
    parser.add_argument("--pairs", type=Path, required=True, help="build_verify_data's folder")
    parser.add_argument("--statements", type=int, default=600, help="labelled pairs a set")
    parser.add_argument("--wrong", type=float, default=0.15, help="share of answers, at most")
    parser.add_argument("--wrong-left", type=float, default=0.15, help="of what the reader leaves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path, required=True, help="folder of drafts and vectors")
    parser.add_argument("--read", type=Path, help="folder of a trained read head")
    parser.add_argument("--verify", type=Path, help="folder of a trained verify head")
    parser.add_argument("--out", type=Path, default=Path("model/calibration.json"))
    arguments = parser.parse_args()
    data = find_data(arguments.data)
    arguments.cache.mkdir(parents=True, exist_ok=True)
    settings = load_settings()
    inner = build_encoder(settings)
    encoder = RememberingEncoder(inner, arguments.cache / "vectors.npz")
    heads = load_heads(inner, arguments.read, arguments.verify)
    drafter = Drafter(settings, arguments.cache)

    def verifier_with(calibration: Calibration) -> HeadVerifier:
        return HeadVerifier(encoder, heads, calibration)

    result: dict[str, Any] = {
        "sentence": {},
        "statement": {},
        "answer": {},
        "span": {},
        "span_beside": {},
        "abstain_below": {},
        "provenance": {
            "command": f"python -m benchmarks.calibrate --questions {arguments.questions}"
            f" --statements {arguments.statements} --wrong {arguments.wrong}"
            f" --wrong-left {arguments.wrong_left} --seed {arguments.seed}",
            "commit": subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
            ).stdout.strip(),
            "encoder": encoder.identity.name,
            "encoder_weights": encoder.identity.weights_hash,
            "generator": drafter.generator.identity.name,
            "adapters": adapter_hashes(settings, arguments.read, arguments.verify),
            "sets": [*QUESTIONS["en"], *QUESTIONS["zh"], *STATEMENTS],
            "figures": {},
        },
    }
    figures = result["provenance"]["figures"]
    for language in ("en", "zh"):
        fit_language(language, data, verifier_with, encoder, drafter, arguments, result)
        encoder.save()
    fit_statements(data, verifier_with(without_fit()), arguments, result)
    encoder.save()
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))


@dataclass(frozen=True)
class Questions:
    """Questions of one language with their evidence, and what is noted of the fits to them."""

    language: str
    asked: Sequence[Asked]
    evidence: Sequence[QuestionEvidence]
    wrong: float
    wrong_left: float  # of what the reader leaves to a draft
    result: dict[str, Any]
    figures: dict[str, Any]


# Of each question the best score of a candidate that the fit did not see, and whether it is right.
Best = list[tuple[float, bool]]


def fit_language(
    language: str,
    data: Path,
    verifier_with: Callable[[Calibration], HeadVerifier],
    encoder: Encoder,
    drafter: Drafter,
    arguments: argparse.Namespace,
    result: dict[str, Any],
) -> None:
    """Fit what tells of sentences, of spans, of both candidates of an answer, and of quotations.

    What the reader alone is not sure of is answered by the likelier of a draft and of what was
    read beside it: both have one threshold, fitted to those questions. What that leaves is quoted
    or not.
    """
    figures: dict[str, Any] = {}
    cases = choose_cases(data, language, arguments.questions, arguments.seed)
    asked = with_passages(cases, encoder, arguments.seed)
    found = [given_passages(a.texts, a.case.question, encoder) for a in asked]
    unfitted = verifier_with(without_fit())
    rough = [unfitted.weigh(a.case.question, p) for a, p in zip(asked, found, strict=True)]
    rows = [row for a, e in zip(asked, rough, strict=True) for row in sentence_rows(a, e)]
    names = list(rows[0][0])
    sentence = fit(rows, names)
    unseen = cross_validated(rows, names)  # thresholds are chosen on folds the fit did not see
    figures[f"sentence_auroc_{language}"] = round(auroc(unseen, [y for _, y, _ in rows]), 4)
    calibration = Calibration({language: sentence}, {}, {language: sentence}, {language: 0.0})
    verifier = verifier_with(calibration)
    evidence = [verifier.weigh(a.case.question, p) for a, p in zip(asked, found, strict=True)]
    print(language, "sentences", len(rows), figures, flush=True)

    wrong, wrong_left = arguments.wrong, arguments.wrong_left
    questions = Questions(language, asked, evidence, wrong, wrong_left, result, figures)
    span, left = fit_spans(questions, verifier)
    if span is not None:
        verifier = verifier_with(replace(calibration, span={language: span}))
    left = fit_answers(questions, [drafter.draft(one) for one in evidence], verifier, left)
    quoted = best_sentences(rough, rows, unseen)
    best = [quoted[i] for i in left]
    sentence = with_threshold(sentence, risk_threshold(best, wrong))
    result["sentence"][language] = as_json(sentence)
    figures |= {
        f"left_{language}": len(left),  # by reader and draft, to be quoted or not
        f"quotation_right_{language}": round(float(np.mean([right for _, right in best])), 4),
        **coverage_figures("quotation", language, best, sentence.threshold, len(best)),
    }
    result["provenance"]["figures"] |= figures
    print(language, "quotations", figures, flush=True)


def fit_spans(questions: Questions, verifier: HeadVerifier) -> tuple[Logistic | None, list[int]]:
    """Return the function of what was read before there is a draft, and the questions it leaves.

    None without a reader, which leaves all of them.
    """
    language = questions.language
    if not any(evidence.readings for evidence in questions.evidence):
        return None, list(range(len(questions.asked)))
    by_question = [
        span_rows(asked, evidence, None, verifier)
        for asked, evidence in zip(questions.asked, questions.evidence, strict=True)
    ]
    function, best = fit_candidates(by_question, SAME_FOR_SPANS)
    function = with_threshold(function, risk_threshold(best, questions.wrong))
    questions.result["span"][language] = as_json(function)
    note(questions, "span", best, function.threshold)
    return function, [i for i, (score, _) in enumerate(best) if score < function.threshold]


def fit_answers(
    questions: Questions, drafts: Sequence[Draft], verifier: HeadVerifier, left: Sequence[int]
) -> list[int]:
    """Fit drafted claims and what was read beside them; return which of `left` they leave.

    The functions are fitted to all questions, the threshold to those that come to a draft, by what
    the functions say of paragraphs that they did not see.
    """
    language = questions.language
    everything = list(zip(questions.asked, questions.evidence, drafts, strict=True))
    drafted = [answer_rows(*one, verifier) for one in everything]
    answer, best_drafts = fit_candidates(drafted, RULED)
    best = best_drafts
    beside: tuple[Logistic, Best] | None = None
    if language in questions.result["span"]:
        spans = [span_rows(*one, verifier) for one in everything]
        beside = fit_candidates(spans, SAME_FOR_SPANS)
        best = [max(pair) for pair in zip(best_drafts, beside[1], strict=True)]
    threshold = risk_threshold([best[i] for i in left], questions.wrong_left)
    if beside is not None:
        function, best_spans = beside
        questions.result["span_beside"][language] = as_json(with_threshold(function, threshold))
        note(questions, "span_beside", best_spans, threshold)
    questions.result["answer"][language] = as_json(with_threshold(answer, threshold))
    tops = [
        evidence.best()[1]
        for evidence, (_, right) in zip(questions.evidence, best, strict=True)
        if right
    ]  # of the questions that are answered rightly, how likely the best sentence was
    low = sorted(tops)[int(0.02 * len(tops))] if tops else 0.0
    questions.result["abstain_below"][language] = round(low, 4)
    refused = [a for a, draft in zip(questions.asked, drafts, strict=True) if draft.is_refusal]
    questions.figures.update(
        {
            f"questions_{language}": len(drafts),
            f"drafts_refused_{language}": len(refused),
            f"drafts_refused_rightly_{language}": sum(not one.answerable for one in refused),
        }
    )
    note(questions, "draft", best_drafts, threshold)
    note(questions, "answer", best, threshold)
    note(questions, "left_answer", [best[i] for i in left], threshold)
    return [i for i in left if best[i][0] < threshold]


def fit_candidates(
    by_question: Sequence[Sequence[tuple[Row, bool]]], without: tuple[str, ...]
) -> tuple[Logistic, Best]:
    """Return a function fitted to the grounded candidates, and each question's best candidate.

    Args:
        by_question: Candidates of each question, and whether each is grounded by the rules.
        without: Ends of the names of features that say nothing here.
    """
    rows = [row for found in by_question for row, grounded in found if grounded]
    names = [name for name in rows[0][0] if not name.endswith(without)]
    scores = iter(cross_validated(rows, names))
    best = []
    for found in by_question:
        own = [(next(scores), bool(right)) for (_, right, _), grounded in found if grounded]
        best.append(max(own, default=(0.0, False)))
    return fit(rows, names), best


def note(questions: Questions, kind: str, best: Best, threshold: float) -> None:
    """Note how well the candidates of a kind do, alone."""
    language = questions.language
    questions.figures.update(
        {
            f"{kind}_right_{language}": round(float(np.mean([right for _, right in best])), 4),
            f"{kind}_auroc_{language}": round(auroc(*zip(*best, strict=True)), 4),
            **coverage_figures(kind, language, best, threshold, len(best)),
            **coverage_at_shares(kind, language, best, len(best)),
        }
    )
    print(language, kind, questions.figures, flush=True)


def best_sentences(
    evidence: Sequence[QuestionEvidence], rows: Sequence[Row], scores: Sequence[float]
) -> Best:
    """Return each question's highest score of a sentence, and whether that sentence is right."""
    best = []
    start = 0
    for one in evidence:
        end = start + len(one.sentences)
        top = max(range(start, end), key=lambda i: scores[i])
        best.append((scores[top], bool(rows[top][1])))
        start = end
    return best


def coverage_figures(
    kind: str,
    language: str,
    scored: Best,
    threshold: float,
    questions: int,
) -> dict[str, Any]:
    """Return the share of questions above the threshold, and how many of those are right."""
    above = [right for score, right in scored if score >= threshold]
    return {
        f"{kind}_coverage_{language}": round(len(above) / questions, 4),
        f"{kind}_precision_{language}": round(float(np.mean(above)), 4) if above else None,
    }


def coverage_at_shares(kind: str, language: str, scored: Best, questions: int) -> dict[str, float]:
    """Return the share of questions answered at other shares of wrong answers."""
    found = {}
    for share in (0.05, 0.10, 0.15, 0.20, 0.30):
        threshold = risk_threshold(scored, share)
        above = sum(score >= threshold for score, _ in scored)
        found[f"{kind}_coverage_at_{share:.2f}_wrong_{language}"] = round(above / questions, 4)
    return found


def fit_statements(
    data: Path, verifier: OverlapVerifier, arguments: argparse.Namespace, result: dict[str, Any]
) -> None:
    """Fit the statement function of each language on labelled and built claims."""
    figures = result["provenance"]["figures"]
    by_set = statements(data, arguments.pairs, arguments.statements, arguments.seed)
    for language in ("en", "zh"):
        named = [
            (n, one) for n, group in by_set.items() for one in group if one.language == language
        ]
        chosen = [one for _, one in named]
        rows = statement_rows(chosen, verifier)
        names = list(BESIDE_HEAD) if "verified" in rows[0][0] else list(rows[0][0])
        bare = cross_validated(rows, names, balanced=True)
        ruled = [p * verifier.allows(f) for p, (f, _, _) in zip(bare, rows, strict=True)]
        labels = [label for _, label, _ in rows]
        threshold = balanced_threshold(list(zip(ruled, labels, strict=True)))
        free = balanced_threshold(list(zip(bare, labels, strict=True)))
        for source in dict.fromkeys(name for name, _ in named):
            members = [i for i, (name, _) in enumerate(named) if name == source]
            own = [labels[i] for i in members]
            figures[f"statement_{source}_{language}"] = {
                "rows": len(members),
                "balanced_accuracy": rounded([ruled[i] for i in members], own, threshold),
                "without_rules": rounded([bare[i] for i in members], own, free),
            }
        gap = expected_calibration_error(np.array(labels), np.array(ruled))
        figures[f"statement_calibration_error_{language}"] = round(gap, 4)
        function = with_threshold(fit(rows, names, balanced=True), threshold)
        result["statement"][language] = as_json(function)


def rounded(scores: Sequence[float], labels: Sequence[int], threshold: float) -> float:
    """Return the balanced accuracy to four places."""
    return round(balanced_accuracy(scores, labels, threshold), 4)


def balanced_accuracy(scores: Sequence[float], labels: Sequence[int], threshold: float) -> float:
    """Return the mean of the accuracies on supported and on unsupported claims."""
    right: Mapping[int, list[bool]] = {0: [], 1: []}
    for score, label in zip(scores, labels, strict=True):
        right[label].append((score >= threshold) == bool(label))
    rates = [sum(values) / len(values) for values in right.values() if values]
    return math.fsum(rates) / len(rates)


if __name__ == "__main__":
    main()
