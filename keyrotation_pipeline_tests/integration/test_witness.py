"""Witnesses outside sign the audit of a home, and whoever has all of it cannot take back what they have signed."""

import json
import random
import shutil
import socket
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from keyrotation_pipeline import settings
from keyrotation_pipeline.adapters import witness_http
from keyrotation_pipeline.adapters.backups import signing_key as backup_key
from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.witness_http import TlogWitness
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.audit.history import whole_history
from keyrotation_pipeline.audit.witnessed import witnessed
from keyrotation_pipeline.errors import WitnessError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.model.audit import EventKind, Note
from keyrotation_pipeline.model.backup_events import CheckpointWitnessed
from keyrotation_pipeline.model.checkpoints import Checkpoint, SignedCheckpoint
from keyrotation_pipeline.model.merkle import EventTree
from keyrotation_pipeline.model.request_events import DatabaseReconciled, TreeLeft
from keyrotation_pipeline.model.requests import Request
from keyrotation_pipeline.model.witnesses import Witness
from keyrotation_pipeline.monitoring.status import overview
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.reporting.pack_files import CHECKPOINT
from keyrotation_pipeline.reporting.verify_checkpoints import check_checkpoints
from keyrotation_pipeline.reporting.verify_pack import Findings, Judged
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.requests.witnessing import home_key, signed_checkpoint, unwitnessed, witness, witness_if_due
from keyrotation_pipeline.rotation.reconcile import open_reconciliation, reconcile
from keyrotation_pipeline_tests import litewitness
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.forging import as_another_process
from keyrotation_pipeline_tests.integration.test_database_owner import Office, office, office_in
from keyrotation_pipeline_tests.litewitness import LiteWitness
from keyrotation_pipeline_tests.packs import chained, events_of, manifest_again, rewrite, sign_again, verified
from keyrotation_pipeline_tests.servers import Server, copy_of
from keyrotation_pipeline_tests.strict_witness import StrictWitness, serving

__all__ = ["office"]
AnyWitness = StrictWitness | LiteWitness


@dataclass
class Watched:
    """An office whose officers have named a witness.

    Args:
        typed: its folder, in which commands are typed.
    """

    office: Office
    witness: Any
    typed: Folder

    def pack(self, name: str = "pack") -> Path:
        self.typed.run("report", "--format", "pack", "--output", name)
        return self.office.folder / name

    def asked(self, pack: Path) -> tuple[int, str]:
        """What `verify.py` says that asks the witness."""
        return verified(pack, "--witness", self.witness.url)

    @property
    def attention(self) -> list[str]:
        with self.office.pipeline() as pipeline:
            return [each for each in overview(pipeline).attention if self.witness.name in each]


def news(pipeline: Pipeline, error: str = "x") -> None:
    pipeline.ledger.append(Note(EventKind.RUN_FAILED, {"error": error}))


def signed(office: Office, pipeline: Pipeline, request: Request) -> None:
    for name in ("Ada", "Ben"):
        add_approval(pipeline, request, office.people[name].sign(pipeline.ledger.approval_text(request.id)))


def named(office: Office, *witnesses: AnyWitness) -> None:
    """Officers sign that these are the witnesses, whose operators add the key of the home."""
    listed = ", ".join(each.setting for each in witnesses)
    text = office.file.read_text().partition("[audit]")[0]
    office.file.write_text(f"{text}[audit]\nwitness = [{listed}]\n")
    with office.pipeline() as pipeline:
        for each in witnesses:
            each.add(str(home_key(pipeline)))
        policy = open_policy(pipeline, reason="a witness", requested_by="test")
        signed(office, pipeline, policy)
        change_policy(pipeline, policy)


@contextmanager
def watched_office(office: Office) -> Iterator[Watched]:
    with serving(StrictWitness()) as strict:
        named(office, strict)
        yield Watched(office, strict, Folder(office.folder, []))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Watched]:
    """One for all tests that leave it as good as it was."""
    url = copy_of(server, "template1")
    with url as database, watched_office(office_in(tmp_path_factory.mktemp("watched"), database)) as found:
        yield found


@pytest.fixture
def to_spoil(office: Office) -> Iterator[Watched]:
    with watched_office(office) as found:
        yield found


@pytest.fixture
def lite(office: Office, tmp_path: Path) -> Iterator[Watched]:
    (folder := tmp_path / "w").mkdir()
    with litewitness.serving(folder) as running:
        named(office, running)
        yield Watched(office, running, Folder(office.folder, []))


def test_what_a_witness_has_signed_is_shown_reported_and_checked_offline(watched: Watched) -> None:
    name = watched.witness.name
    with watched.office.pipeline() as pipeline:
        news(pipeline)
    said = watched.typed.run("audit", "witness")
    [(origin, (size, _))] = watched.witness.latest.items()
    assert f"{name} has signed the first {size} of {size + 1} events" in said
    assert f"{name} has signed the first {size} of {size + 1} events" in watched.typed.run("audit", "verify")
    assert watched.attention == []
    pack = watched.pack()
    [seen] = json.loads((pack / "report.json").read_text())["checkpoints"]
    assert (seen["witness"], seen["origin"], seen["events"]) == (watched.witness.name, origin, size)
    code, said = verified(pack)
    assert (code, "checkpoints of witnesses, the newest of each" in said) == (0, True), said
    assert f"what {watched.witness.name} has signed after the first {size} events" in said
    code, said = watched.asked(pack)
    assert (code, "witnesses asked to sign every event" in said) == (0, True), said
    assert watched.witness.latest[origin][0] == len(events_of(pack)), "the whole pack"


# --- whoever has the database, the home and its key ------------------------------------------------------------------


def resigned(watched: Watched, pack: Path, origin: str = "") -> None:
    """Sign a changed pack as a whole again, with the key of the home; under its own origin unless another is given."""
    key = signing_key(settings.load(watched.office.file))
    sign_again(pack, key)
    (pack / CHECKPOINT).write_text(str(note_of(pack_tree(pack), origin or origin_of(pack), key)))
    manifest_again(pack, key.sign)


def pack_tree(pack: Path) -> EventTree:
    lines = (pack / "audit.jsonl").read_text().splitlines()
    return EventTree(b"".join(bytes.fromhex(json.loads(each)["hash"]) for each in lines))


def origin_of(pack: Path) -> str:
    return next(f"keyrotation/{each['facts']['home']}" for each in events_of(pack) if each["event"] == "home_named")


def note_of(tree: EventTree, origin: str, key: backup_key.SigningKey) -> SignedCheckpoint:
    checkpoint = Checkpoint.of(origin, tree)
    return SignedCheckpoint.by_home(checkpoint, key.public, key.sign(checkpoint.text.encode()))


def taken_back(watched: Watched) -> None:
    """A pack that is whole, one that is cut, and one that is rewritten and longer than what was signed."""
    whole = watched.pack("whole")
    with watched.office.pipeline() as pipeline:
        news(pipeline, "something that somebody dislikes")
        assert witness(pipeline) == ()
    code, said = watched.asked(whole)
    assert (code, "and the pack has" in said, "it is older, or was cut" in said) == (1, True, True), said
    forked = watched.pack("forked")

    def without_what_is_disliked(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        kept = [each for each in events if each["facts"].get("error") != "something that somebody dislikes"]
        return [*kept, *([{**kept[-1], "event": "dagster_run_failed", "facts": {}}] * 9)]

    rewrite(forked, without_what_is_disliked)
    resigned(watched, forked)
    code, said = watched.asked(forked)
    assert (code, "that are not the first of this pack: it was rewritten" in said) == (1, True), said


def test_a_pack_that_was_cut_or_rewritten_is_refused(watched: Watched) -> None:
    taken_back(watched)


@pytest.mark.extended
@pytest.mark.skipif(litewitness.FOLDER is None, reason="KEYROTATION_TEST_LITEWITNESS names no litewitness")
def test_a_pack_that_was_cut_or_rewritten_is_refused_by_litewitness(lite: Watched) -> None:
    taken_back(lite)


Bodies = list[dict[str, Any]]


def _changed(bodies: Bodies, at: int, chance: random.Random) -> Bodies:
    """Something else in one event: a fact more, another actor or time."""
    other = chance.choice(
        ({"actor": "nobody"}, {"at": bodies[at - 1]["at"]}, {"facts": {**bodies[at]["facts"], "x": 1}})
    )
    return [*bodies[:at], {**bodies[at], **other}, *bodies[at + 1 :]]


def _dropped(bodies: Bodies, at: int, _chance: random.Random) -> Bodies:
    return [*bodies[:at], *bodies[at + 1 :]]


def _cut(bodies: Bodies, at: int, _chance: random.Random) -> Bodies:
    return bodies[:at]


def _forked(bodies: Bodies, at: int, chance: random.Random) -> Bodies:
    new = {**bodies[at - 1], "event": "dagster_run_failed", "request": None}
    return [*bodies[:at], *({**new, "facts": {"n": chance.random()}} for _ in range(chance.randint(1, 60)))]


def _swapped(bodies: Bodies, at: int, _chance: random.Random) -> Bodies:
    return [*bodies[: at - 1], bodies[at], bodies[at - 1], *bodies[at + 1 :]]


def every_history_is_refused(watched: Watched, histories: int) -> None:
    """By the witness itself, whatever else is wrong with them. Whoever made them signs all with the home's key."""
    key = signing_key(settings.load(watched.office.file))
    with watched.office.pipeline() as pipeline:
        news(pipeline)
        assert witness(pipeline) == ()
        bodies = [json.loads(each.body) for each in pipeline.ledger.events()]
        [known] = witnessed(pipeline.ledger)
        asked = TlogWitness(known.witness, SystemClock().now, backup_key.verifies)
        chance, ways = random.Random(47), (_changed, _dropped, _cut, _forked, _swapped)
        for number in range(histories):
            way, at = ways[number % len(ways)], chance.randrange(2, known.size)
            forged = way(bodies, at, chance)
            if forged == bodies:
                continue
            chain = chained(forged, key)
            judged = Judged.of(*whole_history(chain, pipeline.signatures.verify_as_of, key.verifies))
            note = note_of(EventTree(judged.state.hashes), known.origin, key)
            found, files = Findings(), {CHECKPOINT: str(note).encode()}
            check_checkpoints(
                files, judged, Offline(), {known.witness.url: lambda _witness, *what: asked.sign(*what)}, found
            )
            sentences = [each for each in found.differences if "has signed" in each or "officers have signed" in each]
            assert sentences, (number, way.__name__, at, found.differences)
        assert watched.witness.latest[known.origin][0] == known.size, "it has signed none of them"


class Offline:
    """`OfflineCrypto` in this process: a program for each signature would take minutes."""

    def verifies(self, public: bytes, message: bytes, signature: bytes) -> bool:
        return backup_key.verifies(b64encode(public).decode(), message, signature)

    def stamped_at(self, *_: object) -> datetime:
        raise NotImplementedError


def test_generated_histories_that_take_back_what_was_witnessed_are_refused(watched: Watched) -> None:
    every_history_is_refused(watched, 50)


@pytest.mark.extended
def test_a_thousand_histories_that_take_back_what_was_witnessed_are_refused(watched: Watched) -> None:
    every_history_is_refused(watched, 1000)


def _forge(
    way: Callable[[Bodies, int, random.Random], Bodies], at: int, chance: random.Random, bodies: Bodies
) -> Bodies:
    return way(bodies, at, chance)


@pytest.mark.extended
def test_a_hundred_packs_that_take_back_what_was_witnessed_are_refused_by_their_own_program(watched: Watched) -> None:
    """What came after the officers' signatures is rewritten, so that nothing but the witness tells."""
    with watched.office.pipeline() as pipeline:
        for _ in range(30):
            news(pipeline)
    whole = watched.pack("whole-of-a-hundred")
    with watched.office.pipeline() as pipeline:
        assert witness(pipeline) == ()
        [known] = witnessed(pipeline.ledger)
    chance, ways, events = random.Random(48), (_changed, _dropped, _cut, _forked, _swapped), len(events_of(whole))
    for number in range(100):
        way, at = ways[number % len(ways)], chance.randrange(events - 25, events - 1)
        pack = Path(shutil.copytree(whole, whole.with_name(f"forged-{number}")))
        rewrite(pack, partial(_forge, way, at, chance))
        if events_of(pack) != events_of(whole):
            resigned(watched, pack, known.origin)
            code, said = watched.asked(pack)
            assert (code, "has signed" in said) == (1, True), (number, way.__name__, at, said)
        shutil.rmtree(pack)
    assert watched.witness.latest[known.origin][0] == known.size, "it has signed none of them"


# --- crashes, and witnesses that fail or lie -------------------------------------------------------------------------


def asked_and_died(pipeline: Pipeline) -> int:
    """A witness signs, and the process that asked it ends before it records that; how many events it has signed."""
    [known], [asked] = witnessed(pipeline.ledger), pipeline.witnesses
    tree = EventTree(pipeline.ledger.replayed().hashes)
    asked.sign(signed_checkpoint(pipeline.sign, known.origin, tree), tree, known.size)
    return tree.size


def test_a_signature_that_was_never_recorded_is_replaced_by_a_newer_one(watched: Watched) -> None:
    with watched.office.pipeline() as pipeline:
        refused = len(list(pipeline.ledger.events(EventKind.CHECKPOINT_REFUSED)))
        news(pipeline)
        signed_events = asked_and_died(pipeline)
        assert witness(pipeline) == ()
        assert witnessed(pipeline.ledger)[0].size == signed_events, "nothing has happened since"
        news(pipeline)
        signed_events = asked_and_died(pipeline)
        news(pipeline)
        assert witness(pipeline) == ()
        assert witnessed(pipeline.ledger)[0].size == signed_events + 1
        assert len(list(pipeline.ledger.events(EventKind.CHECKPOINT_REFUSED))) == refused


LIES: tuple[tuple[int, bytes, str], ...] = (
    (200, b"\xff\0garbage", "no signature that verifies by its key"),
    (200, b"", "no signature that verifies by its key"),
    (200, b"x" * 1_000_000, "answers with more than a signature"),
    (307, b"", "answers with HTTP status 307"),
    (500, b"<html>", "answers with HTTP status 500"),
    (404, b"", "does not know this audit; give its operator the key"),
    (403, b"", "does not know the key of this home; give its operator the one"),
    (409, b"1\n", "and now says 1; ask its operator"),
    (409, b"-1 \n", "which are not the first"),
    (409, b"9" * 17 + b"\n", "has signed 99,999,999,999,999,999 events of this audit, which has"),
)


def test_a_witness_that_lies_is_refused_in_a_sentence_and_harms_nothing(watched: Watched) -> None:
    lying, good = watched.witness, watched.witness.key
    with watched.office.pipeline() as pipeline:
        for status, content, sentence in LIES:
            lying.lie = status, content, "text/x.tlog.size"
            require_harmless(pipeline, sentence)
            lying.lie = None
            assert witness(pipeline) == ()
        lying.key = Ed25519PrivateKey.generate()
        require_harmless(pipeline, "no signature that verifies by its key")
        lying.key, lying.late_seconds = good, 3600
        require_harmless(pipeline, "which is not now; compare the clocks")
        lying.late_seconds = 0
        lying.lie = 200, lying.cosign(f"keyrotation/other\n1\n{'A' * 43}=\n").encode(), "text/plain"
        require_harmless(pipeline, "no signature that verifies by its key")
        lying.lie = LIES[-1][0], LIES[-1][1], "text/plain"
        require_harmless(pipeline, LIES[-1][2])
    assert "run `keyrotation reconcile`" in watched.attention[0], "which is loud at once"
    # It may be a lie: nothing that is needed waits for it.
    watched.typed.run("backup")
    watched.typed.run("request", "--reason", "yearly")
    watched.typed.run("audit", "verify", expect=1)
    assert "99,999,999,999,999,999 events" in watched.typed.printed[-1]
    code, said = verified(watched.pack("contradicted"))
    assert (code, "whether this is the history that witness.example/w1 has signed" in said) == (0, True), said
    lying.lie = None
    watched.typed.run("audit", "witness")
    assert watched.attention == []


def require_harmless(pipeline: Pipeline, sentence: str) -> None:
    """It is said at every attempt, and recorded once."""
    news(pipeline)
    before = len(list(pipeline.ledger.events(EventKind.CHECKPOINT_REFUSED)))
    for _ in range(2):
        [failed] = witness(pipeline)
        assert sentence in failed
        assert len(failed) <= 200
    assert len(list(pipeline.ledger.events(EventKind.CHECKPOINT_REFUSED))) <= before + 1


def test_a_witness_that_sends_a_byte_now_and_then_is_not_waited_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_http, "LONGEST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server, watched.office.pipeline() as pipeline:
        threading.Thread(target=drip, args=(server,), daemon=True).start()
        [asked], [known] = pipeline.witnesses, witnessed(pipeline.ledger)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        slow = TlogWitness(Witness(url, asked.witness.key), SystemClock().now, backup_key.verifies)
        tree = EventTree(pipeline.ledger.replayed().hashes)
        with pytest.raises(WitnessError, match="takes too long"):
            slow.sign(signed_checkpoint(pipeline.sign, known.origin, tree), tree, known.size)


def drip(server: socket.socket) -> None:
    connection, _ = server.accept()
    with connection, suppress(OSError):
        for each in b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000:
            connection.send(bytes([each]))
            time.sleep(0.05)


def test_a_witness_that_is_down_is_amber_after_a_day(watched: Watched) -> None:
    watched.witness.lie = 503, b"", "text/plain"
    with watched.office.pipeline() as pipeline:
        news(pipeline)
        witness(pipeline)
        now = pipeline.clock.now()
        assert list(unwitnessed(pipeline.ledger, now + timedelta(hours=23))) == []
        [sentence] = unwitnessed(pipeline.ledger, now + timedelta(hours=25))
        assert "witness.example/w1 has not witnessed the audit since" in sentence
        assert "answers with HTTP status 503" in sentence
        assert witness_if_due(pipeline) == (), "nothing has ended, and no day is over"
        pipeline.ledger.append(Note(EventKind.BACKUP_MADE, {}))
        assert len(witness_if_due(pipeline)) == 1
        watched.witness.lie = None
        assert witness_if_due(pipeline) == ()
        assert list(unwitnessed(pipeline.ledger, now + timedelta(days=9))) == [], "nothing has happened since"


# --- a restored database, and hosts that nobody signed ---------------------------------------------------------------


def test_a_restored_audit_is_witnessed_again_as_another_tree_once_officers_have_signed_that(to_spoil: Watched) -> None:
    office, strict = to_spoil.office, to_spoil.witness
    [(origin, (size, _))] = strict.latest.items()
    with office.pipeline() as pipeline:
        head = pipeline.ledger.head().seq
        for _ in range(5):
            news(pipeline)
        assert witness(pipeline) == ()
    with office.pipeline() as pipeline, office.forger() as forger:
        forger.truncate(pipeline.ledger.head().seq - head)
    (office.anchors / "audit-head.json").unlink()  # a new machine, which knows nothing of what is missing
    as_another_process()
    to_spoil.typed.run("backup")  # after which it is asked
    [sentence] = to_spoil.attention
    assert sentence.startswith(f"witness.example/w1 has signed {head + 5} events of this audit")
    assert "run `keyrotation reconcile`" in sentence
    to_spoil.typed.run("audit", "verify", expect=1)

    with office.pipeline() as pipeline:
        asked, plan = open_reconciliation(pipeline, requested_by="dba")
        assert plan.changes_nothing
        text = pipeline.ledger.approval_text(asked.id).decode()
        assert f"witness.example/w1 has signed {head + 5} events of {origin}" in text
        signed(office, pipeline, asked)
        strict.lie = 409, b"999999\n", "text/x.tlog.size"
        assert "has signed 999,999 events" in witness(pipeline)[0]
        strict.lie = None
        reconcile(pipeline, pipeline.ledger.request(asked.id))
        strict.add(str(home_key(pipeline)))
        assert witness(pipeline) == ()
    after = f"{origin}/{asked.id[:16]}"
    assert strict.latest[origin][0] == head + 5
    assert strict.latest[after][0] > size
    assert to_spoil.attention == []
    code, said = to_spoil.asked(to_spoil.pack("after"))
    assert (code, f"the {head + 5} events that a witness had signed of {origin}" in said) == (0, True), said


def test_no_tree_is_left_and_no_checkpoint_counts_without_the_signatures_on_it(to_spoil: Watched) -> None:
    """Whoever has the database, the home and its key writes an event that says so."""
    office, other = to_spoil.office, StrictWitness(to_spoil.witness.name)
    with office.pipeline() as pipeline, office.forger() as forger:
        [known], tree = witnessed(pipeline.ledger), EventTree(pipeline.ledger.replayed().hashes)
        note = signed_checkpoint(pipeline.sign, known.origin, tree)
        forged = note.with_line(other.cosign(note.checkpoint.text))
        pipeline.ledger.append(CheckpointWitnessed(str(known.witness), str(forged)))
        left = TreeLeft(known.origin, to_spoil.witness.name, 99)
        forger.append(DatabaseReconciled("x", KeyVersion(1), (), {}, (), (), left_tree=left), "0f" * 16)
    as_another_process()
    with office.pipeline() as pipeline:
        assert pipeline.ledger.replayed().origin == known.origin
    to_spoil.typed.run("audit", "verify", expect=1)
    assert "(database_reconciled) is of a request that was never opened" in to_spoil.typed.printed[-1]
    assert f"has no signature of {to_spoil.witness.name} that verifies" in to_spoil.typed.printed[-1]


def test_a_witness_that_officers_have_not_signed_is_not_asked_and_one_that_is_removed_is_missed(
    watched: Watched,
) -> None:
    office, before = watched.office, watched.office.file.read_text()
    with serving(StrictWitness("evil.example")) as evil:
        office.file.write_text(before.replace(watched.witness.setting, evil.setting))
        with office.pipeline() as pipeline:
            news(pipeline)
            assert witness(pipeline) == ()
            assert evil.asked == []
            shown = " ".join(overview(pipeline).attention)
            assert f"audit.witness {evil.url} with the key {evil.vkey} is new" in shown
            assert f"audit.witness {watched.witness.url} with the key {watched.witness.vkey} is gone" in shown
            [missed] = unwitnessed(pipeline.ledger, pipeline.clock.now() + timedelta(days=2))
            assert missed.startswith("witness.example/w1 has not witnessed the audit since")
    office.file.write_text(before)


@pytest.mark.extended
def test_a_witness_that_init_alone_has_named_is_asked_and_vouches_for_nothing(tmp_path: Path, server: Server) -> None:
    """Whoever makes a home names it; from the first text that officers sign it is theirs."""
    with serving(StrictWitness()) as strict, copy_of(server, "template1") as url:
        office = office_in(tmp_path, url, f"[audit]\nwitness = [{strict.setting}]\n")
        typed = Folder(office.folder, [])
        with office.pipeline() as pipeline:
            strict.add(str(home_key(pipeline)))
        typed.run("audit", "witness")
        assert len(strict.latest) == 1
        typed.run("report", "--format", "pack", "--output", "pack")
        assert json.loads((office.folder / "pack" / "report.json").read_text())["checkpoints"] == []
        code, said = verified(office.folder / "pack")
        assert (code, f"whether {strict.name} is a witness of this audit" in said) == (0, True), said
        code, said = verified(office.folder / "pack", "--witness", strict.url)
        assert (code, "is not a witness that officers have signed" in said) == (1, True), said
