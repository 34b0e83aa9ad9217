"""A fleet whose values only decrypting tells, and whose application has a login of its own for each key."""

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_aes_gcm import HEX, Form
from keyrotation_pipeline_tests.acceptance.test_fleet import CONFIGURATION, ROWS, Fleet
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.servers import Server, copy_of


@dataclass
class LoginFleet(Fleet):
    """Takes login and keys from one place; after a refusal, again from there."""

    form: Form = HEX
    logins: dict[str, str] = field(default_factory=dict)
    names: tuple[str, ...] = ()
    pause_seconds: float = 0.01

    @property
    def listed(self) -> list[str]:
        text = (self.folder.path / ".keyrotation" / "keys" / "application.env").read_text()
        return text.strip().partition("=")[2].split(",")

    def login(self, key: str) -> str:
        """Of the version that a key is, in the order in which keys were seen first."""
        if key not in self.logins:
            self.logins[key] = self.names[len(self.logins)]
        return self.logins[key]

    def connected(self, database: str, login: str) -> psycopg.Connection:
        return psycopg.connect(make_conninfo(self.urls[database], user=login), autocommit=True)

    def owner(self, database: str, statement: LiteralString) -> None:
        """Executes a statement of the owner of a database's tables; {0} is the old login, {1} the new one."""
        with psycopg.connect(self.urls[database], autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(*map(sql.Identifier, self.names)))

    def encrypted(self, text: str, row: int) -> str | bytes:  # noqa: ARG002
        return self.form.seal(self.listed[0], text)

    def decrypted(self, value: str | bytes, row: int) -> str:  # noqa: ARG002
        return self.form.read(self.listed, value)

    def at_work(self, stop: threading.Event) -> None:
        chance = Random(7)
        while not stop.is_set():
            keys = self.listed
            login = self.login(keys[0])
            connections = {name: self.connected(name, login) for name in self.urls}
            while self.listed == keys and not stop.wait(self.pause_seconds):
                database, row = chance.choice(list(self.expected))
                self._step(connections[database], database, row, keys)
            for each in connections.values():
                each.close()

    def _step(self, connection: psycopg.Connection, database: str, row: int, keys: list[str]) -> None:
        try:
            found = connection.execute("SELECT name FROM clients WHERE id = %s", (row,)).fetchone()
            if found is None or self.form.read(keys, found[0]) != self.expected[database, row]:
                self.wrong.append(f"{database} {row}: another content")
            new = f"{database} {row}, write {self.writes}"
            connection.execute("UPDATE clients SET name = %s WHERE id = %s", (self.form.seal(keys[0], new), row))
            self.expected[database, row] = new
            self.writes += 1
        except psycopg.Error as error:
            if self.listed == keys:
                self.wrong.append(f"{database} {row}: {error}")

    def written_as(self, login: str, key: str, database: str, row: int = 1) -> str:
        """What a database says to a write of this login under this key; nothing: it takes it."""
        with self.connected(database, login) as connection:
            try:
                connection.execute("UPDATE clients SET name = %s WHERE id = %s", (self.form.seal(key, "late"), row))
            except psycopg.errors.InsufficientPrivilege as error:
                return str(error)
        return ""


def declared(form: Form, names: Sequence[str]) -> str:
    """The format and its logins, as in the configuration."""
    listed = ", ".join(f'v{number} = "{name}"' for number, name in enumerate(names, 1))
    return f'[format]\n{form.format}\nkeys = {{ env = "FIELD_KEYS" }}\nlogins = {{ {listed} }}\n'


def create_logins(server: Server, names: Sequence[str]) -> None:
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for name in names:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN").format(sql.Identifier(name)))


def fill(made: LoginFleet, key: str, rows: int = ROWS) -> None:
    """Makes the table of each database, in which every login may write."""
    form = made.form
    made.expected = {(database, row): f"{database} {row}" for database in made.urls for row in range(rows)}
    made.login(key)
    for database, url in made.urls.items():
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(
                f"CREATE TABLE clients (id int PRIMARY KEY, name {form.column}, note {form.column})".encode()
            )
            for name in made.names:
                connection.execute(
                    sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON clients TO {}").format(sql.Identifier(name))
                )
            for row in range(rows):
                value = form.seal(key, made.expected[database, row])
                connection.execute("INSERT INTO clients VALUES (%s, %s)", (row, value))


@contextmanager
def with_logins(
    folder: Path, first: str, server: Server, second: Server, officers: tuple[DemoOfficer, ...], form: Form = HEX
) -> Iterator[LoginFleet]:
    """The home's own database and north are on one server, whose roles they share; south is on another."""
    names = tuple(f"app_{secrets.token_hex(4)}_g{number}" for number in (1, 2, 3))
    with copy_of(server, "template1") as north:
        with psycopg.connect(second.url(), autocommit=True) as admin:
            admin.execute("CREATE DATABASE south")
        urls = {"": first, "north": north, "south": second.url("south")}
        made = LoginFleet(Folder(folder, []), urls, officers, form=form, names=names)
        key = form.key()
        for at in (server, second):
            create_logins(at, names)
        fill(made, key)
        named = roster_in_toml(officers)
        (folder / "keyrotation.toml").write_text(CONFIGURATION.format(officers=named) + declared(form, names))
        made.typed("init", FIELD_KEYS=key)
        try:
            yield made
        finally:
            for url in (first, north, server.url()):
                with psycopg.connect(url, autocommit=True) as connection:
                    for name in names:
                        connection.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(name)))
            with psycopg.connect(server.url(), autocommit=True) as connection:
                for name in names:
                    connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))
