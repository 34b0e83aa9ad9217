"""Values with a nonce in a second column, or bound to their row, rotated by the commands beside their application."""

import base64
import json
import os
import re
import secrets
import time
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import sql

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.test_aes_gcm import ROWS, Application, Home, killed_before_it_decrypts
from keyrotation_pipeline_tests.acceptance.test_aes_gcm import logins as logins  # noqa: PLC0414
from keyrotation_pipeline_tests.officers import roster_in_toml

TABLE = sql.Identifier("front desk", "Mem bers")
SLOTS = ("ssn %", "e'mail")
Stored = tuple[Any, Any]


def lines(raw: bytes) -> str:
    """As Ruby's [raw].pack("m") writes it."""
    text = base64.b64encode(raw).decode()
    return "".join(f"{text[at : at + 60]}\n" for at in range(0, len(text), 60))


@dataclass(frozen=True)
class RowForm:
    """How the application stores a value: with a nonce of its own column, or without; bound to its row, or not."""

    layout: str
    aad: str = ""
    type_sql: str = "text"
    nonce_bytes: int = 12

    @property
    def has_nonces(self) -> bool:
        return ";" in self.layout

    def data(self, slot: str, row: int) -> bytes | None:
        return f"Mem bers|{slot}|{row}".encode() if self.aad else None

    def seal(self, key: str, slot: str, row: int, text: str) -> Stored:
        nonce = os.urandom(self.nonce_bytes)
        body = AESGCM(bytes.fromhex(key)).encrypt(nonce, text.encode(), self.data(slot, row))
        if not self.has_nonces:
            return base64.b64encode(nonce + body).decode(), None
        return (body, nonce) if self.type_sql == "bytea" else (lines(body), lines(nonce))

    def read(self, keys: list[str], slot: str, row: int, stored: Stored) -> str:
        value, nonce = stored if self.type_sql == "bytea" else [each and base64.b64decode(each) for each in stored]
        if not self.has_nonces:
            value, nonce = value[12:], value[:12]
        for key in keys:
            try:
                return AESGCM(bytes.fromhex(key)).decrypt(nonce, value, self.data(slot, row)).decode()
            except InvalidTag:
                continue
        raise InvalidTag


FORMS = {
    "pair of texts, bound to its row": RowForm("b64lines(ct tag16); b64lines(nonce12)", "{table}|{column}|{Id}"),
    "attr_encrypted": RowForm("b64lines(ct tag16); b64lines(nonce12)"),
    "pair of bytes": RowForm("raw(ct tag16); raw(nonce16)", type_sql="bytea", nonce_bytes=16),
    "bound to its row": RowForm("b64(nonce12 ct tag16)", "{table}|{column}|{Id}"),
}


@dataclass
class Clinic(Application):
    """Two values a row in a partitioned table of another schema."""

    row_form: RowForm = field(kw_only=True)
    texts: dict[tuple[int, str], str] = field(default_factory=dict)

    def create(self, logins: list[str]) -> None:
        columns = [f'"{slot}{iv}" {self.row_form.type_sql}' for slot in SLOTS for iv in ("", "_iv")]
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(
                f"""CREATE SCHEMA "front desk"; CREATE TABLE "front desk"."Mem bers" ("Id" bigint PRIMARY KEY,
                {", ".join(columns)}, plain int DEFAULT 0) PARTITION BY RANGE ("Id");
                CREATE TABLE "front desk".one PARTITION OF "front desk"."Mem bers" FOR VALUES FROM (0) TO (20);
                CREATE TABLE "front desk".two PARTITION OF "front desk"."Mem bers" DEFAULT""".encode()
            )
            self.grant(logins)
            for row in range(ROWS):
                connection.execute(sql.SQL('INSERT INTO {} ("Id") VALUES (%s)').format(TABLE), (row,))
                for slot in SLOTS:
                    self.write(connection, row, slot, self.keys[0], f"{slot} {row} {'x' * row}")

    def grant(self, logins: list[str]) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            for login in map(sql.Identifier, logins):
                connection.execute(sql.SQL('GRANT USAGE ON SCHEMA "front desk" TO {}').format(login))
                rights = "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}"
                connection.execute(sql.SQL(rights).format(TABLE, login))

    def write(self, connection: psycopg.Connection, row: int, slot: str, key: str, text: str) -> None:
        value, nonce = self.row_form.seal(key, slot, row, text)
        pair = [(slot, value), *([(f"{slot}_iv", nonce)] if self.row_form.has_nonces else [])]
        changes = sql.SQL(", ").join(sql.SQL("{} = %s").format(sql.Identifier(name)) for name, _ in pair)
        query = sql.SQL('UPDATE {} SET {} WHERE "Id" = %s').format(TABLE, changes)
        text_of = query.as_string(connection).replace("%", "%%").replace("= %%s", "= %s")
        connection.execute(text_of.encode(), (*(value for _, value in pair), row))
        self.texts[row, slot] = text

    def stored(self, connection: psycopg.Connection) -> dict[tuple[int, str], Stored]:
        names = sql.SQL(", ").join(sql.Identifier(f"{slot}{iv}") for slot in SLOTS for iv in ("", "_iv"))
        rows = connection.execute(sql.SQL('SELECT "Id", {} FROM {}').format(names, TABLE)).fetchall()
        return {
            (row, slot): (pairs[2 * at], pairs[2 * at + 1]) for row, *pairs in rows for at, slot in enumerate(SLOTS)
        }

    def _step(self, connection: psycopg.Connection, row: int, keys: list[str]) -> None:
        for (at, slot), stored in self.stored(connection).items():
            if at == row and self.row_form.read(keys, slot, row, stored) != self.texts[row, slot]:
                self.wrong.append(f"{row} {slot}: another content")
        slot = Random(self.writes).choice(SLOTS)
        self.write(connection, row, slot, keys[0], f"{slot} {row}, write {self.writes}")
        self.writes += 1

    def written_as(self, login: str, key: str, row: int = 1) -> str:
        with self.connected(login) as connection:
            try:
                self.write(connection, row, SLOTS[0], key, "late")
            except psycopg.errors.InsufficientPrivilege as error:
                return str(error)
        return ""

    def read_with(self, key: str) -> dict[Any, str]:
        with psycopg.connect(self.url) as connection:
            return {
                (row, slot): self.row_form.read([key], slot, row, each)
                for (row, slot), each in self.stored(connection).items()
            }


@pytest.fixture
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    logins: list[str],
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    form, old = FORMS[request.param], secrets.token_hex(32)
    monkeypatch.setenv("FIELD_KEYS", old)
    file, officers = tmp_path / "keyrotation.toml", (security_officer, privacy_officer)
    named = roster_in_toml(officers)
    places = [f'{{ column = "{slot}"' + (f', iv = "{slot}_iv" }}' if form.has_nonces else " }") for slot in SLOTS]
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n[approvals]\nrequired = 2\n{named}'
        '[reencryption]\nshards = 1\nduty_cycle = 1.0\n[format]\nname = "aes-gcm"\nkeys = { env = "FIELD_KEYS" }\n'
        f'layout = "{form.layout}"\nkey_encoding = "hex"\n'
        + (f'aad = "{form.aad}"\n' if form.aad else "")
        + f'logins = {{ v1 = "{logins[0]}", v2 = "{logins[1]}" }}\n'
        f'[[tables]]\nname = "front desk.Mem bers"\ncolumns = [{", ".join(places)}]\n'
    )
    delivered = tmp_path / ".keyrotation" / "keys" / "application.env"
    clinic = Clinic(database_url, delivered, logins, [old], logins[0], row_form=form)
    clinic.create(logins)
    place = Home(file, officers, clinic)
    place.typed("init")
    monkeypatch.delenv("FIELD_KEYS")
    return place


@pytest.mark.parametrize(
    "home",
    ["pair of texts, bound to its row", *(pytest.param(each, marks=pytest.mark.extended) for each in list(FORMS)[1:])],
    indirect=True,
)
def test_a_rotation_by_the_commands_beside_the_application(home: Home, logins: list[str]) -> None:
    clinic = home.application
    assert isinstance(clinic, Clinic)
    (old,) = clinic.listed()
    with clinic.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert f"layout {clinic.row_form.layout.replace(';', ', and in a column of its own')}; " in text
        assert (f"bound to associated data {json.dumps(clinic.row_form.aad)}; " in text) is bool(clinic.row_form.aad)
        assert (f"{SLOTS[0]}+{SLOTS[0]}_iv" in text) is clinic.row_form.has_nonces
        home.sign(request)
        home.walk(request)
    assert (clinic.wrong, clinic.writes > 10) == ([], True)
    (new,) = clinic.listed()
    assert clinic.read_with(new) == clinic.texts
    (table,) = home.shown("status")["tables"]
    assert (table["values_by_version"], table["fenced_against"]) == ({"v1": 0, "v2": 2 * ROWS}, ["v1"])
    assert "permission denied" in clinic.written_as(logins[0], old)
    assert clinic.written_as(logins[1], new) == ""


@pytest.mark.extended
@pytest.mark.parametrize("home", FORMS, indirect=True)
def test_a_rollback_and_everything_that_reads_backups(
    home: Home, logins: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clinic, secret = home.application, tmp_path / "officer.sec.asc"
    assert isinstance(clinic, Clinic)
    (old,) = clinic.listed()
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    with clinic.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        assert home.shown("rehearse", request, "--key", str(secret))["findings"] == []
        home.sign(request)
        killed_before_it_decrypts(monkeypatch)
        home.walk(request, stops=True)
        back = home.typed("rollback", request).splitlines()[-1]
        home.sign(back)
        home.walk(back)
    assert (clinic.wrong, clinic.listed(), clinic.read_with(old)) == ([], [old], clinic.texts)
    home.file.write_text(home.file.read_text().replace("v2 =", "v3 ="))
    clinic.grant(logins[1:])  # which the rollback took from it
    with clinic.at_work():
        request = home.typed("request", "--reason", "again").splitlines()[-1]
        home.sign(request)
        home.walk(request)
    (new,) = clinic.listed()
    assert (clinic.wrong, clinic.read_with(new)) == ([], clinic.texts)
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    refused = home.typed("destroy", "v1", "--reason", "old", exits=1)
    (dump,) = re.findall(r"v1 is needed to read (database-[^ ]+\.gpg|database-[^ ;,]+)", refused)
    assert home.shown("backup", dump, "--rekey", "--key", str(secret))["values"] == {"front desk.Mem bers": 2 * ROWS}


@pytest.mark.extended
@pytest.mark.parametrize("home", ["pair of texts, bound to its row", "pair of bytes"], indirect=True)
def test_an_emergency_with_a_comparison_and_a_restored_copy(home: Home, tmp_path: Path) -> None:
    clinic, secret = home.application, tmp_path / "officer.sec.asc"
    assert isinstance(clinic, Clinic)
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    time.sleep(1)  # a discovery is told in whole seconds, and the backup must be from before it
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    incident, request = opened.split()
    home.sign(request)
    home.walk(request)
    (new,) = clinic.listed()
    assert clinic.read_with(new) == clinic.texts
    assert home.shown("incident", "compare", incident, "--key", str(secret))["differences"] == []
    with clinic.connected(clinic.login) as connection:
        clinic.write(connection, 7, SLOTS[1], new, "changed since")
    (found,) = home.shown("incident", "compare", incident, "--key", str(secret))["differences"]
    place = f"{SLOTS[1]}+{SLOTS[1]}_iv" if clinic.row_form.has_nonces else SLOTS[1]
    assert (found["key"], found["column"], found["kind"]) == ('["7"]', place, "changed")
    made = home.shown("backup", "--rekey", "--key", str(secret))
    assert made["values"] == {"front desk.Mem bers": 2 * ROWS}
    (dump,) = (name for name in made["files"] if name.startswith("database-"))
    copy = f"copy_{secrets.token_hex(4)}"
    home.typed("restore-database", "--into", copy, "--from", dump, "--key", str(secret))
    with psycopg.connect(clinic.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(copy)))
    assert "v1" in home.typed("restore-key", "v1", "--key", str(secret))
