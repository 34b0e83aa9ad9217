"""A key ring from files that change: a mounted Secret, a key directory, a sidecar's file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from keyrotation_pipeline.encrypted_type import KeyRing, MountedKeyRing, environment
from keyrotation_pipeline.errors import InvalidKeyError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.regular_files import read_text

V1, V2 = KeyVersion(1), KeyVersion(2)
KEYS = {V1: KeyMaterial.generate(), V2: KeyMaterial.generate()}
ONE, TWO = (base64_of(KEYS[version]) for version in (V1, V2))


def variables(path: Path, primary: str) -> Path:
    """As Kubernetes mounts a Secret: each file a link through `..data`, which is swapped as a whole."""
    moment = path / f"..{primary}"
    moment.mkdir()
    for name, content in (
        ("ENCRYPTION_MASTER_KEY", ONE),
        ("ENCRYPTION_MASTER_KEY_V2", TWO),
        ("ENCRYPTION_PRIMARY_VERSION", primary),
        ("DATABASE_URL", "postgresql://…"),
    ):
        (moment / name).write_text(content)
        if not (path / name).is_symlink():
            (path / name).symlink_to(f"..data/{name}")
    neighbour = path / "..data_tmp"
    neighbour.symlink_to(moment.name)
    neighbour.rename(path / "..data")
    return path


def key_files(path: Path, primary: str) -> Path:
    """As the file key store writes them."""
    (path / "v1.key").write_text(f"{ONE}\n")
    (path / "v2.key").write_text(f"{TWO}\n")
    (path / "primary").write_text(f"{primary}\n")
    (path / "archive").mkdir(exist_ok=True)
    (path / ".lock").touch()
    return path


def lines(path: Path, primary: str) -> Path:
    """As a sidecar renders them."""
    file = path / "keys.env"
    file.write_text(
        f'# rendered\nENCRYPTION_MASTER_KEY="{ONE}"\nexport ENCRYPTION_MASTER_KEY_V2={TWO}\n\n'
        f"ENCRYPTION_PRIMARY_VERSION='{primary}'\n"
    )
    return file


def same(ring: KeyRing, primary: KeyVersion) -> bool:
    return ring.primary == primary and {version: ring.material(version) for version in ring.versions} == KEYS


@pytest.mark.parametrize("written", [variables, key_files, lines])
def test_the_ring_is_that_of_the_files_as_they_are_now(tmp_path: Path, written: Callable[[Path, str], Path]) -> None:
    keys = MountedKeyRing(written(tmp_path, "v1"))
    assert same(keys(), V1)
    written(tmp_path, "v2")
    assert same(keys(), V1), "until it is reloaded"
    assert same(keys.reload(), V2)
    assert same(keys(), V2)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda path: (path / "v2.key").write_text("not a key"), id="no key"),
        pytest.param(lambda path: (path / "primary").unlink(), id="no primary"),
        pytest.param(lambda path: (path / "primary").write_text("v3"), id="a primary that is not there"),
        pytest.param(lambda path: (path / "v2.key").write_bytes(b"\xff\xfe"), id="no text"),
        pytest.param(lambda path: path.rename(path.with_name("moved")), id="no directory"),
    ],
)
def test_files_that_make_no_ring_leave_the_former_one_in_use(tmp_path: Path, spoil: Callable[[Path], object]) -> None:
    directory = tmp_path / "keys"
    directory.mkdir()
    keys = MountedKeyRing(key_files(directory, "v2"))
    keys()
    spoil(directory)
    with pytest.raises(InvalidKeyError) as refused:
        keys.reload()
    assert same(keys(), V2)
    assert not any(secret in str(refused.value) for secret in (ONE, TWO, "not a key"))


def reported_next_to_variables(path: Path) -> None:
    (path / "..data" / "ENCRYPTION_COMPROMISED_VERSIONS").write_text("v1\n")


def reported_next_to_key_files(path: Path) -> None:
    (path / "compromised").write_text("v1\n")


def reported_in_lines(path: Path) -> None:
    with (path / "keys.env").open("a") as file:
        file.write("ENCRYPTION_COMPROMISED_VERSIONS=v1\n")


@pytest.mark.parametrize(
    ("written", "reported"),
    [(variables, reported_next_to_variables), (key_files, reported_next_to_key_files), (lines, reported_in_lines)],
)
def test_what_is_compromised_is_read_and_never_the_primary_again(
    tmp_path: Path, written: Callable[[Path, str], Path], reported: Callable[[Path], None]
) -> None:
    keys = MountedKeyRing(written(tmp_path, "v2"))
    reported(tmp_path)
    assert same(keys(), V2)
    written(tmp_path, "v1")
    reported(tmp_path)
    with pytest.raises(InvalidKeyError, match="v1 is compromised, so nothing is encrypted under it again"):
        keys.reload()
    assert same(keys(), V2)


def test_files_that_change_while_they_are_read_never_make_the_primary_look_compromised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store names another primary first, and then the compromised one; the reader must not see it reversed."""
    keys, read = MountedKeyRing(key_files(tmp_path, "v1")), read_text

    def while_the_store_changes(path: Path) -> str:
        content = read(path)
        if path.name == "primary" and content == "v1\n":
            (tmp_path / "primary").write_text("v2\n")
            (tmp_path / "compromised").write_text("v1\n")
        return content

    monkeypatch.setattr(environment, "read_text", while_the_store_changes)
    (tmp_path / "compromised").write_text("")
    assert same(keys(), V1)
    assert same(keys.reload(), V2)


def test_a_link_into_the_mount_is_read_as_of_one_moment(tmp_path: Path) -> None:
    keys = MountedKeyRing(variables(tmp_path, "v1"))
    keys()
    # A file that is not of this moment: what stands next to `..data` is not looked at.
    (tmp_path / "ENCRYPTION_PRIMARY_VERSION").unlink()
    (tmp_path / "ENCRYPTION_PRIMARY_VERSION").write_text("v2")
    assert same(keys.reload(), V1)
