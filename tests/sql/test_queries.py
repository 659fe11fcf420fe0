"""The views and queries for analysts run on both databases and say what is so."""

from collections import Counter
from itertools import pairwise

import pytest

from tests.sql.conftest import REFUSED
from tests.sql.files import SQL, Sql, statements

QUERIES = sorted(path.stem for path in (SQL / "queries").glob("*.sql"))
FILES = sorted(path.relative_to(SQL).as_posix() for path in SQL.glob("*/*.sql"))
REVIEWS = 300
EMPTY = [1029, 1095, 1252]
WITHOUT_ANSWER = sorted([REFUSED, *EMPTY])
ANSWERED = REVIEWS - len(WITHOUT_ANSWER)
TASKS = ["sentiment", "facts", "summary"]
COLUMNS = {
    "accuracy": "compared correct accuracy majority_share without_gold_label without_answer",
    "calibration": "confidence_from compared correct mean_confidence accuracy overconfidence",
    "confusion_matrix": "gold_label sentiment_label reviews share_of_gold_label",
    "failed_rows": "id task kind message attempts partition_key product text raw_output",
    "failures_by_kind": "source task kind failed_rows most_attempts oldest newest example_message",
    "lowest_margin": "id sentiment_label margin confidence gold_label product title text",
    "requests_by_product": "product place request reviews share",
    "rows_without_answer": "id day product sentiment facts summary",
    "saved_by_reuse": "task answered texts rows_saved prompt_tokens_saved output_tokens_saved",
    "sentiment_by_day": "day reviews labelled positive negative positive_share mean_confidence",
    "sentiment_by_product": "product reviews labelled positive negative negative_share",
    "throughput_by_run": "run_id source engine model device started_at partitions answered reused skipped failed "
    "seconds_load seconds answers_per_second tokens_per_second cached_share",
    "tokens_by_task_and_day": "day source task runs answered prompt_tokens cached_tokens output_tokens "
    "tokens_per_answer cost currency",
}


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_runs_and_gives_its_columns(answered: Sql, name: str) -> None:
    found = answered.query(name)
    assert found.columns == COLUMNS[name].split()
    assert found.rows != []


def test_every_query_is_known_here() -> None:
    assert list(COLUMNS) == QUERIES


@pytest.mark.parametrize("name", FILES)
def test_every_file_begins_with_what_it_is_for_and_stands_in_the_index(name: str) -> None:
    text = (SQL / name).read_text(encoding="utf-8")
    assert text.startswith("-- ")
    assert max(len(line) for line in text.splitlines()) <= 120
    assert f"({name})" in (SQL / "README.md").read_text(encoding="utf-8")


def test_the_view_has_every_review_once(answered: Sql) -> None:
    found = answered.read("SELECT * FROM reviews_answered")
    assert len(set(found.column("id"))) == len(found.rows) == REVIEWS
    reviews = answered.read("SELECT id, product, text FROM reviews").by("id")
    by_id = found.by("id")
    assert {key: (row["product"], row["text"]) for key, row in by_id.items()} == {
        key: (row["product"], row["text"]) for key, row in reviews.items()
    }
    for task in TASKS:
        stored = answered.read(f"SELECT id FROM reviews_{task}").column("id")
        assert sorted(key for key, row in by_id.items() if row[f"{task}_answered_at"] is not None) == sorted(stored)
        assert sorted(key for key, row in by_id.items() if row[f"{task}_failed"] is not None) == WITHOUT_ANSWER
        assert sorted(set(by_id) - set(stored)) == WITHOUT_ANSWER


def test_days_add_up_to_all_reviews(answered: Sql) -> None:
    found = answered.query("sentiment_by_day")
    # The counts of sql/demo/README.md.
    assert found.column("reviews") == [19, 22, 24, 21, 20, 26, 17, 16, 23, 25, 28, 22, 21, 16]
    assert found.column("day") == [f"2026-11-{day:02}" for day in range(1, 15)]
    assert sum(found.column("labelled")) == ANSWERED
    for row in found.by("day").values():
        assert row["positive"] + row["negative"] == row["labelled"] <= row["reviews"]
        assert float(row["positive_share"]) == pytest.approx(row["positive"] / row["labelled"], abs=0.0006)
        assert 0.5 <= row["mean_confidence"] <= 1


def test_products_add_up_to_all_reviews_and_the_worst_comes_first(answered: Sql) -> None:
    found = answered.query("sentiment_by_product")
    assert len(found.rows) == 12
    assert sum(found.column("reviews")) == REVIEWS
    assert sum(found.column("labelled")) == ANSWERED
    shares = found.column("negative_share")
    assert shares == sorted(shares, reverse=True)
    for row in found.by("product").values():
        assert float(row["negative_share"]) == pytest.approx(row["negative"] / row["labelled"], abs=0.0006)


def test_the_rows_for_review_are_those_of_the_smallest_margin(answered: Sql) -> None:
    found = answered.query("lowest_margin")
    margins = sorted(answered.read("SELECT margin FROM reviews_sentiment").column("margin"))
    assert [float(margin) for margin in found.column("margin")] == pytest.approx(margins[:50], abs=0.0001)


def test_accuracy_agrees_with_the_confusion_matrix_and_the_calibration(answered: Sql) -> None:
    pairs = answered.read(
        "SELECT gold_label, label FROM reviews INNER JOIN reviews_sentiment USING (id) WHERE gold_label IS NOT NULL"
    ).rows
    matrix = answered.query("confusion_matrix").by("gold_label", "sentiment_label")
    assert {pair: row["reviews"] for pair, row in matrix.items()} == Counter(pairs)
    correct = sum(gold == label for gold, label in pairs)
    golds = Counter(gold for gold, _ in pairs)
    for gold in golds:
        shares = [float(row["share_of_gold_label"]) for pair, row in matrix.items() if pair[0] == gold]
        assert sum(shares) == pytest.approx(1, abs=0.002)

    [accuracy] = answered.query("accuracy").by("compared").values()
    assert (accuracy["compared"], accuracy["correct"]) == (len(pairs), correct)
    assert float(accuracy["accuracy"]) == pytest.approx(correct / len(pairs), abs=0.0006)
    assert float(accuracy["majority_share"]) == pytest.approx(max(golds.values()) / len(pairs), abs=0.0006)
    assert accuracy["without_gold_label"] == 13
    assert accuracy["compared"] + accuracy["without_gold_label"] + accuracy["without_answer"] == REVIEWS

    bands = answered.query("calibration")
    assert sum(bands.column("compared")) == len(pairs)
    assert sum(bands.column("correct")) == correct
    edges = [float(edge) for edge in bands.column("confidence_from")]
    assert edges == sorted(set(edges))
    means = [float(mean) for mean in bands.column("mean_confidence")]
    assert all(low <= mean <= high for mean, (low, high) in zip(means, pairwise([*edges, 1.0]), strict=True))


def test_failures_are_counted_and_shown_with_their_text(answered: Sql) -> None:
    kinds = answered.query("failures_by_kind").by("task", "kind")
    assert {pair: row["failed_rows"] for pair, row in kinds.items()} == {
        (task, kind): count for task in TASKS for kind, count in [("empty_text", 3), ("refused_request", 1)]
    }
    failed = answered.query("failed_rows").by("id", "task")
    assert set(failed) == {(str(key), task) for key in WITHOUT_ANSWER for task in TASKS}
    assert failed[str(REFUSED), "facts"]["text"].startswith("Hi, order QM-204417.")
    assert failed[str(REFUSED), "facts"]["partition_key"] == "2026-11-01"
    assert failed["1029", "summary"]["text"] is None


def test_rows_without_an_answer_say_why(answered: Sql) -> None:
    found = answered.query("rows_without_answer").by("id")
    assert sorted(found) == WITHOUT_ANSWER
    assert {found[REFUSED][task] for task in TASKS} == {"refused_request"}
    assert {found[key][task] for key in EMPTY for task in TASKS} == {"empty_text"}


def test_a_review_that_no_run_has_seen_was_not_asked(answered: Sql) -> None:
    [query] = statements(SQL / "queries" / "rows_without_answer.sql")
    with answered.database.engine.connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(
            "INSERT INTO reviews (id, created_at, channel, product, text) "
            "VALUES (1, '2026-12-01 00:00:00', 'review', 'Lamp', 'New.')"
        )
        cursor.execute(query)
        assert tuple(cursor.fetchall()[0]) == (1, "2026-12-01", "Lamp", *["not asked"] * 3)
        connection.connection.rollback()


def test_runs_tell_their_rows_and_their_seconds_once(answered: Sql) -> None:
    found = answered.query("throughput_by_run").by("run_id")
    assert list(found) == ["run-2", "run-1"]
    for row in found.values():
        assert row["partitions"] == 14
        assert row["answered"] + row["reused"] + row["skipped"] + row["failed"] == REVIEWS * len(TASKS)
        assert (row["source"], row["engine"], row["model"]) == ("reviews", "dummy", "dummy")
        assert row["cached_share"] in (None, 0)
    assert (found["run-1"]["reused"], found["run-1"]["failed"]) == (3 * len(TASKS), (len(EMPTY) + 2) * len(TASKS))
    assert (found["run-2"]["answered"], found["run-2"]["reused"]) == (len(TASKS), 0)
    seconds = answered.read(
        "SELECT run_id, SUM(seconds_total) FROM llm_throughput WHERE task = 'facts' GROUP BY run_id"
    ).rows
    assert {run: float(row["seconds"]) for run, row in found.items()} == pytest.approx(dict(seconds), abs=0.001)


def test_tokens_of_tasks_are_those_of_the_runs(answered: Sql) -> None:
    found = answered.query("tokens_by_task_and_day")
    assert set(found.column("task")) == set(TASKS)
    for name in ("prompt_tokens", "output_tokens"):
        assert sum(found.column(name)) == answered.read(f"SELECT SUM({name}) FROM llm_throughput").rows[0][0]
    asked = ANSWERED - 3
    assert sum(found.column("answered")) == asked * len(TASKS)


def test_places_of_requests_follow_their_counts(answered: Sql) -> None:
    found = answered.query("requests_by_product").by("product", "request")
    counts = answered.read(
        "SELECT reviews.product, request, COUNT(*) FROM reviews INNER JOIN reviews_facts USING (id) "
        "GROUP BY reviews.product, request"
    ).rows
    totals = Counter()
    for product, _, count in counts:
        totals[product] += count
    assert {pair: row["reviews"] for pair, row in found.items()} == {
        (product, request): count for product, request, count in counts if request != "none"
    }
    for (product, _), row in found.items():
        better = [other for (name, _), other in found.items() if name == product and other["reviews"] > row["reviews"]]
        assert row["place"] == len(better) + 1
        assert float(row["share"]) == pytest.approx(row["reviews"] / totals[product], abs=0.0006)


def test_reuse_saved_three_rows_of_each_task(answered: Sql) -> None:
    found = answered.query("saved_by_reuse").by("task")
    assert set(found) == set(TASKS)
    # Three customers posted twice; see sql/demo/README.md.
    second = "(1111, 1248, 1199)"
    for task, row in found.items():
        assert (row["answered"], row["texts"], row["rows_saved"]) == (ANSWERED, ANSWERED - 3, 3)
        tokens = f"SELECT SUM(prompt_tokens), SUM(output_tokens) FROM reviews_{task} WHERE id IN {second}"
        assert (row["prompt_tokens_saved"], row["output_tokens_saved"]) == answered.read(tokens).rows[0]
