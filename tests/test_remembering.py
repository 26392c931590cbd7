"""An encoder that remembers passages gives the same vectors, and asks for each text once."""

import threading

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.encoders import Encoder, HashingEncoder, Vectors
from retrieval.remembering import RememberingEncoder

TEXTS = st.lists(st.sampled_from(["a lamp", "a tower", "灯塔", "故宫", "", "sea " * 40]))


class Counting(HashingEncoder):
    """Counts what it is asked to embed."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def encode_passages(self, texts: list[str]) -> Vectors:
        self.asked += texts
        return super().encode_passages(texts)


def room(encoder: Encoder, passages: int) -> int:
    return 4 * encoder.identity.dimension * passages


@settings(deadline=None)
@given(st.lists(TEXTS, max_size=6), st.integers(0, 4))
def test_its_vectors_are_the_encoders_whatever_it_remembers(
    calls: list[list[str]], passages: int
) -> None:
    plain = HashingEncoder()
    remembering = RememberingEncoder(plain, room(plain, passages))
    for texts in calls:
        found, expected = remembering.encode_passages(texts), plain.encode_passages(texts)
        assert found.shape == (len(texts), plain.identity.dimension)
        assert np.array_equal(found, expected) and found.dtype == np.float32
    assert remembering.identity == plain.identity
    assert remembering.count_tokens("a lamp") == plain.count_tokens("a lamp")
    assert np.array_equal(remembering.encode_queries(["a lamp"]), plain.encode_queries(["a lamp"]))


def test_a_passage_is_embedded_once_while_there_is_room() -> None:
    counting = Counting()
    remembering = RememberingEncoder(counting, room(counting, 2))
    remembering.encode_passages(["a", "b", "a"])
    remembering.encode_passages(["b", "a"])
    assert counting.asked == ["a", "b"]
    remembering.encode_passages(["c"])  # "b" was asked for longest ago
    remembering.encode_passages(["a", "c"])
    assert counting.asked == ["a", "b", "c"]
    remembering.encode_passages(["b"])
    assert counting.asked == ["a", "b", "c", "b"]


def test_what_it_gave_may_be_changed() -> None:
    remembering = RememberingEncoder(HashingEncoder())
    first = remembering.encode_passages(["a lamp"])
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(remembering.encode_passages(["a lamp"]), kept)


def test_threads_get_their_own_vectors() -> None:
    plain = HashingEncoder()
    remembering = RememberingEncoder(plain, room(plain, 3))
    wrong: list[str] = []

    def ask(start: int) -> None:
        for number in range(200):
            text = f"text {(start + number) % 7}"
            if not np.array_equal(remembering.encode_passages([text])[0], alone[text]):
                wrong.append(text)

    alone = {f"text {n}": plain.encode_passages([f"text {n}"])[0] for n in range(7)}
    threads = [threading.Thread(target=ask, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
