"""Tasks of lm-evaluation-harness run on our models, with its own numbers, and with retrieval."""
# mypy: disable-error-code="import-not-found"

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the `harness` extra")

import datasets
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from eval.harness_model import HarnessAssistant, HarnessModel, last_question
from eval.scoring import Scorer
from ingest.chunking import ChunkingOptions
from ingest.errors import UsageError
from ingest.pipeline import run
from model.assistant import LONGEST_QUESTION, Assistant
from model.generators import ScriptedGenerator
from model.training.tasks import load_base
from model.verifier import OverlapVerifier
from retrieval.encoders import HashingEncoder
from retrieval.search import CollectionSearcher, Searcher
from retrieval.store import open_collection
from tests.test_verifier import plain_calibration
from tests.tiny_models import build_transformers_model

ROWS = [
    {"question": "Who mends the nets?", "choices": ["the old keeper", "a boy"], "gold": 0},
    {"question": "How many piers are there?", "choices": ["two", "three"], "gold": 1},
    {"question": "What burns all night?", "choices": ["a lantern", "a fire"], "gold": 0},
]
TEXT = "The harbour of Orrin has three piers and a lantern that burns all night."
PAGES = {
    "harbour.txt": "The harbour of Orrin has three piers. The old keeper mends the nets there.",
    "tea.txt": "Tea from Orra is harvested in April. It is exported to Portugal.",
}


def task(kind: str, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Return a task of the harness over rows of ours."""
    return {
        "task": f"harbour_{kind}", "output_type": kind, "test_split": "test",
        "custom_dataset": lambda **_: {"test": datasets.Dataset.from_list(ROWS)},
        "doc_to_text": "Question: {{question}}\nAnswer:", **more,
    }  # fmt: skip


CHOICE = task("multiple_choice", doc_to_choice="{{choices}}", doc_to_target="gold")
WRITING = task(
    "generate_until", doc_to_target="{{choices[gold]}}",
    generation_kwargs={"until": ["\n"], "max_gen_toks": 8},
    metric_list=[{"metric": "exact_match"}],
)  # fmt: skip
READING = task("loglikelihood_rolling", doc_to_target="{{question}}", doc_to_text="",
               metric_list=[{"metric": "word_perplexity"}])  # fmt: skip


def evaluated(model: Any, one: dict[str, Any]) -> dict[str, Any]:  # noqa: ANN401
    """Return what the harness finds with a model on a task, without its own thousands of tasks."""
    manager = TaskManager(include_defaults=False)
    found: dict[str, Any] = simple_evaluate(
        model=model, tasks=[dict(one)], bootstrap_iters=0, task_manager=manager
    )
    return found


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {"row": at}, one, at) for at, one in enumerate(arguments)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Any:  # noqa: ANN401
    return load_base(build_transformers_model(tmp_path_factory.mktemp("base")))


@pytest.fixture
def searcher(tmp_path: Path) -> Iterator[Searcher]:
    for name, text in PAGES.items():
        (tmp_path / name).write_text(text, "utf-8")
    with open_collection(tmp_path / "home", "pages", HashingEncoder(), create=True) as collection:
        run([tmp_path / name for name in PAGES], collection, ChunkingOptions())
        yield CollectionSearcher(collection)


def test_likelihoods_are_those_of_the_harness_itself(loaded: Any) -> None:  # noqa: ANN401
    model, tokenizer = loaded
    ours, theirs = HarnessModel(Scorer(*loaded)), HFLM(model, tokenizer=tokenizer, device="cpu")
    pairs = requests(
        "loglikelihood",
        ("The harbour of Orrin has", " three piers"),
        ("Question: who mends the nets?\nAnswer: ", "the old keeper"),
        ("", "The old keeper mends the nets"),
    )
    for one, other in zip(
        ours.loglikelihood(pairs), theirs.loglikelihood(pairs, disable_tqdm=True), strict=True
    ):
        assert one[0] == pytest.approx(other[0], abs=1e-3) and one[1] == other[1]
    (rolled,) = ours.loglikelihood_rolling(requests("loglikelihood_rolling", (TEXT,)))
    whole = ours.loglikelihood(requests("loglikelihood", ("", TEXT)))
    assert rolled == pytest.approx(whole[0][0], abs=1e-3)


def test_greedy_text_is_that_of_the_harness_itself(loaded: Any) -> None:  # noqa: ANN401
    model, tokenizer = loaded
    ours, theirs = HarnessModel(Scorer(*loaded)), HFLM(model, tokenizer=tokenizer, device="cpu")
    asked = requests(
        "generate_until",
        ("The harbour of", {"until": ["\n"], "max_gen_toks": 6}),
        ("Question: who mends the nets? Answer:", {"until": ["e"], "max_gen_toks": 9}),
        ("The lantern", {"until": "\n", "max_gen_toks": 6, "do_sample": False}),
    )
    assert ours.generate_until(asked) == theirs.generate_until(asked, disable_tqdm=True)


def test_sampling_follows_the_seed_and_refuses_what_it_does_not_know(loaded: Any) -> None:  # noqa: ANN401
    hot: dict[str, Any] = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 6}
    asked = requests("generate_until", *[("The lantern", hot)] * 4)
    first, again, other = (
        HarnessModel(Scorer(*loaded), seed=seed).generate_until(asked) for seed in (1, 1, 9)
    )
    assert first == again != other and len(set(first)) > 1
    with pytest.raises(UsageError, match="top_p, which is not understood"):
        HarnessModel(Scorer(*loaded)).generate_until(
            requests("generate_until", ("The lantern", {**hot, "top_p": 0.5}))
        )


@pytest.mark.parametrize("kind", [CHOICE, WRITING, READING], ids=lambda one: one["output_type"])
def test_tasks_of_every_kind_run(loaded: Any, kind: dict[str, Any]) -> None:  # noqa: ANN401
    found = evaluated(HarnessModel(Scorer(*loaded)), kind)
    assert found["n-samples"][kind["task"]]["effective"] == len(ROWS)
    metrics = found["results"][kind["task"]]
    assert any(name.split(",")[0] in ("acc", "exact_match", "word_perplexity") for name in metrics)


def test_passages_stand_before_the_prompt_the_best_one_last(
    loaded: Any,  # noqa: ANN401
    searcher: Searcher,
) -> None:
    scorer = Scorer(*loaded)
    prompt, answer = "Question: Who mends the nets of Orrin?\nAnswer:", " the old keeper"
    plain, informed = (
        HarnessModel(scorer, searcher=one, passages=2).loglikelihood(
            requests("loglikelihood", (prompt, answer))
        )
        for one in (None, searcher)
    )
    before = f"[2] {PAGES['tea.txt']}\n\n[1] {PAGES['harbour.txt']}\n\n{prompt}"
    (expected,) = scorer.continuations([(before, answer)])
    assert informed[0][0] == pytest.approx(expected.log_probability, abs=1e-4)
    assert informed != plain


def assistant(searcher: Searcher, reply: str) -> Assistant:
    return Assistant(
        generator=ScriptedGenerator(default=reply),
        verifier=OverlapVerifier(HashingEncoder(), plain_calibration()),
        searcher=searcher,
    )


def test_the_assistant_answers_with_retrieval(searcher: Searcher) -> None:
    model = HarnessAssistant(assistant(searcher, "the old keeper [1]"))
    found = evaluated(model, WRITING)
    said = {row["doc"]["question"]: row["resps"][0][0] for row in found["samples"][WRITING["task"]]}
    assert said["Who mends the nets?"] == "the old keeper"
    metrics = found["results"][WRITING["task"]]
    assert next(value for name, value in metrics.items() if name.startswith("exact_match,")) > 0


def test_an_abstention_is_empty_and_a_stop_text_cuts(searcher: Searcher) -> None:
    model = HarnessAssistant(assistant(searcher, "Marta Lindqvist [1]"))
    asked = requests("generate_until", ("Q: Who painted the fence?\nA:", {"until": ["\n"]}))
    assert model.generate_until(asked) == [""]
    model = HarnessAssistant(assistant(searcher, "the old keeper [1]"))
    asked = requests("generate_until", ("Q: Who mends the nets?\nA:", {"until": [" keeper"]}))
    assert model.generate_until(asked) == ["the old"]


def test_the_question_may_come_from_the_row_and_is_never_too_long(searcher: Searcher) -> None:
    said: list[str] = []

    class Listener:
        def ask(self, question: str, *, passages: object = None) -> Any:  # noqa: ANN401
            said.append(question)
            return assistant(searcher, "").ask(question)

    rows = [Instance("generate_until", {"asked": "Who mends the nets?"}, ("x", {}), 0)]
    HarnessAssistant(Listener(), question_of=lambda one: one.doc["asked"]).generate_until(rows)
    HarnessAssistant(Listener()).generate_until(requests("generate_until", ("Why? " * 1000, {})))
    assert said[0] == "Who mends the nets?"
    assert len(said[1]) == LONGEST_QUESTION


def test_likelihoods_of_an_assistant_are_refused(searcher: Searcher) -> None:
    model = HarnessAssistant(assistant(searcher, ""))
    with pytest.raises(UsageError, match="choose tasks that generate"):
        evaluated(model, CHOICE)
    with pytest.raises(UsageError, match="HarnessModel"):
        model.loglikelihood_rolling([])


@pytest.mark.parametrize(
    ("prompt", "question"),
    [
        ("Question: Who mends the nets?\nAnswer:", "Who mends the nets?"),
        ("Q: Old one?\nA: yes\n\nQ: New one?\nA:", "New one?"),
        ("问题：谁修补渔网？\n答案：", "谁修补渔网？"),
        ("A passage.\n\nWho mends it?", "Who mends it?"),
        ("Name the area: A: one", "Name the area: A: one"),
        ("Answer:", "Answer:"),
    ],
)
def test_the_last_question_of_a_prompt(prompt: str, question: str) -> None:
    assert last_question(prompt) == question
