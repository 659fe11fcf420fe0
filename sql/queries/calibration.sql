-- Can the confidence be trusted?
-- One line per band of confidence. Where accuracy is about mean_confidence the confidence means what it says; where
-- overconfidence (confidence less accuracy) is well above 0, the model is surer than it should be. To let only sure
-- labels through, take the lowest band from which on accuracy is good enough. Bands with few reviews say little.

SELECT
    band AS confidence_from,
    COUNT(*) AS compared,
    SUM(correct) AS correct,
    ROUND(CAST(AVG(sentiment_confidence) AS NUMERIC), 3) AS mean_confidence,
    ROUND(CAST(AVG(correct * 1.0) AS NUMERIC), 3) AS accuracy,
    ROUND(CAST(AVG(sentiment_confidence) - AVG(correct * 1.0) AS NUMERIC), 3) AS overconfidence
FROM (
    SELECT
        sentiment_confidence,
        CASE WHEN sentiment_label = gold_label THEN 1 ELSE 0 END AS correct,
        CASE
            WHEN sentiment_confidence >= 0.95 THEN 0.95
            WHEN sentiment_confidence >= 0.9 THEN 0.9
            WHEN sentiment_confidence >= 0.8 THEN 0.8
            WHEN sentiment_confidence >= 0.7 THEN 0.7
            WHEN sentiment_confidence >= 0.6 THEN 0.6
            ELSE 0.0
        END AS band
    FROM reviews_answered
    WHERE gold_label IS NOT NULL AND sentiment_label IS NOT NULL
) AS compared
GROUP BY band
ORDER BY band;
