-- Which reviews lack an answer, and why?
-- One line per review that lacks at least one of the three answers. Each task's column says `answered`, the kind of its
-- failure, or `not asked`: the partition has not run since the review came in, or its run was stopped.

SELECT
    answered.id,
    answered.day,
    answered.product,
    COALESCE(CASE WHEN answered.sentiment IS NOT NULL THEN 'answered' END, sentiment.kind, 'not asked') AS sentiment,
    COALESCE(CASE WHEN answered.facts_confidence IS NOT NULL THEN 'answered' END, facts.kind, 'not asked') AS facts,
    COALESCE(CASE WHEN answered.summary IS NOT NULL THEN 'answered' END, summary.kind, 'not asked') AS summary
FROM reviews_answered AS answered
LEFT JOIN llm_failures AS sentiment
    ON sentiment.row_key = CAST(answered.id AS TEXT) AND sentiment.source = 'reviews' AND sentiment.task = 'sentiment'
LEFT JOIN llm_failures AS facts
    ON facts.row_key = CAST(answered.id AS TEXT) AND facts.source = 'reviews' AND facts.task = 'facts'
LEFT JOIN llm_failures AS summary
    ON summary.row_key = CAST(answered.id AS TEXT) AND summary.source = 'reviews' AND summary.task = 'summary'
WHERE answered.sentiment IS NULL OR answered.facts_confidence IS NULL OR answered.summary IS NULL
ORDER BY answered.id;
