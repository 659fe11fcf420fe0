"""Rows as nobody should write them, through real vLLM from a table to the tables of answers."""

import json
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import jsonschema
import pytest
import sqlalchemy as sa
from dagster._serdes import serialize_value

from llm_assets.dagster.metadata import WIDE_COLUMNS, materialization_metadata, preview_table
from llm_assets.pipeline import PartitionResult, Pipeline
from llm_assets.records import Completion, Partition, Request
from llm_assets.tables import Source
from llm_assets.tasks import Task
from tests.hostile.corpus import BY_ID, LABELS, PLAIN, ROWS, SCHEMA, SENTIMENT, TASKS, Row, TextBytes
from tests.tables.shop import Shop, changed, only, outcomes

pytestmark = pytest.mark.timeout(600)

CUT_MARKER = " [...] "
UNSHOWABLE = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
"""Controls, formats such as bidi overrides, surrogates, private use, noncharacters, and separators of lines."""

SCORED = ("sentiment", "strict")
ANY_ROW = {"name": None, "answered_at": None}
"""What two answers that are equal may differ in."""

TABLES = {"canary", "corpus", "reviews", *(f"corpus_{task.name}" for task in TASKS)}

Answers = Mapping[object, Mapping[Any, Any]]


class Recorder:
    """An engine that remembers what it was asked and what it said."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.loads = 0
        self.requests: dict[int, Request] = {}
        self.completions: dict[str, Completion] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def load(self) -> None:
        self.loads += 1
        self.engine.load()

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for completion in self.answer(self._noted(requests)):
            self.completions[question(self.requests[completion.id])] = completion
            yield completion

    def answer(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self.engine.run(requests)

    def _noted(self, requests: Iterable[Request]) -> Iterator[Request]:
        for request in requests:
            self.requests[request.id] = request
            yield request


class Replay(Recorder):
    """Says again what another recorder was told. What that was not asked, this one cannot answer."""

    def answer(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            yield replace(self.engine.completions[question(request)], id=request.id)


def question(request: Request) -> str:
    """Return what is asked, without the number of the request."""
    return repr((request.prompt_token_ids, request.ask))


@dataclass
class Ran:
    """A database after two runs over the corpus, with all that stands in it."""

    shop: Shop
    rows: list[Row]
    pipeline: Pipeline
    first: PartitionResult
    second: PartitionResult
    asked: Recorder
    asked_again: Recorder
    source_before: list[tuple[Any, ...]]
    answers: dict[str, Answers]
    """The rows of the tables of answers, by task and key."""
    failures: dict[str, dict[str, Mapping[Any, Any]]]
    """The rows of the table of failures, by task and key."""
    shown: dict[str, list[tuple[str, list[int]]]]
    """What stood in the prompts for the rows, as text and as tokens, by task. Two tasks have the same prompts."""


def fill(shop: Shop, rows: list[Row]) -> None:
    """Make the table of the corpus. In SQLite its column of text has no type, so that it holds values of any."""
    sqlite = shop.database.dialect == "sqlite"
    shop.execute(f"CREATE TABLE corpus (name TEXT PRIMARY KEY, text {'' if sqlite else 'TEXT'})")
    with shop.database.engine.begin() as connection:
        for row in rows:
            text, place = row.text, ":text"
            if isinstance(text, TextBytes):
                text, place = text.data, "CAST(:text AS TEXT)"
            elif not sqlite and text is not None and not isinstance(text, str):
                text = row.shown
            statement = sa.text(f"INSERT INTO corpus VALUES (:name, {place})")
            connection.execute(statement, {"name": row.key, "text": text})


def source_bytes(shop: Shop) -> list[tuple[Any, ...]]:
    """Return the source table byte for byte."""
    columns = "typeof(name), hex(name), typeof(text), hex(text)"
    if shop.database.dialect == "postgresql":
        columns = "encode(convert_to(name, 'UTF8'), 'hex'), encode(convert_to(text, 'UTF8'), 'hex')"
    return sorted(shop.rows(f"SELECT {columns} FROM corpus"), key=repr)


def answers_of(shop: Shop) -> dict[str, Answers]:
    """Return the tables of answers, by task and key."""
    with shop.database.engine.connect() as connection:
        tables = {task.name: shop.table(f"corpus_{task.name}").select() for task in TASKS}
        return {
            name: {row["name"]: row for row in connection.execute(query).mappings()} for name, query in tables.items()
        }


def run_corpus(shop: Shop, asked: Recorder, tokenizer: Any) -> Ran:
    """Fill a database with the corpus and run all tasks over it, twice."""
    rows = [row for row in ROWS if shop.database.dialect == "sqlite" or not row.only_sqlite]
    shop.add(["untouched"])
    shop.execute("CREATE TABLE canary (id INTEGER PRIMARY KEY)", "INSERT INTO canary VALUES (1), (2)")
    fill(shop, rows)
    before = source_bytes(shop)
    asked_again = Recorder(asked.engine)
    pipelines = [shop.pipeline(*TASKS, engine=engine, source=Source(table="corpus")) for engine in (asked, asked_again)]
    first, second = (pipeline.run(Partition(), f"run-{n}") for n, pipeline in enumerate(pipelines))
    with shop.database.engine.connect() as connection:
        failed = list(connection.execute(shop.table("llm_failures").select()).mappings())
    failures = {task.name: {row["row_key"]: row for row in failed if row["task"] == task.name} for task in TASKS}
    shown: dict[str, list[tuple[str, list[int]]]] = {}
    for name, plan in pipelines[0].plans().items():
        start, end = plan.prompt.prefix, plan.prompt.suffix
        prompts = [request.prompt_token_ids for request in asked.requests.values()]
        texts = [ids[len(start) : -len(end)] for ids in prompts if ids[: len(start)] == start]
        shown[name] = [(tokenizer.decode(ids), ids) for ids in texts]
        assert all(ids[-len(end) :] == end for ids in prompts)
    return Ran(shop, rows, pipelines[0], first, second, asked, asked_again, before, answers_of(shop), failures, shown)


@pytest.fixture(scope="module")
def own_tokenizer(smollm2) -> Any:
    """A tokenizer of the tests' own, so that what is special is not asked of the code under test."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


@pytest.fixture(scope="module")
def alone(vllm_engine, tmp_path_factory) -> dict[str, Answers]:
    """The answers to the plain rows, when there are no others."""
    shop = Shop(f"sqlite:///{tmp_path_factory.mktemp('alone') / 'test.db'}")
    fill(shop, PLAIN)
    result = shop.run(*TASKS, engine=vllm_engine, source=Source(table="corpus"))
    assert all(outcomes(counts) == (len(PLAIN), 0, 0, 0) for counts in result.counts.values())
    found = answers_of(shop)
    shop.database.close()
    return found


@pytest.fixture(scope="module")
def sqlite_ran(vllm_engine, own_tokenizer, alone, tmp_path_factory) -> Iterator[Ran]:
    shop = Shop(f"sqlite:///{tmp_path_factory.mktemp('hostile') / 'test.db'}")
    yield run_corpus(shop, Recorder(vllm_engine), own_tokenizer)
    shop.database.close()


@pytest.fixture(scope="module")
def postgres_ran(sqlite_ran, own_tokenizer, postgres, fresh_databases) -> Iterator[Ran]:
    """The corpus in Postgres, with the answers that vLLM gave to the very same prompts from SQLite."""
    name = fresh_databases.make()
    shop = Shop(postgres.url(name))
    yield run_corpus(shop, Replay(sqlite_ran.asked), own_tokenizer)
    shop.database.close()
    fresh_databases.give_back(name)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def ran(request) -> Ran:
    return request.getfixturevalue(f"{request.param}_ran")


def cases(*rows: Row) -> pytest.MarkDecorator:
    """Each row in each database that can hold it."""
    pairs = [(name, row) for name in ("sqlite", "postgres") for row in rows if name == "sqlite" or not row.only_sqlite]
    names = [f"{name}-{row.id}" for name, row in pairs]
    return pytest.mark.parametrize(("ran", "row"), pairs, ids=names, indirect=["ran"], scope="module")


# Each row by itself.


@cases(*ROWS)
def test_a_row_is_answered_or_failed_as_expected(ran: Ran, row: Row) -> None:
    for task in TASKS:
        kind = row.fails(task.name)
        failure = ran.failures[task.name].get(row.key_text)
        assert (failure and failure["kind"]) == kind, task.name
        assert (row.key in ran.answers[task.name]) == (kind is None), task.name


@cases(*(row for row in ROWS if not row.failure))
def test_the_model_is_shown_the_rows_text_in_literal_tokens(ran: Ran, row: Row, own_tokenizer) -> None:
    controls = set(own_tokenizer.added_tokens_decoder)
    assert len(controls) > 10
    length = len(own_tokenizer.encode(row.shown, split_special_tokens=True, add_special_tokens=False))
    for task in TASKS:
        if row.fails(task.name):
            continue
        limit = ran.pipeline.plans()[task.name].max_text_tokens
        if length <= limit:
            found = [ids for text, ids in ran.shown[task.name] if text == row.shown]
        else:
            found = [
                ids
                for text, ids in ran.shown[task.name]
                if len(ids) == limit
                and text.startswith(row.shown[:15])
                and text.endswith(row.shown[-15:])
                and CUT_MARKER in text
            ]
        assert found, task.name
        assert all(controls.isdisjoint(ids) for ids in found)


@cases(*(row for row in ROWS if row.same_as))
def test_a_text_that_differs_only_in_white_space_around_it_gets_the_same_answer(ran: Ran, row: Row) -> None:
    for answers in ran.answers.values():
        answer, other = answers[row.key], answers[BY_ID[row.same_as or ""].key]
        assert {**answer, **ANY_ROW} == {**other, **ANY_ROW}


@cases(*(row for row in ROWS if not row.failure))
def test_the_answers_to_a_row_are_valid(ran: Ran, row: Row) -> None:
    for task in TASKS:
        if row.fails(task.name):
            continue
        answer = ran.answers[task.name][row.key]
        assert 0 <= answer["confidence"] <= 1
        if task.name in SCORED:
            scores = answer["scores"]
            assert tuple(sorted(scores)) == tuple(sorted(LABELS))
            assert math.fsum(scores.values()) == pytest.approx(1, abs=1e-9)
            assert answer["label"] in LABELS
            assert answer["confidence"] == max(scores.values()) == scores[answer["label"]]
            assert answer["margin"] == pytest.approx(max(scores.values()) - min(scores.values()))
    facts = ran.answers["facts"][row.key]
    jsonschema.validate({name: facts[name] for name in SCHEMA["properties"]}, SCHEMA)
    assert ran.answers["summary"][row.key]["summary"].strip()


# The corpus as a whole.


def test_every_row_has_one_outcome_in_each_task(ran: Ran) -> None:
    for task in TASKS:
        answered, failed = ran.answers[task.name], ran.failures[task.name]
        assert len(answered) + len(failed) == len(ran.rows)
        assert {row.key_text for row in ran.rows if row.key not in answered} == failed.keys()


def test_rows_are_counted_as_what_became_of_them(ran: Ran) -> None:
    reused = sum(1 for row in ran.rows if row.same_as)
    for task in TASKS:
        failed = sum(1 for row in ran.rows if row.fails(task.name))
        counts = ran.first.counts[task.name]
        assert outcomes(counts) == (len(ran.rows) - failed - reused, reused, 0, failed)
        assert (counts.rows_read, counts.rows_removed) == (len(ran.rows), 0)


def test_texts_that_differ_by_more_than_white_space_around_them_have_hashes_of_their_own(ran: Ran) -> None:
    keys = [row.key for row in ran.rows if not row.failure and not row.same_as]
    hashes = Counter(ran.answers["sentiment"][key]["content_hash"] for key in keys)
    assert [digest for digest, count in hashes.items() if count > 1] == []


def test_each_text_is_asked_once(ran: Ran) -> None:
    asked = [row for row in ran.rows if not row.failure and not row.same_as]
    strict = [row for row in asked if not row.too_long]
    assert len(ran.shown["sentiment"]) == len(asked) + len(strict)
    assert len(ran.shown["summary"]) == len(asked)


def test_a_second_run_asks_nothing(ran: Ran) -> None:
    assert (ran.asked_again.requests, ran.asked_again.loads) == ({}, 0)
    for task in TASKS:
        failed = sum(1 for row in ran.rows if row.fails(task.name))
        assert outcomes(ran.second.counts[task.name]) == (0, 0, len(ran.rows) - failed, failed)
        assert ran.second.counts[task.name].rows_removed == 0


def test_the_source_is_as_it_was_byte_for_byte(ran: Ran) -> None:
    assert len(ran.source_before) == len(ran.rows)
    assert source_bytes(ran.shop) == ran.source_before


def test_other_tables_are_untouched(ran: Ran) -> None:
    assert ran.shop.rows("SELECT * FROM canary ORDER BY id") == [(1,), (2,)]
    assert ran.shop.rows("SELECT * FROM reviews") == [(1, "monday", "untouched")]
    found = set(sa.inspect(ran.shop.database.engine).get_table_names())
    assert {name for name in found if not name.startswith("llm_")} == TABLES


def test_messages_of_failures_hold_nothing_of_a_row(ran: Ran) -> None:
    failures = [failure for failures in ran.failures.values() for failure in failures.values()]
    assert all(failure["message"].isprintable() and failure["message"].isascii() for failure in failures)
    assert {failure["raw_output"] for failure in failures} == {None}


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_previews_hold_nothing_that_a_terminal_or_browser_acts_on(ran: Ran, task: Task) -> None:
    sample = ran.pipeline.store.statistics(task.name).first("all", 10_000)
    assert len(sample) == len(ran.answers[task.name])
    table = preview_table(sample, task.columns)
    shown = materialization_metadata(ran.pipeline, task, ran.first)["llm_assets/preview"].records
    values = [value for record in (*table.records, *shown) for value in record.data.values()]
    assert all(value is None or isinstance(value, str | int | float) for value in values)
    assert all(UNSHOWABLE.isdisjoint(map(unicodedata.category, str(value))) for value in values)
    assert max(len(str(value)) for value in values) <= 160
    for record, own in zip(shown, table.records[:10], strict=True):
        answer = {name: value for name, value in record.data.items() if name != "source text"}
        assert answer == {name: value for name, value in own.data.items() if name not in WIDE_COLUMNS}
    json.loads(serialize_value(table))


def test_the_labels_in_the_metadata_are_the_tasks(ran: Ran) -> None:
    labels = materialization_metadata(ran.pipeline, SENTIMENT, ran.first)["llm_assets/labels"].records
    assert {record.data["label"] for record in labels} <= set(LABELS)
    assert sum(record.data["rows"] for record in labels) == len(ran.answers["sentiment"])


# The corpus beside others.


def test_rows_are_asked_and_answered_the_same_from_both_databases(sqlite_ran: Ran, postgres_ran: Ran) -> None:
    assert postgres_ran.asked.completions.keys() <= sqlite_ran.asked.completions.keys()
    assert len(postgres_ran.rows) > 150
    for task in TASKS:
        one, other = (ran.answers[task.name] for ran in (sqlite_ran, postgres_ran))
        assert other.keys() <= one.keys()
        for key, answer in other.items():
            assert {**answer, **ANY_ROW} == {**one[key], **ANY_ROW}
        assert postgres_ran.failures[task.name].keys() <= sqlite_ran.failures[task.name].keys()


def test_plain_rows_get_the_same_labels_alone_and_among_hostile_ones(sqlite_ran: Ran, alone) -> None:
    for row in PLAIN:
        one, other = (answers["sentiment"][row.key] for answers in (alone, sqlite_ran.answers))
        # What is computed beside a row changes the last bits of its scores.
        assert one["scores"] == pytest.approx(other["scores"], abs=0.02)
        assert one["label"] == other["label"]
        assert one["margin"] > 0.05
    assert {answers["label"] for answers in alone["sentiment"].values()} == set(LABELS)


def test_a_text_longer_than_the_model_is_cut_and_fails_where_it_must_not_be(vllm_engine, tmp_path) -> None:
    shop = Shop(f"sqlite:///{tmp_path / 'long.db'}")
    fill(shop, [BY_ID["long-text"]])
    recorder = Recorder(vllm_engine)
    cut = changed(SENTIMENT, max_text_tokens=None)
    result = shop.run(cut, engine=recorder, source=Source(table="corpus"))
    assert outcomes(only(result)) == (1, 0, 0, 0)
    [request] = recorder.requests.values()
    assert len(request.prompt_token_ids) == vllm_engine.max_model_len - 1
    fail = changed(cut, too_long="fail")
    result = shop.run(fail, engine=recorder, source=Source(table="corpus"))
    assert outcomes(only(result)) == (0, 0, 0, 1)
    assert shop.column("SELECT kind FROM llm_failures") == ["too_long"]
    assert shop.rows("SELECT * FROM corpus_sentiment") == []
    shop.database.close()
