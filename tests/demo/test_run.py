"""What the demo leaves behind besides its tables: the view that joins them, or the reason why there is none."""

from definitions import TASKS
from llm_assets.demo.run import join_answers
from llm_assets.tables import Source
from tests.tables.shop import RecordingEngine, Shop

REVIEWS = Source(table="reviews")


def test_the_view_joins_the_demos_tables(shop: Shop) -> None:
    shop.add(["a", "b"])
    shop.run(*TASKS, engine=RecordingEngine())
    assert "view reviews_answered joins them" in join_answers(shop.database, REVIEWS, TASKS)
    assert shop.rows(
        "SELECT COUNT(sentiment_label), COUNT(facts_request), COUNT(summary_summary) FROM reviews_answered"
    ) == [(2, 2, 2)]


def test_a_file_whose_columns_stand_in_the_way_is_told_and_the_demo_goes_on(shop: Shop) -> None:
    shop.execute("ALTER TABLE reviews ADD sentiment_label TEXT")
    shop.run(*TASKS, engine=RecordingEngine())
    said = join_answers(shop.database, REVIEWS, TASKS)
    assert "would have the column 'sentiment_label' twice" in said
