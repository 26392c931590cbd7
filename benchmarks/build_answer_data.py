"""Build the data that the `answer` adapter is trained on.

    python -m benchmarks.build_answer_data --data DATA --out DIR --rows 12000 --seed 0

Reads the training rows of sets whose licence allows it, without the paragraphs that are measured
on, puts the paragraphs of each side and language into collections, and writes `train.jsonl`,
`dev.jsonl` (prompt, completion, kind, language, group) and `manifest.json` (counts, hashes, seed,
licences). Vectors and collections stay in DIR/cache, so that a second build embeds nothing.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from app.settings import load_settings
from benchmarks.train_heads import is_dev
from benchmarks.train_heads import train_rows as rows_of_heads
from eval.datasets import QUESTION_LICENCES, QUESTION_SETS, find_data, question_rows
from ingest.chunking import ChunkingOptions, split
from ingest.documents import Document, content_id
from ingest.pipeline import Item
from model.evidence import sentences_of
from model.prompts import TRAINED
from model.training.questions import BuildOptions, Example, Mixture, QuestionRow, build
from model.verifier import OverlapVerifier
from model.weights import prepare_gemma_folder
from retrieval.encoders import DEFAULT_ENCODER, Encoder, EncoderIdentity, Vectors, load_encoder
from retrieval.passages import Passage
from retrieval.search import CollectionSearcher
from retrieval.store import open_collection

MEASURED = ("xquad", "squad")  # sets whose paragraphs stay unseen
BATCH = 2_000  # texts embedded between two writes of the cache


class CachingEncoder:
    """An encoder that embeds each text once: sentences return in many examples."""

    def __init__(self, inner: Encoder, path: Path) -> None:
        """Wrap an encoder; passages' vectors are kept at `path` (safetensors)."""
        self._inner = inner
        self._path = path
        self._passages: dict[bytes, Vectors] = _read_vectors(path)
        self._queries: dict[bytes, Vectors] = {}

    @property
    def identity(self) -> EncoderIdentity:
        """The identity of the encoder inside."""
        return self._inner.identity

    def count_tokens(self, text: str) -> int:
        """Count as the encoder inside does."""
        return self._inner.count_tokens(text)

    def encode_queries(self, texts: list[str]) -> Vectors:
        """Return unit vectors of questions, shape (len(texts), dimension)."""
        return _cached(texts, self._queries, self._inner.encode_queries)

    def encode_passages(self, texts: list[str]) -> Vectors:
        """Return unit vectors of passages, shape (len(texts), dimension)."""
        return _cached(texts, self._passages, self._inner.encode_passages)

    def prepare(self, texts: Sequence[str]) -> None:
        """Embed many texts at once and keep them on disk."""
        new = [text for text in dict.fromkeys(texts) if _digest(text) not in self._passages]
        for start in tqdm(range(0, len(new), BATCH), desc="vectors", mininterval=5):
            self.encode_passages(new[start : start + BATCH])
            self.save()

    def save(self) -> None:
        """Write the passages' vectors."""
        from safetensors.numpy import save_file

        keys = np.frombuffer(b"".join(self._passages), dtype=np.uint8).reshape(-1, 32)
        part = self._path.with_suffix(".part")
        save_file({"keys": keys, "vectors": np.stack(list(self._passages.values()))}, part)
        part.replace(self._path)


def _cached(
    texts: Sequence[str], kept: dict[bytes, Vectors], encode: Callable[[list[str]], Vectors]
) -> Vectors:
    new = [text for text in dict.fromkeys(texts) if _digest(text) not in kept]
    if new:
        kept.update(zip(map(_digest, new), encode(new), strict=True))
    return np.stack([kept[_digest(text)] for text in texts])


def _read_vectors(path: Path) -> dict[bytes, Vectors]:
    if not path.exists():
        return {}
    from safetensors.numpy import load_file

    tensors = load_file(path)
    keys = tensors["keys"].tobytes()
    return {keys[32 * i : 32 * i + 32]: row for i, row in enumerate(tensors["vectors"])}


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


@dataclass(frozen=True, slots=True)
class Tools:
    """What examples are built with."""

    cache: Path
    encoder: CachingEncoder
    count_tokens: Callable[[str], int]
    options: BuildOptions

    def build(self, rows: Sequence[QuestionRow], side: str, most: int) -> list[Example]:
        """Return the examples of one side, over collections of that side's paragraphs alone."""
        searches = {}
        for language in ("en", "zh"):
            texts = list(dict.fromkeys(r.context for r in rows if r.language == language))
            searches[language] = self._searcher(f"{side}-{language}", texts)
        of_question = {row.question: row.language for row in rows}

        def search(query: str, *, top_k: int) -> list[Passage]:
            return searches[of_question[query]](query, top_k=top_k)

        return build(
            rows,
            search=search,
            verifier=OverlapVerifier(self.encoder),
            count_tokens=self.count_tokens,
            most=most,
            options=self.options,
        )

    def _searcher(self, name: str, texts: Sequence[str]) -> Callable[..., list[Passage]]:
        """Return the search over a collection that holds exactly these paragraphs."""
        name = f"{name}-{content_id(''.join(texts))[:12]}"
        collection = open_collection(self.cache, name, self.encoder, create=True)
        items = [self._item(text) for text in texts]
        passages = [Passage(1, c, "", "", 0.0) for item in items for c in item.chunks]
        sentences = [sentence.text for sentence in sentences_of(passages)]
        self.encoder.prepare([*(one.chunk.text for one in passages), *sentences])
        known = set(collection.uris())
        collection.add_all([i for i in items if i.uri not in known], join_similar=False)
        return CollectionSearcher(collection).search

    def _item(self, text: str) -> Item:
        identity = content_id(text)
        document = Document(identity, f"paragraph:{identity}", "", text, "und", "text/plain")
        chunks = split(document, self.encoder.count_tokens, ChunkingOptions())
        return Item(document.uri, identity, document, chunks)


def sampled(rows: Sequence[QuestionRow], most: int | None, seed: int) -> list[QuestionRow]:
    """Return the rows of at most so many paragraphs of each language, drawn by their hashes."""
    kept: set[str] = set()
    for language in ("en", "zh"):
        texts = {row.context for row in rows if row.language == language}
        kept |= set(sorted(texts, key=lambda text: _digest(f"{seed}:{content_id(text)}"))[:most])
    return [row for row in rows if row.context in kept]


def parted(rows: Sequence[QuestionRow], data: Path) -> tuple[list[QuestionRow], list[QuestionRow]]:
    """Return (train, dev): dev are articles that no head learns; thresholds are fitted there."""
    aside = {row.paragraph for row in rows_of_heads(data) if is_dev(row.article)}
    groups = {row.group for row in rows if row.context in aside}
    dev = [row for row in rows if row.group in groups]
    return [row for row in rows if row.group not in groups], dev


def write_examples(path: Path, examples: Sequence[Example]) -> dict[str, Any]:
    """Write JSONL and return what the manifest says of it."""
    lines = [json.dumps(asdict(example), ensure_ascii=False) + "\n" for example in examples]
    path.write_text("".join(lines), encoding="utf-8")
    counts = Counter(f"{example.language} {example.kind}" for example in examples)
    return {
        "examples": len(examples),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "counts": dict(sorted(counts.items())),
        "groups": len({example.group for example in examples}),
    }


def _counter(home: Path) -> Callable[[str], int]:
    """Return what counts the default generator's tokens, without loading the generator."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(prepare_gemma_folder(home) / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder of the question sets.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where to write.")
@click.option("--rows", default=12_000, show_default=True, help="Training examples, in all.")
@click.option("--dev", default=300, show_default=True, help="Dev examples, both languages.")
@click.option("--paragraphs", type=int, help="Most paragraphs of a language; all if not given.")
@click.option("--refusals", type=click.FloatRange(0, 1), help="Share of rows that refuse.")
@click.option(
    "--least-budget", default=BuildOptions().least_budget, show_default=True, help="Passage tokens."
)
@click.option("--seed", default=0, show_default=True)
@click.option("--home", type=click.Path(path_type=Path), help="Tether's home, for its weights.")
def main(
    data: Path | None,
    out: Path,
    rows: int,
    dev: int,
    paragraphs: int | None,
    refusals: float | None,
    least_budget: int,
    seed: int,
    home: Path | None,
) -> None:
    """Write train.jsonl, dev.jsonl and manifest.json."""
    home = home or load_settings({}).home
    folder = find_data(data)
    everything = [
        row for name in QUESTION_SETS for row in question_rows(name, folder, without=MEASURED)
    ]
    train_rows, dev_rows = parted(sampled(everything, paragraphs, seed), folder)
    cache = out / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    inner = load_encoder(DEFAULT_ENCODER, home)
    encoder = CachingEncoder(inner, cache / f"{inner.identity.weights_hash[:12]}.safetensors")
    mixture = Mixture() if refusals is None else Mixture().with_refusals(refusals)
    options = BuildOptions(mixture=mixture, least_budget=least_budget, seed=seed)
    tools = Tools(cache, encoder, _counter(home), options)
    manifest = {
        "seed": seed,
        "licences": QUESTION_LICENCES,
        "without_paragraphs_of": MEASURED,
        "prompt": asdict(TRAINED),
        "options": asdict(options),
        "dev": write_examples(out / "dev.jsonl", tools.build(dev_rows, "dev", dev)),
        "train": write_examples(out / "train.jsonl", tools.build(train_rows, "train", rows)),
    }
    encoder.save()
    text = json.dumps(manifest, ensure_ascii=False, indent=2) + "\n"
    (out / "manifest.json").write_text(text, encoding="utf-8")
    click.echo(text)


if __name__ == "__main__":
    main()
