"""This repository's code location: the demo's reviews, labelled, extracted and summarized day by day, in Python; and
its tickets, in YAML (defs/tickets/defs.yaml).

Set in the environment, or left as the demo has them:
    LLM_ASSETS_DATABASE_URL   SQLAlchemy URL of the database with the tables `reviews` and `tickets`
    LLM_ASSETS_MODEL          model directory, or name on the Hugging Face hub
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from llm_assets.dagster import DatabaseResource, TimePartitions, VllmResource, build_failed_rows_job, build_llm_assets
from llm_assets.dagster.checks import Accuracy, Checks
from llm_assets.demo.model import MODEL_DIRECTORY
from llm_assets.sampling import Sampling
from llm_assets.tables import Source
from llm_assets.tasks import Classify, Example, Extract, Summarize, Task

ROOT = Path(__file__).resolve().parent
DEMO_DATABASE_URL = f"sqlite:///{ROOT / '.llm_assets' / 'demo.db'}"


def require_all(schema: dict[str, Any]) -> None:
    """Name every field in every answer, null or not: whether a value is there is easier to decide than its absence."""
    schema["required"] = list(schema["properties"])


class Facts(BaseModel):
    """What a review or support message states."""

    product: str | None = Field(default=None, description="product the text is about", max_length=40)
    issue: str | None = Field(default=None, description="what is wrong with it", max_length=60)
    request: Literal["refund", "exchange", "repair", "question", "none"] = Field(description="what the writer asks for")
    price: float | None = Field(default=None, description="price that is mentioned")
    order_number: str | None = Field(default=None, description="order number", max_length=12)

    model_config = ConfigDict(json_schema_extra=require_all)


def fact_example(text: str, facts: Facts) -> Example:
    """Return a message with the facts that are right for it."""
    return Example(text=text, answer=facts.model_dump_json())


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
        instruction="Extract facts from the customer's message. Use null for what it does not say.",
        schema=Facts,
        sampling=Sampling(max_tokens=192),
        examples=(
            fact_example(
                "The zip of the blue jacket broke on day two. Order 77-310, please refund me.",
                Facts(product="blue jacket", issue="zip broke", request="refund", order_number="77-310"),
            ),
            fact_example("Lovely lamp, well worth the $30.", Facts(product="lamp", request="none", price=30)),
            fact_example("Does the drill come with a charger?", Facts(product="drill", request="question")),
            fact_example(
                "这把椅子摇晃得厉害。我想换一把。", Facts(product="椅子", issue="摇晃得厉害", request="exchange")
            ),
            fact_example("Works fine so far.", Facts(request="none")),
        ),
    ),
    Summarize(
        name="summary",
        instruction="Summarize the customer's message in one short sentence.",
        max_words=20,
        examples=(
            Example(
                text="Lovely lamp! It arrived a day early, the light is warm, and my cat has decided to live under it.",
                answer="The customer loves the lamp.",
            ),
            Example(
                text="Does the drill come with a charger? I could not find it on the page, nor on the box.",
                answer="The customer asks if the drill comes with a charger.",
            ),
            Example(
                text="这把椅子摇晃得厉害。客服也不回复。",
                answer="The chair wobbles and support does not reply.",
            ),
            Example(
                text="The zip of the blue jacket broke on day two. I wrote twice and nobody answered. I want my money.",
                answer="The jacket's zip broke and the customer wants a refund.",
            ),
        ),
    ),
]

REVIEWS = Source(table="reviews")
DAYS = TimePartitions(column="created_at", cadence="daily", start="2026-11-01", end="2026-11-15")


# How often the sentiment is that of a person, day by day. The demo's small model does not come up to it.
CHECKS = Checks(accuracy=Accuracy(gold={"sentiment": "gold_label"}, min_rows=10))


def table_definitions(
    source: Source,
    tasks: Sequence[Task],
    partitions: TimePartitions | None = None,
    checks: Checks | None = None,
) -> dg.Definitions:
    """Return the assets of one table with a job that materializes them, and a nightly schedule if it has partitions."""
    job = dg.define_asset_job(
        f"answer_{source.table}",
        selection=dg.AssetSelection.groups(source.table).materializable(),
        description=f"Label, extract from and summarize the rows of {source.table}.",
        # The engine is a resource: in one process, all steps share one load of the model.
        executor_def=dg.in_process_executor,
    )
    assets = build_llm_assets(source, tasks, partitions, checks=checks, group_name=source.table)
    failed_rows_job = build_failed_rows_job(assets, executor_def=dg.in_process_executor)
    return dg.Definitions(
        assets=assets,
        jobs=[job, failed_rows_job],
        schedules=[dg.build_schedule_from_partitioned_job(job, hour_of_day=2)] if partitions else [],
        resources={
            "database": DatabaseResource(url=os.environ.get("LLM_ASSETS_DATABASE_URL", DEMO_DATABASE_URL)),
            "engine": VllmResource(
                model=os.environ.get("LLM_ASSETS_MODEL", str(ROOT / MODEL_DIRECTORY)), max_model_len=2048
            ),
        },
    )


if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))  # Dagster imports the folder `defs` as a module, wherever it was started

defs = dg.Definitions.merge(
    table_definitions(REVIEWS, TASKS, DAYS, CHECKS), dg.load_from_defs_folder(path_within_project=ROOT)
)
