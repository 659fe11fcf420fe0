"""The code location of test_cluster: six days of reviews, and a backfill of them as runs of two days each."""

import dagster as dg

from llm_assets.dagster import DatabaseResource, TimePartitions, build_llm_assets
from llm_assets.tables import Source
from tests.dagster.backfill_location import FOLDER, NotingEngineResource
from tests.tables.shop import SENTIMENT

DAYS = TimePartitions(column="created_at", start="2026-01-01", end="2026-01-07")

assets = build_llm_assets(Source(table="reviews"), [SENTIMENT], DAYS, max_partitions_per_run=2)
without_gpu = dg.define_asset_job(
    "without_gpu",
    selection=dg.AssetSelection.assets("reviews_sentiment"),
    tags={
        "dagster-k8s/config": {
            "container_config": {
                "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
            },
            "merge_behavior": "SHALLOW",
        }
    },
)
defs = dg.Definitions(
    assets=assets,
    jobs=[without_gpu],
    resources={
        "database": DatabaseResource(url=dg.EnvVar("LLM_ASSETS_DATABASE_URL")),
        "engine": NotingEngineResource(folder=dg.EnvVar(FOLDER)),
    },
)
