-- What do customers ask for, product by product?
-- One line per product and kind of request, the most frequent of each product first (place 1). Reviews that ask for
-- nothing ('none') are left out of the places; share is of all the product's reviews whose facts were extracted. The
-- product is that of the page; facts_product, which the text itself states, need not agree with it.

SELECT
    product,
    RANK() OVER (PARTITION BY product ORDER BY COUNT(*) DESC) AS place,
    request,
    COUNT(*) AS reviews,
    ROUND(CAST(COUNT(*) * 1.0 / MAX(extracted) AS NUMERIC), 3) AS share
FROM (
    SELECT product, facts_request AS request, COUNT(*) OVER (PARTITION BY product) AS extracted
    FROM reviews_answered
    WHERE facts_answered_at IS NOT NULL
) AS extracted_facts
WHERE request IS NOT NULL AND request <> 'none'
GROUP BY product, request
ORDER BY product, place, request;
