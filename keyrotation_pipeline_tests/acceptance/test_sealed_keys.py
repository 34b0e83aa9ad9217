"""Whole rotations of the demo, beside its application, with keys that AWS KMS seals."""

import base64
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pkcs11
import pytest

from keyrotation_pipeline.adapters.keystores import owner_only
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.assembly.backups import open_backups, recovery_key
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.audit.events import recorded
from keyrotation_pipeline.backups.catalog import read_key
from keyrotation_pipeline.backups.recovery_test import recovery_test
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.demo.run import DemoOutcome, approve, run_demo, working_application
from keyrotation_pipeline.errors import (
    ApprovalError,
    BlockedError,
    KeyRotationError,
    KeyStoreUnavailableError,
    PreflightError,
)
from keyrotation_pipeline.fieldcrypto import seal
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.key_events import KeysResealed
from keyrotation_pipeline.model.requests import Step, Walk
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.reporting.gathering import gather
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.rotation import runner, sealing
from keyrotation_pipeline.rotation.rollback import open_rollback
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline.rotation.sealing import reseal
from keyrotation_pipeline.settings import Settings, load
from keyrotation_pipeline_tests.cards import LIBRARY
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.tokens import PIN, SPY, Tokens, needs_softhsm, needs_spy
from keyrotation_pipeline_tests.waiting import eventually
from keyrotation_pipeline_tests.wrapping_keys import Kms

CLIENTS = 300


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with that of temporary files inside."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(seal, "_OPENED", seal._Opened())  # noqa: SLF001  as a process begins
    return tmp_path


def new_process() -> None:
    """Forget what this process has opened."""
    seal.forget_opened()


def sealed(folder: Path, kms: Kms, recovery: str = "officers") -> Settings:
    """The demo's settings under a seal from now on, with a key that has a replica."""
    path = folder / "keyrotation.toml"
    kms.replicated = True
    declared = f'kind = "aws-kms"\nkey_id = "{kms.key()}"\nrecovery = "{recovery}"\nendpoint_url = "{kms.url}"\n'
    path.write_text(f"{path.read_text()}\n[keys.seal]\n{declared}")
    return load(path)


def rotated() -> DemoOutcome:
    return run_demo(None, CLIENTS, lambda *_: None, lambda _: None, lambda *_: None)


def signed_policy(settings: Settings, officers: Sequence[DemoOfficer]) -> None:
    with open_pipeline(settings, actor="test") as pipeline:
        request = open_policy(pipeline, reason="keys at rest under a KMS", requested_by="test")
        approve(pipeline, request, officers, lambda _: None)
        change_policy(pipeline, request)


def files_with(keys: list[KeyMaterial], folder: Path) -> Iterator[Path]:
    """Every file that holds one of the keys, as bytes, base64 or hexadecimal."""
    wanted = [
        form
        for raw in map(raw_of, keys)
        for form in (raw, base64.b64encode(raw)[:42], base64.urlsafe_b64encode(raw)[:42], raw.hex().encode())
    ]
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            if any(form in content or form.upper() in content for form in wanted):
                yield path


def test_a_rotation_leaves_no_key_in_any_file_and_calls_the_kms_a_few_times(folder: Path, kms: Kms) -> None:
    prepare(None)
    settings = sealed(folder, kms, "sealed")
    outcome = rotated()

    assert outcome.holds
    assert max(kms.calls_by_process().values()) <= 10
    with open_pipeline(settings, actor="test") as pipeline:
        reported, shown = gather(pipeline).report.key_storage_key, overview(pipeline).wrapping_key
    assert reported is not None
    assert shown is not None
    assert reported.origin == shown.origin.said == ("Origin AWS_KMS", "KeyManager CUSTOMER", "MultiRegion false")
    opened = seal._OPENED._keys.values()  # noqa: SLF001  what this process holds in memory
    made = [each for each in opened if isinstance(each, KeyMaterial)]
    assert {each.fingerprint for each in made} >= {each.fingerprint for each in outcome.keys}
    assert not list(files_with(made, folder))
    planted = folder / "temporary" / "planted"
    planted.write_bytes(b"x" + raw_of(made[0]))
    assert list(files_with(made, folder)) == [planted]


def died(*_: object) -> None:
    """As a process that is killed once all is sealed, and before that is recorded."""
    raise KeyboardInterrupt


def test_a_home_is_sealed_once_its_application_has_opened_the_canary(
    folder: Path, kms: Kms, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, officers = prepare(None)
    assert rotated().holds
    settings = sealed(folder, kms)
    with open_pipeline(settings, actor="test") as pipeline, pytest.raises(ApprovalError, match="have not signed"):
        reseal(pipeline)
    initialise(settings, None, actor="test")
    assert not (settings.home / "keys" / "canary").exists()
    signed_policy(settings, officers)
    with open_pipeline(settings, actor="test") as pipeline:
        with pytest.raises(PreflightError, match=r"v1,v2 in the key store is not under aws-kms .*reseal"):
            open_request(pipeline, reason="too early", requested_by="test")
        with pytest.raises(BlockedError, match="no instance has opened the canary"):
            reseal(pipeline)
        with working_application(settings) as application:
            assert eventually(lambda: any(each.opens_sealed for each in pipeline.rollout.instances()))
            with monkeypatch.context() as dying:
                dying.setattr(sealing, "KeysResealed", died)
                with pytest.raises(KeyboardInterrupt):
                    reseal(pipeline)
            assert application.stop()["errors"] == 0
        for _ in range(2):
            assert not reseal(pipeline).versions
        assert [list(map(str, each.versions)) for each in recorded(pipeline.ledger, KeysResealed)] == [["v1", "v2"]]
    texts = {each: each.read_text() for each in (settings.home / "keys").rglob("*.key")}
    assert [text.startswith("sealed:aws-kms:") for text in texts.values()] == [True, True]
    live = settings.home / "keys" / "v2.key"
    with open_pipeline(settings, actor="test") as pipeline:
        owner_only.write(live, base64_of(pipeline.keys.read().material(KeyVersion(2))))
        found = overview(pipeline).attention
        assert any(
            re.search(r"v2 in the key store is not under aws-kms .*; run `keyrotation reseal`", each) for each in found
        )
        owner_only.write(live, texts[live])
    new_process()
    assert rotated().holds


@pytest.mark.parametrize("recovery", ["officers", "sealed"])
def test_what_backups_hold_opens_without_the_kms_as_officers_signed_it(folder: Path, kms: Kms, recovery: str) -> None:
    _, officers = prepare(None)
    settings = sealed(folder, kms, recovery)
    assert rotated().holds
    secret = folder / "recovery.asc"
    secret.write_bytes(officers[0].gpg("--armor", "--export-secret-keys"))
    with open_backups(settings, actor="test") as site, recovery_key(settings, secret) as key:
        report = recovery_test(site, key, lambda *_: None)
        assert ("aws-kms" in report.recovery_key) is (recovery == "sealed")
        kms.refuses["Decrypt"] = "NotFoundException"
        kept = site.kept()
        copies = [(sets.place, copy) for sets in kept for made in sets.sets for copy in made.keys]
        assert {str(copy.version) for _, copy in copies} == {"v1", "v2"}
        new_process()
        for place, copy in copies:
            if recovery == "officers":
                assert read_key(place, copy, key).fingerprint == copy.fingerprint
            else:
                with pytest.raises(KeyStoreUnavailableError, match=r"refuses Decrypt with arn.*NotFoundException"):
                    read_key(place, copy, key)
        new_process()
        with pytest.raises(KeyStoreUnavailableError):
            site.pipeline.keys.read()


@pytest.mark.parametrize(
    "here", [None, pytest.param("sealed", id="the configuration here says sealed", marks=pytest.mark.extended)]
)
def test_recovery_goes_on_without_the_kms_where_officers_open_the_backups(
    folder: Path, kms: Kms, server: Server, monkeypatch: pytest.MonkeyPatch, here: str | None
) -> None:
    _, officers = prepare(None)
    settings = sealed(folder, kms)
    assert rotated().holds
    secret = folder / "recovery.asc"
    secret.write_bytes(officers[0].gpg("--armor", "--export-secret-keys"))
    with open_pipeline(settings, actor="test") as pipeline:
        signer = pipeline.backup_signer
    (empty := folder / "empty").mkdir()
    monkeypatch.chdir(empty)
    if here is not None:
        text = (folder / "keyrotation.toml").read_text().replace('recovery = "officers"', f'recovery = "{here}"')
        (empty / "keyrotation.toml").write_text(text)
    kms.refuses.update(dict.fromkeys(("Encrypt", "Decrypt", "DescribeKey"), "NotFoundException"))
    command = ["keyrotation", "recover", "--from", str(settings.backup_directory), "--key", str(secret), "--json"]
    command += [
        "--signer",
        str(signer),
        "--server",
        server.url("postgres"),
        "--into",
        f"recovered_{here}_{os.getpid()}".lower(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "keys lie unsealed here (AWS KMS refuses DescribeKey" in done.stdout
    # What is here stays as it is; the backup's is written without the seal.
    assert ('# kind = "aws-kms"' in (empty / "keyrotation.toml").read_text()) is (here is None)
    stored = FileKeyStore(empty / ".keyrotation" / "keys").read()
    assert {str(version) for version in stored.versions} == {"v1", "v2"}
    assert stored.materials


@needs_softhsm
@pytest.mark.extended
@pytest.mark.parametrize("recovery", ["officers", "sealed"])
def test_a_rotation_and_a_recovery_with_a_token(
    folder: Path, tokens: Tokens, server: Server, monkeypatch: pytest.MonkeyPatch, recovery: str
) -> None:
    value = os.urandom(32)
    tokens.add("replica")
    for label in ("clinic", "replica"):
        tokens.add_key(label, value=value)
    monkeypatch.setenv("HSM_PIN", PIN)
    _, officers = prepare(None)
    path = folder / "keyrotation.toml"
    path.write_text(f"{path.read_text()}\n{tokens.section(recovery)}")
    settings = load(path)
    outcome = rotated()
    assert outcome.holds
    assert all(text.startswith("sealed:pkcs11:") for text in texts_in(settings.home))
    opened = seal._OPENED._keys.values()  # noqa: SLF001  what this process holds in memory
    made = [each for each in opened if isinstance(each, KeyMaterial)]
    assert {each.fingerprint for each in made} >= {each.fingerprint for each in outcome.keys}
    assert not list(files_with(made, folder))

    secret = folder / "recovery.asc"
    secret.write_bytes(officers[0].gpg("--armor", "--export-secret-keys"))
    with open_pipeline(settings, actor="test") as pipeline:
        signer = pipeline.backup_signer
    (empty := folder / "empty").mkdir()
    monkeypatch.chdir(empty)
    lost = ("clinic", "replica") if recovery == "officers" else ("clinic",)
    for label in lost:
        subprocess.run(["softhsm2-util", "--delete-token", "--token", label], check=True, capture_output=True)
    command = ["keyrotation", "recover", "--from", str(settings.backup_directory), "--key", str(secret), "--json"]
    command += [
        "--signer",
        str(signer),
        "--server",
        server.url("postgres"),
        "--into",
        f"recovered_{recovery}_{os.getpid()}",
    ]
    if recovery == "sealed":
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "ENCRYPTION_PKCS11_MODULE is not set; set it" in done.stderr
        for name, text in (("MODULE", str(LIBRARY)), ("PIN", PIN), ("REPLICA_TOKEN", "replica")):
            monkeypatch.setenv(f"ENCRYPTION_PKCS11_{name}", text)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert ("keys lie unsealed here (token 'clinic'" in done.stdout) is (recovery == "officers")
    assert {text.startswith("sealed:pkcs11:") for text in texts_in(empty / ".keyrotation")} == {recovery == "sealed"}


@needs_softhsm
@needs_spy
def test_a_rotation_logs_in_to_a_token_a_few_times_in_each_process(
    folder: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the calls that OpenSC's spy sees, in the mode that needs the most."""
    value, log = os.urandom(32), folder / "spy.log"
    tokens.add("replica")
    for label in ("clinic", "replica"):
        tokens.add_key(label, value=value)
    for name, text in (("HSM_PIN", PIN), ("PKCS11SPY", str(LIBRARY)), ("PKCS11SPY_OUTPUT", str(log))):
        monkeypatch.setenv(name, text)
    prepare(None)
    path = folder / "keyrotation.toml"
    path.write_text(f"{path.read_text()}\n{tokens.section('sealed', Path(str(SPY)))}")
    assert rotated().holds
    logins = Counter(re.findall(r"C_Login\nP:([0-9]+);", log.read_text()))
    assert len(logins) > 1  # the application's, too
    assert max(logins.values()) <= 10


@needs_softhsm
def test_a_module_that_officers_have_not_signed_is_loaded_by_nothing_until_they_have(
    folder: Path, tokens: Tokens, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is code: a copy of the same library, as after an upgrade of it, or whatever somebody wrote there."""
    tokens.add_key()
    monkeypatch.setenv("HSM_PIN", PIN)
    _, officers = prepare(None)
    path = folder / "keyrotation.toml"
    before = path.read_text()
    section = tokens.section().replace('replica_token_label = "replica"\n', "")
    path.write_text(f"{before}\n{section}")
    assert rotated().holds
    other = folder / "other.so"
    shutil.copy(LIBRARY, other)
    path.write_text(f"{before}\n{section.replace(str(LIBRARY), str(other))}")
    new_process()
    settings, loaded = load(path), list[str]()
    with monkeypatch.context() as patched:
        patched.setattr(pkcs11, "lib", loaded.append)
        with open_pipeline(settings, actor="test") as pipeline:
            found = overview(pipeline).attention
            assert any(
                re.search(r"cannot be opened by the module .*other.so, which officers have not", e) for e in found
            )
            with pytest.raises(KeyRotationError):
                open_request(pipeline, reason="too early", requested_by="test")
            request = open_policy(pipeline, reason="an upgrade of the module", requested_by="test")
            approve(pipeline, request, officers, lambda _: None)
            change_policy(pipeline, request)
        assert not loaded
    with open_pipeline(settings, actor="test") as pipeline:
        assert pipeline.keys.read().materials
        assert not [each for each in overview(pipeline).attention if "module" in each]
    assert rotated().holds


def texts_in(home: Path) -> list[str]:
    """What a home's store of files holds."""
    return [each.read_text() for each in (home / "keys").rglob("*.key")]


def walked(pipeline: Pipeline, request: Walk, officers: Sequence[DemoOfficer], through: Step | None = None) -> None:
    approve(pipeline, request, officers, lambda _: None)
    for _ in runner.run(pipeline, request.id, lambda *_: None, through=through):
        pass


def test_an_emergency_and_a_rollback_under_a_seal(folder: Path, kms: Kms) -> None:
    _, officers = prepare(None)
    settings = sealed(folder, kms)
    assert rotated().holds
    with open_pipeline(settings, actor="test") as pipeline, working_application(settings) as application:
        assert eventually(lambda: any(each.opens_sealed for each in pipeline.rollout.instances()))
        emergency = open_request(pipeline, reason="a leak", requested_by="test", incident="INC-1")
        walked(pipeline, emergency, officers)
        further = open_request(pipeline, reason="and once more", requested_by="test")
        walked(pipeline, further, officers, Step.PRIMARY_KEY_ROLLOUT)
        undone = open_rollback(pipeline, pipeline.ledger.walk(further.id), reason="not yet", requested_by="test")
        walked(pipeline, undone, officers)
        stored = pipeline.keys.read()
        tally = application.stop()
    assert (str(stored.primary), tally["errors"], tally["lost_writes"]) == ("v3", 0, 0)
    texts = [each.read_text() for each in (settings.home / "keys").rglob("*.key")]
    assert [text for text in texts if not text.startswith("sealed:aws-kms:")] == []
