"""Counting answers and looking at some of them, on both databases."""

import json

import pytest

from llm_assets.tasks import Extract
from tests.tables.shop import SENTIMENT, FaultyEngine, Shop, day


def statistics(shop: Shop):
    """Answer what the table has, day by day; return what counts the labels."""
    pipeline = shop.pipeline(SENTIMENT, column="day")
    for name in sorted(set(shop.column("SELECT day FROM reviews"))):
        pipeline.run(day(name), "run")
    return pipeline.store.statistics("sentiment")


def test_numbers_and_first_rows_are_of_one_partition(shop: Shop) -> None:
    shop.add(["a", "b", "c"], day="monday")
    shop.add(["d"], first_id=4, day="tuesday")
    found = statistics(shop)
    first = found.first("monday", 2)
    assert [row["id"] for row in first] == [1, 2]
    assert list(first[0]) == ["id", "label", "confidence", "margin", "scores"]
    assert found.answers("monday") == sum(found.value_counts("label", ["monday"]).values()) == 3
    assert found.answers() == 4
    values = shop.column("SELECT confidence FROM reviews_sentiment WHERE partition_key = 'monday'")
    assert found.mean("confidence", "monday") == pytest.approx(sum(values) / 3)
    assert found.mean("confidence", "sunday") is None
    assert found.below("confidence", sorted(values)[1], "monday") == 1
    assert [row["confidence"] for row in found.lowest("confidence", "monday", 2)] == sorted(values)[:2]


def test_failures_are_counted_by_kind(shop: Shop) -> None:
    shop.add(["a", None, ""], day="monday")
    found = statistics(shop)
    assert found.failures("monday") == {"empty_text": 2}
    assert found.failures("tuesday") == {}
    assert [row["row_key"] for row in found.failure_examples("monday", 1)] == ["2"]


@pytest.mark.parametrize("key", ["monday", "50%", "100%% s", "it's 5 %s"])
def test_the_sql_of_failures_lists_them_for_a_person_who_runs_it(shop: Shop, key: str) -> None:
    shop.add(["a", None], day=key)
    shop.execute(statistics(shop).failures_sql(key).replace("SELECT", "CREATE TABLE listed AS SELECT", 1))
    assert shop.column("SELECT row_key FROM listed") == ["2"]


@pytest.mark.parametrize("total", [1, 7, 60])
def test_a_histogram_has_every_row_once(shop: Shop, total: int) -> None:
    shop.add(["x" * n for n in range(1, total + 1)], day="monday")
    found = statistics(shop)
    tokens = found.histogram("prompt_tokens", "monday", 20)
    values = shop.column("SELECT prompt_tokens FROM reviews_sentiment")
    assert sum(tokens.counts) == total
    for index, count in enumerate(tokens.counts):
        assert count == sum(tokens.edges[index] <= value < tokens.edges[index + 1] for value in values)
    shop.execute("UPDATE reviews_sentiment SET confidence = 1.0 WHERE id = 1")
    confidence = found.histogram("confidence", "monday", 20, (0.0, 1.0))
    assert (len(confidence.edges), sum(confidence.counts)) == (21, total)
    assert confidence.counts[-1] >= 1
    assert found.histogram("prompt_tokens", "sunday", 20).counts == ()


def test_a_histogram_spans_all_integers(shop: Shop) -> None:
    values = (-(2**63), -1, 0, 2**63 - 1)
    shop.add([str(value) for value in values], day="monday")
    task = Extract(name="facts", schema={"type": "object", "properties": {"n": {"type": "integer"}}})
    engine = FaultyEngine(answers={str(value): json.dumps({"n": value}) for value in values})
    shop.run(task, engine=engine, column="day", partition=day("monday"))
    histogram = shop.pipeline(task).store.statistics("facts").histogram("n", "monday", 4)
    assert (histogram.edges[0], histogram.edges[-1], histogram.counts) == (-(2**63), 2**63, (1, 1, 1, 1))


def test_earlier_partitions_are_the_last_ones_before(shop: Shop) -> None:
    for number in range(1, 6):
        shop.add(["a", "b"], first_id=10 * number, day=f"2026-11-0{number}")
    found = statistics(shop)
    assert found.partitions(2, before="2026-11-04") == ["2026-11-03", "2026-11-02"]
    assert found.partitions(9, before="2026-11-01") == []
    assert found.partitions(3) == ["2026-11-05", "2026-11-04", "2026-11-03"]


def test_a_sample_is_of_about_its_size_the_same_each_time_and_spread(shop: Shop) -> None:
    shop.add([f"text {n}" for n in range(1000)], day="monday")
    found = statistics(shop)
    sample = [row["id"] for row in found.sample("monday", 100)]
    assert 50 < len(sample) < 150
    assert sample == [row["id"] for row in found.sample("monday", 100)]
    assert sample[0] < 100
    assert sample[-1] > 900
    assert len(found.sample("monday", 1000)) == 1000


def test_rows_of_the_source_are_found_by_the_keys_of_answers(shop: Shop) -> None:
    shop.add([f"text {n}" for n in range(2500)], day="monday")
    found = statistics(shop)
    source = shop.pipeline(SENTIMENT, column="day").source
    keys = [found.key_of(row) for row in found.sample("monday", 2500)]
    rows = source.rows([*keys, (99_999,)])
    assert len(rows) == 2500
    assert rows[(1,)].values["text"] == "text 0"
    assert len(found.by_key(keys, "label")) == 2500
