"""A key of a transit engine over HTTP: of the stand-in, or of the real engine that KEYROTATION_TEST_TRANSIT names."""

import os
import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters.keystores.file import FileKeyStore
from keyrotation_pipeline.adapters.keystores.transit import TransitKeyStore
from keyrotation_pipeline.assembly.keystores import transit_keys
from keyrotation_pipeline.errors import (
    ConfigurationError,
    KeyRotationError,
    KeyStoreConflictError,
    KeyStoreDamagedError,
    KeyStoreError,
    KeyStoreUnavailableError,
)
from keyrotation_pipeline.fieldcrypto.batch import Failure
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.vault_transit import VAULT_TRANSIT
from keyrotation_pipeline.fieldcrypto.formats.vault_transit import connection as client
from keyrotation_pipeline.fieldcrypto.formats.vault_transit import server as engine
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import TransitPolicy, TransitServer
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial, Passphrase
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind
from keyrotation_pipeline.model.keys import DamagedKey
from keyrotation_pipeline_tests.contract.key_store import OWNER
from keyrotation_pipeline_tests.transit_standin import Transit, standin_over_tls, transit_at_work

V1, V2, V3 = map(KeyVersion, (1, 2, 3))


@pytest.fixture(scope="module")
def _server() -> Iterator[Transit]:
    with transit_at_work() as found:
        yield found


@pytest.fixture
def transit(_server: Transit, monkeypatch: pytest.MonkeyPatch) -> Iterator[Transit]:
    """A server with a key of its own."""
    monkeypatch.setenv("VAULT_TOKEN", "root")
    monkeypatch.setattr(client, "PAUSES_SECONDS", (0.01, 0.01, 0.01))
    yield Transit(_server.url).create()
    _server.unseal()
    _server.limit(0)


@pytest.fixture
def store(transit: Transit, tmp_path: Path) -> TransitKeyStore:
    """One with the first version, which is the primary."""
    found = TransitKeyStore(FileKeyStore.create(tmp_path / "keys"), transit.address)
    key = found.made(V1)
    stored = found.add(V1, key, found.read().revision)
    found.set_primary(V1, stored.revision)
    return found


def rotated(store: TransitKeyStore, version: KeyVersion) -> KeyRing:
    """The store after the next version was made, added and named the primary."""
    key = store.made(version)
    stored = store.add(version, key, store.read().revision)
    return store.set_primary(version, stored.revision).ring()


def declared(transit: Transit) -> ValueFormat:
    return replace(VAULT_TRANSIT, transit=transit.address)


def test_a_version_is_known_again_by_what_only_its_holder_opens(transit: Transit) -> None:
    server = TransitServer(transit.address)
    key, other = server.reference(1), server.reference(1)
    assert (key.name, key == other) == ("v1", False)
    assert key_from_base64(base64_of(key)) == key
    assert server.unknown_keys([key, other]) == []
    same_name = Transit(transit.url).create()
    assert TransitServer(same_name.address).unknown_keys([key]) == [key]
    with pytest.raises(TypeError):
        pickle.dumps(key)


def test_making_a_version_again_makes_no_other(store: TransitKeyStore, transit: Transit) -> None:
    first, again = store.made(V2), store.made(V2)
    assert (first.name, again.name, transit.described()["latest_version"]) == ("v2", "v2", 2)


def test_a_version_that_somebody_else_made_is_no_next_one(store: TransitKeyStore, transit: Transit) -> None:
    transit.rotate()
    transit.rotate()
    with pytest.raises(KeyStoreError, match="is at version 3, so v2 cannot be made; find out who rotates it"):
        store.made(V2)
    (problem,) = store.preflight()
    assert problem.fatal
    assert "encrypts with version 3, which is not known here" in problem.message
    assert "which is not known here" in (store.read().foreign or "")


def test_the_preflight_undoes_nothing_that_is_done_meanwhile(
    store: TransitKeyStore, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.made(V2)
    read = TransitServer.policy

    def read_before_a_retirement(server: TransitServer) -> TransitPolicy:
        found = read(server)
        transit.configure(min_decryption_version=2)
        return found

    monkeypatch.setattr(TransitServer, "policy", read_before_a_retirement)
    store.preflight()
    assert transit.described()["min_decryption_version"] == 2


@pytest.mark.parametrize(
    ("made", "configured", "sentence"),
    [
        ({"derived": True}, {}, "derives a key for each value"),
        ({"type": "rsa-2048"}, {}, "of the kind rsa-2048"),
        ({}, {"deletion_allowed": True}, "may be deleted"),
        ({}, {"auto_rotate_period": "24h"}, "makes versions by itself"),
    ],
)
def test_keys_that_cannot_be_rotated_here_are_refused(
    transit: Transit, tmp_path: Path, made: dict[str, object], configured: dict[str, object], sentence: str
) -> None:
    other = Transit(transit.url).create(**made)
    if configured:
        other.configure(**configured)
    found = TransitKeyStore(FileKeyStore.create(tmp_path / "keys"), other.address)
    assert sentence in found.preflight()[0].message
    file = tmp_path / "keyrotation.toml"
    text = f'[rollout]\nmode = "server"\n[format]\nname = "vault-transit"\ntransit = "{other.address}"\n'
    text += '[approvals]\nrequired = 2\n[[tables]]\nname = "users"\ncolumns = ["email"]\n'
    for work in (lambda: found.made(V1), lambda: transit_keys(settings.parse(text, file))):
        with pytest.raises(KeyStoreError, match=sentence):
            work()


def test_a_key_that_may_leave_is_warned_of(store: TransitKeyStore, transit: Transit) -> None:
    assert store.preflight() == ()
    transit.configure(exportable=True)
    (problem,) = store.preflight()
    assert (problem.fatal, "may be exported" in problem.message) == (False, True)


def test_the_primary_is_what_the_server_encrypts_with(store: TransitKeyStore, transit: Transit) -> None:
    ring = rotated(store, V2)
    assert (ring.primary, ring.versions) == (V2, (V1, V2))
    with pytest.raises(KeyStoreError, match="encrypts with its newest version, v2, so v1 cannot be the primary"):
        store.set_primary(V1, store.read().revision)
    assert transit.encrypt(b"text").startswith(b"vault:v2:")


def test_an_archived_version_is_refused_by_the_server_until_it_is_restored(
    store: TransitKeyStore, transit: Transit
) -> None:
    old = transit.encrypt(b"text")
    rotated(store, V2)
    stored = store.archive(V1, store.read().revision)
    assert (list(stored.live), list(stored.archived), stored.left_behind) == ([V2], [V1], {})
    assert transit.ask("POST", f"transit/decrypt/{transit.name}", {"ciphertext": old.decode()})[0] == 400
    transit.configure(min_decryption_version=1)
    assert "still decrypts under v1" in store.read().left_behind[V1]
    assert store.archive(V1, store.read().revision).left_behind == {}  # repeated, it is completed
    stored = store.restore(V1, store.read().revision)
    assert (list(stored.live), transit.decrypt(old)) == ([V1, V2], b"text")


def test_the_newest_version_is_not_withdrawn(store: TransitKeyStore) -> None:
    store.add(V2, store.made(V2), store.read().revision)
    with pytest.raises(KeyStoreError, match="encrypts with v2, its newest version, which cannot be withdrawn"):
        store.archive(V2, store.read().revision)


def test_a_destroyed_version_is_gone_for_good(store: TransitKeyStore, transit: Transit) -> None:
    old = transit.encrypt(b"text")
    rotated(store, V2)
    rotated(store, V3)
    for version in (V2, V1):
        store.archive(version, store.read().revision)
    with pytest.raises(KeyStoreError, match="destroy v1 before v2"):
        store.destroy(V2, store.read().revision)
    with pytest.raises(KeyStoreError, match="v3 is live"):
        store.destroy(V3, store.read().revision)
    stored = store.destroy(V1, store.read().revision)
    assert (stored.versions, transit.described()["min_available_version"]) == ((V2, V3), 2)
    assert store.destroy(V1, store.read().revision) == stored
    assert transit.ask("POST", f"transit/keys/{transit.name}/config", {"min_decryption_version": 1})[0] == 400
    assert transit.ask("POST", f"transit/decrypt/{transit.name}", {"ciphertext": old.decode()})[0] == 400
    transit.done("POST", f"transit/keys/{transit.name}/trim", {"min_available_version": 3})  # and then the process died
    assert store.destroy(V2, store.read().revision).versions == (V3,)


def test_a_change_that_is_refused_or_none_asks_nothing_of_the_server(store: TransitKeyStore, transit: Transit) -> None:
    rotated(store, V2)
    rotated(store, V3)
    for version in (V1, V2):
        stored = store.archive(version, store.read().revision)
    decided, before = stored.revision, transit.described()
    store.name_owner(OWNER, decided)
    for change in (store.destroy, store.restore):
        with pytest.raises(KeyStoreConflictError, match="nothing was changed in it"):
            change(V1, decided)
    with pytest.raises(KeyStoreError, match="destroy v1 before v2"):
        store.destroy(V2, store.read().revision)
    assert store.destroy(V3.next(), decided) == store.read()
    assert transit.described() == before
    assert list(store.destroy(V1, store.read().revision).archived) == [V2]


def test_a_key_that_was_deleted_and_made_again_is_noticed(store: TransitKeyStore, transit: Transit) -> None:
    transit.configure(deletion_allowed=True)
    transit.done("DELETE", f"transit/keys/{transit.name}")
    with pytest.raises(KeyStoreError):
        store.read()
    transit.create()
    entry = store.read().live[V1]
    assert isinstance(entry, DamagedKey)
    assert "is another key than the registered one" in entry.message
    with pytest.raises(KeyStoreDamagedError):
        store.read().ring()


def test_what_does_not_name_a_version_here_is_not_stored(store: TransitKeyStore, transit: Transit) -> None:
    other = TransitServer(Transit(transit.url).create().address).reference(1)
    for key in (KeyMaterial.generate(), other):
        with pytest.raises(KeyStoreError):
            store.add(V1 if key is other else V2, key, store.read().revision)


@pytest.mark.parametrize(
    "key", [KeyMaterial.generate(), Passphrase(b"SECRET_KEY of Django:its salt")], ids=["key", "pair"]
)
def test_a_key_of_another_format_is_shown_to_no_server(tmp_path: Path, key: KeyMaterial) -> None:
    files = FileKeyStore.create(tmp_path / "keys")
    stored = files.add(V1, key, files.read().revision)
    files.set_primary(V1, stored.revision)
    nobody = TransitKeyStore(files, "http://127.0.0.1:9/transit/app")
    with pytest.raises(KeyStoreDamagedError, match="imported under another \\[format\\] than that of"):
        nobody.read()


def test_a_pickled_store_names_no_key_and_reads_the_same(store: TransitKeyStore) -> None:
    assert pickle.loads(pickle.dumps(store)).read() == store.read()  # noqa: S301  our own


def test_values_are_rewrapped_in_batches(store: TransitKeyStore, transit: Transit) -> None:
    texts = [b"", *(os.urandom(number % 90) for number in range(1200))]
    old = [transit.encrypt(text) for text in texts[:40]] * 31
    ring = rotated(store, V2)
    code = format_of(declared(transit))
    rewritten = code.reencryptor(ring, V2).reencrypt([old, [None] * len(old)])
    assert (rewritten.failures, rewritten.columns[1]) == ([], [None] * len(old))
    new = [each or b"" for each in rewritten.columns[0]]
    assert {each.split(b":")[1] for each in new} == {b"v2"}
    assert [transit.decrypt(each) for each in new[:40]] == texts[:40]
    assert code.reencryptor(ring, V2).reencrypt([new]).columns == [[None] * len(new)]
    held, failures = code.reencryptor(ring, V2).check([[*old, *new, b"", None]])
    assert (held, failures) == ([{V1: len(old), V2: len(new), None: 1}], [])


def test_results_that_were_mixed_up_are_not_written(
    store: TransitKeyStore, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A value says nothing of whose it is: only its text tells one result of a batch from another."""
    old = [transit.encrypt(f"patient {number}".encode()) for number in range(3)]
    ring = rotated(store, V2)
    rewrapped = TransitServer.rewrapped

    def mixed_up(self: TransitServer, values: Sequence[bytes]) -> list[bytes | None]:
        one, two, *others = rewrapped(self, values)
        return [two, one, *others]

    monkeypatch.setattr(TransitServer, "rewrapped", mixed_up)
    with pytest.raises(KeyRotationError, match="nothing was written"):
        format_of(declared(transit)).reencryptor(ring, V2).reencrypt([old])


def test_a_version_that_is_withdrawn_within_a_batch_is_named(
    store: TransitKeyStore, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [transit.encrypt(b"text")]
    ring = rotated(store, V2)
    rewrapped = TransitServer.rewrapped

    def then_withdrawn(self: TransitServer, values: Sequence[bytes]) -> list[bytes | None]:
        found = rewrapped(self, values)
        self.configure(min_decryption_version=2)
        return found

    monkeypatch.setattr(TransitServer, "rewrapped", then_withdrawn)
    with pytest.raises(KeyStoreUnavailableError, match="does not decrypt under v1 any more"):
        format_of(declared(transit)).reencryptor(ring, V2).reencrypt([old])


def test_a_batch_that_is_too_large_for_the_server_is_halved(
    store: TransitKeyStore, transit: Transit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "MOST_VALUES", 5_000)
    values = [transit.encrypt(b"text")] * 1_100
    assert TransitServer(transit.address).decrypted(values) == [b"text"] * 1_100


def test_what_does_not_open_is_left_as_it_is_and_named(store: TransitKeyStore, transit: Transit) -> None:
    good = transit.encrypt(b"text")
    ring, code = rotated(store, V2), format_of(declared(transit))
    twice, bad = transit.encrypt(good, 1), good[:-8] + b"AAAAAAA="
    values = [bad, twice, b"vault:v9:" + good[9:], b"plain", b"vault:v01:" + good[9:], good]
    defects = [
        Defect(DefectKind.NOT_AUTHENTIC, V1),
        Defect(DefectKind.ENCRYPTED_TWICE, V1),
        UNDER_NO_KEY,
        NOT_A_VALUE,
        NOT_A_VALUE,
    ]
    rewritten = code.reencryptor(ring, V2).reencrypt([values])
    assert [each is None for each in rewritten.columns[0]] == [True] * 5 + [False]
    found = sorted(rewritten.failures, key=lambda each: each.row)
    assert found == [Failure(row, 0, defect) for row, defect in enumerate(defects)]
    held, failures = code.reencryptor(ring, V2).check([values])
    assert (held, sorted(failures, key=lambda each: each.row)) == ([{V1: 1}], found)
    assert [code.plaintext(ring, each) for each in values] == [*defects, b"text"]
    assert code.opened_by(ring, good) == (V1, V1)
    assert code.opened_by(ring, b"vault:v2:" + good[9:]) == (V2, V1)
    assert code.opened_by(ring, bad) == (V1, None)
    assert (code.opened_by(ring, b"plain"), code.plaintext(ring, b"")) == (None, NOT_A_VALUE)


def test_a_version_that_the_server_refuses_puts_nothing_into_quarantine(
    store: TransitKeyStore, transit: Transit
) -> None:
    good = transit.encrypt(b"text")
    ring = rotated(store, V2)
    reencryptor = format_of(declared(transit)).reencryptor(ring, V2)
    transit.configure(min_decryption_version=2)
    for work in (lambda: reencryptor.reencrypt([[good]]), lambda: reencryptor.check([[good]])):
        with pytest.raises(KeyStoreUnavailableError, match="does not decrypt under v1 any more"):
            work()
    assert "v1" in str(store.read().live[V1])


def test_a_rotation_by_somebody_else_stops_the_batch(store: TransitKeyStore, transit: Transit) -> None:
    good = transit.encrypt(b"text")
    ring = rotated(store, V2)
    transit.rotate()
    with pytest.raises(KeyStoreError, match="encrypts under another version than v2: somebody has rotated it"):
        format_of(declared(transit)).reencryptor(ring, V2).reencrypt([[good]])


def test_a_busy_or_sealed_server_is_waited_for_and_then_named(store: TransitKeyStore, transit: Transit) -> None:
    transit.limit(2)
    assert list(store.read().live) == [V1]
    transit.limit(9)
    with pytest.raises(KeyStoreUnavailableError, match=r"answers 429 \(.*quota exceeded\)"):
        store.read()
    transit.limit(0)
    transit.seal()
    with pytest.raises(KeyStoreUnavailableError, match=r"answers 503 \(.*sealed.*run the same again"):
        store.read()
    transit.unseal()
    assert list(store.read().live) == [V1]


def test_a_server_that_is_away_and_a_token_without_rights_are_named(
    transit: Transit, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VAULT_TOKEN", "application")
    with pytest.raises(KeyStoreUnavailableError, match=f"refuses transit/keys/{transit.name}; give the token"):
        TransitServer(transit.address).policy()
    monkeypatch.setenv("VAULT_TOKEN", "root")
    with pytest.raises(KeyStoreDamagedError, match="has no transit/keys/nowhere"):
        TransitServer(f"{transit.url}/transit/nowhere").policy()
    with pytest.raises(KeyStoreUnavailableError, match="does not answer"):
        TransitServer("http://127.0.0.1:9/transit/app").policy()
    monkeypatch.delenv("VAULT_TOKEN")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(KeyStoreUnavailableError, match="there is no token for Vault"):
        TransitServer(transit.address).policy()
    (tmp_path / ".vault-token").write_text("root\n")
    assert TransitServer(transit.address).policy().latest == 1
    monkeypatch.setenv("VAULT_TOKEN", "a secret\nof two lines")
    with pytest.raises(KeyStoreUnavailableError, match="VAULT_TOKEN holds something else") as caught:
        TransitServer(transit.address).policy()
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("BAO_TOKEN", "root")
    assert TransitServer(transit.address).policy().latest == 1


def self_signed(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = (
        builder.serial_number(1).not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    )
    here = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    signed = builder.add_extension(here, critical=False).sign(key, hashes.SHA256())
    paths = folder / "server.pem", folder / "server.key"
    paths[0].write_bytes(signed.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return paths


def test_a_server_is_trusted_by_its_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = self_signed(tmp_path)
    monkeypatch.setenv("VAULT_TOKEN", "root")
    monkeypatch.setattr(client, "PAUSES_SECONDS", (0.01,))
    with standin_over_tls(certificate, key) as (plain, url):
        transit = plain.create()
        server = TransitServer(f"{url}/transit/{transit.name}")
        with pytest.raises(KeyStoreUnavailableError, match="shows no certificate that is trusted here"):
            server.policy()
        monkeypatch.setenv("VAULT_CACERT", str(key))
        with pytest.raises(KeyStoreUnavailableError, match="names no file of certificates"):
            server.policy()
        monkeypatch.setenv("VAULT_CACERT", str(certificate))
        assert server.policy().latest == 1
        assert server.decrypted([transit.encrypt(b"text")] * 900) == [b"text"] * 900


@pytest.mark.parametrize(
    "address", ["", "https://vault.example/app", "vault.example:8200/transit/app", "https://me@vault.example/transit/a"]
)
def test_an_address_that_names_no_key_is_refused(address: str) -> None:
    with pytest.raises(ConfigurationError, match="names the key at its server"):
        TransitServer(address)


def test_the_token_goes_to_no_other_machine_unencrypted() -> None:
    with pytest.raises(ConfigurationError, match="would send the token unencrypted"):
        TransitServer("http://vault.example:8200/transit/app")
