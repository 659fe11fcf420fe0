"""Which copy of a model gets which request."""

from llm_assets.engines.vllm.spread import STRETCH, Spread


def given(spread: Spread, *numbers: int) -> list[int]:
    return [spread.give(str(number)) for number in numbers]


def test_requests_that_follow_upon_each_other_go_to_the_same_copy_and_all_copies_get_as_many():
    found = given(Spread(2), *range(4 * STRETCH))
    assert found == [0] * STRETCH + [1] * STRETCH + [0] * STRETCH + [1] * STRETCH


def test_the_copy_that_holds_the_fewest_is_next():
    spread = Spread(3)
    given(spread, *range(3 * STRETCH))
    spread.end(str(number) for number in range(STRETCH, STRETCH + 5))
    assert set(given(spread, *range(1000, 1000 + STRETCH))) == {1}
    assert len(spread.held(1)) == 2 * STRETCH - 5


def test_with_few_in_flight_stretches_are_short_enough_for_all_copies():
    assert given(Spread(2, max_in_flight=8), *range(6)) == [0, 0, 1, 1, 0, 0]
    assert given(Spread(4, max_in_flight=2), *range(5)) == [0, 1, 2, 3, 0]


def test_a_stretch_does_not_end_within_a_row():
    spread = Spread(2, max_in_flight=8)
    assert [spread.give(str(number), number // 3) for number in range(12)] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]
    spread.end(map(str, range(12)))
    assert spread.give("12", row=3) == 1
    assert spread.give("13", row=4) == 0


def test_a_stretch_begins_when_nothing_is_held():
    spread = Spread(2, max_in_flight=8)
    assert given(spread, 0) == [0]
    spread.end(["0"])
    assert given(spread, 1, 2, 3) == [0, 0, 1]
