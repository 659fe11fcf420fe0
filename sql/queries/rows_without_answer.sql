-- Which reviews lack an answer, and why?
-- One line per review that lacks at least one of the three answers. Each task's column says `answered`, the kind of its
-- failure, or `not asked`: the partition has not run since the review came in, or its run was stopped.

SELECT
    id,
    SUBSTR(CAST(created_at AS TEXT), 1, 10) AS day,
    product,
    COALESCE(sentiment_failed, CASE WHEN sentiment_label IS NOT NULL THEN 'answered' END, 'not asked') AS sentiment,
    COALESCE(facts_failed, CASE WHEN facts_answered_at IS NOT NULL THEN 'answered' END, 'not asked') AS facts,
    COALESCE(summary_failed, CASE WHEN summary_answered_at IS NOT NULL THEN 'answered' END, 'not asked') AS summary
FROM reviews_answered
WHERE sentiment_answered_at IS NULL OR facts_answered_at IS NULL OR summary_answered_at IS NULL
ORDER BY id;
