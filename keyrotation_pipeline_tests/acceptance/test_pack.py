"""The pack that an auditor checks without this program, and everybody who edits one on its way."""

import base64
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from html import escape
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.openssl import OpenSSL
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.assembly.offline import officers_of
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.incidents.assessing import answers_in, assess, sign_assessment, text_to_sign
from keyrotation_pipeline.incidents.opening import open_incident
from keyrotation_pipeline.model.incidents import Flag
from keyrotation_pipeline.ports.approvals import SignatureVerifier
from keyrotation_pipeline.reporting.pack_files import MANIFEST, SIGNATURE
from keyrotation_pipeline.reporting.verify_pack import check_pack
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.test_cli import Clinic, fill, officers
from keyrotation_pipeline_tests.packs import manifest_again, rewrite, sign_again, verified
from keyrotation_pipeline_tests.servers import Server, copy_of
from keyrotation_pipeline_tests.timestamp_authority import certified, serving

__all__ = ["officers"]
ORGANISATION = "Klinik <Süd> & Partner"
NOT_SIGNED = "pack.json.sig is not a signature on pack.json by the pipeline's key"


@dataclass
class Packed:
    """A pack of a clinic that has rotated its key once and had an incident, and whoever could sign for it."""

    pack: Path
    clinic: Clinic
    request: str
    officers_of_it: SignatureVerifier

    def sign(self, content: bytes) -> bytes:
        return signing_key(settings.load(self.clinic.path)).sign(content)

    def differences(self, pack: Path, *heads: str) -> str:
        """What the program would find, by the same code in this process, with one memory of signatures."""
        return "\n".join(
            check_pack(pack, heads, lambda _files: self.officers_of_it, openssl, SystemClock().now()).differences
        )


openssl = cache(OpenSSL.found)


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, server: Server, officers: tuple[DemoOfficer, DemoOfficer]
) -> Iterator[Packed]:
    folder, key = tmp_path_factory.mktemp("packed"), KeyMaterial.generate()
    with copy_of(server, "template1") as url, ExitStack() as applications:
        fill(url, key)
        clinic = Clinic(Folder(folder, []), officers, key, url, applications)
        clinic.initialise()
        with serving(certified(folder / "authority")) as authority:
            clinic.path.write_text(
                f'{clinic.path.read_text()}\n[audit]\ntimestamp_url = "{authority.url}"\n'
                f'timestamp_certificates = ["{authority.root}"]\n[report]\norganisation = "{ORGANISATION}"\n'
            )
            request = clinic.approved_request(*clinic.officers)
            clinic.walk(request)
            _incident(clinic)
            clinic.run("report", "--format", "pack", "--output", str(folder / "pack"))
        memory = officers_of({each.name: each.read_bytes() for each in (folder / "pack").glob("officers/*.now.pgp")},
                             tmp_path_factory.mktemp("gpg"))  # fmt: skip
        yield Packed(folder / "pack", clinic, request, memory)


def _incident(clinic: Clinic) -> None:
    with open_pipeline(settings.load(clinic.path), actor="test") as pipeline:
        now = pipeline.clock.now()
        incident = open_incident(pipeline, Flag("1", "test", "key_exposed", "in a log", now, versions=("v1",)))
        found = assess(pipeline, incident.id, answers_in({"key_breached": "no", "key_kept_apart": "yes"}), "ada")
        text = text_to_sign(pipeline, found)
        for officer in clinic.officers:
            sign_assessment(pipeline, incident.id, officer.sign(text))


@pytest.fixture
def pack(made: Packed, tmp_path: Path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(made.pack, tmp_path / "pack"))


def test_a_finished_rotation_is_reported_and_its_pack_is_checked_offline(made: Packed, pack: Path) -> None:
    clinic, request = made.clinic, made.request
    require_report_of(clinic, request, json.loads((pack / "report.json").read_text()))
    envelope = json.loads(clinic.run("report", "--format", "certificate"))  # of the last rotation
    assert "v1 (archived): 0 of " in clinic.error
    assert "the database refuses v1" in clinic.error
    require_certificate_of(request, json.loads(base64.b64decode(envelope["payload"])))
    clinic.run("report", "--format", "pack", "--output", str(made.pack), expect=1)
    assert "already exists" in clinic.error
    assert no_content(pack)


def test_a_pack_holds_offline_and_says_what_it_does_not_cover(made: Packed, pack: Path) -> None:
    code, said = verified(pack)
    assert code == 0, said
    assert said.startswith(
        "everything that was checked holds; without a head from elsewhere, all of it may be forged\n"
    )
    assert "--witness URL" in verified(pack, "--help")[1]
    with pytest.raises(AssertionError, match="a head has 64 hex digits"):
        verified(pack, "ab" * 31)
    head = json.loads((pack / "pack.json").read_text())["audit"]
    for typed in (f"{head['seq']} {head['hash']}", f"Audit head: {head['seq']} {head['hash'].upper()}"):
        assert verified(pack, typed)[1].startswith("everything that was checked holds\n")
    unquoted = ("Audit", "head:", str(head["seq"]), head["hash"])
    for words in (unquoted, unquoted[2:]):
        assert verified(pack, *words)[1].startswith("everything that was checked holds\n")
    readme = (pack / "README.txt").read_text()
    officers = json.loads((pack / "report.json").read_text())["policy"]["officers"]
    assert all(each["fingerprint"] in readme for each in officers)
    assert ORGANISATION in readme
    assert json.loads((pack / "pack.json").read_text())["audit"]["hash"] in readme
    for line in (
        "1  pack.json, signed by the pipeline's key",
        "2  manifests of backups, with their signatures",
        "1  certificates of key death, by the audit",
        "1  certificates of key death, by openssl",
        "2  time stamps, by openssl",
        "not covered  whether this audit is the one you know",
        "not covered  whether whoever has the database, the home and its key has cut or rewritten the audit",
        "not covered  the backups themselves",
        "not covered  this program",
    ):
        assert line in said, said
    with open_pipeline(settings.load(made.clinic.path), actor="test") as pipeline:
        _, signed_over = pipeline.ledger.request(made.request).audit_head
    assert verified(pack, signed_over)[0] == 0
    code, said = verified(pack, "--witness", "https://witness.example")
    assert (code, "https://witness.example is not a witness that officers have signed" in said) == (1, True)
    code, said = verified(pack, "ab" * 32)
    assert (code, "the chain does not lead through" in said) == (1, True)
    assert made.differences(pack) == ""
    stated = json.loads((pack / "report.json").read_text())["parameters"]["stated"]
    assert all(each.startswith("OpenSSL ") for each in stated.pop("cryptography")["modules"])
    assert stated == {
        "organisation": ORGANISATION, "rto_seconds": 14400, "rpo_seconds": 90000,
    }  # fmt: skip
    assert escape(ORGANISATION) in (pack / "report.html").read_text()


@pytest.mark.parametrize("form", ["html", "json", "oscal"])
def test_a_report_written_alone_is_known_again_and_a_changed_one_is_refused(
    made: Packed, tmp_path: Path, form: str
) -> None:
    file, clinic = tmp_path / f"report.{form}", made.clinic
    clinic.run("report", "--format", form, "--output", str(file))
    assert f"{file.name} is the report that event" in clinic.run("audit", "verify", "--anchor", str(file))
    for before, after in (("v1", "v7"), ("\n", "\n\n")):
        text = file.read_text()
        (tmp_path / "other").write_text(text.replace(before, after, 1))
        assert (tmp_path / "other").read_text() != text
        clinic.run("audit", "verify", "--anchor", str(tmp_path / "other"), expect=1)
        assert clinic.error.startswith("other is not a report as this audit has recorded one")
        assert len(clinic.error.splitlines()) == 1


def test_a_report_that_the_audit_does_not_know_is_refused(made: Packed, tmp_path: Path) -> None:
    """Of another clinic, or made up around a real head."""
    head = json.loads((made.pack / "pack.json").read_text())["audit"]
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html>\nAudit head: {head['seq']} {head['hash']}\n<p>Stamped by DigiCert TSA</p>")
    made.clinic.run("audit", "verify", "--anchor", str(page), expect=1)
    assert "page.html is not a report as this audit has recorded one" in made.clinic.error
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 6000)
    made.clinic.run("audit", "verify", "--anchor", str(deep), expect=1)
    assert "names no audit head" in made.clinic.error
    os.truncate(deep, 8 << 30)
    made.clinic.run("audit", "verify", "--anchor", str(deep), expect=1)
    assert "deep.json is larger than 256 MiB" in made.clinic.error


def test_the_reports_of_a_pack_are_known_again_by_the_audit(made: Packed) -> None:
    for name in ("report.html", "report.json", "pack.json"):
        assert "is the report that event" in made.clinic.run("audit", "verify", "--anchor", str(made.pack / name))


def require_report_of(clinic: Clinic, request: str, shown: dict[str, Any]) -> None:
    assert shown["schema"] == 5
    (rotation,) = shown["requests"]
    assert (rotation["id"], rotation["status"], rotation["records_reencrypted"]) == (request, "finished", 600)
    assert [each["officer"] for each in rotation["approvals"]] == [officer.name for officer in clinic.officers]
    assert rotation["retirement"]
    assert {key["version"]: key["state"] for key in shown["keys"]} == {"v1": "archived", "v2": "active"}


def require_certificate_of(request: str, statement: dict[str, Any]) -> None:
    said = statement["predicate"]
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert [(key["version"], key["state"]) for key in said["keys"]] == [("v1", "archived")]
    assert [each["digest"]["sha256"] for each in statement["subject"]] == [key["fingerprint"] for key in said["keys"]]
    assert (said["rotation"], said["rows"]["old_values"], said["rows"]["fenced_against"]) == (request, 0, ["v1"])
    assert said["undeclared_columns"]["not_searched"]
    assert said["not_seen"]
    assert said["applications"]["taken_from_key_store"] == ["v1"]
    assert said["backups_that_need_it"] == [], "only keys were backed up"


def no_content(pack: Path) -> bool:
    """None of the plaintexts, and no value of ours."""
    parts = (b"name 1", b"memo 1", b'"v1:', b">v1:", b"PRIVATE KEY-----")
    return not any(part in file.read_bytes() for file in pack.rglob("*") if file.is_file() for part in parts)


# Who edits a pack, and what is said about it: by whoever has no key of the pipeline, whatever hashes are written; and
# in the second column by the check of its own, if the pipeline's key itself had signed for it.
Edit = Callable[[Path], object]


def text_in(name: str, before: str, after: str) -> Edit:
    def edit(pack: Path) -> None:
        (file,) = pack.glob(name)
        text = file.read_text(encoding="utf-8")
        assert before in text, name
        file.write_text(text.replace(before, after, 1), encoding="utf-8")

    return edit


def json_in(name: str, change: Callable[[Any], object]) -> Edit:
    def edit(pack: Path) -> None:
        content = json.loads((pack / name).read_text(encoding="utf-8"))
        change(content)
        (pack / name).write_text(f"{json.dumps(content, indent=2, ensure_ascii=False)}\n", encoding="utf-8")

    return edit


def without(pattern: str) -> Edit:
    def edit(pack: Path) -> None:
        min(pack.glob(pattern)).unlink()

    return edit


def nested(name: str) -> Edit:
    def edit(pack: Path) -> None:
        (pack / next(each.relative_to(pack) for each in sorted(pack.glob(name)))).write_text("[" * 6000)

    return edit


def statement(change: Callable[[dict[str, Any]], object]) -> Edit:
    def edit(pack: Path) -> None:
        (file,) = (pack / "certificates").iterdir()
        envelope = json.loads(file.read_text())
        said = json.loads(base64.b64decode(envelope["payload"]))
        change(said["predicate"])
        envelope["payload"] = base64.b64encode(json.dumps(said).encode()).decode()
        file.write_text(json.dumps(envelope))

    return edit


def events(change: Callable[[list[dict[str, Any]]], Sequence[dict[str, Any]] | None]) -> Edit:
    return lambda pack: rewrite(pack, change)


def of_kind(bodies: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(each for each in bodies if each["event"] == kind)["facts"]  # type: ignore[no-any-return]


def last_hash(pack: Path) -> None:
    """An event changed under its old hash."""
    audit = pack / "audit.jsonl"
    audit.write_text(audit.read_text().replace("yearly rotation", "another reason", 1))


def swapped(pattern: str) -> Edit:
    def edit(pack: Path) -> None:
        first, second = sorted(pack.glob(pattern))[:2]
        one, other = first.read_bytes(), second.read_bytes()
        first.write_bytes(other)
        second.write_bytes(one)

    return edit


def link_to_a_folder(pack: Path) -> None:
    shutil.move(pack / "backups", pack.parent / "elsewhere")
    (pack / "backups").symlink_to(pack.parent / "elsewhere")


def link_to_a_file(pack: Path) -> None:
    shutil.move(pack / "report.html", pack.parent / "page")
    (pack / "report.html").symlink_to(pack.parent / "page")


def pipe(pack: Path) -> None:
    (pack / "report.html").unlink()
    os.mkfifo(pack / "report.html")


def sparse(name: str) -> Edit:
    """A file that says to have 8 GiB, and takes no room."""

    def edit(pack: Path) -> None:
        os.truncate(pack / name, 8 << 30)

    return edit


SEALED = "is not the manifest that was sealed"
OTHERWISE = "says what the audit does not"
NAMED = "is not the file that pack.json names"
REMADE = "report.json is not what the audit gives"
EDITS: dict[str, tuple[Edit, str, str]] = {
    "a passed recovery test on the page": (
        text_in("report.html", "</body>", "<p>Quarterly recovery test 2026-11-01 passed</p></body>"), NAMED, ""),
    "an authority on the page": (text_in("report.html", "</body>", "<p>Stamped by DigiCert TSA</p></body>"), NAMED, ""),
    "an incident gone from the report": (json_in("report.json", lambda r: r["incidents"].clear()), NAMED, REMADE),
    "a recovery test in the report": (
        json_in("report.json", lambda r: r["recovery_tests"].append(
            {"at": "2026-11-01T00:00:00+00:00", "place": "s3", "failure": None})), NAMED, REMADE),
    "another algorithm in the report": (
        json_in("report.json", lambda r: r["algorithm"].update(key_bits=512)), NAMED, REMADE),
    "another state of a key in the report": (
        json_in("report.json", lambda r: r["keys"][0].update(state="destroyed")), NAMED, REMADE),
    "another organisation in the report": (
        json_in("report.json", lambda r: r["parameters"]["stated"].update(organisation="Mallory")), NAMED, ""),
    "a section met in the report": (
        json_in("report.json", lambda r: [each.update(verdict="met") for each in r["conclusions"]]), NAMED, REMADE),
    "a line ticked in the report": (
        json_in("report.json", lambda r: r["checklists"][0]["lines"][1].update(at="2026-01-01T00:00:00+00:00")),
        NAMED, REMADE),
    "a backup's manifest removed": (without("backups/*.json"), "is missing", SEALED),
    "the signature of a backup's manifest removed": (
        without("backups/*.sig"), "is missing", SEALED),
    "a backup's manifest and its signature removed": (
        lambda pack: (without("backups/*.json")(pack), without("backups/*.sig")(pack)), "is missing", ""),
    "a certificate of key death removed": (without("certificates/*"), "is missing", ".dsse.json is missing"),
    "an officer's certificate as it is now removed": (without("officers/*.now.pgp"), "is missing", ""),
    "an officer's pinned certificate removed": (
        without("officers/*.2.pgp"), "is missing", ".2.pgp is not what the audit says"),
    "an officer's signature removed": (without("approvals/*.sig"), "is missing", ".sig is not what the audit says"),
    "the program replaced": (
        lambda pack: (pack / "verify.py").write_text("raise SystemExit(0)\n"), NAMED, ""),
    "the schema removed": (without("report.schema.json"), "json is missing", "report.schema.json is missing"),
    "the page removed": (without("report.html"), "report.html is missing", "report.html is missing"),
    "the report removed": (without("report.json"), "report.json is missing", "report.json is missing"),
    "the audit removed": (without("audit.jsonl"), "audit.jsonl has no event", "-"),
    "the manifest removed": (without("pack.json"), "pack.json is not a manifest", "-"),
    "the manifest's signature removed": (without("pack.json.sig"), NOT_SIGNED, "-"),
    "a file added": (
        lambda pack: (pack / "officers" / "mallory.pgp").write_bytes(b"x"), "does not belong to the pack",
        "officers/mallory.pgp does not belong to the pack"),
    "a manifest of a backup added": (
        lambda pack: (pack / "backups" / "manifest-2.json").write_bytes(b"{}"), "does not belong to the pack",
        "backups/manifest-2.json does not belong to the pack"),
    "a certificate of key death added": (
        lambda pack: (pack / "certificates" / f"{'0f' * 16}.dsse.json").write_bytes(b"{}"),
        "does not belong to the pack", ".dsse.json does not belong to the pack"),
    "a folder that is a link": (link_to_a_folder, "backups is not a regular file", "-"),
    "a page that is a link": (link_to_a_file, "report.html is not a regular file", "-"),
    "a page that is a pipe": (pipe, "report.html is not a regular file", "-"),
    "a page of 8 GiB": (sparse("report.html"), "report.html makes the pack larger than 1 GiB; it was not read", "-"),
    "an audit of 8 GiB": (sparse("audit.jsonl"), "audit.jsonl makes the pack larger than 1 GiB; it was not read", "-"),
    "deeply nested JSON for the manifest": (nested("pack.json"), "pack.json is not a manifest", "-"),
    "deeply nested JSON for the report": (nested("report.json"), NAMED, "of report.json can be read"),
    "deeply nested JSON for a certificate of key death": (nested("certificates/*"), NAMED, ".dsse.json can be read"),
    "deeply nested JSON for a backup's manifest": (nested("backups/*.json"), NAMED, SEALED),
    "deeply nested JSON for the audit": (nested("audit.jsonl"), "line 1 of audit.jsonl is not an event", "-"),
    "deeply nested JSON for the schema": (nested("report.schema.json"), NAMED, ""),
    "a certificate that says more": (
        statement(lambda said: said["undeclared_columns"].update(not_searched=[])), NAMED, OTHERWISE),
    "a certificate that forgets its limits": (
        statement(lambda said: said.update(not_claimed=[])), NAMED, OTHERWISE),
    "a certificate without the backups that need the key": (
        statement(lambda said: said.update(backups_that_need_it=[{"dump": "x"}])), NAMED,
        "is not signed by the pipeline's key"),
    "an event changed under its hash": (last_hash, "does not follow event", "-"),
    "an event removed": (events(lambda all_: all_[:5] + all_[6:]), "event", "event"),
    "the end cut off": (events(lambda all_: all_[:-1]), "pack.json is of another audit", REMADE),
    "another reason, hashed again": (
        events(lambda all_: of_kind(all_, "request_opened").update(reason="another reason")), NAMED, "event"),
    "another reason in the signed text": (
        events(lambda all_: of_kind(all_, "request_opened").update(
            approval_text=of_kind(all_, "request_opened")["approval_text"].replace("yearly", "weekly"))),
        NAMED, "event"),
    "a signature that was never made": (
        events(lambda all_: of_kind(all_, "signature_added").update(signature="")), NAMED, "event"),
    "one officer who signs for both": (
        events(lambda all_: [each["facts"].update(signature=of_kind(all_, "signature_added")["signature"])
                             for each in all_ if each["event"] == "signature_added"] and None), NAMED, "event"),
    "an authority's certificate replaced": (
        lambda pack: min(pack.glob("timestamps/*.pem")).write_bytes(b"x"), NAMED, ".pem is not what the audit says"),
    "signatures of officers swapped": (swapped("approvals/*.sig"), NAMED, ".sig is not what the audit says"),
    "signatures of manifests swapped": (swapped("backups/*.sig"), NAMED, SEALED),
    "a time stamp of another moment": (
        events(lambda all_: of_kind(all_, "audit_timestamped").update(stamped_at="2019-01-01T00:00:00+00:00")), NAMED,
        "does not verify"),
    "a key destroyed by nobody": (
        events(lambda all_: of_kind(all_, "key_registered").update(state="destroyed")), NAMED, "event"),
}  # fmt: skip


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_pack_is_refused_with_new_hashes_and_without(made: Packed, pack: Path, name: str) -> None:
    edit, sentence, _ = EDITS[name]
    edit(pack)
    said = made.differences(pack)
    assert sentence in said, said
    if (pack / "audit.jsonl").is_file() and name not in UNREADABLE:
        manifest_again(pack)
        assert NOT_SIGNED in made.differences(pack)


UNREADABLE = {name for name, (_, _, by_its_own) in EDITS.items() if by_its_own == "-"}


@pytest.mark.parametrize("name", sorted(name for name, (*_, own) in EDITS.items() if own not in {"", "-"}))
def test_what_the_audit_says_is_compared_even_where_the_pipeline_has_signed(
    made: Packed, pack: Path, name: str
) -> None:
    edit, _, sentence = EDITS[name]
    edit(pack)
    sign_again(pack, signing_key(settings.load(made.clinic.path)))
    manifest_again(pack, made.sign)
    said = made.differences(pack)
    assert NOT_SIGNED not in said
    assert sentence in said, said


def test_a_key_that_was_named_after_the_last_signed_text_signs_for_nothing(made: Packed, pack: Path) -> None:
    """Whoever passes a pack on can append to its audit, and so can the database's owner, after the officers."""
    other = Ed25519PrivateKey.generate()
    public = other.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pinned = {"event": "backup_key_pinned", "facts": {"public": base64.b64encode(public).decode()}, "request": None}
    rewrite(pack, lambda all_: [*all_, {**all_[-1], **pinned}])
    manifest_again(pack, other.sign)
    assert NOT_SIGNED in made.differences(pack)


def test_a_signature_on_something_else_is_none_on_the_manifest(made: Packed, pack: Path) -> None:
    manifest = min((pack / "backups").glob("*.json"))
    (pack / MANIFEST).write_bytes(manifest.read_bytes())
    (pack / SIGNATURE).write_bytes((pack / "backups" / f"{manifest.name}.sig").read_bytes())
    assert "pack.json is not a manifest" in made.differences(pack)


@pytest.mark.parametrize("missing", ["gpg", "openssl"])
def test_a_missing_program_is_a_failure(
    pack: Path, tmp_path: Path, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = tmp_path / "bin"
    there.mkdir()
    for program in {"gpg", "openssl"} - {missing}:
        (there / program).symlink_to(shutil.which(program) or "")
    code, said = verified(pack, path=str(there))
    assert code == 1
    assert f"DIFFERENT    {missing} is not installed" in said


def test_a_program_that_is_a_link_checks_where_it_was_typed(pack: Path, tmp_path: Path) -> None:
    """Not the good pack that it leads to."""
    good = Path(shutil.copytree(pack, tmp_path / "good"))
    EDITS["an authority on the page"][0](pack)
    (pack / "verify.py").unlink()
    (pack / "verify.py").symlink_to(good / "verify.py")
    code, said = verified(pack)
    assert (code, "verify.py is not a regular file" in said) == (1, True)
    assert "report.html is not the file that pack.json names" in said


def test_an_edited_pack_ends_its_own_program_with_1_and_without_a_traceback(pack: Path) -> None:
    EDITS["a passed recovery test on the page"][0](pack)
    code, said = verified(pack)
    assert (code, "DIFFERENT    report.html is not the file that pack.json names" in said) == (1, True)
    EDITS["deeply nested JSON for the audit"][0](pack)
    code, said = verified(pack)
    assert (code, "DIFFERENT    line 1 of audit.jsonl is not an event" in said) == (1, True)
    EDITS["a page of 8 GiB"][0](pack)
    code, said = verified(pack)
    assert (code, "DIFFERENT    report.html makes the pack larger than 1 GiB; it was not read" in said) == (1, True)
