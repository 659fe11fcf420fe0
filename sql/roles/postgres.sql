-- Two roles with the least they need on reviews and its answers, for Postgres.
-- Made by `llm-assets roles`. Safe to run again, and to be run again when a task was added. Run it as
-- superuser, or as the owner of the database and of the source with the right to create roles.
--   llm_pipeline  reads the source; makes and writes the package's tables; cannot change the source
--   llm_analyst   reads the source, the answers, the package's tables and the view; writes nothing
-- Both can log in and have no password yet. Set one where it stays out of files and histories: psql's
-- \password does.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'llm_pipeline') THEN
        CREATE ROLE llm_pipeline LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'llm_analyst') THEN
        CREATE ROLE llm_analyst LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;
    END IF;
    EXECUTE 'GRANT CONNECT ON DATABASE ' || quote_ident(current_database()) || ' TO llm_pipeline, llm_analyst';
END
$$;

-- To hand tables to a role and to set its defaults, who is no superuser must be a member of it.
GRANT llm_pipeline TO CURRENT_USER;

-- Nobody makes tables in this schema by default (Postgres 15 and later begin like this).
REVOKE CREATE ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO llm_pipeline, llm_analyst;

-- The pipeline makes its tables on its first run and owns them. Those that are there become its own.
GRANT CREATE ON SCHEMA public TO llm_pipeline;
DO $$
DECLARE
    name TEXT;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'public.reviews_sentiment',
        'public.reviews_facts',
        'public.reviews_summary',
        'public.llm_answers',
        'public.llm_failures',
        'public.llm_throughput',
        'public.llm_version'
    ] LOOP
        IF to_regclass(name) IS NOT NULL THEN
            EXECUTE 'ALTER TABLE ' || name || ' OWNER TO llm_pipeline';
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
        'public.reviews_sentiment',
        'public.reviews_facts',
        'public.reviews_summary',
        'public.llm_answers',
        'public.llm_failures',
        'public.llm_throughput',
        'public.llm_version',
        'public.reviews_answered'
    ] LOOP
        IF to_regclass(name) IS NOT NULL THEN
            EXECUTE 'GRANT SELECT ON ' || name || ' TO llm_analyst';
        END IF;
    END LOOP;
END
$$;
ALTER DEFAULT PRIVILEGES FOR ROLE llm_pipeline IN SCHEMA public GRANT SELECT ON TABLES TO llm_analyst;

-- The source: read only, for both.
GRANT SELECT ON public.reviews TO llm_pipeline, llm_analyst;

-- A second line of defence, and an end to queries that someone forgot.
ALTER ROLE llm_analyst SET default_transaction_read_only = on;
ALTER ROLE llm_analyst SET statement_timeout = '10min';
