-- Demo tables of llm_assets: reviews and support messages of an invented shop, and tickets of its help desk.
-- SQL that SQLite and Postgres both accept, safe to run more than once.

CREATE TABLE IF NOT EXISTS reviews (
    -- row number in order of created_at, the demo rows are 1001 to 1300
    id INTEGER PRIMARY KEY,
    -- when the customer sent it, without a time zone
    created_at TIMESTAMP NOT NULL,
    -- where it came in: review (product page) or support (mail or contact form)
    channel TEXT NOT NULL,
    -- full name of the product it is about
    product TEXT NOT NULL,
    -- headline of a review or subject of a message, NULL where the customer gave none
    title TEXT,
    -- what the customer wrote, unchanged: may be NULL, empty or only whitespace
    text TEXT,
    -- what a person would answer: positive or negative, to measure a model against,
    -- NULL where the row has no sensible answer
    gold_label TEXT
);

CREATE INDEX IF NOT EXISTS reviews_created_at_idx ON reviews (created_at);

CREATE TABLE IF NOT EXISTS tickets (
    -- row number in order of opened_at, the demo rows are 501 to 540
    id INTEGER PRIMARY KEY,
    -- when it was opened, without a time zone
    opened_at TIMESTAMP NOT NULL,
    -- subject line, may be empty
    subject TEXT NOT NULL,
    -- what the customer wrote, may be empty
    body TEXT NOT NULL
);
