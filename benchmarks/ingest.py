"""Speed and memory of an ingest, beside LangChain's usual recipe with the same encoder weights.

    python -m benchmarks.ingest --data ../shared/data --work build/ingest --out ingest.jsonl
    python -m benchmarks.ingest ... --chunks 500 --peer-chunks 100       # a quick look
    python -m benchmarks.ingest --memory --work build/ingest --out ingest.jsonl   # 1 GB, a stub

The peer: TextLoader, RecursiveCharacterTextSplitter, HuggingFaceEmbeddings, its FAISS store; once
with the splitter's defaults (1000 characters, 200 of overlap: "usual") and once with our chunk
length (200 tokens of the encoder, no overlap: "matched"). Chunks differ in size, so the headline is
the ratio at matched length, and characters and tokens a second stand beside it. The peer embeds a
seeded sample of `--peer-chunks` chunks and its time is extrapolated; reading and splitting are
measured in full. When 1% of the files have changed it rebuilds everything, as its users do.

Every stage is a process of its own, whose memory (its children's too) is sampled from /proc. A
stage that stands in the file for the same corpus is not run again.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.corpus import change_files, write_generated, write_passages
from eval.datasets import find_data
from ingest.chunking import ChunkingOptions
from ingest.pipeline import run
from retrieval.encoders import DEFAULT_ENCODER, EncoderIdentity, Vectors, load_encoder
from retrieval.index import DenseIndex
from retrieval.store import Collection, open_collection

Row = dict[str, Any]
STAGES = ("machine", "ours", "peer-matched", "peer-usual")
CHANGED_SHARE = 0.01
_LAYERS, _WIDTH, _WIDE = 12, 384, 1536  # of the default encoder


class StubEncoder:
    """Vectors from a hash of the text: no model, so that everything else is measured."""

    identity = EncoderIdentity("stub", hashlib.sha256(b"stub-1").hexdigest(), _WIDTH)

    def encode_queries(self, texts: list[str]) -> Vectors:
        return self.encode_passages(texts)

    def encode_passages(self, texts: list[str]) -> Vectors:
        vectors = np.empty((len(texts), _WIDTH), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
            vector[:] = np.random.default_rng(int.from_bytes(digest)).random(_WIDTH) - 0.5
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    def count_tokens(self, text: str) -> int:
        return len(text.encode("utf-8", "replace")) // 4


def main() -> None:
    """Run the stages that are missing in the file, then print the report."""
    options = _arguments()
    if options.stage:
        print(json.dumps(_stage(options)))
        return
    stages = ["memory"] if options.memory else list(STAGES)
    done = {row["stage"]: row for row in _rows(options.out) if row["corpus"] == _key(options)}
    for stage in stages:
        if stage not in done:
            print(f"{stage} ...", file=sys.stderr)
            done[stage] = _measured(stage, options)
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(done[stage]) + "\n")
    print("\n".join(report(done)))


def report(rows: Mapping[str, Row]) -> Iterator[str]:
    """Yield the lines of the report on the stages that were run."""
    for stage, row in rows.items():
        yield f"{stage}: " + ", ".join(
            f"{name} {value:,.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in row.items()
            if isinstance(value, float | int)
        )
    ours = rows.get("ours")
    for stage in ("peer-matched", "peer-usual"):
        if ours and (peer := rows.get(stage)):
            for unit in ("chunks", "characters", "tokens"):
                ratio = _rate(ours, unit) / _rate(peer, unit)
                yield f"fresh, {unit} a second, ours / {stage}: {ratio:.2f}"
            ratio = peer["seconds"] / ours["changed_seconds"]
            yield f"1% of the files changed, {stage} rebuilds: {ratio:.1f} times our time"
    if ours and (machine := rows.get("machine")):
        share = _rate(ours, "tokens") * flops_per_token(ours["tokens"] / ours["chunks"])
        share /= 1e9 * max(machine["numpy_gflops"], machine["torch_gflops"])
        yield f"share of the machine's matrix-product limit, whole ingest: {share:.0%}"


def flops_per_token(length: float) -> float:
    """Return the floating-point operations that the encoder spends on a token of such a text.

    A multiplication and an addition for each weight of the linear layers, and for each pair of
    tokens in the two products of attention.
    """
    linear = 2 * (4 * _WIDTH * _WIDTH + 2 * _WIDTH * _WIDE)
    return _LAYERS * (linear + 4 * length * _WIDTH)


def _stage(options: argparse.Namespace) -> Row:
    stages: dict[str, Callable[[argparse.Namespace], Row]] = {
        "machine": _machine,
        "ours": _ours,
        "peer-matched": _peer,
        "peer-usual": _peer,
        "memory": _memory,
    }
    return stages[options.stage](options)


def _machine(_: argparse.Namespace) -> Row:
    """Measure the products that an encoder is made of; the best of many is the limit."""
    import torch

    rng = np.random.default_rng(0)
    best = {"numpy_gflops": 0.0, "torch_gflops": 0.0}
    for inner, outer in ((_WIDTH, _WIDTH), (_WIDTH, _WIDE), (_WIDE, _WIDTH)):
        left = rng.random((2048, inner), np.float32)
        right = rng.random((inner, outer), np.float32)
        tensors = torch.from_numpy(left), torch.from_numpy(right)
        for name, product in (
            ("numpy_gflops", lambda a=left, b=right: a @ b),
            ("torch_gflops", lambda a=tensors[0], b=tensors[1]: a @ b),
        ):
            seconds = min(_seconds(product) for _ in range(15))
            best[name] = max(best[name], 2 * 2048 * inner * outer / seconds / 1e9)
    return {**best, "cores": os.cpu_count()}


def _ours(options: argparse.Namespace) -> Row:
    """Ingest everything into a new collection, then once more after some files changed."""
    folder, home = options.work / "corpus", options.work / "home"
    shutil.rmtree(home / "collections", ignore_errors=True)
    corpus = write_passages(options.data, folder, chunks=options.chunks, seed=options.seed)
    encoder = load_encoder(DEFAULT_ENCODER, _weights_home(options), options.device)
    with open_collection(home, "bench", encoder, create=True) as collection:
        embedded, seconds = _ingest(folder, collection)
        chunks = collection.count_chunks()
        texts = [
            c.chunk.text for c in collection.chunks_by_rowid(collection.rowids().tolist()).values()
        ]
        changed = change_files(corpus.files, share=CHANGED_SHARE, seed=options.seed)
        changed_embedded, changed_seconds = _ingest(folder, collection)
        _, unchanged_seconds = _ingest(folder, collection)
    return {
        "files": len(corpus.files),
        "chunks": chunks,
        "embedded": embedded,
        "characters": sum(map(len, texts)),
        "tokens": sum(map(encoder.count_tokens, texts)),
        "seconds": seconds,
        "changed_files": len(changed),
        "changed_embedded": changed_embedded,
        "changed_seconds": changed_seconds,
        "unchanged_seconds": unchanged_seconds,
    }


def _ingest(folder: Path, collection: Collection) -> tuple[int, float]:
    """Return how many chunks were embedded and the seconds, the saved index included."""
    start = time.perf_counter()
    outcome = run([folder], collection, ChunkingOptions())
    DenseIndex(collection).save()
    seconds = time.perf_counter() - start
    if outcome.failed:
        raise SystemExit(f"{len(outcome.failed)} files failed: {outcome.failed[0].message}")
    return sum(each.embedded for each in outcome.outcomes), seconds


def _peer(options: argparse.Namespace) -> Row:
    """Load, split and embed as LangChain's documentation shows it, a sample of the chunks."""
    from langchain_community.document_loaders import TextLoader
    from langchain_community.embeddings import HuggingFaceEmbeddings
    from langchain_community.vectorstores import FAISS
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    encoder = load_encoder(DEFAULT_ENCODER, _weights_home(options), "cpu")
    model = _weights_home(options) / "weights" / DEFAULT_ENCODER
    folder = options.work / "peer-corpus"
    corpus = write_passages(options.data, folder, chunks=options.chunks, seed=options.seed)
    embeddings = HuggingFaceEmbeddings(
        model_name=str(model), model_kwargs={"device": _torch_device(options)}
    )
    splitter = RecursiveCharacterTextSplitter(chunk_size=1000, chunk_overlap=200)
    if options.stage == "peer-matched":
        splitter = RecursiveCharacterTextSplitter(
            chunk_size=ChunkingOptions().max_tokens,
            chunk_overlap=0,
            length_function=encoder.count_tokens,
        )
    start = time.perf_counter()
    documents = [TextLoader(str(path), encoding="utf-8").load()[0] for path in corpus.files]
    chunks = splitter.split_documents(documents)
    split_seconds = time.perf_counter() - start
    count = min(options.peer_chunks or len(chunks), len(chunks))
    sample = random.Random(options.seed).sample(chunks, count)
    start = time.perf_counter()
    FAISS.from_documents(sample, embeddings).save_local(str(options.work / "peer-index"))
    embed_seconds = time.perf_counter() - start
    texts = [chunk.page_content for chunk in chunks]
    return {
        "files": len(corpus.files),
        "chunks": len(chunks),
        "characters": sum(map(len, texts)),
        "tokens": sum(map(encoder.count_tokens, texts)),
        "sampled_chunks": count,
        "sampled_seconds": embed_seconds,
        "split_seconds": split_seconds,
        "seconds": split_seconds + embed_seconds * len(chunks) / max(count, 1),
    }


def _memory(options: argparse.Namespace) -> Row:
    """Ingest generated text with the stub encoder; the caller watches the memory."""
    folder, home = options.work / "generated", options.work / "home"
    shutil.rmtree(home / "collections", ignore_errors=True)
    corpus = write_generated(folder, size=options.bytes, seed=options.seed)
    with open_collection(home, "memory", StubEncoder(), create=True) as collection:
        embedded, seconds = _ingest(folder, collection)
        chunks = collection.count_chunks()
    return {
        "files": len(corpus.files),
        "characters": corpus.characters,
        "chunks": chunks,
        "embedded": embedded,
        "seconds": seconds,
    }


def _measured(stage: str, options: argparse.Namespace) -> Row:
    """Run a stage in a process of its own and add what memory it took."""
    command = [sys.executable, "-m", "benchmarks.ingest", *sys.argv[1:], "--stage", stage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        watch = MemoryWatch(process.pid)
        output, _ = process.communicate()
        watch.stop()
    if process.returncode:
        raise SystemExit(f"the stage {stage} failed")
    return {
        "stage": stage,
        "corpus": _key(options),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "load": os.getloadavg()[0],
        **json.loads(output.splitlines()[-1]),
        "peak_mb": max(watch.samples, default=0.0),
        "memory_mb": _thinned(watch.samples, 20),
    }


class MemoryWatch:
    """Samples the resident memory of a process and its descendants twice a second, in MB.

    Pages that processes share count in each, so the sum is an upper bound. Linux only: elsewhere
    there are no samples.
    """

    def __init__(self, pid: int) -> None:
        self.samples: list[float] = []
        self._pid = pid
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while Path("/proc/self/statm").exists() and not self._stopped.wait(0.5):
            self.samples.append(sum(map(_resident, family(self._pid))) / 1e6)


def family(pid: int) -> list[int]:
    """Return the ids of a process and of all its descendants, those that are alive."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:  # the name, in brackets, may hold anything
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            continue  # it ended meanwhile
    found = [pid]
    for member in found:  # grows while it is walked through
        found += [child for child, parent in parents.items() if parent == member]
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def _thinned(samples: Sequence[float], count: int) -> list[float]:
    """Return the peaks of `count` equal stretches of the samples, fewer if there are fewer."""
    step = max(1, -(-len(samples) // count))
    return [round(max(samples[i : i + step])) for i in range(0, len(samples), step)]


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _rate(row: Row, unit: str) -> float:
    return float(row[unit]) / float(row["seconds"])


def _rows(path: Path) -> list[Row]:
    """Return the whole rows of a file; a last one that was cut off is left out."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines if line]


def _key(options: argparse.Namespace) -> str:
    """Name what a stage's figures depend on."""
    if options.memory:
        return f"generated {options.bytes} bytes, seed {options.seed}"
    peer = options.peer_chunks or "all"
    return f"{options.chunks} chunks, peer {peer}, seed {options.seed}, {options.device}"


def _weights_home(options: argparse.Namespace) -> Path:
    return Path(os.environ.get("TETHER_HOME") or options.work / "home")


def _torch_device(options: argparse.Namespace) -> str:
    import torch

    return "cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.ingest", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", type=Path, help="folder of the public sets, else TETHER_DATA")
    parser.add_argument("--work", type=Path, required=True, help="folder for corpus and store")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, appended")
    parser.add_argument("--chunks", type=int, default=20_000)
    parser.add_argument("--peer-chunks", type=int, help="most chunks that the peer embeds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="peak memory on generated text")
    parser.add_argument("--bytes", type=int, default=1 << 30, help="of generated text")
    parser.add_argument("--stage", choices=[*STAGES, "memory"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.memory:
        options.data = find_data(options.data)
    return options


if __name__ == "__main__":
    main()
