"""Verifier pairs: what is built is true or false as labelled, balanced, and gives nothing away."""

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest

from ingest.errors import UsageError
from ingest.languages import split_sentences
from model.training.pairs import (
    KINDS,
    Pair,
    PairOptions,
    QuestionRow,
    build,
    exchange,
    values,
    window,
)
from model.training.statements import lightened, negated, reversed_relation, statement

PEOPLE = "Ola Fenn,Bram Koster,Ines Valdor,Tove Lind,Karel Mraz,Nadia Orsini,Piet Hals,Runa Bek"
TOWNS = "Zarnith,Velmora,Ostrand,Quillby,Marnock,Tessaly,Dunvale,Corvane"
THINGS = "bridge,tower,harbour,library,market,theatre,mill,school"

ZH_TOWNS = "南京,上海,北京,重庆,武汉,成都,广州,西安"
ZH_THINGS = "大桥,高塔,港口,图书馆,剧院,学校"


def rows(articles: int = 60) -> list[QuestionRow]:
    """Made-up articles of two paragraphs, in both languages, each with three questions."""
    chance = random.Random(3)
    made: list[QuestionRow] = []
    for article, part in itertools.product(range(articles), range(2)):
        town, other = chance.sample(TOWNS.split(","), 2)
        builder, critic = chance.sample(PEOPLE.split(","), 2)
        thing, year = chance.choice(THINGS.split(",")), chance.randint(1500, 1999)
        cost = chance.randint(100, 999)
        text = (
            f"The old {thing} of {town} was built in {year} after a long dispute. Most of it,"
            f" {cost} crowns, was given by people of {other}, who used it every day. {builder} led"
            f" the work there for many months. {critic} praised {builder} for it in a long letter."
            f" Visitors from abroad were not allowed to enter the {thing} of {town} at first."
        )
        for question, answer in (
            (f"Who led the work on the {thing} of {town}?", builder),
            (f"When was the {thing} of {town} built?", str(year)),
            (f"Who praised {builder} in a letter?", critic),
        ):
            made.append(QuestionRow(question, (answer,), text, "en", f"article {article}"))
        made.append(QuestionRow(f"Who burnt down {other}?", (), text, "en", f"article {article}"))
        stadt, andere = chance.sample(ZH_TOWNS.split(","), 2)
        ding, jahr = chance.choice(ZH_THINGS.split(",")), chance.randint(1500, 1999)
        text = (
            f"{stadt}的{ding}建于{jahr}年，当时争论了很久。{andere}的商人为它捐了{cost}两白银，"
            f"用了{part + 5}个月。这座{ding}是{stadt}最有名的建筑，每天有许多人参观。"
            f"后来{andere}打败了{stadt}，{ding}没有受到破坏。"
        )
        for question, answer in (
            (f"{stadt}的{ding}建于哪一年？", f"{jahr}年"),
            (f"商人为{stadt}的{ding}捐了多少两白银？", f"{cost}两"),
            (f"后来谁打败了{stadt}？", andere),
        ):
            made.append(QuestionRow(question, (answer,), text, "zh", f"文章 {article}"))
    return made


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return list(islice(build(rows(), PairOptions(), seed=0), 1200))


def test_every_even_prefix_is_balanced(pairs: Sequence[Pair]) -> None:
    for size in (40, 200, 600):
        prefix = pairs[:size]
        assert sum(pair.label for pair in prefix) == size / 2
        assert sum(pair.language == "zh" for pair in prefix) == size / 2
    kinds = Counter(pair.kind for pair in pairs[:600])
    assert set(kinds) == set(KINDS)
    assert kinds["entity"] > kinds["unanswerable"]
    for kind in kinds:
        assert np.mean([pair.label for pair in pairs if pair.kind == kind]) == 0.5


def test_twins_share_their_claim_or_their_evidence(pairs: Sequence[Pair]) -> None:
    for true, false in zip(pairs[::2], pairs[1::2], strict=True):
        assert (true.label, false.label) == (1, 0)
        assert (true.kind, true.language, true.group) == (false.kind, false.language, false.group)
        shared = (true.claim == false.claim) + (true.evidence == false.evidence)
        assert shared == 1


def test_labels_do_not_contradict_each_other(pairs: Sequence[Pair]) -> None:
    labels = defaultdict(set)
    for pair in pairs:
        labels[pair.claim, pair.evidence].add(pair.label)
    assert len(labels) == len(pairs)  # no pair twice
    assert all(len(found) == 1 for found in labels.values())


def test_dates_tell_the_label(pairs: Sequence[Pair]) -> None:
    """A claim with a year is supported exactly if the year stands in its evidence."""
    dated = [pair for pair in pairs if pair.kind == "date" and values(pair.claim, "date", "en")]
    dated = [pair for pair in dated if pair.language == "en"]
    assert len(dated) > 20
    for pair in dated:
        held = set(values(pair.claim, "date", "en")) <= set(values(pair.evidence, "date", "en"))
        assert held == bool(pair.label)


def test_negations_stand_in_both_labels_alike(pairs: Sequence[Pair]) -> None:
    for language, mark in (("en", " not "), ("zh", "没有")):
        own = [p for p in pairs if p.kind == "negation" and p.language == language]
        denying = [pair.label for pair in own if mark in pair.claim]
        assert len(denying) > 10
        assert 0.25 < np.mean(denying) < 0.75


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("field", ["claim", "evidence"])
def test_half_a_pair_does_not_give_the_label_away(
    pairs: Sequence[Pair], language: str, field: str
) -> None:
    """A bag of words over claims, or over evidence, alone learns next to nothing.

    The unanswerable questions are people's: they differ, and here all burn something down.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    own = [p for p in pairs if p.language == language and p.kind != "unanswerable"]
    texts = [getattr(pair, field) for pair in own]
    labels = [pair.label for pair in own]
    analyzer = "char" if language == "zh" else "word"
    counts = CountVectorizer(analyzer=analyzer, ngram_range=(1, 2)).fit_transform(texts)
    scores = cross_val_predict(
        LogisticRegression(max_iter=300),
        counts,
        labels,
        groups=[pair.group for pair in own],
        cv=GroupKFold(5),
        method="predict_proba",
    )[:, 1]
    assert 0.4 < roc_auc_score(labels, scores) < 0.6


def test_equal_seeds_build_equal_pairs() -> None:
    few = rows(6)
    first = list(islice(build(few, PairOptions(), seed=5), 60))
    assert first == list(islice(build(few, PairOptions(), seed=5), 60))
    assert first != list(islice(build(few, PairOptions(), seed=6), 60))


def test_building_ends_when_nothing_new_is_left() -> None:
    assert 0 < len(list(build(rows(1), PairOptions(), seed=0))) < 400
    assert list(build([], PairOptions(), seed=0)) == []


def test_shares_choose_the_kinds() -> None:
    only = PairOptions(shares={"date": 2.0, "removed": 1.0})
    kinds = Counter(pair.kind for pair in islice(build(rows(20), only, seed=0), 120))
    assert kinds == {"date": 80, "removed": 40}
    for shares in ({"colour": 1.0}, {"date": -1.0}, {"date": 0.0}, {}):
        with pytest.raises(UsageError, match="are no proportions"):
            PairOptions(shares=shares)


def test_evidence_is_whole_sentences_within_bounds(pairs: Sequence[Pair]) -> None:
    most = PairOptions().characters
    assert all(len(pair.evidence) <= most[pair.language] * 1.1 for pair in pairs)
    text = "The mill is here. The bridge is there. The tower is gone. The school is back."
    whole = [text[a:b] for a, b in split_sentences(text)]
    for seed in range(20):
        cut = window(text, "The bridge is there.", 45, random.Random(seed))
        assert cut is not None
        assert "The bridge is there." in cut
        assert all(cut[a:b] in whole for a, b in split_sentences(cut))
        assert len(cut) <= 45
    assert window(text, "The bridge is there.", 10, random.Random(0)) is None


def test_exchange_is_its_own_inverse_and_keeps_words_whole() -> None:
    text = "In 1914 Ola met Bram; 19 came."
    assert exchange(text, "19", "7") == "In 1914 Ola met Bram; 7 came."
    assert exchange(text, "Ola", "Bram") == "In 1914 Bram met Ola; 19 came."
    assert exchange(exchange(text, "Ola", "Bram"), "Ola", "Bram") == text
    assert exchange("重庆与北京", "重庆", "北京") == "北京与重庆"


def test_values_by_type() -> None:
    text = "It cost 1,200 crowns in 1931. On May 4, 1932 Ola Fenn sold it to Velmora."
    assert values(text, "date", "en") == ["1931", "May 4, 1932"]
    assert values(text, "number", "en") == ["1,200"]
    assert values(text, "entity", "en") == ["Ola Fenn", "Velmora"]
    text = "1931年5月，曹操在南京花了1200元。"
    assert values(text, "date", "zh") == ["1931年5月"]
    assert values(text, "number", "zh") == ["1200"]
    assert set(values(text, "entity", "zh")) == {"曹操", "南京"}


@pytest.mark.parametrize(
    ("question", "answer", "language", "expected"),
    [
        ("Who built the bridge?", "Ola Fenn", "en", "Ola Fenn built the bridge."),
        ("Who was the mayor of Quillby?", "Tove Lind", "en", "Tove Lind was the mayor of Quillby."),
        ("Who did Ola meet?", "Bram", "en", None),
        ("Who was Ola Fenn?", "a builder", "en", None),
        ("What is the name of the river?", "Sel", "en", "The name of the river is Sel."),
        ("What was the bridge made of?", "stone", "en", None),
        ("How many people live there?", "300 people", "en", "300 people live there."),
        ("How many mills were there in Ostrand?", "5", "en", "There were 5 mills in Ostrand."),
        ("When was it built?", "1931", "en", "It was built in 1931."),
        ("When was it sold to Bram?", "May 4, 1931", "en", "It was sold to Bram on May 4, 1931."),
        ("Where is the mill located?", "near Velmora", "en", "The mill is located near Velmora."),
        ("Why did it fall?", "rain", "en", None),
        ("大桥是谁建造的？", "欧拉", "zh", "大桥是欧拉建造的。"),
        ("大桥建于哪一年？", "1931年", "zh", "大桥建于1931年。"),
        ("城里住着多少人？", "500人", "zh", "城里住着500人。"),
        ("大桥位于哪里？", "南京", "zh", "大桥位于南京。"),
        ("欧拉参加了什么比赛？", "篮球比赛", "zh", "欧拉参加了篮球比赛。"),
        ("欧拉参加了什么比赛？", "篮球", "zh", None),
        ("大桥建于何时？", "欧拉", "zh", None),
        ("谁在什么时候建了大桥？", "欧拉", "zh", None),
        ("大桥为什么倒塌？", "下雨", "zh", None),
    ],
)  # fmt: skip
def test_statements(question: str, answer: str, language: str, expected: str | None) -> None:
    assert statement(question, answer, language) == expected


def test_sentences_are_lightened_to_what_they_still_say() -> None:
    english = "In May 1931, the mill of Quillby (a ruin) was sold, which pleased all."
    found = {lightened(english, "en", random.Random(seed)) for seed in range(60)}
    assert "The mill of Quillby was sold in May 1931." in found
    assert "In May 1931, the mill of Quillby was sold." in found
    assert lightened("Too short.", "en", random.Random(0)) is None
    chinese = "大桥（旧名）建于1931年的南京，后来被毁。"
    found = {lightened(chinese, "zh", random.Random(seed)) for seed in range(60)}
    assert "大桥建于1931年的南京。" in found
    assert "大桥建于1931年的南京，后来被毁。" in found


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("The mill was sold.", "en", "The mill was not sold."),
        ("The mill was not sold.", "en", "The mill was sold."),
        ("The mill was never sold.", "en", None),
        ("Ola sold the mill.", "en", None),
        ("大桥是石头建造的。", "zh", "大桥不是石头建造的。"),
        ("大桥没有桥墩。", "zh", "大桥有桥墩。"),
        ("大桥倒塌。", "zh", None),
    ],
)
def test_negation(sentence: str, language: str, expected: str | None) -> None:
    assert negated(sentence, language) == expected


@pytest.mark.parametrize(
    ("sentence", "language", "expected"),
    [
        ("Ostrand and its guard met Velmora.", "en", None),
        ("Ostrand defeated Velmora in May.", "en", "Velmora defeated Ostrand in May."),
        ("Ola Fenn was praised by Bram.", "en", "Bram was praised by Ola Fenn."),
        ("Ola and Bram praised Tove.", "en", None),
        ("后来南京打败了上海。", "zh", "后来上海打败了南京。"),
        ("南京和上海打败了敌人。", "zh", None),
    ],
)
def test_relations(sentence: str, language: str, expected: str | None) -> None:
    assert reversed_relation(sentence, language) == expected


def test_an_answer_that_is_part_of_another_number_is_not_there() -> None:
    text = "In 1910 the tower of Zarnith was built by order of the king. It has 10 floors."
    asked = "How many floors has the tower of Zarnith, built in 1910 by order of the king?"
    other = QuestionRow("Who sold it?", (), "Nobody sold the old mill of Velmora.", "en", "a")
    options = PairOptions(shares={"passage": 1}, characters={"en": 62, "zh": 62}, sentence_claims=0)
    found = list(build([QuestionRow(asked, ("10",), text, "en", "a"), other], options, seed=0))
    assert {pair.evidence for pair in found if pair.label} == {"It has 10 floors."}
