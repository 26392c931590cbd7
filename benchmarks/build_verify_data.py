"""Build the rows that the verifier learns from: pairs made from questions, and people's labels.

    python -m benchmarks.build_verify_data --data ../shared/data --out build/verify --rows 20000

Writes `train.jsonl`, `dev.jsonl` (5% of the groups, for early stopping) and `manifest.json`
(counts, hashes, licences). Half of the rows are Chinese; any prefix holds languages, labels and
kinds in nearly the proportions of the whole. CMRC 2018 is read only if `--questions` names it. The
dev parts of `eval.verification`, on which figures are computed, and the paragraphs of the question
sets that are measured on never enter.
"""

import argparse
import hashlib
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from eval.datasets import SETS as QUESTION_SETS
from eval.datasets import TRAIN_SETS, find_data, load, read_rows
from eval.verification import SETS, LabelledPair
from eval.verification import load as load_labelled
from model import evidence as ev
from model.training.pairs import Pair, PairOptions, QuestionRow, build, sentences_of

QUESTION_LICENCES: Mapping[str, str] = {
    "squad-train": "CC BY-SA 4.0",
    "drcd-train": "CC BY-SA 3.0",
    "cmrc2018-train": "not stated: for no adapter that is published",
}
QUESTIONS = ("squad-train", "drcd-train")  # what a published adapter may learn from
MEASURED = ("xquad", "squad")  # their paragraphs return in squad-train
# The most rows of a set whose claims alone betray much: small talk in BEGIN (claim-only AUROC .83),
# wrong answers that a model wrote at length in HaluEval (.70).
CAPS: Mapping[str, int] = {"begin": 1000, "halueval": 600}
HUMAN = ("wice", "fm2", "fever_symmetric", "nomiracl", "begin", "halueval")
EVIDENCE_CHARACTERS = {"en": 420, "zh": 150}  # two or three sentences, as claims are judged against
DEV_PERCENT = 5
OPTIONS = PairOptions(characters=EVIDENCE_CHARACTERS)


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the files."""

    claim: str
    evidence: str
    label: int
    kind: str
    language: str
    group: str
    source: str


def question_rows(data: Path, names: Sequence[str] = QUESTIONS) -> Iterator[QuestionRow]:
    """Yield the rows of question sets, without the paragraphs that are measured on."""
    held_out = {case.gold_context for name in MEASURED for case in load(name, data)}
    for name in names:
        for _, row in read_rows(data / TRAIN_SETS[name]):
            if row["context"] in held_out:
                continue
            yield QuestionRow(
                question=row["question"],
                answers=tuple(row["answers"]) if row["answerable"] else (),
                paragraph=row["context"],
                language=row["lang"],
                article=row.get("title") or row["id"].split("-")[0],
            )


def labelled_rows(name: str, data: Path, seed: int) -> list[Row]:
    """Return the train part of a labelled set; one that is capped has as many of each label."""
    pairs = load_labelled(name, "train", data)
    # Topical-Chat's share-alike data licence would reach further than its few rows are worth.
    pairs = [pair for pair in pairs if not pair.id.startswith("begin-topicalchat")]
    random.Random(seed).shuffle(pairs)
    if name in CAPS:
        half = CAPS[name] // 2
        pairs = [p for label in (0, 1) for p in [p for p in pairs if p.label == label][:half]]
    return [_labelled(name, pair) for pair in pairs]


def _labelled(name: str, pair: LabelledPair) -> Row:
    # Which of a question's passages answers is not said. Under both labels the one nearest to the
    # question is taken: of an unanswerable question it surely does not answer, of an answerable
    # one it mostly does.
    wanted = set(ev.content_terms(pair.claim))
    text = max(pair.evidence, key=lambda t: len(wanted & set(ev.content_terms(t))))
    return Row(
        claim=pair.claim,
        evidence=nearest(text, wanted, EVIDENCE_CHARACTERS[pair.language]),
        label=pair.label,
        kind=pair.kind,
        language=pair.language,
        group=f"{name}/{pair.group}",
        source=name,
    )


def nearest(text: str, wanted: set[str], most: int) -> str:
    """Return the sentences of a text that hold most wanted terms, in order, within `most`."""
    if len(text) <= most:
        return text
    sentences = sentences_of(text)
    order = sorted(
        range(len(sentences)), key=lambda i: -len(wanted & set(ev.content_terms(sentences[i])))
    )
    kept, room = set(), most
    for place in order:
        if len(sentences[place]) < room:
            kept.add(place)
            room -= len(sentences[place]) + 1
    return " ".join(sentences[i] for i in sorted(kept)) or text[:most]


def built_rows(rows: Sequence[QuestionRow], language: str, count: int, seed: int) -> list[Row]:
    """Return up to `count` built pairs of one language."""
    pairs = build([row for row in rows if row.language == language], OPTIONS, seed)
    return [_built(pair) for pair in islice(pairs, count)]


def _built(pair: Pair) -> Row:
    return Row(**asdict(pair), source=f"questions-{pair.language}")


def interleaved(rows: Iterable[Row], seed: int) -> list[Row]:
    """Return the rows so that every kind of row is spread evenly over the whole."""
    streams: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        streams[row.source, row.kind, row.language, str(row.label)].append(row)
    generator = random.Random(seed)
    placed = []
    for stream in streams.values():
        generator.shuffle(stream)
        placed += [((i + generator.random()) / len(stream), row) for i, row in enumerate(stream)]
    return [row for _, row in sorted(placed, key=lambda pair: pair[0])]


def is_dev(group: str) -> bool:
    """Tell whether a group is held out for early stopping."""
    return int(hashlib.sha256(f"dev/{group}".encode()).hexdigest(), 16) % 100 < DEV_PERCENT


def write(path: Path, rows: Sequence[Row]) -> str:
    """Write rows as JSON lines and return the SHA-256 of the file."""
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, "utf-8")
    return hashlib.sha256(text.encode()).hexdigest()


def counts(rows: Sequence[Row]) -> dict[str, Any]:
    """Return how many rows there are of each source, kind, language and label."""
    table: dict[str, Any] = {"rows": len(rows)}
    for field in ("source", "kind", "language", "label"):
        table[field] = dict(sorted(Counter(str(getattr(row, field)) for row in rows).items()))
    return table


def inputs(data: Path, names: Sequence[str] = QUESTIONS) -> dict[str, dict[str, str]]:
    """Return the files read for these question sets and the rest, with hashes and licences."""
    files = {name: (TRAIN_SETS[name], QUESTION_LICENCES[name]) for name in names}
    files |= {name: (SETS[name].files["train"], SETS[name].licence) for name in HUMAN}
    files |= {f"held out: {n}": (QUESTION_SETS[n], "not copied") for n in MEASURED}
    return {
        name: {
            "file": file,
            "sha256": hashlib.sha256((data / file).read_bytes()).hexdigest(),
            "licence": licence,
        }
        for name, (file, licence) in files.items()
    }


def main() -> None:
    """Build all rows and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--questions",
        nargs="+",
        choices=tuple(QUESTION_LICENCES),
        default=list(QUESTIONS),
        metavar="SET",
        help="question sets to build from (default: those that a published adapter may learn from)",
    )
    arguments = parser.parse_args()
    data = find_data(arguments.data)
    human = [row for name in HUMAN for row in labelled_rows(name, data, arguments.seed)]
    questions = list(question_rows(data, arguments.questions))
    rows = interleaved(human, arguments.seed)[: arguments.rows // 2]
    for language in ("en", "zh"):
        missing = arguments.rows // 2 - sum(row.language == language for row in rows)
        rows += built_rows(questions, language, max(0, missing), arguments.seed)
        print(f"{language}: {sum(row.language == language for row in rows)} rows", flush=True)
    rows = interleaved(rows, arguments.seed)
    parts = {
        "train": [row for row in rows if not is_dev(row.group)],
        "dev": [row for row in rows if is_dev(row.group)],
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    manifest = {
        "command": "python -m benchmarks.build_verify_data"
        f" --rows {arguments.rows} --seed {arguments.seed}"
        f" --questions {' '.join(arguments.questions)}",
        "inputs": inputs(data, arguments.questions),
        "parts": {
            name: {"sha256": write(arguments.out / f"{name}.jsonl", part), **counts(part)}
            for name, part in parts.items()
        },
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False)
    (arguments.out / "manifest.json").write_text(text + "\n", "utf-8")
    print(json.dumps(manifest["parts"], indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
