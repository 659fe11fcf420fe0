"""A project, and a database with reviews."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from dagster.components.testing import create_defs_folder_sandbox

from tests.dagster.component.project import Project


@pytest.fixture
def project() -> Iterator[Project]:
    with create_defs_folder_sandbox() as sandbox:
        yield Project(sandbox)


@pytest.fixture
def shop(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[sa.Engine]:
    """Six reviews in a database whose URL is in the environment."""
    engine = sa.create_engine(database_url)
    monkeypatch.setenv("SHOP_URL", database_url)
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE reviews (id INTEGER PRIMARY KEY, country TEXT, text TEXT)"))
        for n in range(6):
            connection.execute(sa.text(f"INSERT INTO reviews VALUES ({n}, '{'de' if n % 2 else 'fr'}', 'row {n}')"))
    yield engine
    engine.dispose()
