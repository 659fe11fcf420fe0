"""The code location of test_cluster: six days of reviews, a backfill in runs of two days, and the jobs of the page."""

import re
from pathlib import Path

import dagster as dg

from llm_assets.dagster import DatabaseResource, TimePartitions, build_llm_assets
from llm_assets.tables import Source
from tests.dagster.backfill_location import FOLDER, NotingEngineResource
from tests.tables.shop import SENTIMENT

PAGE = Path(__file__).resolve().parents[2] / "docs" / "many-machines.md"
DAYS = TimePartitions(column="created_at", start="2026-01-01", end="2026-01-07")

assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], DAYS, max_partitions_per_run=2, group_name="reviews")
names: dict[str, object] = {"dg": dg}
for snippet in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
    exec(snippet, names)
defs = dg.Definitions(
    assets=assets,
    jobs=[names["four_gpus"], names["no_gpu"]],  # pyright: ignore[reportArgumentType]
    resources={
        "database": DatabaseResource(url=dg.EnvVar("LLM_ASSETS_DATABASE_URL")),
        "engine": NotingEngineResource(folder=dg.EnvVar(FOLDER)),
    },
)
