-- The view reviews_answered: every review with what was found out about it, one line per review.
-- A review without an answer stands in it too, with NULL in the columns of that task; llm_failures says why.
-- For SQLite and Postgres, once the first run has made the three output tables. Safe to run again; in Postgres run
-- sql/roles/postgres.sql afterwards, because a new view starts without grants.

DROP VIEW IF EXISTS reviews_answered;

CREATE VIEW reviews_answered AS
SELECT
    reviews.id,
    reviews.created_at,
    -- YYYY-MM-DD, as text in both databases
    SUBSTR(CAST(reviews.created_at AS TEXT), 1, 10) AS day,
    reviews.channel,
    reviews.product,
    reviews.title,
    reviews.text,
    reviews.gold_label,
    sentiment.label AS sentiment,
    -- the model's probability of that label, and its lead over the next one; both from 0 to 1
    sentiment.confidence AS sentiment_confidence,
    sentiment.margin AS sentiment_margin,
    -- what the text itself states, which need not agree with reviews.product
    facts.product AS stated_product,
    facts.issue,
    facts.request,
    facts.price,
    facts.order_number,
    facts.confidence AS facts_confidence,
    summary.summary,
    summary.confidence AS summary_confidence
FROM reviews
LEFT JOIN reviews_sentiment AS sentiment ON sentiment.id = reviews.id
LEFT JOIN reviews_facts AS facts ON facts.id = reviews.id
LEFT JOIN reviews_summary AS summary ON summary.id = reviews.id;
