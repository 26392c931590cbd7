"""Generators continue a prompt, behind one narrow interface.

Backends: llama.cpp in this process, transformers (causal and seq2seq), any OpenAI-compatible
server, and a scripted one for tests. Knows nothing of passages, claims or verification.
"""

import json
import mmap
import os
import queue
import secrets
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from ingest.errors import GeneratorError, SettingsError, TetherError, WeightsError
from model.prompts import Prompt
from retrieval.weights import local_folder, quiet_loading

PromptStyle = Literal["auto", "completion", "chat"]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next token is chosen."""

    strategy: Literal["greedy", "beam", "sample"] = "greedy"  # beam: transformers only
    temperature: float = 0.7  # sampling only
    top_p: float = 0.95  # sampling only, share of probability mass kept
    seed: int = 0  # sampling only
    beams: int = 4  # beam search only, transformers backend
    max_new_tokens: int = 64  # longest draft, in generator tokens


@dataclass(frozen=True, slots=True)
class GeneratorIdentity:
    """What generates: shown by `tether models` and written to every record."""

    name: str
    backend: str  # "llama.cpp", "transformers", "openai" or "scripted"
    device: str


class Generator(Protocol):
    """Continues a prompt.

    A base model stops at the prompt's stop strings, which are not emitted; a chat model ends its
    own turn. A generator may decode no more than one prompt at a time: exhaust or close an
    iterator before the same thread starts the next.
    """

    @property
    def identity(self) -> GeneratorIdentity:
        """Name, backend and device."""
        ...

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        """Yield pieces of the continuation as they are decoded.

        Args:
            prompt: What to continue.
            decoding: How.
            scores: Filled, by the end of the iteration, with the natural log-probability of each
                token of the text, before temperature and cutting; the token that ends the text is
                not among them. Left empty by a server that does not tell. None saves the effort.

        Raises:
            GeneratorError: The backend failed or could not be reached.
        """
        ...

    def count_tokens(self, text: str) -> int:
        """Return the number of this generator's tokens in the text."""
        ...

    def close(self) -> None:
        """Let go of connections, ports and weights; it answers nothing afterwards."""
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

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        """Yield the first reply whose key stands in the user turn, in pieces of four characters.

        Each piece is as sure as can be: log-probability 0.
        """
        self.prompts.append(prompt)
        reply = next((r for key, r in self.replies.items() if key in prompt.user), self.default)
        for start in range(0, len(reply), 4):
            if scores is not None:
                scores.append(0.0)
            yield reply[start : start + 4]

    def count_tokens(self, text: str) -> int:
        """Count a token for every four bytes, rounded up: close to real tokenizers."""
        return (len(text.encode("utf-8", "replace")) + 3) // 4

    def close(self) -> None:
        """Do nothing: it holds nothing."""


class LlamaCppGenerator:
    """A GGUF file run by llama.cpp inside this process (xllamacpp).

    llama.cpp always opens a loopback port for its own HTTP interface; a random key closes it to
    everyone but this object. It decodes one prompt a slot at a time, those of all slots in one
    batch; further calls wait. A slot's cache keeps its last prompt, and a prompt goes to the slot
    whose cache begins most like it.
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
        lora: Path | None = None,
        slots: int = 1,
    ) -> None:
        """Load the model.

        Args:
            path: The GGUF file.
            name: The name to show.
            context_tokens: Longest prompt and continuation together, in tokens.
            threads: CPU threads; 0 takes every core this process may use.
            gpu_layers: Layers to put on a GPU, if this build of llama.cpp has one.
            style: "chat" applies the file's chat template; "auto" does so if it has one.
            lora: A GGUF LoRA for this file (`model.gguf_lora` makes one), if any.
            slots: Prompts that are decoded at once; each has memory for `context_tokens`.

        Raises:
            WeightsError: A file is missing or is no model that llama.cpp can read.
            SettingsError: The style is "chat", and the file has no chat template.
        """
        if not path.is_file():
            raise WeightsError(f"no GGUF file at {path}; set generator.model to an existing file")
        import httpx

        self._name = name
        self._device = "gpu" if gpu_layers else "cpu"
        key = secrets.token_hex(16)
        self._server: Any = _start_llama_server(
            path, key, (slots, context_tokens), threads, gpu_layers, lora
        )
        self._use_chat = _use_chat(style, _has_chat_template(path), name)
        self._has_lora = lora is not None
        self._http = httpx.Client(
            base_url=self._server.listening_address,
            headers={"Authorization": f"Bearer {key}"},
            timeout=60,
            trust_env=False,  # a proxy must never see loopback traffic
        )
        self._free_slots = threading.BoundedSemaphore(slots)

    @property
    def identity(self) -> GeneratorIdentity:
        """The name given, run by llama.cpp."""
        return GeneratorIdentity(self._name, "llama.cpp", self._device)

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        """Yield pieces as llama.cpp decodes them; leaving the loop early stops the decoding."""
        if decoding.strategy == "beam":
            raise SettingsError(
                "llama.cpp has no beam search; set decoding.strategy = greedy or generator.backend"
                " = transformers"
            )
        request: dict[str, Any] = {
            "max_tokens": decoding.max_new_tokens,
            "stream": True,
            **_openai_sampling(decoding),
            "top_k": 0,  # llama.cpp would cut the tail by these two as well
            "min_p": 0.0,
        }
        if self._use_chat:
            request["messages"] = _messages(prompt)
            handle = self._server.handle_chat_completions
        else:
            # As tokens, so that "<eos>" in a document stays text and never becomes a control token.
            request["prompt"] = self._tokenize(prompt.as_text(), add_special=True)
            request["stop"] = list(prompt.stop)
            handle = self._server.handle_completions
        if scores is not None:
            request |= _asking_for_scores(chat=self._use_chat)
        if self._has_lora and prompt.is_for_base:
            request["lora"] = [{"id": 0, "scale": 0.0}]
        with self._free_slots:
            yield from _pull(handle, request, scores)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens, as llama.cpp cuts the text."""
        return len(self._tokenize(text, add_special=False))

    def close(self) -> None:
        """Close the connections and end the server, which gives back its port and its memory."""
        self._http.close()
        self._server = None  # ended by its destructor, after a stream that still runs

    def _tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """Return the ids of a text's tokens, with those that a prompt starts with if asked."""
        import httpx

        body = {"content": _speakable(text), "add_special": add_special, "parse_special": False}
        try:
            reply = self._http.post("/tokenize", json=body).raise_for_status()
        except httpx.HTTPError as error:
            raise GeneratorError(
                f"llama.cpp could not cut a text into tokens ({error}); try again"
            ) from error
        tokens: list[int] = reply.json()["tokens"]
        return tokens


def _start_llama_server(  # noqa: PLR0917 - one caller
    path: Path,
    key: str,
    size: tuple[int, int],
    threads: int,
    gpu_layers: int,
    lora: Path | None,
) -> Any:  # noqa: ANN401 - xllamacpp ships no types
    """Return xllamacpp's in-process server for one model; `size` is (slots, tokens a slot)."""
    import xllamacpp

    slots, context_tokens = size
    threads = threads or _core_count()
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = slots * context_tokens  # shared out evenly: no prompt can crowd out another's
    params.n_parallel = slots
    params.kv_unified = False
    params.n_gpu_layers = gpu_layers
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.cache_ram_mib = 256  # its default would keep 8 GiB of old prompts
    params.swa_full = True  # without it a sliding-window model cannot reuse a long prefix
    params.warmup = False
    params.verbosity = -1
    params.ui = False
    params.endpoint_slots = False
    params.endpoint_metrics = True
    params.api_keys = [key]
    if lora is not None:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(lora), 1.0)]
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        adapter = f" with the adapter {lora}; set generator.adapter = none, or" if lora else ";"
        raise WeightsError(
            f"llama.cpp cannot load {path}{adapter} set generator.model to a sound GGUF file"
        ) from error
    # Answered by the server's main loop: a server that is dropped before that loop runs hangs.
    server.handle_metrics()
    return server


def _core_count() -> int:
    """Return the number of cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only; it sees the limits of a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _has_chat_template(path: Path) -> bool:
    """Tell whether a GGUF file has a chat template; llama.cpp makes one up where there is none."""
    key = b"tokenizer.chat_template"
    entry = struct.pack("<Q", len(key)) + key + struct.pack("<I", 8)  # 8: the value is a string
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        # The metadata stand before the names of the tensors, and every model has this tensor.
        end = data.find(b"token_embd.weight")
        return data.find(entry, 0, end if end >= 0 else len(data)) >= 0


def _use_chat(style: PromptStyle, has_template: bool, name: str) -> bool:
    """Return whether a model is to be asked in turns."""
    if style == "chat" and not has_template:
        raise SettingsError(f"{name} has no chat template; set generator.style = completion")
    return has_template and style != "completion"


def _speakable(text: str) -> str:
    """Replace lone surrogates, which no tokenizer can read and broken files may hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _messages(prompt: Prompt) -> list[dict[str, str]]:
    """Return the prompt's chat messages without lone surrogates."""
    return [{key: _speakable(text) for key, text in turn.items()} for turn in prompt.as_messages()]


def _pull(
    handle: Any,  # noqa: ANN401 - xllamacpp ships no types
    request: dict[str, Any],
    scores: list[float] | None,
) -> Iterator[str]:
    """Turn llama.cpp's callback into an iterator; a closed iterator stops the decoding."""
    pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
    stopped = threading.Event()

    def on_chunk(chunk: Mapping[str, Any]) -> bool:
        if scores is not None:
            scores.extend(_chunk_scores(chunk))
        pieces.put(_llama_failure(chunk) if "error" in chunk else _chunk_text(chunk))
        return stopped.is_set()

    def work() -> None:
        try:
            result = handle(request, on_chunk)
            if isinstance(result, dict) and "error" in result:
                raise _llama_failure(result)
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


def _llama_failure(reply: Mapping[str, Any]) -> GeneratorError:
    """Return the error of a reply that holds one."""
    error = reply["error"]
    message = error.get("message", error) if isinstance(error, Mapping) else error
    return GeneratorError(
        f"llama.cpp: {_one_line(message)}; raise generator.context_tokens or lower"
        " prompt.passage_tokens if the prompt is too long"
    )


def _one_line(message: object) -> str:
    """Return at most 200 characters of a message of someone else's, on one line."""
    return " ".join(str(message).split())[:200]


def _chunk_text(chunk: Mapping[str, Any]) -> str:
    """Return the text of one OpenAI-style streaming chunk, of either endpoint."""
    choices = chunk.get("choices") or [{}]
    choice = choices[0]
    text = choice.get("text")
    return str(text if text is not None else (choice.get("delta") or {}).get("content") or "")


def _asking_for_scores(*, chat: bool) -> dict[str, Any]:
    """Return the fields of an OpenAI-style request that ask for log-probabilities."""
    return {"logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1}


def _chunk_scores(chunk: Mapping[str, Any]) -> list[float]:
    """Return the log-probabilities of a chunk's tokens, in either of OpenAI's two forms."""
    found = (chunk.get("choices") or [{}])[0].get("logprobs") or {}
    tokens = found.get("content") or ()  # null in a refusal
    values = found.get("token_logprobs") or [token["logprob"] for token in tokens]
    return [float(value) for value in values if value is not None]


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
        adapter: Path | None = None,
    ) -> None:
        """Load the model and its tokenizer; safetensors only, no code from the model's folder.

        Args:
            model: A local folder or a hub id.
            name: The name to show.
            device: "auto" takes a GPU if torch sees one.
            style: "chat" applies the model's chat template; "auto" does so if it has one.
            adapter: Folder of a LoRA for this model, in peft's format, if any.

        Raises:
            WeightsError: There is no such folder, it holds no model, or the hub is out of reach.
            SettingsError: There is no such device, or the style is "chat" without a chat template.
        """
        folder = local_folder(model)
        self._name = name
        self._device = _pick_device(device)
        self._is_adapted = False
        try:
            with quiet_loading():
                self._load(str(folder or model), local=folder is not None)
                if adapter is not None:
                    self._adapt(adapter)
        except TetherError:
            raise
        except Exception as error:  # whatever a foreign folder or an absent network makes it raise
            reason = _one_line(str(error).strip().partition("\n")[0] or type(error).__name__)
            raise WeightsError(
                f"cannot load the generator {model} ({reason}): set generator.model to a folder"
                " with .safetensors weights, a hub id that can be reached, or a GGUF file"
            ) from error
        self._use_chat = _use_chat(style, bool(self._tokenizer.chat_template), name)
        self._lock = threading.Lock()

    def _load(self, source: str, *, local: bool) -> None:
        """Load tokenizer and model from a folder or from the hub."""
        import torch
        import transformers

        safely: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False}
        config = transformers.AutoConfig.from_pretrained(source, **safely)
        self._is_seq2seq = bool(config.is_encoder_decoder)
        kind = "AutoModelForSeq2SeqLM" if self._is_seq2seq else "AutoModelForCausalLM"
        self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, **safely)
        self._model: Any = getattr(transformers, kind).from_pretrained(
            source,
            dtype=torch.bfloat16 if self._device.startswith("cuda") else torch.float32,
            use_safetensors=True,
            **safely,
        )
        self._model.to(self._device).eval()

    def _adapt(self, adapter: Path) -> None:
        """Put a LoRA over the model; unmerged, because bfloat16 would round most of it away."""
        from peft import PeftModel

        if not (adapter / "adapter_model.safetensors").is_file():  # peft would unpickle another
            raise WeightsError(f"{adapter} has no adapter_model.safetensors; name another adapter")
        self._model = PeftModel.from_pretrained(self._model, str(adapter)).eval()
        self._is_adapted = True

    def _chosen_weights(self, prompt: Prompt) -> AbstractContextManager[None]:
        """Return what leaves the adapter out while a prompt for the base runs."""
        if prompt.is_for_base and self._is_adapted:
            without: AbstractContextManager[None] = self._model.disable_adapter()
            return without
        return nullcontext()

    @property
    def identity(self) -> GeneratorIdentity:
        """The name given, run by transformers."""
        return GeneratorIdentity(self._name, "transformers", self._device)

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        """Yield pieces as they are decoded; beam search yields its best text at once."""
        stop = () if self._use_chat else prompt.stop
        text = ""
        with self._lock, _as_generator_errors(), self._chosen_weights(prompt):
            inputs = self._encode(prompt)
            options = inputs | self._options(inputs["input_ids"].shape[1], decoding)
            run = self._search_beams if decoding.strategy == "beam" else self._stream_tokens
            ids: list[int] = []
            for piece in run(options, stop, decoding.beams, ids):
                text += piece
                yield piece
            if scores is not None:
                scores.extend(self._scores(inputs, ids, text))

    def _search_beams(
        self, options: dict[str, Any], stop: Sequence[str], beams: int, ids: list[int]
    ) -> Iterator[str]:
        """Yield the best of several continuations, each of which ends at a stop string."""
        import torch

        start = 1 if self._is_seq2seq else options["input_ids"].shape[1]

        # Not generate's own stop_strings: it takes 13 s to prepare them for a large vocabulary.
        def has_stopped(rows: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            texts = [self._decode(row[start:].tolist()) for row in rows]
            ended = [any(mark in text for mark in stop) for text in texts]
            return torch.tensor(ended, device=rows.device)

        best = self._model.generate(
            **options | {"num_beams": beams, "stopping_criteria": [has_stopped]}
        )[0]
        ids.extend(best[start:].tolist())
        yield _cut_at_stop(self._decode(ids), stop)

    def _decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones."""
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _stream_tokens(
        self, options: dict[str, Any], stop: Sequence[str], _: int, ids: list[int]
    ) -> Iterator[str]:
        """Run `generate` in a thread and yield what its streamer decodes; note the tokens."""
        import torch
        from transformers import TextIteratorStreamer

        stopped = threading.Event()
        failure: list[BaseException] = []
        streamer = TextIteratorStreamer(self._tokenizer, skip_prompt=True, skip_special_tokens=True)

        def has_stopped(rows: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
            ids.append(int(rows[0, -1]))
            return torch.full((rows.shape[0],), stopped.is_set(), device=rows.device)

        def work() -> None:
            try:
                self._model.generate(**options, streamer=streamer, stopping_criteria=[has_stopped])
            except BaseException as error:  # handed over below, never lost
                failure.append(error)
                streamer.end()  # type: ignore[no-untyped-call]

        worker = threading.Thread(target=work, daemon=True)
        worker.start()
        try:
            yield from _until_stop(streamer, stop)
        finally:
            stopped.set()
            worker.join()
        if failure:
            raise failure[0]

    def _scores(self, inputs: dict[str, Any], ids: Sequence[int], text: str) -> list[float]:
        """Return the log-probability of each token that the text holds, by one pass over all."""
        import torch

        # The decoder may have run on past a stop string: those tokens are not of the text.
        count = next((n for n in range(len(ids) + 1) if len(self._decode(ids[:n])) >= len(text)), 0)
        if not count:
            return []
        chosen = torch.tensor([list(ids[:count])], device=self._device)  # (1, count)
        with torch.no_grad():
            if self._is_seq2seq:
                start = self._model.generation_config.decoder_start_token_id
                first = torch.full((1, 1), start, device=self._device)
                fed = torch.cat([first, chosen[:, :-1]], dim=1)
                logits = self._model(**inputs, decoder_input_ids=fed).logits
            else:
                whole = torch.cat([inputs["input_ids"], chosen], dim=1)
                # All positions of a long prompt would take gigabytes where tokens are many.
                keep = (
                    {"logits_to_keep": count + 1} if self._model._supports_logits_to_keep() else {}
                )
                logits = self._model(whole, **keep).logits[:, -count - 1 : -1]
        # logits: (1, count, vocabulary)
        log_probabilities = logits.float().log_softmax(dim=-1)
        return [float(x) for x in log_probabilities.gather(2, chosen[:, :, None])[0, :, 0]]

    def _encode(self, prompt: Prompt) -> dict[str, Any]:
        """Return the prompt's tensors, "input_ids" of shape (1, prompt tokens)."""
        if self._use_chat:
            text = self._tokenizer.apply_chat_template(
                _messages(prompt), tokenize=False, add_generation_prompt=True
            )
            batch = self._tokenizer(text, return_tensors="pt", add_special_tokens=False)
        else:
            # Split, so that "<eos>" in a document stays text and never becomes a control token.
            batch = self._tokenizer(
                _speakable(prompt.as_text()), return_tensors="pt", split_special_tokens=True
            )
        batch.pop("token_type_ids", None)
        return {key: value.to(self._device) for key, value in batch.items()}

    def _options(self, prompt_tokens: int, decoding: Decoding) -> dict[str, Any]:
        """Return the keyword arguments of `generate` besides the prompt."""
        import torch

        longest = getattr(self._model.config, "max_position_embeddings", None)
        room = (longest or 1 << 30) - prompt_tokens
        if room <= 0:
            raise GeneratorError(
                f"the prompt has {prompt_tokens:,} tokens, and {self._name} reads {longest:,};"
                " lower prompt.passage_tokens or prompt.examples"
            )
        is_sampled = decoding.strategy == "sample"
        if is_sampled:
            torch.manual_seed(decoding.seed)
        pad = self._tokenizer.pad_token_id
        return {
            "max_new_tokens": min(decoding.max_new_tokens, room),
            "num_beams": 1,
            "do_sample": is_sampled,
            "temperature": decoding.temperature if is_sampled else None,
            "top_p": decoding.top_p if is_sampled else None,
            "top_k": 0 if is_sampled else None,
            "pad_token_id": self._tokenizer.eos_token_id if pad is None else pad,
        }

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens without special ones."""
        ids = self._tokenizer.encode(
            _speakable(text), add_special_tokens=False, split_special_tokens=True, verbose=False
        )
        return len(ids)

    def close(self) -> None:
        """Let go of the weights."""
        self._model = None


def _pick_device(device: str) -> str:
    """Return "cuda" or "cpu" for "auto"."""
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise SettingsError('device "cuda" is not available here; set generator.device = auto')
    return device


@contextmanager
def _as_generator_errors() -> Iterator[None]:
    """Turn whatever a model raises into one line."""
    try:
        yield
    except TetherError:
        raise
    except Exception as error:
        raise GeneratorError(
            f"transformers failed ({_one_line(error) or type(error).__name__}); set generator.model"
            " to another model or generator.style to another style"
        ) from error


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
            if cut:
                yield cut
            return
        safe = max(0, len(held) - longest + 1) if longest else len(held)
        if safe:
            yield held[:safe]
            held = held[safe:]
    if held:
        yield held


# How servers refuse a field that they do not know, or that the model does not have.
_NOT_SO = (400, 403, 422)


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

        Raises:
            SettingsError: The key holds characters that no header can carry.
        """
        import httpx

        if not (api_key.isascii() and api_key.isprintable()):
            raise SettingsError("the API key is not plain ASCII; set TETHER_GENERATOR_API_KEY anew")

        self._url, self._model, self._style = url.rstrip("/"), model, style
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(headers=headers, timeout=timeout)

    @property
    def identity(self) -> GeneratorIdentity:
        """The server's model."""
        return GeneratorIdentity(self._model, "openai", self._url)

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        """Yield pieces from the server's event stream; ask again if it refuses to tell scores."""
        import httpx

        if decoding.strategy == "beam":
            raise SettingsError(
                "an OpenAI-compatible server has no beam search; set decoding.strategy = greedy"
            )
        body: dict[str, Any] = {
            "model": self._model,
            "stream": True,
            "max_tokens": decoding.max_new_tokens,
            **_openai_sampling(decoding),
        }
        if self._style == "completion":
            path, body["prompt"] = "/completions", _speakable(prompt.as_text())
            body["stop"] = list(prompt.stop)
        else:
            path, body["messages"] = "/chat/completions", _messages(prompt)
        if scores is not None:
            body |= _asking_for_scores(chat=self._style != "completion")
        try:
            with self._http.stream("POST", self._url + path, json=body) as reply:
                tells_no_scores = scores is not None and reply.status_code in _NOT_SO
                if reply.status_code != 200 and not tells_no_scores:
                    detail = _one_line(reply.read().decode(errors="replace"))
                    raise GeneratorError(
                        f"{self._url} answered {reply.status_code}: {detail}; check"
                        " generator.model and TETHER_GENERATOR_API_KEY"
                    )
                if not tells_no_scores:
                    yield from _read_events(_lines(reply.iter_bytes()), scores)
            if tells_no_scores:  # or the request is wrong anyway, which this one then says
                yield from self.stream(prompt, decoding)
        except (httpx.ReadError, httpx.RemoteProtocolError) as error:
            raise GeneratorError(
                f"{self._url} broke off its answer ({_one_line(error) or type(error).__name__});"
                " ask again, and if that does not help, restart the server"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GeneratorError(
                f"cannot reach {self._url} ({_one_line(error) or type(error).__name__}); start the"
                " server or change generator.url"
            ) from error

    def count_tokens(self, text: str) -> int:
        """Estimate: the server's tokenizer is unknown, so count high (a token per three bytes)."""
        return (len(text.encode("utf-8", "replace")) + 2) // 3

    def close(self) -> None:
        """Close the connections to the server."""
        self._http.close()


def _lines(pieces: Iterator[bytes]) -> Iterator[str]:
    """Yield the lines of a stream of events.

    httpx's own lines end at U+2028 and its like, too, which stand in a JSON text as they are.
    """
    held = b""
    for piece in pieces:
        *lines, held = (held + piece).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines)
    yield held.decode(errors="replace")


def _read_events(lines: Iterator[str], scores: list[float] | None) -> Iterator[str]:
    """Yield the text of server-sent events until the server says that it has finished."""
    has_finished = False
    for line in lines:
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return
        try:
            chunk = json.loads(data)
            failure, text = chunk.get("error"), _chunk_text(chunk)
            if scores is not None:
                scores.extend(_chunk_scores(chunk))
            has_finished |= any(
                choice.get("finish_reason") for choice in chunk.get("choices") or ()
            )
        except (ValueError, AttributeError, TypeError, LookupError) as error:
            raise GeneratorError("the server sent a broken event stream; try again") from error
        if failure:
            raise GeneratorError(
                f"the server failed while answering: {_one_line(failure)}; try again"
            )
        if text:
            yield text
    if not has_finished:
        raise GeneratorError("the server's event stream ended too early; try again")
