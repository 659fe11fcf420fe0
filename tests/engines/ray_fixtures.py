"""Replicas in a real local Ray, started once for the whole test run. conftest.py registers them."""

import os
import time
from collections.abc import Iterable, Iterator

import pytest

from llm_assets.engines import DummyEngine, DummySettings, RayEngine, RaySettings
from llm_assets.records import Completion, Request
from tests.engine_fixtures import smollm2_settings

DEADLY = 666
"""A token that ends the process of the engine which gets it."""


class Hindered(DummyEngine):
    """A dummy engine that takes its time for each answer, holds requests in flight as vLLM does, and can die of one."""

    def __init__(self, seconds: float, in_flight: int = 8) -> None:
        super().__init__()
        self.seconds, self.in_flight = seconds, in_flight

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        pending, held, exhausted = iter(requests), list[Request](), False
        while held or not exhausted:
            while not exhausted and len(held) < self.in_flight:
                request = next(pending, None)
                exhausted = request is None
                if request is not None:
                    held.append(request)
                    if DEADLY in request.prompt_token_ids:
                        os.kill(os.getpid(), 9)
            if held:
                time.sleep(self.seconds)
                yield self.answer(held.pop(0))


def slow(settings: DummySettings) -> DummyEngine:
    return Hindered(0.01)


def at_once(settings: DummySettings) -> DummyEngine:
    return Hindered(0.0)


class TellsKey(DummyEngine):
    """Says a secret when it is loaded."""

    def load(self) -> None:
        raise RuntimeError(f"the key is {os.environ['SHOP_API_KEY']}")


def tells_key(settings: DummySettings) -> DummyEngine:
    return TellsKey()


@pytest.fixture(scope="session")
def ray_dummy_engine() -> Iterator[RayEngine]:
    """Two replicas of the dummy engine. It is the first to start Ray in this process, which others then use too."""
    engine = RayEngine(RaySettings(engine=DummySettings(), replicas=2, num_cpus=0.25))
    engine.load()
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def ray_vllm_engine(ray_dummy_engine: RayEngine, smollm2) -> Iterator[RayEngine]:
    """One replica of vLLM with SmolLM2. Only its first use loads it."""
    engine = RayEngine(RaySettings(engine=smollm2_settings(smollm2), num_cpus=1))
    yield engine
    engine.close()
