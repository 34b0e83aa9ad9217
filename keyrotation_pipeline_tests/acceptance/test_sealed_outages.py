"""Outages of a KMS and of a token under every store: what is refused, in which words, and that nothing is changed.

Kubernetes is a real API server. After each outage the same command goes on.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import open_pipeline
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import KeyRotationError
from keyrotation_pipeline.fieldcrypto import seal as sealing
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.wrapping_keys import pkcs11
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline_tests.acceptance.test_every_store import CONFIGURATION, ROWS, V1, Clinic
from keyrotation_pipeline_tests.acceptance.test_sealed_stores import held_in, in_kms, in_token
from keyrotation_pipeline_tests.api_server import needs_api_server, new_namespace
from keyrotation_pipeline_tests.buckets import CREDENTIALS
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.fleets import TestFleet
from keyrotation_pipeline_tests.key_places import AwsPlace, KubernetesPlace
from keyrotation_pipeline_tests.servers import Server
from keyrotation_pipeline_tests.tokens import PIN, Tokens, needs_softhsm
from keyrotation_pipeline_tests.waiting import eventually
from keyrotation_pipeline_tests.wrapping_keys import Kms, id_of

pytestmark = pytest.mark.extended
_numbers = itertools.count()
_APPLICATION = """
import os, sys
from sqlalchemy import create_engine
from keyrotation_pipeline.encrypted_type import MountedKeyRing, SecretsManagerKeyRing, attest

url, secret, mounted = sys.argv[1:]
if secret:
    import boto3
    keys = SecretsManagerKeyRing(boto3.client("secretsmanager"), secret, every_seconds=0)
else:
    keys = MountedKeyRing(mounted)
try:
    keys()
except Exception as error:
    sys.exit(str(error))
engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
attest(engine, keys, instance="web", every_seconds=0.3)
print("started", flush=True)
for _ in sys.stdin:
    print(*map(str, keys.reload().versions), flush=True)
"""


@dataclass
class FilePlace:
    """The home's own directory of keys."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    init_options: tuple[str, ...] = ()

    @property
    def keys(self) -> Path:
        return self.folder / ".keyrotation" / "keys"

    def configuration(self) -> str:
        return ""

    def give(self, key: KeyMaterial) -> None:
        self.monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64_of(key))


Place = FilePlace | AwsPlace | KubernetesPlace


@contextmanager
def file(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield FilePlace(request.getfixturevalue("tmp_path"), request.getfixturevalue("monkeypatch"))


@contextmanager
def aws(request: pytest.FixtureRequest) -> Iterator[Place]:
    secret = request.getfixturevalue("new_secret")()
    request.getfixturevalue("monkeypatch").setenv("AWS_ENDPOINT_URL_SECRETS_MANAGER", secret.url)
    yield AwsPlace(secret)


@contextmanager
def kubernetes(request: pytest.FixtureRequest) -> Iterator[Place]:
    with new_namespace(request.getfixturevalue("api_server"), "sealed") as cluster:
        secrets = TestKeySecrets(cluster, "pazpaz-secrets", cluster.kubeconfig)
        secrets.open().create()
        yield KubernetesPlace(TestFleet(secrets))


def of_kms(request: pytest.FixtureRequest) -> tuple[str, dict[str, tuple[Any, str]]]:
    kms: Kms = request.getfixturevalue("kms")
    section = in_kms(request)
    key = id_of(str(re.findall(r'key_id = "(.*)"', section)[0]))

    @contextmanager
    def refusing(code: str) -> Iterator[None]:
        kms.refuses.update(dict.fromkeys(("Encrypt", "Decrypt", "DescribeKey"), code))
        yield
        kms.refuses.clear()

    @contextmanager
    def disabled() -> Iterator[None]:
        kms.client.disable_key(KeyId=key)
        yield
        kms.client.enable_key(KeyId=key)

    @contextmanager
    def dying() -> Iterator[None]:
        kms.client.schedule_key_deletion(KeyId=key, PendingWindowInDays=7)
        yield
        kms.client.cancel_key_deletion(KeyId=key)
        kms.client.enable_key(KeyId=key)

    return section, {
        "throttled": (
            lambda: refusing("ThrottlingException"),
            r"AWS KMS refuses \w+ with arn:.* \(ThrottlingException\)",
        ),
        "denied": (
            lambda: refusing("AccessDeniedException"),
            r"AWS KMS refuses \w+ with arn:.* \(AccessDeniedException\)",
        ),
        "disabled": (disabled, r"AWS KMS refuses Decrypt with arn:.* \(DisabledException\); enable"),
        "pending deletion": (dying, r"AWS KMS refuses Decrypt with arn:.* \(KMSInvalidStateException\); if it is"),
    }


def of_token(request: pytest.FixtureRequest) -> tuple[str, dict[str, tuple[Any, str]]]:
    section, tokens = in_token(request), request.getfixturevalue("tokens")
    assert isinstance(tokens, Tokens)
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")

    @contextmanager
    def gone() -> Iterator[None]:
        away = tokens.directory / "away"
        (tokens.directory / "tokens").rename(away)
        (tokens.directory / "tokens").mkdir()
        yield
        shutil.rmtree(tokens.directory / "tokens")
        away.rename(tokens.directory / "tokens")

    @contextmanager
    def locked() -> Iterator[None]:
        """SoftHSM locks no PIN; after a wrong one nobody tries any."""
        with suppress(Exception), tokens.session(pin="999999"):
            pass
        yield
        with tokens.session():
            pass

    monkeypatch.setenv("HSM_PIN", PIN)
    return section, {
        "gone": (gone, r"token 'clinic' or 'replica' is not among those of|token 'clinic' is not among those of"),
        "a wrong PIN": (locked, r"a wrong PIN was the last one tried with token 'clinic'"),
    }


def new_process() -> None:
    """Forget what this process has opened and asked."""
    sealing.forget_opened()
    sealing._STATES.clear()  # noqa: SLF001
    sealing._tried.cache_clear()  # noqa: SLF001
    pkcs11._WRONG.clear()  # noqa: SLF001


@contextmanager
def mounted(place: Place, folder: Path) -> Iterator[Path]:
    """The directory in which an application finds its keys; a kubelet's, where they are in Kubernetes."""
    if not isinstance(place, KubernetesPlace):
        yield place.keys if isinstance(place, FilePlace) else folder
        return
    (target := folder / "mounted").mkdir()
    over, secrets = threading.Event(), place.fleet.secrets

    def follow() -> None:
        while not over.wait(0.3):
            entries = secrets.entries()
            for name, text in sorted(entries.items(), reverse=True):
                (folder / "entry").write_text(text)
                (folder / "entry").replace(target / name)
            for each in target.iterdir():
                if each.name not in entries:
                    each.unlink()

    kubelet = threading.Thread(target=follow)
    kubelet.start()
    assert eventually(lambda: any(target.iterdir()))
    yield target
    over.set()
    kubelet.join()


@dataclass
class World:
    """A clinic under a seal, and its application."""

    clinic: Clinic
    keys: Path

    def application(self) -> subprocess.Popen[str]:
        place: Any = self.clinic.place
        secret = place.secret.name if isinstance(place, AwsPlace) else ""
        command = [sys.executable, "-c", _APPLICATION, self.clinic.url, secret, str(self.keys)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=dict(os.environ))

    def state(self) -> tuple[Any, ...]:
        """What an outage must leave as it is: stored texts, primary, keys of the audit, rows."""
        place: Any = self.clinic.place
        if isinstance(place, FilePlace):
            files = [each for each in place.keys.rglob("*") if each.suffix == ".key" or each.name == "primary"]
            texts = {str(each.relative_to(place.keys)): each.read_text() for each in files}
        else:
            texts = dict(enumerate(sorted(held_in(place))))  # type: ignore[arg-type]
        with psycopg.connect(self.clinic.url) as connection:
            rows = connection.execute("SELECT id, name FROM clients ORDER BY id").fetchall()
            counted = "SELECT count(*) FROM keyrotation.audit_events WHERE event = ANY (%s)"
            requests = connection.execute(counted, (["request_opened", "key_creation_intended"],)).fetchone()
        return texts, rows, requests

    def refused(self, sentence: str, *actions: Callable[[], Any]) -> None:
        """Each is refused with that sentence, and nothing is changed."""
        before = self.state()
        for action in actions:
            new_process()
            with pytest.raises((KeyRotationError, AssertionError), match=sentence) as caught:
                action()
            said = str(caught.value)
            assert "Traceback" not in said
            assert self.state() == before


@contextmanager
def sealed_clinic(request: pytest.FixtureRequest, place: Place, section: str) -> Iterator[World]:
    tmp_path: Path = request.getfixturevalue("tmp_path")
    url: str = request.getfixturevalue("database_url")
    security, privacy, recovery = (
        request.getfixturevalue(f"{name}_officer") for name in ("security", "privacy", "recovery")
    )
    key, officers = KeyMaterial.generate(), (security, privacy)
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text)")
        for row in range(ROWS):
            connection.execute("INSERT INTO clients VALUES (%s, %s)", (row, encrypt(KeyRing({V1: key}, V1), "Zoe")))
    place.give(key)
    clinic = Clinic(tmp_path, url, place, officers, recovery, key, generation=1)  # type: ignore[arg-type]
    (tmp_path / "webhook").write_text("http://127.0.0.1:9/")
    (tmp_path / "recovery.asc").write_bytes(recovery.gpg("--armor", "--export-secret-keys"))
    stored = re.sub(r"\[rollout\](.|\n)*", "", place.configuration())
    clinic.file.write_text(
        CONFIGURATION.format(
            url=url,
            generation=1,
            place=f"{stored}{section}",
            recovery=recovery.certificate,
            security=security.certificate,
            privacy=privacy.certificate,
        )
    )
    new_process()
    clinic.run("init", *place.init_options)
    with mounted(place, tmp_path) as keys:
        yield World(clinic, keys)


@pytest.mark.parametrize(
    "store",
    [
        pytest.param(file, id="files"),
        pytest.param(aws, id="AWS"),
        pytest.param(kubernetes, id="Kubernetes", marks=needs_api_server),
    ],
)
@pytest.mark.parametrize(
    "seal", [pytest.param(of_kms, id="AWS KMS"), pytest.param(of_token, id="a token", marks=needs_softhsm)]
)
def test_an_outage_changes_nothing_and_everything_goes_on_after_it(
    request: pytest.FixtureRequest,
    already_migrated: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    recovery_officer: DemoOfficer,
    monkeypatch: pytest.MonkeyPatch,
    store: Any,  # noqa: ANN401
    seal: Any,  # noqa: ANN401
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with ExitStack() as stack:
        place = stack.enter_context(store(request))
        section, outages = seal(request)
        world = stack.enter_context(sealed_clinic(request, place, section))
        clinic, key = world.clinic, str(world.clinic.path / "recovery.asc")
        running = stack.enter_context(world.application())
        stack.callback(running.kill)
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == "started\n", running.stderr and running.stderr.read()
        sealed_before(clinic)
        clinic.run("backup")
        rotation = clinic.signed("request", "--reason", "yearly")
        for number, (outage, sentence) in enumerate(outages.values()):
            with outage():
                world.refused(
                    sentence,
                    lambda: clinic.run("request", "--reason", "in an outage"),
                    lambda: clinic.run("request", "--emergency", "INC-9", "--reason", "in an outage"),
                    lambda: clinic.walk(rotation),
                    lambda: clinic.run("verify"),
                    *([lambda: clinic.run("rollback", rotation)] if number else []),
                )
                new_process()
                assert any(re.search(sentence, each) for each in clinic.attention())
                clinic.run("recovery-test", "--key", key)  # which officers open
                running.stdin.write("\n")
                running.stdin.flush()
                assert running.stdout.readline().startswith("v1")
                restarted = world.application()
                _, errors = restarted.communicate(timeout=60)
                assert restarted.returncode == 1
                assert re.search(sentence, errors), errors
            new_process()
            if number == 0:
                clinic.walk(rotation, Step.PRIMARY_KEY_ROLLOUT)
        undone = clinic.signed("rollback", rotation)
        with next(iter(outages.values()))[0]():
            world.refused(next(iter(outages.values()))[1], lambda: clinic.walk(undone))
        new_process()
        clinic.walk(undone)
        clinic.walk(clinic.signed("request", "--emergency", "INC-10", "--reason", "a leak"))
        clinic.run("verify")
        status = json.loads(clinic.run("status", "--json"))
        assert status["primary"] == "v3"
        assert not [each for each in status["attention"] if "KMS" in each or "token" in each]
        clinic.run("backup")
        recovered(clinic, request, nullcontext)
        outage, sentence = next(iter(outages.values()))
        recovered(clinic, request, outage)
        if not isinstance(place, FilePlace):  # recovery leaves what is in a cloud to `restore-key`
            place.lose_everything()
            versions = ("v1", "v2", "v3")
            with outage():
                new_process()
                clinic.run("restore-key", *versions, "--key", key, refused=sentence)
            new_process()
            clinic.run("restore-key", *versions, "--key", key)
            assert all(text.startswith("sealed:") for text in held_in(place) if ":" in text)
            clinic.run("verify")


def recovered(clinic: Clinic, request: pytest.FixtureRequest, outage: Any) -> None:  # noqa: ANN401
    """Have an empty machine recover from the backups, whose keys officers open."""
    server: Server = request.getfixturevalue("server")
    declared, number = settings.load(clinic.file), next(_numbers)
    with open_pipeline(declared, actor="test") as pipeline:
        signer = str(pipeline.backup_signer)
    (empty := clinic.path / f"empty{number}").mkdir()
    command = [
        "keyrotation", "recover", "--from", str(declared.backup_directory), "--signer", signer,
        "--key", str(clinic.path / "recovery.asc"), "--server", server.url("postgres"),
        "--into", f"recovered_{os.getpid()}_{number}",
    ]  # fmt: skip
    with outage():
        done = subprocess.run(command, cwd=empty, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{ROWS} values decrypt" in done.stdout
    unsealed = "keys lie unsealed here" in done.stdout
    assert unsealed is (isinstance(clinic.place, FilePlace) and outage is not nullcontext), done.stdout


def sealed_before(clinic: Clinic) -> None:
    """Keys that a store had before are sealed once the application has opened the canary."""

    def resealed() -> bool:
        with suppress(KeyRotationError, AssertionError):
            clinic.run("reseal")
            return True
        return False

    if any("is not under" in each for each in clinic.attention()):
        assert eventually(resealed, seconds=30)
