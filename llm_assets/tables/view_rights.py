"""What stands on a Postgres view besides its columns: its owner, the rights granted on it, and its options."""

from dataclasses import dataclass

import sqlalchemy as sa

from llm_assets.tables.names import literal

GRANTED = """
SELECT
    CASE WHEN grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS role,
    privilege_type, column_name, is_grantable
FROM (
    SELECT (aclexplode(relacl)).*, NULL AS column_name, relowner
    FROM pg_class WHERE oid = {view}::regclass
    UNION ALL
    SELECT (aclexplode(attacl)).*, quote_ident(attname), relowner
    FROM pg_attribute INNER JOIN pg_class ON pg_class.oid = attrelid
    WHERE attrelid = {view}::regclass AND NOT attisdropped
) AS granted
WHERE grantee <> relowner
"""

VIEW = """
SELECT quote_ident(pg_get_userbyid(relowner)), COALESCE(ARRAY_TO_STRING(reloptions, ', '), '')
FROM pg_class WHERE oid = to_regclass({view})
"""

COLUMNS = "SELECT quote_ident(attname) FROM pg_attribute WHERE attrelid = {view}::regclass AND attnum > 0"


@dataclass(frozen=True)
class ViewRights:
    """A view's owner, its options, and who has which right on it or on one of its columns."""

    view: str
    owner: str
    options: str
    granted: tuple[tuple[str, str, str | None, bool], ...]

    @classmethod
    def of(cls, connection: sa.Connection, view: str) -> "ViewRights | None":
        """Return a view's rights by its name in SQL; None if there is no such view."""
        found = connection.exec_driver_sql(VIEW.format(view=literal(view))).first()
        return None if found is None else cls(view, found[0], found[1], _granted(connection, view))

    def restore(self, connection: sa.Connection) -> None:
        """Give the rights, owner and options to the view that stands there now, and to nobody else any right.

        A right on a column that is gone is gone too.
        """
        now = ViewRights.of(connection, self.view)
        assert now is not None
        if now.options != self.options and self.options:
            connection.exec_driver_sql(f"ALTER VIEW {self.view} SET ({self.options})")
        if now.owner != self.owner:
            connection.exec_driver_sql(f"ALTER VIEW {self.view} OWNER TO {self.owner}")
        granted = _granted(connection, self.view)
        if set(granted) == set(self.granted):
            return
        # A new view has what the schema's default privileges say, which may be more than this one had.
        for role in sorted({role for role, *_ in granted}):
            connection.exec_driver_sql(f"REVOKE ALL ON {self.view} FROM {role}")
        columns = set(connection.exec_driver_sql(COLUMNS.format(view=literal(self.view))).scalars())
        for role, right, column, may_grant in self.granted:
            if column is None or column in columns:
                what = right if column is None else f"{right} ({column})"
                option = " WITH GRANT OPTION" if may_grant else ""
                connection.exec_driver_sql(f"GRANT {what} ON {self.view} TO {role}{option}")


def _granted(connection: sa.Connection, view: str) -> tuple[tuple[str, str, str | None, bool], ...]:
    rows = connection.exec_driver_sql(GRANTED.format(view=literal(view)))
    return tuple((role, right, column, may_grant) for role, right, column, may_grant in rows)
