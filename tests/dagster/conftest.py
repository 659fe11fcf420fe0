"""A Dagster instance, a table of reviews and one of messages, for one test each."""

from collections.abc import Iterator

import dagster as dg
import pytest

from tests.dagster.answers import Reviews
from tests.dagster.messages import Table
from tests.tables.shop import Shop


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def reviews(database_url: str) -> Iterator[Reviews]:
    reviews = Reviews(database_url)
    yield reviews
    reviews.engine.dispose()


@pytest.fixture
def table(shop: Shop, instance: dg.DagsterInstance) -> Table:
    return Table(shop, instance)
