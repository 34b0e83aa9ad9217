"""The command, as a newcomer types it: from an empty folder with an encrypted database to a proven rotation."""

import json
import os
import re
import stat
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.reads import Defect, DefectKind
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment, imports
from keyrotation_pipeline_tests.applications import reporting
from keyrotation_pipeline_tests.integration.encrypted_rows import sealed
from keyrotation_pipeline_tests.officers import make_officer, revoke
from keyrotation_pipeline_tests.servers import Server

V1 = KeyVersion(1)
THROUGH: tuple[tuple[str, list[str], list[str]], ...] = (
    ("key_version", ["key_version"], []),
    ("primary_key_rollout", ["key_version"], ["dual_key_rollout", "primary_key_rollout"]),
)
ROWS = 300
MORE_TABLES = 2
GPG_STARTS = 50  # some 20 of them by the backup that follows
SECURITY_ADDRESS = "security-officer@clinic.invalid"
STATUS_KEYS = {
    "schema", "generated_at", "database", "key_versions", "primary", "tables", "rotation", "last_backup",
    "last_recovery_test", "incidents_open", "audit", "next_rotation_due",
}  # fmt: skip
ROTATION_KEYS = {
    "id", "type", "phase", "from", "to", "approvals", "approvals_required", "started_at", "progress", "eta_seconds",
    "waiting_for", "blocked_by",
}  # fmt: skip
# What takes long to import, and how rows are rewritten, backups restored and requests carried out.
SLOW = {"alembic", "boto3", "dagster", "jinja2", "kubernetes", "requests", "rich", "sqlalchemy"}


@dataclass
class Clinic:
    """A folder with an encrypted database, its officers and its key. What a test is not about is done in-process."""

    folder: Folder
    officers: tuple[DemoOfficer, DemoOfficer]
    key: KeyMaterial
    database_url: str
    applications: ExitStack = field(default_factory=ExitStack)

    @property
    def path(self) -> Path:
        return self.folder.path / "keyrotation.toml"

    def run(self, *arguments: str, text: str | None = None, expect: int = 0) -> str:
        return self.folder.run(*arguments, text=text, expect=expect)

    def status(self, *options: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.run("status", "--json", *options))
        return content

    def execute(self, statement: str, *parameters: object) -> None:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            connection.execute(statement, parameters)

    @property
    def error(self) -> str:
        """What the last command wrote to stderr."""
        return self.folder.printed[-1]

    @property
    def roster(self) -> str:
        return "".join(
            f'[[approvals.officers]]\nname = "{officer.name}"\ncertificate = "{officer.certificate}"\n'
            for officer in self.officers
        )

    def initialise(self) -> None:
        tables = """
            [[tables]]
            name = "clients"
            columns = ["first_name", "email"]
            [[tables]]
            name = "billing.Invoices"
            columns = ["memo"]
        """
        self.path.write_text(f'database.url = "{self.database_url}"\n{tables}\n{self.roster}')
        declared = settings.load(self.path)
        initialise(declared, KeyRing({V1: self.key}, V1), actor="test")
        with open_pipeline(declared, actor="test") as pipeline:
            pipeline.ledger.save_counts(pipeline.inventory.count(pipeline.tables))
        self.applications.enter_context(reporting(self.database_url, declared.keys_directory))

    def approved_request(self, *officers: DemoOfficer) -> str:
        """A request that these officers have signed."""
        with open_pipeline(settings.load(self.path), actor="test") as pipeline:
            opened = open_request(pipeline, reason="yearly rotation", requested_by="test")
            for officer in officers:
                add_approval(pipeline, opened, officer.sign(pipeline.ledger.approval_text(opened.id)))
        return opened.id

    def at_once(self, *commands: tuple[str, ...]) -> list[int]:
        """Run commands at the same time; their exit codes. What they print is kept."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(self._code, commands))

    def _code(self, command: tuple[str, ...]) -> int:
        done = subprocess.run(
            [KEYROTATION, *command],
            cwd=self.folder.path,
            env=environment(),
            check=False,
            capture_output=True,
            text=True,
        )
        assert "Traceback" not in done.stderr
        self.folder.printed.extend([done.stdout, done.stderr])
        return done.returncode

    def walk(self, request: str, through: Step | None = None) -> None:
        with open_pipeline(settings.load(self.path), actor="test") as pipeline:
            for _ in runner.run(pipeline, request, lambda _progress: None, through):
                pass


def fill(url: str, key: KeyMaterial) -> None:
    """Two tables with values under v1, some of them in a partition, and JSON that no table can declare."""
    ring = KeyRing({V1: key}, V1)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text, email text)")
        connection.execute("CREATE SCHEMA billing")
        connection.execute('CREATE TABLE billing."Invoices" (id int, memo varchar(400)) PARTITION BY RANGE (id)')
        connection.execute('CREATE TABLE billing.early PARTITION OF billing."Invoices" FOR VALUES FROM (0) TO (100000)')
        with connection.cursor() as cursor:
            with cursor.copy("COPY clients FROM STDIN") as copy:
                for row in range(ROWS):
                    copy.write_row((row, encrypt(ring, f"name {row}"), encrypt(ring, "e") if row % 3 else None))
            with cursor.copy('COPY billing."Invoices" FROM STDIN') as copy:
                for row in range(ROWS):
                    copy.write_row((row, encrypt(ring, f"memo {row}")))


@pytest.fixture(scope="session")
def officers(security_officer: DemoOfficer, privacy_officer: DemoOfficer) -> tuple[DemoOfficer, DemoOfficer]:
    return security_officer, privacy_officer


@pytest.fixture
def clinic(tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, DemoOfficer]) -> Iterator[Clinic]:
    """A clinic with a database of its own, encrypted under v1; once it is initialised, an application reports."""
    key = KeyMaterial.generate()
    fill(database_url, key)
    with ExitStack() as applications:
        yield Clinic(Folder(tmp_path, []), officers, key, database_url, applications)


def test_a_newcomer_gets_from_an_empty_folder_to_a_proven_rotation_by_what_is_printed(
    tmp_path: Path, officers: tuple[DemoOfficer, DemoOfficer]
) -> None:
    home = tmp_path / ".keyrotation"
    home.mkdir(mode=0o700)
    with EmbeddedServer(home / "postgres") as server:
        clinic = Clinic(Folder(tmp_path, []), officers, KeyMaterial.generate(), server.url())
        fill(clinic.database_url, clinic.key)
        assert "fill in [approvals]" in clinic.run("init")
        with clinic.path.open("a") as file:
            file.write(clinic.roster)
        clinic.folder.run("init", ENCRYPTION_MASTER_KEY=base64_of(clinic.key))
        request = clinic.run("request", "--reason", "yearly rotation")
        assert request == f"{request.strip()}\n", "the id stands alone"
        request = request.strip()
        text = clinic.run("approve", request, "--text")
        assert "Not searched: other databases of the server; values that are compressed" in text
        for officer in officers:
            armored = officer.sign(text.encode(), "--armor").decode()
            clinic.run("approve", request, "--signature", "-", text=armored)
        with reporting(clinic.database_url, home / "keys"):
            reported = clinic.run("rotate", request)
            assert "finished: nothing is left under v1 where it was searched" in reported
            assert "6 places were not searched, 5 kinds of copies not seen" in reported
            again = clinic.run("rotate", request[:6], "--verbose")
            assert "finished" in again, "again is no harm"
            assert "not searched: other databases of the server (" in again
            assert "not seen: standbys behind standbys" in again
        with psycopg.connect(clinic.database_url) as connection:
            (row,) = connection.execute(
                "SELECT old_key_version, new_key_version, rotation_type, initiated_by, notes"
                " FROM keyrotation.key_rotation_audit WHERE completion_date IS NOT NULL"
            )
        assert row == ("v1", "v2", "routine", f"Security Officer <{SECURITY_ADDRESS}>", "yearly rotation")
        clinic.run("status", "--exit-code")
        clinic.run("verify")
        clinic.run("audit", "verify")
        said = [output for output in clinic.folder.printed if output.startswith("clinic@localhost")]
        assert len(said) >= 8
    assert base64_of(clinic.key) not in "".join(clinic.folder.printed)


def test_init_writes_a_configuration_that_names_what_is_encrypted_and_then_says_what_to_fill_in(clinic: Clinic) -> None:
    clinic.folder.run("init", KEYROTATION_DATABASE_URL=clinic.database_url)
    written = tomllib.loads(clinic.path.read_text())
    assert written["tables"] == [
        {"name": "billing.Invoices", "columns": ["memo"]},
        {"name": "clients", "columns": ["first_name", "email"]},
    ]
    assert written["database"] == {"url": {"env": "KEYROTATION_DATABASE_URL"}}
    clinic.folder.run("init", expect=1, KEYROTATION_DATABASE_URL=clinic.database_url)
    assert "names no officers yet" in clinic.error


def test_init_again_changes_nothing_and_a_different_key_is_refused(clinic: Clinic) -> None:
    clinic.initialise()
    home = clinic.folder.path / ".keyrotation"
    seen = json.loads(clinic.run("preflight", "--json", expect=1))
    red = [check["name"] for check in seen["checks"] if check["light"] == "red"]
    assert (seen["ready"], red) == (False, ["more_officers_than_required"])
    assert {tuple(check) for check in seen["checks"]} == {("name", "light", "value", "do")}
    before = (clinic.path.read_text(), clinic.status()["audit"])

    printed = clinic.run("init")
    tables = clinic.status()["tables"]
    assert tables
    for table in tables:
        assert f"counted {table['counted_at'][:16].replace('T', ' ')} UTC" in printed
    other = base64_of(KeyMaterial.generate())
    clinic.folder.run("init", expect=1, ENCRYPTION_MASTER_KEY=other)

    assert "the key given for v1 is not the one registered" in clinic.error
    assert other not in "".join(clinic.folder.printed)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert (home / "keys" / "v1.key").read_text().strip() == base64_of(clinic.key)
    assert (clinic.path.read_text(), clinic.status()["audit"]) == before


def test_status_is_the_contracts_object_before_during_and_after(clinic: Clinic) -> None:
    clinic.initialise()
    before = clinic.status()
    assert set(before) == STATUS_KEYS | {
        "attention", "backup_signer", "contacts", "incidents", "last_backup_versions", "last_rehearsal",
        "recovery_test_failed", "requests", "warnings",
    }  # fmt: skip
    assert (before["schema"], before["primary"], before["rotation"]) == (1, "v1", None)
    assert {table["table"]: table["values_by_version"] for table in before["tables"]} == {
        "billing.Invoices": {"v1": ROWS},
        "clients": {"v1": ROWS + ROWS * 2 // 3},
    }

    request = clinic.approved_request(*clinic.officers)
    clinic.run("rotate", request, "--through", "primary_key_rollout")
    during = clinic.status()["rotation"]
    assert set(during) == ROTATION_KEYS
    assert (during["id"], during["phase"], during["from"], during["to"]) == (request, "rows", "v1", "v2")
    assert (during["approvals"], during["approvals_required"], during["waiting_for"]) == (2, 2, None)
    assert 0 < during["progress"] < 1

    clinic.walk(request)
    after = clinic.status("--count")
    assert (after["primary"], after["rotation"]) == ("v2", None)
    assert {key["version"]: key["state"] for key in after["key_versions"]} == {"v1": "archived", "v2": "active"}
    for table in after["tables"]:
        assert table["values_by_version"]["v1"] == 0
        assert table["values_by_version"]["v2"] > 0
        assert table["fenced_against"] == ["v1"]


def test_a_finished_rotation_is_followed_by_a_full_backup_and_asks_for_one_that_failed(clinic: Clinic) -> None:
    clinic.initialise()
    assert clinic.status()["last_backup_versions"] == []
    request = clinic.approved_request(*clinic.officers)
    right = clinic.path.read_text()
    clinic.path.write_text(f'{right}\n[backup]\npostgres_binaries = "nowhere"\n')
    reported = clinic.run("rotate", request, expect=1)
    assert "finished: nothing is left under v1" in reported, "a failed backup undoes nothing"
    assert f"rotate {request[:8]} is finished, but the backup after it is not complete" in clinic.error
    assert clinic.error.strip().endswith("run `keyrotation backup`")
    assert any(f"rotate {request} to v2 finished" in each for each in clinic.status()["attention"])
    clinic.run("status", "--exit-code", expect=1)

    clinic.path.write_text(right)
    again = json.loads(clinic.run("rotate", request, "--json"))
    assert clinic.status()["attention"] == []
    assert clinic.status()["last_backup_versions"] == ["v1", "v2"]
    assert "ago, holds v1, v2; never proven to restore" in clinic.run("status")
    stamp = again["backup"].removeprefix("backup-").removesuffix(".json")
    made = {each.name for each in (clinic.folder.path / ".keyrotation" / "backups").glob(f"*-{stamp}.*")}
    assert {f"database-{stamp}.dump.gpg", f"encryption-key-v2-{stamp}.bin.gpg"} <= made
    assert json.loads(clinic.run("rotate", request, "--json"))["backup"] is None, "one is enough"


def test_the_text_to_sign_is_printed_alone_and_exactly(clinic: Clinic) -> None:
    clinic.initialise()
    request = clinic.approved_request()
    text = clinic.run("approve", request, "--text")
    assert text.startswith(
        "keyrotation-approval-v5\n\nYou are asked to allow a new encryption key, called v2, for the database "
    )
    assert f"\n\nRequest: {request}\nAction: rotate\n" in text
    assert text.endswith("\nReason: yearly rotation\n")
    signature = clinic.folder.path / "signature"
    signature.write_bytes(clinic.officers[0].sign(text.encode()))
    said = json.loads(clinic.run("approve", request, "--signature", str(signature), "--json"))
    assert (said["officer"], said["approvals"], said["approvals_required"]) == ("Security Officer", 1, 2)


@pytest.mark.parametrize("options", [(), ("--dry-run",)], ids=["for real", "dry run"])
def test_one_approval_is_not_enough_and_nothing_is_done(clinic: Clinic, options: tuple[str, ...]) -> None:
    clinic.initialise()
    request = clinic.approved_request(clinic.officers[0])
    clinic.run("rotate", request, *options, expect=1)
    assert "needs 1 more approval" in clinic.error
    status = clinic.status()
    assert status["rotation"]["phase"] == "requested"
    assert [key["version"] for key in status["key_versions"]] == ["v1"]


def test_dry_run_names_what_is_due_and_does_nothing(clinic: Clinic) -> None:
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    planned = json.loads(clinic.run("rotate", request, "--dry-run", "--json"))
    assert planned["due"] == ["key_version"]
    assert planned["later"][-1] == "compliance_report"
    for phase, due, later in THROUGH:
        planned = json.loads(clinic.run("rotate", request, "--dry-run", "--through", phase, "--json"))
        assert (planned["due"], planned["later"]) == (due, later)
    shown = clinic.run("rotate", request, "--dry-run", "--through", "dual_key_rollout")
    assert "due now    key_version" in shown
    assert "later      dual_key_rollout" in shown
    assert "primary_key_rollout" not in shown
    assert [key["version"] for key in clinic.status()["key_versions"]] == ["v1"]


def test_cancel_withdraws_the_new_key_and_the_next_rotation_takes_the_next_number(clinic: Clinic) -> None:
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    clinic.walk(request, Step.DUAL_KEY_ROLLOUT)
    assert "due now    nothing, since key_version is done" in clinic.run(
        "rotate", request, "--dry-run", "--through", "key_version"
    )
    clinic.run("cancel", request)
    assert clinic.status()["rotation"] is None
    assert json.loads(clinic.run("request", "--reason", "again", "--json"))["to"] == "v3"


def test_status_exit_code_is_for_cron(clinic: Clinic) -> None:
    clinic.initialise()
    clinic.execute("UPDATE keyrotation.table_counts SET counted_at = counted_at - interval '8 days'")
    said = clinic.run("status", "--exit-code", expect=1)
    assert "was last counted on" in said
    clinic.run("status", "--count", "--exit-code")


def test_monitoring_gets_the_status_by_the_codes_of_its_plugins_and_as_metrics(clinic: Clinic) -> None:
    clinic.initialise()
    assert "KEYROTATION WARNING" in clinic.run("status", "--nagios", expect=1), "there is no backup yet"
    clinic.run("backup")
    assert "KEYROTATION OK" in clinic.run("status", "--nagios")
    clinic.run("pause", expect=1)
    assert "no rotation or rollback is open" in clinic.error
    shown, metrics = clinic.status(), clinic.run("metrics")
    assert f'keyrotation_audit_head_seq{{database="{shown["database"]}"}} {shown["audit"]["seq"]}\n' in metrics
    request = clinic.approved_request(*clinic.officers)
    clinic.walk(request, Step.PRIMARY_KEY_ROLLOUT)
    during = clinic.run("metrics")
    left = {table["table"]: table["rows"] for table in shown["tables"]}
    for name, rows in left.items():
        labels = f'{{database="{shown["database"]}",table="{name}"}}'
        assert f"keyrotation_rotation_rows_left{labels} {rows}\n" in during
        assert f"keyrotation_rotation_rows_done{labels} 0\n" in during
    assert 'type="routine",from="v1",to="v2",phase="rows"} 1\n' in during
    assert re.search(r'keyrotation_request_approvals\{.*action="rotate",type="routine"\} 2\n', during)
    clinic.run("pause")
    assert f'keyrotation_rotation_waiting{{database="{shown["database"]}",code="paused"}} 1' in clinic.run("metrics")
    clinic.execute("UPDATE keyrotation.table_counts SET counted_at = counted_at - interval '8 days'")
    assert clinic.run("status", "--nagios", expect=2).startswith("KEYROTATION CRITICAL - ")
    clinic.execute("ALTER SCHEMA keyrotation RENAME TO elsewhere")
    assert clinic.run("status", "--nagios", expect=3).startswith("KEYROTATION UNKNOWN - ")
    assert clinic.run("metrics", expect=1) == ""


def test_preflight_folds_what_is_green(clinic: Clinic) -> None:
    clinic.initialise()
    folded = clinic.run("preflight", expect=1).splitlines()[1:]
    lights = [line.split()[0] for line in folded if line.split()[0] in {"red", "amber", "green"}]
    assert lights == sorted(lights, key=["red", "amber"].index)
    whole = clinic.run("preflight", "--all", expect=1)
    green = sum(line.startswith("green ") for line in whole.splitlines())
    assert folded[-2] == f"not ready: {lights.count('red')} red, {lights.count('amber')} amber, {green} green"
    assert green > 40
    assert "--all" in folded[-1]
    assert "--all" not in whole


def test_status_waits_for_no_slow_library_that_it_does_not_use(clinic: Clinic) -> None:
    clinic.initialise()
    imported = imports("status", "--json", cwd=clinic.folder.path)
    assert "keyrotation_pipeline.adapters.postgres.ledger.postgres_ledger" in imported
    assert SLOW & imported == set()


def test_verify_fails_on_a_value_that_does_not_decrypt_and_inventory_names_it(clinic: Clinic) -> None:
    clinic.initialise()
    foreign = encrypt(KeyRing({V1: KeyMaterial.generate()}, V1), "x")
    clinic.execute("UPDATE clients SET email = %s WHERE id = 7", foreign)
    clinic.run("verify", expect=1)
    assert "1 value of clients cannot be decrypted" in clinic.error
    quarantined = json.loads(clinic.run("inventory", "--json"))["quarantine"]
    assert [(each["table"], each["column"]) for each in quarantined] == [("clients", "email")]
    assert foreign not in "".join(clinic.folder.printed)


def test_values_within_values_are_known_before_a_rotation_and_stop_it(clinic: Clinic) -> None:
    clinic.initialise()
    ring = KeyRing({V1: clinic.key}, V1)
    inner = {row: encrypt(ring, f"inner {row}") for row in range(5)}
    for row, value in inner.items():
        clinic.execute("UPDATE clients SET email = %s WHERE id = %s", sealed(ring, 1, value), row)
    honest = "v2: final version of the plan"
    clinic.execute("UPDATE clients SET email = %s WHERE id = 5", encrypt(ring, honest))

    clinic.run("preflight", expect=1)
    assert "are encrypted twice: " in (shown := " ".join(clinic.folder.printed[-2].split()))
    assert "values under v1 in clients.email (among them rows" in shown
    clinic.run("verify", expect=1)
    assert "5 values of clients cannot be decrypted, or only to another encrypted value" in clinic.error
    reasons = {(each["key"], each["reason"]) for each in json.loads(clinic.run("inventory", "--json"))["quarantine"]}
    twice = str(Defect(DefectKind.ENCRYPTED_TWICE, V1))
    assert reasons == {(f'["{row}"]', twice) for row in inner}

    request = clinic.approved_request(*clinic.officers)
    clinic.run("rotate", request, expect=1)
    assert "table clients, column email: 5 values (encrypted twice: under key version v1 it decrypts" in clinic.error
    assert {key["version"]: key["state"] for key in clinic.status()["key_versions"]}["v1"] == "deactivated"
    for row, value in inner.items():
        clinic.execute("UPDATE clients SET email = %s WHERE id = %s", value, row)
    clinic.run("rotate", request)
    with open_pipeline(settings.load(clinic.path), actor="test") as pipeline:
        new = pipeline.keys.read().ring()
    with psycopg.connect(clinic.database_url) as connection:
        rows = connection.execute("SELECT email FROM clients WHERE id < 6 ORDER BY id").fetchall()
    assert [decrypt(new, value) for (value,) in rows] == [*(f"inner {row}" for row in inner), honest]
    assert not any(value in "".join(clinic.folder.printed) for value in inner.values())


def test_inventory_shows_undeclared_columns(clinic: Clinic) -> None:
    clinic.initialise()
    clinic.execute("CREATE TABLE notes AS SELECT jsonb_build_object('a', first_name) AS body FROM clients LIMIT 9")
    found = json.loads(clinic.run("inventory", "--json"))["undeclared"]
    assert [(each["relation"], each["column"], each["versions"]) for each in found] == [("notes", "body", ["v1"])]


def test_of_two_requests_at_once_one_is_refused(clinic: Clinic) -> None:
    clinic.initialise()
    codes = clinic.at_once(("request", "--reason", "yearly rotation"), ("request", "--reason", "yearly rotation"))
    assert sorted(codes) == [0, 1]
    assert "not finished" in "".join(clinic.folder.printed)
    assert clinic.status()["rotation"]["phase"] == "requested"


def test_two_rotates_at_once_do_the_work_of_one(clinic: Clinic) -> None:
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    codes = clinic.at_once(("rotate", request), ("rotate", request))
    assert set(codes) <= {0, 1}
    clinic.run("rotate", request)
    with open_pipeline(settings.load(clinic.path), actor="test") as pipeline:
        finished = pipeline.ledger.walk(request)
    steps = [(record.step, record.table, record.shard) for record in finished.steps]
    assert len(steps) == len(set(steps))
    assert sum(record.facts["rows"] for record in finished.steps if record.shard is not None) == 2 * ROWS
    clinic.run("verify")
    clinic.run("audit", "verify")


def seconds_of(call: Callable[[], object]) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


def test_a_rotation_of_empty_tables_waits_for_nothing(clinic: Clinic) -> None:
    clinic.execute('TRUNCATE clients, billing."Invoices"')
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    before = seconds_of(lambda: clinic.run("status"))
    took = seconds_of(lambda: clinic.run("rotate", request))
    after = seconds_of(lambda: clinic.run("status"))
    # Thirteen tasks take some three times as long as looking; six times where gpg is asked again by each (measured).
    assert took < 15 * max(before, after)
    assert {key["version"]: key["state"] for key in clinic.status()["key_versions"]} == {
        "v1": "archived",
        "v2": "active",
    }


def test_gpg_is_started_for_what_is_new_in_a_rotation_and_not_for_each_task(clinic: Clinic, tmp_path: Path) -> None:
    clinic.initialise()
    more = [f"more_{number}" for number in range(MORE_TABLES)]
    for name in more:
        clinic.execute(f"CREATE TABLE {name} AS SELECT id, email FROM clients")
    with clinic.path.open("a") as configuration:
        configuration.writelines(f'[[tables]]\nname = "{name}"\ncolumns = ["email"]\n' for name in more)
    request = clinic.approved_request(*clinic.officers)
    starts, counting, path = tmp_path / "starts", tmp_path / "counting", os.environ["PATH"]
    counting.mkdir()
    (counting / "gpg").write_text(f'#!/bin/sh\necho "$*" >> {starts}\nPATH="{path}" exec gpg "$@"\n')
    (counting / "gpg").chmod(0o700)
    took = seconds_of(lambda: clinic.folder.run("rotate", request, PATH=f"{counting}:{path}"))
    started = len(starts.read_text().splitlines())
    # What is remembered is so for a minute, in which a rotation of small tables is over.
    assert 0 < started <= GPG_STARTS * (1 + took // 60)


def test_a_revocation_in_the_middle_of_a_rotation_stops_the_process_that_remembers_the_signature(
    clinic: Clinic, tmp_path: Path
) -> None:
    leaving = make_officer(tmp_path, "Leaving Officer")
    clinic.officers = (clinic.officers[0], leaving)
    clinic.initialise()
    request = clinic.approved_request(*clinic.officers)
    with open_pipeline(settings.load(clinic.path), actor="test") as pipeline:
        walk = runner.run(pipeline, request, lambda _: None)
        assert next(walk).step is Step.KEY_VERSION
        revoke(leaving)
        with pytest.raises(ApprovalError, match=r"Leaving Officer: .* is revoked"):
            next(walk)
        assert pipeline.ledger.walk(request).done(Step.DUAL_KEY_ROLLOUT) is None


def test_audit_verify_leads_through_an_anchor_and_finds_a_forged_one(clinic: Clinic) -> None:
    clinic.initialise()
    (manifest,) = (clinic.folder.path / ".keyrotation" / "backups").glob("backup-*.json")
    said = clinic.run("audit", "verify", "--anchor", str(manifest))
    assert "contains the anchor" in said
    assert "nothing else of it was compared" in said
    forged = clinic.folder.path / "forged.json"
    forged.write_text(json.dumps({"seq": 3, "head": "0" * 64}))
    clinic.run("audit", "verify", "--anchor", str(forged), expect=1)
    assert "event 3" in clinic.error


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        pytest.param(("status",), 1, "run `keyrotation init` or `keyrotation demo`", id="no configuration"),
        pytest.param(("status", "--config", "other.toml"), 1, "other.toml is not there", id="named configuration"),
        pytest.param(("rotate", "x", "--through", "nowhere"), 2, "'nowhere' is not one of", id="unknown phase"),
        pytest.param(("rotate",), 2, "Missing argument", id="missing argument"),
        pytest.param(("statsu",), 2, "No such command", id="unknown command"),
        pytest.param(
            ("approve", "x", "--text", "--signature", "y"), 2, "give either --text or", id="text and signature"
        ),
    ],
)
def test_a_refusal_is_a_sentence_on_stderr(
    tmp_path: Path, arguments: tuple[str, ...], code: int, sentence: str
) -> None:
    folder = Folder(tmp_path, [])
    folder.run(*arguments, expect=code)
    assert folder.printed[-2] == ""
    assert sentence in folder.printed[-1]
    assert "Traceback" not in folder.printed[-1]
    assert list(tmp_path.iterdir()) == [], "only init, demo and up create anything"


def test_a_configuration_without_a_home_says_to_run_init(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    (tmp_path / "keyrotation.toml").write_text('[[tables]]\nname = "clients"\ncolumns = ["a"]\n')
    folder.run("inventory", expect=1)
    assert "there is no home" in folder.printed[-1]
    assert "keyrotation init" in folder.printed[-1]
    assert not (tmp_path / ".keyrotation").exists()


def test_a_database_that_does_not_answer_is_named_without_its_password(tmp_path: Path, server: Server) -> None:
    folder = Folder(tmp_path, [])
    (tmp_path / ".keyrotation").mkdir(mode=0o700)
    (tmp_path / "keyrotation.toml").write_text(
        '[database]\nurl = { env = "CLINIC_URL" }\n[[tables]]\nname = "clients"\ncolumns = ["a"]\n'
    )
    folder.run("status", expect=1, CLINIC_URL="postgresql://app:hunter2@127.0.0.1:9/clinic")
    assert "cannot connect to clinic@127.0.0.1:9" in folder.printed[-1]
    assert "hunter2" not in "".join(folder.printed)


def test_without_the_extra_the_command_says_what_to_install(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "typer.py").write_text("raise ModuleNotFoundError(\"No module named 'typer'\", name='typer')\n")
    done = subprocess.run(
        [KEYROTATION, "status"],
        env=environment(PYTHONPATH=os.fspath(blocked)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "for applications, which encrypts columns and lacks typer for this command; " in done.stderr
    assert "run `pip install 'keyrotation-pipeline[pipeline]'`" in done.stderr
