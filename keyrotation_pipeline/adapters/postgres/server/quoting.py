"""Names as they are typed in SQL. Only the server knows which of them need quotes, since it has the keywords."""

from collections.abc import Sequence

from keyrotation_pipeline.adapters.postgres.server.connection import Connection

_QUOTED = "SELECT name, quote_ident(name) FROM unnest(%s::text[]) AS given (name)"


def quoted_names(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """Each name as the server quotes it, and so gives it back in definitions."""
    return {str(name): str(quoted) for name, quoted in connection.execute(_QUOTED, (list(names),)).fetchall()}


def quoted(connection: Connection, *parts: str) -> str:
    """One name for a statement that somebody types, for example ``billing."Notes"``; plain where it needs no quotes."""
    names = quoted_names(connection, parts)
    return ".".join(names[part] for part in parts)
