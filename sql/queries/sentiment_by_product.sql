-- Which products make customers unhappy?
-- One line per product, the most negative share first. Mind `labelled`: a share of few reviews says little.

SELECT
    product,
    COUNT(*) AS reviews,
    COUNT(sentiment_label) AS labelled,
    SUM(CASE WHEN sentiment_label = 'positive' THEN 1 ELSE 0 END) AS positive,
    SUM(CASE WHEN sentiment_label = 'negative' THEN 1 ELSE 0 END) AS negative,
    ROUND(CAST(AVG(CASE sentiment_label WHEN 'negative' THEN 1.0 WHEN 'positive' THEN 0.0 END) AS NUMERIC), 3)
        AS negative_share
FROM reviews_answered
GROUP BY product
HAVING COUNT(sentiment_label) > 0
ORDER BY negative_share DESC, labelled DESC, product;
