"""Fit the verifier's three logistic functions and their thresholds; write model/calibration.json.

    python -m benchmarks.calibrate --data ../shared/data --passages 200 --seed 0 --cache DIR
    python -m benchmarks.calibrate ... --read RUN/head --verify RUN/head --out FILE   # with heads

Fits on train files only (for statements, where there are none, on dev files), so that the dev rows
of `benchmarks/answering.py` stay unseen. Thresholds and figures come from five-fold
cross-validation over whole paragraphs or claims.
Drafts of the generator are kept in --cache, so that a stopped run goes on where it was.
"""

import argparse
import hashlib
import json
import math
import random
import re
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.assembly import build_encoder, build_generator, resolve_adapter, resolve_prompt
from app.settings import Settings, load_settings
from eval.cases import Case
from eval.datasets import find_data, load, read_rows
from eval.metrics import f1
from model import evidence as ev
from model.adapters import read_adapter
from model.claims import read
from model.cross_encoder import CrossEncoder, load_head
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
    split_evidence,
    statement_features,
)
from retrieval.encoders import Encoder, EncoderIdentity, OnnxEncoder, Vectors
from retrieval.search import given_passages

TRAIN = {"en": ("squad-train",), "zh": ("drcd-train",)}
STATEMENTS = (  # licences allow their use; non-commercial and press sets stay out
    "fm2/fm2.dev.jsonl.gz",
    "wice/wice.dev.jsonl.gz",
    "fever_symmetric/fever_symmetric.dev.jsonl.gz",
    "begin/begin.train.jsonl.gz",
)
# What grounded drafts share by rule tells nothing about which of them are right.
RULED = ("says", "terms", "pairs", "_missing", "negation_differs")
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


@dataclass(frozen=True)
class Asked:
    """A question with the passages that retrieval would bring: with the gold one or without."""

    case: Case
    texts: tuple[str, ...]
    answerable: bool


def choose_cases(data: Path, language: str, passages: int, seed: int) -> list[Case]:
    """Return one case of each of `passages` train paragraphs that no dev set of ours holds."""
    held_out = {case.gold_context for name in ("xquad", "squad") for case in load(name, data)}
    by_paragraph: dict[str, list[Case]] = {}
    for name in TRAIN[language]:
        for case in load(name, data):
            if case.gold_context and case.gold_context not in held_out:
                by_paragraph.setdefault(case.gold_context, []).append(case)
    generator = random.Random(seed)
    order = sorted(by_paragraph)
    generator.shuffle(order)
    return [generator.choice(by_paragraph[paragraph]) for paragraph in order[:passages]]


def with_passages(cases: Sequence[Case], encoder: Encoder, seed: int) -> list[Asked]:
    """Return each case with its five nearest paragraphs; a third of them without the gold one."""
    paragraphs = [case.gold_context or "" for case in cases]
    similarity = (
        encoder.encode_queries([c.question for c in cases]) @ encoder.encode_passages(paragraphs).T
    )  # (cases, paragraphs)
    generator = random.Random(seed)
    asked = []
    for i, case in enumerate(cases):
        nearest = [int(j) for j in np.argsort(-similarity[i]) if j != i]
        without_gold = generator.random() < 1 / 3
        chosen = (
            nearest[:5]
            if without_gold
            else sorted([i, *nearest[:4]], key=lambda j: -similarity[i, j])
        )
        answerable = case.answerable and not without_gold
        asked.append(Asked(case, tuple(paragraphs[j] for j in chosen), answerable))
    return asked


def sentence_rows(asked: Asked, evidence: QuestionEvidence) -> list[Row]:
    """Return each sentence's features and whether it holds the gold answer."""
    answers = asked.case.answers if asked.answerable else ()
    rows = []
    for sentence, features in zip(evidence.sentences, evidence.features, strict=True):
        holds = sentence.passage.chunk.text == asked.case.gold_context and any(
            ev.normalise(answer) in ev.normalise(sentence.text) for answer in answers
        )
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


def utility_threshold(scored: Sequence[tuple[float, bool]]) -> float:
    """Return the threshold with the most right minus wrong answers among those above it."""
    ordered = sorted(scored, reverse=True)
    gains = np.cumsum([1 if right else -1 for _, right in ordered])
    if not len(gains) or gains.max() <= 0:
        return 1.0
    return round(ordered[int(gains.argmax())][0] - 1e-4, 4)


def balanced_threshold(scored: Sequence[tuple[float, int]]) -> float:
    """Return the threshold with the greatest balanced accuracy."""
    from sklearn.metrics import roc_curve

    false_rate, true_rate, thresholds = roc_curve([y for _, y in scored], [s for s, _ in scored])
    return round(float(thresholds[int((true_rate - false_rate).argmax())]), 4)


@dataclass(frozen=True)
class Draft:
    """What a generator said, and how sure it was."""

    text: str
    confidence: float | None  # mean natural log-probability of its tokens


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


def statement_pairs(data: Path, limit: int, seed: int) -> Iterator[tuple[str, str, int, str, str]]:
    """Yield (claim, evidence, label, cluster, set) of the labelled English sets."""
    for name in STATEMENTS:
        rows = [row for _, row in read_rows(data / name)]
        random.Random(seed).shuffle(rows)
        for row in rows[:limit]:
            yield row["claim"], row["evidence"], int(row["label"]), row["claim"], name.split("/")[0]


_WH = re.compile(
    r"什么时候|什麼時候|何时|何時|哪一?年|哪里|哪裡|哪儿|什么地方|多少|谁|誰|什么|什麼|哪[个位些]"
)


def chinese_pairs(cases: Sequence[Case], seed: int) -> Iterator[tuple[str, str, int, str, str]]:
    """Yield Chinese claims made from questions: the question word replaced by an answer.

    Supported: the gold answer. Unsupported: the answer to another question on the paragraph.
    """
    by_paragraph: dict[str, list[Case]] = {}
    for case in cases:
        if case.answerable and case.gold_context:
            by_paragraph.setdefault(case.gold_context, []).append(case)
    generator = random.Random(seed)
    for paragraph, members in by_paragraph.items():
        for case in members:
            match = _WH.search(case.question)
            others = [m.answers[0] for m in members if m.answers[0] not in case.answers]
            if not match or not others:
                continue
            head, tail = case.question[: match.start()], case.question[match.end() :].rstrip("?？ ")
            for answer, label in ((case.answers[0], 1), (generator.choice(others), 0)):
                yield f"{head}{answer}{tail}。", paragraph, label, case.question, "cloze"


def statement_rows(pairs: Sequence[tuple[str, str, int, str, str]], encoder: Encoder) -> list[Row]:
    """Return the features of labelled (claim, evidence) pairs."""
    sentences = [split_evidence(evidence, claim) for claim, evidence, *_ in pairs]
    claims = encoder.encode_queries([claim for claim, *_ in pairs])
    encoder.encode_passages([s for group in sentences for s in group])
    rows = []
    for (claim, _, label, cluster, _), group, vector in zip(pairs, sentences, claims, strict=True):
        similarity = float((encoder.encode_passages(group) @ vector).max())
        rows.append((statement_features(claim, group, similarity), label, cluster))
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
    base = encoder.identity.weights_hash
    found = [
        CrossEncoder(encoder.bert, load_head(folder, encoder.bert, base)) if folder else None
        for folder in (read, verify)
    ]
    return Heads(*found)


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
    parser.add_argument("--passages", type=int, default=200, help="train paragraphs a language")
    parser.add_argument("--statements", type=int, default=600, help="labelled pairs a set")
    parser.add_argument("--drafts", type=int, default=200, help="questions to draft a language")
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

    def verifier_with(calibration: Calibration) -> OverlapVerifier:
        return HeadVerifier(encoder, heads, calibration)

    result: dict[str, Any] = {
        "sentence": {},
        "statement": {},
        "answer": {},
        "abstain_below": {},
        "provenance": {
            "command": f"python -m benchmarks.calibrate --passages {arguments.passages}"
            f" --statements {arguments.statements} --drafts {arguments.drafts}"
            f" --seed {arguments.seed}",
            "commit": subprocess.run(
                ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
            ).stdout.strip(),
            "encoder": encoder.identity.name,
            "encoder_weights": encoder.identity.weights_hash,
            "generator": drafter.generator.identity.name,
            "adapters": adapter_hashes(settings, arguments.read, arguments.verify),
            "sets": [*TRAIN["en"], *TRAIN["zh"], *STATEMENTS],
            "figures": {},
        },
    }
    figures = result["provenance"]["figures"]
    for language in ("en", "zh"):
        fit_language(language, data, verifier_with, encoder, drafter, arguments, result)
        encoder.save()
    fit_statements(data, encoder, arguments, result)
    encoder.save()
    arguments.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", "utf-8")
    print(json.dumps(figures, indent=2))


def fit_language(
    language: str,
    data: Path,
    verifier_with: Callable[[Calibration], OverlapVerifier],
    encoder: Encoder,
    drafter: Drafter,
    arguments: argparse.Namespace,
    result: dict[str, Any],
) -> None:
    """Fit the sentence and answer functions of one language."""
    figures: dict[str, Any] = {}
    cases = choose_cases(data, language, arguments.passages, arguments.seed)
    asked = with_passages(cases, encoder, arguments.seed)
    found = [given_passages(a.texts, a.case.question, encoder) for a in asked]
    unfitted = verifier_with(without_fit())
    rough = [unfitted.weigh(a.case.question, p) for a, p in zip(asked, found, strict=True)]
    rows = [row for a, e in zip(asked, rough, strict=True) for row in sentence_rows(a, e)]
    names = list(rows[0][0])
    sentence = fit(rows, names)
    unseen = cross_validated(rows, names)  # thresholds are chosen on folds the fit did not see
    figures[f"sentence_auroc_{language}"] = round(auroc(unseen, [y for _, y, _ in rows]), 4)
    best = best_sentences(rough, rows, unseen)
    sentence = with_threshold(sentence, utility_threshold(best))
    figures[f"quotation_right_{language}"] = round(float(np.mean([right for _, right in best])), 4)
    figures |= coverage_figures("quotation", language, best, sentence.threshold, len(best))
    calibration = Calibration({language: sentence}, {}, {language: sentence}, {language: 0.0})
    verifier = verifier_with(calibration)
    evidence = [verifier.weigh(a.case.question, p) for a, p in zip(asked, found, strict=True)]
    print(language, "sentences", len(rows), figures, flush=True)

    drafted = [
        (pair, e.best()[1])
        for a, e in list(zip(asked, evidence, strict=True))[: arguments.drafts]
        for pair in answer_rows(a, e, drafter.draft(e), verifier)
    ]
    kept = [(row, top) for (row, grounded), top in drafted if grounded]
    answer_features_used = [name for name in kept[0][0][0] if not name.endswith(RULED)]
    answer_rows_kept = [row for row, _ in kept]
    answer = fit(answer_rows_kept, answer_features_used)
    scores = cross_validated(answer_rows_kept, answer_features_used)
    scored = [(s, bool(y)) for s, (_, y, _) in zip(scores, answer_rows_kept, strict=True)]
    answer = with_threshold(answer, utility_threshold(scored))
    tops = sorted(top for (_, y, _), top in kept if y)
    result["sentence"][language] = as_json(sentence)
    result["answer"][language] = as_json(answer)
    result["abstain_below"][language] = round(tops[int(0.02 * len(tops))] if tops else 0.0, 4)
    figures |= {
        f"drafts_{language}": len(drafted),
        f"drafts_right_{language}": sum(row[1] for (row, _), _ in drafted),
        f"drafts_grounded_{language}": len(kept),
        f"drafts_grounded_right_{language}": sum(y for (_, y, _), _ in kept),
        f"answer_auroc_{language}": round(auroc(*zip(*scored, strict=True)), 4),
        **coverage_figures("answer", language, scored, answer.threshold, len(drafted)),
    }
    result["provenance"]["figures"] |= figures
    print(language, "answers", figures, flush=True)


def best_sentences(
    evidence: Sequence[QuestionEvidence], rows: Sequence[Row], scores: Sequence[float]
) -> list[tuple[float, bool]]:
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
    scored: Sequence[tuple[float, bool]],
    threshold: float,
    questions: int,
) -> dict[str, Any]:
    """Return the share of questions above the threshold, and how many of those are right."""
    above = [right for score, right in scored if score >= threshold]
    return {
        f"{kind}_coverage_{language}": round(len(above) / questions, 4),
        f"{kind}_precision_{language}": round(float(np.mean(above)), 4) if above else None,
    }


def fit_statements(
    data: Path, encoder: Encoder, arguments: argparse.Namespace, result: dict[str, Any]
) -> None:
    """Fit the statement function: on labelled sets for English, on made claims for Chinese."""
    figures = result["provenance"]["figures"]
    english = list(statement_pairs(data, arguments.statements, arguments.seed))
    chinese_cases = [c for name in TRAIN["zh"] for c in load(name, data)]
    random.Random(arguments.seed).shuffle(chinese_cases)
    chinese = list(chinese_pairs(chinese_cases, arguments.seed))[: 2 * arguments.statements]
    for language, pairs in (("en", english), ("zh", chinese)):
        rows = statement_rows(pairs, encoder)
        names = list(rows[0][0])
        scores = [
            score * is_grounded(features)
            for score, (features, _, _) in zip(
                cross_validated(rows, names, balanced=True), rows, strict=True
            )
        ]
        threshold = balanced_threshold([(s, y) for s, (_, y, _) in zip(scores, rows, strict=True)])
        for name in dict.fromkeys(p[4] for p in pairs):
            members = [i for i, p in enumerate(pairs) if p[4] == name]
            figures[f"statement_balanced_accuracy_{name}"] = round(
                balanced_accuracy(
                    [scores[i] for i in members], [rows[i][1] for i in members], threshold
                ),
                4,
            )
        function = with_threshold(fit(rows, names, balanced=True), threshold)
        result["statement"][language] = as_json(function)


def balanced_accuracy(scores: Sequence[float], labels: Sequence[int], threshold: float) -> float:
    """Return the mean of the accuracies on supported and on unsupported claims."""
    right: Mapping[int, list[bool]] = {0: [], 1: []}
    for score, label in zip(scores, labels, strict=True):
        right[label].append((score >= threshold) == bool(label))
    rates = [sum(values) / len(values) for values in right.values() if values]
    return math.fsum(rates) / len(rates)


if __name__ == "__main__":
    main()
