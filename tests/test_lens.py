"""The lens: it chooses what transformers' own `generate` chooses, and shows why."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ingest.errors import GeneratorError, SettingsError
from model.generators import Decoding
from model.lens import BeamStep, Lens, Step, _Words, path_of
from model.prompts import Prompt, PromptOptions, build_prompt
from tests.tiny_models import build_transformers_model

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerFast

SEEN = Prompt("", (), "The harbour of Orrin has three piers.\nQuestion: who?", "Answer:")
UNSEEN = Prompt("", (), "Question: who?", "Answer:")
SHORT = Decoding(max_new_tokens=12)
ENDS = [2, *range(40, 52)]  # so many that a random model meets one of them


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def lens(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lens:
    folder = build_transformers_model(tmp_path_factory.mktemp("model"), request.param)
    return Lens(str(folder), name="tiny", device="cpu")


@pytest.fixture
def ending(lens: Lens) -> Iterator[Lens]:
    """The same model, which ends its texts soon."""
    lens._model.generation_config.eos_token_id = ENDS
    yield lens
    lens._model.generation_config.eos_token_id = 2


def generated(lens: Lens, prompt: Prompt, **options: object) -> tuple[str, float]:
    """Return text and score of transformers' own generation."""
    ids = lens._encode(prompt)["input_ids"]
    output = lens._model.generate(
        ids, pad_token_id=0, output_scores=True, return_dict_in_generate=True, **options
    )
    text = lens._decode(output.sequences[0, ids.shape[1] :].tolist())
    scores = getattr(output, "sequences_scores", None)
    return text, math.nan if scores is None else float(scores[0])


def chances(lens: Lens, prompt: Prompt, said: list[int], temperature: float = 1.0) -> "Tensor":
    """Return the probabilities after a prompt and what was said, by one pass without a cache."""
    import torch

    ids = torch.cat([lens._encode(prompt)["input_ids"], torch.tensor([said]).long()], dim=1)
    with torch.no_grad():
        logits: Tensor = lens._model(ids).logits[0, -1]
    return (logits / temperature).softmax(dim=-1)


def last(steps: Iterator[Step]) -> Step:
    return list(steps)[-1]


@pytest.mark.parametrize("prompt", [SEEN, UNSEEN])
def test_the_likeliest_path_is_that_of_generate(ending: Lens, prompt: Prompt) -> None:
    for longest in (1, 5, 40):
        decoding = replace(SHORT, max_new_tokens=longest)
        expected, _ = generated(ending, prompt, max_new_tokens=longest, do_sample=False)
        assert last(ending.walk([prompt], decoding)).text == expected


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 0.9), (1.0, 1.0), (1.5, 0.5)])
def test_a_draw_is_that_of_generate(ending: Lens, temperature: float, top_p: float) -> None:
    import torch

    texts = set()
    for seed in range(4):
        decoding = Decoding("sample", temperature, top_p, seed, max_new_tokens=12)
        torch.manual_seed(seed)
        expected, _ = generated(
            ending, SEEN, max_new_tokens=12, do_sample=True, temperature=temperature, top_p=top_p,
            top_k=0,
        )  # fmt: skip
        steps = list(ending.walk([SEEN], decoding))
        assert steps[-1].text == expected
        assert not any(step.views[0].chosen.is_cut for step in steps)
        texts.add(expected)
    assert len(texts) > 1


def test_the_best_beam_is_that_of_generate(ending: Lens) -> None:
    endings = set()
    for prompt, beams, longest in itertools.product((SEEN, UNSEEN), (1, 2, 3, 5), (1, 4, 24)):
        decoding = Decoding("beam", beams=beams, max_new_tokens=longest)
        expected = generated(ending, prompt, max_new_tokens=longest, num_beams=beams)
        steps = list(ending.search(prompt, decoding))
        assert [step.is_last for step in steps] == [False] * (len(steps) - 1) + [True]
        assert steps[-1].best.text == expected[0]
        if beams > 1:
            assert steps[-1].best.score == pytest.approx(expected[1], abs=1e-4)
        endings |= {beam.ending for step in steps for beam in step.finished}
    assert endings == {"token", "length"}


def test_beams_are_a_tree(lens: Lens) -> None:
    steps: list[BeamStep] = list(lens.search(SEEN, Decoding("beam", beams=3, max_new_tokens=6)))
    assert [len(step.beams) for step in steps] == [3] * 5 + [0]
    for before, step in itertools.pairwise(steps):
        for beam in (*step.beams, *(one for one in step.finished if one.ending == "length")):
            parent = before.beams[beam.parent]
            assert beam.text.startswith(parent.text)
            gained = math.log(beam.chosen.probability)
            assert beam.total == pytest.approx(parent.total + gained, abs=1e-4)
            assert beam.score == pytest.approx(beam.total / step.number)
    path = path_of(steps)
    assert path[-1] == steps[-1].best
    assert all(one in step.beams for one, step in zip(path[:-1], steps[:-1], strict=True))
    assert sum(math.log(one.chosen.probability) for one in path) == pytest.approx(path[-1].total)
    totals = [[beam.total for beam in step.beams] for step in steps]
    assert all(row == sorted(row, reverse=True) for row in totals)


def test_every_prompt_tells_what_it_makes_of_the_same_words(lens: Lens) -> None:
    said: list[int] = []
    for step in lens.walk([SEEN, UNSEEN], SHORT, shown=5):
        token = step.views[0].chosen.token
        assert step.views[0].chosen == step.views[0].candidates[0]
        assert step.views[1].chosen.token == token
        for view, prompt in zip(step.views, (SEEN, UNSEEN), strict=True):
            expected = chances(lens, prompt, said)
            best = expected.topk(5)
            assert [one.token for one in view.candidates] == best.indices.tolist()
            shown = [one.probability for one in view.candidates]
            assert shown == pytest.approx(best.values.tolist(), abs=1e-5)
            assert view.chosen.probability == pytest.approx(float(expected[token]), abs=1e-5)
            assert view.end == pytest.approx(float(expected[2]), abs=1e-6)
            bits = -float((expected * expected.log2()).sum())
            assert view.entropy == pytest.approx(bits, abs=1e-3)
        said.append(token)
    assert len(said) == 12


def test_temperature_is_seen_and_what_lies_outside_the_nucleus_is_marked(lens: Lens) -> None:
    hot = Decoding("sample", temperature=1.5, top_p=0.4, seed=3, max_new_tokens=1)
    (step,) = lens.walk([SEEN], hot, shown=1000)
    everything = step.views[0].candidates
    expected = chances(lens, SEEN, [], temperature=1.5).sort(descending=True).values
    assert [one.probability for one in everything] == pytest.approx(expected.tolist(), abs=1e-5)
    kept = [one.probability for one in everything if not one.is_cut]
    assert sum(kept) >= 0.4 > sum(kept[:-1])
    assert [one.is_cut for one in everything] == sorted(one.is_cut for one in everything)


@pytest.mark.parametrize("mark", ["e", "ha", "夜"])
def test_a_stop_string_ends_the_text_as_it_ends_a_stream(lens: Lens, mark: str) -> None:
    prompt = replace(SEEN, stop=(mark,))
    long = replace(SHORT, max_new_tokens=60)
    beams = replace(long, strategy="beam", beams=3)
    step = last(lens.walk([prompt], long))
    assert step.text.partition(mark)[0] == "".join(lens.stream(prompt, long))
    assert (step.ending == "text") == (mark in step.text)
    best = list(lens.search(prompt, beams))[-1].best
    assert best.text.partition(mark)[0] == "".join(lens.stream(prompt, beams))


def test_the_way_to_a_text_that_ended_early_is_found(ending: Lens) -> None:
    steps = list(ending.search(SEEN, Decoding("beam", beams=4, max_new_tokens=24)))
    for count in range(1, len(steps) + 1):
        path = path_of(steps[:count])
        assert path[-1] == steps[count - 1].best
        assert path[-1].score == pytest.approx(path[-1].total / len(path))
    assert path_of([]) == []


def test_a_prompt_is_shown_as_it_is_read(lens: Lens) -> None:
    assert lens.as_read(UNSEEN) == UNSEEN.as_text()


def test_a_prompt_is_read_once(lens: Lens) -> None:
    read: list[tuple[int, ...]] = []
    hook = lens._model.register_forward_pre_hook(
        lambda module, args, given: read.append(tuple(given["input_ids"].shape)), with_kwargs=True
    )
    try:
        list(lens.walk([SEEN, UNSEEN], replace(SHORT, max_new_tokens=3)))
        list(lens.search(SEEN, Decoding("beam", beams=4, max_new_tokens=3)))
    finally:
        hook.remove()
    seen, unseen = (lens._encode(prompt)["input_ids"].shape[1] for prompt in (SEEN, UNSEEN))
    assert read == [(1, seen), (1, unseen), *[(1, 1)] * 4, (1, seen), (4, 1), (4, 1)]


def test_a_walk_that_is_left_early_leaves_the_model_to_others(lens: Lens) -> None:
    steps = lens.walk([SEEN], SHORT)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    assert len(list(lens.walk([SEEN], SHORT))) == 12


def test_models_and_prompts_that_cannot_be_watched_are_refused(tmp_path: Path) -> None:
    build_transformers_model(tmp_path / "t5", "t5")
    with pytest.raises(SettingsError, match="shows causal models"):
        list(Lens(str(tmp_path / "t5"), name="t5").walk([SEEN], SHORT))
    build_transformers_model(tmp_path / "gpt2", "gpt2", positions=16)
    with pytest.raises(GeneratorError, match="reads 16"):
        list(Lens(str(tmp_path / "gpt2"), name="short").walk([UNSEEN, SEEN], SHORT))


def byte_level() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["</s>"], show_progress=False
    )
    tokenizer.train_from_iterator(["the bridge the bridge"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")  # type: ignore[no-untyped-call]


def byte_fallback() -> "PreTrainedTokenizerFast":
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    texts = ["</s>", "a", "▁the", "\n", "北京", "\t", "▁▁", "<0xE6>", "<0x0A>", "\u200b"]
    vocabulary = {text: number for number, text in enumerate(texts)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")  # type: ignore[no-untyped-call]


def test_tokens_can_be_read() -> None:
    fallback = byte_fallback()
    words = _Words(fallback)
    assert [words.name(token) for token in range(len(fallback))] == [
        "</s>", "a", "␣the", "↵", "北京", "⇥", "␣␣", "<0xE6>", "<0x0A>", "\\u200b",
    ]  # fmt: skip
    level = byte_level()
    ids = level.encode(" the</s> 北\n", add_special_tokens=False)
    assert [_Words(level).name(token) for token in ids] == [
        "␣the", "</s>", "␣", "<0xE5>", "<0x8C>", "<0x97>", "↵",
    ]  # fmt: skip


@pytest.mark.weights
def test_the_passage_makes_the_answer_likely(weights_home: Path, gemma_gguf: Path) -> None:
    from model.weights import prepare_gemma_folder

    del gemma_gguf  # only there to skip without weights
    lens = Lens(str(prepare_gemma_folder(weights_home)), name="gemma-3-270m", device="cpu")
    question = "故宫在哪里?"
    options = PromptOptions(examples=0)
    told = build_prompt(question, [(1, "故宫位于北京。")], options)
    untold = build_prompt(question, [], options)
    steps = lens.walk([told, untold], Decoding(max_new_tokens=12))
    step = next(step for step in steps if "北京" in step.text)
    assert step.views[0].chosen.text == "北京"
    with_it, without_it = (view.chosen.probability for view in step.views)
    assert with_it > 0.5 > without_it
    assert with_it > 2 * without_it
    assert step.views[0].entropy < step.views[1].entropy
