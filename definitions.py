"""This repository's code location: the demo's reviews, labelled, extracted and summarized day by day.

Set in the environment, or left as the demo has them:
    LLM_ASSETS_DATABASE_URL   SQLAlchemy URL of the database with the table `reviews`
    LLM_ASSETS_MODEL          model directory, or name on the Hugging Face hub
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import dagster as dg
from pydantic import BaseModel, Field

from llm_assets.dagster import DatabaseResource, TimePartitions, VllmResource, build_llm_assets
from llm_assets.demo.model import MODEL_DIRECTORY
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Example, Extract, Summarize, Task

ROOT = Path(__file__).resolve().parent
DEMO_DATABASE_URL = f"sqlite:///{ROOT / '.llm_assets' / 'demo.db'}"


class Facts(BaseModel):
    """What a review or support message states."""

    product: str | None = Field(description="product the text is about", max_length=60)
    issue: str | None = Field(description="what is wrong with it, null if nothing", max_length=100)
    request: Literal["refund", "exchange", "repair", "question", "none"] = Field(description="what the writer asks for")
    price: float | None = Field(description="price that is mentioned, null if none")
    order_number: str | None = Field(description="order number, null if none", max_length=20)


TASKS = [
    Classify(
        name="sentiment",
        instruction="Decide whether the customer's message is positive or negative.",
        labels=("positive", "negative"),
        examples=(
            Example(text="Stopped charging after a week and nobody answers my emails.", answer="negative"),
            Example(text="Does exactly what it should, and it looks lovely.", answer="positive"),
            Example(text="Thank you for the quick replacement, all good now!", answer="positive"),
            Example(text="Too loud, too hot, and twice the price of the old one.", answer="negative"),
        ),
    ),
    Extract(
        name="facts",
        instruction="Extract what the customer's message states. Use null for what it does not state.",
        answer_schema=Facts,
        examples=(
            Example(
                text="My toaster (order TR-1182, 45 euros) burns everything. I want my money back.",
                answer='{"product":"toaster","issue":"burns everything","request":"refund","price":45.0,'
                '"order_number":"TR-1182"}',
            ),
            Example(
                text="Great little fan, very quiet.",
                answer='{"product":"fan","issue":null,"request":"none","price":null,"order_number":null}',
            ),
        ),
        sampling={"max_tokens": 128},
    ),
    Summarize(
        name="summary",
        instruction="Summarize the customer's message in one sentence.",
        max_words=20,
        examples=(
            Example(
                text="I ordered the blue one and got the red one. Support was kind and sent the right one the next day, "
                "so I am happy in the end.",
                answer="The wrong colour came, but support replaced it the next day.",
            ),
        ),
    ),
]

REVIEWS = Source(table="reviews")
DAYS = TimePartitions(column="created_at", cadence="daily", start="2026-11-01", end="2026-11-15")


def table_definitions(
    source: Source, tasks: Sequence[Task], partitions: TimePartitions | None = None
) -> dg.Definitions:
    """Return the assets of one table with a job that materializes them, and a nightly schedule if it has partitions."""
    job = dg.define_asset_job(
        f"answer_{source.table}",
        selection=dg.AssetSelection.groups(source.table).materializable(),
        description=f"Label, extract from and summarize the rows of {source.table}.",
        # The engine is a resource: in one process, all steps share one load of the model.
        executor_def=dg.in_process_executor,
    )
    return dg.Definitions(
        assets=build_llm_assets(source, tasks, partitions, group_name=source.table),
        jobs=[job],
        schedules=[dg.build_schedule_from_partitioned_job(job, hour_of_day=2)] if partitions else [],
        resources={
            "database": DatabaseResource(url=os.environ.get("LLM_ASSETS_DATABASE_URL", DEMO_DATABASE_URL)),
            "engine": VllmResource(
                model=os.environ.get("LLM_ASSETS_MODEL", str(ROOT / MODEL_DIRECTORY)), max_model_len=2048
            ),
        },
    )


defs = table_definitions(REVIEWS, TASKS, DAYS)
