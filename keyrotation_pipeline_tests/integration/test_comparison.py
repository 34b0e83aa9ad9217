"""Present values against a backup from before an incident: everything that differs is named, and no content is."""

import json
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.inventory.audit_events import AuditEvents
from keyrotation_pipeline.adapters.postgres.server.connection import connect
from keyrotation_pipeline.backups.backup import back_up
from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.cli.compare import SHOWN
from keyrotation_pipeline.errors import BackupError, IncidentError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.incidents import comparison
from keyrotation_pipeline.incidents.comparison import Output, compare_values
from keyrotation_pipeline.incidents.opening import open_incident, prepare
from keyrotation_pipeline.incidents.report import incident_report
from keyrotation_pipeline.model.approval import COMPARED, signed_fields
from keyrotation_pipeline.model.audit import EventKind
from keyrotation_pipeline.model.backup_events import BackupSealed
from keyrotation_pipeline.model.comparison import Difference, ValuesCompared
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.model.requests import RequestStatus
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.requests.approvals import approval_text
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, environment
from keyrotation_pipeline_tests.backup_sites import CLIENTS as CLIENTS_THEN
from keyrotation_pipeline_tests.backup_sites import Clinic
from keyrotation_pipeline_tests.integration.encrypted_rows import insert, ring_of, sealed

PLANTED = "planted by somebody"
NO_KEY = "billing.Invoices: no primary or other unique key identifies its rows; compare it by other means"


@dataclass
class Compared:
    fact: ValuesCompared
    listed: list[Difference]

    @property
    def named(self) -> set[tuple[str, str, str, str]]:
        return {(each.table, each.key, each.column, str(each.kind)) for each in self.listed}


@dataclass
class Scene:
    """A clinic with a backup, and an incident that was discovered an hour after it."""

    clinic: Clinic
    incident: str = ""
    backup: str = ""

    def discover(self) -> None:
        pipeline, clock = self.clinic.site.pipeline, self.clinic.clock
        clock.at = max(clock.at, datetime.now(UTC)).replace(microsecond=0) + timedelta(hours=1)
        self.incident = open_incident(
            pipeline, Flag("", "test", "key_exposed", f"in the log of {clock.at}", clock.at, versions=("v1",))
        ).id

    def compare(self, wanted: str | None = None, audit: str | None = None) -> Compared:
        listed: list[Difference] = []
        url = (self.clinic.directory / "url").read_text()
        with self.clinic.recovery_key() as key, closing(connect(url)) as connection:
            asked = None if audit is None else AuditEvents(connection, TableName.parse(audit))
            output = Output(listed.append, lambda _note: None)
            fact = compare_values(self.clinic.site, key, self.incident, "ada", asked, output, wanted)
        return Compared(fact, listed)

    def sql(self, statement: str, *values: object) -> None:
        self.clinic.connection.execute(statement.encode(), values or None)

    def seal(self, version: int, text: str) -> str:
        return sealed(self.clinic.ring, version, text)

    def declare(self, *tables: EncryptedTable) -> None:
        """As a configuration that somebody has changed."""
        site = self.clinic.site
        self.clinic.site = replace(site, pipeline=replace(site.pipeline, tables=tables))


V1 = KeyVersion(1)
FIRST = 1_000  # after the clinic's own
CLIENTS = EncryptedTable(TableName("public", "clients"), ("name", "email"))


@pytest.fixture
def scene(local_clinic: Clinic) -> Scene:
    found = Scene(local_clinic, backup=back_up(local_clinic.site).made.name)
    found.discover()
    return found


def test_every_planted_and_every_honest_difference_is_named_and_nothing_else(scene: Scene) -> None:
    change = "UPDATE public.clients SET name = %s, email = %s WHERE id = %s"
    # Re-encrypted meanwhile, which is no difference; one is unreadable, one is not encrypted.
    scene.sql(change, scene.seal(2, "Ada"), scene.seal(1, PLANTED), 1)
    scene.sql(change, sealed(ring_of(1, 2), 1, "Ben"), scene.seal(2, "ben@example.org"), 2)
    scene.sql(change, "plain-Cyrus", scene.seal(2, "cy@example.org"), 3)
    scene.sql("DELETE FROM public.clients WHERE id = 4")
    insert(scene.clinic.connection, "public.clients", [(10, scene.seal(1, PLANTED), None)])

    found = scene.compare()

    assert found.named == {
        ("clients", '["1"]', "email", "changed"),
        ("clients", '["2"]', "name", "changed"),
        ("clients", '["2"]', "email", "new"),
        ("clients", '["3"]', "name", "changed"),
        ("clients", '["3"]', "email", "new"),
        ("clients", '["4"]', "name", "gone"),
        ("clients", '["4"]', "email", "gone"),
        ("clients", '["10"]', "name", "new"),
    }
    unreadable = {(each.key, each.column): each.unreadable for each in found.listed if each.unreadable}
    assert unreadable == {
        ('["2"]', "name"): "fails authentication under key version v1",
        ('["3"]', "name"): "not encrypted, or damaged: not of the form of an encrypted value",
    }
    (clients,) = found.fact.tables
    assert (clients.rows, clients.values, clients.changed, clients.new, clients.gone) == (4, 7, 3, 3, 2)
    assert found.fact.not_compared == (NO_KEY,)
    assert (found.fact.backup, found.fact.passed_over) == (scene.backup, ())
    events = [event.body for event in scene.clinic.site.pipeline.ledger.events()]
    assert [json.loads(each)["event"] for each in events][-2:] == [
        EventKind.COMPARISON_STARTED, EventKind.VALUES_COMPARED,
    ]  # fmt: skip
    told = "".join(events) + repr(found)
    assert not any(word in told for word in (PLANTED, "example.org", "plain-Cyrus"))
    assert not (scene.clinic.settings.home / "recovery").exists()


def test_what_cannot_be_compared_is_named_and_the_rest_is_compared(scene: Scene) -> None:
    scene.sql("ALTER TABLE public.clients RENAME TO hidden; CREATE VIEW public.clients AS TABLE public.hidden")
    scene.sql('ALTER TABLE billing."Invoices" ADD PRIMARY KEY (id), ADD COLUMN payer text')
    scene.sql('UPDATE billing."Invoices" SET payer = %s', scene.seal(2, PLANTED))
    scene.declare(CLIENTS, EncryptedTable(TableName("billing", "Invoices"), ("payer",)))
    found = scene.compare()
    assert found.named == {("billing.Invoices", '["1"]', "payer", "new")}
    view, undeclared = found.fact.not_compared
    assert view.startswith("clients: clients, declared through clients, is not an ordinary table")
    assert undeclared == "billing.Invoices.note: [[tables]] does not declare it any more"


def test_a_key_that_was_archived_and_lost_since_is_read_from_the_backup(scene: Scene) -> None:
    keys = scene.clinic.site.pipeline.keys
    for number, (name, mail) in enumerate(CLIENTS_THEN, 1):
        values = scene.seal(2, name), mail and scene.seal(2, mail)
        scene.sql("UPDATE public.clients SET name = %s, email = %s WHERE id = %s", *values, number)
    keys.archive(V1, keys.read().revision)
    for file in (scene.clinic.settings.home / "keys").rglob("*v1*"):
        file.unlink()
    assert V1 not in keys.read()
    scene.sql("UPDATE public.clients SET name = %s WHERE id = 2", scene.seal(2, PLANTED))
    assert scene.compare().named == {("clients", '["2"]', "name", "changed")}


def test_a_value_under_an_unknown_key_that_was_planted_before_the_backup_does_not_end_it(local_clinic: Clinic) -> None:
    scene = Scene(local_clinic)
    for number in (3, 4):
        unknown = scene.seal(2, "x").replace("v2:", "v7:", 1)
        scene.sql("UPDATE public.clients SET name = %s WHERE id = %s", unknown, number)
    with pytest.raises(BackupError, match="under v7"):
        back_up(local_clinic.site)
    scene.discover()
    scene.sql("UPDATE public.clients SET name = %s WHERE id = 4", scene.seal(2, PLANTED))
    found = scene.compare()
    assert found.named == {("clients", '["4"]', "name", "changed")}
    assert "values under v7 in the backup: no key opens them" in "; ".join(found.fact.not_compared)


def test_only_a_backup_from_before_the_discovery_will_do(scene: Scene) -> None:
    scene.sql("UPDATE public.clients SET name = %s WHERE id = 1", scene.seal(1, PLANTED))
    scene.clinic.pass_days(1)
    later = back_up(scene.clinic.site).made
    # Named by its dump, too; and of those from before, the newest one is taken.
    dump = scene.backup.replace("backup-", "database-").replace(".json", ".dump.gpg")
    assert scene.compare(dump).fact.backup == scene.compare().fact.backup == scene.backup
    sentence = f"{later.name} was not complete before .*, when {scene.incident} was discovered.*name an older one"
    with pytest.raises(IncidentError, match=sentence):
        scene.compare(later.name)
    with pytest.raises(IncidentError, match=r"no backup backup-1\.json from before"):
        scene.compare("backup-1.json")
    scene.clinic.site.local.remove(scene.backup)
    with pytest.raises(IncidentError, match=r"no backup of the database from before .* put an older one back there"):
        scene.compare()
    assert json.loads(list(scene.clinic.site.pipeline.ledger.events())[-1].body)["event"] == EventKind.COMPARISON_FAILED


@pytest.mark.parametrize("harm", ["manifest", "dump", "removed"])
def test_a_newer_backup_that_somebody_damaged_is_named_and_an_older_one_taken(local_clinic: Clinic, harm: str) -> None:
    scene = Scene(local_clinic)
    older = back_up(local_clinic.site).made
    local_clinic.pass_days(1)
    newer = back_up(local_clinic.site).made
    assert newer.dump is not None
    scene.discover()
    if harm == "removed":
        local_clinic.site.local.remove(newer.name)
    else:
        file = local_clinic.site.local.path(newer.name if harm == "manifest" else newer.dump.file.name)
        file.write_bytes(file.read_bytes()[:-9])
    found = scene.compare().fact
    assert found.backup == older.name
    (phrase,) = found.passed_over
    assert phrase.startswith(newer.name)


def test_an_event_that_dates_a_later_backup_back_does_not_count(scene: Scene) -> None:
    """Whoever owns the database can append that it was made from an older one."""
    scene.clinic.pass_days(1)
    later = back_up(scene.clinic.site).made
    scene.clinic.site.pipeline.ledger.append(BackupSealed(later.name, "0" * 64, has_dump=True, made_from=scene.backup))
    with pytest.raises(IncidentError, match="was not complete before"):
        scene.compare(later.name)


def test_a_backup_that_was_under_way_at_the_discovery_will_not_do(local_clinic: Clinic) -> None:
    pipeline, clock = local_clinic.site.pipeline, local_clinic.clock
    clock.at -= timedelta(hours=2)
    made = back_up(local_clinic.site).made  # whose event is of now, by the clock of the audit
    clock.at += timedelta(hours=1)
    flag = Flag("", "test", "key_exposed", "in a log", clock.at, versions=("v1",))
    clock.at += timedelta(hours=1)
    scene = Scene(local_clinic, incident=open_incident(pipeline, flag).id)
    with pytest.raises(IncidentError, match="was not complete before"):
        scene.compare(made.name)


def test_the_applications_audit_says_what_it_has_of_each_row(scene: Scene) -> None:
    scene.sql(
        "CREATE TABLE public.audit_events (event_type text, resource_type text, resource_id bigint, user_id uuid,"
        " ip_address inet, created_at timestamptz, action text)"
    )
    write = "INSERT INTO public.audit_events VALUES ('x', 'Client', %s, NULL, '10.0.0.1', %s, %s)"
    now = scene.clinic.clock.at
    for row, at, action in (
        (1, now, "UPDATE"), (1, now - timedelta(minutes=1), "CREATE"), (2, now, "READ"),
        (3, now - timedelta(days=9), "UPDATE"),
    ):  # fmt: skip
        scene.sql(write, row, at, action)
    for row in (1, 2, 3):
        scene.sql("UPDATE public.clients SET name = %s WHERE id = %s", scene.seal(1, PLANTED), row)
    found = scene.compare(audit="audit_events")
    assert {each.key: each.recorded for each in found.listed} == {
        '["1"]': f"2 writes, the last {now:%Y-%m-%d %H:%M:%S} UTC: UPDATE Client by unknown from 10.0.0.1/32",
        '["2"]': "no write",
        '["3"]': "no write",
    }
    assert (found.fact.audited, found.fact.tables[0].unrecorded) == ("audit_events", 2)
    scene.sql("ALTER TABLE public.audit_events DROP COLUMN resource_id")
    found = scene.compare(audit="audit_events")
    assert ({each.recorded for each in found.listed}, found.fact.audited) == ({None}, None)


def test_an_audit_that_cannot_be_read_fails_the_comparison_and_that_is_recorded(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while rows are still to be read, in a transaction that is rolled back."""
    monkeypatch.setattr(comparison, "BATCH", 1)
    scene.sql(
        "CREATE TABLE public.audit_events (event_type text, resource_type text, resource_id bigint, user_id uuid,"
        " ip_address inet, created_at text, action text)"
    )
    scene.sql("UPDATE public.clients SET name = %s", scene.seal(1, PLANTED))
    with pytest.raises(IncidentError, match="audit_events_table cannot be queried"):
        scene.compare(audit="audit_events")
    *_, last = scene.clinic.site.pipeline.ledger.events()
    assert json.loads(last.body)["event"] == EventKind.COMPARISON_FAILED


def fill(scene: Scene, rows: int) -> None:
    """Two values a row, under v1."""
    ring = KeyRing({V1: scene.clinic.ring.material(V1)}, V1)
    with scene.clinic.connection.cursor().copy("COPY public.clients FROM STDIN") as copy:
        for number in range(FIRST, FIRST + rows):
            copy.write_row((number, encrypt(ring, f"name {number}"), encrypt(ring, f"mail{number}@example.org")))


def change(scene: Scene, rows: int, every: int) -> set[tuple[str, str, str]]:
    """Re-encrypts half of the rows, as a rotation under way, and changes some; returns what has another plaintext."""
    connection, expected = scene.clinic.connection, set[tuple[str, str, str]]()
    connection.execute("CREATE TEMP TABLE changed (id bigint, name text, email text)")
    with connection.cursor().copy("COPY changed FROM STDIN") as copy:
        for number in range(FIRST, FIRST + rows):
            name, mail, key = f"name {number}", f"mail{number}@example.org", f'["{number}"]'
            if number % every == 1:  # by whoever holds the old key
                copy.write_row((number, scene.seal(1, PLANTED), scene.seal(1, mail)))
                expected.add((key, "name", "changed"))
            elif number % every == 2:  # by the application
                copy.write_row((number, scene.seal(2, name), None))
                expected.add((key, "email", "gone"))
            elif number % 2:
                copy.write_row((number, encrypt(scene.clinic.ring, name), encrypt(scene.clinic.ring, mail)))
    connection.execute("UPDATE public.clients c SET name = n.name, email = n.email FROM changed n WHERE n.id = c.id")
    connection.execute("DROP TABLE changed")
    return expected


@pytest.mark.parametrize(
    ("rows", "every", "most_megabytes"),
    [
        pytest.param(2_000, 100, 200, id="4,000 values"),
        pytest.param(500_000, 500, 250, marks=pytest.mark.extended, id="a million values"),
    ],
)
def test_every_planted_value_among_many_is_listed_with_every_honest_change_in_bounded_memory(
    local_clinic: Clinic, rows: int, every: int, most_megabytes: int
) -> None:
    scene = Scene(local_clinic)
    fill(scene, rows)
    back_up(local_clinic.site)
    scene.discover()
    expected = change(scene, rows, every)
    file = local_clinic.directory / "differences.jsonl"
    began = time.monotonic()
    command = [sys.executable, "-c", MEASURED, str(KEYROTATION), *arguments(scene), "--output", str(file)]
    done = subprocess.run(command, env=environment(), check=True, capture_output=True, text=True)
    megabytes, spent = map(float, done.stderr.splitlines()[-1].split())
    sys.stdout.write(f"{time.monotonic() - began:.1f} s, {spent:.1f} CPU-s, {megabytes:.0f} MB\n")
    listed = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(listed) == len(expected) == 2 * rows // every
    assert {(each["key"], each["column"], each["kind"]) for each in listed} == expected
    assert f"clients: {rows + 4:,} rows" in done.stdout
    assert megabytes < most_megabytes


# A process starts with the peak of the one that started it: a small one in between.
MEASURED = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_maxrss / 1024, used.ru_utime + used.ru_stime, file=sys.stderr)
sys.exit(code)
"""


def arguments(scene: Scene) -> list[str]:
    secret = scene.clinic.directory / "recovery.sec"
    secret.write_bytes(scene.clinic.secret_key())
    options = ("--key", secret, "--config", scene.clinic.settings.path)
    return ["incident", "compare", scene.incident, *map(str, options)]


def run(scene: Scene, *options: str | Path) -> Result:
    return CliRunner().invoke(app, [*arguments(scene), *map(str, options)])


def test_the_command_shows_a_few_and_lists_all_in_a_file_and_in_json(scene: Scene) -> None:
    rows = [(number, scene.seal(1, PLANTED), None) for number in range(100, 100 + SHOWN + 5)]
    insert(scene.clinic.connection, "public.clients", rows)
    file = scene.clinic.directory / "differences.jsonl"
    shown = run(scene, "--output", file)
    assert shown.exit_code == 0, shown.output
    assert f"clients: {len(rows) + 4} rows, {len(rows) + 6} values: 0 changed, {len(rows)} new, 0 gone" in shown.stdout
    assert '["100"]' in shown.stdout
    assert '["144"]' not in shown.stdout
    assert "and 5 more; --output FILE or --json lists all" in shown.stdout
    assert NO_KEY in shown.stdout.replace("\n          ", " ")
    listed = [json.loads(line) for line in file.read_text().splitlines()]
    assert [each["key"] for each in listed] == [f'["{number}"]' for number, *_ in rows]
    assert file.stat().st_mode & 0o777 == 0o600
    in_json = json.loads(run(scene, "--json").stdout)
    assert in_json["differences"] == listed
    assert (in_json["backup"], in_json["tables"][0]["new"]) == (scene.backup, len(rows))
    assert run(scene, "--output", file).exit_code == 1  # never overwritten
    nowhere = run(scene, "--output", scene.clinic.directory / "missing" / "list")
    assert (nowhere.exit_code, "no file can be written there" in str(nowhere.exception)) == (1, True)
    scene.clinic.site.local.remove(scene.backup)
    other = scene.clinic.directory / "other.jsonl"
    assert (run(scene, "--output", other).exit_code, other.exists()) == (1, False)


def test_the_text_of_an_emergency_says_what_was_known_when_it_was_requested(scene: Scene) -> None:
    pipeline = replace(scene.clinic.site.pipeline, clock=SystemClock())  # as the ledger has it
    incident = pipeline.ledger.replayed().incidents.by_id[scene.incident]
    first = prepare(pipeline, incident, "ada")
    assert signed_fields(pipeline.ledger.approval_text(first.id))[COMPARED] == "no"
    scene.sql("UPDATE public.clients SET name = %s WHERE id = 1", scene.seal(1, PLANTED))
    found = scene.compare()
    # What officers were given to sign still holds.
    assert approval_text(pipeline, first) == pipeline.ledger.approval_text(first.id)
    pipeline.ledger.set_status(first.id, RequestStatus.CANCELLED)
    second = open_request(pipeline, reason="leaked", requested_by="ada", incident=scene.incident)
    said = signed_fields(pipeline.ledger.approval_text(second.id))[COMPARED]
    assert said == f"yes, {found.fact}"
    assert f"with {scene.backup} of" in said
    assert said.endswith("1 difference(s), 6 present value(s) compared, 1 part(s) not compared")
    assert pipeline.ledger.replayed().faults == ()
    report = incident_report(pipeline, scene.incident).markdown()
    assert f"Values compared with a backup by ada {found.fact}" in report
    assert f"Not compared: {NO_KEY}" in report
