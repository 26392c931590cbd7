"""The peer of `benchmarks.serving`: a plain transformers + Gradio app over the same documents.

    python -m benchmarks.serving_peer --port 7999 examples/knowledge

What a tutorial would write: split the texts, embed them with sentence-transformers, put the five
nearest pieces into a prompt, stream from `generate`, wrap it in `gr.ChatInterface`. The weights are
Tether's own, in float32; Gradio's own queue, one question at a time. Nothing is checked or cited.
"""

import argparse
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.settings import load_settings
from ingest.loaders import load
from ingest.sources import expand
from ingest.web import WebOptions
from model.weights import prepare_gemma_folder
from retrieval.e5 import prepare_e5_small

PIECES = 5  # in a prompt
CHARACTERS = 500  # of a piece
NEW_TOKENS = 64  # as many as Tether's default


def texts_of(paths: list[Path]) -> list[str]:
    """Return the texts of files and folders."""
    found = expand(paths, WebOptions()).found
    return [load(path).text for path in found if isinstance(path, Path)]


def build(paths: list[Path], home: Path) -> Any:  # noqa: ANN401 - a gradio page
    """Return the app, its models loaded and its pieces embedded."""
    import gradio as gr
    from langchain_text_splitters import RecursiveCharacterTextSplitter
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    folder = str(prepare_gemma_folder(home))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    encoder = SentenceTransformer(str(prepare_e5_small(home)), device="cpu")
    splitter = RecursiveCharacterTextSplitter(chunk_size=CHARACTERS, chunk_overlap=0)
    pieces = [piece for text in texts_of(paths) for piece in splitter.split_text(text)]
    vectors = encoder.encode_document(pieces, normalize_embeddings=True)  # (pieces, dimension)

    def respond(question: str, history: list[Any]) -> Iterator[str]:
        del history
        cosines = vectors @ encoder.encode_query(question, normalize_embeddings=True)
        nearest = [pieces[i] for i in (-cosines).argsort()[:PIECES]]
        prompt = "\n\n".join(nearest) + f"\n\nQuestion: {question}\nAnswer:"
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        options = dict(
            **tokenizer(prompt, return_tensors="pt"), streamer=streamer,
            max_new_tokens=NEW_TOKENS, do_sample=False,
        )  # fmt: skip
        threading.Thread(target=model.generate, kwargs=options).start()
        text = ""
        for new in streamer:
            text += new
            yield text

    return gr.ChatInterface(respond, analytics_enabled=False, api_name="chat")


def main() -> None:
    """Serve the app until it is killed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("documents", nargs="+", type=Path, help="files and folders")
    parser.add_argument("--port", type=int, required=True, help="TCP port on 127.0.0.1")
    chosen = parser.parse_args()
    os.environ["no_proxy"] = "127.0.0.1,localhost"
    app = build(chosen.documents, load_settings().home)
    app.queue(max_size=None).launch(
        server_name="127.0.0.1", server_port=chosen.port, quiet=True, prevent_thread_lock=True
    )
    print("ready", flush=True)
    app.block_thread()


if __name__ == "__main__":
    main()
