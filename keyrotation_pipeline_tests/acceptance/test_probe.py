"""`probe` says in which format a key opens a column's values, with nothing configured."""

import base64
import hashlib
import os
import secrets
from pathlib import Path

import psycopg
import pytest
from click.testing import Result
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from typer.testing import CliRunner

from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto.codecs.derived_keys import place_ring
from keyrotation_pipeline.fieldcrypto.formats.aes_gcm import FOR_EACH_COLUMN
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.marked_libraries import CLOAK_ECTO

KEY, MASTER, SECRET = secrets.token_hex(16), secrets.token_hex(32), secrets.token_urlsafe(24)
V1 = KeyVersion(1)


@pytest.fixture
def url(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    label = CLOAK_ECTO.generate()
    monkeypatch.setenv("APP_KEYS", f"{secrets.token_hex(32)},{KEY}")
    monkeypatch.setenv("CLOAK_KEYS", label)
    monkeypatch.setenv("LOCKBOX_MASTER_KEY", MASTER)
    monkeypatch.setenv("APP_SECRET", SECRET)
    monkeypatch.chdir(tmp_path)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            'CREATE SCHEMA "My app"; '
            'CREATE TABLE "My app"."No%tes" (b bytea, c bytea, d jsonb, e text, f bytea, g text)'
        )
        master = KeyRing({V1: KeyMaterial(bytes.fromhex(MASTER))}, V1)
        of_column = place_ring(FOR_EACH_COLUMN, master, "My app.No%tes.f").cipher(V1)
        of_secret = AESGCM(hashlib.sha256(SECRET.encode()).digest())
        for number in range(30):
            nonce, text = os.urandom(12), f"text {number}".encode()
            body = AESGCM(bytes.fromhex(KEY)).encrypt(nonce, text, None)
            value = nonce + body[-16:] + body[:-16] if number < 25 else b"plain"
            document = f'{{"a": {{"b": "{nonce.hex()}:{body.hex()}"}}}}'
            lockbox = nonce + of_column.encrypt(nonce, text, None)
            sealed = of_secret.encrypt(nonce, text, None)
            derived = base64.b64encode(nonce + sealed[-16:] + sealed[:-16]).decode()
            row = (value, CLOAK_ECTO.alone(label).encrypt(text), document, "plain", lockbox, derived)
            connection.execute('INSERT INTO "My app"."No%%tes" VALUES (%s, %s, %s, %s, %s, %s)', row)
    return database_url


def typed(url: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["probe", "My app.No%tes", *arguments, "--url", url])


def test_it_names_layout_and_encoding_and_how_many_values_they_open(url: str) -> None:
    shown = documented("probe", typed(url, "b", "--keys", "APP_KEYS", "--json").stdout)
    assert shown["fits"] == [
        {
            "format": "aes-gcm",
            "layout": "raw(nonce12 tag16 ct)",
            "key_encoding": "hex",
            "opened": 25,
            "derivation": "",
        }
    ]
    assert (shown["place"], shown["values"]) == ("My app.No%tes.b", 30)
    lines = typed(url, "d", "--path", "a", "--path", "b", "--keys", "APP_KEYS").stdout
    assert '[format] name = "aes-gcm", key_encoding = "hex", layout = "hex(nonce12):hex(ct tag16)"' in lines
    assert "30 of 30" in lines
    assert '[format] name = "cloak-ecto"' in typed(url, "c", "--keys", "CLOAK_KEYS").stdout
    lines = typed(url, "f", "--keys", "LOCKBOX_MASTER_KEY").stdout
    assert '[format] name = "lockbox", layout = "raw(nonce12 ct tag16)"\n' in lines
    lines = typed(url, "g", "--keys", "APP_SECRET").stdout
    assert '[format] name = "aes-gcm", derivation = "sha256", layout = "b64(nonce12 tag16 ct)"\n' in lines


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("e", "--keys", "APP_KEYS"), "none of 30 values of My app.No%tes.e opens with the keys in APP_KEYS"),
        (("c", "--keys", "APP_KEYS"), "none of 30 values of My app.No%tes.c opens with the keys in APP_KEYS"),
        (("b", "--keys", "NOT_SET"), "the variable that --keys names is not set"),
        (("b", "--keys", KEY), "the variable that --keys names is not set"),
        (("b", "--keys", "HOME"), "HOME holds no known keys"),
        (("x", "--keys", "APP_KEYS"), "column x is not in table My app.No%tes; type its name as the database has it"),
        (("d", "--keys", "APP_KEYS"), "is of type jsonb"),
    ],
)
def test_what_opens_nothing_or_cannot_be_read_is_one_sentence(url: str, arguments: tuple[str, ...], said: str) -> None:
    refused = typed(url, *arguments).exception
    assert isinstance(refused, KeyRotationError)
    assert said in str(refused)
    assert KEY not in str(refused)


def test_it_writes_nothing_and_prints_no_value_and_no_key(url: str) -> None:
    with psycopg.connect(url) as connection:
        before = connection.execute('SELECT * FROM "My app"."No%tes"').fetchall()
    shown = typed(url, "b", "--keys", "APP_KEYS").stdout + typed(url, "b", "--keys", "APP_KEYS", "--json").stdout
    assert KEY not in shown
    assert "text 1" not in shown
    assert before[0][0].hex() not in shown
    with psycopg.connect(url) as connection:
        assert connection.execute('SELECT * FROM "My app"."No%tes"').fetchall() == before
        assert connection.execute("SELECT count(*) FROM pg_namespace WHERE nspname = 'keyrotation'").fetchone() == (0,)
