"""Keys sealed by AWS KMS in each kind of store: against moto over HTTP, and a stub that refuses as AWS does."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.adapters.keystores import owner_only
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.encrypted_type import EnvironmentKeyRing, MountedKeyRing, SecretsManagerKeyRing
from keyrotation_pipeline.errors import BrokenSealError, InvalidKeyError, KeyStoreDamagedError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto import seal as sealing
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing, variable_of
from keyrotation_pipeline.fieldcrypto.seal import Seal
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY, aws_kms
from keyrotation_pipeline.fieldcrypto.wrapping_keys.aws_kms import AwsKmsKey
from keyrotation_pipeline.ports.keys import KeyStore
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.contract.key_store import V1, V2, V3, add, archive, key, restore, set_primary
from keyrotation_pipeline_tests.tokens import Tokens, needs_softhsm
from keyrotation_pipeline_tests.wrapping_keys import Kms, id_of

HOME = "0123456789abcdef" * 2
SEALED = re.compile(rf"sealed:aws-kms:{HOME}:[0-9a-f]{{64}}:[A-Za-z0-9+/]+=*:arn:aws:kms:us-east-1:[0-9]{{12}}:key/.*")


def new_process() -> None:
    """Forget what this process has opened."""
    sealing._OPENED = sealing._Opened()  # noqa: SLF001  as another process begins


@pytest.fixture(autouse=True)
def _own_memory() -> Iterator[None]:
    new_process()
    yield
    new_process()


@dataclass(frozen=True)
class SealedPlace:
    """A store under a seal, and what lies there.

    Args:
        open: opens it with a seal.
        texts: of live keys, by version.
        put: overwrites the text of a live key.
    """

    open: Callable[[Seal], KeyStore]
    texts: Callable[[], dict[str, str]]
    put: Callable[[str, str], Any]


@pytest.fixture(params=["file", "aws-secrets-manager", "kubernetes-secret"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> SealedPlace:
    if request.param == "file":
        directory = tmp_path / "keys"
        FileKeyStore.create(directory)
        return SealedPlace(
            lambda seal: FileKeyStore(directory, seal=seal),
            lambda: {each.stem: each.read_text().strip() for each in directory.glob("*.key")},
            lambda version, text: owner_only.write(directory / f"{version}.key", text),
        )
    if request.param == "aws-secrets-manager":
        secret: TestSecret = request.getfixturevalue("new_secret")()
        return SealedPlace(
            secret.sealed,
            lambda: {name: text for name, text in json.loads(secret.text()).items() if re.fullmatch("v[0-9]+", name)},
            lambda version, text: secret.overwrite(json.dumps({**json.loads(secret.text()), version: text})),
        )
    secrets: TestKeySecrets = request.getfixturevalue("new_key_secrets")()
    names = {variable_of(version): str(version) for version in (V1, V2, V3)}
    return SealedPlace(
        secrets.sealed,
        lambda: {names[name]: text for name, text in secrets.entries().items() if name in names},
        lambda version, text: secrets.overwrite({variable_of(KeyVersion.parse(version)): text}),
    )


@pytest.fixture
def seal(kms: Kms) -> Seal:
    return Seal(AwsKmsKey(kms.key(), endpoint_url=kms.url), home=lambda: HOME)


def test_a_store_holds_sealed_keys_alone_and_another_process_opens_each_once(
    place: SealedPlace, seal: Seal, kms: Kms
) -> None:
    store = place.open(seal)
    for version, number in ((V1, 1), (V2, 2), (V3, 3)):
        add(store, version, key(number))
    set_primary(store, V2)
    archive(store, V3)
    restore(store, V3)
    archive(store, V1)
    assert all(SEALED.fullmatch(text) for text in place.texts().values())
    assert place.texts().keys() == {"v2", "v3"}
    # Sealing, and seeing that it opens: moving a key takes no call.
    assert sum(kms.calls.values()) == 6
    new_process()
    kms.calls.clear()
    stored = place.open(replace(seal, home=None)).read()
    assert place.open(replace(seal, home=None)).read() == stored
    assert dict(stored.live) == {V2: key(2), V3: key(3)}
    assert dict(stored.archived) == {V1: key(1)}
    assert sum(kms.calls.values()) == 3
    assert "sealed by aws-kms arn:aws:kms:us-east-1" in store.description


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda texts: texts["v1"], id="the text of another version"),
        pytest.param(lambda texts: texts["v2"].replace(HOME, "f" * 32), id="another home"),
        # moto takes what comes before for the name of a key.
        pytest.param(lambda texts: re.sub(r"[A-Za-z0-9+/]{8}(?==*:arn)", "AAAAAAAA", texts["v2"]), id="edited"),
        pytest.param(lambda texts: texts["v2"][:90], id="cut off"),
    ],
)
def test_a_text_that_is_not_of_its_place_is_no_key(seal: Seal, changed: Callable[[dict[str, str]], str]) -> None:
    texts = {str(version): seal.text_of(version, key(version.number)) for version in (V1, V2)}
    new_process()
    with pytest.raises(BrokenSealError):
        seal.key_of(V2, changed(texts))
    assert seal.key_of(V1, texts["v1"]) == key(1)


def test_a_swapped_key_hides_no_other_and_an_outage_of_the_kms_is_no_damage(
    place: SealedPlace, seal: Seal, kms: Kms
) -> None:
    store = place.open(seal)
    add(store, V1, key(1))
    place.put("v3", place.texts()["v1"])
    new_process()
    stored = store.read()
    assert stored.live[V1] == key(1)
    with pytest.raises(KeyStoreDamagedError, match=r"(v3|V3).* does not open under arn"):
        stored.material(V3)
    revision, before = store.read().revision, place.texts()
    kms.refuses["Encrypt"] = "DisabledException"
    with pytest.raises(KeyStoreUnavailableError, match=r"refuses Encrypt with arn.* \(DisabledException\); enable"):
        store.add(V2, key(2), revision)
    new_process()
    kms.refuses["Decrypt"] = "AccessDeniedException"
    with pytest.raises(KeyStoreUnavailableError, match=r"refuses Decrypt with arn.* \(AccessDeniedException\); give"):
        store.read()
    assert place.texts() == before
    with pytest.raises(KeyStoreDamagedError, match=r"is sealed by aws-kms arn:.*; name that in \[keys.seal\]"):
        place.open(Seal()).read().material(V1)


def test_stored_keys_are_sealed_later_and_again_under_another_wrapping_key(
    place: SealedPlace, seal: Seal, kms: Kms
) -> None:
    plain = place.open(Seal())
    for version, number in ((V1, 1), (V2, 2)):
        add(plain, version, key(number))
    set_primary(plain, V2)
    before = archive(plain, V1)
    later = Seal(
        AwsKmsKey(kms.key(), endpoint_url=kms.url), (seal.wrapping,) if seal.wrapping else (), home=lambda: HOME
    )
    for each in (seal, later):
        store = place.open(each)
        stored = store.read()
        assert (stored.unsealed, stored.canary) == ((V1, V2), None)
        assert [each.message for each in store.preflight() if "reseal" in each.message]
        store.offer_canary(key(9), stored.revision)
        after = store.reseal(store.read().revision)
        assert (after.live, after.archived, after.unsealed) == (before.live, before.archived, ())
        assert after.canary == key(9)
    new_process()
    stored = place.open(replace(later, earlier=())).read()
    assert (stored.live, stored.archived, stored.canary) == (before.live, before.archived, key(9))
    assert place.texts()["v2"].endswith(later.name.removeprefix("aws-kms "))


@needs_softhsm
def test_keys_that_a_kms_sealed_are_sealed_in_a_token_and_moved_back(
    place: SealedPlace, seal: Seal, tokens: Tokens
) -> None:
    tokens.add_key()
    add(place.open(seal), V1, key(1))
    set_primary(place.open(seal), V1)
    in_kms, in_token = seal.wrapping, tokens.key()
    assert in_kms is not None
    for now, before in ((in_token, in_kms), (in_kms, in_token)):
        new_process()
        store = place.open(Seal(now, (before,), home=lambda: HOME))
        stored = store.read()
        assert stored.unsealed == (V1,)
        store.offer_canary(key(9), stored.revision)
        after = store.reseal(store.read().revision)
        new_process()
        assert after.live == place.open(Seal(now)).read().live == {V1: key(1)}
        assert place.texts()["v1"].endswith(now.name)


def test_a_home_that_took_a_store_over_seals_its_keys_for_itself(place: SealedPlace, seal: Seal) -> None:
    add(place.open(seal), V1, key(1))
    set_primary(place.open(seal), V1)
    place.open(seal).offer_canary(key(9), place.open(seal).read().revision)
    store = place.open(replace(seal, home=lambda: "f" * 32))
    stored = store.read()
    assert (stored.material(V1), stored.unsealed, stored.canary) == (key(1), (V1,), None)
    store.offer_canary(key(8), stored.revision)
    after = store.reseal(store.read().revision)
    assert (after.material(V1), after.unsealed, after.canary) == (key(1), (), key(8))
    assert f":{'f' * 32}:" in place.texts()["v1"]


@pytest.mark.parametrize(
    ("state", "sentence"),
    [
        pytest.param(
            "deleted", r"is deleted on 20\d\d-\d\d-\d\d, and every key sealed by it; run `aws kms cancel", id="d"
        ),
        pytest.param("disabled", r"is in the state Disabled; have it enabled: `aws kms enable-key`", id="disabled"),
        pytest.param(
            "DescribeKey", r"refuses DescribeKey with arn:.* \(AccessDeniedException\); give this", id="denied"
        ),
        pytest.param("Encrypt", r"refuses Encrypt with arn:.* \(ThrottlingException\); wait a minute", id="throttled"),
        pytest.param("region", r"refuses DescribeKey with arn:.*eu-west-1.* \(NotFoundException\); that", id="region"),
        pytest.param("alone", r'has no replica, and recovery = "sealed" needs one', id="no second region"),
    ],
)
def test_what_is_wrong_with_the_wrapping_key_is_one_sentence(state: str, sentence: str, kms: Kms) -> None:
    arn = kms.key()
    region, alone = ("eu-west-1" if state == "region" else None), state == "alone"
    match state:
        case "deleted":
            kms.client.schedule_key_deletion(KeyId=id_of(arn), PendingWindowInDays=7)
        case "disabled":
            kms.client.disable_key(KeyId=id_of(arn))
        case "DescribeKey" | "Encrypt":
            kms.refuses[state] = "AccessDeniedException" if state == "DescribeKey" else "ThrottlingException"
    (found,) = Seal(AwsKmsKey(arn, region, kms.url), alone=alone).problems()
    assert re.search(sentence, found)
    assert len(found) <= 200


def test_a_key_with_a_replica_may_stand_alone(kms: Kms) -> None:
    kms.replicated = True
    assert not list(Seal(AwsKmsKey(kms.key(), endpoint_url=kms.url), alone=True).problems())


@pytest.mark.parametrize(
    ("origin", "exposed"), [("AWS_KMS", ()), ("EXTERNAL", ("imported",)), ("AWS_CLOUDHSM", ()), ("\x1b[2J" * 40, ())]
)
def test_aws_kms_says_where_its_key_comes_from(kms: Kms, origin: str, exposed: tuple[str, ...]) -> None:
    kms.origin = origin
    seal = Seal(AwsKmsKey(kms.key(), endpoint_url=kms.url))
    first_look, state = seal.state(), seal.state()
    assert first_look == state
    assert state is not None
    assert state.origin is not None
    assert (state.problems, state.origin.exposed) == ((), exposed)
    first, *others = state.origin.said
    assert others == ["KeyManager CUSTOMER", "MultiRegion false"]
    assert first == (f"Origin {origin}" if origin.isprintable() else f"Origin {'?[2J' * 40}"[:80])
    assert kms.calls.total() == 1


@pytest.mark.parametrize(
    ("key_id", "own", "asked"),
    [
        pytest.param("mrk-8f0a1c9e00004000800000000000000a", "eu-west-1", "eu-west-1", id="a multi-Region key in ours"),
        pytest.param("mrk-8f0a1c9e00004000800000000000000a", None, "eu-central-1", id="where its ARN says"),
        pytest.param("8f0a1c9e-0000-4000-8000-000000000000", "eu-west-1", "eu-central-1", id="another key"),
    ],
)
def test_which_region_is_asked(monkeypatch: pytest.MonkeyPatch, key_id: str, own: str | None, asked: str) -> None:
    monkeypatch.setattr(aws_kms, "_own_region", lambda: own)
    key = AwsKmsKey.of(f"arn:aws:kms:eu-central-1:111122223333:key/{key_id}")
    assert key.asked == f"arn:aws:kms:{asked}:111122223333:key/{key_id}"
    # As a recovery sets it, over what the backup's configuration says.
    configured = replace(key, region_name="us-east-2")
    assert configured.asked.split(":")[3] == (own if own and key_id.startswith("mrk-") else "us-east-2")


def test_a_host_that_a_configuration_no_longer_names_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Officers sign the host that is named now, and a process may have read another before."""
    monkeypatch.setattr(sealing, "_REACHABLE", {})
    arn = "arn:aws:kms:eu-central-1:111122223333:key/8f0a1c9e-0000-4000-8000-000000000000"
    before, now = (AwsKmsKey(arn, endpoint_url=f"https://{host}.example") for host in ("before", "now"))
    assert [sealing.reach(each) for each in (before, now)] == [before, now]
    assert sealing.wrapping_key_of(sealing.SealedText("aws-kms", HOME, "a" * 64, b"", arn)) == now


# --- applications ---------------------------------------------------------------------------------------------------


def test_each_key_ring_of_an_application_opens_sealed_keys(seal: Seal, kms: Kms, tmp_path: Path) -> None:
    store = FileKeyStore.create(tmp_path / "keys")
    store = FileKeyStore(tmp_path / "keys", seal=seal)
    add(store, V1, key(1))
    add(store, V2, key(2))
    set_primary(store, V2)
    texts = {version: (tmp_path / "keys" / f"{version}.key").read_text() for version in (V1, V2)}
    new_process()
    kms.calls.clear()

    class Client:
        def get_secret_value(self, **_: str) -> dict[str, str]:
            return {"SecretString": json.dumps({"v1": texts[V1], "v2": texts[V2], "primary": "v2"})}

    variables = {variable_of(version): text for version, text in texts.items()}
    for keys in (
        MountedKeyRing(tmp_path / "keys"),
        EnvironmentKeyRing({**variables, "ENCRYPTION_PRIMARY_VERSION": "v2"}),
        SecretsManagerKeyRing(Client(), "pazpaz"),
    ):
        ring = keys.reload()
        assert (ring.material(V1), ring.material(V2), ring.primary) == (key(1), key(2), V2)
    assert sum(kms.calls.values()) == 2


@pytest.mark.parametrize("key_id", ["8f0a1c9e-0000-4000-8000-000000000000", "mrk-8f0a1c9e00004000800000000000000a"])
@pytest.mark.parametrize(
    ("absent", "environment", "why"),
    [
        pytest.param(("boto3", "botocore"), {}, r"boto3 is missing; install .*\[kms\]", id="no boto3"),
        pytest.param((), {"AWS_PROFILE": "none"}, r"cannot be reached .*\(ProfileNotFound\)", id="no such profile"),
        pytest.param((), {"AWS_ENDPOINT_URL_KMS": "nowhere"}, r"cannot be reached .*\(ValueError\)", id="no address"),
    ],
)
def test_an_application_that_cannot_open_the_canary_starts_all_the_same(
    monkeypatch: pytest.MonkeyPatch, key_id: str, absent: tuple[str, ...], environment: dict[str, str], why: str
) -> None:
    for module in absent:
        monkeypatch.setitem(sys.modules, module, None)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    aws_kms._client.cache_clear()  # noqa: SLF001  as a process begins
    aws_kms._own_region.cache_clear()  # noqa: SLF001
    arn = f"arn:aws:kms:us-east-1:111122223333:key/{key_id}"
    ring = KeyRing.from_environment(
        {
            "ENCRYPTION_MASTER_KEY": base64_of(key(1)),
            "ENCRYPTION_CANARY": f"sealed:aws-kms:{HOME}:{'a' * 64}:{'A' * 64}:{arn}",
        }
    )
    assert ring.material(V1) == key(1)
    with pytest.raises(InvalidKeyError, match=rf"ENCRYPTION_CANARY is sealed: .*{why}"):
        ring.canary()


def test_a_canary_is_opened_for_reports_alone(seal: Seal, kms: Kms) -> None:
    environment = {"ENCRYPTION_MASTER_KEY": base64_of(key(1)), "ENCRYPTION_CANARY": seal.text_of(CANARY, key(9))}
    new_process()
    kms.calls.clear()
    ring = KeyRing.from_environment(environment)
    assert not kms.calls
    assert [ring.canary(), ring.canary()] == [key(9), key(9)]
    assert sum(kms.calls.values()) == 1


_FORKED = """
import os, signal, threading, time
from keyrotation_pipeline.fieldcrypto.seal import SealedText, open_key
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY, aws_kms
from keyrotation_pipeline_tests.contract.key_store import key
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of

asked = threading.Event()

class Slow:
    kind, name = "aws-kms", "slow"

    def decrypt(self, ciphertext, context):
        if context["version"] == CANARY:
            asked.set()
            time.sleep(60)
        return ciphertext

def opened(name, number):
    material = key(number)
    text = SealedText("aws-kms", "0" * 32, material.fingerprint, base64_of(material).encode(), "slow")
    return open_key(name, str(text), [Slow()])

os.environ.update(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b")
client = aws_kms._client("us-east-1", None)
opened("v1", 1)
threading.Thread(target=opened, args=(CANARY, 9), daemon=True).start()
asked.wait()
signal.alarm(10)
opened("v1", 1)
if os.fork() == 0:
    signal.alarm(10)
    opened("v2", 2)
    os._exit(aws_kms._client("us-east-1", None) is client)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


_IMPORTING = """
import os, signal, sys, threading, time
from keyrotation_pipeline.errors import KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.seal import SealedText, wrapping_key_of

os.environ.update(AWS_ACCESS_KEY_ID="a", AWS_SECRET_ACCESS_KEY="b", AWS_ENDPOINT_URL_KMS="http://127.0.0.1:9")
arn = "arn:aws:kms:us-east-1:111122223333:key/8f0a1c9e-0000-4000-8000-000000000000"
text = SealedText("aws-kms", "0" * 32, "a" * 64, b"x" * 40, arn)

def use():
    try:
        wrapping_key_of(text).decrypt(b"x", {})
    except KeyStoreUnavailableError:
        pass

threading.Thread(target=use, daemon=True).start()
while "botocore" not in sys.modules:
    time.sleep(0.001)
if os.fork() == 0:
    signal.alarm(20)
    use()
    os._exit(0)
os._exit(os.waitstatus_to_exitcode(os.wait()[1]) & 127)
"""


def test_the_child_of_a_fork_imports_what_a_thread_of_its_parent_was_importing() -> None:
    """Else it waits for that thread for ever, holding what it imports."""
    done = subprocess.run([sys.executable, "-c", _IMPORTING], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_keys_are_opened_in_a_child_that_was_forked_while_the_kms_did_not_answer() -> None:
    """As a web server forks while the thread that reports waits; with connections of its own."""
    done = subprocess.run([sys.executable, "-c", _FORKED], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_instance_works_on_through_an_outage_and_says_why_it_does_not_start_in_one(
    seal: Seal, kms: Kms, tmp_path: Path
) -> None:
    FileKeyStore.create(tmp_path / "keys")
    store = FileKeyStore(tmp_path / "keys", seal=seal)
    add(store, V1, key(1))
    set_primary(store, V1)
    keys = MountedKeyRing(tmp_path / "keys")
    keys.reload()
    kms.refuses["Decrypt"] = "KMSInvalidStateException"
    assert keys.reload().material(V1) == key(1)
    new_process()
    with pytest.raises(InvalidKeyError, match=r"ENCRYPTION_MASTER_KEY is sealed: AWS KMS refuses Decrypt .*KMSInvalid"):
        MountedKeyRing(tmp_path / "keys")()
    kms.refuses.clear()
    assert MountedKeyRing(tmp_path / "keys")().material(V1) == key(1)
