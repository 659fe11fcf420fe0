-- How does the mood of the reviews change from day to day?
-- One line per day of created_at. positive_share counts labelled reviews only, so unlabelled ones (no text, or failed)
-- do not pull it down; mean_confidence falls when the model is less sure, which is a reason to look closer.

SELECT
    SUBSTR(CAST(created_at AS TEXT), 1, 10) AS day,
    COUNT(*) AS reviews,
    COUNT(sentiment_label) AS labelled,
    SUM(CASE WHEN sentiment_label = 'positive' THEN 1 ELSE 0 END) AS positive,
    SUM(CASE WHEN sentiment_label = 'negative' THEN 1 ELSE 0 END) AS negative,
    ROUND(CAST(AVG(CASE sentiment_label WHEN 'positive' THEN 1.0 WHEN 'negative' THEN 0.0 END) AS NUMERIC), 3)
        AS positive_share,
    ROUND(CAST(AVG(sentiment_confidence) AS NUMERIC), 3) AS mean_confidence
FROM reviews_answered
GROUP BY SUBSTR(CAST(created_at AS TEXT), 1, 10)
ORDER BY day;
