"""Generators: every backend continues, stops, fails and counts as the interface says."""

import gc
import json
import shutil
import socket
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from ingest.errors import GeneratorError, SettingsError, WeightsError
from model.generators import (
    Decoding,
    Generator,
    LlamaCppGenerator,
    OpenAIGenerator,
    ScriptedGenerator,
    TransformersGenerator,
)
from model.prompts import Prompt
from tests.tiny_lora import build_lora
from tests.tiny_models import CHAT_TEMPLATE, build_gguf_model, build_transformers_model

PROMPT = Prompt(
    instruction="Answer the question briefly.",
    examples=(("The nets are mended by night.\nQuestion: when?", "by night"),),
    user="The harbour of Orrin has three piers.\nQuestion: who mends the nets?",
    cue="Answer:",
)
FACT = "The bridge at Zarnith was finished in 1923. It was built by Ola Fenn."
BRIDGE = Prompt("", (), f"{FACT}\nQuestion: Who built the Zarnith bridge?", "Answer:", ("\n",))
SHORT = Decoding(max_new_tokens=24)
HOT = Decoding("sample", temperature=1.5, top_p=1.0, seed=1, max_new_tokens=24)


def text_of(generator: Generator, prompt: Prompt = PROMPT, decoding: Decoding = SHORT) -> str:
    return "".join(generator.stream(prompt, decoding))


def one_line(error: pytest.ExceptionInfo[Exception]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


class TestScripted:
    def test_the_first_reply_whose_key_is_in_the_user_turn(self) -> None:
        generator = ScriptedGenerator({"piers": "three [1]", "nets": "no one"}, default="?")
        assert text_of(generator) == "three [1]"
        assert text_of(generator, replace(PROMPT, user="港口")) == "?"
        assert [prompt.user for prompt in generator.prompts] == [PROMPT.user, "港口"]

    def test_it_streams_in_pieces_and_counts(self) -> None:
        assert list(ScriptedGenerator(default="abcdefghi").stream(PROMPT, SHORT)) == [
            "abcd", "efgh", "i",
        ]  # fmt: skip
        scores: list[float] = []
        pieces = list(ScriptedGenerator(default="abcdefghi").stream(PROMPT, SHORT, scores))
        assert scores == [0.0] * len(pieces)
        assert ScriptedGenerator().count_tokens("港口!") == 2
        assert ScriptedGenerator().identity.backend == "scripted"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a folder of tiny transformers models."""
    folder = tmp_path_factory.mktemp("模型")
    for kind in ("llama", "gpt2", "t5"):
        (folder / kind).mkdir()
        build_transformers_model(folder / kind, kind)
    (folder / "chat").mkdir()
    build_transformers_model(folder / "chat", chat_template=CHAT_TEMPLATE)
    (folder / "short").mkdir()
    build_transformers_model(folder / "short", "gpt2", positions=96)
    return folder


@pytest.fixture(scope="module")
def loaded(models: Path) -> dict[str, TransformersGenerator]:
    return {
        folder.name: TransformersGenerator(str(folder), name=folder.name, device="cpu")
        for folder in models.iterdir()
    }


@pytest.fixture(scope="module", params=["llama", "gpt2", "t5", "chat"])
def tiny(
    loaded: dict[str, TransformersGenerator], request: pytest.FixtureRequest
) -> TransformersGenerator:
    return loaded[request.param]


class TestTransformers:
    def test_streaming_equals_decoding_at_once(self, tiny: Generator) -> None:
        pieces = list(tiny.stream(PROMPT, SHORT))
        assert len(pieces) > 1
        assert "".join(pieces) == text_of(tiny, decoding=replace(SHORT, strategy="beam", beams=1))

    def test_greedy_is_deterministic_whatever_was_sampled_before(self, tiny: Generator) -> None:
        first = text_of(tiny)
        text_of(tiny, decoding=HOT)
        assert text_of(tiny) == first

    def test_a_seed_determines_a_sample(self, tiny: Generator) -> None:
        samples = [text_of(tiny, decoding=replace(HOT, seed=seed)) for seed in (1, 2, 3)]
        assert len(set(samples)) == 3
        assert text_of(tiny, decoding=HOT) == samples[0]

    def test_beams_find_a_text_that_depends_on_the_prompt(self, tiny: Generator) -> None:
        beam = replace(SHORT, strategy="beam", beams=3)
        found = text_of(tiny, decoding=beam)
        assert found.strip()
        assert found == text_of(tiny, decoding=beam)
        assert found != text_of(tiny, replace(PROMPT, user="港口有三座码头。"), beam)

    @pytest.mark.parametrize("kind", ["llama", "gpt2", "t5"])
    @pytest.mark.parametrize("strategy", ["greedy", "beam"])
    def test_a_stop_string_is_never_emitted(
        self, loaded: dict[str, TransformersGenerator], kind: str, strategy: str
    ) -> None:
        generator, decoding = loaded[kind], replace(SHORT, strategy=cast("Any", strategy), beams=1)
        whole = text_of(generator, decoding=decoding)
        edges = [0]
        for piece in generator.stream(PROMPT, SHORT):
            edges.append(edges[-1] + len(piece))
        across = edges[len(edges) // 2]
        marks = [whole[across - 2 : across + 2], whole[3:5], whole[:1]]
        for mark in marks:
            stopped = text_of(generator, replace(PROMPT, stop=("absent", mark)), decoding)
            assert stopped == whole[: whole.index(mark)]

    def test_beams_end_at_a_stop_string(self, loaded: dict[str, TransformersGenerator]) -> None:
        beam = replace(SHORT, strategy="beam", beams=3)
        mark = text_of(loaded["llama"], decoding=beam)[4:6]
        assert mark not in text_of(loaded["llama"], replace(PROMPT, stop=(mark,)), beam)

    @pytest.mark.parametrize("strategy", ["greedy", "beam", "sample"])
    def test_scores_are_those_of_the_tokens_of_the_text(
        self, tiny: TransformersGenerator, strategy: str
    ) -> None:
        decoding = replace(SHORT, strategy=cast("Any", strategy), beams=2)
        scores: list[float] = []
        whole = "".join(tiny.stream(PROMPT, decoding, scores))
        assert whole == text_of(tiny, decoding=decoding)
        assert 0 < len(scores) <= SHORT.max_new_tokens
        assert all(score < 0 for score in scores)
        assert len(set(scores)) > 1
        if strategy == "greedy" and tiny.identity.name != "chat":
            stopped: list[float] = []
            later = range(len(whole) // 3, len(whole))
            mark = next(m for at in later if whole.index(m := whole[at : at + 2]) == at)
            part = "".join(tiny.stream(replace(PROMPT, stop=(mark,)), decoding, stopped))
            assert 0 < len(part) < len(whole)
            assert stopped == pytest.approx(scores[: len(stopped)], abs=1e-3)
            assert len(stopped) < len(scores)

    def test_scores_by_hand(self, loaded: dict[str, TransformersGenerator]) -> None:
        import torch

        llama = loaded["llama"]
        scores: list[float] = []
        list(llama.stream(PROMPT, replace(SHORT, max_new_tokens=3), scores))
        ids = llama._encode(PROMPT)["input_ids"]
        for score in scores:
            with torch.no_grad():
                chances = llama._model(ids).logits[0, -1].log_softmax(dim=-1)
            assert score == pytest.approx(float(chances.max()), abs=1e-4)
            ids = torch.cat([ids, chances.argmax()[None, None]], dim=1)

    def test_an_adapter_changes_what_it_says(
        self, models: Path, loaded: dict[str, TransformersGenerator], tmp_path: Path
    ) -> None:
        folder = build_lora(tmp_path / "适配器")
        source = str(models / "llama")
        adapted = TransformersGenerator(source, name="a", device="cpu", adapter=folder)
        assert text_of(adapted) != text_of(loaded["llama"])
        for_base = replace(PROMPT, is_for_base=True)
        assert text_of(adapted, for_base) == text_of(loaded["llama"])
        assert text_of(adapted) != text_of(loaded["llama"])  # for that prompt only
        idle = build_lora(tmp_path / "idle", strength=0.0)
        same = TransformersGenerator(source, name="a", device="cpu", adapter=idle)
        assert text_of(same) == text_of(loaded["llama"])
        wrong = build_lora(tmp_path / "wrong", {"self_attn.q_proj": (48, 32)})
        (idle / "adapter_model.safetensors").rename(idle / "adapter_model.bin")
        for bad in (wrong, idle):
            with pytest.raises(WeightsError) as error:
                TransformersGenerator(source, name="a", device="cpu", adapter=bad)
            one_line(error)

    def test_a_chat_model_reads_turns_and_ends_its_own(
        self, models: Path, loaded: dict[str, TransformersGenerator]
    ) -> None:
        chat = loaded["chat"]
        completion = TransformersGenerator(
            str(models / "chat"), name="chat", device="cpu", style="completion"
        )
        assert text_of(completion) == text_of(loaded["llama"]) != text_of(chat)
        assert text_of(chat, replace(PROMPT, cue="Reply:")) == text_of(chat)
        assert text_of(chat, replace(PROMPT, stop=(text_of(chat)[2:4],))) == text_of(chat)
        with pytest.raises(SettingsError, match=r"generator\.style = completion"):
            TransformersGenerator(str(models / "llama"), name="llama", device="cpu", style="chat")

    def test_an_iterator_closed_early_ends_its_thread(self, tiny: Generator) -> None:
        before = threading.active_count()
        pieces = cast("Any", tiny.stream(PROMPT, replace(SHORT, max_new_tokens=400)))
        next(pieces)
        assert threading.active_count() == before + 1
        pieces.close()
        assert threading.active_count() == before
        assert text_of(tiny)

    def test_two_threads_get_what_one_gets(self, tiny: Generator) -> None:
        alone = [text_of(tiny), text_of(tiny, decoding=HOT)]
        with ThreadPoolExecutor(2) as pool:
            both = list(pool.map(lambda decoding: text_of(tiny, decoding=decoding), [SHORT, HOT]))
        assert both == alone

    def test_control_tokens_in_a_document_stay_text(
        self, loaded: dict[str, TransformersGenerator]
    ) -> None:
        llama = loaded["llama"]
        assert llama.count_tokens("</s>") > 1
        (ids,) = llama._encode(replace(PROMPT, user="a</s>b"))["input_ids"].tolist()
        assert 2 not in ids

    def test_half_a_character_does_no_harm(self, tiny: Generator) -> None:
        assert tiny.count_tokens("\ud83d nets") > 1
        assert text_of(tiny, replace(PROMPT, user="\ud83d nets"))

    def test_a_closed_one_lets_go_of_its_weights(self, models: Path) -> None:
        generator = TransformersGenerator(str(models / "llama"), name="brief", device="cpu")
        weights = weakref.ref(generator._model)
        with closing(generator):
            assert text_of(generator)
        gc.collect()
        assert weights() is None

    def test_identity(self, loaded: dict[str, TransformersGenerator]) -> None:
        identity = loaded["t5"].identity
        assert (identity.name, identity.backend, identity.device) == ("t5", "transformers", "cpu")

    def test_a_prompt_beyond_the_positions(self, loaded: dict[str, TransformersGenerator]) -> None:
        long = replace(PROMPT, user="harbour " * 200)
        for strategy in ("greedy", "beam"):
            with pytest.raises(GeneratorError, match=r"lower prompt\.passage_tokens") as error:
                text_of(loaded["short"], long, replace(SHORT, strategy=cast("Any", strategy)))
            one_line(error)
        # One that just fits is answered in the room that is left.
        assert text_of(loaded["short"], Prompt("", (), "pier " * 20), Decoding(max_new_tokens=400))

    def test_no_such_folder(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="check the path") as error:
            TransformersGenerator(str(tmp_path / "none"), name="none", device="cpu")
        one_line(error)

    def test_no_such_hub_id(self) -> None:
        with pytest.raises(WeightsError, match=r"set generator\.model") as error:
            TransformersGenerator("nobody/nothing", name="nothing", device="cpu")
        one_line(error)

    @pytest.mark.parametrize("damage", ["empty", "pickle", "cut", "code", "other"])
    def test_what_is_no_model_is_refused(self, models: Path, tmp_path: Path, damage: str) -> None:
        folder = tmp_path / "model"
        shutil.copytree(models / "llama", folder)
        weights, config = folder / "model.safetensors", folder / "config.json"
        if damage == "empty":
            shutil.rmtree(folder)
            folder.mkdir()
        elif damage == "pickle":
            import torch

            torch.save({"lm_head.weight": torch.zeros(2)}, folder / "pytorch_model.bin")
            weights.unlink()
        elif damage == "cut":
            weights.write_bytes(weights.read_bytes()[:1000])
        elif damage == "code":
            auto_map = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}
            own = json.loads(config.read_text()) | {"model_type": "own", "auto_map": auto_map}
            config.write_text(json.dumps(own))
            (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
        else:
            config.write_text(json.dumps({"model_type": "vit"}))
        with pytest.raises(WeightsError, match=r"set generator\.model to") as error:
            TransformersGenerator(str(folder), name="damaged", device="cpu")
        one_line(error)
        assert not (tmp_path / "ran").exists()

    def test_no_such_device(self, models: Path) -> None:
        import torch

        if torch.cuda.is_available():
            pytest.skip("there is a GPU")
        with pytest.raises(SettingsError, match=r"generator\.device = auto"):
            TransformersGenerator(str(models / "llama"), name="llama", device="cuda")


@pytest.fixture(scope="module")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LlamaCppGenerator]:
    """Load two tiny models by paths that are not ASCII, one of them with a chat template."""
    pytest.importorskip("gguf", reason="needs the `weights` extra")
    folder = tmp_path_factory.mktemp("模型 文件")
    build_gguf_model(folder / "小模型.gguf")
    build_gguf_model(folder / "chat é.gguf", CHAT_TEMPLATE)
    options: dict[str, Any] = {"threads": 1, "context_tokens": 512}
    return {
        "base": LlamaCppGenerator(folder / "小模型.gguf", name="base", **options),
        "chat": LlamaCppGenerator(folder / "chat é.gguf", name="chat", **options),
        "forced": LlamaCppGenerator(
            folder / "chat é.gguf", name="forced", style="completion", **options
        ),
    }


class TestAnyGguf:
    def test_auto_asks_in_turns_if_the_file_has_a_template(
        self, tiny_gguf: dict[str, LlamaCppGenerator]
    ) -> None:
        base, chat, forced = tiny_gguf["base"], tiny_gguf["chat"], tiny_gguf["forced"]
        assert text_of(base) == text_of(forced) != text_of(chat)
        other_cue = replace(PROMPT, cue="Reply:")
        assert text_of(chat, other_cue) == text_of(chat)
        assert text_of(base, other_cue) != text_of(base)

    def test_scores_come_with_the_text(self, tiny_gguf: dict[str, LlamaCppGenerator]) -> None:
        for generator in tiny_gguf.values():
            scores: list[float] = []
            text = "".join(generator.stream(PROMPT, SHORT, scores))
            assert text == text_of(generator)
            assert 0 < len(scores) <= SHORT.max_new_tokens
            assert all(score <= 0 for score in scores) and min(scores) < 0
            again: list[float] = []
            list(generator.stream(PROMPT, replace(SHORT, max_new_tokens=4), again))
            assert again == pytest.approx(scores[: len(again)], abs=0.05)

    def test_one_that_is_dropped_at_once_ends(
        self, tiny_gguf: dict[str, LlamaCppGenerator], tmp_path: Path
    ) -> None:
        path = build_gguf_model(tmp_path / "brief.gguf")
        for _ in range(8):
            brief = LlamaCppGenerator(path, name="brief", threads=1, context_tokens=512)
            address = brief._server.listening_address
            del brief
        with pytest.raises(httpx.ConnectError):
            httpx.get(address + "/health", trust_env=False)
        assert text_of(tiny_gguf["base"])

    def test_a_closed_one_ends_its_server_after_the_stream_that_runs(
        self, tiny_gguf: dict[str, LlamaCppGenerator], tmp_path: Path
    ) -> None:
        path = build_gguf_model(tmp_path / "closed.gguf")
        with closing(LlamaCppGenerator(path, name="x", threads=1, context_tokens=512)) as brief:
            address = brief._server.listening_address
            pieces = brief.stream(PROMPT, SHORT)
            text = next(pieces)
            brief.close()
            assert text + "".join(pieces) == text_of(tiny_gguf["base"])
        assert brief._http.is_closed
        with pytest.raises(httpx.ConnectError):
            httpx.get(address + "/health", trust_env=False)

    def test_slots_decode_at_once_and_each_has_a_context_of_its_own(
        self, tiny_gguf: dict[str, LlamaCppGenerator], tmp_path: Path
    ) -> None:
        path, alone = build_gguf_model(tmp_path / "slots.gguf"), text_of(tiny_gguf["base"])
        options: dict[str, Any] = {"threads": 1, "context_tokens": 512, "slots": 3}
        with closing(LlamaCppGenerator(path, name="slots", **options)) as several:
            for _ in range(2):
                streams = [cast("Any", several.stream(PROMPT, SHORT)) for _ in range(3)]
                begun = [next(pieces) for pieces in streams]  # one that waited would not return
                streams[0].close()  # frees its slot for the next round
                texts = [
                    first + "".join(pieces)
                    for first, pieces in zip(begun[1:], streams[1:], strict=True)
                ]
                assert texts == [alone, alone]
            long = replace(PROMPT, user="harbour " * 100)
            assert 512 < several.count_tokens(long.user) < 3 * 512
            with pytest.raises(GeneratorError, match=r"raise generator\.context_tokens"):
                text_of(several, long)

    def test_chat_style_needs_a_template(self, tmp_path: Path) -> None:
        pytest.importorskip("gguf", reason="needs the `weights` extra")
        path = build_gguf_model(tmp_path / "base.gguf")
        with pytest.raises(SettingsError, match=r"generator\.style = completion"):
            LlamaCppGenerator(path, name="base", style="chat", threads=1, context_tokens=512)

    def test_a_seed_determines_a_sample(self, tiny_gguf: dict[str, LlamaCppGenerator]) -> None:
        base = tiny_gguf["base"]
        samples = [text_of(base, decoding=replace(HOT, seed=seed)) for seed in (1, 2, 3)]
        assert len(set(samples)) == 3
        assert text_of(base, decoding=HOT) == samples[0]

    def test_control_tokens_in_a_document_stay_text(
        self, tiny_gguf: dict[str, LlamaCppGenerator]
    ) -> None:
        base = tiny_gguf["base"]
        assert base.count_tokens("</s>") > 1
        assert base._tokenize("a</s>b", add_special=True).count(2) == 0
        assert base._tokenize("a</s>b", add_special=True)[0] == 1
        assert base.count_tokens("\ud83d") > 0

    def test_beam_search_is_refused(self, tiny_gguf: dict[str, LlamaCppGenerator]) -> None:
        with pytest.raises(SettingsError, match=r"generator\.backend = transformers"):
            text_of(tiny_gguf["base"], decoding=Decoding("beam"))

    def test_no_file_and_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"set generator\.model") as error:
            LlamaCppGenerator(tmp_path / "none.gguf", name="none", threads=1)
        one_line(error)
        for content in (b"", b"GGUF" + bytes(500), b"no model at all"):
            (tmp_path / "坏.gguf").write_bytes(content)
            with pytest.raises(WeightsError, match=r"set generator\.model") as error:
                LlamaCppGenerator(tmp_path / "坏.gguf", name="bad", threads=1)
            one_line(error)


@pytest.fixture(scope="module")
def gemma(gemma_gguf: Path) -> LlamaCppGenerator:
    return LlamaCppGenerator(gemma_gguf, name="gemma", threads=1, context_tokens=1024)


@pytest.mark.weights
class TestGemma:
    def test_it_answers_from_the_passage(self, gemma: Generator) -> None:
        assert text_of(gemma, BRIDGE).strip(" .") == "Ola Fenn"
        chinese = Prompt(
            "", (), "奥拉·芬建造了扎尼斯桥。\n问题：谁建造了扎尼斯桥？", "答案：", ("\n",)
        )
        assert "奥拉·芬" in text_of(gemma, chinese)
        assert gemma.identity.backend == "llama.cpp"

    def test_a_stop_string_is_never_emitted(self, gemma: Generator) -> None:
        pieces = list(gemma.stream(replace(BRIDGE, stop=()), SHORT))
        whole = "".join(pieces)
        across = len(pieces[0]) + len(pieces[1])
        for mark in (whole[across - 2 : across + 2], whole[3:5]):
            assert text_of(gemma, replace(BRIDGE, stop=(mark,))) == whole[: whole.index(mark)]

    def test_an_iterator_closed_early_frees_the_slot(self, gemma: Generator) -> None:
        before = threading.active_count()
        endless = replace(BRIDGE, stop=())
        pieces = cast("Any", gemma.stream(endless, Decoding(max_new_tokens=600)))
        next(pieces)
        pieces.close()
        assert threading.active_count() == before
        assert "Ola Fenn" in text_of(gemma, BRIDGE)

    def test_two_threads_both_get_answers(self, gemma: Generator) -> None:
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(lambda prompt: text_of(gemma, prompt), [BRIDGE, BRIDGE]))
        assert all("Ola Fenn" in answer for answer in answers)

    def test_a_seed_determines_a_sample(self, gemma: Generator) -> None:
        samples = [text_of(gemma, BRIDGE, replace(HOT, seed=seed)) for seed in (1, 1, 2, 3)]
        assert samples[0] == samples[1]
        assert len(set(samples)) > 1

    def test_a_prompt_beyond_the_context(self, gemma: Generator) -> None:
        with pytest.raises(GeneratorError, match=r"raise generator\.context_tokens") as error:
            text_of(gemma, replace(BRIDGE, user="bridge " * 2000))
        one_line(error)
        assert "Ola Fenn" in text_of(gemma, BRIDGE)

    def test_its_port_is_closed_to_others(self, gemma: LlamaCppGenerator) -> None:
        address = gemma._server.listening_address
        assert httpx.URL(address).host == "127.0.0.1"
        body = {"prompt": "x", "content": "x", "max_tokens": 1}
        for headers in ({}, {"Authorization": "Bearer guess"}):
            for path in ("/v1/completions", "/v1/chat/completions", "/completion", "/tokenize"):
                reply = httpx.post(address + path, json=body, headers=headers, trust_env=False)
                assert reply.status_code == 401, path
            assert httpx.get(address + "/props", headers=headers).status_code == 401

    def test_it_counts_tokens(self, gemma: Generator) -> None:
        assert 0 < gemma.count_tokens("奥拉·芬建造了扎尼斯桥。") < 20
        assert 0 < gemma.count_tokens("Ola Fenn built the bridge.") < 12
        assert gemma.count_tokens("") == 0
        assert gemma.count_tokens("<eos>") > 1


INVENTED = [
    (FACT, "Who built the Zarnith bridge?", "en"),
    ("The Velo clinic opens at seven and closes at noon.", "When does the clinic close?", "en"),
    ("Honey from Tarn is dark because the bees feed on pine.", "Why is the honey dark?", "en"),
    ("灰塔图书馆藏书四万册，由学者陆青崖创办。", "灰塔图书馆由谁创办？", "zh"),
    ("渡船每天早上六点从白岛出发，票价十二元。", "渡船几点出发？", "zh"),
    ("雾村的陶器是蓝色的，因为当地的泥土含钴。", "陶器为什么是蓝色的？", "zh"),
]


@pytest.mark.weights
@pytest.mark.timeout(900)  # the first run on a machine converts the weights
def test_llama_cpp_and_transformers_agree(gemma: LlamaCppGenerator, weights_home: Path) -> None:
    """They read the same tokens and part only where two tokens are as good as equally likely.

    Measured on AVX2 without AVX-512: 4 of 6 continuations of 16 tokens are identical, 11.5 tokens
    are shared on average, and no choice of llama.cpp lies more than 0.022 below the best logit of
    the float32 reference. llama.cpp rounds activations to 8 bits, so ties may fall either way.
    """
    import torch

    from model.weights import prepare_gemma_folder

    reference = TransformersGenerator(
        str(prepare_gemma_folder(weights_home)), name="gemma", device="cpu"
    )
    decoding = Decoding(max_new_tokens=16)
    shared: list[int] = []  # tokens until the two part, of 16
    gaps: list[float] = []  # how far below the best logit the reference sees llama.cpp's choices
    for passage, question, language in INVENTED:
        words = ("问题：", "答案：") if language == "zh" else ("Question: ", "Answer:")
        prompt = Prompt("", (), f"{passage}\n{words[0]}{question}", words[1])
        asked = gemma._tokenize(prompt.as_text(), add_special=True)
        assert asked == reference._encode(prompt)["input_ids"][0].tolist()
        chosen = gemma._tokenize(text_of(gemma, prompt, decoding), add_special=False)
        with torch.no_grad():
            logits = reference._model(torch.tensor([asked + chosen])).logits[0, len(asked) - 1 : -1]
        # Until the two part, the reference would have said what is likeliest here.
        same = [a == b for a, b in zip(chosen, logits.argmax(dim=1).tolist(), strict=True)]
        shared.append(same.index(False) if False in same else len(same))
        lost = logits.max(dim=1).values - logits.gather(1, torch.tensor(chosen)[:, None])[:, 0]
        gaps.append(float(lost.max()))
    said = gemma._tokenize(text_of(reference, prompt, decoding), add_special=False)
    assert said[: shared[-1]] == chosen[: shared[-1]]
    assert max(gaps) < 0.2
    assert sum(length == 16 for length in shared) >= 3
    assert sum(shared) / len(shared) >= 10


class _Server(ThreadingHTTPServer):
    """A real server on a loopback port that answers every request with `reply`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.reply = 200, b""
        self.requests: list[tuple[str, str | None, dict[str, Any]]] = []
        self.cut = False
        self.refused = ""  # a field that it answers with status 400

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1/"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers["Authorization"], body))
        self.send_response(400 if self.server.refused in body else self.server.status)
        length = len(self.server.reply) + (100 if self.server.cut else 0)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(self.server.reply)

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server() as made:
        thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def events(*chunks: object, done: bool = True) -> bytes:
    lines = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    return "".join([": ping\n\n", *lines, "data: [DONE]\n\n" if done else ""]).encode()


def delta(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


class TestOpenAI:
    def test_chat_sends_turns_and_the_key(self, server: _Server) -> None:
        server.reply = events(
            {"choices": [{"delta": {"role": "assistant"}}]}, delta("老守"), delta("夜人")
        )
        generator = OpenAIGenerator(server.url, model="m", api_key="secret")
        assert list(generator.stream(replace(PROMPT, stop=("\n",)), SHORT)) == ["老守", "夜人"]
        ((path, key, body),) = server.requests
        assert (path, key) == ("/v1/chat/completions", "Bearer secret")
        assert body["messages"] == PROMPT.as_messages()
        assert (body["model"], body["stream"], body["max_tokens"]) == ("m", True, 24)
        assert body["temperature"] == 0.0
        assert "stop" not in body

    def test_completion_sends_one_text_and_its_stops(self, server: _Server) -> None:
        server.reply = events({"choices": [{"text": "Ola"}]}, {"choices": [{"text": " Fenn"}]})
        generator = OpenAIGenerator(server.url, model="m", style="completion")
        assert text_of(generator, BRIDGE, HOT) == "Ola Fenn"
        ((path, key, body),) = server.requests
        assert (path, key) == ("/v1/completions", None)
        assert (body["prompt"], body["stop"]) == (BRIDGE.as_text(), ["\n"])
        assert (body["temperature"], body["top_p"], body["seed"]) == (1.5, 1.0, 1)

    def test_scores_in_either_form_and_from_a_server_that_has_none(self, server: _Server) -> None:
        content = [{"token": "Ola", "logprob": -0.5}, {"token": "!", "logprob": -2}]
        chunk = {"delta": {"content": "Ola!"}, "logprobs": {"content": content}}
        server.reply = events({"choices": [chunk]}, {"choices": [{"delta": {}, "logprobs": None}]})
        scores: list[float] = []
        list(OpenAIGenerator(server.url, model="m").stream(PROMPT, SHORT, scores))
        assert scores == [-0.5, -2.0]
        logprobs = {"tokens": ["O", "la"], "token_logprobs": [None, -0.25]}
        server.reply = events({"choices": [{"text": "Ola", "logprobs": logprobs}]})
        completion = OpenAIGenerator(server.url, model="m", style="completion")
        list(completion.stream(PROMPT, SHORT, scores := []))
        assert scores == [-0.25]
        server.reply = events(delta("yes"))
        list(OpenAIGenerator(server.url, model="m").stream(PROMPT, SHORT, scores := []))
        assert scores == []
        text_of(OpenAIGenerator(server.url, model="m"))
        asked = [body.get("logprobs") for _, _, body in server.requests]
        assert asked == [True, 1, True, None]

    def test_a_server_that_refuses_scores_answers_without(self, server: _Server) -> None:
        server.reply, server.refused = events(delta("yes")), "logprobs"
        generator = OpenAIGenerator(server.url, model="m")
        scores: list[float] = []
        assert list(generator.stream(PROMPT, SHORT, scores)) == ["yes"]
        assert scores == []
        assert ["logprobs" in body for _, _, body in server.requests] == [True, False]
        server.refused = "model"  # refused for another reason
        with pytest.raises(GeneratorError, match="answered 400"):
            list(generator.stream(PROMPT, SHORT, scores))

    def test_scores_of_a_refusal_are_null(self, server: _Server) -> None:
        logprobs = {"content": None, "refusal": [{"token": "No", "logprob": -1}]}
        server.reply = events({"choices": [{"delta": {"content": "No"}, "logprobs": logprobs}]})
        generator = OpenAIGenerator(server.url, model="m")
        scores: list[float] = []
        assert list(generator.stream(PROMPT, SHORT, scores)) == ["No"]
        assert scores == []

    def test_a_finish_reason_ends_a_stream_as_well(self, server: _Server) -> None:
        last = {"choices": [{"delta": {}, "finish_reason": "stop"}]}
        server.reply = events(delta("yes"), last, {"choices": [], "usage": {}}, done=False)
        assert text_of(OpenAIGenerator(server.url, model="m")) == "yes"

    def test_half_a_character_does_no_harm(self, server: _Server) -> None:
        server.reply = events(delta("yes"))
        for style in ("chat", "completion"):
            generator = OpenAIGenerator(server.url, model="m", style=cast("Any", style))
            assert text_of(generator, replace(PROMPT, user="\ud83d")) == "yes"
            assert generator.count_tokens("\ud83d") > 0

    def test_only_a_line_feed_ends_a_line(self, server: _Server) -> None:
        chunk = json.dumps(delta("a\u2028b\u0085c"), ensure_ascii=False)
        server.reply = f'data: {chunk}\r\n\r\ndata: {{"choices": null}}\n\ndata: [DONE]'.encode()
        assert text_of(OpenAIGenerator(server.url, model="m")) == "a\u2028b\u0085c"

    @pytest.mark.parametrize("status", [401, 404, 500])
    def test_an_error_status(self, server: _Server, status: int) -> None:
        server.status, server.reply = status, b'{"error":\n "no such model"}'
        with pytest.raises(GeneratorError, match=rf"answered {status}.*check generator") as error:
            text_of(OpenAIGenerator(server.url, model="m", api_key="secret"))
        assert "no such model" in one_line(error)
        assert "secret" not in str(error.value)

    def test_a_closed_one_keeps_no_connection(self, server: _Server) -> None:
        server.reply = events(delta("yes"))
        with closing(OpenAIGenerator(server.url, model="m")) as generator:
            assert text_of(generator) == "yes"
        assert generator._http.is_closed

    def test_no_server(self) -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))  # bound but not listening: refuses
            url = f"http://127.0.0.1:{closed.getsockname()[1]}/v1"
            with pytest.raises(GeneratorError, match="start the server") as error:
                text_of(OpenAIGenerator(url, model="m"))
        one_line(error)
        with pytest.raises(GeneratorError, match=r"change generator\.url"):
            text_of(OpenAIGenerator("no address", model="m"))

    @pytest.mark.parametrize(
        "reply",
        [
            b'data: {"choices": [{"delta"\n\n',
            b"data: 5\n\n",
            b'data: {"choices": [5]}\n\n',
            b'data: {"choices": [{"text": "a", "logprobs": {"content": [{}]}}]}\n\n',
            events(delta("Ola"), done=False),
            events({"error": {"message": "out of\nmemory"}}),
            b'{"choices": [{"message": {"content": "not a stream"}}]}',
            b"",
        ],
    )
    def test_a_broken_stream(self, server: _Server, reply: bytes) -> None:
        server.reply = reply
        with pytest.raises(GeneratorError, match="try again") as error:
            "".join(OpenAIGenerator(server.url, model="m").stream(PROMPT, SHORT, []))
        one_line(error)

    def test_a_connection_cut_in_the_middle(self, server: _Server) -> None:
        server.reply, server.cut = events(delta("Ola"), done=False), True
        with pytest.raises(GeneratorError) as error:
            text_of(OpenAIGenerator(server.url, model="m"))
        one_line(error)

    def test_what_it_refuses_to_send(self, server: _Server) -> None:
        generator = OpenAIGenerator(server.url, model="m")
        with pytest.raises(SettingsError, match=r"decoding\.strategy = greedy"):
            text_of(generator, decoding=Decoding("beam"))
        for key in ("密钥", "two\nlines"):
            with pytest.raises(SettingsError, match="TETHER_GENERATOR_API_KEY") as error:
                OpenAIGenerator(server.url, model="m", api_key=key)
            assert key not in str(error.value)
        assert server.requests == []

    def test_it_counts_high(self) -> None:
        generator = OpenAIGenerator("http://127.0.0.1:1/v1", model="m")
        assert generator.count_tokens("港口") == 2
        assert generator.identity.backend == "openai"
