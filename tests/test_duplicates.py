"""Similar texts find each other, and a text is only joined to one that says all of it."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.duplicates import SHORT, bands, closest, says_all, similarity


def words(count: int, seed: int = 1) -> list[str]:
    generator = random.Random(seed)
    return ["".join(generator.choices("abcdefghij", k=5)) for _ in range(count)]


def ideographs(count: int, seed: int = 1) -> str:
    generator = random.Random(seed)
    return "".join(chr(generator.randint(0x4E00, 0x9FA5)) for _ in range(count))


def jaccard(first: list[str], second: list[str], width: int) -> float:
    one, other = (
        {tuple(tokens[start : start + width]) for start in range(len(tokens) - width + 1)}
        for tokens in (first, second)
    )
    return len(one & other) / len(one | other)


def test_similarity_is_the_jaccard_coefficient_of_the_shingles() -> None:
    first = words(500)
    second = [*first[:300], "other", *first[301:480]]
    expected = jaccard(first, second, 5)
    assert similarity(" ".join(first), " ".join(second)) == pytest.approx(expected)
    han = ideographs(500)
    changed = han[:200] + "新" + han[201:]
    expected = jaccard(list(han), list(changed), 8)
    assert similarity(han, changed) == pytest.approx(expected)


def test_width_case_spaces_and_signs_do_not_count() -> None:
    text = " ".join(words(100))
    other = "，\n".join(words(100)).upper().translate({ord("A"): "Ａ"})
    assert similarity(text, other) == 1.0
    assert bands(text) == bands(other)


def test_nearly_equal_texts_share_a_band_and_others_do_not() -> None:
    found = strange = 0
    for seed in range(100):
        first = words(400, seed)
        second = list(first)
        for place in (50, 150, 250, 350):  # similarity about .90
            second[place] = "other"
        keys = set(bands(" ".join(first)))
        found += bool(keys & set(bands(" ".join(second))))
        strange += bool(keys & set(bands(" ".join(words(400, seed + 1000)))))
    assert found >= 99
    assert strange == 0


def test_the_bands_are_those_that_are_stored() -> None:
    """Other seeds or arithmetic would no longer find what older collections hold."""
    assert bands("绿茶的冲泡温度是八十度。") == [-8456648313796076661]
    assert bands(" ".join(str(number) for number in range(100)))[:2] == [
        -4969943022508824884,
        7185928316511828988,
    ]


@pytest.mark.parametrize("text", ["", " \n", "。。。", "-" * 500])
def test_texts_without_words_have_few_bands(text: str) -> None:
    assert len(bands(text)) <= 1


@pytest.mark.parametrize(
    ("kept", "new"),
    [
        ("One. Two. Three.", "One. Three."),
        ("他说：“水温是80度。”然后走了。", "他说：水温是 80 度。"),
        ("The Bridge opened\nin 1957.", "the bridge  opened in 1957"),
    ],
)
def test_nothing_new_is_said(kept: str, new: str) -> None:
    assert says_all(kept, new)


@pytest.mark.parametrize(
    ("kept", "new"),
    [
        ("It costs 50 euros.", "It costs 5 euros."),
        ("It is -5 degrees.", "It is 5 degrees."),
        ("It is .5 metres.", "It is 5 metres."),
        ("Take 5% of it.", "Take 5 of it."),
        ("Is it safe?", "It is safe."),
        ("We deny that it is safe.", "It is safe."),
        ("Ann.\n\n5\n\nBob.\n\n7", "Ann.\n\n7\n\nBob.\n\n5"),
        ("李先生来了。", "王先生来了。"),
        ("One.", "One. Two."),
        ("One.", "One. One."),
    ],
)
def test_something_new_is_said(kept: str, new: str) -> None:
    assert not says_all(kept, new)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_every_text_says_itself(text: str) -> None:
    assert says_all(text, text)
    if len(text) >= SHORT and bands(text):
        assert similarity(text, text) == 1.0
    assert all(-(2**63) <= key < 2**63 for key in bands(text))


def test_the_closest_that_says_all_comes_first() -> None:
    sentences = [" ".join(words(20, seed)).capitalize() + "." for seed in range(40)]
    new = " ".join(sentences)
    texts = {
        "changed": new.replace(sentences[20], sentences[20][:-6] + "x."),
        "longer": new + " And one more sentence with quite a few words in it, really.",
        "strange": " ".join(words(800, 99)),
    }
    holders = {name: set(bands(text)) for name, text in texts.items()}

    def holding(band: int) -> list[str]:
        return [name for name, keys in holders.items() if band in keys]

    found = closest(new, bands(new), holding, texts.__getitem__)
    assert found is not None
    assert (found.document_id, found.says_all) == ("longer", True)
    assert 0.9 <= found.similarity < 1
    assert closest(texts["strange"], bands(new), lambda band: [], texts.__getitem__) is None


def test_a_long_text_is_folded_in_slices() -> None:
    text = " ".join(words(300_000))  # 1.8 million characters
    assert len(bands(text)) == 16
    assert similarity(text, text[:-600]) == pytest.approx(1 - 100 / 299_996, abs=1e-4)
    assert np.unique(bands(text)).size == 16
