"""Keys and data as a first day finds them, in each place for keys: `init` adopts them, or names what is wrong."""

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psycopg
import pytest

from keyrotation_pipeline.adapters.keystores.live_secret import OWNER
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.keyring import PRIMARY_VARIABLE, KeyRing, variable_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.aws_secrets import TestSecret
from keyrotation_pipeline_tests.buckets import REGION
from keyrotation_pipeline_tests.clusters import TestKeySecrets
from keyrotation_pipeline_tests.officers import roster_in_toml

V1, V2, V3 = map(KeyVersion, (1, 2, 3))
ROWS = 20
Given = Mapping[KeyVersion, KeyMaterial]


class Place(Protocol):
    """Where an application has its keys before this pipeline."""

    def configuration(self) -> str:
        """`[keys]`."""

    def give(self, keys: Given) -> dict[str, str]:
        """Put keys there, with nothing that names a primary; gives back variables for the commands."""

    def name(self, version: KeyVersion) -> str:
        """What a refusal calls the key of a version."""

    def content(self) -> object:
        """Everything in it, for comparison."""


@dataclass
class Variables:
    """The environment; the key store is files."""

    folder: Path

    def configuration(self) -> str:
        return ""

    def give(self, keys: Given) -> dict[str, str]:
        return {variable_of(version): base64_of(key) for version, key in keys.items()}

    def name(self, version: KeyVersion) -> str:
        return variable_of(version)

    def content(self) -> object:
        return sorted(path.name for path in (self.folder / ".keyrotation" / "keys").glob("*.key"))


@dataclass
class AwsJson:
    """One secret with JSON that names no primary."""

    secret: TestSecret

    def configuration(self) -> str:
        return (
            '[keys]\nstore = "aws-secrets-manager"\n[keys.aws-secrets-manager]\n'
            f'secret_id = "{self.secret.name}"\nendpoint_url = "{self.secret.url}"\nregion_name = "{REGION}"\n'
        )

    def give(self, keys: Given) -> dict[str, str]:
        self.secret.overwrite(json.dumps({str(version): base64_of(key) for version, key in keys.items()}))
        return {}

    def name(self, version: KeyVersion) -> str:
        return f"entry {version} of secret {self.secret.name}"

    def content(self) -> object:
        return self.secret.text()


@dataclass
class AwsPlain(AwsJson):
    """The source procedure's plain key, and each later version in a secret of its own (sections 4.1 and 5.1)."""

    apart: list[KeyVersion] = field(default_factory=list)

    def give(self, keys: Given) -> dict[str, str]:
        for version, key in keys.items():
            if version == V1:
                self.secret.overwrite(base64_of(key))
            else:
                name = f"{self.secret.name}-{version}{'-emergency' if version == V3 else ''}"
                self._put(name, base64_of(key))
                self.apart.append(version)
        return {}

    def _put(self, name: str, text: str) -> None:
        try:
            self.secret.client.create_secret(Name=name, SecretString=text)
        except self.secret.client.exceptions.ResourceExistsException:
            self.secret.client.put_secret_value(SecretId=name, SecretString=text)

    def name(self, version: KeyVersion) -> str:
        if version == V1:
            return f"secret {self.secret.name}"
        if version in self.apart:
            return f"secret {self.secret.name}-{version}"
        return super().name(version)


@dataclass
class KubernetesEntries:
    """Entries of a Secret, with none that names a primary."""

    secrets: TestKeySecrets

    def configuration(self) -> str:
        return (
            '[keys]\nstore = "kubernetes-secret"\n[keys.kubernetes-secret]\n'
            f'namespace = "{self.secrets.cluster.namespace}"\nname = "{self.secrets.name}"\n'
            f'kubeconfig = "{self.secrets.kubeconfig}"\n[rollout]\nmode = "none"\n'
        )

    def give(self, keys: Given) -> dict[str, str]:
        entries: dict[str, str | None] = {variable_of(each): None for each in (V1, V2, V3)}
        self.secrets.overwrite(entries | {variable_of(version): base64_of(key) for version, key in keys.items()})
        return {}

    def name(self, version: KeyVersion) -> str:
        secrets = self.secrets
        return f"entry {variable_of(version)} of Secret {secrets.name} in namespace {secrets.cluster.namespace}"

    def content(self) -> object:
        return self.secrets.entries()


@dataclass(frozen=True)
class State:
    """What is in the database and in the application's place for keys; a key is named by a letter.

    Args:
        clients, visits: versions and keys of the values of each table.
        given: the key that is given for each version.
        refused: what `init` then says; None: it adopts them.
        plain: values in `visits` that are not encrypted.
        correct: what is to be given instead.
    """

    clients: Mapping[KeyVersion, str]
    visits: Mapping[KeyVersion, str]
    given: Mapping[KeyVersion, str]
    primary: KeyVersion
    refused: Callable[[Place], tuple[str, ...]] | None = None
    plain: int = 0
    correct: Mapping[KeyVersion, str] = field(default_factory=dict)


STATES = {
    "right key": State({V1: "a"}, {V1: "a"}, {V1: "a"}, V1),
    "half rotated manually": State({V1: "a", V2: "b"}, {V1: "a"}, {V1: "a", V2: "b"}, V2),
    "rotated by the source procedure, both names given": State({V2: "b"}, {V2: "b"}, {V1: "b", V2: "b"}, V2),
    "an emergency by the source procedure": State({V2: "b"}, {V3: "c"}, {V1: "a", V2: "b", V3: "c"}, V3),
    "plaintext among it": State({V1: "a"}, {V1: "a"}, {V1: "a"}, V1, plain=3),
    "wrong key": State(
        {V1: "a"}, {V1: "a"}, {V1: "b"}, V1,
        lambda place: (
            (
                f"{place.name(V1)} decrypts none of the 40 values tried under v1 "
                "(clients.name 0 of 20, visits.note 0 of 20)"
            ),
            f"give the key that encrypted them as {place.name(V1)}",
        ),
        correct={V1: "a"},
    ),
    "swapped keys": State(
        {V1: "a"}, {V2: "b"}, {V1: "b", V2: "a"}, V2,
        lambda place: (
            f"{place.name(V1)} decrypts none of the 20 values tried under v1",
            f"{place.name(V2)} decrypts 20 of them, so give that key as {place.name(V1)}",
            f"{place.name(V1)} decrypts 20 of them, so give that key as {place.name(V2)}",
        ),
        correct={V1: "a", V2: "b"},
    ),
    "v2 has become the new v1": State(
        {V2: "b"}, {V2: "b"}, {V1: "b"}, V1,
        lambda place: (
            "there are values under v2 (40 tried), and no key for it is given",
            f"{place.name(V1)} decrypts 40 of them, so give that key as {place.name(V2)}",
        ),
    ),
    "a version without a key": State(
        {V1: "a"}, {V2: "b"}, {V1: "a"}, V1,
        lambda place: (
            "there are values under v2 (20 tried), and no key for it is given",
            f"give the key that encrypted them as {place.name(V2)}",
        ),
    ),
    "two applications with different keys": State(
        {V1: "a"}, {V1: "b"}, {V1: "a"}, V1,
        lambda place: (
            (
                f"{place.name(V1)} decrypts 20 of the 40 values tried under v1 "
                "(clients.name 20 of 20, visits.note 0 of 20)"
            ),
            "if another application writes visits.note with a key of its own, take that out of [[tables]]",
        ),
    ),
    "two applications in one column": State(
        {V1: "a"}, {V1: "ab"}, {V1: "a"}, V1,
        lambda _place: ("clients.name 20 of 20, visits.note 20 of 40", "among them rows ", "find out what wrote them"),
    ),
}  # fmt: skip


@dataclass
class Setting:
    """A folder, a database, keys by letter, and a place for keys."""

    folder: Folder
    url: str
    place: Place
    officers: tuple[DemoOfficer, ...]
    keys: dict[str, KeyMaterial] = field(default_factory=lambda: {each: KeyMaterial.generate() for each in "abc"})

    def fill(self, state: State) -> None:
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("CREATE TABLE clients (id serial PRIMARY KEY, name text)")
            connection.execute("CREATE TABLE visits (id serial PRIMARY KEY, note text)")
            for table, column, content in (("clients", "name", state.clients), ("visits", "note", state.visits)):
                insert = f"INSERT INTO {table} ({column}) VALUES (%s)".encode()
                for version, letters in content.items():
                    for letter in letters:
                        ring = KeyRing({version: self.keys[letter]}, version)
                        for row in range(ROWS):
                            connection.execute(insert, (encrypt(ring, f"{letter} {row}"),))
            for row in range(state.plain):
                connection.execute("INSERT INTO visits (note) VALUES (%s)", (f"plain {row}",))

    def configure(self) -> None:
        officers = roster_in_toml(self.officers)
        (self.folder.path / "keyrotation.toml").write_text(
            f'database.url = "{self.url}"\n{self.place.configuration()}'
            '[[tables]]\nname = "clients"\ncolumns = ["name"]\n[[tables]]\nname = "visits"\ncolumns = ["note"]\n'
            f"{officers}"
        )

    def give(self, letters: Mapping[KeyVersion, str]) -> dict[str, str]:
        return self.place.give({version: self.keys[letter] for version, letter in letters.items()})

    def init(self, primary: KeyVersion, variables: Mapping[str, str], expect: int = 0) -> str:
        options = ("--convert",) if isinstance(self.place, AwsPlain) else ()
        return self.folder.run("init", *options, expect=expect, **{PRIMARY_VARIABLE: str(primary)}, **variables)

    def status(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.folder.run("status", "--json"))
        return content


@pytest.fixture(scope="session")
def officers(
    security_officer: DemoOfficer, privacy_officer: DemoOfficer, sealed_officer: DemoOfficer
) -> tuple[DemoOfficer, ...]:
    return security_officer, privacy_officer, sealed_officer


PLACES = ("file", "AWS JSON", "AWS plain and one secret per version", "Kubernetes Secret")
# Places differ in how keys are read and named, not in how they are tried: in CI each state is met in a file, and each
# other place has an adoption and a refusal of its own.
EVERYWHERE = {"half rotated manually", "swapped keys"}


def cases() -> Iterator[Any]:
    """Every state in every place; those beyond `EVERYWHERE` are extended, but in a file."""
    for place, (name, state) in itertools.product(PLACES, STATES.items()):
        marks = () if place == "file" or name in EVERYWHERE else (pytest.mark.extended,)
        yield pytest.param(place, state, id=f"{place}-{name}", marks=marks)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "file":
        return Variables(tmp_path)
    if request.param == "Kubernetes Secret":
        secrets: TestKeySecrets = request.getfixturevalue("new_key_secrets")()
        return KubernetesEntries(secrets)
    secret: TestSecret = request.getfixturevalue("new_secret")()
    return AwsJson(secret) if request.param == "AWS JSON" else AwsPlain(secret)


@pytest.fixture
def setting(tmp_path: Path, database_url: str, place: Place, officers: tuple[DemoOfficer, ...]) -> Setting:
    made = Setting(Folder(tmp_path, []), database_url, place, officers)
    made.configure()
    return made


@pytest.mark.parametrize(("place", "state"), list(cases()), indirect=["place"])
def test_init_adopts_keys_that_open_the_data_and_names_what_is_wrong_with_others(
    setting: Setting, state: State
) -> None:
    if isinstance(setting.place, AwsPlain) and V1 not in state.given:
        pytest.fail("a plain key is always given as v1")
    setting.fill(state)
    variables = setting.give(state.given)
    if state.refused is not None:
        before = setting.place.content()
        setting.init(state.primary, variables, expect=1)
        error = setting.folder.printed[-1]
        for phrase in state.refused(setting.place):
            assert phrase in error
        assert "no key was imported" in error
        assert setting.status()["key_versions"] == []
        assert setting.place.content() == before
        if not state.correct:
            return
        variables = setting.give(state.correct)
    reported = setting.init(state.primary, variables)
    assert re.search(r"decrypts 20 of 20 values|decrypts 40 of 40 values", reported)
    status = setting.status()
    assert status["primary"] == str(state.primary)
    seen = {version for content in (state.clients, state.visits) for version in content}
    assert seen <= {KeyVersion.parse(each["version"]) for each in status["key_versions"]}
    assert sum(table["unencrypted"] for table in status["tables"]) == state.plain
    setting.folder.run("verify", expect=1 if state.plain else 0)


def test_init_names_the_rows_of_single_damaged_values_and_adopts_the_rest(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...]
) -> None:
    setting = Setting(Folder(tmp_path, []), database_url, Variables(tmp_path), officers)
    setting.configure()
    setting.fill(STATES["right key"])
    damaged = encrypt(KeyRing({V1: setting.keys["b"]}, V1), "of nobody")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("UPDATE visits SET note = %s WHERE id = 7", (damaged,))
    reported = setting.init(V1, setting.give({V1: "a"}))
    assert '1 of 20 values under v1 in visits.note (row ["7"]) do not decrypt' in reported


def test_what_an_administrator_of_the_database_has_taken_away_is_named(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...]
) -> None:
    setting = Setting(Folder(tmp_path, []), database_url, Variables(tmp_path), officers)
    setting.configure()
    setting.fill(STATES["right key"])
    variables = setting.give({V1: "a"})
    setting.init(V1, variables)
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        for change, sentence in (
            ("default_transaction_read_only = on", "is read-only; "),
            ("role = 'pg_monitor'", "the database role lacks a right .*reset a `role` that ALTER DATABASE"),
        ):
            connection.execute(f"ALTER DATABASE {name} SET {change}".encode())
            setting.init(V1, variables, expect=1)
            assert re.search(sentence, setting.folder.printed[-1])
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(f"ALTER DATABASE {name} RESET ALL".encode())
    setting.init(V1, variables)


def test_init_needs_the_primary_to_be_named_where_several_keys_are_stored(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...], new_secret: Callable[[], TestSecret]
) -> None:
    place = AwsPlain(new_secret())
    setting = Setting(Folder(tmp_path, []), database_url, place, officers)
    setting.configure()
    setting.fill(STATES["half rotated manually"])
    setting.give({V1: "a", V2: "b"})
    setting.folder.run("init", "--convert", expect=1)
    assert "holds v1, v2, and not which one applications write under; set" in setting.folder.printed[-1]
    place.secret.client.create_secret(
        Name=f"{place.secret.name}-v2-emergency", SecretString=base64_of(setting.keys["c"])
    )
    setting.init(V2, {}, expect=1)
    assert "hold different keys as v2; find out which one encrypted the values under it" in setting.folder.printed[-1]


def test_nothing_is_written_to_a_secret_that_holds_another_applications_keys(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...], new_secret: Callable[[], TestSecret]
) -> None:
    """It names no owner, as one of release 0.1.0, whose own upgrade would be refused if another home claimed it."""
    place = AwsJson(new_secret())
    setting = Setting(Folder(tmp_path, []), database_url, place, officers)
    setting.configure()
    setting.fill(State({V1: "a"}, {V1: "a"}, {}, V1))
    text = json.dumps({"v1": base64_of(setting.keys["c"]), "primary": "v1"})
    place.secret.overwrite(text)
    setting.init(V1, {"ENCRYPTION_MASTER_KEY": base64_of(setting.keys["a"])}, expect=1)
    assert "holds a different key under v1" in setting.folder.printed[-1]
    assert place.secret.text() == text


def test_a_key_in_a_secret_of_its_own_is_adopted_where_the_live_secret_is_gone(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...], new_secret: Callable[[], TestSecret]
) -> None:
    place = AwsJson(new_secret())
    setting = Setting(Folder(tmp_path, []), database_url, place, officers)
    setting.configure()
    setting.fill(State({V2: "b"}, {V2: "b"}, {}, V2))
    place.secret.client.delete_secret(SecretId=place.secret.name, ForceDeleteWithoutRecovery=True)
    key = base64_of(setting.keys["b"])
    place.secret.client.create_secret(Name=f"{place.secret.name}-v2", SecretString=key)
    assert "v2 decrypts 40 of 40 values" in setting.folder.run("init")
    found = json.loads(place.secret.text())
    assert {name: found[name] for name in found if name != OWNER} == {"v2": key, "primary": "v2"}


def test_once_the_live_secret_names_its_primary_no_other_secret_adds_a_key(
    tmp_path: Path, database_url: str, officers: tuple[DemoOfficer, ...], new_secret: Callable[[], TestSecret]
) -> None:
    place = AwsJson(new_secret())
    setting = Setting(Folder(tmp_path, []), database_url, place, officers)
    setting.configure()
    setting.fill(STATES["right key"])
    setting.init(V1, setting.give({V1: "a"}))
    foreign = base64_of(KeyMaterial.generate())
    place.secret.client.create_secret(Name=f"{place.secret.name}-v9", SecretString=foreign)
    setting.folder.run("init")
    assert set(json.loads(place.secret.text())) - {OWNER} == {"v1", "primary"}


@pytest.mark.parametrize(
    "place",
    ["file", *(pytest.param(each, marks=pytest.mark.extended) for each in PLACES[1:])],
    indirect=True,
)
def test_a_home_that_took_a_wrong_key_shows_no_green_light_and_gets_the_right_one_by_two_signatures(
    setting: Setting,
) -> None:
    setting.fill(State({}, {}, {}, V1))  # nothing to try a key on
    setting.init(V1, setting.give({V1: "b"}))
    with psycopg.connect(setting.url, autocommit=True) as connection:
        for row in range(ROWS):
            value = encrypt(KeyRing({V1: setting.keys["a"]}, V1), f"name {row}")
            connection.execute("INSERT INTO clients (name) VALUES (%s)", (value,))
    stored = AwsJson.name(setting.place, V1) if isinstance(setting.place, AwsPlain) else setting.place.name(V1)
    wrong = "decrypts none of the 20 values tried under v1 (clients.name 0 of 20)"
    for typed in (("preflight",), ("request", "--reason", "yearly"), ("backup",)):
        setting.folder.run(*typed, expect=1)
        reported = "".join(setting.folder.printed[-2:])
        assert wrong in reported, typed
        assert "keys/v1.key" in reported if isinstance(setting.place, Variables) else stored in reported

    right = base64_of(setting.keys["a"])
    command = ("replace-key", "v1", "--reason", "the wrong key was imported")
    request = setting.folder.run(*command, ENCRYPTION_MASTER_KEY=right).strip()
    text = setting.folder.run("approve", request, "--text")
    for officer in setting.officers[:2]:
        armored = officer.sign(text.encode(), "--armor").decode()
        setting.folder.run("approve", request, "--signature", "-", text=armored)
    setting.folder.run("replace-key", "v1", ENCRYPTION_MASTER_KEY=right)
    setting.folder.run("verify")
    setting.folder.run("backup")
    setting.folder.run("audit", "verify")
    assert right not in "".join(setting.folder.printed)
