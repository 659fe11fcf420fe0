-- What do customers ask for, product by product?
-- One line per product and kind of request, the most frequent of each product first (place 1). Reviews that ask for
-- nothing ('none') are left out of the places; share is of all the product's reviews whose facts were extracted.

SELECT
    product,
    RANK() OVER (PARTITION BY product ORDER BY COUNT(*) DESC) AS place,
    request,
    COUNT(*) AS reviews,
    ROUND(CAST(COUNT(*) * 1.0 / MAX(extracted) AS NUMERIC), 3) AS share
FROM (
    SELECT product, request, COUNT(facts_confidence) OVER (PARTITION BY product) AS extracted
    FROM reviews_answered
    WHERE facts_confidence IS NOT NULL
) AS facts
WHERE request IS NOT NULL AND request <> 'none'
GROUP BY product, request
ORDER BY product, place, request;
