-- Which reviews failed, and what do they say?
-- One line per failed review and task, with the text that was asked about and what the model had said, if anything.
-- llm_failures.row_key is the key as text, so that one table serves all sources.

SELECT
    failures.row_key AS id,
    failures.task,
    failures.kind,
    failures.message,
    failures.attempts,
    failures.partition_key,
    reviews.product,
    reviews.text,
    failures.raw_output
FROM llm_failures AS failures
INNER JOIN reviews ON CAST(reviews.id AS TEXT) = failures.row_key
WHERE failures.source = 'reviews'
ORDER BY reviews.id, failures.task;
