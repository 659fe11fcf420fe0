"""The sensor for dynamic partitions, evaluated on real instances and databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from llm_assets.dagster import (
    MultiPartitions,
    build_partitions_sensor,
)
from llm_assets.dagster.local import prepare_instance
from llm_assets.dagster.partitions import LONGEST_KEY
from llm_assets.errors import ConfigError, LLMAssetsError
from tests.dagster.messages import COUNTRIES, DAYS, Table, reason, spans
from tests.tables.shop import Shop


def test_new_values_become_partitions_and_old_ones_stay(table: Table) -> None:
    assets = table.assets(COUNTRIES)
    sensor = build_partitions_sensor(assets)
    table.tick(sensor, assets)
    assert table.instance.get_dynamic_partitions("messages_country") == []
    table.add((1, "de", None), (2, "fr", None), (3, "de", None), (4, None, None))
    assert not table.tick(sensor, assets).run_requests
    assert sorted(table.instance.get_dynamic_partitions("messages_country")) == ["de", "fr"]
    table.shop.execute("DELETE FROM messages WHERE country = 'fr'")
    table.add((5, "it", None))
    table.tick(sensor, assets)
    assert sorted(table.instance.get_dynamic_partitions("messages_country")) == ["de", "fr", "it"]
    assert reason(table.tick(sensor, assets)) == "2 values, each of them a partition already."


def test_values_that_are_gone_are_removed_if_asked_but_not_with_the_whole_table(table: Table) -> None:
    assets = table.assets(COUNTRIES)
    sensor = build_partitions_sensor(assets, remove_gone=True)
    table.add((1, "de", None), (2, "fr", None))
    table.tick(sensor, assets)
    table.shop.execute("DELETE FROM messages WHERE country = 'fr'")
    table.tick(sensor, assets)
    assert table.instance.get_dynamic_partitions("messages_country") == ["de"]
    table.shop.execute("DELETE FROM messages")
    table.tick(sensor, assets)
    assert table.instance.get_dynamic_partitions("messages_country") == ["de"]


def test_a_dynamic_partition_holds_the_rows_with_its_value(table: Table) -> None:
    assets = table.assets(COUNTRIES)
    table.add((1, "de", None), (2, "fr", None), (3, "de", None), (4, None, None))
    table.tick(build_partitions_sensor(assets), assets)
    assert table.run(assets, partition_key="de")
    assert table.shop.rows("SELECT id, partition_key FROM messages_sentiment ORDER BY id") == [(1, "de"), (3, "de")]


@pytest.fixture
def persistent(table: Table, tmp_path: Path) -> Iterator[Table]:
    """The table with an instance in files: of an ephemeral one, Dagster does not find partitions that a tick adds."""
    with dg.DagsterInstance.from_config(str(prepare_instance(tmp_path / "dagster"))) as table.instance:
        yield table


def test_new_partitions_are_run_in_one_run(persistent: Table) -> None:
    assets = persistent.assets(COUNTRIES)
    sensor = build_partitions_sensor(assets, request_runs=True)
    persistent.add((1, "it", None), (2, "fr", None))
    [request] = persistent.tick(sensor, assets).run_requests or ()
    assert persistent.run(assets, request)
    assert persistent.shop.column("SELECT id FROM messages_sentiment ORDER BY id") == [1, 2]
    persistent.add((3, "be", None))
    assert spans(persistent.tick(sensor, assets)) == ["be"]
    assert not persistent.tick(sensor, assets).run_requests


HOSTILE = ["", "a...b", "a\nb", "a\tb", "x" * (LONGEST_KEY + 1)]
ODD = [" ", "it's", "50%", "Ünïcode 🦓", "'; DROP TABLE messages; --", "a,b", "a|b", "[a]", "NULL", "x" * LONGEST_KEY]


def test_values_that_no_key_can_hold_are_logged_and_all_others_are_partitions(
    table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    assets = table.assets(COUNTRIES)
    table.add(*((number, value, None) for number, value in enumerate([*HOSTILE, *ODD])))
    table.tick(build_partitions_sensor(assets), assets)
    logged = capsys.readouterr().err
    found = table.instance.get_dynamic_partitions("messages_country")
    assert sorted(found) == sorted(ODD)
    for start in ("Rows whose 'country' is '' are in no partition: it is empty", "Rows whose 'country' is 'a...b' are"):
        assert start in logged
    assert logged.count("are in no partition") == len(HOSTILE)
    for number, value in enumerate(ODD, start=len(HOSTILE)):
        assert table.run(assets, partition_key=value)
        assert (number, value) in table.shop.rows("SELECT id, partition_key FROM messages_sentiment")
    assert table.shop.column("SELECT COUNT(*) FROM messages_sentiment") == [len(ODD)]


def test_in_two_dimensions_values_with_the_signs_of_pairs_are_left_out(
    table: Table, capsys: pytest.CaptureFixture[str]
) -> None:
    assets = table.assets(MultiPartitions(dimensions={"country": COUNTRIES, "day": DAYS}))
    table.add(*((number, value, "01 10:00") for number, value in enumerate(["a|b", "a,b", "[a", "de"])))
    table.tick(build_partitions_sensor(assets), assets)
    assert table.instance.get_dynamic_partitions("messages_country") == ["de"]
    assert "Dagster has no '|' in a partition key of two dimensions" in capsys.readouterr().err
    assert table.run(assets, partition_key="de|2026-11-01")
    assert table.shop.rows("SELECT id, partition_key FROM messages_sentiment") == [(3, "de|2026-11-01")]


@pytest.mark.parametrize(
    ("kind", "values", "keys"),
    [
        ("INTEGER", [7, -1, 0], ["-1", "0", "7"]),
        ("BIGINT", [2**40], ["1099511627776"]),
        ("DOUBLE PRECISION", [0.1, 2.0], ["0.1", "2.0"]),
        ("NUMERIC(6,2)", [2.5], {"sqlite": ["2.5"], "postgresql": ["2.50"]}),
        ("DATE", ["2026-11-01"], ["2026-11-01"]),
        ("BOOLEAN", [True, False], {"sqlite": ["0", "1"], "postgresql": ["false", "true"]}),
    ],
)
def test_values_of_every_type_find_their_rows_again(
    shop: Shop, instance: dg.DagsterInstance, kind: str, values: list[object], keys: Any
) -> None:
    table = Table(shop, instance)
    shop.execute("DROP TABLE messages", f"CREATE TABLE messages (id INTEGER PRIMARY KEY, country {kind}, text TEXT)")
    shop.insert("messages", [{"id": i, "country": value, "text": "x"} for i, value in enumerate(values)])
    assets = table.assets(COUNTRIES)
    table.tick(build_partitions_sensor(assets), assets)
    expected = keys[shop.database.dialect] if isinstance(keys, dict) else keys
    assert sorted(instance.get_dynamic_partitions("messages_country")) == expected
    for key in expected:
        assert table.run(assets, partition_key=key)
    assert shop.column("SELECT id FROM messages_sentiment ORDER BY id") == list(range(len(values)))


def test_a_column_with_too_many_values_is_refused(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llm_assets.dagster.sensors.MOST_VALUES", 3)
    assets = table.assets(COUNTRIES)
    table.add(*((number, f"country {number}", None) for number in range(4)))
    with pytest.raises(LLMAssetsError, match="'country' of 'messages' has more than 3 values, which are too many"):
        table.tick(build_partitions_sensor(assets), assets)


def test_a_column_that_vanished_is_named(table: Table) -> None:
    assets = table.assets(COUNTRIES)
    table.shop.execute("ALTER TABLE messages RENAME COLUMN country TO land")
    with pytest.raises(LLMAssetsError, match="Table 'messages' has no column 'country', which the partitions name"):
        table.tick(build_partitions_sensor(assets), assets)


def test_a_sensor_for_partitions_needs_dynamic_ones(table: Table) -> None:
    with pytest.raises(ConfigError, match="'messages' has no DynamicPartitions"):
        build_partitions_sensor(table.assets(DAYS))
    pairs = table.assets(MultiPartitions(dimensions={"country": COUNTRIES, "day": DAYS}))
    with pytest.raises(ConfigError, match="request_runs is for partitions by one column"):
        build_partitions_sensor(pairs, request_runs=True)
