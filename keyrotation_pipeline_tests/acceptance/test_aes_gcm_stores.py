"""A hand-written AES-GCM application whose list of keys is in AWS; and its old backups after its key has leaked."""

import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding, by_commas
from keyrotation_pipeline_tests.acceptance.test_aes_gcm import (
    ROWS,
    Application,
    Home,
    home,  # noqa: F401 - fixtures
    logins,  # noqa: F401
    read,
    seal,
)
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.key_places import AwsPlace
from keyrotation_pipeline_tests.officers import roster_in_toml

pytestmark = pytest.mark.extended
VARIABLE = "FIELD_KEYS"


@dataclass
class InAws(Application):
    secret: TestSecret = field(kw_only=True)

    def listed(self) -> list[str]:
        return (self.secret.listed() or "").split(",")


@pytest.fixture
def in_aws(
    new_secret: Callable[[], TestSecret],
    tmp_path: Path,
    database_url: str,
    logins: list[str],  # noqa: F811
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
) -> Home:
    made, old = new_secret(), secrets.token_hex(32)
    secret = TestSecret(made.name, made.url, made.client, VARIABLE, by_commas(KeyEncoding.HEX))
    secret.overwrite(json.dumps({VARIABLE: old}))
    officers, file = (security_officer, privacy_officer), tmp_path / "keyrotation.toml"
    named = roster_in_toml(officers)
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n[approvals]\nrequired = 2\n{named}'
        '[reencryption]\nshards = 1\nduty_cycle = 1.0\n[format]\nname = "aes-gcm"\nkeys = { env = "FIELD_KEYS" }\n'
        'layout = "hex(nonce12):hex(tag16):hex(ct)"\nkey_encoding = "hex"\n'
        f'logins = {{ v1 = "{logins[0]}", v2 = "{logins[1]}" }}\n{AwsPlace(secret).configuration()}'
        '[[tables]]\nname = "members"\ncolumns = ["email"]\n'
    )
    application = InAws(database_url, tmp_path, logins, [old], logins[0], secret=secret)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE members (id int PRIMARY KEY, email text)")
        for login in logins:
            connection.execute(
                sql.SQL("GRANT SELECT, INSERT, UPDATE, DELETE ON members TO {}").format(sql.Identifier(login))
            )
        for row in range(ROWS):
            application.expected[row] = f"user{row}@example.com"
            connection.execute("INSERT INTO members VALUES (%s, %s)", (row, seal(old, application.expected[row])))
    place = Home(file, officers, application)
    place.typed("init")
    return place


def test_a_rotation_with_the_list_in_aws(in_aws: Home) -> None:
    application = in_aws.application
    with application.at_work():
        request = in_aws.typed("request", "--reason", "yearly").splitlines()[-1]
        in_aws.sign(request)
        in_aws.walk(request)
    (new,) = application.listed()
    assert (application.wrong, application.writes > 10) == ([], True)
    assert application.read_with(new) == application.expected


def test_an_old_backup_is_rekeyed(home: Home, tmp_path: Path) -> None:  # noqa: F811
    application, secret = home.application, tmp_path / "officer.sec.asc"
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    time.sleep(1)  # a discovery is told in whole seconds, and the backup must be from before it
    opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
    incident, request = opened.split()
    home.sign(request)
    home.walk(request)
    (new,) = application.listed()
    assert home.shown("incident", "compare", incident, "--key", str(secret))["differences"] == []
    made = home.shown("backup", "--rekey", "--key", str(secret))
    assert made["values"] == {"members": ROWS}
    (dump,) = (name for name in made["files"] if name.startswith("database-"))
    copy = f"copy_{uuid4().hex}"  # its server is that of other tests, too
    home.typed("restore-database", "--into", copy, "--from", dump, "--key", str(secret))
    with psycopg.connect(application.url, dbname=copy, autocommit=True) as connection:
        rows = connection.execute("SELECT id, email FROM members").fetchall()
    with psycopg.connect(application.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(copy)))  # which has grants to the logins
    assert {row: read([new], email) for row, email in rows} == application.expected
