"""The least rights that running a pipeline and reading its answers need, as SQL for Postgres."""

from collections.abc import Sequence

from sqlalchemy.dialects import postgresql

from llm_assets.tables.names import literal, one_line, quoted
from llm_assets.tables.source import Source

PACKAGE_TABLES = ("llm_answers", "llm_failures", "llm_throughput", "llm_version")

DIALECT = postgresql.dialect()


def roles_sql(
    source: Source,
    tables: Sequence[str],
    schema: str | None = None,
    *,
    views: Sequence[str] = (),
    same_database: bool = True,
    pipeline: str = "llm_pipeline",
    analyst: str = "llm_analyst",
) -> str:
    """Return a script that makes two roles, or brings their rights up to date. Nothing is connected.

    Args:
        source: The source table.
        tables: The output tables of its tasks.
        schema: The output tables' schema; the default one is taken to be `public`.
        views: Views over them, which the analyst reads as well.
        same_database: Whether the source is in the database of the answers.
        pipeline: Name of the role that runs the pipeline.
        analyst: Name of the role that reads the answers.
    """
    return _Roles(source, tables, schema or "public", views, same_database, pipeline, analyst).sql()


class _Roles:
    def __init__(
        self,
        source: Source,
        tables: Sequence[str],
        schema: str,
        views: Sequence[str],
        same_database: bool,
        pipeline: str,
        analyst: str,
    ) -> None:
        self.source = source
        self.schema = schema
        self.tables = [*tables, *PACKAGE_TABLES]
        self.views = list(views)
        self.same_database = same_database
        self.roles = (pipeline, analyst)
        self.pipeline, self.analyst = quoted(DIALECT, pipeline), quoted(DIALECT, analyst)
        self.source_schema = source.db_schema or "public"
        self.source_name = quoted(DIALECT, self.source_schema, source.table)

    def sql(self) -> str:
        readers = f"{self.pipeline}, {self.analyst}"
        parts = [self._head(), self._make(), self._answers()]
        if self.same_database:
            parts.append(self._read_source(readers, "read only, for both"))
        else:
            parts += [
                "-- From here on in the database of the source, if that is Postgres.\n" + self._make(),
                self._read_source(self.pipeline, "read only, for the pipeline"),
            ]
        parts.append(
            "-- A second line of defence, and an end to queries that someone forgot.\n"
            f"ALTER ROLE {self.analyst} SET default_transaction_read_only = on;\n"
            f"ALTER ROLE {self.analyst} SET statement_timeout = '10min';"
        )
        return "\n\n".join(parts) + "\n"

    def _head(self) -> str:
        name = one_line(self.source.name)
        width = max(map(len, self.roles))
        pipeline, analyst = (one_line(role).ljust(width) for role in self.roles)
        answers = "the source, the answers" if self.same_database else "the answers"
        return (
            f"-- Two roles with the least they need on {name} and its answers, for Postgres.\n"
            "-- Made by `llm-assets roles`. Safe to run again, and to be run again when a task was added. Run it as\n"
            "-- superuser, or as the owner of the database and of the source with the right to create roles.\n"
            f"--   {pipeline}  reads the source; makes and writes the package's tables; cannot change the source\n"
            f"--   {analyst}  reads {answers}, the package's tables and the view; writes nothing\n"
            "-- Both can log in and have no password yet. Set one where it stays out of files and histories: psql's\n"
            "-- \\password does."
        )

    def _make(self) -> str:
        missing = "\n".join(
            f"    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = {literal(role)}) THEN\n"
            f"        CREATE ROLE {quoted(DIALECT, role)} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE;\n"
            "    END IF;"
            for role in self.roles
        )
        connect = f"EXECUTE 'GRANT CONNECT ON DATABASE ' || quote_ident(current_database()) || ' TO {self._both()}';"
        return f"DO $$\nBEGIN\n{missing}\n    {connect}\nEND\n$$;"

    def _both(self) -> str:
        return f"{self.pipeline}, {self.analyst}".replace("'", "''")

    def _answers(self) -> str:
        schema = quoted(DIALECT, self.schema)
        return "\n".join(
            [
                "-- To hand tables to a role and to set its defaults, who is no superuser must be a member of it.",
                f"GRANT {self.pipeline} TO CURRENT_USER;",
                "",
                "-- Nobody makes tables in this schema by default (Postgres 15 and later begin like this).",
                f"REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;",
                f"GRANT USAGE ON SCHEMA {schema} TO {self.pipeline}, {self.analyst};",
                "",
                "-- The pipeline makes its tables on its first run and owns them. Those that are there become its own.",
                f"GRANT CREATE ON SCHEMA {schema} TO {self.pipeline};",
                self._for_each(self.tables, "ALTER TABLE ", f" OWNER TO {self.pipeline}"),
                "",
                "-- The analyst reads what is there now, and what the pipeline will make.",
                self._for_each([*self.tables, *self.views], "GRANT SELECT ON ", f" TO {self.analyst}"),
                f"ALTER DEFAULT PRIVILEGES FOR ROLE {self.pipeline} IN SCHEMA {schema} "
                f"GRANT SELECT ON TABLES TO {self.analyst};",
            ]
        )

    def _for_each(self, names: Sequence[str], before: str, after: str) -> str:
        """A statement for each of some tables that exists."""
        listed = ",\n".join(f"        {literal(quoted(DIALECT, self.schema, name))}" for name in names)
        return (
            "DO $$\nDECLARE\n    name TEXT;\nBEGIN\n"
            f"    FOREACH name IN ARRAY ARRAY[\n{listed}\n    ] LOOP\n"
            "        IF to_regclass(name) IS NOT NULL THEN\n"
            f"            EXECUTE {literal(before)} || name || {literal(after)};\n"
            "        END IF;\n    END LOOP;\nEND\n$$;"
        )

    def _read_source(self, readers: str, who: str) -> str:
        if self.source.query is not None:
            return (
                f"-- The source: {who}. It is a SELECT; put what it reads in the place of THE_TABLES.\n"
                f"-- GRANT SELECT ON THE_TABLES TO {readers};"
            )
        lines = [f"-- The source: {who}."]
        if self.source_schema != self.schema or not self.same_database:
            lines.append(f"GRANT USAGE ON SCHEMA {quoted(DIALECT, self.source_schema)} TO {readers};")
        return "\n".join([*lines, f"GRANT SELECT ON {self.source_name} TO {readers};"])
