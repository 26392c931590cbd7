"""Invented worlds: what a measurement of learning rests on holds for every seed."""

import random
import re
from collections import Counter
from itertools import chain
from string import Formatter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.injection.facts import (
    KINDS,
    MOST,
    Fact,
    Half,
    World,
    articles,
    build_world,
    chance,
    facts_of_documents,
    statements,
)
from eval.injection.gaps import GAP, gap_questions
from eval.injection.names import LANGUAGES, REAL, SPARE, Names, spellings, values
from eval.injection.wordings import RELATIONS, WORDINGS, Wording
from eval.metrics import contains_answer, exact_match
from ingest.documents import content_id
from ingest.errors import UsageError
from model.training.questions import QuestionRow

_ROUNDS = 3
_LATIN, _HAN = re.compile("[A-Za-z]"), re.compile("[㐀-鿿]")

worlds = st.builds(build_world, st.integers(1, 40), st.integers(0, 2**32))
some_worlds = settings(max_examples=12, deadline=None)


def _halves(world: World) -> tuple[Half, Half]:
    return world.train, world.control


def _training_text(world: World) -> str:
    """Return everything that an arm may train on, but the questions."""
    texts = [*world.train.articles]
    for reverse in (False, True):
        for one in articles(world.train.facts, versions=_ROUNDS, seed=3, reverse=reverse):
            texts += one
    return "\n".join(article.text for article in texts)


@some_worlds
@given(worlds)
def test_relations_are_functional_and_one_to_one_where_they_say_so(world: World) -> None:
    facts = [fact for half in _halves(world) for fact in half.facts]
    pairs = Counter((fact.language, fact.subject, fact.relation) for fact in facts)
    assert max(pairs.values()) == 1
    for name, relation in RELATIONS.items():
        objects = [(one.language, one.object) for one in facts if one.relation == name]
        assert not relation.one_to_one or len(set(objects)) == len(objects)
        assert all(one.answer_type == relation.answer_type for one in facts if one.relation == name)
    assert len({fact.id for fact in facts}) == len(facts)


@some_worlds
@given(worlds)
def test_the_control_is_of_one_shape_with_training_and_shares_no_subject(world: World) -> None:
    train, control = _halves(world)
    assert Counter((one.language, one.relation) for one in train.facts) == Counter(
        (one.language, one.relation) for one in control.facts
    )
    assert Counter(probe.kind for probe in train.probes) == Counter(
        probe.kind for probe in control.probes
    )
    text = _training_text(world)
    for fact in control.facts:
        assert fact.subject not in text
        unique = RELATIONS[fact.relation].one_to_one
        assert not (unique and fact.object in text), "a one-to-one object brings its subject along"


@some_worlds
@given(worlds)
def test_no_question_says_its_answer(world: World) -> None:
    for probe in chain(*(half.probes for half in _halves(world))):
        case = probe.case
        assert not contains_answer(case.question, (*case.answers, *case.memory), case.language)


@some_worlds
@given(worlds)
def test_held_out_wordings_and_twins_are_never_trained_on(world: World) -> None:
    text = _training_text(world)
    seen = {probe.case.question for probe in world.train.probes if probe.kind == "forward-seen"}
    for fact in world.train.facts:
        assert not any(statement in text for statement in statements(fact, "held_out"))
    for probe in world.train.probes:
        assert probe.case.question not in text
        is_seen = probe.kind in ("forward-seen", "stale")
        assert (probe.case.question in seen) == is_seen


@some_worlds
@given(worlds)
def test_texts_to_train_on_name_the_subject_first_and_the_reverse_last(world: World) -> None:
    for reverse in (False, True):
        for article in chain(*articles(world.train.facts, versions=5, seed=1, reverse=reverse)):
            (subject,) = {
                fact.subject for fact in world.train.facts if fact.id in set(article.facts)
            }
            assert article.subject == subject
        for fact in world.train.facts:
            for said in statements(fact, "reverse" if reverse else "trained"):
                assert (said.index(fact.object) < said.index(fact.subject)) == reverse


@some_worlds
@given(worlds)
def test_a_text_holds_no_word_of_the_other_language(world: World) -> None:
    foreign = {"en": _HAN, "zh": _LATIN}
    for half in _halves(world):
        said = [(one.language, one.text) for one in half.articles]
        said += [(one.case.language, one.case.question) for one in half.probes]
        said += [(one.case.language, answer) for one in half.probes for answer in one.case.answers]
        for language, text in said:
            assert not foreign[language].search(text), text


@some_worlds
@given(worlds)
def test_what_a_question_rests_on_says_the_answer_where_it_has_one(world: World) -> None:
    for half in _halves(world):
        by_subject = {(one.language, one.subject): one for one in half.articles}
        facts = {fact.id: fact for fact in half.facts}
        for probe in half.probes:
            case = probe.case
            texts = case.contexts or (case.gold_context or "",)
            assert case.answerable == bool(case.answers) == (probe.kind != "unanswerable")
            assert all(answer in "".join(texts) for answer in case.answers)
            fact = facts[probe.facts[0]]
            own = by_subject[fact.language, fact.subject].text
            if probe.kind == "stale":
                assert case.memory == spellings(fact.object, fact.answer_type, fact.language)
                assert case.memory[0] in own
                assert not contains_answer(texts[0], case.memory, case.language)
            elif probe.kind == "two-hop":
                first, second = (facts[one] for one in probe.facts)
                assert first.object == second.subject
                assert case.answers[0] == second.object
                assert second.subject not in case.question
                assert case.answers[0] not in own, "two hops in one article are one hop"
            else:
                assert texts == (own,)


@some_worlds
@given(st.integers(0, 2**32), st.sampled_from(LANGUAGES))
def test_one_seed_gives_the_same_bytes_and_another_one_gives_others(
    seed: int, language: str
) -> None:
    world = build_world(12, seed, [language])
    assert repr(world) == repr(build_world(12, seed, [language]))
    # A language is not changed by the others that are built along.
    both = build_world(12, seed)
    assert world.train.facts == tuple(one for one in both.train.facts if one.language == language)
    other = build_world(12, seed + 1, [language])
    assert {one.subject for one in world.train.facts} != {one.subject for one in other.train.facts}


def test_worlds_have_the_size_that_was_asked_for() -> None:
    for count in (64, 500):
        world = build_world(count, 5)
        for half in _halves(world):
            assert Counter(fact.language for fact in half.facts) == {"en": count, "zh": count}
    assert len(build_world(1, 0, ["zh"]).control.facts) == 4
    assert len({one.id for one in world.train.articles}) == len(world.train.articles)


def test_names_suffice_for_the_largest_world() -> None:
    world = build_world(MOST, 0, ["zh"])
    subjects = [one.subject for half in _halves(world) for one in half.articles]
    assert len(set(subjects)) == len(subjects) == MOST


def test_every_kind_is_asked_in_both_languages() -> None:
    world = build_world(16, 2)
    asked = Counter((probe.kind, probe.case.language) for probe in world.train.probes)
    assert set(asked) == {(kind, language) for kind in KINDS for language in LANGUAGES}
    assert len({probe.case.id for half in _halves(world) for probe in half.probes}) == sum(
        len(half.probes) for half in _halves(world)
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_pools_are_large_and_no_value_holds_another(language: str) -> None:
    for kind in ("material", "animal", "trade", "year"):
        pool = values(kind, language)
        assert len(set(pool)) == len(pool) >= 50
        for one in pool:
            others = [other for other in pool if contains_answer(one, [other], language)]
            assert others == [one]
    assert SPARE >= 50  # names of people, ships and capitals beyond those in use


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(LANGUAGES))
def test_invented_names_are_nobodys_and_hold_no_other(seed: int, language: str) -> None:
    names = Names(language, random.Random(seed))
    drawn = [name for kind in ("person", "town", "company") for name in names.draw(kind, 40)]
    joint = re.compile(r"[ ·]")
    stems = [
        spellings(name, kind, language)[-1]
        for kind, name in zip(
            ["person"] * 40 + ["town"] * 40 + ["company"] * 40, drawn, strict=True
        )
    ]
    stems += [joint.split(name)[0] for name in drawn[:40]]  # given names
    for stem in stems:
        folded = stem.lower()
        assert not any(real in folded for real in REAL[language])
        assert sum(folded in other.lower() for other in stems) == 1


def test_some_well_known_names_are_on_the_list() -> None:
    assert {"london", "newton", "einstein", "tokyo", "stalin"} <= REAL["en"]
    assert {"伦敦", "牛顿", "爱因斯坦", "达尔文", "乌克兰"} <= REAL["zh"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", RELATIONS)
def test_every_relation_has_its_wordings(language: str, name: str) -> None:
    relation, wording = RELATIONS[name], WORDINGS[language][name]
    assert len(wording.trained) >= 5
    assert len(wording.held_out) >= 2
    assert len(wording.asked) >= 3
    assert len(wording.asked_new) >= 2
    assert len(wording.twins) >= 2
    assert (len(wording.reverse) >= 3) == relation.one_to_one == (len(wording.asked_reverse) >= 2)
    assert (len(wording.composed) >= 2) == bool(relation.hop)
    everything = [text for part in wording.__slots__ for text in getattr(wording, part)]
    assert len(set(everything)) == len(everything)
    assert all(
        fields == _expected(wording, text) for text in everything for fields in [_fields(text)]
    )
    ends = {"en": (".", "?"), "zh": ("。", "？")}[language]
    stated = {*wording.trained, *wording.held_out, *wording.reverse}
    assert all(text.endswith(ends[0] if text in stated else ends[1]) for text in everything)


def _fields(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name)


def _expected(wording: Wording, text: str) -> list[str]:
    if text in {*wording.trained, *wording.held_out, *wording.reverse}:
        return ["o", "s"]
    return ["o"] if text in wording.asked_reverse else ["s"]


def test_rounds_change_wording_and_order_and_go_on_where_fewer_end() -> None:
    facts = build_world(64, 9, ["en"]).train.facts
    rounds = articles(facts, versions=5, seed=4)
    assert articles(facts, versions=2, seed=4) == rounds[:2]
    assert articles(facts, versions=2, seed=5) != rounds[:2]
    for one in rounds:  # so no window within a round holds a subject twice
        assert len({article.subject for article in one}) == len(one) == 32
    for fact in facts:
        texts = [text.text for one in rounds for text in one if fact.id in text.facts]
        used = [said for text in texts for said in statements(fact) if said in text]
        assert sorted(used) == sorted(statements(fact)), (
            "five rounds use each of five wordings once"
        )
    assert len({tuple(article.subject for article in one) for one in rounds}) == 5
    assert any(
        first.facts != next(one for one in rounds[1] if one.subject == first.subject).facts
        for first in rounds[0]
    )


def test_reversed_articles_state_one_to_one_facts_alone() -> None:
    facts = build_world(16, 9).train.facts
    (written,) = articles(facts, reverse=True)
    stated = {identity for article in written for identity in article.facts}
    assert stated == {fact.id for fact in facts if RELATIONS[fact.relation].one_to_one}


def test_chance_is_what_the_most_frequent_answer_gets() -> None:
    world = build_world(200, 11)
    levels = chance(world.control.probes)
    assert set(levels) == set(KINDS)
    assert levels["unanswerable"] == 0.0
    for kind in ("forward-new", "two-hop"):
        probes = [probe for probe in world.control.probes if probe.kind == kind]
        right = 0.0
        for language, type_ in {(probe.case.language, probe.answer_type) for probe in probes}:
            same = [
                one for one in probes if (one.case.language, one.answer_type) == (language, type_)
            ]
            guesses = {one.case.answers[0] for one in same}
            right += max(
                sum(exact_match(guess, one.case.answers[:1], language) for one in same)
                for guess in guesses
            )
        assert levels[kind] == pytest.approx(right / len(probes))
        assert levels[kind] < 0.15
    assert chance([]) == {}


def test_only_keeps_what_rests_on_the_facts_that_are_kept() -> None:
    train = build_world(16, 6, ["en"]).train
    founder = next(fact for fact in train.facts if fact.relation == "founder")
    kept = train.only({founder.id})
    assert kept.facts == (founder,)
    assert [article.subject for article in kept.articles] == [founder.subject]
    assert {probe.kind for probe in kept.probes} == {*KINDS} - {"two-hop"}
    whole = train.only({fact.id for fact in train.facts})
    assert whole == train


@pytest.mark.parametrize("count", [0, -3, MOST + 1])
def test_an_impossible_size_is_a_user_error(count: int) -> None:
    with pytest.raises(UsageError, match="choose 1 to 1000"):
        build_world(count, 1)


@pytest.mark.parametrize("languages", [[], ["en", "en"], ["fr"]])
def test_an_unknown_language_is_a_user_error(languages: list[str]) -> None:
    with pytest.raises(UsageError, match=r"choose (some|from)"):
        build_world(4, 1, languages)


def _rows(count: int, document: str = "d1") -> list[QuestionRow]:
    return [
        QuestionRow(
            f"Who keeps the {place} lighthouse?",
            (f"Keeper {place}",),
            f"The {place} lighthouse is kept by Keeper {place}.",
            document,
            "en",
        )
        for place in (f"Number{number}" for number in range(count))
    ]


def test_facts_of_documents_have_the_same_shape_and_two_halves() -> None:
    rows = _rows(10)
    world = facts_of_documents([*rows, rows[0]], seed=2)
    train, control = _halves(world)
    assert len(train.facts) + len(control.facts) == 10
    assert len(control.facts) == 5
    texts = {one.text for one in train.articles}
    for half in _halves(world):
        for probe, fact, article in zip(half.probes, half.facts, half.articles, strict=True):
            assert probe.kind == "forward-seen"
            assert probe.facts == article.facts == (fact.id,)
            assert (fact.relation, fact.object) == (probe.case.question, probe.case.answers[0])
            assert fact.subject == "d1"
            assert probe.case.gold_document == article.id == content_id(article.text)
            assert (article.text in texts) == (half is train)
    assert repr(world) == repr(facts_of_documents([*rows, rows[0]], seed=2))
    assert chance(train.probes) == {"forward-seen": 0.2}


def test_facts_of_documents_have_no_other_wordings() -> None:
    world = facts_of_documents(_rows(4))
    with pytest.raises(UsageError, match="as they stand"):
        articles(world.train.facts)


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_passages_are_a_user_error(count: int) -> None:
    with pytest.raises(UsageError, match="add documents"):
        facts_of_documents(_rows(count))


def test_a_fact_is_said_as_its_wordings_say() -> None:
    fact = Fact("x", "en", "Velor Bridge", "material", "oak", "material", "g")
    assert statements(fact)[0] == "Velor Bridge is made of oak."
    assert statements(fact, "reverse") == ()


# --- Sentences with a gap ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("passage", "question", "answer"),
    [
        (
            "The lighthouse of Orrin was finished in 1897.",
            'What belongs in the gap: "The lighthouse of Orrin was finished in ____."?',
            "1897",
        ),
        (
            "It rains. The bridge over the Kestrel was designed by Marta Lindqvist herself.",
            'What belongs in the gap: "The bridge over the Kestrel was designed by ____ herself."?',
            "Marta Lindqvist",
        ),
        ("青石桥全长41米，由工程师设计，建成于1902年。",
         "空格处应填什么：“青石桥全长41米，由工程师设计，建成于____年。”？", "1902"),
        ("检索系统的排序方法采用BM25，十分稳定。",
         "空格处应填什么：“检索系统的排序方法采用____，十分稳定。”？", "BM25"),
        ("About 3,412.5 tons of tea were sent, of which 12% stayed.",
         'What belongs in the gap: "About 3,412.5 tons of tea were sent, of which ____ stayed."?',
         "12%"),
    ],
)  # fmt: skip
def test_a_number_or_a_name_leaves_a_gap(passage: str, question: str, answer: str) -> None:
    (row,) = gap_questions([passage])
    assert (row.question, row.answers, row.context) == (question, (answer,), passage)


@pytest.mark.parametrize(
    "passage",
    [
        "Marta keeps the light and mends the nets.",  # what begins a sentence has nothing before it
        "The lighthouse keeper was born in 1871 and finished it in 1871.",  # said twice
        "| harbour of the island | finished in | 1897 |",
        "The plan of the harbour is kept at https://example.org/harbour/1897",
        "The lighthouse " + "is very old and " * 20 + "was finished in 1897.",
        "夜里很静。",
        "码头 2 6 8 10 12 14 16 31",  # a row of numbers says nothing
    ],
)
def test_what_makes_no_good_question_is_passed_over(passage: str) -> None:
    assert gap_questions([passage]) == []


def test_a_gap_and_its_answer_make_the_sentence_again() -> None:
    passages = [
        f"The pier of number {n} was built by the Orrin family in {1800 + n}." for n in range(9)
    ]
    rows = gap_questions(passages)
    assert len(rows) == len(passages)
    for row, passage in zip(rows, passages, strict=True):
        assert row.question.count(GAP) == 1
        assert passage in row.question.replace(GAP, row.answers[0])
    world = facts_of_documents(rows)
    assert len(world.train.facts) + len(world.control.facts) == len(rows)
