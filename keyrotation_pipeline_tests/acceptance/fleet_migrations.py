"""Homes of three databases under one key, whose columns are encrypted for the first time or come from a library."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing
from keyrotation_pipeline_tests.acceptance import migrations
from keyrotation_pipeline_tests.acceptance.migrations import Release, Texts, Types, home_of
from keyrotation_pipeline_tests.acceptance.test_fleet import second  # noqa: F401
from keyrotation_pipeline_tests.applications import beside
from keyrotation_pipeline_tests.servers import Server, copy_of

ROWS = 600
MEMBERS = ("north", "south")
FENCE = "keyrotation_retired_key_versions"
STRANGE = ["v2: final version", "v1:", "100 %", f"v2:{'A' * 16}:-", "Zürich 😀", "x" * 5000]
COLUMNS = '["name", { column = "note", from = "plaintext" }]'


@dataclass
class Home(migrations.Home):
    """A home with two members, each of which has the table `cases`, too.

    Args:
        urls: by name, "" the home's own database.
        texts: what each has.
    """

    urls: dict[str, str] = field(default_factory=dict)
    texts: dict[str, Texts] = field(default_factory=dict)

    def releases(self, encrypted_from: int | None) -> list[Release]:
        """A release that reads both, or stores notes as they are: an instance for each database."""

        def types(keys: MountedKeyRing) -> dict[str, sa.types.TypeEngine[Any]]:
            begun = sa.Text() if encrypted_from is None else EncryptedType(keys, encrypted_from=encrypted_from)
            return {"name": EncryptedType(keys), "note": begun}

        return self.releases_of(types, ("note",), str(encrypted_from))

    def releases_of(self, types: Types, changed: tuple[str, ...], label: str) -> list[Release]:
        """An instance for each database, of a release with columns of these types."""
        return [
            Release(url, self.keys, types, self.texts[each], changed, f"{each} {label}", reports_to=self.url)
            for each, url in self.urls.items()
        ]

    def held_in(self, database: str, column: str = "note") -> list[str]:
        """What stands in a column of one database, in the order of its rows."""
        with psycopg.connect(self.urls[database]) as connection:
            rows = connection.execute(f"SELECT {column} FROM public.cases ORDER BY id".encode()).fetchall()
        return [value for (value,) in rows]

    def held(self, column: str) -> dict[str, list[str]]:
        """What stands in a column of each database."""
        return {each: self.held_in(each, column) for each in self.urls}

    def heads(self, column: str) -> set[str]:
        return {value[:3] for values in self.held(column).values() for value in values}

    def tables(self) -> dict[str, Any]:
        return {each["table"]: each for each in self.shown("status", "--count")["tables"]}

    def change(self, database: str, *statements: str) -> None:
        with psycopg.connect(self.urls[database], autocommit=True) as connection:
            connection.execute("SET lock_timeout = '5s'")
            for each in statements:
                connection.execute(each.encode())

    def fence(self, database: str) -> str:
        with psycopg.connect(self.urls[database]) as connection:
            ((check,),) = connection.execute(
                "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", (FENCE,)
            ).fetchall()
        return str(check)

    def requested(self, *arguments: str) -> str:
        request = self.typed(*arguments).splitlines()[-1]
        self.sign(request)
        return request

    def rotated(self) -> str:
        request = self.requested("request", "--reason", "encrypt the notes")
        assert self.said("rotate", request) == ""
        return request


def texts_of(database: str) -> Texts:
    return {n: (f"{database} {n}", STRANGE[n] if n < len(STRANGE) else f"{database} note {n}") for n in range(ROWS)}


@contextmanager
def at_work(releases: Sequence[Release]) -> Iterator[None]:
    with ExitStack() as running:
        for each in releases:
            running.callback(each.attest().stop)
            running.enter_context(beside(each.work))
        yield
    assert [each.wrong for each in releases] == [[]] * len(releases)
    assert min(each.writes for each in releases) > 5


@pytest.fixture
def home_from(
    tmp_path: Path,
    database_url: str,
    server: Server,
    second: Server,  # noqa: F811
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
) -> Iterator[Callable[[str, str], Home]]:
    """Makes a home before its `init`, and in each database the table `cases`, of these columns."""
    with copy_of(server, "template1") as north, psycopg.connect(second.url(), autocommit=True) as admin:
        admin.execute("CREATE DATABASE south")
        urls = {"": database_url, "north": north, "south": second.url("south")}

        def made(columns: str, create: str) -> Home:
            begun = home_of(tmp_path, database_url, (security_officer, privacy_officer), columns, create)
            home = Home(begun.file, begun.officers, begun.url, begun.keys, begun.expected, urls)
            text = begun.file.read_text() + f'[[tables]]\nname = "cases"\ncolumns = {columns}\ndatabases = "*"\n'
            for each in MEMBERS:
                home.change(each, f"CREATE TABLE public.cases (id int PRIMARY KEY, {create})")
                text += f'[[databases]]\nname = "{each}"\nurl = "{urls[each]}"\n'
            begun.file.write_text(text)
            return home

        yield made
