"""A Dagster instance and a table of reviews for one test each."""

from collections.abc import Iterator

import dagster as dg
import pytest

from tests.dagster.answers import Reviews


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def reviews(database_url: str) -> Iterator[Reviews]:
    reviews = Reviews(database_url)
    yield reviews
    reviews.engine.dispose()
