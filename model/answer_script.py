#!/usr/bin/env python3
"""Answers a question from passages with the model.gguf beside this file, and cites them.

    pip install xllamacpp
    python answer.py "Who built the bridge?" notes.txt more.txt
    python answer.py "桥是谁造的？" < notes.txt

Blank lines part the passages. The likeliest sentences of all passages go into the prompt; the
answer's marks [1], [2] ... number the passages, which are printed below it. It knows nothing but
this folder: no index, no verifier. `tether export FOLDER` wrote it and filled in PROMPTS.
"""

import math
import re
import sys
from pathlib import Path
from typing import Any

PROMPTS: dict[str, dict[str, Any]] = {}

USAGE = "usage: python answer.py QUESTION [FILE ...]   (no file: passages from standard input)"


def terms(text: str) -> set[str]:
    """Return the words of a text, and the pairs of Chinese characters."""
    chinese = re.findall("[\u4e00-\u9fff]+", text)
    pairs = {run[i : i + 2] for run in chinese for i in range(max(1, len(run) - 1))}
    return pairs | set(re.findall(r"[^\W\u4e00-\u9fff]+", text.lower()))


def likeliest(question: str, passages: list[str], budget: int) -> dict[int, str]:
    """Return by number what of each passage fits the budget, the likeliest passage last.

    A sentence weighs as much as the rare terms that it shares with the question; the sentence
    after a weighty one comes along, because answers often stand there.

    Args:
        question: What is asked.
        passages: Their texts; the first has number 1.
        budget: Most tokens, counted as a word or a Chinese character each, and a half.
    """
    cut = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])|\n")
    parts = [
        (number, " ".join(sentence.split()))
        for number, passage in enumerate(passages, start=1)
        for sentence in cut.split(passage)
        if sentence.strip()
    ]
    found = [terms(text) & terms(question) for _, text in parts]
    rarity = {
        term: math.log(1 + len(parts) / sum(term in others for others in found))
        for term in set().union(*found)
    }
    own = [sum(rarity[term] for term in shared) for shared in found]
    weight = [
        max(mine, 0.6 * own[i - 1] if i and parts[i - 1][0] == parts[i][0] else 0.0)
        for i, mine in enumerate(own)
    ]
    chosen: list[int] = []
    for i in sorted(range(len(parts)), key=lambda i: (-weight[i], i)):
        size = 1.5 * len(re.findall("[\u4e00-\u9fff]|[^\\W\u4e00-\u9fff]+", parts[i][1]))
        if not chosen or size <= budget:
            chosen.append(i)
            budget -= int(size)
    best = {parts[i][0]: weight[i] for i in sorted(chosen, key=weight.__getitem__)}
    texts: dict[int, str] = {}
    for i in sorted(chosen):
        number, text = parts[i]
        texts[number] = f"{texts[number]} {text}" if number in texts else text
    return dict(sorted(texts.items(), key=lambda item: best[item[0]]))


def complete(prompt: str, stop: list[str]) -> str:
    """Return what the model writes after a prompt."""
    try:
        import xllamacpp
    except ImportError:
        raise SystemExit("error: xllamacpp is not installed; pip install xllamacpp") from None

    params = xllamacpp.CommonParams()
    params.model.path = str(Path(__file__).resolve().parent / "model.gguf")
    params.n_ctx, params.n_parallel, params.verbosity = 4096, 1, -1
    params.warmup = params.ui = False
    server = xllamacpp.Server(params)
    request = {"prompt": prompt, "max_tokens": 64, "temperature": 0.0, "stop": stop}
    reply = server.handle_completions(request)
    if "error" in reply:
        raise SystemExit(f"error: llama.cpp: {reply['error']}")
    return str(reply["choices"][0]["text"]).strip()


def marked(text: str, shown: dict[int, str]) -> str:
    """Return an answer with the mark of the passage that holds its words, if it has none."""
    if re.search(r"\[\d+\]", text):
        return text
    words = text.rstrip(".。").casefold()
    holding = [number for number, passage in shown.items() if words and words in passage.casefold()]
    return f"{text} [{holding[-1]}]" if holding else text


def main(arguments: list[str]) -> None:
    """Answer the question and print the passages that are cited."""
    if not arguments or arguments[0] in ("-h", "--help") or not arguments[0].strip():
        raise SystemExit(USAGE)
    question, files = arguments[0].strip(), arguments[1:]
    try:
        given = [Path(name).read_bytes() for name in files] or [sys.stdin.buffer.read()]
    except OSError as error:
        raise SystemExit(f"error: cannot read {error.filename}: {error.strerror}") from None
    texts = [one.decode("utf-8-sig", "replace") for one in given]
    parts = [part.strip() for text in texts for part in re.split(r"\n\s*\n", text)]
    passages = [part for part in parts if part]
    if not passages:
        raise SystemExit("error: there is no text to answer from; name a file that holds some")
    form = PROMPTS["zh" if re.search("[\u4e00-\u9fff]", question) else "en"]
    shown = likeliest(question, passages, form["budget"])
    numbered = "\n".join(f"[{number}] {text}" for number, text in shown.items())
    # A name in angle brackets would become one of the model's control tokens.
    numbered, asked = (re.sub(r"<(?=[\w/|])", "< ", text) for text in (numbered, question))
    prompt = form["text"].replace("<passages>", numbered).replace("<question>", asked)
    answer = marked(complete(prompt, form["stop"]), shown)
    lines = [answer]
    for number in sorted({int(mark) for mark in re.findall(r"\[(\d+)\]", answer)}):
        if 0 < number <= len(passages):
            lines.append(f"[{number}] {' '.join(passages[number - 1].split())[:200]}")
    sys.stdout.buffer.write(("\n".join(lines) + "\n").encode())


if __name__ == "__main__":
    main(sys.argv[1:])
