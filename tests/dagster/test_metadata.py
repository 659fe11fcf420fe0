"""What a materialization says: numbers, pictures, rows, the prompt, lineage; bounded, masked, and without effect."""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import dagster as dg
import pytest

from llm_assets.dagster import DummyEngineResource
from llm_assets.dagster.shown import CELL_CHARACTERS, TABLE_BYTES, code_block, code_span, markdown, plain, records_table
from llm_assets.engines import DummyEngine
from llm_assets.records import Completion, Request
from llm_assets.tasks import Classify, Extract, Generate, Summarize, Task
from tests.dagster.answers import FIRST, Reviews

SENTIMENT = Classify(name="sentiment", labels=("positive", "negative"), text="{id}: {text}")


def materialized(reviews: Reviews, instance: dg.DagsterInstance, task: Task, **options: Any) -> dict[str, Any]:
    """Materialize the first day of a task; return the metadata."""
    result = reviews.run(reviews.assets(task, **options), instance=instance, partition_key=FIRST)
    [event] = result.get_asset_materialization_events()
    return dict(event.step_materialization_data.materialization.metadata)


def size(metadata: dict[str, Any]) -> int:
    """About how large metadata is in the event log."""
    return len(dg.serialize_value(dg.AssetMaterialization("a", metadata=metadata)))


def test_the_pictures_show_labels_confidence_and_tokens(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad", "fine"])
    metadata = materialized(reviews, instance, SENTIMENT)
    for name in ("labels", "confidence", "prompt_tokens", "output_tokens"):
        value = metadata[f"llm_assets/plot_{name}"]
        assert isinstance(value, dg.MarkdownMetadataValue)
        assert re.fullmatch(r"!\[[\w ()]+\]\(data:image/svg\+xml;base64,[A-Za-z0-9+/=]+\)", value.value)


def test_sample_answers_stand_beside_their_texts(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add([f"text {n}" for n in range(12)])
    table = materialized(reviews, instance, SENTIMENT)["llm_assets/preview"]
    assert len(table.records) == 10
    assert table.records[0].data["source text"] == "1: text 0"
    assert [column.name for column in table.schema.columns] == ["id", "source text", "label", "confidence", "margin"]


@pytest.mark.parametrize("days", [True, False], ids=["daily", "whole"])
def test_the_row_count_is_that_of_the_output_table(reviews: Reviews, instance: dg.DagsterInstance, days: bool) -> None:
    reviews.add([f"text {n}" for n in range(9)] + [""])
    reviews.add(["another day"], day=2, first_id=50)
    assets = reviews.assets(Classify(name="sentiment", labels=("positive", "negative")), days=days)
    stored = 0
    for config in ({"max_rows": 1}, {"only_failed": True}, {"max_rows": 3}, {}):
        result = reviews.run(
            assets,
            instance=instance,
            partition_key=FIRST if days else None,
            run_config={"ops": {"reviews__answers": {"config": config}}},
        )
        [event] = result.get_asset_materialization_events()
        metadata = event.step_materialization_data.materialization.metadata
        where = f" WHERE partition_key = '{FIRST}'" if days else ""
        [stored] = reviews.column(f"SELECT COUNT(*) FROM reviews_sentiment{where}")
        assert metadata["dagster/partition_row_count"].value == stored
        if days:
            assert "dagster/row_count" not in metadata
        else:
            assert metadata["dagster/row_count"].value == stored
    assert stored == (9 if days else 10)


class IdleEngine(DummyEngine):
    """Says that it had nothing to compute for long."""

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        self.idle_seconds += 5000
        return super().run(requests)


class IdleResource(DummyEngineResource):
    """Makes engines that say so."""

    def make_engine(self) -> IdleEngine:
        return IdleEngine()


def test_the_seconds_are_those_of_the_throughput_table(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", "bad"])
    assets = reviews.assets(SENTIMENT)
    result = reviews.run(assets, {"engine": IdleResource()}, instance=instance, partition_key=FIRST)
    [event] = result.get_asset_materialization_events()
    metadata = event.step_materialization_data.materialization.metadata
    [seconds] = reviews.column("SELECT seconds_total FROM llm_throughput")
    [rate] = reviews.column("SELECT rows_per_second FROM llm_throughput")
    assert metadata["llm_assets/seconds"].value == pytest.approx(seconds, abs=1)
    assert metadata["llm_assets/rows_per_second"].value == pytest.approx(rate, rel=0.5)


def test_the_lineage_says_which_source_columns_an_answer_comes_from(
    reviews: Reviews, instance: dg.DagsterInstance
) -> None:
    reviews.add(["good"])
    metadata = materialized(reviews, instance, SENTIMENT, key_prefix=["shop"])
    source = dg.AssetKey(["shop", "reviews"])
    lineage = metadata["dagster/column_lineage"].value.deps_by_column
    assert lineage["id"] == [dg.TableColumnDep(asset_key=source, column_name="id")]
    for column in ("label", "confidence", "margin", "scores"):
        assert [(dep.asset_key, dep.column_name) for dep in lineage[column]] == [(source, "id"), (source, "text")]
    columns = {column.name: column.type for column in metadata["dagster/column_schema"].schema.columns}
    assert columns["id"] in ("integer", "bigint")
    assert columns.keys() == lineage.keys()


def test_the_prompt_is_shown_as_it_was_sent(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["The lamp is lovely."])
    task = Classify(name="sentiment", labels=("positive", "negative"), instruction="Which mood?")
    shown = materialized(reviews, instance, task)["llm_assets/prompt"].value
    assert re.match(r"Row ` id 1 `; \d+ tokens, as text:\n\n```\n", shown)
    assert "Which mood?\nAnswer with exactly one of: positive, negative.user\nThe lamp is lovely.assistant" in shown
    # Nothing is asked the second time, so no tokenizer is needed to show what was.
    again = materialized(reviews, instance, task)["llm_assets/prompt"].value
    assert (
        "[system]\nWhich mood?\nAnswer with exactly one of: positive, negative.\n\n[user]\nThe lamp is lovely." in again
    )


def test_markup_in_a_row_has_no_effect_in_the_prompt(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["```\n````\n# Title <img src=x onerror=alert(1)> [a](javascript:b)\x1b[31m"])
    for _ in range(2):
        shown = materialized(reviews, instance, SENTIMENT)["llm_assets/prompt"].value
        before, fence, block = shown.partition("`" * 7)
        assert "<img" not in before
        inside, _, after = block.partition(fence)
        assert "# Title <img src=x onerror=alert(1)> [a](javascript:b)\ufffd[31m" in inside
        assert after == ""


def test_secrets_are_masked_in_whatever_is_shown(
    reviews: Reviews, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_API_KEY", "sesame-4711-open")
    reviews.add(["The key is sesame-4711-open."])
    task = Generate(name="note", instruction="Repeat sesame-4711-open.")
    metadata = materialized(reviews, instance, task)
    assert "sesame-4711-open" not in dg.serialize_value(dg.AssetMaterialization("a", metadata=metadata))
    assert "The key is ***." in metadata["llm_assets/prompt"].value
    assert metadata["llm_assets/preview"].records[0].data["source text"] == "The key is ***."


def test_the_query_of_the_failures_runs_and_finds_them(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good", None])
    reviews.add([None], day=2, first_id=10)
    shown = materialized(reviews, instance, Summarize(name="summary"))["llm_assets/failures"].value
    query = shown.removeprefix("```sql\n").removesuffix("\n```")
    assert reviews.column(query) == ["2"]


def test_model_and_revision_are_named(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add(["good"])
    metadata = materialized(reviews, instance, SENTIMENT)
    assert metadata["llm_assets/model"].value == "dummy"
    assert "llm_assets/revision" in metadata


def test_a_partition_without_rows_has_numbers_and_no_pictures(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    metadata = materialized(reviews, instance, SENTIMENT)
    assert metadata["llm_assets/rows_read"].value == 0
    assert not [name for name in metadata if "plot" in name or name in ("llm_assets/prompt", "llm_assets/preview")]


@pytest.mark.parametrize("character", ["x", "`", "<", "😀", "\x1b", '"'])
def test_the_size_is_bounded_whatever_the_rows_hold(
    reviews: Reviews, instance: dg.DagsterInstance, character: str
) -> None:
    reviews.add([character * 200_000 for _ in range(10)])
    fields = {f"field_{n}": {"type": "string", "maxLength": 50} for n in range(60)}
    task = Extract(name="facts", schema={"type": "object", "properties": fields})
    reviews.run(reviews.assets(task), instance=instance, partition_key=FIRST)
    assignments = ", ".join(f"{name} = :text" for name in fields)
    reviews.execute(f"UPDATE reviews_facts SET {assignments}", text=character.replace("\x1b", "\x1b[31m") * 10_000)
    assert size(materialized(reviews, instance, task)) < 250_000
    assert size(materialized(reviews, instance, Summarize(name="summary"))) < 250_000


def test_many_labels_with_markup_are_bounded(reviews: Reviews, instance: dg.DagsterInstance) -> None:
    reviews.add([f"text {n}" for n in range(100)])
    task = Classify(name="sentiment", labels=tuple(f"<b>{n}</b> $x^{{" + "é" * 40 for n in range(100)))
    metadata = materialized(reviews, instance, task)
    assert len(metadata["llm_assets/labels"].records) <= 50
    assert size(metadata) < 250_000


def test_a_value_is_shown_short_and_on_one_line() -> None:
    assert plain("a\x1b[31m\n\tb\u202e") == "a\ufffd[31m b\ufffd"
    assert len(str(plain("x" * 1000))) == CELL_CHARACTERS
    assert plain(2**70) == str(2**70)
    assert (plain(0.123456), plain(True), plain(None)) == (0.1235, True, None)


def test_a_table_is_cut_until_it_is_small_enough() -> None:
    rows = [{f"column {n}": "😀" * 1000 for n in range(100)} for _ in range(50)]
    records = [record.data for record in records_table(rows).records]
    assert len(records) == 50
    assert len(json.dumps(records)) < 20 * TABLE_BYTES


@pytest.mark.parametrize("text", ["", "`", "```", "a``b", "`````\n```", "\n"])
def test_code_cannot_be_ended_by_what_it_holds(text: str) -> None:
    fence, _, rest = code_block(text).partition("\n")
    assert rest.endswith(f"\n{fence}")
    assert fence not in text
    ticks = code_span(text).partition(" ")[0]
    assert ticks not in text.replace("\n", " ").split() or not text


def test_text_for_markdown_is_escaped() -> None:
    assert markdown("<b>*a*</b> [x](y) `z` _u_ \\") == r"\<b>\*a\*\</b> \[x\](y) \`z\` \_u\_ \\"
