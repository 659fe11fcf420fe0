"""The Dagster job that is killed: two tasks over a partitioned table. Run as a program, this file runs it once."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import dagster as dg

from llm_assets.dagster import DatabaseResource, EngineResource, StaticPartitions, build_llm_assets
from llm_assets.dagster.local import prepare_instance, run_job
from llm_assets.engines import Engine
from llm_assets.pipeline import PipelineSettings
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Extract
from tests.crash.engine import NotingVllmEngine, ProcessEngine
from tests.crash.table import DAYS

NAME = "answer_reviews"
VARIABLE = "LLM_ASSETS_CRASH"
"""Environment variable with the job as JSON. Every process that a worker starts inherits it."""

COMMIT_ROWS = 20
"""Answers that wait for their commit, at most."""

SENTIMENT = Classify(name="sentiment", labels=("positive", "negative"))
FACTS = Extract(
    name="facts",
    schema={
        "type": "object",
        "properties": {
            "product": {"type": "string", "maxLength": 20},
            "price": {"type": "number"},
            "angry": {"type": "boolean"},
        },
        "required": ["product", "angry"],
    },
)


@dataclass(frozen=True)
class Job:
    """What a worker is told. Without a model it runs the dummy engine, with `seconds` for each answer."""

    url: str
    instance: str
    notes: str
    life: int = 0
    seconds: float = 0.0
    model: str = ""
    commit_rows: int = COMMIT_ROWS
    commit_seconds: float = 1.0

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


class CrashEngineResource(EngineResource):
    notes: str
    life: int
    seconds: float
    model: str

    def make_engine(self) -> Engine:
        if self.model:
            return NotingVllmEngine(Path(self.notes), self.life, self.model)
        return ProcessEngine(Path(self.notes), self.life, self.seconds)


def definitions(job: Job) -> dg.Definitions:
    tasks = [SENTIMENT] if job.model else [SENTIMENT, FACTS]
    days = StaticPartitions(column="day", values=DAYS)
    settings = PipelineSettings(commit_rows=job.commit_rows, commit_seconds=job.commit_seconds, max_engine_deaths=1000)
    engine = CrashEngineResource(notes=job.notes, life=job.life, seconds=job.seconds, model=job.model)
    return dg.Definitions(
        assets=build_llm_assets(Source(table="reviews"), tasks, days, settings=settings),
        jobs=[dg.define_asset_job(NAME, executor_def=dg.in_process_executor)],
        resources={"database": DatabaseResource(url=job.url), "engine": engine},
    )


def run_once(job: Job) -> None:
    run_job(definitions(job), NAME, prepare_instance(Path(job.instance)))


def job_of_this_process() -> Job:
    return Job(**json.loads(os.environ[VARIABLE]))


@dg.definitions
def defs() -> dg.Definitions:
    """What Dagster's own programs load."""
    return definitions(job_of_this_process())


if __name__ == "__main__":
    run_once(job_of_this_process())
