"""`explain` says beforehand what a run does."""

import random
from dataclasses import replace

import pytest

from llm_assets.engines import DummyEngine
from llm_assets.errors import ConfigError, DatabaseError, SourceError
from llm_assets.inspection import group, sample
from llm_assets.inspection.explain import explain
from llm_assets.inspection.explain_view import explanation_json, print_explanation
from llm_assets.inspection.explanation import Explanation
from llm_assets.pipeline import MAX_ATTEMPTS, PartitionResult, Pipeline
from llm_assets.records import EngineInfo, FailureKind, Partition
from llm_assets.sampling import Sampling
from llm_assets.tables import Database, Source
from llm_assets.tasks import Classify, Extract, Generate
from tests.inspection.looking import contents, looking, printed
from tests.tables.shop import NOTE, SENTIMENT, FaultyEngine, Shop, changed, day

WARM = Generate(name="warm", instruction="Say something.", sampling=Sampling(temperature=1))
TEXTS = ["good", "bad", "good", None, "  ", "good", "so so"]


def predict(shop: Shop, *tasks, partition: Partition | None = None, **arguments) -> Explanation:
    return explain(looking(shop, *tasks, **arguments), [partition or Partition()])


def check(found: Explanation, result: PartitionResult) -> None:
    """Compare a prediction with what the run did."""
    for task in found.tasks:
        counts = result.counts[task.task]
        assert (task.rows, task.to_ask, task.duplicates + task.reused, task.skipped, task.failing, task.left) == (
            counts.rows_read,
            counts.rows_answered,
            counts.rows_reused,
            counts.rows_skipped,
            counts.rows_failed,
            counts.rows_left,
        )
        assert task.prompt_tokens == counts.prompt_tokens
        assert task.computed_tokens == counts.expected_tokens


def test_a_first_run_does_what_was_predicted(shop: Shop) -> None:
    shop.add(TEXTS)
    found = predict(shop, SENTIMENT, WARM)
    assert [(task.to_ask, task.duplicates, task.empty) for task in found.tasks] == [(3, 2, 2), (5, 0, 2)]
    assert not any(task.table_exists for task in found.tasks)
    check(found, shop.run(SENTIMENT, WARM, engine=DummyEngine()))


def test_a_later_run_does_what_was_predicted(shop: Shop) -> None:
    shop.add(TEXTS)
    engine = DummyEngine()
    shop.run(SENTIMENT, engine=engine)
    shop.add(["good", "new", "new"], first_id=20)
    shop.execute("UPDATE reviews SET text = 'bad' WHERE id = 1", "UPDATE reviews SET text = 'other' WHERE id = 2")
    found = predict(shop, SENTIMENT, NOTE)
    assert found.tasks[0].reused == 2
    assert found.tasks[0].output_tokens == found.tasks[0].to_ask
    check(found, shop.run(SENTIMENT, NOTE, engine=engine))
    rerun = predict(shop, SENTIMENT, NOTE)
    assert [task.to_ask for task in rerun.tasks] == [0, 0]
    check(rerun, shop.run(SENTIMENT, NOTE, engine=engine))


@pytest.mark.parametrize("kind", [FailureKind.ENGINE_ERROR, FailureKind.REFUSED_REQUEST])
def test_failures_are_predicted_to_be_asked_again_or_not(shop: Shop, kind: FailureKind) -> None:
    shop.add(["a", "b"])
    engine = FaultyEngine(errors={"a": kind})
    for _ in range(MAX_ATTEMPTS + 1):
        found = predict(shop, NOTE)
        counts = shop.run(NOTE, engine=engine).counts["note"]
        asked = engine.texts.count("a")
        engine.texts.clear()
        assert found.tasks[0].failed_before == 1 - asked
        assert found.tasks[0].to_ask == counts.rows_answered + asked


@pytest.mark.parametrize(
    "settings", [{"full_refresh": True}, {"only_failed": True}, {"only_failed": True, "failure_kinds": ("poison",)}]
)
def test_the_settings_of_the_table_count(shop: Shop, settings: dict) -> None:
    shop.add([*TEXTS, "refused"])
    shop.run(NOTE, engine=FaultyEngine(errors={"refused": FailureKind.REFUSED_REQUEST}))
    shop.add(["fresh"], first_id=30)
    check(predict(shop, NOTE, **settings), shop.run(NOTE, engine=DummyEngine(), **settings))


@pytest.mark.parametrize("too_long", ["cut", "fail"])
def test_texts_that_are_too_long_are_counted_exactly(shop: Shop, too_long: str, monkeypatch) -> None:
    shop.add(["short", "x" * 51, "y" * 50, "x" * 51, "z" * 60, "é" * 25])
    task = changed(SENTIMENT, max_text_tokens=50, too_long=too_long)
    found = predict(shop, task)
    [forecast] = found.tasks
    assert (forecast.too_long_cut, forecast.too_long_failed) == ((3, 0) if too_long == "cut" else (0, 3))
    assert forecast.too_long_is_exact
    monkeypatch.setattr(group, "EXACT_BYTES", 60)
    assert not predict(shop, task).tasks[0].too_long_is_exact
    check(found, shop.run(task, engine=DummyEngine()))


def test_a_partition_is_predicted_alone(shop: Shop) -> None:
    shop.add(["a", "b"], day="monday")
    shop.add(["a", "c"], first_id=5, day="tuesday")
    shop.run(column="day", partition=day("monday"), engine=DummyEngine())
    found = predict(shop, partition=day("tuesday"), column="day")
    assert (found.partitions, found.rows) == (("tuesday",), 2)
    check(found, shop.run(column="day", partition=day("tuesday"), engine=DummyEngine()))


def test_a_sample_predicts_tokens_within_two_per_cent(shop: Shop, monkeypatch) -> None:
    """Texts in several scripts, from a few bytes to thousands: a byte has as many tokens as the tokenizer gives it."""
    monkeypatch.setattr(sample, "MOST_TEXTS", 1000)
    monkeypatch.setattr(sample.Sample.__init__, "__defaults__", (1000, 16_000_000))
    rng = random.Random(7)
    words = ["refund", "lamp", "die Lampe", "这把椅子", "ничего", "🙂", "and"]
    texts = [" ".join(rng.choices(words, k=int(rng.lognormvariate(3, 1)) + 1)) + f" {n}" for n in range(6000)]
    shop.add(texts)

    class WordTokens:
        """Characters are tokens, so that bytes are not."""

        def __init__(self, other):
            self.other = other

        def __getattr__(self, name):
            return getattr(self.other, name)

        def encode_literal(self, texts):
            return [[ord(character) for character in text] for text in texts]

    engine = DummyEngine()
    engine.tokenizer = WordTokens(engine.tokenizer)  # pyright: ignore[reportAttributeAccessIssue]
    found = predict(shop, engine=engine)
    assert found.texts[0].sampled <= 1000
    real = shop.run(engine=engine).counts["sentiment"].prompt_tokens
    assert found.tasks[0].prompt_tokens == pytest.approx(real, rel=0.02)
    assert sum(item.rows for item in found.texts[0].bins) == pytest.approx(6000, abs=10)


def test_nothing_is_written(shop: Shop) -> None:
    shop.add(TEXTS)
    before = contents(shop)
    predict(shop)
    assert contents(shop) == before == {"reviews": before["reviews"]}
    shop.run(engine=DummyEngine())
    before = contents(shop)
    predict(shop, SENTIMENT, NOTE)
    assert contents(shop) == before


def test_a_database_that_does_not_exist_is_not_made(tmp_path) -> None:
    source, outputs = Shop(f"sqlite:///{tmp_path / 'shop.db'}"), Database(f"sqlite:///{tmp_path / 'answers.db'}")
    source.add(["a"])
    tasks = [SENTIMENT]
    found = explain(
        Pipeline(Source(table="reviews"), tasks, DummyEngine(), source.database, outputs, read_only=True), [Partition()]
    )
    assert found.tasks[0].to_ask == 1
    with pytest.raises(DatabaseError, match=r"There is no database sqlite:///.*answers\.db"):
        Pipeline(Source(table="reviews"), tasks, DummyEngine(), outputs, outputs, read_only=True)
    assert [file.name for file in tmp_path.iterdir()] == ["shop.db"]


def test_a_pipeline_that_looks_does_not_run_and_one_that_runs_is_not_looked_through(shop: Shop) -> None:
    with pytest.raises(ConfigError, match="read-only"):
        looking(shop).run(Partition(), "run")
    with pytest.raises(ConfigError, match="read_only=True"):
        explain(shop.pipeline(), [Partition()])


def test_a_table_that_a_run_would_refuse_is_told_beforehand(shop: Shop) -> None:
    shop.add(["a"])
    schema = {"type": "object", "properties": {"size": {"type": "integer"}}}
    shop.run(Extract(name="facts", schema=schema), engine=DummyEngine())
    edited = Extract(name="facts", schema={"type": "object", "properties": {"weight": {"type": "integer"}}})
    found = predict(shop, edited)
    assert found.refusal is not None
    assert "size is not written any more" in found.refusal
    assert "would refuse to begin" in printed(lambda console: print_explanation(console, found))


def test_a_source_without_rows_and_one_whose_column_vanished(shop: Shop) -> None:
    found = predict(shop)
    assert found.rows == 0
    assert "There are no rows" in printed(lambda console: print_explanation(console, found))
    shop.execute("ALTER TABLE reviews RENAME COLUMN text TO body")
    with pytest.raises(SourceError, match=r"has no column 'text'.*Valid: body"):
        predict(shop)


def test_the_time_is_told_from_earlier_runs_with_the_model(shop: Shop) -> None:
    shop.add(["a", "b"])
    first = predict(shop)
    assert first.times == ()
    assert "No earlier run with dummy" in printed(lambda console: print_explanation(console, first))
    shop.run(engine=DummyEngine())
    shop.execute("UPDATE llm_throughput SET seconds_total = 4, seconds_load = 7")
    shop.add([f"new {number}" for number in range(10)], first_id=10)
    [time] = predict(shop).times
    assert (time.basis, time.device, time.seconds, time.seconds_load) == ("answers", "none", 20.0, 7.0)
    # Other tasks: so many tokens took so long. The output of a task without answers cannot be told.
    assert predict(shop, NOTE).times == ()
    other = Classify(name="other", labels=("this", "that"))
    [time] = predict(shop, other).times
    assert time.basis == "tokens"
    assert predict(shop, engine=DummyEngine(identity="another model")).times == ()


def test_runs_on_other_numbers_of_gpus_are_told_apart(shop: Shop) -> None:
    class OnGpus(DummyEngine):
        def __init__(self, gpus: int) -> None:
            super().__init__()
            self.gpus = gpus

        @property
        def info(self) -> EngineInfo:
            return replace(super().info, device="NVIDIA H200", gpus=self.gpus)

    for gpus in (1, 8):
        shop.add([f"text for {gpus}: {number}" for number in range(8)], first_id=10 * gpus)
        shop.run(engine=OnGpus(gpus))
    shop.execute("UPDATE llm_throughput SET seconds_total = 8 / gpus")
    shop.add([f"new {number}" for number in range(16)], first_id=200)
    found = predict(shop)
    assert [(time.gpus, time.seconds) for time in found.times] == [(8, 2.0), (1, 16.0)]
    shown = printed(lambda console: print_explanation(console, found))
    assert "on 8 x NVIDIA H200" in shown
    assert "on 1 x NVIDIA H200" in shown
    # Tables that an earlier version made have no such column.
    shop.execute("ALTER TABLE llm_throughput DROP COLUMN gpus")
    assert [(time.gpus, time.partitions) for time in predict(shop).times] == [(None, 2)]


def test_the_layout_comes_with_its_reason(shop: Shop) -> None:
    class Caching(DummyEngine):
        def __init__(self) -> None:
            super().__init__()
            self.cache_block = 16

    three = [Classify(name=name, labels=("yes", "no")) for name in ("one", "two", "three")]
    assert predict(shop, *three).layouts[0].reason == "no cache"
    assert predict(shop, *three, engine=Caching()).layouts[0].reason == "no rows"
    shop.add([f"{number} {'long ' * 200}" for number in range(5)])
    [counted] = predict(shop, *three, engine=Caching()).layouts
    assert (counted.layout, counted.reason) == ("row_first", "counted")
    assert counted.tokens["row_first"] < counted.tokens["instruction_first"] / 2
    check(predict(shop, *three, engine=Caching()), shop.run(*three, engine=Caching()))
    shop.execute("UPDATE reviews SET text = 'short'")
    [kept] = predict(shop, *three, engine=Caching()).layouts
    assert (kept.layout, kept.reason) == ("row_first", "kept")
    assert "kept: the answers have it" in kept.explanation
    [given] = predict(shop, *three, engine=Caching(), layout="instruction_first").layouts
    assert (given.layout, given.reason) == ("instruction_first", "set")
    assert predict(shop, SENTIMENT).layouts[0].reason == "one task"


@pytest.mark.parametrize("width", [40, 60, 100])
def test_every_line_fits_the_terminal_and_no_number_is_lost(shop: Shop, width: int) -> None:
    shop.add([*TEXTS, "very long " * 300])
    shop.execute("CREATE TABLE other (id INTEGER)")
    found = predict(shop, SENTIMENT, NOTE, max_rows=5)
    shown = printed(lambda console: print_explanation(console, found), width)
    assert max(map(len, shown.splitlines())) <= width
    for task in found.tasks:
        assert task.task in shown
        assert f"{task.prompt_tokens:,}" in shown
    assert "…" not in shown
    assert "max_rows=5" in " ".join(shown.split())
    assert "\x1b" not in shown


def test_limits_are_written_as_in_the_settings(shop: Shop) -> None:
    shop.add(TEXTS)
    found = predict(shop, max_rows=1_000_000, max_seconds=2_500_000, max_tokens=123_456_789)
    assert set(found.limits) == {"max_rows=1000000", "max_seconds=2500000", "max_tokens=123456789"}
    assert predict(shop, max_seconds=0.5).limits == ("max_seconds=0.5",)


def test_the_json_has_what_the_terminal_shows(shop: Shop) -> None:
    shop.add(TEXTS)
    values = explanation_json(predict(shop, SENTIMENT, NOTE))
    assert [task["to_ask"] for task in values["tasks"]] == [3, 3]
    assert values["tasks"][1]["output_tokens"] is None
    assert values["layouts"][0]["explanation"] == "the engine has no prefix cache"
    assert values["texts"][0]["empty"] == 2
