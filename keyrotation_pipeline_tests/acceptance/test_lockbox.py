"""A Rails application with the real Lockbox, rotated by what its guide prints, while it writes and restarts."""

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.fernet_applications import Project
from keyrotation_pipeline_tests.acceptance.marked_applications import RUBY_LOOP, lines, runs
from keyrotation_pipeline_tests.acceptance.test_aes_gcm import logins as logins  # noqa: PLC0414
from keyrotation_pipeline_tests.acceptance.test_fernet_applications import Clinic
from keyrotation_pipeline_tests.acceptance.test_fernet_applications import officers as officers  # noqa: PLC0414
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.pages import report_of

VARIABLE = "LOCKBOX_MASTER_KEY"
HAS_LOCKBOX = runs("ruby", "-e", 'require "active_record"; require "pg"; require "lockbox"')
HAS_BLIND_INDEX = runs("ruby", "-e", 'require "active_record"; require "lockbox"; require "blind_index"')
NO_LOCKBOX = "lockbox is not here: apt-get install ruby-lockbox ruby-activerecord ruby-pg"
_PROGRAM = """
require "active_record"
require "pg"
require "json"
require "lockbox"
# Lockbox 1.3, which Debian has, asks for what ActiveRecord has no more since 7.2; Lockbox 1.4 does not.
unless ActiveRecord::Base.respond_to?(:attributes_to_define_after_schema_loads)
  ActiveRecord::Base.define_singleton_method(:attributes_to_define_after_schema_loads) { {} }
end
given = PG::Connection.conninfo_parse(ENV.fetch("URL")).to_h { |each| [each[:keyword], each[:val]] }
ActiveRecord::Base.establish_connection({
  adapter: "postgresql", host: given["host"], port: given["port"], database: given["dbname"],
  username: given["user"], password: given["password"]
}.compact)
GUIDE
class Client < ActiveRecord::Base
  self.table_name = "front desk.clients"
  MODEL
end
def read(row, text = nil)
  client = Client.uncached { FOUND }
  return "another row" if client.id != row
  client.name == client.note ? client.name : [client.name, client.note]
end
def write(row, text)
  Client.find_or_initialize_by(id: row).update!(name: text, note: text)
end
"""


BINDINGS = 'bindings = { name_ciphertext = "patients.name_ciphertext", note_ciphertext = "patients.note_ciphertext" }\n'


@dataclass(frozen=True)
class Form:
    """How a model stores its values.

    Args:
        model: its lines.
        options: of `[format]`.
        declared: of `[[tables]]`.
        found: how a row is read, or what is found by its text.
    """

    model: str
    options: str = ""
    type_sql: LiteralString = "text"
    declared: str = ""
    found: str = "Client.find(row)"


FORMS = {
    "base64": Form("has_encrypted :name, :note"),
    "bytes, bound to their row, under another name": Form(
        lines("ruby", "lockbox-options") + lines("ruby", "lockbox-options").replace(":note", ":name"),
        'layout = "raw(nonce12 ct tag16)"\naad = "client {id}"\n',
        "bytea",
        BINDINGS,
    ),
    "with blind_index": Form(
        f"has_encrypted :name, :note\n{lines('ruby', 'lockbox-index-model')}",
        declared='indexes = [{ of = "name_ciphertext", odd = "name_bidx", even = "name_bidx_v2" }]\n',
        found="text ? Client.with_name(text).sole : Client.find(row)",
    ),
}


@dataclass
class ProjectWithLogins(Project):
    """The program, with a login of its own for each key that it encrypts with."""

    logins: list[str] = field(default_factory=list)
    known: list[str] = field(default_factory=list)

    def environment(self, keys: list[str], **more: str) -> dict[str, str]:
        if keys[0] not in self.known:
            self.known.append(keys[0])
        login = self.logins[self.known.index(keys[0])]
        return {**super().environment(keys, **more), "URL": make_conninfo(self.url, user=login)}


@pytest.fixture
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    logins: list[str],
    officers: tuple[DemoOfficer, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> Clinic:
    form, old = FORMS[request.param], "7a" * 32
    before = lines("ruby", "lockbox-keys")
    if "blind_index" in form.model:
        before = f'require "blind_index"\n{before}{lines("ruby", "lockbox-index")}'
    program = report_of("rails.rb") + _PROGRAM.replace("GUIDE", before).replace("MODEL", form.model)
    program = program.replace("FOUND", form.found)
    (tmp_path / "program.rb").write_text(
        program + RUBY_LOOP.replace("keep_reporting(KEYS)", lines("ruby", "lockbox-report").strip())
    )
    rows = {row: f"row {row}" for row in range(1, 41)}
    application = ProjectWithLogins(
        tmp_path, database_url, VARIABLE, rows, command=("ruby", "program.rb"), logins=logins
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f'CREATE SCHEMA "front desk"; CREATE TABLE "front desk".clients (id int PRIMARY KEY, '
            f"name_ciphertext {form.type_sql}, note_ciphertext {form.type_sql}, name_bidx text UNIQUE, "
            "name_bidx_v2 text UNIQUE)"
        )
        for login in logins:
            connection.execute(f'GRANT USAGE ON SCHEMA "front desk" TO {login}'.encode())
            connection.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "front desk".clients TO {login}'.encode())
    application.seed([old])
    file = tmp_path / "keyrotation.toml"
    named = roster_in_toml(officers)
    file.write_text(
        f'database.url = "{database_url}"\nrollout = {{ mode = "attest", timeout_seconds = 1 }}\n'
        f"[approvals]\nrequired = 2\n{named}[reencryption]\nshards = 1\nduty_cycle = 1.0\n"
        f'[format]\nname = "lockbox"\nkeys = {{ env = "{VARIABLE}" }}\n{form.options}'
        f'logins = {{ v1 = "{logins[0]}", v2 = "{logins[1]}" }}\n'
        '[[tables]]\nname = "front desk.clients"\ncolumns = ["name_ciphertext", "note_ciphertext"]\n' + form.declared
    )
    place = Clinic(file, officers, application)
    monkeypatch.setenv(VARIABLE, old)
    place.typed("init")
    monkeypatch.delenv(VARIABLE)
    rights = (Path(__file__).parents[2] / "deploy" / "sql" / "application-role.sql").read_text()
    with psycopg.connect(database_url, autocommit=True) as connection:
        for login in logins:
            connection.execute(rights.replace("pazpaz", login).encode())
    return place


@pytest.mark.extended
@pytest.mark.skipif(
    not HAS_LOCKBOX, reason="lockbox is not here: apt-get install ruby-lockbox ruby-activerecord ruby-pg"
)
@pytest.mark.parametrize(
    "home",
    [
        *list(FORMS)[:2],
        pytest.param(
            "with blind_index", marks=pytest.mark.skipif(not HAS_BLIND_INDEX, reason="blind_index is not here")
        ),
    ],
    indirect=True,
)
def test_an_application_is_rotated_and_rolled_back_while_it_writes(home: Clinic) -> None:
    application = home.application
    (old,) = application.listed()
    with application.at_work():
        request = home.typed("request", "--reason", "yearly").splitlines()[-1]
        text = home.typed("approve", request, "--text")
        assert "aes-gcm, keys derived by lockbox for each column, identified by decrypting each value" in text
        of_patients = "front desk.clients.note_ciphertext is bound as patients.note_ciphertext"
        assert (of_patients in text) is ("bound to associated data" in text)
        home.sign(request)
        home.walk(request)
        (new,) = application.listed()
        (table,) = home.shown("status")["tables"]
        assert (table["values_by_version"]["v1"], table["fenced_against"]) == (0, ["v1"])
        home.finished("rollback", request)
    assert (application.wrong, application.writes > 20) == ([], True)
    assert (application.listed(), len(new)) == ([old], len(old))
    application.require_read([old])
    with psycopg.connect(application.url) as connection:
        indexed = connection.execute(
            'SELECT count(name_bidx), count(name_bidx_v2) FROM "front desk".clients'
        ).fetchone()
        assert indexed == ((40, 0) if "indexes" in home.file.read_text() else (0, 0))
    (table,) = home.shown("status")["tables"]
    assert (table["identified_by"], table["fenced_against"]) == ("decrypt", ["v2"])
    assert (table["values_by_version"], table["unreadable"]) == ({"v1": 80, "v2": 0}, 0)


@pytest.mark.extended
@pytest.mark.skipif(not HAS_LOCKBOX, reason=NO_LOCKBOX)
@pytest.mark.parametrize("home", list(FORMS)[1:2], indirect=True)
def test_a_leaked_master_key_is_replaced_in_rows_and_backups(home: Clinic, tmp_path: Path) -> None:
    application, secret = home.application, tmp_path / "officer.sec.asc"
    (old,) = application.listed()
    secret.write_bytes(home.officers[0].gpg("--armor", "--export-secret-keys"))
    home.typed("backup")
    time.sleep(1)  # a discovery is in whole seconds, and the backup must be from before it
    with application.at_work():
        opened = home.typed("incident", "open", "--type", "key_exposed", "--description", "d", "--discovered-at", "now")
        _, request = opened.split()
        home.sign(request)
        home.walk(request)
    (new,) = application.listed()
    assert (application.wrong, application.writes > 20, new != old) == ([], True, True)
    application.require_read([new])
    home.typed("backup")
    assert home.shown("recovery-test", "--key", str(secret))["passed"] is True
    refused = home.typed("destroy", "v1", "--reason", "leaked", exits=1)
    (dump,) = re.findall(r"v1 is needed to read (database-[^ ]+\.gpg|database-[^ ;,]+)", refused)
    assert home.shown("backup", dump, "--rekey", "--key", str(secret))["values"] == {"front desk.clients": 80}
