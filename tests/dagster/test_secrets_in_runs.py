"""Whatever goes wrong in a real run: no password and no token in what Dagster keeps, prints and shows."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

import dagster as dg
import pytest
from dagster._serdes import serialize_value
from pydantic import ValidationError

from llm_assets.dagster import DatabaseResource, DummyEngineResource, VllmResource, build_llm_assets
from llm_assets.dagster.local import prepare_instance
from llm_assets.dagster.metadata import asset_metadata, label_table, materialization_metadata
from llm_assets.engines import DummyEngine, Engine
from llm_assets.errors import ModelError
from llm_assets.records import Completion, EngineInfo, Partition, Request
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Extract, Generate
from tests.postgres import PostgresServer
from tests.tables.shop import SENTIMENT, Shop

PASSWORD = "tr0ub4dor&3/h0rse:b@ttery%staple"
QUOTED = quote(PASSWORD, safe="")
TOKEN = "hf_wXyZ0123456789abcdefGHIJ"
SECRETS = (PASSWORD, QUOTED, TOKEN)
TASKS = [Classify(name="sentiment", labels=("good", "bad")), Generate(name="note", instruction=f"Say. Not {TOKEN}.")]


class HubEngine(DummyEngine):
    """Fails as a model hub does, with the token of the request in the error."""

    def __init__(self, failing: str) -> None:
        super().__init__()
        self.failing = failing

    @property
    def info(self) -> EngineInfo:
        return EngineInfo("hub", f"https://me:{TOKEN}@hub/model", TOKEN, f"device of {TOKEN}")

    def load(self) -> None:
        if self.failing == "load":
            try:
                raise OSError(f"401 for https://me:{PASSWORD}@hub with Bearer {TOKEN}")
            except OSError as error:
                raise ModelError(f"The model cannot be loaded: {error}") from error

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for number, request in enumerate(requests):
            if number == 1 and self.failing == "run":
                raise RuntimeError(f"Nobody expected Bearer {TOKEN} for {PASSWORD}")
            if number % 3 == 0 and self.failing == "rows":
                yield Completion(request.id, error=f"403 for Bearer {TOKEN} at postgresql://me:{QUOTED}@h/d")
            else:
                yield self.answer(request)

    def close(self) -> None:
        if self.failing == "close":
            raise ValueError(f"{TOKEN} is still in use")


class HubEngineResource(DummyEngineResource):
    failing: str = ""

    def make_engine(self) -> Engine:
        if self.failing == "make":
            raise ValueError(f"no engine for {TOKEN}")
        return HubEngine(self.failing)


class Runs:
    """Runs of a shop's assets, and everything that they leave."""

    role: ClassVar[str] = "seller"

    def __init__(self, shop: Shop, server: PostgresServer, directory: Path) -> None:
        self.shop = shop
        self.server = server
        self.directory = prepare_instance(directory / "dagster")
        shop.add(["a", "b", "c", "d"])
        server.execute(f"DROP ROLE IF EXISTS {self.role}")
        server.execute(f"CREATE ROLE {self.role} LOGIN PASSWORD '{PASSWORD}'")
        shop.execute(f"GRANT ALL ON SCHEMA public TO {self.role}", f"GRANT ALL ON reviews TO {self.role}")

    def url(self, database: str | None = None, password: str = QUOTED) -> str:
        return self.server.url(database or self.shop.url.rpartition("/")[2], self.role, password)

    def run(self, failing: str = "", url: str | None = None, table: str = "reviews") -> str:
        """Materialize the assets and return what is known of the run, as text."""
        database = DatabaseResource(url=dg.EnvVar("SHOP_URL") if url is None else url)
        definitions = dg.Definitions(
            build_llm_assets(Source(table=table), TASKS),
            jobs=[dg.define_asset_job("answer")],
            resources={"database": database, "engine": HubEngineResource(failing=failing)},
        )
        with dg.DagsterInstance.from_config(str(self.directory)) as instance:
            result = definitions.resolve_job_def("answer").execute_in_process(instance=instance, raise_on_error=False)
            self.success = result.success
            entries = instance.all_logs(result.run_id)
            return "\n".join([*map(serialize_value, entries), *(entry.user_message for entry in entries)])

    def snapshots(self) -> str:
        """Return what the instance keeps of the runs' configuration, and compresses in its files."""
        with dg.DagsterInstance.from_config(str(self.directory)) as instance:
            ids = [(run.job_snapshot_id or "", run.execution_plan_snapshot_id or "") for run in instance.get_runs()]
            kept = [(instance.get_job_snapshot(job), instance.get_execution_plan_snapshot(plan)) for job, plan in ids]
            return "\n".join(serialize_value(snapshot) for pair in kept for snapshot in pair)

    def tables(self) -> str:
        """Return every row of every table as text, besides the shop's own."""
        names = self.shop.column("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [self.shop.column(f'SELECT t::text FROM "{name}" t') for name in names if name != "reviews"]
        return "\n".join(str(row) for table in rows for row in table)

    def files(self) -> str:
        """Return all that the instance has on disk: runs, events, and what the steps printed."""
        files = [path for path in self.directory.rglob("*") if path.is_file()]
        assert any(path.suffix == ".err" for path in files)
        return "\n".join(path.read_bytes().decode("utf-8", "replace") for path in files)


@pytest.fixture
def runs(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Runs]:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    shop = Shop(postgres_url)
    runs = Runs(shop, postgres, tmp_path)
    monkeypatch.setenv("SHOP_URL", runs.url())
    yield runs
    shop.database.close()


def check(runs: Runs, text: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> str:
    """Look for the secrets in all that a run left; return what it printed."""
    captured = capfd.readouterr()
    places = {
        "events": text,
        "files": runs.files(),
        "tables": runs.tables(),
        "stdout": captured.out,
        "stderr": captured.err,
        "logging": caplog.text,
    }
    assert [name for name, content in places.items() for secret in SECRETS if secret in content] == []
    return captured.err


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ("rows", "2 answered, 0 reused, 0 unchanged, 2 failed"),
        ("load", "The model cannot be loaded: 401 for https://me:***@hub with Bearer ***"),
        ("run", "Nobody expected Bearer *** for ***"),
        ("make", "no engine for ***"),
        ("close", "*** is still in use"),
    ],
)
def test_an_engines_error_shows_no_secret(
    runs: Runs,
    failing: str,
    expected: str,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    text = runs.run(failing)
    printed = check(runs, text, capfd, caplog)
    assert [secret for secret in SECRETS if secret in runs.snapshots()] == []
    assert expected in text + printed
    if failing == "rows":
        assert runs.success
        assert set(runs.shop.column("SELECT message FROM llm_failures")) == {
            "403 for Bearer *** at postgresql://me:***@h/d"
        }
        assert runs.shop.rows("SELECT DISTINCT model, revision, device FROM llm_throughput") == [
            ("https://me:***@hub/model", "***", "device of ***")
        ]
    if failing in ("load", "run"):
        assert not runs.success
        assert "in run" in text if failing == "run" else "OSError: 401 for" in text


@pytest.mark.parametrize(
    ("wrong", "in_environment"),
    [("port", True), ("password", True), ("database", True), ("table", True), ("right", True), ("right", False)],
)
def test_a_database_that_cannot_be_used_shows_no_password(
    runs: Runs,
    wrong: str,
    in_environment: bool,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.DEBUG)
    urls = {
        "port": runs.url().replace(f":{runs.server.port}/", ":1/"),
        "password": runs.url(password=f"{QUOTED}x"),
        "database": runs.url("nowhere"),
    }
    url = urls.get(wrong, runs.url())
    if wrong == "right":
        runs.shop.execute(f"REVOKE ALL ON reviews FROM {runs.role}")
    monkeypatch.setenv("SHOP_URL", url)
    text = runs.run(url=None if in_environment else url, table="revues" if wrong == "table" else "reviews")
    assert not runs.success
    expected = {
        "port": "Connection refused",
        "password": "password authentication failed",
        "database": "nowhere",
        "table": "There is no table 'revues' in postgresql+psycopg2://seller:***@127.0.0.1",
        "right": "permission denied for table reviews",
    }
    assert expected[wrong] in text
    check(runs, text, capfd, caplog)
    if in_environment:
        # What is given as itself stands in the code, and Dagster keeps the configuration of every job that it sees.
        assert [secret for secret in SECRETS if secret in runs.snapshots()] == []


@pytest.mark.parametrize("settings", [{"hf_token": TOKEN}, {"engine_args": {"hf_token": TOKEN}}])
def test_a_token_in_the_settings_is_refused_without_being_repeated(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="Set HF_TOKEN in the environment") as caught:
        VllmResource.model_validate({"model": "some/model", **settings})
    assert TOKEN not in str(caught.value)


def test_a_resource_that_is_printed_does_not_show_its_url() -> None:
    assert PASSWORD not in repr(DatabaseResource(url=f"postgresql://me:{PASSWORD}@h/shop"))


def test_what_is_known_before_a_run_and_labels_that_are_shown_are_safe(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    task = Classify(name="mood", labels={"good": f"not {TOKEN}", "bad": ""}, instruction=f"https://me:{PASSWORD}@h/")
    shown = asset_metadata(task, "reviews_mood", f"{TOKEN}.reviews")
    assert shown["llm_assets/source"] == "***.reviews"
    assert shown["llm_assets/task"]["labels"]["good"] == "not ***"
    assert shown["llm_assets/task"]["instruction"] == "https://me:***@h/"
    [record] = label_table({"\x1b[31mred\u202e": 1}).records
    assert record.data["label"] == "\ufffd[31mred\ufffd"


def test_only_configured_labels_are_counted(sqlite_url: str) -> None:
    shop = Shop(sqlite_url)
    shop.add(["a"])
    facts = Extract(name="facts", schema={"type": "object", "properties": {"label": {"type": "string"}}})
    pipeline = shop.pipeline(facts, SENTIMENT)
    result = pipeline.run(Partition(), "run")
    assert "llm_assets/labels" not in materialization_metadata(pipeline, facts, result)
    assert "llm_assets/labels" in materialization_metadata(pipeline, SENTIMENT, result)
