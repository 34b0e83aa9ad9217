"""Creates random databases on a server of the tests."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from keyrotation_pipeline_tests.random_schemas.generator import generate
from keyrotation_pipeline_tests.random_schemas.maker import Features
from keyrotation_pipeline_tests.servers import Server

# As the product pins it, so that a dump does not depend on the settings of a database.
PINNED = {
    "PGTZ": "UTC",
    "PGOPTIONS": "-c lc_monetary=C -c standard_conforming_strings=on -c quote_all_identifiers=off -c array_nulls=on",
}


def features_of(url: str) -> Features:
    """What the server at a URL can do."""
    with psycopg.connect(url) as connection:
        ((icu, contrib),) = connection.execute(
            "SELECT EXISTS (SELECT FROM pg_collation WHERE collname = 'sv-SE-x-icu'),"
            " EXISTS (SELECT FROM pg_available_extensions WHERE name = 'hstore')"
        ).fetchall()
        return Features(connection.info.server_version // 10_000, icu, contrib)


@contextmanager
def random_database(server: Server, seed: int, name: str) -> Iterator[str]:
    """The URL of the database of a seed; it is dropped afterwards, and its roles stay.

    Args:
        name: as SQL writes it without quotes.
    """
    wanted = generate(seed, features_of(server.url()))
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for role in wanted.roles:
            with suppress(psycopg.errors.DuplicateObject):
                admin.execute(role.encode())
        admin.execute(f"CREATE DATABASE {name} TEMPLATE template0 {wanted.options}".encode())
        try:
            with psycopg.connect(server.url(name), autocommit=True, client_encoding="UTF8") as connection:
                for statement in wanted.statements:
                    try:
                        connection.execute(statement.replace("{database}", name).encode())
                    except psycopg.Error as error:
                        error.add_note(statement)
                        raise
            yield server.url(name)
        finally:
            admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())


def run(server: Server, program: str, *arguments: str) -> bytes:
    """The output of one of PostgreSQL's programs, as the server's superuser."""
    place = {
        "PGHOST": str(server.directory),
        "PGUSER": "postgres",
        "LD_LIBRARY_PATH": str(server.binaries.parent / "lib"),
    }
    command = [str(server.binaries / program), *arguments]
    done = subprocess.run(command, env={**place, **PINNED}, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout
