"""A pooler before the database: every command refuses before it sets anything that the application would get."""

from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.ledger.migrate import migrate
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.errors import PreflightError
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.servers import PGBOUNCER, Server, pooler

pytestmark = [
    pytest.mark.external_postgres,
    pytest.mark.skipif(not PGBOUNCER.exists(), reason="pgbouncer is not installed"),
]

POOLED = r"the connection to \S+@localhost goes through a pooler.*give the server's own address as \[database\] url"


@pytest.fixture(params=["transaction", "statement", "session"])
def pooled_url(server: Server, database_url: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The application's database as a pooler shows it, whose one server connection the application uses, too."""
    name = database_url.partition("?")[0].rpartition("/")[2]
    with pooler(server, request.param) as pooled:
        yield pooled.url(name)


@pytest.fixture
def application(pooled_url: str) -> Callable[[], None]:
    """The application finds its table by its own search_path, and its session as its own settings have it."""

    def works() -> None:
        with psycopg.connect(pooled_url, autocommit=True) as connection:
            assert connection.execute("SELECT count(*) FROM clients").fetchone() == (1,)
            for setting, value in (("row_security", "on"), ("keyrotation.engine", None)):
                shown = connection.execute(f"SELECT nullif(current_setting('{setting}', true), '')").fetchone()
                assert shown == (value,)

    with psycopg.connect(pooled_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.clients (id int PRIMARY KEY, first_name text)")
        connection.execute("INSERT INTO public.clients VALUES (1, 'v1:')")
    works()
    return works


@pytest.mark.parametrize("act", [pytest.param(connect, id="connect"), pytest.param(migrate, id="migrate")])
def test_a_connection_through_a_pooler_sets_nothing_and_is_refused(
    pooled_url: str, application: Callable[[], None], act: Callable[[str], object]
) -> None:
    with pytest.raises(PreflightError, match=POOLED):
        act(pooled_url)
    application()


@pytest.mark.parametrize("command", ["init", "status", "inventory"])
def test_a_command_through_a_pooler_leaves_the_applications_connections_as_they_are(
    pooled_url: str, application: Callable[[], None], tmp_path: Path, command: str
) -> None:
    path, folder = tmp_path / "keyrotation.toml", Folder(tmp_path, [])
    text = f'database.url = "{pooled_url}"\n[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n'
    if command != "init":  # which writes one from what it finds in the database
        (tmp_path / ".keyrotation").mkdir(mode=0o700)
        path.write_text(text)
    folder.run(command, expect=1, KEYROTATION_DATABASE_URL=pooled_url)
    assert "goes through a pooler" in folder.printed[-1]
    application()
    path.write_text(text)
    with pytest.raises(PreflightError, match=POOLED), open_pipeline(settings.load(path), actor="test"):
        pass
    application()
