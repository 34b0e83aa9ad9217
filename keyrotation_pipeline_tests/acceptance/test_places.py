"""Tokens in bytea, in documents and in arrays, rotated by the commands while the application changes what is around."""

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from cryptography.fernet import Fernet, MultiFernet
from psycopg.types.json import Jsonb

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.model.visible_text import plain_name
from keyrotation_pipeline_tests.acceptance.test_fernet import ROWS, Application, Home, configuration, finished

NAMES = ["mail", "secret", 'doc.credentials."api.token"', "doc.codes.0", "tags[]"]
COLUMNS = """[
    "mail", "secret",
    { column = "doc", path = ["credentials", "api.token"] },
    { column = "doc", path = ["codes", "0"] },
    { column = "tags", elements = true },
]"""
CREATE = """
CREATE DOMAIN sealed AS bytea;
CREATE TABLE users (id int PRIMARY KEY, mail varchar(300), secret sealed, doc jsonb, tags text[], visits int DEFAULT 0)
"""
READ = "SELECT mail, secret, doc #>> '{credentials,api.token}', doc #>> '{codes,0}', tags[1], tags[3] FROM users"
# One value of a row is written by each; the document and the array keep all else.
WRITE = (
    "UPDATE users SET mail = %s WHERE id = %s",
    "UPDATE users SET secret = convert_to(%s, 'UTF8') WHERE id = %s",
    "UPDATE users SET doc = jsonb_set(doc, '{credentials,api.token}', to_jsonb(%s::text)) WHERE id = %s",
    "UPDATE users SET doc = jsonb_set(doc, '{codes,0}', to_jsonb(%s::text)) WHERE id = %s",
    "UPDATE users SET tags[1] = %s WHERE id = %s",
    "UPDATE users SET tags[3] = %s WHERE id = %s",
)
VISIT = """
UPDATE users SET doc = jsonb_set(doc, '{visits}', to_jsonb((doc->>'visits')::int + 1)), visits = visits + 1
WHERE id = %s
"""


@dataclass
class Users(Application):
    """Six values a row; between two writes of values it changes the rest of a document."""

    texts: dict[int, list[str]] = field(default_factory=dict)
    visits: dict[int, int] = field(default_factory=dict)

    def create(self, tokens: MultiFernet) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(CREATE)
            for row in range(ROWS):
                self.texts[row], self.visits[row] = [f"{slot} of {row}" for slot in range(len(WRITE))], 0
                mail, secret, api, code, first, third = (tokens.encrypt(each.encode()) for each in self.texts[row])
                document = {
                    "credentials": {"api.token": api.decode(), "x": [1.50]},
                    "codes": [code.decode()],
                    "visits": 0,
                }
                values = (mail.decode(), secret, Jsonb(document), [first.decode(), None, third.decode()])
                connection.execute("INSERT INTO users VALUES (%s, %s, %s, %s, %s)", (row, *values))

    def _step(self, connection: psycopg.Connection, row: int) -> None:
        keys, slot = self.keys, self.writes % len(WRITE)
        found = connection.execute(f"{READ} WHERE id = {row}".encode()).fetchone()
        if found is None or [keys.decrypt(value).decode() for value in found] != self.texts[row]:
            self.wrong.append(f"{row}: another content")
            return
        self.writes += 1
        connection.execute(VISIT, (row,))
        self.visits[row] += 1
        self.texts[row][slot] = f"{slot} of {row}, write {self.writes}"
        connection.execute(WRITE[slot], (keys.encrypt(self.texts[row][slot].encode()).decode(), row))

    def is_complete_under(self, key: str) -> None:
        with psycopg.connect(self.url) as connection:
            rows = connection.execute(READ.replace("FROM", ", id, doc, tags, visits FROM")).fetchall()
        assert self.wrong == []
        assert len(rows) == ROWS
        for *values, row, document, tags, visits in rows:
            assert [Fernet(key).decrypt(value).decode() for value in values] == self.texts[row]
            assert document["credentials"]["x"] == [1.50]
            assert (document["visits"], visits, tags[1], len(tags)) == (self.visits[row], self.visits[row], None, 3)


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    old = Fernet.generate_key().decode()
    monkeypatch.setenv("FIELD_KEYS", old)
    officers, file = (security_officer, privacy_officer), tmp_path / "keyrotation.toml"
    file.write_text(configuration(database_url, officers, 'name = "fernet"', COLUMNS))
    keys = MultiFernet([Fernet(old)])
    delivered = tmp_path / ".keyrotation" / "keys" / "application.env"
    application = Users(database_url, lambda: delivered.read_text().strip().removeprefix("FIELD_KEYS="), keys)
    application.create(keys)
    place = Home(file, officers, application, [old])
    place.typed("init")
    monkeypatch.delenv("FIELD_KEYS")
    return place


def users(home: Home) -> Users:
    assert isinstance(home.application, Users)
    return home.application


def test_every_place_is_signed_counted_rotated_and_fenced_by_its_name(home: Home) -> None:
    application = users(home)
    (old,) = application.listed()
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert f"\nColumns: {', '.join(plain_name(f'users.{name}') for name in NAMES)}\n" in text
        home.sign(request)
        home.walk(request)
    (new,) = application.listed()
    assert application.writes > 10
    application.is_complete_under(new)
    (table,) = home.shown("status")["tables"]
    assert table["columns"] == NAMES
    assert (table["values_by_version"], table["fenced_against"]) == ({"v1": 0, "v2": 6 * ROWS}, ["v1"])
    verified = home.shown("verify")
    assert verified["failures"] == 0
    assert [each["values"] for each in verified["tables"]] == [6 * ROWS]
    assert home.shown("inventory")["undeclared"] == []
    with psycopg.connect(application.url, autocommit=True) as connection:
        for write in WRITE:
            with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="key version v1 is retired"):
                connection.execute(write, (Fernet(old).encrypt(b"late").decode(), 1))
        connection.execute(
            "UPDATE users SET doc = jsonb_set(doc, '{copy}', to_jsonb(%s::text)) WHERE id = 2",
            (Fernet(old).encrypt(b"a copy").decode(),),
        )
    (found,) = home.shown("inventory")["undeclared"]
    assert (found["relation"], found["column"], found["values"]) == ("users", "doc", 1)


@pytest.mark.extended
def test_a_rollback_a_recovery_test_and_a_pack(home: Home, tmp_path: Path) -> None:
    application, secret = users(home), tmp_path / "officer.sec.asc"
    (old,) = application.listed()
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    with application.at_work():
        request = finished(home, "request", "--reason", "yearly")
        home.typed("backup")
        finished(home, "rollback", request)
    application.is_complete_under(old)
    tested = home.shown("recovery-test", "--key", str(secret))
    assert tested["passed"] is True
    pack = tmp_path / "pack"
    home.typed("report", "--format", "pack", "--output", str(pack))
    done = subprocess.run([sys.executable, "-I", str(pack / "verify.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tags[]" in json.dumps([path.read_text() for path in pack.rglob("*.json")])


def test_one_element_that_no_key_opens_is_named_and_stops_the_proof(home: Home) -> None:
    application = users(home)
    request = home.typed("request", "--reason", "yearly").splitlines()[-1]
    home.sign(request)
    with psycopg.connect(application.url, autocommit=True) as connection:
        stranger = Fernet(Fernet.generate_key()).encrypt(b"x").decode()
        connection.execute("UPDATE users SET tags[3] = %s WHERE id = 5", (stranger,))
        connection.execute("UPDATE users SET doc = jsonb_set(doc, '{codes,0}', '17') WHERE id = 6")
    refused = home.walk(request, stops=True)[-1]
    assert "table users, column doc.codes.0: 1 unencrypted value" in refused
    with psycopg.connect(application.url, autocommit=True) as connection:
        assert connection.execute("SELECT doc #> '{codes,0}' FROM users WHERE id = 6").fetchone() == (17,)
        fixed = application.keys.encrypt(application.texts[6][3].encode()).decode()
        connection.execute(WRITE[3], (fixed, 6))
    refused = home.walk(request, stops=True)[-1]
    assert "table users, column tags[3]: 1 value (damaged, under a key that is not in" in refused
    with psycopg.connect(application.url, autocommit=True) as connection:
        fixed = application.keys.encrypt(application.texts[5][5].encode()).decode()
        connection.execute(WRITE[5], (fixed, 5))
    home.walk(request)
    application.is_complete_under(application.listed()[0])
