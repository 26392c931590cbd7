"""The data of `answer`: real search over a real collection, then what each example says."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ingest.documents import Chunk, Document, chunk_id, content_id
from ingest.errors import UsageError
from model.answers import Answer
from model.assistant import Assistant
from model.claims import read
from model.generators import Decoding, ScriptedGenerator
from model.prompts import Prompt
from model.training.questions import (
    BuildOptions,
    Example,
    Kind,
    Mixture,
    QuestionRow,
    answer_type,
    build,
    from_documents,
    shortest_answer,
    split_rows,
)
from model.verifier import Calibration, Logistic, OverlapVerifier
from retrieval.encoders import Encoder, HashingEncoder
from retrieval.passages import Passage
from retrieval.search import CollectionSearcher, SearchOptions
from retrieval.store import Collection, open_collection

TOWNS = ["Brenn", "Halden", "Orra", "Zarnith", "Vell", "Morrow", "Tarn", "Quill"]
PEOPLE = ["Ada Fenn", "Bo Lindqvist", "Cal Oan", "Dee Marsh", "Eli Rook", "Fay Stone", "Gus Wray"]
ZH_TOWNS = ["白島", "青石", "長河", "雲嶺", "東港", "西原", "南灣", "北坡"]
ZH_PEOPLE = ["林望舒", "陳子昂", "李清川", "王知遠", "趙明誠", "周若水", "吳承宇", "鄭念慈"]


def english(i: int) -> list[QuestionRow]:
    town, year, person = TOWNS[i], str(1901 + 7 * i), PEOPLE[i % len(PEOPLE)]
    context = (
        f"{town} lies on the coast and has a harbour. The bridge of {town} was opened in {year}."
        f" It was designed by {person} of the guild. Ferries leave {town} every morning."
    )
    group = f"en:{town}"
    return [
        QuestionRow(
            f"When was the bridge of {town} opened?",
            (f"{year}.", f"in {year}"),
            context,
            group,
            "en",
        ),
        QuestionRow(f"Who designed the bridge of {town}?", (person,), context, group, "en"),
        QuestionRow(f"Who burned the bridge of {town}?", (), context, group, "en", False),
    ]


def chinese(i: int) -> list[QuestionRow]:
    town, year, person = ZH_TOWNS[i], f"{1902 + 7 * i}年", ZH_PEOPLE[i]
    context = (
        f"{town}在海邊，有一個港口。{town}大橋於{year}通車。"
        f"大橋由工程師{person}設計。渡船每天出發。"
    )
    group = f"zh:{town}"
    return [
        QuestionRow(f"{town}大橋於哪一年通車？", (year,), context, group, "zh"),
        QuestionRow(f"誰設計了{town}大橋？", (person,), context, group, "zh"),
    ]


ROWS = [row for i in range(8) for make in (english, chinese) for row in make(i)]


def fill(collection: Collection, rows: list[QuestionRow]) -> None:
    for text in dict.fromkeys(row.context for row in rows):
        identity = content_id(text)
        document = Document(identity, f"paragraph:{identity}", "", text, "und", "text/plain")
        chunk = Chunk(chunk_id(identity, 0, len(text)), identity, 0, len(text), text)
        collection.add(document.uri, identity, document, [chunk])


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Collection]:
    home = tmp_path_factory.mktemp("questions")
    with open_collection(home, "questions", HashingEncoder(), create=True) as opened:
        fill(opened, ROWS)
        yield opened


def made(collection: Collection, options: BuildOptions, most: int = 64) -> list[Example]:
    return build(
        ROWS,
        search=CollectionSearcher(collection, SearchOptions(mode="lexical")).search,
        verifier=OverlapVerifier(collection.encoder),
        count_tokens=ScriptedGenerator().count_tokens,
        most=most,
        options=options,
    )


def only(kind: Kind, **changes: object) -> BuildOptions:
    nothing = dict.fromkeys(Mixture.__slots__, 0.0)
    return replace(BuildOptions(mixture=Mixture(**(nothing | {kind: 1.0}))), **changes)  # type: ignore[arg-type]


def packed(example: Example) -> dict[int, str]:
    lines = re.findall(r"^\[(\d+)\] (.*)$", example.prompt, re.MULTILINE)
    return {int(number): text for number, text in lines}


def claims(example: Example) -> list[tuple[str, int]]:
    """Return what the completion says, read as the assistant reads a draft."""
    found = read(example.completion, list(packed(example)))
    return [(claim.text.rstrip(".。"), *claim.cited) for claim in found]  # type: ignore[misc]


def test_a_mixture_takes_another_share_of_refusals() -> None:
    few = Mixture().with_refusals(0.125)
    refusals = few.missing + few.partial + few.unanswerable
    assert refusals == pytest.approx(0.125)
    assert sum(asdict(few).values()) == pytest.approx(1)
    assert few.missing / few.partial == pytest.approx(Mixture().missing / Mixture().partial)
    assert few.gold / few.counterfactual == pytest.approx(Mixture().gold / Mixture().counterfactual)


def test_the_default_mixture_is_balanced_and_sound(collection: Collection) -> None:
    examples = made(collection, BuildOptions())
    languages = [example.language for example in examples]
    assert languages == ["en", "zh"] * (len(examples) // 2)  # so is any prefix of it
    assert len(examples) >= 56
    kinds = Counter(example.kind for example in examples)
    assert set(kinds) == set(Mixture.__slots__)
    assert kinds["gold"] == max(kinds.values())
    for example in examples:
        shown = packed(example)
        assert sorted(shown)[-1] <= 6
        assert example.prompt.endswith(("\nAnswer:", "\n答案："))
        for text, number in claims(example):
            assert text in shown[number]
        refuses = example.kind in ("missing", "partial", "unanswerable")
        assert refuses == (not claims(example))


def test_two_builds_are_identical_and_seeds_differ(collection: Collection) -> None:
    first = made(collection, BuildOptions(seed=3), 24)
    assert made(collection, BuildOptions(seed=3), 24) == first
    assert made(collection, BuildOptions(seed=4), 24) != first


def test_the_gold_passage_has_any_number(collection: Collection) -> None:
    examples = made(collection, only("gold"))
    assert {number for example in examples for _, number in claims(example)} >= {1, 2, 3, 4}
    originals = {answer.rstrip(".") for row in ROWS for answer in row.answers}
    assert {
        text for e in made(collection, only("gold", simplified=0.0)) for text, _ in claims(e)
    } <= (originals)


def test_a_missing_or_removed_answer_is_refused(collection: Collection) -> None:
    for kind in ("missing", "partial"):
        examples = made(collection, only(kind, simplified=0.0))
        assert len(examples) == 64
        for example in examples:
            (row,) = (row for row in ROWS if row.question in example.prompt)
            shown = "\n".join(packed(example).values())
            assert not any(answer.rstrip(".") in shown for answer in row.answers)
            assert example.completion in (" The passages do not say.", "资料没有说明。")


def test_a_counterfactual_passage_wins(collection: Collection) -> None:
    examples = made(collection, only("counterfactual", simplified=0.0))
    assert len(examples) > 40
    for example in examples:
        (row,) = (row for row in ROWS if row.question in example.prompt)
        ((text, number),) = claims(example)
        truth = shortest_answer(row)
        assert truth is not None and text != truth
        assert text in packed(example)[number]
        assert truth not in "".join(packed(example).values())
        assert answer_type(row.question, text, row.language) == answer_type(
            row.question, truth, row.language
        )


def test_of_two_that_disagree_both_are_named_in_reading_order(collection: Collection) -> None:
    examples = made(collection, only("contradiction", simplified=0.0))
    assert len(examples) > 40
    for example in examples:
        (row,) = (row for row in ROWS if row.question in example.prompt)
        said = claims(example)
        assert len({text for text, _ in said}) == 2
        assert shortest_answer(row) in dict(said)
        numbers = [number for _, number in said]
        assert numbers == [number for number in packed(example) if number in numbers]


def test_chinese_comes_in_both_scripts(collection: Collection) -> None:
    half = [e for e in made(collection, only("gold")) if e.language == "zh"]
    simple = [e for e in half if "大桥" in e.prompt]
    assert 0 < len(simple) < len(half)
    assert not any("橋" in e.prompt or "陳" in e.completion for e in simple)


def test_a_split_keeps_groups_and_paragraphs_apart() -> None:
    shared = replace(ROWS[0], group="en:a copy elsewhere")
    train, dev = split_rows([*ROWS, shared], 0.25, seed=1)
    assert {row.language for row in dev} == {"en", "zh"}
    assert not {row.group for row in train} & {row.group for row in dev}
    assert not {row.context for row in train} & {row.context for row in dev}
    assert split_rows(ROWS, 0.25, seed=1) == split_rows(ROWS, 0.25, seed=1)


@pytest.mark.parametrize(
    ("answers", "shortest"),
    [
        (("in October 1973.", "October 1973,"), "October 1973"),
        (("somewhere else",), None),
        ((), None),
        (("the year " * 30,), None),
    ],
)
def test_the_shortest_answer_that_stands_there(
    answers: tuple[str, ...], shortest: str | None
) -> None:
    row = QuestionRow("When?", answers, "It began in October 1973, they say.", "g", "en")
    assert shortest_answer(row) == shortest


def test_only_things_of_one_type_stand_for_each_other() -> None:
    assert answer_type("When?", "3 May 1931", "en") == answer_type("When?", "12 June 1807", "en")
    assert answer_type("How many?", "46%", "en") != answer_type("How many?", "46", "en")
    assert answer_type("What city is it?", "Vell", "en") == "en city"
    assert answer_type("What is it?", "Vell", "en") is None
    assert answer_type("Who came?", "the deacons", "en") is None
    assert answer_type("誰來了？", "日耳曼人", "zh") is None
    assert answer_type("在哪個國家？", "法國", "zh") == answer_type("是哪個國家？", "德國", "zh")


def test_rows_that_cannot_serve_are_passed_over(collection: Collection) -> None:
    with pytest.raises(UsageError, match="no questions"):
        build(
            [],
            search=CollectionSearcher(collection).search,
            verifier=OverlapVerifier(collection.encoder),
            count_tokens=len,
            most=5,
        )
    foreign = QuestionRow("Who?", ("Nobody Known",), "Nobody Known is not kept here.", "g", "en")
    examples = build(
        [foreign],
        search=CollectionSearcher(collection).search,
        verifier=OverlapVerifier(collection.encoder),
        count_tokens=len,
        most=5,
        options=only("gold"),
    )
    assert examples == []


# --- A user's own documents


class Readings:
    """An assistant that gives a written answer with retrieval and another one without."""

    def __init__(self, assistant: Assistant) -> None:
        self.assistant = assistant
        self.asked: list[tuple[str, bool]] = []

    def ask(self, question: str, *, passages: Sequence[Passage] | None = None) -> Answer:
        self.asked.append((question, passages is None))
        return self.assistant.ask(question, passages=passages)


def believing() -> Calibration:
    """Return functions that believe whatever the rules of grounding let through."""
    sure = {language: Logistic(3.0, {}) for language in ("en", "zh")}
    never = {language: Logistic(3.0, {}, threshold=1.1) for language in ("en", "zh")}
    return Calibration(never, sure, sure, {"en": 0.0, "zh": 0.0})


def passage_of(row: QuestionRow) -> Passage:
    identity = content_id(row.context)
    chunk = Chunk(
        chunk_id(identity, 0, len(row.context)), identity, 0, len(row.context), row.context
    )
    return Passage(1, chunk, "", "", 0.0, relevance=0.9)


class Asking(ScriptedGenerator):
    """Asks a question when shown a bare passage, and answers when shown a question."""

    def stream(
        self, prompt: Prompt, decoding: Decoding, scores: list[float] | None = None
    ) -> Iterator[str]:
        asks = "Question:" not in prompt.user
        key = next(key for key in self.replies if key in prompt.user)
        yield f" When was the bridge of {key} opened?" if asks else self.replies[key]


@pytest.mark.parametrize(("reply", "kept"), [(" 1901 [1]", 1), (" 1777 [1]", 0), ("", 0)])
def test_a_question_is_kept_if_it_makes_the_round_trip(
    collection: Collection, reply: str, kept: int
) -> None:
    encoder: Encoder = collection.encoder
    generator = Asking({"Brenn": reply})
    searcher = CollectionSearcher(collection, SearchOptions(mode="lexical"))
    assistant = Assistant(
        generator=generator, verifier=OverlapVerifier(encoder, believing()), searcher=searcher
    )
    readings = Readings(assistant)
    rows = list(from_documents([passage_of(ROWS[0])], generator, readings))
    question = "When was the bridge of Brenn opened?"
    assert readings.asked == [(question, False), (question, True)]
    assert len(rows) == kept
    for row in rows:
        assert row.question == question
        assert row.answers == ("1901",)
        assert row.context == ROWS[0].context


def test_nothing_is_kept_that_is_no_question(collection: Collection) -> None:
    generator = ScriptedGenerator(default="The bridge.")
    assistant = Assistant(generator=generator, verifier=OverlapVerifier(collection.encoder))
    assert list(from_documents([passage_of(ROWS[0])], generator, assistant)) == []


@pytest.mark.weights
def test_with_the_real_encoder(e5_encoder: Encoder, tmp_path: Path) -> None:
    rows = [row for row in ROWS if row.group in {"en:Brenn", "en:Halden", "zh:白島", "zh:青石"}]
    with open_collection(tmp_path, "questions", e5_encoder, create=True) as collection:
        fill(collection, rows)
        examples = build(
            rows,
            search=CollectionSearcher(collection).search,
            verifier=OverlapVerifier(e5_encoder),
            count_tokens=ScriptedGenerator().count_tokens,
            most=8,
            options=only("gold"),
        )
    assert len(examples) == 8
    for example in examples:
        ((text, number),) = claims(example)
        assert text in packed(example)[number]
