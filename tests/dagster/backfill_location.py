"""The code location of test_backfill: 30 days of reviews, and an engine that notes what it does and can be held up."""

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import dagster as dg

from llm_assets.dagster import DatabaseResource, DummyEngineResource, TimePartitions, build_llm_assets
from llm_assets.engines import DummyEngine
from llm_assets.pipeline import PipelineSettings
from llm_assets.records import Completion, Request
from llm_assets.tables import Source
from tests.tables.shop import SENTIMENT, RecordingEngine

DATABASE, FOLDER = "LLM_ASSETS_TEST_DATABASE", "LLM_ASSETS_TEST_FOLDER"
"""In the environment: the database's URL, and where the notes are."""

DAYS = TimePartitions(column="created_at", start="2026-01-01", end="2026-01-31")


class NotingEngine(RecordingEngine):
    """Writes each load and each question into a file, and waits at the text that stands in another one."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.notes, self.held = folder / "notes", folder / "held"

    def load(self) -> None:
        self._note(f"load {os.getpid()}")

    def run(self, requests: Iterable[Request]) -> Iterator[Completion]:
        for request in requests:
            text = self.text_of(request)
            self._note(f"ask {text}")
            if self._is_held(text):
                self._note(f"wait {os.getpid()}")
            while self._is_held(text):
                time.sleep(0.05)
            yield self.answer(request)

    def _is_held(self, text: str) -> bool:
        return self.held.exists() and self.held.read_text() == text

    def _note(self, line: str) -> None:
        with self.notes.open("a") as file:
            file.write(line + "\n")


class NotingEngineResource(DummyEngineResource):
    """Gives an engine that writes into a folder."""

    folder: str

    def make_engine(self) -> DummyEngine:
        return NotingEngine(Path(self.folder))


whole = build_llm_assets(
    Source(table="reviews"), [SENTIMENT], DAYS, settings=PipelineSettings(max_failed_share=0.5, commit_seconds=0.1)
)
split = build_llm_assets(
    Source(table="reviews"),
    [SENTIMENT],
    DAYS,
    key_prefix=["split"],
    max_partitions_per_run=12,
    settings=PipelineSettings(output_schema=None),
)


@dg.asset(deps=[dg.AssetKey("reviews_sentiment")], partitions_def=DAYS.definition())
def report() -> None:
    """Made of the answers, and never in the same run."""


defs = dg.Definitions(
    assets=[*whole, *split, report],
    resources={
        "database": DatabaseResource(url=dg.EnvVar(DATABASE)),
        "engine": NotingEngineResource(folder=dg.EnvVar(FOLDER)),
    },
)
