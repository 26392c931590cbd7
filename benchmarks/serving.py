"""Measure serving: askers at once against `tether serve`, and a plain app beside it, in one run.

    python -m benchmarks.serving --seconds 60 --out build/serving.jsonl
    python -m benchmarks.serving --stages tether --levels 1,16 --set reader.answers=beside

Askers are threads, each asking the next question as soon as the last is answered; every level has
its fixed seconds, and what is unfinished at the end is hung up and not counted. Level 1 is the
sequential rate, to which "gain" relates the others. Prints a row a level: answers a minute,
errors, seconds to the first piece (of a draft, or the answer where it was read and not drafted) and
to the answer, the longest place in the line, peak memory of the server. Questions go round; those
that were asked before find parts of their work in caches, so give many (--questions).
"""

import argparse
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from ingest.sources import expand
from ingest.web import WebOptions
from model.training.records import hardware, source_commit

ROOT = Path(__file__).resolve().parent.parent
COLLECTION = "serving-benchmark"
START_SECONDS = 600  # until a server answers: the first start of a machine converts weights


@dataclass(frozen=True, slots=True)
class Asked:
    """One question that was answered, or failed."""

    first: float  # seconds to the first piece
    seconds: float  # to the answer
    position: int = 0  # the first place in the line, 0 if there was no waiting
    error: str = ""


@dataclass(frozen=True, slots=True)
class Level:
    """What one level gave."""

    stage: str
    askers: int
    answers: int
    errors: int
    answers_per_minute: float
    gain: float  # over the first level of the stage
    first_p50: float
    first_p95: float
    answer_p50: float
    answer_p95: float
    longest_line: int
    peak_bytes: int  # of the server, since its start


# A question and when to hang up (of `time.monotonic`) to what came of it; None if it was hung up.
Ask = Callable[[str, float], Asked | None]


def run_level(ask: Ask, questions: Iterator[str], askers: int, seconds: float) -> list[Asked]:
    """Ask with so many threads for so long; return what was answered in time."""
    until = time.monotonic() + seconds
    done: list[Asked] = []
    lock = threading.Lock()

    def work() -> None:
        while time.monotonic() < until:
            with lock:
                question = next(questions)
            asked = ask(question, until)
            if asked is not None and time.monotonic() <= until:
                with lock:
                    done.append(asked)

    threads = [threading.Thread(target=work) for _ in range(askers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


def summarised(stage: str, askers: int, done: Sequence[Asked], seconds: float) -> Level:
    """Return the figures of a level, its gain still 1."""
    good = [one for one in done if not one.error]
    return Level(
        stage=stage,
        askers=askers,
        answers=len(good),
        errors=len(done) - len(good),
        answers_per_minute=round(60 * len(good) / seconds, 2),
        gain=1.0,
        first_p50=quantile([one.first for one in good], 0.5),
        first_p95=quantile([one.first for one in good], 0.95),
        answer_p50=quantile([one.seconds for one in good], 0.5),
        answer_p95=quantile([one.seconds for one in good], 0.95),
        longest_line=max((one.position for one in done), default=0),
        peak_bytes=0,
    )


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which that share lies, nan without any."""
    if len(values) < 2:
        return round(values[0], 3) if values else float("nan")
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return round(cuts[round(100 * share) - 1], 3)


# --- Tether --------------------------------------------------------------------------------------


def ask_tether(client: httpx.Client, question: str, until: float) -> Asked | None:
    """Ask `tether serve` for a stream."""
    body = {"question": question, "collection": COLLECTION, "stream": True}
    started, first, position = time.monotonic(), 0.0, 0
    try:
        with client.stream("POST", "/api/ask", json=body) as response:
            if response.status_code != 200:
                response.read()
                return _failed(started, response.json()["error"]["message"])
            for line in response.iter_lines():
                event, now = json.loads(line), time.monotonic()
                if now > until:
                    return None
                match event["event"]:
                    case "waiting":
                        position = position or event["position"]
                    case "drafted":
                        first = first or now - started
                    case "error":
                        return _failed(started, event["error"]["message"])
                    case "finished":
                        return Asked(first or now - started, now - started, position)
    except httpx.HTTPError as error:
        return _failed(started, f"{type(error).__name__}: {error}")
    return _failed(started, "the stream ended without an answer")


def _failed(started: float, message: str) -> Asked:
    return Asked(0.0, time.monotonic() - started, error=message)


@contextmanager
def tether(documents: list[Path], assignments: list[str]) -> Iterator[tuple[Ask, int]]:
    """Start `tether serve` over the documents; yield how to ask it, and its process number."""
    words = [word for one in assignments for word in ("--set", one)]
    with _process([sys.executable, "-m", "app.cli", *words, "serve"]) as (number, url):
        limits = httpx.Limits(max_connections=None)
        with httpx.Client(base_url=url, timeout=START_SECONDS, limits=limits) as client:
            client.delete(f"/api/collections/{COLLECTION}")
            found = [
                path for path in expand(documents, WebOptions()).found if isinstance(path, Path)
            ]
            files = [("files", (path.name, path.read_bytes())) for path in found]
            report = client.post("/api/ingest", files=files, data={"collection": COLLECTION})
            print(report.json()["counts"], flush=True)
            try:
                yield lambda question, until: ask_tether(client, question, until), number
            finally:
                client.delete(f"/api/collections/{COLLECTION}")


# --- The plain app -------------------------------------------------------------------------------


@contextmanager
def peer(documents: list[Path]) -> Iterator[tuple[Ask, int]]:
    """Start the plain app over the documents; yield how to ask it, and its process number."""
    from gradio_client import Client  # type: ignore[import-untyped]

    command = [sys.executable, "-m", "benchmarks.serving_peer", *map(str, documents)]
    with _process(command) as (number, url):
        local = threading.local()  # a client a thread: each keeps a session of its own

        def ask(question: str, until: float) -> Asked | None:
            if not hasattr(local, "client"):
                local.client = Client(url, verbose=False)
            started, first = time.monotonic(), 0.0
            job = local.client.submit(question, api_name="/chat")
            while not job.done():
                now = time.monotonic()
                first = first or (now - started if job.outputs() else 0.0)
                if now > until:
                    job.cancel()
                    return None
                time.sleep(0.01)
            seconds = time.monotonic() - started
            try:
                job.result()
            except Exception as error:  # whatever the app raised
                return _failed(started, f"{type(error).__name__}: {error}")
            return Asked(first or seconds, seconds)

        yield ask, number


# --- Processes -----------------------------------------------------------------------------------


@contextmanager
def _process(command: list[str]) -> Iterator[tuple[int, str]]:
    """Start a server on a free port and wait for its first line; yield its number and address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [*command, "--port", str(port)], cwd=ROOT, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, env=os.environ | {"GRADIO_ANALYTICS_ENABLED": "0"},
    ) as running:  # fmt: skip
        try:
            assert running.stdout is not None
            if not running.stdout.readline():
                raise SystemExit(f"did not start; run it by hand: {' '.join(command)}")
            yield running.pid, f"http://127.0.0.1:{port}"
        finally:
            running.terminate()
            try:
                running.wait(30)
            except subprocess.TimeoutExpired:
                running.kill()


def peak_bytes(number: int) -> int:
    """Return the most memory that a process has held, 0 on systems without /proc."""
    try:
        status = Path(f"/proc/{number}/status").read_text("ascii")
    except OSError:
        return 0
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


# --- Running -------------------------------------------------------------------------------------


def run_stage(
    stage: str,
    server: tuple[Ask, int],
    questions: list[str],
    levels: Sequence[int],
    seconds: float,
    warm_up: int,
) -> Iterator[Level]:
    """Yield the levels of one server, which it meets warm."""
    ask, number = server
    going_round = itertools.cycle(questions)
    for _ in range(warm_up):
        ask(next(going_round), time.monotonic() + START_SECONDS)
    first: Level | None = None
    for askers in levels:
        done = run_level(ask, going_round, askers, seconds)
        for message in sorted({one.error for one in done if one.error}):
            print(f"error: {message}", flush=True)
        level = summarised(stage, askers, done, seconds)
        first = first or level
        gain = level.answers_per_minute / (first.answers_per_minute or float("nan"))
        values: dict[str, Any] = {"gain": round(gain, 2), "peak_bytes": peak_bytes(number)}
        yield Level(**asdict(level) | values)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stages and print a row a level."""
    chosen = _arguments(arguments)
    lines = chosen.questions.read_text("utf-8").splitlines()
    questions = [json.loads(line)["question"] for line in lines if line.strip()]
    print(f"{len(questions)} questions, {chosen.seconds:g} s a level, commit {source_commit()}")
    stages = {
        "tether": lambda: tether(chosen.documents, chosen.assignments),
        "peer": lambda: peer(chosen.documents),
    }
    rows: list[Level] = []
    for stage in chosen.stages:
        levels = chosen.levels if stage == "tether" else chosen.peer_levels
        with stages[stage]() as server:
            for level in run_stage(
                stage, server, questions, levels, chosen.seconds, chosen.warm_up
            ):
                rows.append(level)
                print(json.dumps(asdict(level)), flush=True)
                if chosen.out:
                    _append(chosen.out, asdict(level) | {"seconds": chosen.seconds})
    best = {
        stage: max((row.answers_per_minute for row in rows if row.stage == stage), default=0.0)
        for stage in stages
    }
    if best["tether"] and best["peer"]:
        print(f"answers per minute, best level of each: x{best['tether'] / best['peer']:.2f}")


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(
            json.dumps(row | {"commit": source_commit(), "hardware": hardware("cpu")}) + "\n"
        )


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    numbers = _list_of(int)
    parser.add_argument("--documents", nargs="+", type=Path, default=[ROOT / "examples/knowledge"])
    parser.add_argument("--questions", type=Path, default=ROOT / "examples/questions.jsonl")
    parser.add_argument("--stages", type=_list_of(str), default=["tether", "peer"])
    parser.add_argument("--levels", type=numbers, default=[1, 4, 16, 64], help="askers at once")
    parser.add_argument("--peer-levels", type=numbers, default=[1, 4], help="the same, of the peer")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each level")
    parser.add_argument("--warm-up", type=int, default=8, help="questions before the first level")
    parser.add_argument("--set", dest="assignments", action="append", default=[], metavar="N=V")
    parser.add_argument("--out", type=Path, help="JSONL to append the levels to")
    return parser.parse_args(arguments)


def _list_of(kind: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    return lambda text: [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    main()
