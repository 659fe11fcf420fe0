-- Which mistakes does the model make?
-- One line per pair of a person's label and the model's label, with the share of the gold label's reviews that it is:
-- the lines where both are equal are right, the others are the mistakes. The shares of a gold label sum to 1.

SELECT
    gold_label,
    sentiment_label,
    COUNT(*) AS reviews,
    ROUND(CAST(COUNT(*) * 1.0 / SUM(COUNT(*)) OVER (PARTITION BY gold_label) AS NUMERIC), 3) AS share_of_gold_label
FROM reviews_answered
WHERE gold_label IS NOT NULL AND sentiment_label IS NOT NULL
GROUP BY gold_label, sentiment_label
ORDER BY gold_label, sentiment_label;
