-- Why do rows have no answer?
-- One line per source, task and kind of failure, the most frequent first, with one message as an example. Rows of the
-- kind engine_error are asked again by the next run, up to 3 times; the others only when their text or task changes.

SELECT
    source,
    task,
    kind,
    COUNT(*) AS failed_rows,
    MAX(attempts) AS most_attempts,
    MIN(failed_at) AS oldest,
    MAX(failed_at) AS newest,
    MIN(message) AS example_message
FROM llm_failures
GROUP BY source, task, kind
ORDER BY failed_rows DESC, source, task, kind;
