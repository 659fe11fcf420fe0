-- What does each task cost, day by day?
-- One line per day on which runs began and per task, in tokens. prompt_tokens less cached_tokens had to be
-- computed. cost is NULL unless the engine was given prices. The day is UTC in SQLite, and the session's time zone in
-- Postgres.

SELECT
    SUBSTR(CAST(started_at AS TEXT), 1, 10) AS day,
    source,
    task,
    COUNT(DISTINCT run_id) AS runs,
    SUM(rows_answered) AS answered,
    SUM(prompt_tokens) AS prompt_tokens,
    SUM(cached_tokens) AS cached_tokens,
    SUM(output_tokens) AS output_tokens,
    ROUND(CAST(SUM(prompt_tokens + output_tokens) * 1.0 / NULLIF(SUM(rows_answered), 0) AS NUMERIC), 1)
        AS tokens_per_answer,
    ROUND(CAST(SUM(cost) AS NUMERIC), 4) AS cost,
    MIN(currency) AS currency
FROM llm_throughput
GROUP BY SUBSTR(CAST(started_at AS TEXT), 1, 10), source, task
ORDER BY day, source, task;
