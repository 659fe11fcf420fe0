-- Which labels should a person check first?
-- The 50 labelled reviews where the model was torn most: the smallest lead of the chosen label over the next one. A
-- margin near 0 is a coin toss. Write what the person decides into reviews.gold_label to measure the model with it.

SELECT
    id,
    sentiment_label,
    ROUND(CAST(sentiment_margin AS NUMERIC), 4) AS margin,
    ROUND(CAST(sentiment_confidence AS NUMERIC), 4) AS confidence,
    gold_label,
    product,
    title,
    text
FROM reviews_answered
WHERE sentiment_label IS NOT NULL
ORDER BY sentiment_margin, id
LIMIT 50;
