"""Which backup counts: keys and database, whole, in every place, by the audit's word."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.backups.directory import BackupDirectory
from keyrotation_pipeline.backups.catalog import MOST_READ, copy_set, kept_sets, unknown_sets
from keyrotation_pipeline.backups.completeness import backup_status
from keyrotation_pipeline.backups.manifest_trust import ManifestTrust
from keyrotation_pipeline.backups.remaining_copies import replacements
from keyrotation_pipeline.model.backups import (
    BackupSet,
    BackupStatus,
    DatabaseContent,
    DatabaseCopy,
    KeyCopy,
    StoredFile,
    TableContent,
    dump_name,
    key_file_name,
    manifest_name,
    signature_name,
)
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.manifest import LARGEST_BYTES
from keyrotation_pipeline_tests.fakes import (
    CLIENTS,
    PIPELINE,
    START,
    V1,
    V2,
    V3,
    FakeWorld,
    fake_manifest_trust,
    fake_pipeline,
)
from keyrotation_pipeline_tests.fakes.backups import DEFINITION
from keyrotation_pipeline_tests.fakes.journal import OWNER

OLD, NEW = f"20260106-030000-{PIPELINE}", f"20260107-030000-{PIPELINE}"


@dataclass
class Site:
    """Two places and what is registered."""

    world: FakeWorld
    local: BackupDirectory
    offsite: BackupDirectory
    trust: ManifestTrust
    records: list[KeyRecord]

    def status(self) -> BackupStatus:
        return backup_status((self.offsite, self.local), self.trust, self.records)

    def found(self, made: BackupSet | None) -> BackupStatus:
        """That a set is in both places, and nothing is wrong."""
        places = (self.offsite.description, self.local.description)
        if made is None:
            return BackupStatus(None, places=places)
        return BackupStatus(made.made_at, made.name, versions=(V1, V2), places=places)

    def back_up(self, stamp: str, *, keys: tuple[KeyRecord, ...] | None = None, dump: bool = True) -> BackupSet:
        """A set in both places."""
        copies = tuple(
            KeyCopy(each.version, each.fingerprint, self.file(key_file_name(each.version, stamp)))
            for each in (self.records if keys is None else keys)
        )
        counted = TableContent(CLIENTS, 1, {"first_name": {V1: 1}, "email": {}})
        copy = (
            DatabaseCopy(self.file(dump_name(stamp)), (counted,), 18, DatabaseContent((), 0), DEFINITION)
            if dump
            else None
        )
        made = BackupSet(stamp, "clinic", copies, copy, self.world.ledger.head(), home=OWNER.home)
        self.trust.write(self.local, made)
        copy_set(self.local, self.offsite, made)
        return made

    def file(self, name: str) -> StoredFile:
        content = f"encrypted {name}".encode()
        self.local.write(name, content)
        return StoredFile(name, hashlib.sha256(content).hexdigest(), len(content), ("F" * 40,))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    world = fake_pipeline()
    trust = fake_manifest_trust(world.ledger, world.pipeline.signatures)
    records = list(world.ledger.keys())
    return Site(world, BackupDirectory(tmp_path / "local"), BackupDirectory(tmp_path / "offsite"), trust, records)


def test_the_newest_complete_set_counts(site: Site) -> None:
    site.back_up(OLD)
    made = site.back_up(NEW)
    assert site.status() == site.found(made)


def test_keys_alone_are_no_backup_and_say_nothing_against_the_one_before(site: Site) -> None:
    assert site.status() == site.found(None)
    made = site.back_up(OLD)
    site.back_up(NEW, dump=False)
    assert site.status() == site.found(made)


def without_dump(site: Site, made: BackupSet) -> None:
    site.offsite.remove(dump_name(made.stamp))


def shorter_dump(site: Site, made: BackupSet) -> None:
    site.offsite.write(dump_name(made.stamp), b"short")


def other_key_file(site: Site, made: BackupSet) -> None:
    name = made.keys[0].file.name
    site.local.write(name, site.local.read(name)[::-1])


def no_manifest(site: Site, made: BackupSet) -> None:
    site.offsite.remove(made.name)


def forged_manifest(site: Site, made: BackupSet) -> None:
    site.offsite.write(made.name, site.offsite.read(made.name) + b" ")


def key_of_before(site: Site, _made: BackupSet) -> None:
    """A third key was registered before the set was made, which does not hold it."""
    site.records.append(KeyRecord(V3, KeyState.ARCHIVED, "3" * 64, START))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        pytest.param(without_dump, f"{dump_name(NEW)} in directory .* is missing", id="no dump offsite"),
        pytest.param(shorter_dump, f"{dump_name(NEW)} in directory .* is missing or damaged", id="shorter dump"),
        pytest.param(other_key_file, f"{key_file_name(V1, NEW)} in directory .* is missing", id="key file altered"),
        pytest.param(no_manifest, f"backup-{NEW}.json is not in directory", id="no manifest"),
        pytest.param(forged_manifest, "is not the one that the audit recorded", id="another manifest"),
        pytest.param(key_of_before, f"backup-{NEW}.json does not hold the registered key v3", id="a key is missing"),
    ],
)
def test_what_is_not_whole_in_every_place_does_not_count_and_is_named(
    site: Site, damage: Callable[[Site, BackupSet], None], said: str
) -> None:
    before = site.back_up(OLD)
    damage(site, site.back_up(NEW))
    found = site.status()
    assert found.manifest == (None if damage is key_of_before else before.name)
    assert re.search(said, found.problems[0])


def killed_after_the_dump(site: Site, made: BackupSet) -> None:
    for name in (made.name, signature_name(made.name), *(copy.file.name for copy in made.keys)):
        site.offsite.remove(name)


def killed_in_the_dump(site: Site, made: BackupSet) -> None:
    killed_after_the_dump(site, made)
    name = dump_name(made.stamp)
    site.offsite.path(name).rename(site.offsite.path(f".{name}.tmp"))


def not_begun(site: Site, made: BackupSet) -> None:
    killed_after_the_dump(site, made)
    site.offsite.remove(dump_name(made.stamp))


@pytest.mark.parametrize(
    ("happened", "said"),
    [
        pytest.param(killed_after_the_dump, ", but part of its set is: an interrupted upload", id="after"),
        pytest.param(killed_in_the_dump, ", but part of its set is: an interrupted upload", id="in the dump"),
        pytest.param(not_begun, "; run `keyrotation backup`", id="before"),
    ],
)
def test_an_upload_that_was_killed_is_reported_as_such(
    site: Site, happened: Callable[[Site, BackupSet], None], said: str
) -> None:
    site.back_up(OLD)
    made = site.back_up(NEW)
    happened(site, made)
    (sentence,) = site.status().problems
    assert sentence.startswith(f"{made.name} is not in directory {site.offsite.path('')}{said}")
    assert sentence.endswith("run `keyrotation backup`")


@pytest.mark.parametrize("unfinished", [False, True], ids=["dump without a manifest", "half a dump"])
def test_a_backup_that_was_killed_before_its_manifest_is_reported_until_a_whole_one_is_made(
    site: Site, *, unfinished: bool
) -> None:
    site.back_up(OLD)
    name = dump_name(NEW)
    site.local.write(name, b"half")
    if unfinished:
        site.local.path(name).rename(site.local.path(f".{name}.tmp"))
    (sentence,) = site.status().problems
    assert "the backup of 2026-01-07 03:00 UTC was begun in directory" in sentence
    assert "not finished; unless it is still under way, run `keyrotation backup`" in sentence
    later = site.back_up(f"20260108-030000-{PIPELINE}")
    assert site.status() == site.found(later)


def test_a_set_of_another_pipeline_is_reported_and_changes_nothing(site: Site) -> None:
    made = site.back_up(OLD)
    stamp = "20260107-030000-3fa9c1d2"
    for name in (manifest_name(stamp), signature_name(manifest_name(stamp)), dump_name(stamp)):
        site.offsite.write(name, b"theirs")
    found = site.status()
    assert (found.manifest, found.problems) == (made.name, ())
    (sentence,) = found.unknown
    assert "has 1 set of the pipeline 3fa9c1d2, which is unknown" in sentence
    assert manifest_name(stamp) in sentence
    assert kept_sets(site.offsite, site.trust).refused == {}


def test_of_many_manifests_that_are_named_like_ours_only_the_newest_are_read(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, asked = site.back_up(OLD), list[str]()
    for number in range(2, 60):
        site.offsite.write(manifest_name(f"{NEW}-{number}"), b"theirs")
    real = site.offsite.read

    def reading(name: str, most_bytes: int = LARGEST_BYTES) -> bytes:
        asked.append(name)
        return real(name, most_bytes)

    monkeypatch.setattr(site.offsite, "read", reading)
    (sentence,) = unknown_sets(site.offsite, site.offsite.names(), site.trust)
    assert f"has {MOST_READ} sets named like ours, which no key of ours has signed" in sentence
    assert len(asked) == MOST_READ  # no signature, since none names our key
    assert made.name not in asked


def test_older_sets_that_are_not_visible_everywhere_are_not_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    older, newest, asked = site.back_up(OLD), site.back_up(NEW), list[str]()
    for made in (older, newest):
        site.local.remove(made.name)
    real = site.offsite.read

    def reading(name: str, most_bytes: int = LARGEST_BYTES) -> bytes:
        asked.append(name)
        return real(name, most_bytes)

    monkeypatch.setattr(site.offsite, "read", reading)
    assert site.status().last is None
    assert asked == [newest.name, signature_name(newest.name)]


def test_a_dump_without_the_key_that_it_needs_does_not_count(site: Site) -> None:
    site.records = [record for record in site.records if record.version == V2]
    made = site.back_up(NEW)
    assert site.status().problems[0] == f"{made.name} has values under v1, but no such key; run `keyrotation backup`"
    assert site.status().last is None


def test_the_file_of_a_destroyed_key_is_not_missed_nor_a_key_of_later(site: Site) -> None:
    site.records.append(KeyRecord(V3, KeyState.ARCHIVED, "3" * 64, START))
    made = site.back_up(NEW)
    site.records[2] = replace(site.records[2], state=KeyState.DESTROYED)
    site.records.append(KeyRecord(V3.next(), KeyState.ACTIVE, "4" * 64, made.made_at.replace(hour=4)))
    for place in (site.local, site.offsite):
        place.remove(key_file_name(V3, NEW))
    assert site.status() == site.found(made)


def test_a_set_that_was_made_from_an_older_one_stands_where_that_one_does_and_counts_for_nothing(site: Site) -> None:
    old = site.back_up(OLD)
    new = site.back_up(NEW)
    made = replace(
        old,
        stamp=f"{OLD}-2",
        keys=(),
        dump=DatabaseCopy(site.file(dump_name(f"{OLD}-2")), (), 18, DatabaseContent((), 0), DEFINITION),
        made_from=site.trust.seal_of(old),
    )
    site.trust.write(site.local, made)
    copy_set(site.local, site.offsite, made)
    again = fake_manifest_trust(
        site.world.ledger, site.world.pipeline.signatures
    )  # as the next command reads the audit
    for trust in (site.trust, again):
        kept = kept_sets(site.local, trust)
        assert [each.name for each in kept.sets] == [new.name, old.name, made.name]
        assert kept.newest == new
        assert next(trust.sealed_with_dump) == new.name
        assert not trust.is_after(made.name, new)  # were it damaged, it would not be taken for a newer one
        assert trust.seal_of(made).seq == trust.seal_of(old).seq
    assert site.status().manifest == new.name
    site.offsite.remove(new.name)
    assert site.status().manifest == old.name
    assert not replacements(replace(kept, names=frozenset({made.name})))  # without its dump it replaces nothing
    assert {each: by for each, (by, _) in replacements(kept).items()} == {(old.name, ""): made}
