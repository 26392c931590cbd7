"""Generators continue a prompt, behind one narrow interface.

Backends: llama.cpp in this process, transformers (causal and seq2seq), any OpenAI-compatible
server, and a scripted one for tests. Knows nothing of passages, claims or verification.
"""

import json
import logging
import queue
import secrets
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ingest.errors import GeneratorError, SettingsError, WeightsError
from model.prompts import Prompt

logger = logging.getLogger(__name__)

PromptStyle = Literal["auto", "completion", "chat"]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next token is chosen."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    temperature: float = 0.7  # sampling only
    top_p: float = 0.95  # sampling only, share of probability mass kept
    seed: int = 0  # sampling only
    beams: int = 4  # beam search only, transformers backend
    max_new_tokens: int = 64


@dataclass(frozen=True, slots=True)
class GeneratorIdentity:
    """What generates: shown by `tether models` and written to every record."""

    name: str
    backend: str  # "llama.cpp", "transformers", "openai" or "scripted"
    device: str


class Generator(Protocol):
    """Continues a prompt; stops at the prompt's stop strings, which are not emitted."""

    @property
    def identity(self) -> GeneratorIdentity:
        """Name, backend and device."""
        ...

    def stream(self, prompt: Prompt, decoding: Decoding) -> Iterator[str]:
        """Yield pieces of the continuation as they are decoded.

        Raises:
            GeneratorError: The backend failed or could not be reached.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of this generator's tokens in the text."""
        ...


class ScriptedGenerator:
    """Says what it is told to, word by word: the fake for fast tests.

    `replies` maps a part of the prompt's user turn to the reply; `default` answers the rest.
    Prompts are kept in `prompts`.
    """

    def __init__(self, replies: Mapping[str, str] | None = None, default: str = "") -> None:
        """Keep the replies."""
        self.replies = dict(replies or {})
        self.default = default
        self.prompts: list[Prompt] = []

    @property
    def identity(self) -> GeneratorIdentity:
        """The name "scripted"."""
        return GeneratorIdentity("scripted", "scripted", "cpu")

    def stream(self, prompt: Prompt, decoding: Decoding) -> Iterator[str]:
        """Yield the first reply whose key stands in the user turn, in pieces of four characters."""
        self.prompts.append(prompt)
        reply = next((r for key, r in self.replies.items() if key in prompt.user), self.default)
        for start in range(0, len(reply), 4):
            yield reply[start : start + 4]

    def count_tokens(self, text: str) -> int:
        """Count a token for every four bytes, rounded up: close to real tokenizers."""
        return (len(text.encode()) + 3) // 4


class LlamaCppGenerator:
    """A GGUF file run by llama.cpp inside this process (xllamacpp).

    llama.cpp always opens a loopback port for its own HTTP interface; a random key closes it to
    everyone but this object. Parallel calls queue for one slot, whose cache keeps the last prompt.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str,
        context_tokens: int = 4096,
        threads: int = 0,
        gpu_layers: int = 0,
        style: PromptStyle = "auto",
    ) -> None:
        """Load the model.

        Args:
            path: The GGUF file.
            name: The name to show.
            context_tokens: Longest prompt and continuation together, in tokens.
            threads: CPU threads; 0 takes every core this process may use.
            gpu_layers: Layers to put on a GPU, if this build of llama.cpp has one.
            style: "chat" applies the file's chat template; "auto" does so if it looks instructed.

        Raises:
            WeightsError: The file is missing or is no model that llama.cpp can read.
        """
        if not path.is_file():
            raise WeightsError(f"no GGUF file at {path}; set generator.model to an existing file")
        import httpx

        self._name, self._style = name, style
        self._device = "gpu" if gpu_layers else "cpu"
        key = secrets.token_hex(16)
        self._server = _start_llama_server(path, key, context_tokens, threads, gpu_layers)
        self._http = httpx.Client(
            base_url=self._server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,  # a proxy must never see loopback traffic
        )
        self._lock = threading.Lock()

    @property
    def identity(self) -> GeneratorIdentity:
        """The name given, run by llama.cpp."""
        return GeneratorIdentity(self._name, "llama.cpp", self._device)

    def stream(self, prompt: Prompt, decoding: Decoding) -> Iterator[str]:
        """Yield pieces as llama.cpp decodes them; leaving the loop early stops the decoding."""
        if decoding.strategy == "beam":
            raise SettingsError(
                "llama.cpp has no beam search; set decoding.strategy = greedy or generator.backend"
                " = transformers"
            )
        request: dict[str, Any] = {
            "max_tokens": decoding.max_new_tokens,
            "stop": list(prompt.stop),
            "stream": True,
            **_openai_sampling(decoding),
        }
        if self._style == "chat":
            request["messages"] = prompt.as_messages()
            handle = self._server.handle_chat_completions
        else:
            request["prompt"] = prompt.as_text()
            handle = self._server.handle_completions
        with self._lock:
            yield from _pull(handle, request)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens, as llama.cpp cuts the text."""
        reply = self._http.post("/tokenize", json={"content": text, "parse_special": False})
        if reply.status_code != 200:
            raise GeneratorError(f"llama.cpp could not cut a text into tokens: {reply.text[:200]}")
        return len(reply.json()["tokens"])


def _start_llama_server(
    path: Path, key: str, context_tokens: int, threads: int, gpu_layers: int
) -> Any:  # noqa: ANN401 - xllamacpp ships no types
    """Return xllamacpp's in-process server for one model."""
    import os

    import xllamacpp

    threads = threads or len(os.sched_getaffinity(0))
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = context_tokens
    params.n_parallel = 1
    params.n_gpu_layers = gpu_layers
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 256  # its default would keep 8 GiB of old prompts
    params.warmup = False
    params.verbosity = -1
    params.ui = False
    params.endpoint_slots = False
    params.api_keys = [key]
    try:
        return xllamacpp.Server(params)
    except RuntimeError as error:
        raise WeightsError(
            f"llama.cpp cannot load {path}; set generator.model to a sound GGUF file"
        ) from error


def _pull(handle: Any, request: dict[str, Any]) -> Iterator[str]:  # noqa: ANN401
    """Turn llama.cpp's callback into an iterator; a closed iterator stops the decoding."""
    pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def on_chunk(chunk: Mapping[str, Any]) -> bool:
        if "error" in chunk:
            pieces.put(GeneratorError(f"llama.cpp: {chunk['error'].get('message', chunk)}"))
        else:
            pieces.put(_chunk_text(chunk))
        return stopped.is_set()

    def work() -> None:
        try:
            result = handle(request, on_chunk)
            if isinstance(result, dict) and "error" in result:
                raise GeneratorError(f"llama.cpp: {result['error'].get('message', result)}")
            pieces.put(None)
        except BaseException as error:  # handed over to the reading thread, never lost
            pieces.put(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    try:
        while (piece := pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise piece
            if piece:
                yield piece
    finally:
        stopped.set()
        worker.join()


def _chunk_text(chunk: Mapping[str, Any]) -> str:
    """Return the text of one OpenAI-style streaming chunk, of either endpoint."""
    choices = chunk.get("choices") or [{}]
    choice = choices[0]
    text = choice.get("text")
    return str(text if text is not None else (choice.get("delta") or {}).get("content") or "")


def _openai_sampling(decoding: Decoding) -> dict[str, Any]:
    """Return the sampling fields of an OpenAI-style request."""
    if decoding.strategy == "sample":
        return {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "seed": decoding.seed,
        }
    return {"temperature": 0.0}


class TransformersGenerator:
    """Any Hugging Face causal or seq2seq language model, by local folder or hub id."""

    def __init__(
        self,
        model: str,
        *,
        name: str,
        device: str = "auto",
        style: PromptStyle = "auto",
    ) -> None:
        """Load the model and its tokenizer; safetensors only, no code from the model's folder.

        Raises:
            WeightsError: There is no such folder, or the hub cannot be reached.
        """
        import torch
        import transformers
        from transformers import AutoConfig, AutoTokenizer

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._name = name
        self._device = _pick_device(device)
        dtype = torch.bfloat16 if self._device == "cuda" else torch.float32
        local = Path(model).is_dir()
        try:
            config = AutoConfig.from_pretrained(model, local_files_only=local)
            self._is_seq2seq = bool(config.is_encoder_decoder)
            kind = "AutoModelForSeq2SeqLM" if self._is_seq2seq else "AutoModelForCausalLM"
            loader = getattr(transformers, kind)
            self._tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=local)
            self._model = loader.from_pretrained(
                model, dtype=dtype, use_safetensors=True, local_files_only=local
            ).to(self._device)
        except (OSError, ValueError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise WeightsError(
                f"cannot load the generator {model}: {reason}; set generator.model to a folder,"
                " a hub id that can be reached, or a GGUF file"
            ) from error
        self._model.eval()
        has_template = bool(getattr(self._tokenizer, "chat_template", None))
        self._use_chat = style == "chat" or (style == "auto" and has_template)
        self._lock = threading.Lock()

    @property
    def identity(self) -> GeneratorIdentity:
        """The name given, run by transformers."""
        return GeneratorIdentity(self._name, "transformers", self._device)

    def stream(self, prompt: Prompt, decoding: Decoding) -> Iterator[str]:
        """Yield pieces as they are decoded; beam search yields its best text at once."""
        with self._lock:
            inputs = self._encode(prompt)
            if decoding.strategy == "beam":
                output = self._model.generate(
                    **inputs, **self._options(prompt, decoding), num_beams=decoding.beams
                )[0]
                start = 0 if self._is_seq2seq else inputs["input_ids"].shape[1]
                text = self._tokenizer.decode(output[start:], skip_special_tokens=True)
                yield _cut_at_stop(text, prompt.stop)
                return
            yield from self._stream_tokens(inputs, prompt, decoding)

    def _stream_tokens(
        self, inputs: dict[str, Any], prompt: Prompt, decoding: Decoding
    ) -> Iterator[str]:
        """Run `generate` in a thread and yield what its streamer decodes."""
        import torch
        from transformers import StoppingCriteria, StoppingCriteriaList, TextIteratorStreamer

        stopped = threading.Event()

        class _Stopped(StoppingCriteria):
            def __call__(self, ids: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
                return torch.full((ids.shape[0],), stopped.is_set(), device=ids.device)

        streamer = TextIteratorStreamer(
            self._tokenizer, skip_prompt=not self._is_seq2seq, skip_special_tokens=True
        )
        failure: list[BaseException] = []

        def work() -> None:
            try:
                self._model.generate(
                    **inputs,
                    **self._options(prompt, decoding),
                    streamer=streamer,
                    stopping_criteria=StoppingCriteriaList([_Stopped()]),
                )
            except BaseException as error:  # handed over below, never lost
                failure.append(error)
                streamer.end()

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            yield from _until_stop(streamer, prompt.stop)
        finally:
            stopped.set()
            worker.join()
        if failure:
            raise GeneratorError(f"transformers failed: {failure[0]}") from failure[0]

    def _encode(self, prompt: Prompt) -> dict[str, Any]:
        """Return the prompt's tensors, "input_ids" of shape (1, prompt tokens)."""
        if self._use_chat:
            text = self._tokenizer.apply_chat_template(
                prompt.as_messages(), tokenize=False, add_generation_prompt=True
            )
            batch = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            batch = self._tokenizer(prompt.as_text(), return_tensors="pt")
        batch.pop("token_type_ids", None)
        return {key: value.to(self._device) for key, value in batch.items()}

    def _options(self, prompt: Prompt, decoding: Decoding) -> dict[str, Any]:
        """Return the keyword arguments of `generate`."""
        import torch

        options: dict[str, Any] = {
            "max_new_tokens": decoding.max_new_tokens,
            "do_sample": decoding.strategy == "sample",
            "pad_token_id": self._tokenizer.pad_token_id or self._tokenizer.eos_token_id,
        }
        if prompt.stop and not self._is_seq2seq:
            options |= {"stop_strings": list(prompt.stop), "tokenizer": self._tokenizer}
        if decoding.strategy == "sample":
            torch.manual_seed(decoding.seed)
            options |= {
                "temperature": decoding.temperature,
                "top_p": decoding.top_p,
                "top_k": 0,
            }
        else:
            options |= {"temperature": None, "top_p": None, "top_k": None}
        return options

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens without special ones."""
        return len(self._tokenizer.encode(text, add_special_tokens=False))


def _pick_device(device: str) -> str:
    """Return "cuda" or "cpu" for "auto"."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return device


def _cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """Return the text before the first stop string."""
    cuts = [position for mark in stop if (position := text.find(mark)) >= 0]
    return text[: min(cuts)] if cuts else text


def _until_stop(pieces: Iterator[str], stop: Sequence[str]) -> Iterator[str]:
    """Yield pieces until a stop string appears, holding back what may become one."""
    held = ""
    longest = max((len(mark) for mark in stop), default=0)
    for piece in pieces:
        held += piece
        cut = _cut_at_stop(held, stop)
        if len(cut) < len(held):
            yield cut
            return
        safe = max(0, len(held) - longest + 1) if longest else len(held)
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held


class OpenAIGenerator:
    """Any server that speaks OpenAI's HTTP interface, local or remote."""

    def __init__(
        self,
        url: str,
        *,
        model: str,
        api_key: str = "",
        style: PromptStyle = "auto",
        timeout: float = 120.0,
    ) -> None:
        """Keep the address; nothing is sent until the first question.

        Args:
            url: Base address, e.g. "http://127.0.0.1:8080/v1".
            model: The model's name on that server.
            api_key: Sent as a bearer token unless empty.
            style: "completion" uses /completions; "chat" and "auto" use /chat/completions.
            timeout: Seconds to wait for the next piece.
        """
        import httpx

        self._url, self._model, self._style = url.rstrip("/"), model, style
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(headers=headers, timeout=timeout)

    @property
    def identity(self) -> GeneratorIdentity:
        """The server's model."""
        return GeneratorIdentity(self._model, "openai", self._url)

    def stream(self, prompt: Prompt, decoding: Decoding) -> Iterator[str]:
        """Yield pieces from the server's event stream."""
        import httpx

        if decoding.strategy == "beam":
            raise SettingsError("an OpenAI-compatible server has no beam search; use greedy")
        body: dict[str, Any] = {
            "model": self._model,
            "stream": True,
            "max_tokens": decoding.max_new_tokens,
            **_openai_sampling(decoding),
        }
        if self._style == "completion":
            path, body["prompt"] = "/completions", prompt.as_text()
            body["stop"] = list(prompt.stop)
        else:
            path, body["messages"] = "/chat/completions", prompt.as_messages()
        try:
            with self._http.stream("POST", self._url + path, json=body) as reply:
                if reply.status_code != 200:
                    detail = reply.read().decode(errors="replace")[:200]
                    raise GeneratorError(
                        f"{self._url} answered {reply.status_code}: {detail}; check"
                        " generator.model and TETHER_GENERATOR_API_KEY"
                    )
                yield from _read_events(reply.iter_lines())
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GeneratorError(
                f"cannot reach {self._url}: {error}; start the server or change generator.url"
            ) from error

    def count_tokens(self, text: str) -> int:
        """Estimate: the server's tokenizer is unknown, so count high (a token per three bytes)."""
        return (len(text.encode()) + 2) // 3


def _read_events(lines: Iterator[str]) -> Iterator[str]:
    """Yield the text of server-sent events until "[DONE]"."""
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
        except ValueError as error:
            raise GeneratorError("the server sent a broken event stream; try again") from error
        if "error" in chunk:
            raise GeneratorError(f"the server failed while answering: {chunk['error']}")
        yield _chunk_text(chunk)
