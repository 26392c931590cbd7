"""The fair line: owners in turn, positions that come true, bounds, and an end for all who wait."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.turns import Line, Ticket
from ingest.errors import ServiceBusy

NOW = 0.0  # seconds: tell the position as it is


def line(places: int = 1, longest: int = 100, longest_each: int = 100) -> Line:
    return Line(places=places, longest=longest, longest_each=longest_each)


def test_a_free_place_needs_no_waiting() -> None:
    one = line(places=2)
    tickets = [one.join("ada") for _ in range(3)]
    assert [one.wait(ticket, NOW) for ticket in tickets] == [0, 0, 1]
    assert one.counts() == (2, 1)


def test_owners_are_served_in_turns() -> None:
    one = line()
    first = one.join("ada")
    greedy = [one.join("ada") for _ in range(3)]
    late, later = one.join("bo"), one.join("cy")
    waiting = [*greedy, late, later]
    assert [one.wait(ticket, NOW) for ticket in waiting] == [1, 4, 5, 2, 3]
    one.leave(first)
    assert [one.wait(ticket, NOW) for ticket in waiting] == [0, 3, 4, 1, 2]
    one.leave(greedy[0])
    assert [one.wait(ticket, NOW) for ticket in waiting[1:]] == [2, 3, 0, 1]


@given(
    joins=st.lists(st.sampled_from("abcd"), min_size=1, max_size=25),
    places=st.integers(1, 4),
)
def test_positions_come_true(joins: list[str], places: int) -> None:
    one = line(places)
    tickets = [one.join(owner) for owner in joins]
    promised = sorted(tickets, key=lambda ticket: one.wait(ticket, NOW))
    in_place = [ticket for ticket in tickets if one.wait(ticket, NOW) == 0]
    expected = [ticket for ticket in promised if ticket not in in_place]
    admitted: list[Ticket] = []
    while in_place:
        one.leave(in_place.pop(0))
        news = [t for t in expected if t not in admitted and one.wait(t, NOW) == 0]
        admitted += news
        in_place += news
    assert admitted == expected
    assert one.counts() == (0, 0)


def test_who_gives_up_is_passed_over() -> None:
    one = line()
    first, second, third = (one.join(owner) for owner in "abc")
    one.leave(second)
    one.leave(second)
    assert one.wait(third, NOW) == 1
    one.leave(first)
    one.leave(first)
    assert one.wait(third, NOW) == 0
    assert one.counts() == (1, 0)


def test_a_change_of_position_wakes_who_waits() -> None:
    one = line()
    first, second = one.join("a"), one.join("b")
    assert one.wait(second, NOW) == 1
    told: list[int] = []
    thread = threading.Thread(target=lambda: told.append(one.wait(second, seconds=60)))
    thread.start()
    one.leave(first)
    thread.join(30)
    assert told == [0]


def test_too_many_are_refused() -> None:
    one = line(longest=3, longest_each=2)
    place = one.join("a")
    kept = [one.join("a"), one.join("a")]
    with pytest.raises(ServiceBusy, match="2 questions are waiting already; ask again"):
        one.join("a")
    kept.append(one.join("b"))
    with pytest.raises(ServiceBusy, match="3 questions are waiting"):
        one.join("c")
    one.leave(place)
    assert one.wait(one.join("c"), NOW) > 0


def test_closing_refuses_who_waits_and_who_comes_and_nobody_else() -> None:
    one = line()
    inside, waiting = one.join("a"), one.join("b")
    one.close()
    assert one.wait(inside, NOW) == 0
    for refused in (lambda: one.wait(waiting, 60), lambda: one.join("c")):
        with pytest.raises(ServiceBusy, match="stopping; ask again"):
            refused()
    assert not one.wait_until_left(NOW)
    one.leave(waiting)
    one.leave(inside)
    assert one.wait_until_left(60)
    assert one.counts() == (0, 0)
