-- How fast was each run, and where did its time go?
-- One line per run and source, the newest first. answers count a row once for each task; answers_per_second leaves out
-- the seconds to load the model. cached_share is the share of prompt tokens that vLLM took from its prefix cache.
-- A partition's seconds are those of all its tasks and stand on each task's line, so they are counted once here.

SELECT
    run_id,
    source,
    MIN(engine) AS engine,
    MIN(model) AS model,
    MAX(device) AS device,
    MIN(started_at) AS started_at,
    COUNT(*) AS partitions,
    SUM(rows_answered) AS answered,
    SUM(rows_reused) AS reused,
    SUM(rows_skipped) AS skipped,
    SUM(rows_failed) AS failed,
    ROUND(CAST(SUM(seconds_load) AS NUMERIC), 1) AS seconds_load,
    ROUND(CAST(SUM(seconds_total) AS NUMERIC), 3) AS seconds,
    ROUND(CAST(SUM(rows_answered) / NULLIF(SUM(seconds_total), 0) AS NUMERIC), 1) AS answers_per_second,
    ROUND(CAST(SUM(tokens) / NULLIF(SUM(seconds_total), 0) AS NUMERIC), 0) AS tokens_per_second,
    ROUND(CAST(SUM(cached_tokens) * 1.0 / NULLIF(SUM(prompt_tokens), 0) AS NUMERIC), 3) AS cached_share
FROM (
    SELECT
        run_id,
        source,
        partition_key,
        MIN(engine) AS engine,
        MIN(model) AS model,
        MAX(device) AS device,
        MIN(started_at) AS started_at,
        SUM(rows_answered) AS rows_answered,
        SUM(rows_reused) AS rows_reused,
        SUM(rows_skipped) AS rows_skipped,
        SUM(rows_failed) AS rows_failed,
        SUM(prompt_tokens) AS prompt_tokens,
        SUM(cached_tokens) AS cached_tokens,
        SUM(prompt_tokens + output_tokens) AS tokens,
        MAX(seconds_load) AS seconds_load,
        MAX(seconds_total) AS seconds_total
    FROM llm_throughput
    GROUP BY run_id, source, partition_key
) AS partitions
GROUP BY run_id, source
ORDER BY MIN(started_at) DESC, run_id, source;
