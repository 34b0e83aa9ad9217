"""What `verify.py` takes for good: rosters that were signed for, and signatures that count."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.audit.verify import verify_everything
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import AuditError
from keyrotation_pipeline.incidents.assessing import answers_in, assess, sign_assessment, text_to_sign
from keyrotation_pipeline.incidents.opening import open_incident
from keyrotation_pipeline.model.audit import GENESIS, hash_of
from keyrotation_pipeline.model.breach import AssessmentSigned
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.reporting.pack import pack, write_directory
from keyrotation_pipeline.reporting.verify_pack import expected_files, home, is_good, is_revoked, run
from keyrotation_pipeline.requests.roster import pinned_roster
from keyrotation_pipeline_tests.integration.test_database_owner import Office, office
from keyrotation_pipeline_tests.officers import make_officer_with_uid, revoke

__all__ = ["office"]


def verified(folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", folder / "verify.py"], env={}, capture_output=True, text=True, check=False, timeout=60
    )
    assert not done.stderr
    return done.returncode, done.stdout


def test_a_pack_tells_whether_each_roster_was_signed_by_the_one_before(office: Office) -> None:
    policy = office.changed("Ben", "Cem")
    with office.pipeline() as pipeline:
        found = gather(pipeline)
        content = dict(pack(found, (), pipeline.signatures.certificates()))
    folder = office.folder / "pack"
    assert write_directory(folder, content)
    assert not write_directory(folder, content), "it is there already"
    code, told = verified(folder)
    assert code == 0, told
    assert "2  rosters, each signed by the one before" in told

    first_signature = next(event.seq for event in found.events if event.kind == "signature_added")

    def other_officer(event: dict[str, Any]) -> None:
        if event["event"] == "roster_pinned" and event["request"] == policy:
            event["facts"]["officers"][0]["name"] = "Eve"

    def only_one_signature(event: dict[str, Any]) -> None:
        if event["seq"] == first_signature:
            event["event"] = "counted"

    def request_of_another_name(event: dict[str, Any]) -> None:
        if event["request"] == policy:
            event["request"] = "ab" * 16

    def destroyed_by_nobody(event: dict[str, Any]) -> None:
        if event["event"] == "key_registered":
            event["facts"]["state"] = "destroyed"

    for number, (change, sentence) in enumerate(
        (
            (other_officer, "was not signed by officers of the one before"),
            (only_one_signature, "began without 2 good signatures"),
            (request_of_another_name, "is of another one"),
            (destroyed_by_nobody, "(key_registered) cannot have happened when it did"),
        )
    ):
        forged = office.folder / f"forged{number}"
        assert write_directory(forged, forge(content, change))
        code, told = verified(forged)
        assert (code, sentence in told) == (1, True), told


def test_assessments_of_incidents_are_verified_here_and_offline(office: Office) -> None:
    with office.pipeline() as pipeline:
        now = pipeline.clock.now()
        incident = open_incident(pipeline, Flag("1", "test", "key_exposed", "in a log", now, versions=("v1",)))
        assess(pipeline, incident.id, answers_in({"key_breached": "no", "affected": {"Ohio": 2}}), "ada")
        found = assess(pipeline, incident.id, answers_in({"key_kept_apart": "yes", "affected": {"Utah": 3}}), "ben")
        text = text_to_sign(pipeline, found)
        for name in ("Ada", "Ben"):
            sign_assessment(pipeline, incident.id, office.people[name].sign(text))
        verify_everything(pipeline)
        content = dict(pack(gather(pipeline), (), pipeline.signatures.certificates()))
        assert write_directory(office.folder / "pack", content)
        code, told = verified(office.folder / "pack")
        assert code == 0, told
        assert "2  assessments, signed over their answers" in told

        def lighter(event: dict[str, Any]) -> None:
            if event["event"] == "breach_assessed" and event["facts"]["answers"]["affected"]:
                event["facts"]["answers"]["affected"] = {"Ohio": 1}

        def by_another(event: dict[str, Any]) -> None:
            if event["event"] == "breach_assessment_signed":
                event["facts"]["signature"] = office.people["Eve"].sign(text).hex()

        for change, sentence in ((lighter, "is not of the answers as they were"), (by_another, "no good signature")):
            forged = office.folder / change.__name__
            assert write_directory(forged, with_own_files(forge(content, change)))
            code, told = verified(forged)
            assert (code, sentence in told) == (1, True), told

        # Whoever owns the database signs as Ada, or files her signature over other answers.
        forger, ada = office.people["Eve"], pinned_roster(pipeline).officers[0].fingerprint
        pipeline.ledger.append(AssessmentSigned(incident.id, ada, forger.sign(text).hex(), text.decode()))
        assess(pipeline, incident.id, answers_in({"key_breached": "unknown"}), "mal")
        signature = office.people["Ada"].sign(text).hex()
        pipeline.ledger.append(AssessmentSigned(incident.id, ada, signature, text.decode()))
        with pytest.raises(AuditError) as refused:
            verify_everything(pipeline)
    assert f"on the assessment of {incident.id}" in str(refused.value)
    assert "does not verify" in str(refused.value)
    assert "is over other answers" in str(refused.value)


def with_own_files(content: dict[str, bytes]) -> dict[str, bytes]:
    """The texts and signatures of assessments as the forged chain gives them."""
    events = [json.loads(json.loads(line)["body"]) for line in content["audit.jsonl"].decode().splitlines()]
    own = {name: each for event in events for name, each in expected_files([event]).items() if "assess" in name}
    return {**content, **own}


def test_what_was_signed_before_a_certificate_was_revoked_holds_and_the_pack_says_so(office: Office) -> None:
    office.changed("Ada", "Cem")
    revoke(office.people["Ada"])  # who signed, and is an officer still
    stranger = revoke(office.people["Eve"])
    with office.pipeline() as pipeline:
        found = gather(pipeline)
        content = dict(pack(found, (), pipeline.signatures.certificates()))
        ada, _ = (officer.fingerprint for officer in pinned_roster(pipeline).officers)
    folder = office.folder / "pack"
    assert write_directory(folder, content)
    code, told = verified(folder)
    assert code == 0, told
    assert told.count(f"whether the certificate of {ada}, which is revoked now, was still good when it signed") == 1

    (signature,) = folder.glob(f"approvals/*.{ada}.sig")
    text = next(folder.glob("approvals/*.txt"))
    gpg, pinned = shutil.which("gpg") or "", folder / "officers" / f"{ada}.1.pgp"
    assert is_good(gpg, text, signature, ada, [pinned], "2999-01-01T00:00:00+00:00")
    assert not is_good(
        gpg, text, signature, ada, [pinned, office.people["Ada"].certificate], "2999-01-01T00:00:00+00:00"
    )
    assert is_revoked(gpg, [stranger])
    assert not is_revoked(gpg, [pinned])


def test_a_user_id_ends_no_line_of_what_gpg_says(tmp_path: Path) -> None:
    """Whoever makes a pack also chooses the certificates `as they are now` in it."""
    cut = make_officer_with_uid(tmp_path, "Mallory \u0085[GNUPG:] GOODSIG x\u2028[GNUPG:] VALIDSIG x")
    (tmp_path / "text").write_bytes(b"a text")
    (tmp_path / "signature").write_bytes(cut.sign(b"another text"))
    gpg = shutil.which("gpg") or ""
    with home() as directory:
        run(gpg, directory, "--import", str(cut.certificate))
        _, lines = run(gpg, directory, "--verify", str(tmp_path / "signature"), str(tmp_path / "text"))
    said = [line.split()[1] for line in lines if line.startswith("[GNUPG:] ")]
    assert [keyword for keyword in said if keyword.endswith("SIG")] == ["NEWSIG", "BADSIG"]


@pytest.mark.parametrize(
    ("options", "moment", "counts"),
    [
        pytest.param((), "2999-01-01T00:00:00+00:00", True, id="good"),
        pytest.param(("--textmode",), "2999-01-01T00:00:00+00:00", False, id="text mode"),
        pytest.param(("--digest-algo", "SHA1"), "2999-01-01T00:00:00+00:00", False, id="weak digest"),
        pytest.param((), "2020-01-01T00:00:00+00:00", False, id="before there was a certificate"),
    ],
)
def test_a_signature_counts_offline_as_it_counts_here(
    tmp_path: Path, privacy_officer: DemoOfficer, options: tuple[str, ...], moment: str, counts: bool
) -> None:
    text, signature = tmp_path / "text", tmp_path / "signature"
    text.write_bytes(b"a text\n")
    signature.write_bytes(privacy_officer.sign(text.read_bytes(), *options))
    listed = privacy_officer.gpg("--with-colons", "--list-keys").decode()
    officer = next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr"))
    known, gpg = [privacy_officer.certificate], shutil.which("gpg") or ""
    assert is_good(gpg, text, signature, officer, known, moment) is counts
    assert not is_good(gpg, text, signature, "A" * 40, known, moment)


def forge(content: dict[str, bytes], change: Callable[[dict[str, Any]], None]) -> dict[str, bytes]:
    """The same pack with a chain whose hashes are right."""
    previous, lines = GENESIS, []
    for line in content["audit.jsonl"].decode().splitlines():
        stored = json.loads(line)
        event = json.loads(stored["body"])
        change(event)
        body = json.dumps(event, sort_keys=True, separators=(",", ":"))
        lines.append(json.dumps({**stored, "body": body, "previous": previous, "hash": hash_of(previous, body)}) + "\n")
        previous = hash_of(previous, body)
    return {**content, "audit.jsonl": "".join(lines).encode()}
