-- How does the mood of the reviews change from day to day?
-- One line per day of created_at. positive_share counts labelled reviews only, so unlabelled ones (no text, or failed)
-- do not pull it down; mean_confidence falls when the model is less sure, which is a reason to look closer.

SELECT
    day,
    COUNT(*) AS reviews,
    COUNT(sentiment) AS labelled,
    SUM(CASE WHEN sentiment = 'positive' THEN 1 ELSE 0 END) AS positive,
    SUM(CASE WHEN sentiment = 'negative' THEN 1 ELSE 0 END) AS negative,
    ROUND(CAST(AVG(CASE sentiment WHEN 'positive' THEN 1.0 WHEN 'negative' THEN 0.0 END) AS NUMERIC), 3)
        AS positive_share,
    ROUND(CAST(AVG(sentiment_confidence) AS NUMERIC), 3) AS mean_confidence
FROM reviews_answered
GROUP BY day
ORDER BY day;
