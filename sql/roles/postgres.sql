-- Two roles with the least they need, for Postgres. Plain SQL; safe to run again, and to be run again whenever a view
-- of sql/views was made anew. Run it as superuser, or as the owner of the database and of `reviews` with
-- the right to create roles.
--   llm_pipeline  reads the source `reviews`, and makes and writes the package's own tables; it cannot change `reviews`
--   llm_analyst   reads the source, the answers, the package's tables and the views; it writes nothing
-- Both can log in and have no password yet. Set one where it stays out of files and histories: psql's \password does.
-- For other tables than the demo's: put the source's name in place of `reviews`, and its tasks' in the two lists below.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'llm_pipeline') THEN
        CREATE ROLE llm_pipeline LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'llm_analyst') THEN
        CREATE ROLE llm_analyst LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
    END IF;
END
$$;

-- To hand tables to a role and to set its defaults, who is no superuser must be a member of it.
GRANT llm_pipeline TO CURRENT_USER;

-- Nobody makes tables in this schema by default (Postgres 15 and later begin like this).
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO llm_pipeline, llm_analyst;

-- The source: read only, for both.
GRANT SELECT ON reviews TO llm_pipeline, llm_analyst;

-- The pipeline makes its tables on its first run and owns them. If another role ran it before, it gets those.
GRANT CREATE ON SCHEMA public TO llm_pipeline;
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'reviews_sentiment', 'reviews_facts', 'reviews_summary', 'llm_answers', 'llm_failures', 'llm_throughput',
        'llm_version'
    ] LOOP
        IF to_regclass('public.' || quote_ident(name)) IS NOT NULL THEN
            EXECUTE 'ALTER TABLE public.' || quote_ident(name) || ' OWNER TO llm_pipeline';
        END IF;
    END LOOP;
END
$$;

-- The analyst reads what is there now, and what the pipeline will make.
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'reviews_sentiment', 'reviews_facts', 'reviews_summary', 'llm_answers', 'llm_failures', 'llm_throughput',
        'llm_version', 'reviews_answered'
    ] LOOP
        IF to_regclass('public.' || quote_ident(name)) IS NOT NULL THEN
            EXECUTE 'GRANT SELECT ON public.' || quote_ident(name) || ' TO llm_analyst';
        END IF;
    END LOOP;
END
$$;
ALTER DEFAULT PRIVILEGES FOR ROLE llm_pipeline IN SCHEMA public GRANT SELECT ON TABLES TO llm_analyst;

-- A second line of defence, and an end to queries that someone forgot.
ALTER ROLE llm_analyst SET default_transaction_read_only = on;
ALTER ROLE llm_analyst SET statement_timeout = '10min';
