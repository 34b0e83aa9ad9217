"""What `verify.py` accepts: rosters that were signed for, and signatures that count."""

import base64
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.backups import open_backups
from keyrotation_pipeline.assembly.home import SIGNING_KEY
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.audit.history import whole_history
from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.errors import AuditError, OutOfOrderError
from keyrotation_pipeline.incidents.assessing import answers_in, assess, sign_assessment, text_to_sign
from keyrotation_pipeline.incidents.opening import open_incident, prepare
from keyrotation_pipeline.model.backup_events import BackupKeyPinned
from keyrotation_pipeline.model.breach import AssessmentSigned
from keyrotation_pipeline.model.comparison import TableCompared, ValuesCompared
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.reporting.pack import pack, write_directory
from keyrotation_pipeline.reporting.verify_pack import Judged
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline.rotation.reconcile import open_reconciliation, reconcile
from keyrotation_pipeline_tests.integration.test_database_owner import Office, office
from keyrotation_pipeline_tests.officers import revoke
from keyrotation_pipeline_tests.packs import chained, manifest_again, offline_judge, rewrite, sign_again, verified

__all__ = ["office"]
PREFIX = bytes.fromhex("302a300506032b6570032100")  # of an Ed25519 key in DER


def packed(office: Office, name: str) -> Path:
    """A pack of the audit as it is."""
    with open_backups(settings.load(office.file), actor="test") as site:
        found = gather(site.pipeline)
        signatures = site.pipeline.signatures
        judged = Judged.of(found.entries, found.state)
        content = pack(found, (), signatures.certificates(), site.trust.signed, judged)
    assert write_directory(office.folder / name, content)
    return office.folder / name


def forged(office: Office, name: str, change: Callable[[dict[str, Any]], object]) -> str:
    """What is said of a pack whose events somebody changed, with right hashes, files and manifest."""
    folder = packed(office, name)

    def every(events: list[dict[str, Any]]) -> None:
        for event in events:
            change(event)

    rewrite(folder, every)
    sign_again(folder, signing_key(settings.load(office.file)))
    with open_backups(settings.load(office.file), actor="test") as site:
        manifest_again(folder, lambda content: site.trust.signed(content)[1])
    code, said = verified(folder)
    assert code == 1, said
    return said


def test_a_pack_says_what_the_text_of_an_emergency_rests_on(office: Office) -> None:
    with open_backups(settings.load(office.file), actor="test") as site:
        pipeline = site.pipeline
        now = pipeline.clock.now()
        incident = open_incident(pipeline, Flag("1", "test", "key_exposed", "in a log", now, versions=("v1",)))
        found = TableCompared("clients", rows=3, values=5, changed=1)
        pipeline.ledger.append(ValuesCompared(incident.id, "ada", now, "backup-1.json", now, "here", (found,), (), ()))
        request = prepare(pipeline, incident, "ada")
        assert b"1 difference(s), 5 present value(s) compared" in pipeline.ledger.approval_text(request.id)
        report = gather(pipeline).report.incidents[0].compared
    assert report[1] == "In clients: 1 changed, 0 new, 0 gone"
    code, said = verified(packed(office, "pack"))
    assert code == 0, said

    def nothing_found(event: dict[str, Any]) -> None:
        if event["event"] == "incident_values_compared":
            event["facts"]["tables"][0]["changed"] = 0

    assert "is to be signed for another audit" in forged(office, "forged", nothing_found)


def test_a_pack_says_whether_each_roster_was_signed_by_the_one_before(office: Office) -> None:
    policy = office.changed("Ben", "Cem")
    folder = packed(office, "pack")
    assert not write_directory(folder, {}), "it is there already"
    code, said = verified(folder)
    assert code == 0, said

    signatures = iter(range(99))

    def other_officer(event: dict[str, Any]) -> None:
        if event["event"] == "roster_pinned" and event["request"] == policy:
            event["facts"]["officers"][0]["name"] = "Eve"

    def only_one_signature(event: dict[str, Any]) -> None:
        if event["event"] == "signature_added" and next(signatures) == 0:
            event["event"], event["facts"] = "counted", {}

    def request_of_another_name(event: dict[str, Any]) -> None:
        if event["request"] == policy:
            event["request"] = "ab" * 16

    def destroyed_by_nobody(event: dict[str, Any]) -> None:
        if event["event"] == "key_registered":
            event["facts"]["state"] = "destroyed"

    for change, sentence in (
        (other_officer, "(roster_pinned)"),
        (only_one_signature, "too few have signed"),
        (request_of_another_name, "event"),
        (destroyed_by_nobody, "(key_registered) registers v1 as destroyed"),
    ):
        assert sentence in forged(office, change.__name__, change)


def test_the_program_gives_the_answers_of_the_audit_over_the_same_chains(office: Office, tmp_path: Path) -> None:
    """In process and by the generated program, over an honest chain and over hostile ones with right hashes."""
    office.changed("Ben", "Cem")
    office.changed("Ada", "Ben", by=("Ben", "Cem"))
    with office.pipeline() as pipeline, offline_judge(tmp_path) as judge:
        events = tuple(pipeline.ledger.events())
        now = {f"officers/{each.fingerprint}.now.pgp": each.content for each in pipeline.signatures.certificates()}
        assert judge(events, now) == []
        key = signing_key(settings.load(office.file))
        hostile = [chained(bodies, key) for bodies in variants([json.loads(each.body) for each in events])]
        refused = 0
        for chain in hostile:
            try:
                here = list(whole_history(chain, pipeline.signatures.verify_as_of, key.verifies)[1].faults)
            except AuditError as error:
                here = [str(error)]
            assert judge(chain, now) == here
            refused += bool(here)
        assert refused > len(hostile) // 2


def variants(bodies: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Each event dropped, repeated, swapped with the next, dated back; and each signature that of the one before."""
    for place, body in enumerate(bodies):
        yield bodies[:place] + bodies[place + 1 :]
        yield [*bodies[: place + 1], *bodies[place:]]
        yield [*bodies[:place], *reversed(bodies[place : place + 2]), *bodies[place + 2 :]]
        yield [*bodies[:place], {**body, "at": "2019-01-01T00:00:00.000000+00:00"}, *bodies[place + 1 :]]
    signed = [place for place, body in enumerate(bodies) if body["event"] == "signature_added"]
    for before, place in pairwise(signed):
        facts = {**bodies[place]["facts"], "signature": bodies[before]["facts"]["signature"]}
        yield [*bodies[:place], {**bodies[place], "facts": facts}, *bodies[place + 1 :]]


def test_a_key_that_no_signed_text_names_makes_no_pack(office: Office) -> None:
    """Such as that of a home that was made again. Before anything was signed, the first one counts, which is said."""
    code, said = verified(packed(office, "first"))
    assert code == 0, said
    assert "is the pipeline's key: no text that officers have signed names it" in said
    office.changed("Ada", "Cem")
    with open_backups(settings.load(office.file), actor="test") as site:
        site.pipeline.ledger.append(BackupKeyPinned(base64.b64encode(PREFIX + bytes(32)).decode()))
    assert verified(packed(office, "second"))[0] == 0
    (settings.load(office.file).home / SIGNING_KEY).unlink()
    office.initialise()
    with pytest.raises(AuditError, match="have the next request signed, then make the pack"):
        packed(office, "third")
    with office.pipeline() as pipeline:
        asked, _ = open_reconciliation(pipeline, requested_by="dba")
        for name in ("Ada", "Cem"):
            add_approval(pipeline, asked, office.people[name].sign(pipeline.ledger.approval_text(asked.id)))
        reconcile(pipeline, asked)
    office.changed("Ada", "Ben", by=("Ada", "Cem"))
    code, said = verified(packed(office, "fourth"))
    assert (code, "whether each of these is the pipeline's key" in said) == (0, True)


def test_assessments_of_incidents_are_verified_here_and_offline(office: Office) -> None:
    office.changed("Ada", "Ben", "Cem")
    with office.pipeline() as pipeline:
        now = pipeline.clock.now()
        incident = open_incident(pipeline, Flag("1", "test", "key_exposed", "in a log", now, versions=("v1",)))
        assess(pipeline, incident.id, answers_in({"key_breached": "no", "affected": {"Ohio": 2}}), "ada")
        found = assess(pipeline, incident.id, answers_in({"key_kept_apart": "yes", "affected": {"Utah": 3}}), "ben")
        text = text_to_sign(pipeline, found)
        for name in ("Ada", "Ben"):
            sign_assessment(pipeline, incident.id, office.people[name].sign(text))
        verify_everything(pipeline)
    code, said = verified(packed(office, "pack"))
    assert code == 0, said

    def lighter(event: dict[str, Any]) -> None:
        if event["event"] == "breach_assessed" and event["facts"]["answers"]["affected"]:
            event["facts"]["answers"]["affected"] = {"Ohio": 1}

    def by_another(event: dict[str, Any]) -> None:
        if event["event"] == "breach_assessment_signed":
            event["facts"]["signature"] = office.people["Eve"].sign(text).hex()

    for change in (lighter, by_another):
        assert "(breach_assessment_signed)" in forged(office, change.__name__, change)

    # Nor does the program itself record a signature of another, or one over other answers.
    with office.pipeline() as pipeline:
        forger, ada = office.people["Eve"], pinned_roster(pipeline).officers[0].fingerprint
        with pytest.raises(OutOfOrderError, match="has no good signature"):
            pipeline.ledger.append(AssessmentSigned(incident.id, ada, forger.sign(text).hex(), text.decode()))
        assess(pipeline, incident.id, answers_in({"key_breached": "unknown"}), "mal")
        signature = office.people["Ada"].sign(text).hex()
        with pytest.raises(OutOfOrderError, match="another line Answers than its facts"):
            pipeline.ledger.append(AssessmentSigned(incident.id, ada, signature, text.decode()))


def test_what_was_signed_before_a_certificate_was_revoked_holds_and_the_pack_says_so(office: Office) -> None:
    office.changed("Ada", "Cem")
    revoke(office.people["Ada"])  # who signed, and is an officer still
    code, said = verified(packed(office, "pack"))
    assert code == 0, said
    assert "is revoked" in said
