"""Train a head of the encoder on public train rows, save it, and measure it on dev rows.

    python -m benchmarks.train_heads read --data ../shared/data --out runs/read --minutes 30
    python -m benchmarks.train_heads verify --pairs runs/pairs --out runs/verify --minutes 30
    python -m benchmarks.train_heads read --data ../shared/data --out runs/read --measure
    python -m benchmarks.train_heads read --data ../shared/data --out runs/mean \
        --average runs/first/head runs/read/head

The same command goes on where a killed one was. `--out` holds the run and, in `head/`, the head
with its record. Train rows are SQuAD, DRCD and NQ, whose licences allow it (CC BY-SA); paragraphs
that XQuAD's dev rows ask about are left out. Early stopping watches train articles kept aside.
"""

import argparse
import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.settings import load_settings
from eval.cases import Case, sample
from eval.confidence import auroc
from eval.datasets import find_data, load, read_rows
from eval.metrics import exact_match, f1
from eval.statistics import mean
from ingest.errors import UsageError
from model.adapters import RECORD, label_adapter, read_adapter
from model.cross_encoder import CrossEncoder, Role, load_head
from model.evidence import content_terms
from retrieval.e5 import E5_SMALL, prepare_e5_small
from retrieval.onnx import OnnxBert, read_shape
from retrieval.weights import hash_folder

ROLES: tuple[Role, ...] = ("read", "verify", "rerank")
TRAIN = {"en": ("squad/squad.train", "nq/nq_oracle.train"), "zh": ("drcd/drcd.train",)}
# Characters kept around an answer. Their logarithm is drawn evenly: most pieces are short, from
# which a span is learnt several times sooner, and some are as long as passages are.
WINDOW = {"en": (100, 800), "zh": (40, 330)}
UNANSWERED = 1 / 3  # share of read examples whose passage does not say
NEGATIVES = 3  # passages beside the right one in a list to rank
DEV_PERCENT = 4  # of articles, kept aside for early stopping
DEV_ROWS = 60  # of each language


@dataclass(frozen=True, slots=True)
class Mixture:
    """How rows become examples."""

    seed: int = 0  # of which rows, which pieces and their order
    spread: float = 1.0  # a language has at most so many times the examples of the poorest
    shortest: float = 1.0  # times the shorter bound of `WINDOW`


@dataclass(frozen=True, slots=True)
class Row:
    """One train row; `article` is what dev and train never share."""

    language: str
    question: str
    answer: str  # empty: the paragraph does not say
    paragraph: str
    article: str


def train_rows(data: Path) -> list[Row]:
    """Return the train rows of all sets whose answer stands in the paragraph, or that have none."""
    asked_on_dev = {case.gold_context for case in load("xquad", data)}
    rows = []
    for language, names in TRAIN.items():
        for name in names:
            for _, row in read_rows(data / f"{name}.jsonl.gz"):
                answer = row["answers"][0] if row["answerable"] else ""
                if row["context"] not in asked_on_dev and answer in row["context"]:
                    article = row.get("title") or row["context"]
                    rows.append(Row(language, row["question"], answer, row["context"], article))
    return rows


def is_dev(article: str) -> bool:
    """Tell whether an article is kept aside, by its name alone."""
    return int(hashlib.sha256(article.encode()).hexdigest(), 16) % 100 < DEV_PERCENT


def occurrences(text: str, answer: str) -> tuple[tuple[int, int], ...]:
    """Return the characters of every place where an answer stands."""
    found, at = [], text.find(answer) if answer else -1
    while at >= 0:
        found.append((at, at + len(answer)))
        at = text.find(answer, at + len(answer))
    return tuple(found)


def around(row: Row, text: str, answer: str, mixture: Mixture, draw: random.Random) -> str:
    """Return a piece of a paragraph, of a drawn size, that holds an answer anywhere in it."""
    shortest, longest = WINDOW[row.language]
    size = round(math.exp(draw.uniform(math.log(shortest * mixture.shortest), math.log(longest))))
    if len(text) <= size:
        return text
    places = occurrences(text, answer)
    start, end = draw.choice(places) if places else (0, len(text))
    low, high = max(0, end - size), min(start, len(text) - size)
    at = draw.randint(min(low, high), max(low, high))
    return text[at : max(at + size, end if places else 0)]


class Siblings:
    """The paragraphs of each article: what a retriever would confuse with the right one."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._of: dict[str, dict[str, set[str]]] = {}
        for row in rows:
            self._of.setdefault(row.article, {})[row.paragraph] = set()

    def nearest(self, row: Row, count: int) -> list[str]:
        """Return other paragraphs without the answer, those that share most with the question."""
        paragraphs = self._of[row.article]
        for text, terms in paragraphs.items():
            if not terms:
                terms.update(content_terms(text))
        asked = set(content_terms(row.question))
        others = [
            text
            for text in paragraphs
            if text != row.paragraph and not (row.answer and row.answer in text)
        ]
        return sorted(others, key=lambda text: (-len(asked & paragraphs[text]), text))[:count]


def balanced(
    per_language: Mapping[str, Sequence[Any]], spread: float, draw: random.Random
) -> list[Any]:
    """Return of each language at most `spread` times as many as the poorest has, shuffled."""
    most = round(spread * min(map(len, per_language.values())))
    chosen = [
        item
        for items in per_language.values()
        for item in draw.sample(items, min(most, len(items)))
    ]
    draw.shuffle(chosen)
    return chosen


def by_language(rows: Sequence[Row], make: Callable[[list[Row]], list[Any]]) -> dict[str, Any]:
    """Return what `make` makes of each language's rows."""
    return {lang: make([row for row in rows if row.language == lang]) for lang in TRAIN}


def read_examples(rows: Sequence[Row], mixture: Mixture) -> list[Any]:
    """Return balanced `ReadExample`s: answers, and passages of the same article without them."""
    from model.training.heads import ReadExample

    draw = random.Random(mixture.seed)
    siblings = Siblings(rows)

    def make(own: list[Row]) -> list[ReadExample]:
        answered = [row for row in own if row.answer]
        examples = []
        for row in answered:
            piece = around(row, row.paragraph, row.answer, mixture, draw)
            examples.append(ReadExample(row.question, piece, occurrences(piece, row.answer)))
        none = [
            (row, row.paragraph) for row in own if not row.answer
        ]  # asked so that the paragraph seems to answer (SQuAD 2)
        wanted = round(len(answered) * UNANSWERED / (1 - UNANSWERED))
        for row in draw.sample(answered, len(answered)):
            if len(none) >= wanted:
                break
            none += [(row, text) for text in siblings.nearest(row, 1)]
        for row, text in draw.sample(none, min(wanted, len(none))):
            examples.append(ReadExample(row.question, around(row, text, "", mixture, draw), ()))
        return examples

    return balanced(by_language(rows, make), mixture.spread, draw)


def rank_examples(rows: Sequence[Row], mixture: Mixture) -> list[Any]:
    """Return balanced `RankExample`s: the paragraph against its siblings."""
    from model.training.heads import RankExample

    draw = random.Random(mixture.seed)
    siblings = Siblings(rows)

    def make(own: list[Row]) -> list[RankExample]:
        examples = []
        for row in own:
            near = siblings.nearest(row, NEGATIVES) if row.answer else []
            if near:
                right = around(row, row.paragraph, row.answer, mixture, draw)
                others = tuple(around(row, text, "", mixture, draw) for text in near)
                examples.append(RankExample(row.question, right, others))
        return examples

    return balanced(by_language(rows, make), mixture.spread, draw)


def verify_examples(path: Path) -> list[Any]:
    """Return the `VerifyExample`s of a JSONL file with claim, evidence and label (1: supported)."""
    from model.training.heads import VerifyExample

    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [VerifyExample(row["claim"], row["evidence"], bool(row["label"])) for row in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no pairs ({error}): build them again.") from error


def make_task(role: Role, model: Any, arguments: argparse.Namespace) -> Any:  # noqa: ANN401
    """Return the task of a role with its train and dev examples."""
    from model.training.heads import RankTask, ReadTask, VerifyTask

    if role == "verify":
        if arguments.pairs is None:
            raise UsageError("verify needs pairs: name their folder with --pairs.")
        train, dev = (
            verify_examples(arguments.pairs / f"{part}.jsonl") for part in ("train", "dev")
        )
        return VerifyTask(model, train, dev[: 2 * DEV_ROWS])
    rows = train_rows(find_data(arguments.data))
    kept, aside = ([row for row in rows if is_dev(row.article) == dev] for dev in (False, True))
    make, task = (read_examples, ReadTask) if role == "read" else (rank_examples, RankTask)
    mixture = Mixture(arguments.seed, arguments.spread, arguments.shortest)
    dev = make(aside, Mixture())[: 2 * DEV_ROWS]  # the same rows whatever is trained on
    return task(model, make(kept, mixture)[: arguments.rows], dev)


def train_head(role: Role, arguments: argparse.Namespace) -> None:
    """Train, or go on, and save the head with its record."""
    from model.training.heads import HeadModel, HeadOptions, save_head
    from model.training.loop import TrainingOptions, train

    home = load_settings().home
    folder = prepare_e5_small(home)
    options = HeadOptions(dropout=arguments.dropout, seed=arguments.seed)
    model = HeadModel(folder, role, options)
    if arguments.start:
        model.start_from(arguments.start)
    task = make_task(role, model, arguments)
    print(json.dumps(task.describe()))
    record = train(
        task,
        TrainingOptions(
            seed=arguments.seed, epochs=arguments.epochs, minutes=arguments.minutes,
            batch_tokens=arguments.batch_tokens, accumulate=arguments.accumulate,
            learning_rate=arguments.rate, evaluate_every=arguments.evaluate_every,
        ),
        arguments.out,
    )  # fmt: skip
    target = arguments.out / "head"
    base = hash_folder(folder, home)
    save_head(model, target, base=E5_SMALL.name, base_sha256=base)
    record.save(target)
    label_adapter(target, role, E5_SMALL.name, base)
    print(json.dumps({key: asdict(record)[key] for key in ("steps", "stopped", "first", "best")}))


def average(folders: Sequence[Path], out: Path) -> None:
    """Save the mean of heads, with the last one's record and what it is the mean of."""
    from model.training.heads import average_heads

    records = [json.loads((folder / RECORD).read_text("utf-8")) for folder in folders]
    parts = [
        {key: record.get(key) for key in ("task", "options", "steps", "seconds", "commit")}
        | {"weights": read_adapter(folder).sha256}
        for folder, record in zip(folders, records, strict=True)
    ]
    average_heads(folders, out / "head")
    record = records[-1] | {"average_of": parts}
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (out / "head" / RECORD).write_text(text, "utf-8")


def open_head(folder: Path) -> CrossEncoder:
    """Return the head of a folder on the default encoder."""
    home = load_settings().home
    base = prepare_e5_small(home)
    shape = read_shape(base)
    if shape is None:
        raise UsageError(f"{base} is not the default encoder: remove it, it is prepared again.")
    bert = OnnxBert(base, shape)
    return CrossEncoder(bert, load_head(folder, bert, hash_folder(base, home)))


def measure_read(reader: CrossEncoder, data: Path, limit: int, seed: int) -> Iterator[str]:
    """Yield a line a figure: F1 and exact match with the gold paragraph, and who is answerable."""
    sets = {
        "xquad en": [case for case in load("xquad", data) if case.language == "en"],
        "xquad zh": [case for case in load("xquad", data) if case.language == "zh"],
        "drcd dev": cases_of(data / "drcd/drcd.dev.jsonl.gz"),
        "squad dev": [case for case in load("squad", data) if case.answerable],
    }
    for name, cases in sets.items():
        chosen = sample(cases, limit, seed)
        texts = answers_of(reader, chosen)
        clusters = [case.cluster for case in chosen]
        for metric in (f1, exact_match):
            values = [
                metric(text, case.answers, case.language)
                for text, case in zip(texts, chosen, strict=True)
            ]
            yield f"{name:10} {metric.__name__:12} {mean(values, clusters)}"
    chosen = sample(load("squad", data), 2 * limit, seed)
    margins = margins_of(reader, chosen)
    area = auroc([case.answerable for case in chosen], margins)
    right = [float((m > 0) == c.answerable) for m, c in zip(margins, chosen, strict=True)]
    share = sum(case.answerable for case in chosen) / len(chosen)
    yield f"squad dev  answerable   AUROC {area:.3f} n={len(chosen)} ({share:.0%} answerable)"
    yield f"squad dev  margin > 0   {mean(right, [case.cluster for case in chosen])}"


def cases_of(path: Path) -> list[Case]:
    """Return the cases of a file that `eval.datasets` does not name."""
    return [
        Case(row["id"], row["lang"], row["question"], tuple(row["answers"]), True, row["context"])
        for _, row in read_rows(path)
    ]


def answers_of(reader: CrossEncoder, cases: Sequence[Case]) -> list[str]:
    """Return the likeliest span of each case's gold paragraph, whatever its score."""
    pairs = [(case.question, case.gold_context or "") for case in cases]
    found = reader.read_pairs(pairs)
    return [
        text[one.start : one.end] if one else ""
        for one, (_, text) in zip(found, pairs, strict=True)
    ]


def margins_of(reader: CrossEncoder, cases: Sequence[Case]) -> list[float]:
    """Return how much likelier each case's best span is than that there is none."""
    found = reader.read_pairs([(case.question, case.gold_context or "") for case in cases])
    return [one.margin if one else float("-inf") for one in found]


def main() -> None:
    """Train and measure, or only measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--data", type=Path, help="folder of the question sets, else TETHER_DATA")
    parser.add_argument("--pairs", type=Path, help="folder with train.jsonl and dev.jsonl (verify)")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="folder of a head whose LoRA is gone on from")
    parser.add_argument(
        "--average", type=Path, nargs="+", help="folders of heads: save their mean, train nothing"
    )
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rows", type=int, help="at most so many examples")
    parser.add_argument(
        "--spread", type=float, default=1.0,
        help="a language has at most so many times the examples of the poorest",
    )  # fmt: skip
    parser.add_argument(
        "--shortest", type=float, default=1.0, help="times the shortest piece of a passage"
    )
    parser.add_argument("--rate", type=float, default=2e-3, help="learning rate at its highest")
    parser.add_argument("--batch-tokens", type=int, default=1536)
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--evaluate-every", type=int, default=0, help="steps")
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=200, help="dev cases of each set")
    parser.add_argument("--measure", action="store_true", help="only measure the head of --out")
    arguments = parser.parse_args()
    if arguments.average:
        average(arguments.average, arguments.out)
    elif not arguments.measure:
        train_head(arguments.role, arguments)
    if arguments.role == "read":
        reader = open_head(arguments.out / "head")
        for line in measure_read(
            reader, find_data(arguments.data), arguments.limit, arguments.seed
        ):
            print(line, flush=True)


if __name__ == "__main__":
    main()
