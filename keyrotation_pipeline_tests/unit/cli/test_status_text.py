"""`status` on terminals of 80 and 60 columns, and what it says of Dagster."""

from contextlib import redirect_stdout
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO

import pytest

from keyrotation_pipeline.cli import output
from keyrotation_pipeline.cli import status as status_command
from keyrotation_pipeline.cli.status import age, conductor_in_words
from keyrotation_pipeline.defs.partitions import OWN
from keyrotation_pipeline.defs.status_page import status_metadata
from keyrotation_pipeline.defs.summaries import WIDTH_CHARS
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import AuditHead, counted
from keyrotation_pipeline.model.environment import BlindSpots, Unsearched
from keyrotation_pipeline.model.keys import KeyRecord, KeyState
from keyrotation_pipeline.model.pending import PendingCode, PendingReason
from keyrotation_pipeline.model.requests import PendingRequest
from keyrotation_pipeline.model.status import Heartbeat, RotationStatus, Status, TableStatus, without_repeats
from keyrotation_pipeline.model.tables import EncryptedTable, TableCount, TableName
from keyrotation_pipeline_tests.fakes import fake_pipeline, rotation_of

NOW = datetime(2026, 11, 25, 3, 0, tzinfo=UTC)
V1, V2 = KeyVersion(1), KeyVersion(2)
ADDRESS = "http://127.0.0.1:3000/asset-groups"


def table(name: str, rows: int, unreadable: int = 0) -> TableStatus:
    declared = EncryptedTable(TableName.parse(name), ("secret",))
    counted = NOW - timedelta(minutes=185)
    count = TableCount(declared, rows, {V2: 5 * rows}, 0, 0, 0, unreadable, (V1,), counted)
    return TableStatus(declared, count, {V1: 0, V2: 5 * rows}, (V1,))


def status(*tables: TableStatus) -> Status:
    keys = (KeyRecord(V1, KeyState.ARCHIVED, "a" * 64, NOW), KeyRecord(V2, KeyState.ACTIVE, "b" * 64, NOW))
    return Status(
        generated_at=NOW, database="clinic@db.internal.example.org", key_versions=keys, primary=V2, tables=tables,
        rotation=None, last_backup=NOW - timedelta(hours=3, minutes=5), last_recovery_test=NOW - timedelta(days=12),
        incidents=(), requests=(), audit=AuditHead(1234, "c" * 64), next_rotation_due=NOW + timedelta(days=300),
        attention=("the newest backup is not whole in s3://bucket/prefix; run `keyrotation backup` and look again",),
        empty_versions=(V1,),
    )  # fmt: skip


def show(shown: Status) -> None:
    lines = status_command.lines(shown, BlindSpots((), ()), (), None)
    output.show(shown.database, {}, lines, as_json=False)


class Screen(StringIO):
    """A terminal, as far as a stream can be asked."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(params=[80, 60])
def columns(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def screen(columns: int, monkeypatch: pytest.MonkeyPatch) -> Screen:
    """A terminal of so many columns, without colours."""
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr("rich.console.Console.is_terminal", False)
    return Screen()


def test_where_no_backup_is_known_it_is_not_said_that_none_was_made() -> None:
    seen = replace(status(), last_backup=None)
    (line,) = [str(each) for each in status_command.lines(seen, BlindSpots((), ()), (), None) if "Backup" in str(each)]
    assert "none is known to be complete now; " in line
    assert "never" not in line


def test_a_narrow_terminal_breaks_neither_numbers_nor_words(columns: int, screen: Screen) -> None:
    shown = status(table("appointments", 12_345_678), table("billing.Invoices", 40_000))
    with redirect_stdout(screen):
        show(shown)
    lines = screen.getvalue().splitlines()

    assert max(map(len, map(str.rstrip, lines))) <= columns
    [row] = [line for line in lines if line.startswith("appointments")]
    assert row.split() == ["appointments", "12,345,678", "61,728,390", "v1", "3", "h", "ago"]
    assert "No value under v1 when last counted, 3 h ago." in lines
    assert not [line for line in lines if "Unencrypted" in line or "Unreadable" in line]
    assert "Backup    3 h ago; proven to restore 12 days ago" in lines


def test_a_backup_that_no_recovery_test_has_restored_is_never_proven(capsys: pytest.CaptureFixture[str]) -> None:
    show(replace(status(), last_recovery_test=None))
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("Backup")]
    assert line == "Backup    3 h ago; never proven to restore"


@pytest.mark.parametrize(
    ("passed", "said"),
    [
        pytest.param(None, "NOT proven to restore: the recovery test failed 2 min ago", id="never passed"),
        pytest.param(
            NOW - timedelta(minutes=5),
            "NOT proven to restore: the recovery test failed 2 min ago (passed before, 5 min ago)",
            id="passed before",
        ),
    ],
)
def test_nothing_is_proven_to_restore_once_a_recovery_test_failed(
    capsys: pytest.CaptureFixture[str], passed: datetime | None, said: str
) -> None:
    show(replace(status(), last_recovery_test=passed, recovery_test_failed=NOW - timedelta(minutes=2)))
    (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("Backup")]
    assert line == f"Backup    3 h ago; {said}"


def test_a_column_that_is_not_all_zero_is_shown(screen: Screen) -> None:
    shown = status(table("clients", 7, unreadable=3), table("notes", 2))
    with redirect_stdout(screen):
        show(shown)
    lines = screen.getvalue().splitlines()

    assert [line.split()[:5] for line in lines if line.startswith(("Table", "clients", "notes"))] == [
        ["Table", "Rows", "v2", "Unreadable", "Refuses"],
        ["clients", "7", "35", "3", "v1"],
        ["notes", "2", "10", "0", "v1"],
    ]


def test_a_pipe_gets_each_sentence_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    shown = replace(status(), attention=("first", "word " * 60))
    show(shown)

    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("Attention")] == [
        f"Attention {'word ' * 60}"
    ]


def test_why_a_rotation_waits_and_what_is_not_searched_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    reason = PendingReason(PendingCode.NO_INSTANCES, "instances", "no instance reports", "add it", details="at length")
    rotation = RotationStatus(rotation_of(fake_pipeline()), "requested", 2, 0.0, None, reason, at_work=False)
    blocked, due = f"rotation x cannot begin: {reason}", f"a rotation was due by May; {reason}"
    shown = replace(status(), rotation=rotation, attention=(blocked, due, "the newest backup is old"))
    spots = BlindSpots((Unsearched("logs"), Unsearched("dumps")))
    for verbose in (False, True):
        output.show(None, {}, status_command.lines(shown, spots, (), None, verbose=verbose), as_json=False)
        text = capsys.readouterr().out
        assert text.count(reason.why) == 1
        assert f"Now       v1 → v2 waits: {reason.why}.\nNext      {reason.do}\n" in text
        for each in ("rotation x cannot begin", "a rotation was due by May", "the newest backup is old"):
            assert f"Attention {each}\n" in text
        assert ("at length" in text, "Not searched: logs; dumps" in text) == (verbose, verbose)
        assert ("2 places were not searched" in text) is not verbose


@pytest.mark.parametrize(
    ("at_work", "said", "not_said"),
    [
        (True, "in progress\n", " waits: "),
        (False, "Now       v1 → v2 waits: clients shard 00: going slower: a commit takes", "in progress"),
    ],
)
def test_a_walk_that_is_slowed_does_not_wait(
    capsys: pytest.CaptureFixture[str], at_work: bool, said: str, not_said: str
) -> None:
    slower = "clients shard 00: going slower: a commit takes 20 ms instead of 2 ms"
    reason = PendingReason(PendingCode.SLOWED, "the database", slower)
    walk = replace(rotation_of(fake_pipeline()), started_at=None)
    rotation = RotationStatus(walk, "rows", 2, 0.25, 90, reason, at_work=at_work)
    show(replace(status(), rotation=rotation))
    text = capsys.readouterr().out
    assert slower in text
    assert said in text
    assert not_said not in text
    page = str(status_metadata(replace(status(), rotation=rotation), OWN)["rotation"].value)
    assert ("Waits: " in page) is not at_work


def test_nobody_is_asked_to_count_again_while_applications_move_to_the_new_key(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rotation = RotationStatus(rotation_of(fake_pipeline()), "rows", 2, 0.25, None, None, at_work=True)
    counted = replace(status(table("clients", 7)), not_counted_since=(V2,))
    for phase, asked in (("rows", True), ("primary_key_rollout", False)):
        show(replace(counted, rotation=replace(rotation, phase=phase)))
        assert ("`keyrotation status --count`" in capsys.readouterr().out) is asked


@pytest.mark.parametrize(
    ("signed", "missing", "said"),
    [
        (("Ada",), ("Ben", "Cy"), "approvals 0 of 2; not signed by Ben, Cy\n"),
        (("Ada", "Ben"), ("Cy",), "approvals 0 of 2\n"),
    ],
)
def test_who_has_not_signed_is_named_while_somebody_must(
    capsys: pytest.CaptureFixture[str], signed: tuple[str, ...], missing: tuple[str, ...], said: str
) -> None:
    walk = rotation_of(fake_pipeline())
    rotation = RotationStatus(replace(walk, approvals=()), "requested", 2, 0.0, None, None, at_work=False)
    show(replace(status(), rotation=rotation, requests=(PendingRequest(walk, signed, missing, 2),)))
    assert said in capsys.readouterr().out


def test_on_dagsters_page_no_path_and_no_row_of_keys_is_wider_than_its_table() -> None:
    begun = f"the backup of today was begun in directory /srv/{'x' * 80}/backups and not finished"
    keys = tuple(KeyRecord(KeyVersion(number), KeyState.ARCHIVED, "a" * 64, NOW) for number in range(1, 12))
    metadata = status_metadata(replace(status(), warnings=(begun,), key_versions=keys), OWN)
    shown = [str(metadata[name].value).replace("\\", "").replace("*", "") for name in ("soon", "keys")]
    assert max(len(line.strip()) for text in shown for line in text.splitlines()) <= WIDTH_CHARS + len("- ")


def test_a_step_is_called_as_on_the_console_and_a_number_has_its_plural(capsys: pytest.CaptureFixture[str]) -> None:
    rotation = RotationStatus(rotation_of(fake_pipeline()), "dual_key_rollout", 2, 0.25, None, None, at_work=False)
    for phase, said in (("dual_key_rollout", "step 2 of 9, All read v2, 25%"), ("requested", "requested, 25%")):
        show(replace(status(), rotation=replace(rotation, phase=phase)))
        assert f"          {said}\n" in capsys.readouterr().out
    ended = "certificate ada.asc has expired"
    assert without_repeats([ended, f"officer Ada: {ended}", "more", "more"]) == (f"officer Ada: {ended}", "more")
    assert [counted(number, "near-miss") for number in (0, 1, 2000)] == [
        "0 near-misses",
        "1 near-miss",
        "2,000 near-misses",
    ]


@pytest.mark.parametrize(("heartbeats", "reported"), [
    pytest.param((Heartbeat("rotation_conductor", NOW - timedelta(seconds=4), {}),),
                 f"its conductor was active 4 s ago; see {ADDRESS}", id="at work"),
    pytest.param((Heartbeat("rotation_conductor", NOW - timedelta(minutes=3), {}),), None, id="silent"),
    pytest.param((Heartbeat("rotation_conductor", NOW, {"rotation_conductor": NOW}),), None, id="switched off"),
    pytest.param((Heartbeat("rotation_conductor", NOW - timedelta(seconds=9), {}),
                  Heartbeat("ledger_mirror", NOW, {"rotation_conductor": NOW})), None, id="switched off, by another"),
    pytest.param((Heartbeat("rotation_conductor", NOW, {}),
                  Heartbeat("ledger_mirror", NOW - timedelta(seconds=8), {"rotation_conductor": NOW})),
                 f"its conductor was active 0 s ago; see {ADDRESS}", id="switched on again"),
    pytest.param((Heartbeat("rotation_conductor", NOW - timedelta(seconds=61), {}),
                  Heartbeat("ledger_mirror", NOW, {})), None, id="silent next to another"),
    pytest.param((Heartbeat("ledger_mirror", NOW, {}),), None, id="another sensor"),
    pytest.param((), None, id="never"),
])  # fmt: skip
def test_dagster_is_named_only_while_its_conductor_looks(
    heartbeats: tuple[Heartbeat, ...], reported: str | None
) -> None:
    assert conductor_in_words(heartbeats, NOW, ADDRESS) == reported


@pytest.mark.parametrize(
    ("at_work", "said"),
    [
        pytest.param(True, f"in progress: Dagster runs it, its conductor was active 4 s ago; see {ADDRESS}", id="yes"),
        pytest.param(
            False,
            f"no process works at it now; Dagster has to start one, its conductor was active 4 s ago; see {ADDRESS}",
            id="no worker exists",
        ),
    ],
)
def test_dagster_is_said_to_run_a_rotation_only_while_a_process_works_at_it(
    capsys: pytest.CaptureFixture[str], at_work: bool, said: str
) -> None:
    walk = replace(rotation_of(fake_pipeline()), started_at=None)
    rotation = RotationStatus(walk, "key_version", 2, 0.0, None, None, at_work=at_work)
    heartbeats = (Heartbeat("rotation_conductor", NOW - timedelta(seconds=4), {}),)
    shown = replace(status(), rotation=rotation)
    output.show(shown.database, {}, status_command.lines(shown, BlindSpots((), ()), heartbeats, ADDRESS), as_json=False)
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("ago", "reported"),
    [
        (timedelta(0), "0 s ago"),
        (timedelta(hours=30), "30 h ago"),
        (timedelta(-1), "0 s ago"),
        (timedelta(days=2), "2 days ago"),
    ],
)
def test_ages(ago: timedelta, reported: str) -> None:
    assert age(NOW - ago, NOW) == reported


def test_a_word_longer_than_the_line_stays_whole(screen: Screen) -> None:
    with redirect_stdout(screen):
        output.line(output.field("Request", "x" * 90))

    assert "x" * 90 in screen.getvalue()
