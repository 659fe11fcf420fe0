-- How often is the label the one that a person gave?
-- One line. majority_share is what always answering the most frequent gold label would reach: an accuracy that is not
-- clearly above it is worth nothing. Reviews without a gold label or without an answer are left out, and counted.

SELECT
    COUNT(CASE WHEN gold_label IS NOT NULL AND sentiment_label IS NOT NULL THEN 1 END) AS compared,
    COUNT(CASE WHEN gold_label = sentiment_label THEN 1 END) AS correct,
    ROUND(CAST(AVG(
        CASE
            WHEN gold_label = sentiment_label THEN 1.0
            WHEN gold_label IS NOT NULL AND sentiment_label IS NOT NULL THEN 0.0
        END
    ) AS NUMERIC), 3) AS accuracy,
    (
        SELECT ROUND(CAST(MAX(share.reviews) * 1.0 / SUM(share.reviews) AS NUMERIC), 3)
        FROM (
            SELECT COUNT(*) AS reviews
            FROM reviews_answered
            WHERE gold_label IS NOT NULL AND sentiment_label IS NOT NULL
            GROUP BY gold_label
        ) AS share
    ) AS majority_share,
    COUNT(CASE WHEN gold_label IS NULL THEN 1 END) AS without_gold_label,
    COUNT(CASE WHEN gold_label IS NOT NULL AND sentiment_label IS NULL THEN 1 END) AS without_answer
FROM reviews_answered;
