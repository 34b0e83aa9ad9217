"""The rule by which local files go, over 400 days in which nearly everything goes wrong once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta

import pytest

from keyrotation_pipeline.backups.completeness import LocalCopy, expired
from keyrotation_pipeline.model.backups import StoredFile
from keyrotation_pipeline_tests.fakes import START

KEEP_DAYS = 7
DAYS = range(400)
# What goes wrong, and on which days.
NO_BUCKET = frozenset(range(50, 90)) | {200}
NO_DUMP = frozenset(range(120, 140))
NO_V1 = frozenset(range(260, 400))
DAMAGED = frozenset(range(0, 400, 37)) | frozenset(range(330, 345))
CLOCK_BEHIND = range(300, 303)


@dataclass
class Backups:
    """A local directory and a bucket, as names only."""

    local: list[LocalCopy] = field(default_factory=list)
    bucket: set[str] = field(default_factory=set)
    damaged: set[str] = field(default_factory=set)
    newest: dict[tuple[str, ...], LocalCopy] = field(default_factory=dict)

    def back_up(self, day: int) -> None:
        for copy_of in copies_of(day):
            # For three days the clock is ten days behind: what is then made is newer by the audit, not by its date.
            dated = START + timedelta(days=day - (10 if day in CLOCK_BEHIND else 0))
            file = StoredFile(f"{'-'.join(copy_of)}-{day}", "0" * 64, 1, ())
            copy = LocalCopy(copy_of, day, dated, file)
            self.local.append(copy)
            if day in DAMAGED:
                self.damaged.add(file.name)
        if day not in NO_BUCKET:  # what was missed is uploaded, too, if it is whole
            self.bucket |= {each.file.name for each in self.local} - self.damaged
        for copy in self.local:
            if self.is_good(copy.file) and copy.order >= getattr(self.newest.get(copy.copy_of), "order", -1):
                self.newest[copy.copy_of] = copy

    def is_good(self, file: StoredFile) -> bool:
        return file.name not in self.damaged and file.name in self.bucket

    def retain(self, day: int) -> tuple[str, ...]:
        gone = expired(
            self.local,
            START + timedelta(days=day - KEEP_DAYS),
            is_whole=lambda file: file.name not in self.damaged,
            is_elsewhere=lambda file: file.name in self.bucket,
        )
        self.local = [each for each in self.local if each.file.name not in gone]
        return gone


def copies_of(day: int) -> Iterator[tuple[str, ...]]:
    if day not in NO_DUMP:
        yield ("clinic",)
    if day not in NO_V1:
        yield ("v1", "f1")
    if day >= 180:
        yield ("v2", "f2")


def test_in_400_days_nothing_goes_that_is_not_elsewhere_and_the_newest_good_copy_of_everything_stays() -> None:
    backups, most = Backups(), 0
    for day in DAYS:
        backups.back_up(day)
        gone = backups.retain(day)
        assert set(gone) <= backups.bucket
        left = {each.file.name for each in backups.local}
        assert all(copy.file.name in left for copy in backups.newest.values())
        old = [each for each in backups.local if each.made_at < START + timedelta(days=day - KEEP_DAYS)]
        # Only what the bucket does not have, and the newest good copy of what is not made any more.
        assert all(each in backups.newest.values() or not backups.is_good(each.file) for each in old)
        most = max(most, len(left))
    assert most < 3 * (len(NO_BUCKET) + 2 * KEEP_DAYS) + len(DAMAGED) * 3
    assert "v1-f1-259" in {each.file.name for each in backups.local}  # the key was lost 140 days ago


@pytest.mark.parametrize(
    ("damaged", "elsewhere", "gone"),
    [
        pytest.param((), (1, 2), (1,), id="superseded and elsewhere"),
        pytest.param((), (2,), (), id="not elsewhere"),
        pytest.param((), (1,), (), id="the newer one is not elsewhere"),
        pytest.param((2,), (1, 2), (), id="the newer one is damaged"),
        pytest.param((1,), (1, 2), (1,), id="a damaged old one"),
    ],
)
def test_an_old_file_goes_only_when_it_and_a_newer_whole_one_are_elsewhere(
    damaged: tuple[int, ...], elsewhere: tuple[int, ...], gone: tuple[int, ...]
) -> None:
    files = {number: StoredFile(f"file {number}", "0" * 64, 1, ()) for number in (1, 2)}
    copies = [LocalCopy(("clinic",), number, START + timedelta(days=number), file) for number, file in files.items()]
    found = expired(
        copies,
        START + timedelta(days=10),
        is_whole=lambda file: file not in [files[each] for each in damaged],
        is_elsewhere=lambda file: file in [files[each] for each in elsewhere],
    )
    assert found == tuple(files[each].name for each in gone)
