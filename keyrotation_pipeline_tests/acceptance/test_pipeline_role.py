"""Every command as the role of deploy/sql/pipeline-role.sql, on a database with most of what PostgreSQL can hold."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.cli.commands import COMMANDS
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed
from keyrotation_pipeline_tests.pages import TOP
from keyrotation_pipeline_tests.random_schemas import generator, objects, tables
from keyrotation_pipeline_tests.random_schemas.databases import features_of
from keyrotation_pipeline_tests.servers import DEBIAN, EMBEDDED_18, Server, discard, start_server

# They make databases of their own, need none, or serve what `status` reads.
WITHOUT_DATABASE = {"demo", "up", "console", "recover", "docs", "exec"}
DENIED = re.compile(r"permission denied|lacks a right|must be owner|must be superuser|42501|SQLSTATE|Traceback")
RICH = (
    objects.default_privileges, objects.extensions, objects.collations, objects.types, objects.sequences,
    tables.ordinary, tables.partitioned, tables.partitioned_by_name, tables.inherited, objects.functions,
    objects.views, tables.policies, tables.triggers, tables.extension_columns, objects.event_triggers,
)  # fmt: skip
CLIENTS = """
CREATE TABLE public.clients (id int, name text, PRIMARY KEY (id)) PARTITION BY HASH (id);
CREATE TABLE public.clients_0 PARTITION OF public.clients FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.clients_1 PARTITION OF public.clients FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE POLICY own ON public.clients USING (id < 3);
ALTER TABLE public.clients ENABLE ROW LEVEL SECURITY; ALTER TABLE public.clients FORCE ROW LEVEL SECURITY;
ALTER TABLE public.clients OWNER TO clinic_owner;
ALTER TABLE public.clients_0 OWNER TO clinic_owner; ALTER TABLE public.clients_1 OWNER TO clinic_owner;
CREATE PUBLICATION everything FOR ALL TABLES; CREATE PUBLICATION clients_only FOR TABLE public.clients;
"""
FOREIGN = """
CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host {}, dbname 'postgres');
CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'postgres', password_required 'false');
CREATE FOREIGN TABLE public.far_away (rolname text) SERVER far
  OPTIONS (schema_name 'pg_catalog', table_name 'pg_roles');
"""
CONFIGURATION = """
rollout.mode = "confirm"
[database]
url = {{ env = "KEYROTATION_DATABASE_URL" }}
[[tables]]
name = "clients"
columns = ["name"]
[approvals]
required = 2
[[approvals.officers]]
name = "Security Officer"
certificate = "{security}"
[[approvals.officers]]
name = "Privacy Officer"
certificate = "{privacy}"
[[approvals.officers]]
name = "Sealed Officer"
certificate = "{sealed}"
[backup]
recipients = ["{recovery}"]
{binaries}
"""


@dataclass(frozen=True)
class Line:
    """What is typed.

    Args:
        words: the command; {names} are of what earlier ones printed.
        exits: its exit code.
        keep: the name under which the first word that it prints is kept.
        signed_by: how many officers sign the text that it prints with --text.
        needs: the oldest server on which the documented role can do it.
    """

    words: str
    exits: int = 0
    keep: str = ""
    signed_by: int = 0
    needs: int = 0


LINES = (
    Line("init"), Line("inventory"), Line("scan"), Line("probe clients name --keys ENCRYPTION_MASTER_KEY"),
    Line("status --count"), Line("metrics"), Line("backup"),
    Line("recovery-test --key recovery.asc"), Line("preflight"), Line("verify"),
    Line("request --reason yearly", keep="first"), Line("approve {first}", signed_by=2),
    Line("rehearse {first} --key recovery.asc"), Line("requests"), Line("pace {first} --rows-per-second 100000"),
    Line("rotate {first}", exits=1), Line("confirm {first}", signed_by=1), Line("rollout"),
    Line("pause {first}"), Line("resume {first}"),
    Line("rotate {first}", exits=1), Line("confirm {first}", signed_by=1),
    Line("rotate {first}", exits=1), Line("confirm {first}", signed_by=1), Line("rotate {first}"),
    Line("history"), Line("rollback {first}", keep="second"), Line("cancel {second}"),
    Line("backup --rekey --key recovery.asc", exits=1), Line("restore-key --survey --key recovery.asc"),
    Line("restore-database --into clinic_copy --key recovery.asc", needs=16),
    Line("policy --reason none", exits=1), Line("reconcile", exits=1), Line("destroy v1 --reason old", exits=1),
    Line("replace-key v1 --reason wrong", exits=1), Line("reseal", exits=1),
    Line("incident open --type insider --description d --discovered-at 2026-01-01", keep="emergency"),
    Line("incident list"), Line("incident show {emergency}"), Line("incident ack {emergency}"),
    Line("incident assess {emergency}"), Line("incident amend {emergency} --scope one"),
    Line("incident access {emergency}"), Line("incident notice {emergency} --to HHS --sent-on 2026-01-02"),
    Line("incident report {emergency}"),
    Line("incident open --type insider --description e --discovered-at now", keep="later"),
    Line("incident compare {later} --key recovery.asc"),
    Line("incident close {emergency}", exits=1), Line("audit verify"), Line("audit log"), Line("audit witness"),
    Line("report --output report.html"),
)  # fmt: skip


@dataclass
class Desk:
    """Where commands are typed as the documented role."""

    server: Server
    folder: Folder
    officers: tuple[DemoOfficer, DemoOfficer]
    key: str
    kept: dict[str, str] = field(default_factory=dict)

    def type(self, words: str, exits: int = 0, text: str | None = None, user: str = "keyrotation") -> str:
        """Run a command: it may be refused where `exits` says so, but never for a missing right."""
        done = self.folder.run(
            *words.format_map(self.kept).split(), text=text, expect=exits, ENCRYPTION_MASTER_KEY=self.key,
            KEYROTATION_DATABASE_URL=self.server.url("clinic", user),
        )  # fmt: skip
        printed = "".join(self.folder.printed[-2:])
        assert not DENIED.search(printed), printed
        return done

    def follow(self, line: Line) -> None:
        if line.signed_by:
            text = self.type(f"{line.words} --text")
            for officer in self.officers[: line.signed_by]:
                self.type(f"{line.words} --signature -", text=officer.sign(text.encode()).decode())
            return
        done = self.type(line.words, line.exits)
        if line.keep:
            self.kept[line.keep] = done.split()[0]


@pytest.fixture(
    params=[
        pytest.param(EMBEDDED_18, id="18"),
        pytest.param(DEBIAN, id="debian", marks=pytest.mark.external_postgres),
    ]
)
def desk(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    sealed_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
) -> Iterator[Desk]:
    if not request.param.exists():
        pytest.skip("Debian's PostgreSQL is not installed")
    server = start_server(request.param)
    try:
        ring = ring_of(1, primary=1)
        fill(server, [(number, sealed(ring, 1, f"name {number}")) for number in range(8)])
        environment = {
            **os.environ, "PGHOST": str(server.directory), "PGUSER": "postgres",
            "LD_LIBRARY_PATH": str(server.binaries.parent / "lib"),
        }  # fmt: skip
        psql = [str(server.binaries / "psql"), "-Xqv", "ON_ERROR_STOP=1", "--dbname=clinic"]
        subprocess.run([*psql, f"--file={TOP / 'deploy/sql/pipeline-role.sql'}"], env=environment, check=True)
        (tmp_path / "keyrotation.toml").write_text(
            CONFIGURATION.format(
                security=security_officer.certificate, privacy=privacy_officer.certificate,
                sealed=sealed_officer.certificate, recovery=recovery_officer.certificate, binaries="",
            )
        )  # fmt: skip
        (tmp_path / "recovery.asc").write_bytes(recovery_officer.gpg("--armor", "--export-secret-keys"))
        key = base64_of(ring.material(ring.primary))
        yield Desk(server, Folder(tmp_path, []), (security_officer, privacy_officer), key)
    finally:
        discard(server)


def fill(server: Server, rows: list[tuple[int, str]]) -> None:
    """The database `clinic`, with encrypted rows among everything else."""
    features = features_of(server.url())
    wanted = generator.generate(4711, features, parts=RICH)
    with psycopg.connect(server.url(), autocommit=True) as admin:
        for statement in ("CREATE ROLE clinic_owner", "CREATE DATABASE clinic OWNER clinic_owner", *wanted.roles):
            admin.execute(statement.encode())
    with psycopg.connect(server.url("clinic"), autocommit=True) as connection:
        for statement in wanted.statements:
            # The settings and owner of the database are another test's.
            if "{database}" not in statement:
                connection.execute(statement.encode())
        connection.execute(CLIENTS.encode())
        if features.contrib:
            connection.execute(FOREIGN.format(f"'{server.directory}'").encode())
        insert(connection, "public.clients", rows)


def commands() -> set[str]:
    """Every command, and every one of a group."""
    found = set()
    for name, each in COMMANDS.items():
        loaded = each.load(name)
        found |= {f"{name} {inner}" for inner in getattr(loaded, "commands", {})} or {name}
    return found


def test_every_command_is_tried() -> None:
    groups = ("audit", "incident")
    words = [line.words.split() for line in LINES]
    tried = {" ".join(typed[: 2 if typed[0] in groups else 1]) for typed in words}
    assert commands() - tried == WITHOUT_DATABASE & commands()


@pytest.mark.extended
def test_every_command_works_with_the_rights_of_the_documented_role(desk: Desk) -> None:
    with psycopg.connect(desk.server.url("clinic")) as connection:
        major = connection.info.server_version // 10_000
    for line in LINES:
        if line.needs <= major:
            desk.follow(line)
        else:
            words = line.words.format_map(desk.kept)
            desk.folder.run(*words.split(), expect=1, KEYROTATION_DATABASE_URL=desk.server.url("clinic", "keyrotation"))
            assert "ALTER ROLE … CREATEDB CREATEROLE" in desk.folder.printed[-1]
            desk.type(words, user="postgres")
    assert json.loads(desk.type("preflight --json"))
