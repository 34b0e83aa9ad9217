"""What `verify.py` takes for good: rosters that were signed for, and signatures that count."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.assurance.compliance_gathering import gather
from keyrotation_pipeline.assurance.evidence_pack import pack, write_directory
from keyrotation_pipeline.assurance.verify_pack import is_good
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.model.audit import GENESIS, hash_of
from keyrotation_pipeline_tests.integration.test_database_owner import Office, office

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
        found = gather(pipeline, lambda _incident, _told: ())
        content = dict(pack(found, (), pipeline.signatures.roster()))
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

    for number, (change, sentence) in enumerate(
        (
            (other_officer, "was not signed by officers of the one before"),
            (only_one_signature, "began without 2 good signatures"),
            (request_of_another_name, "is of another one"),
        )
    ):
        forged = office.folder / f"forged{number}"
        assert write_directory(forged, forge(content, change))
        code, told = verified(forged)
        assert (code, sentence in told) == (1, True), told


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
