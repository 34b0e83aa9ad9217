import base64
import itertools
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.keystores import owner_only
from keyrotation_pipeline.adapters.keystores.file import APPLICATION_FILE, FileKeyStore
from keyrotation_pipeline.errors import KeyStoreError
from keyrotation_pipeline.fieldcrypto.codecs.format import notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import BARE_KEYS
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption import RAILS
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, raw_of
from keyrotation_pipeline.fieldcrypto.material import Passphrase
from keyrotation_pipeline_tests.contract import dying_walk
from keyrotation_pipeline_tests.contract.key_store import (
    V1,
    V2,
    V3,
    KeyStoreContract,
    Place,
    add,
    archive,
    destroy,
    key,
    restore,
    set_primary,
)
from keyrotation_pipeline_tests.fakes import ProcessKilled

KEY = {number: key(number) for number in (1, 2, 9)}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "home" / "keys"


@dataclass
class FilePlace:
    directory: Path

    def open(self) -> FileKeyStore:
        return FileKeyStore(self.directory)

    @contextmanager
    def dying(self, moment: int) -> Iterator[None]:
        with dying_walk.raising_at(moment, ProcessKilled()):
            yield

    @contextmanager
    def unavailable(self) -> Iterator[None]:
        """No file descriptor is left to open anything with."""
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    def damage(self, version: KeyVersion, text: str) -> None:
        (self.directory / f"{version}.key").write_text(text)

    def spoil(self) -> None:
        (self.directory / "primary").write_text("v02")


class TestFileKeyStore(KeyStoreContract):
    @pytest.fixture
    def new_place(self, tmp_path: Path) -> Callable[[], Place]:
        numbers = itertools.count()

        def new() -> FilePlace:
            directory = tmp_path / "stores" / str(next(numbers))
            FileKeyStore.create(directory)
            return FilePlace(directory)

        return new


def filled(directory: Path) -> FileKeyStore:
    store = FileKeyStore.create(directory)
    add(store, V1, KEY[1])
    add(store, V2, KEY[2])
    set_primary(store, V2)
    return store


@pytest.fixture
def store(directory: Path) -> FileKeyStore:
    return filled(directory)


def files_under(directory: Path) -> dict[str, str]:
    return {str(path.relative_to(directory)): path.read_text() for path in directory.rglob("*") if path.is_file()}


# --- what lies in the directory -------------------------------------------------------------------------------------


def test_files_are_those_of_the_contract(store: FileKeyStore, directory: Path) -> None:
    archive(store, V1)
    assert files_under(directory) == {
        "v2.key": base64.b64encode(raw_of(KEY[2])).decode() + "\n",
        "primary": "v2\n",
        "archive/v1.key": base64.b64encode(raw_of(KEY[1])).decode() + "\n",
    }


@pytest.mark.parametrize("umask", [0o022, 0o000], ids=["usual umask", "no umask"])
def test_only_the_owner_can_read_it(directory: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        store = FileKeyStore.create(directory)
        add(store, V1, KEY[1])
        add(store, V2, KEY[2])
        set_primary(store, V2)
        archive(store, V1)
    finally:
        os.umask(before)
    modes = {path.relative_to(directory): path.stat().st_mode & 0o777 for path in [directory, *directory.rglob("*")]}
    assert set(modes.values()) == {0o600, 0o700}
    assert {str(path) for path, mode in modes.items() if mode == 0o700} == {".", "archive"}


def test_a_directory_made_manually_is_a_store(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True)
    for name, text in {"v1.key": base64_of(KEY[1]), "v10.key": f"{base64_of(KEY[9])}\r\n", "primary": "v10"}.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o600)
    ring = FileKeyStore(directory).read().ring()
    assert [str(version) for version in ring.versions] == ["v1", "v10"]
    assert ring.material(ring.primary) == KEY[9]


@pytest.mark.parametrize("name", ["v01.key", "v2.key.bak", "V2.key", ".v3.key", "x.key", ".writing-abc.tmp", "README"])
def test_other_files_are_no_keys(store: FileKeyStore, directory: Path, name: str) -> None:
    (directory / name).write_text("half a ke")
    assert store.read().ring().versions == (V1, V2)


def test_creating_it_again_changes_nothing(store: FileKeyStore, directory: Path) -> None:
    before = files_under(directory)
    FileKeyStore.create(directory)
    assert files_under(directory) == before


def test_the_description_names_the_absolute_directory(
    store: FileKeyStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(directory.parent)
    assert FileKeyStore(Path("keys")).description == store.description == f"file {directory}"


def test_the_directory_may_be_reached_by_a_link(store: FileKeyStore, directory: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(directory)
    assert FileKeyStore(link).read().ring().versions == (V1, V2)


# --- what is refused ------------------------------------------------------------------------------------------------


def replace(path: Path, text: str, mode: int = 0o600) -> None:
    path.write_text(text)
    path.chmod(mode)


def make_link(path: Path) -> None:
    outside = path.parent.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        pytest.param(lambda d: (d / "v1.key").chmod(0o640), r"v1\.key is open to other users .*chmod 600", id="group"),
        pytest.param(lambda d: (d / "v1.key").chmod(0o604), r"v1\.key is open to other users .*chmod 600", id="others"),
        pytest.param(lambda d: (d / "primary").chmod(0o644), r"primary is open to other users", id="primary readable"),
        pytest.param(lambda d: d.chmod(0o750), "keys is open to other users .*chmod 700", id="directory readable"),
        pytest.param(lambda d: make_link(d / "v1.key"), r"v1\.key is a symbolic link; put the file", id="link"),
        pytest.param(lambda d: make_directory(d / "v1.key"), r"v1\.key is not a regular file", id="a directory"),
        pytest.param(lambda d: make_pipe(d / "v1.key"), r"v1\.key is not a regular file", id="a pipe"),
        pytest.param(lambda d: replace(d / "v1.key", ""), r"v1\.key does not hold the base64", id="empty key"),
        pytest.param(lambda d: replace(d / "v1.key", "c2hvcnQ="), r"v1\.key does not hold the base64", id="short key"),
        pytest.param(lambda d: replace(d / "v1.key", "ü"), r"v1\.key holds something other", id="not ASCII"),
        pytest.param(lambda d: replace(d / "v1.key", "A" * 5000), r"v1\.key holds something other", id="huge"),
        pytest.param(
            lambda d: replace(d / "primary", "2"), "primary does not name a key version", id="primary is no version"
        ),
        pytest.param(
            lambda d: replace(d / "primary", "v3"),
            r"primary is v3, whose key is not live there; .*`keyrotation restore-key v3`",
            id="primary has no key",
        ),
        pytest.param(
            lambda d: (d / "primary").unlink(),
            "names no primary; .*`keyrotation restore-key`, else run `keyrotation init`",
            id="no primary",
        ),
        pytest.param(
            lambda d: d.rename(d.parent / "old"),
            "no key store at .*`keyrotation restore-key`, else run `keyrotation init`",
            id="no directory",
        ),
    ],
)
def test_a_store_that_cannot_be_right_gives_no_ring(
    store: FileKeyStore, directory: Path, spoil: Callable[[Path], object], sentence: str
) -> None:
    spoil(directory)
    with pytest.raises(KeyStoreError, match=sentence):
        store.read().ring()


def test_a_long_list_is_read_and_a_longer_one_than_that_is_refused_before_anything_is_written(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passphrases = notation_of(RAILS)
    store = FileKeyStore.create(directory, "KEYS", passphrases)
    for number in range(1, 19):
        add(store, KeyVersion(number), Passphrase(f"{number:0256}".encode()))
    set_primary(store, V1)
    listed = (directory / APPLICATION_FILE).stat().st_size
    assert listed > 4096
    assert len(archive(store, V2).live) == 17
    before = files_under(directory)
    monkeypatch.setattr("keyrotation_pipeline.adapters.keystores.file.MOST_LIST_BYTES", listed - 100)
    with pytest.raises(KeyStoreError, match=r"would hold more than .* bytes with v2; finish a rotation"):
        restore(store, V2)
    with pytest.raises(KeyStoreError, match=r"bytes with v30"):
        add(store, KeyVersion(30), Passphrase(b"3" * 256))
    assert files_under(directory) == before
    store.add(KeyVersion(30), Passphrase(b"3" * 256), store.read().revision, archived=True)


def test_a_file_in_place_of_the_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with pytest.raises(KeyStoreError, match=r"keys is not a directory; correct \[keys.file\]"):
        FileKeyStore(tmp_path / "keys").read()


@pytest.mark.parametrize("ask", ["archive", "restore"])
def test_two_different_keys_under_one_version_are_never_merged(store: FileKeyStore, directory: Path, ask: str) -> None:
    (directory / "archive").mkdir(mode=0o700)
    replace(directory / "archive" / "v1.key", base64_of(KEY[9]))
    with pytest.raises(KeyStoreError, match="different keys") as caught:
        {"archive": archive, "restore": restore}[ask](store, V1)
    assert (directory / "v1.key").exists()
    assert (directory / "archive" / "v1.key").exists()
    assert base64_of(KEY[1]) not in str(caught.value)


def test_a_refusal_by_the_operating_system_is_a_sentence(store: FileKeyStore, directory: Path) -> None:
    (directory / "archive").symlink_to("nowhere")
    with pytest.raises(KeyStoreError, match=r"archive.* cannot be written .*; fix that"):
        archive(store, V1)
    assert tuple(store.read().live) == (V1, V2)


@pytest.mark.parametrize("change", ["add", "archive", "restore"])
def test_a_disk_that_gives_back_another_key_than_was_written_is_noticed(
    store: FileKeyStore, directory: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    if change == "restore":
        archive(store, V1)
    write = owner_only.write
    monkeypatch.setattr(owner_only, "write", lambda path, _text: write(path, base64_of(KEY[9])))
    with pytest.raises(KeyStoreError, match=r"\.key does not read back as written; check the disk"):
        {
            "add": lambda: add(store, V3, KEY[2]),
            "archive": lambda: archive(store, V1),
            "restore": lambda: restore(store, V1),
        }[change]()
    # The key that was to move is still whole where it was.
    place = directory / "archive" if change == "restore" else directory
    assert (place / "v1.key").read_text().strip() == base64_of(KEY[1])


def test_a_destroyed_key_is_in_no_file_not_even_in_what_a_dead_writer_left(
    store: FileKeyStore, directory: Path
) -> None:
    archive(store, V1)
    for place in (directory, directory / "archive"):
        replace(place / ".writing-abc.tmp", base64_of(KEY[1]))
    destroy(store, V1)
    assert files_under(directory) == {"v2.key": base64_of(KEY[2]) + "\n", "primary": "v2\n"}


def test_a_key_whose_archiving_was_cut_off_counts_as_live_and_is_not_destroyed(
    store: FileKeyStore, directory: Path
) -> None:
    archive(store, V1)
    replace(directory / "v1.key", base64_of(KEY[1]))
    with pytest.raises(KeyStoreError, match="v1 is live in"):
        destroy(store, V1)
    assert (directory / "archive" / "v1.key").exists()


def test_a_damaged_key_is_destroyed_like_any_other(store: FileKeyStore, directory: Path) -> None:
    archive(store, V1)
    replace(directory / "archive" / "v1.key", "half a k")
    destroy(store, V1)
    assert not store.read().archived


# --- dying at any moment --------------------------------------------------------------------------------------------


def test_after_a_death_at_any_moment_every_key_is_there_and_the_same_steps_finish(tmp_path: Path) -> None:
    for moment in range(1, 200):
        directory = tmp_path / str(moment)
        store = filled(directory)
        program = [sys.executable, dying_walk.__file__, str(directory), str(moment)]
        if subprocess.run(program, check=False).returncode == 0:
            break
        assert (store.read().material(V1), store.read().material(V2)) == (KEY[1], KEY[2])
        assert store.read().ring().primary in store.read().live
        dying_walk.walk(store)
        assert files_under(directory) == {
            "v2.key": base64_of(KEY[2]) + "\n",
            "v3.key": base64_of(dying_walk.KEY_3) + "\n",
            "primary": "v3\n",
            "archive/v1.key": base64_of(KEY[1]) + "\n",
        }
    assert moment > 20


def test_content_reaches_the_disk_before_its_name_and_a_copy_before_the_original_goes(
    store: FileKeyStore, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []

    def noted(name: str, function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            subject = str(Path(f"/proc/self/fd/{arguments[0]}").readlink() if name == "sync" else arguments[-1])
            calls.append(f"{name} {'temporary' if subject.endswith('.tmp') else Path(subject).relative_to(directory)}")
            return function(*arguments)

        return call

    (directory / "archive").mkdir(mode=0o700)
    monkeypatch.setattr(os, "fsync", noted("sync", os.fsync))
    monkeypatch.setattr(Path, "replace", noted("name", Path.replace))
    monkeypatch.setattr(Path, "unlink", noted("remove", Path.unlink))
    archive(store, V1)
    assert calls == ["sync temporary", "name archive/v1.key", "sync archive", "remove v1.key", "sync ."]


def delivered(directory: Path) -> list[KeyVersion]:
    """The versions in the application's own list, in its order."""
    name, _, listed = (directory / "application.env").read_text().partition("=")
    assert name == "FERNET_KEYS"
    numbers = {key(number): KeyVersion(number) for number in (1, 2, 3)}
    return [numbers[each] for each in BARE_KEYS.keys_in(listed, name)]


def test_an_application_gets_its_own_list_in_two_orders(directory: Path) -> None:
    store = FileKeyStore.create(directory, "FERNET_KEYS")
    add(store, V1, key(1))
    assert not (directory / "application.env").exists()  # nothing says yet which one encrypts
    set_primary(store, V1)
    lists = [delivered(directory)]
    changes: tuple[Callable[[], object], ...] = (
        lambda: add(store, V2, key(2)),
        lambda: set_primary(store, V2),
        lambda: add(store, V3, key(3)),
        lambda: archive(store, V1),
        lambda: restore(store, V1),
        lambda: set_primary(store, V1),
    )
    for change in changes:
        change()
        lists.append(delivered(directory))
    assert lists == [[V1], [V1, V2], [V2, V1], [V2, V3, V1], [V2, V3], [V2, V3, V1], [V1, V3, V2]]
    assert (directory / "application.env").stat().st_mode & 0o777 == 0o600


def test_a_list_that_a_death_left_behind_is_delivered_by_the_next_read(directory: Path) -> None:
    store = FileKeyStore.create(directory, "FERNET_KEYS")
    add(store, V1, key(1))
    set_primary(store, V1)
    add(FileKeyStore(directory), V2, key(2))  # as if the process had died before it wrote the list
    assert delivered(directory) == [V1]
    store.read()
    assert delivered(directory) == [V1, V2]
    (directory / "v1.key").write_text("damaged")
    store.read()
    assert delivered(directory) == [V1, V2]  # what the application can work with stays
    (directory / "application.env").unlink()
    FileKeyStore(directory).read()
    assert not (directory / "application.env").exists()
