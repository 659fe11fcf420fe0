-- How much did it save to ask about equal texts once?
-- One line per task: answered rows, the different texts among them, the rows that took another row's answer, and the
-- tokens that asking about those would have cost. Nothing is saved by tasks that sample, whose answers are not reused.

SELECT
    task,
    SUM(answered) AS answered,
    COUNT(*) AS texts,
    SUM(answered - 1) AS rows_saved,
    SUM((answered - 1) * prompt_tokens) AS prompt_tokens_saved,
    SUM((answered - 1) * output_tokens) AS output_tokens_saved
FROM (
    SELECT
        results.task,
        COUNT(*) AS answered,
        MAX(answers.prompt_tokens) AS prompt_tokens,
        MAX(answers.output_tokens) AS output_tokens
    FROM (
        SELECT 'sentiment' AS task, fingerprint, content_hash FROM reviews_sentiment
        UNION ALL
        SELECT 'facts' AS task, fingerprint, content_hash FROM reviews_facts
        UNION ALL
        SELECT 'summary' AS task, fingerprint, content_hash FROM reviews_summary
    ) AS results
    INNER JOIN llm_answers AS answers
        ON answers.fingerprint = results.fingerprint AND answers.content_hash = results.content_hash
    GROUP BY results.task, results.fingerprint, results.content_hash
) AS texts
GROUP BY task
ORDER BY task;
