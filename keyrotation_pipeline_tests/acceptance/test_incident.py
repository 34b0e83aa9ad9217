"""A flag that a tool raises, and everything that follows: incident, request, two signatures, retired key, report."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from typer.testing import CliRunner

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.cli.commands import app
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.resources import PipelineResource
from keyrotation_pipeline.defs.sensors import INCIDENT_FLAG, build_sensor
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.keys import KeyState
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.applications import reporting
from keyrotation_pipeline_tests.officers import roster_in_toml
from keyrotation_pipeline_tests.pages import fenced

V1, V2 = KeyVersion(1), KeyVersion(2)
SEPARATE_LINES = 2


@dataclass
class Clinic:
    """Twenty rows under v1, and two officers."""

    folder: Folder
    database_url: str
    officers: tuple[DemoOfficer, ...]

    @property
    def file(self) -> Path:
        return self.folder.path / "keyrotation.toml"

    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        with open_pipeline(settings.load(self.file), actor="test") as pipeline:
            yield pipeline

    def sign(self, request: str) -> None:
        with self.pipeline() as pipeline:
            text = pipeline.ledger.approval_text(request)
            for officer in self.officers:
                add_approval(pipeline, pipeline.ledger.request(request), officer.sign(text))

    def walk(self, request: str, through: Step | None = None) -> None:
        keys = self.folder.path / ".keyrotation" / "keys"
        with self.pipeline() as pipeline, reporting(self.database_url, keys):
            for _ in runner.run(pipeline, request, lambda _progress: None, through):
                pass

    def states(self) -> dict[KeyVersion, KeyState]:
        with self.pipeline() as pipeline:
            registered = pipeline.ledger.keys()
            return {record.version: record.state for record in registered}

    def shown(self, *arguments: str) -> str:
        """What a command prints, in this process: a new one takes seconds to start."""
        result = CliRunner().invoke(app, [*arguments, "--config", str(self.file)])
        assert result.exit_code == 0, result.output
        return result.stdout

    def sensor_looks(self) -> str:
        with dg.DagsterInstance.ephemeral() as instance:
            context = dg.build_sensor_context(instance, resources={"keyrotation": PipelineResource(str(self.file))})
            result = build_sensor(OWN, INCIDENT_FLAG)(context)
        return str(result.skip_message) if isinstance(result, dg.SkipReason) else "pages"


@pytest.fixture
def clinic(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
) -> Clinic:
    ring = KeyRing({V1: KeyMaterial.generate()}, V1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text)")
        for number in range(20):
            connection.execute("INSERT INTO clients VALUES (%s, %s)", (number, encrypt(ring, f"Zoe {number}")))
    officers = (security_officer, privacy_officer)
    named = roster_in_toml(officers)
    clinic = Clinic(Folder(tmp_path, []), database_url, officers)
    clinic.file.write_text(
        f'database.url = "{database_url}"\n[approvals]\nrequired = 2\n{named}'
        '[reencryption]\nshards = 1\n[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n'
    )
    initialise(settings.load(clinic.file), ring, actor="test")
    return clinic


def test_a_flag_of_a_tool_leads_to_the_retired_key_and_the_report(clinic: Clinic) -> None:
    raise_flags(clinic)
    reported = clinic.sensor_looks()
    assert reported == "opened INC-2026-001; 1 repeated; 2 rejected".replace("2026", reported[11:15])
    assert clinic.sensor_looks() == "pages", "which are written again"
    assert clinic.states() == {V1: KeyState.ACTIVE}

    (pending,) = json.loads(clinic.shown("requests", "--json"))
    assert (pending["type"], pending["from"], pending["to"]) == ("emergency", "v1", "v2")
    assert (pending["signed_by"], len(pending["missing"])) == ([], 2)
    clinic.sign(pending["id"])
    assert clinic.states() == {V1: KeyState.COMPROMISED}
    clinic.walk(pending["id"])

    status = json.loads(clinic.shown("status", "--json"))
    states = {key["version"]: key["state"] for key in status["key_versions"]}
    assert (status["primary"], states) == ("v2", {"v1": "compromised", "v2": "active"})
    assert (status["incidents_open"], status["tables"][0]["fenced_against"]) == (1, ["v1"])
    (incident,) = json.loads(clinic.shown("incident", "list", "--json"))
    assert (incident["request"], incident["versions"]) == (pending["id"], ["v1"])
    report = clinic.shown("incident", "report", incident["id"])
    for heading in ("Summary", "Timeline", "Impact", "Root Cause", "Remediation", "Lessons Learned", "Kept Backups"):
        assert f"\n## {heading}\n" in report
    assert "holds the key v1, encrypted to the recipients" in report
    assert (
        report.index("v1 became compromised")
        < report.index("dual_key_rollout finished")
        < report.index("retired_key finished")
    )
    clinic.shown("audit", "verify")


def test_a_report_is_never_written_over_what_is_there(clinic: Clinic) -> None:
    reported = clinic.shown("incident", "open", "--type", "key_exposed", "--description", "a", "--discovered-at", "now")
    incident, file = reported.splitlines()[0], clinic.folder.path / "report.md"
    clinic.shown("incident", "report", incident, "--output", str(file))
    written = file.read_text()
    assert written.startswith(f"# Incident report {incident}")

    file.write_text("of somebody else")
    clinic.folder.run("incident", "report", incident, "--output", str(file), expect=1)
    refusal = f"{file} already exists; name another one with --output, or remove it first"
    assert refusal in clinic.folder.printed[-1]
    assert file.read_text() == "of somebody else"
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_form_of_the_source_procedure_is_filled_in_by_commands(clinic: Clinic) -> None:
    clinic.file.write_text(
        clinic.file.read_text() + '[alerts]\nsns_topic_arn = "arn:aws:sns:us-east-1:123456789012:security"\n'
        'endpoint_url = "http://127.0.0.1:9"\n'
        '[[contacts]]\nrole = "on-call"\nname = "Ada"\nemail = "ada@clinic.example"\nphone = "+1 555 0100"\n'
    )
    reported = clinic.shown(
        "incident", "open", "--type", "other", "--description", "a laptop was stolen", "--discovered-at", "now",
        "--action", "locked the account",
    )  # fmt: skip
    incident = next(line for line in reported.splitlines() if line.startswith("INC-"))
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    clinic.shown(
        "incident", "amend", incident, "--impact", "high", "--action", "wiped it", "--prevention", "encrypt disks"
    )
    assert f"Notice to individuals: sent {today}, in time (164.404)" in clinic.shown(
        "incident", "notice", incident, "--to", "individuals", "--sent-on", today
    )
    shown = json.loads(clinic.shown("incident", "show", incident, "--json"))
    assert (shown["type"], shown["impact"], shown["actions"]) == ("other", "high", ["locked the account", "wiped it"])
    assert (shown["prevention"], shown["notices_sent"]) == (["encrypt disks"], [f"individuals on {today}"])
    sent = {each["to"]: each["sent_on"] for each in shown["breach"]["notices"]}
    assert (sent["individuals"], sent["HHS"]) == (today, None)
    contact = "on-call: Ada, ada@clinic.example, +1 555 0100"
    report = clinic.shown("incident", "report", incident)
    for line in ("Action taken: wiped it", "Prevention measure: encrypt disks", contact):
        assert line in report
    assert contact in clinic.shown("status")
    status = json.loads(clinic.shown("status", "--json"))
    assert [each["email"] for each in status["contacts"]] == ["ada@clinic.example"]


def raise_flags(clinic: Clinic) -> None:
    """As a tool does that may insert flags and nothing else: one, the same again, and two that are malformed."""
    rows = [
        ("SIEM", "key_exposed", "the key stands in a log file", "2026-01-02 03:04+00"),
        ("SIEM", "key_exposed", "the key stands in a log file", "2026-01-02 03:04+00"),
        ("SIEM", "fire", "something", "2026-01-02 03:04+00"),
        ("SIEM", "insider", "when?", "infinity"),
    ]
    with psycopg.connect(clinic.database_url, autocommit=True) as owner:
        role = f"siem_{owner.info.dbname}"
        owner.execute(f"CREATE ROLE {role}")
        # As docs/guides/incidents.md has it; the flag that it raises is taken back.
        page = "docs/guides/incidents.md"
        [documented] = [each.text for each in fenced() if (each.page, each.language) == (page, "sql")]
        usage, insert, flag = documented.replace("TO siem;", f"TO {role};").strip().splitlines()
        owner.execute(usage.encode())
        owner.execute(insert.encode())
        owner.execute(f"SET ROLE {role}")
        with owner.transaction(force_rollback=True):
            assert owner.execute(flag.encode()).rowcount == 1
        for row in rows:
            owner.execute(
                "INSERT INTO keyrotation.incident_flag (source, type, description, discovered_at)"
                " VALUES (%s, %s, %s, %s)",
                row,
            )
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            owner.execute("SELECT * FROM keyrotation.audit_events")
        owner.execute("RESET ROLE")
        owner.execute(f"DROP OWNED BY {role}")
        owner.execute(f"DROP ROLE {role}")


def test_an_incident_at_the_command_line_takes_over_what_runs(clinic: Clinic) -> None:
    with clinic.pipeline() as pipeline:
        routine = open_request(pipeline, reason="yearly", requested_by="test").id
    opened = clinic.folder.run(
        "incident", "open", "--type", "key_exposed", "--description", "in a ticket", "--discovered-at", "now"
    ).split()
    assert len(opened) == SEPARATE_LINES
    clinic.sign(opened[1])
    clinic.walk(opened[1], Step.KEY_VERSION)
    past = {each["id"]: each["outcome"] for each in json.loads(clinic.shown("history", "--json"))}
    assert past == {routine: "cancelled"}
    assert "is acknowledged" in clinic.shown("incident", "ack", opened[0])
    reported = clinic.shown("incident", "show", opened[0])
    assert f"request         {opened[1][:8]}" in reported
    assert opened[1][:8] in clinic.shown("incident", "list")
    assert "name [incidents] cloudtrail_bucket" in clinic.shown("incident", "access", opened[0])
    assert "missing  nobody" in clinic.shown("requests")
    assert "cancelled" in clinic.shown("history")
    assert "incident_opened" in clinic.shown("audit", "log", "--last", "99")
    assert opened[0] in clinic.shown("status")
    assert f"<h1>Incident report {opened[0]}</h1>" in clinic.shown("incident", "report", opened[0], "--html")
    assess(clinic, opened[0])
    clinic.shown("cancel", opened[1])
    documented("incident close", clinic.shown("incident", "close", opened[0], "--root-cause", "a ticket", "--json"))
    events = [each["event"] for each in json.loads(clinic.shown("audit", "log", "--json"))]
    assert "incident_closed" in events
    assert "breach_assessment_signed" in events
    assert json.loads(clinic.shown("status", "--json"))["incidents_open"] == 0


def assess(clinic: Clinic, incident: str) -> None:
    """From the answers of one person to a decision that two officers have signed with gpg."""
    answers = clinic.folder.path / "answers.toml"
    answers.write_text('key_breached = "no"\nkey_kept_apart = "yes"\nciphertext_reached = "yes"\n')
    reported = clinic.shown(
        "incident", "assess", incident, "--answers", str(answers), "--plaintext-reached", "no", "--affected", "Ohio=40"
    )
    assert "Breach by 45 CFR 164.402: not decided: presumed a breach" in reported
    assert "in force with 2 more signatures" in reported
    text = clinic.shown("incident", "assess", incident, "--text").encode()
    for number, officer in enumerate(clinic.officers, 1):
        signature = clinic.folder.path / f"assessment-{number}.asc"
        signature.write_bytes(officer.sign(text))
        reported = clinic.shown("incident", "assess", incident, "--signature", str(signature))
        assert f"signed by {officer.name}: {number} of 2" in reported
    assert "Breach by 45 CFR 164.402: secured PHI: no notification" in reported
    report = clinic.shown("incident", "report", incident)
    assert f"breach assessment signed by {officer.name}" in report
    first = clinic.shown("incident", "report", incident, "--version", "1")
    assert "breach assessment" not in first
    clinic.shown("audit", "verify")
