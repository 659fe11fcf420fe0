"""The order in which rows are asked."""

from datetime import UTC, datetime

import pytest

from llm_assets.pipeline.layout import common_beginning
from llm_assets.pipeline.questions import NEAR_THE_END, OpenRow, Question, Slice, best_order, side_by_side
from llm_assets.records import Partition
from llm_assets.tables.source_table import CHUNK_ROWS
from llm_assets.tasks import Task
from tests.tables.shop import NOTE, SENTIMENT, RecordingEngine, Shop

PART = Slice(Partition(), {}, datetime.now(UTC))


def question(key: int, text: str, task: Task = NOTE) -> Question:
    return Question(task, text, text, [OpenRow(PART, (key,), 0)])


def rows_of(*texts: str) -> list[list[Question]]:
    return [[question(key, text)] for key, text in enumerate(texts)]


def texts_of(rows: list[list[Question]]) -> list[str]:
    return [row[0].text for row in rows]


def test_the_questions_about_a_row_are_neighbours_in_the_order_of_the_tasks() -> None:
    asked = [question(2, "b"), question(1, "a"), question(1, "a", SENTIMENT), question(2, "b", SENTIMENT)]
    rows = side_by_side(asked, [SENTIMENT, NOTE])
    assert [[(q.rows[0].key, q.task.name) for q in row] for row in rows] == [
        [((2,), "sentiment"), ((2,), "note")],
        [((1,), "sentiment"), ((1,), "note")],
    ]


def test_rows_keep_their_order() -> None:
    rows = rows_of("bb", "a", "ccc")
    assert best_order(rows, NEAR_THE_END + 1) == rows


def test_rows_whose_texts_begin_alike_become_neighbours() -> None:
    first, second = "Dear customer, " * 5, "Hello, I write to you because " * 5
    rows = rows_of(first + "1", second + "1", first + "2", second + "2")
    for rows_after in (0, NEAR_THE_END + 1):
        assert texts_of(best_order(rows, rows_after)) == [first + "1", first + "2", second + "1", second + "2"]


def test_the_last_rows_are_asked_longest_text_first() -> None:
    assert texts_of(best_order(rows_of("a", "bbb", "cc", "ddd"), NEAR_THE_END)) == ["bbb", "ddd", "cc", "a"]


def test_the_end_of_a_run_is_longer_than_its_last_rows_that_were_read_together(shop: Shop) -> None:
    texts = [f"{number:04}"[::-1] + "x" * (number % 50) for number in range(2 * CHUNK_ROWS + 1)]
    shop.add(texts)
    engine = RecordingEngine()
    shop.run(NOTE, engine=engine)
    lengths = [len(text) for text in engine.texts]
    assert engine.texts[:CHUNK_ROWS] == texts[:CHUNK_ROWS]
    assert lengths[CHUNK_ROWS:-1] == sorted(lengths[CHUNK_ROWS:-1], reverse=True)


@pytest.mark.parametrize(
    ("text", "other", "count"),
    [("", "", 0), ("a", "", 0), ("abc", "abd", 2), ("abc", "abc", 3), ("ab", "abc", 2), ("xbc", "abc", 0)],
)
def test_common_beginnings_are_counted_in_characters(text: str, other: str, count: int) -> None:
    assert common_beginning(text, other) == common_beginning(other, text) == count
