"""A server that behaves as it is told, and engines that ask such servers."""

import pytest

from tests.engines.odd_servers import OddServer, server_engines


@pytest.fixture
def server():
    with OddServer() as server:
        yield server


@pytest.fixture
def make(smollm2):
    with server_engines(smollm2) as make:
        yield make
