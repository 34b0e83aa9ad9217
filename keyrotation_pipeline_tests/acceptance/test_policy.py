"""A change of the rules on the command line: signed by officers who are pinned, and by nobody else."""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.model.requests import Step
from keyrotation_pipeline.ports.pipeline import Pipeline
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import Folder
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.applications import reporting
from keyrotation_pipeline_tests.officers import make_officer, revoke

V1 = KeyVersion(1)
REFUSED = "differ from what is pinned; restore them there, or have the change signed with `keyrotation policy"


@dataclass
class Office:
    """A clinic whose roster is Ada and Ben; Ben leaves, and Cem is to come."""

    folder: Folder
    database_url: str
    people: dict[str, DemoOfficer]

    def configure(self, *names: str, required: int = 2, recipients: Sequence[str] = ()) -> None:
        """Write keyrotation.toml with these officers, and recipients who are others."""
        officers = "".join(
            f'[[approvals.officers]]\nname = "{name}"\ncertificate = "{self.people[name].certificate}"\n'
            for name in names
        )
        tables = '[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n'
        if recipients:
            tables += (
                f"[backup]\nrecipients = {json.dumps([str(self.people[each].certificate) for each in recipients])}\n"
            )
        (self.folder.path / "keyrotation.toml").write_text(
            f'database.url = "{self.database_url}"\n[approvals]\nrequired = {required}\n{officers}{tables}'
        )

    def run(self, *arguments: str, text: str | None = None, expect: int = 0) -> str:
        return self.folder.run(*arguments, text=text, expect=expect)

    @property
    def error(self) -> str:
        """What the last command wrote to stderr."""
        return self.folder.printed[-1]

    def sign(self, request: str, *names: str, expect: int = 0) -> None:
        text = self.run("approve", request, "--text")
        for name in names:
            signature = self.people[name].sign(text.encode()).decode()
            self.run("approve", request, "--signature", "-", text=signature, expect=expect)

    # What a test is not about is done in-process.
    @contextmanager
    def pipeline(self) -> Iterator[Pipeline]:
        with open_pipeline(settings.load(self.folder.path / "keyrotation.toml"), actor="test") as pipeline:
            yield pipeline

    def asked(self) -> str:
        """Ben is replaced by Cem in the file, and that is asked for."""
        self.configure("Ada", "Cem")
        with self.pipeline() as pipeline:
            return open_policy(pipeline, reason="Ben leaves", requested_by="test").id

    def signed(self, request: str, *names: str) -> None:
        with self.pipeline() as pipeline:
            text = pipeline.ledger.approval_text(request)
            for name in names:
                add_approval(pipeline, pipeline.ledger.request(request), self.people[name].sign(text))

    def changed(self) -> None:
        """Cem in place of Ben, signed and pinned."""
        request = self.asked()
        self.signed(request, "Ada", "Ben")
        with self.pipeline() as pipeline:
            change_policy(pipeline, pipeline.ledger.request(request))

    def rotating(self, through: Step | None = None) -> str:
        """A rotation that Ada and Ben have signed, begun or not."""
        with self.pipeline() as pipeline:
            rotation = open_request(pipeline, reason="yearly", requested_by="test").id
        self.signed(rotation, "Ada", "Ben")
        if through is not None:
            self.walk(rotation, through)
        return rotation

    def emergency(self) -> str:
        """An incident about the key in use; returns its emergency request."""
        opened = self.run(
            "incident", "open", "--type", "key_exposed", "--description", "leaked", "--discovered-at", "now"
        )
        return opened.split()[1]

    def walk(self, rotation: str, through: Step | None = None) -> None:
        with self.pipeline() as pipeline, reporting(self.database_url, self.folder.path / ".keyrotation" / "keys"):
            for _ in runner.run(pipeline, rotation, lambda _progress: None, through):
                pass


@pytest.fixture
def office(tmp_path: Path, database_url: str) -> Office:
    key = KeyMaterial.generate()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text)")
        connection.execute("INSERT INTO clients VALUES (1, %s)", (encrypt(KeyRing({V1: key}, V1), "Zoe"),))
    people = {name: make_officer(tmp_path, name) for name in ("Ada", "Ben", "Cem", "Dan")}
    office = Office(Folder(tmp_path, []), database_url, people)
    office.configure("Ada", "Ben")
    initialise(settings.load(tmp_path / "keyrotation.toml"), KeyRing({V1: key}, V1), actor="test")
    return office


def test_two_pinned_officers_replace_one_of_them_and_the_old_certificate_approves_nothing(office: Office) -> None:
    office.configure("Ada", "Cem")
    request = office.run("policy", "--reason", "Ben leaves").strip()
    assert len(request) == 32
    ben, cem = (fingerprint_of(office, name) for name in ("Ben", "Cem"))
    assert f"officer    - {ben} Ben\nofficer    + {cem} Cem" in office.error
    text = office.run("approve", request, "--text")
    assert "Action: policy\n" in text
    ada = fingerprint_of(office, "Ada")
    before, after = (pairs(("Ada", ada), each) for each in (("Ben", ben), ("Cem", cem)))
    assert line(text, "From") == f"2 of {before}; recipients {before}"
    assert line(text, "To") == f"2 of {after}; recipients {after}"
    assert f'\nCan approve nothing any more: "Ben" ({ben}). Can approve from then on: "Cem" ({cem}).\n' in text
    assert f'\nCannot open later backups any more: "Ben" ({ben}). Can open every later backup: "Cem" ({cem}).\n' in text
    office.sign(request, "Ada", "Ben")
    assert "pinned" in office.run("policy")

    rotation = office.run("request", "--reason", "yearly").strip()
    office.sign(rotation, "Ben", expect=1)
    assert "which no officer of the roster has" in office.error
    office.sign(rotation, "Ada", "Cem")
    office.walk(rotation, Step.KEY_VERSION)
    office.run("audit", "verify")


def test_whatever_else_is_asked_for_while_the_file_differs_names_the_command_that_has_it_signed(office: Office) -> None:
    rotation = office.rotating()
    office.configure("Ada", "Cem")
    with reporting(office.database_url, office.folder.path / ".keyrotation" / "keys"):
        for command in (("request", "--reason", "x"), ("rotate", rotation), ("init",), ("rollback", rotation)):
            office.run(*command, expect=1)
            assert "keyrotation policy" in office.error, command
    assert any(REFUSED in sentence for sentence in json.loads(office.run("status", "--json"))["attention"])


def one_signature(office: Office, request: str) -> None:
    office.signed(request, "Ada")


def a_new_officers_signature(office: Office, request: str) -> None:
    office.signed(request, "Ada")
    office.sign(request, "Cem", expect=1)
    assert "which no officer of the roster has" in office.error


def a_certificate_changed_in_the_file_after_signing(office: Office, request: str) -> None:
    office.signed(request, "Ada", "Ben")
    office.configure("Ada", "Dan")


def a_threshold_changed_after_signing(office: Office, request: str) -> None:
    office.signed(request, "Ada", "Ben")
    office.configure("Ada", "Cem", "Dan", required=3)


def another_certificate_in_the_same_file(office: Office, request: str) -> None:
    office.signed(request, "Ada", "Ben")
    office.people["Cem"].certificate.write_bytes(office.people["Dan"].certificate.read_bytes())


def a_revoked_officer(office: Office, request: str) -> None:
    office.signed(request, "Ada", "Ben")
    revoke(office.people["Ada"])


@pytest.mark.parametrize(
    ("happens", "sentence"),
    [
        (one_signature, "needs 1 more approval; sign with"),
        (a_new_officers_signature, "needs 1 more approval; sign with"),
        (a_certificate_changed_in_the_file_after_signing, "no longer what its text for signing says (To)"),
        (a_threshold_changed_after_signing, "no longer what its text for signing says (To)"),
        (another_certificate_in_the_same_file, "no longer what its text for signing says (To)"),
        (a_revoked_officer, "is revoked"),
    ],
)
def test_a_policy_is_not_pinned_by(office: Office, happens: Callable[[Office, str], None], sentence: str) -> None:
    happens(office, office.asked())
    office.run("policy", expect=1)
    assert sentence in office.error
    with office.pipeline() as pipeline:
        pinned = pipeline.ledger.pinned_roster()
    assert pinned is not None
    assert [officer.name for officer in pinned.officers] == ["Ada", "Ben"]


def test_the_way_back_is_signed_by_the_new_officers(office: Office) -> None:
    office.changed()
    office.configure("Ada", "Ben")
    with office.pipeline() as pipeline:
        back = open_policy(pipeline, reason="Ben returns", requested_by="test").id
    with pytest.raises(ApprovalError, match="which no officer of the roster has"):
        office.signed(back, "Ben")
    office.signed(back, "Cem", "Ada")
    assert documented("policy", office.run("policy", "--json"))["pinned"] is True


def test_a_rotation_that_has_begun_ends_under_the_roster_that_it_began_under(office: Office) -> None:
    rotation = office.rotating(Step.PRIMARY_KEY_ROLLOUT)
    office.changed()
    office.walk(rotation)
    assert json.loads(office.run("history", "--json"))[0]["outcome"] == "finished"
    office.run("audit", "verify")


def test_an_emergency_goes_on_and_drops_an_officer_whose_certificate_ends_in_its_middle(office: Office) -> None:
    office.configure("Ada", "Ben", "Cem")
    with office.pipeline() as pipeline:
        three = open_policy(pipeline, reason="three", requested_by="test").id
    office.signed(three, "Ada", "Ben")
    office.run("policy")
    emergency = office.emergency()
    office.signed(emergency, "Ada", "Ben")
    office.walk(emergency, Step.PRIMARY_KEY_ROLLOUT)
    expire(office.people["Cem"])
    office.walk(emergency, Step.ROWS)
    named = json.loads(office.run("status", "--json"))["attention"]
    assert [each for each in named if re.match(r"officer Cem: certificate .* has expired", each)]

    office.configure("Ada", "Ben")
    dropped = office.run("policy", "--reason", "Cem's key has ended").strip()
    office.sign(dropped, "Ada", "Ben")
    assert "pinned" in office.run("policy")
    office.walk(emergency)
    ended = {each["id"]: each["outcome"] for each in json.loads(office.run("history", "--json"))}
    assert ended[emergency] == "finished"
    office.run("audit", "verify")


def test_an_emergency_is_opened_and_walked_though_a_recipient_has_expired(office: Office) -> None:
    office.configure("Ada", "Ben", recipients=("Ada", "Dan"))
    with office.pipeline() as pipeline:
        request = open_policy(pipeline, reason="recipients", requested_by="test").id
    office.signed(request, "Ada", "Ben")
    office.run("policy")
    expire(office.people["Dan"])
    emergency = office.emergency()
    office.signed(emergency, "Ada", "Ben")
    office.walk(emergency, Step.KEY_VERSION)
    with office.pipeline() as pipeline:
        made = pipeline.ledger.walk(emergency).done(Step.KEY_VERSION)
        assert made is not None
        assert made.facts["recipients"] == [fingerprint_of(office, "Ada")]
    office.walk(emergency)
    assert any("dan.asc" in each for each in json.loads(office.run("status", "--json"))["attention"])


@pytest.mark.parametrize("reason", [(), ("--reason", "none")])
def test_a_file_that_says_what_is_pinned_changes_nothing(office: Office, reason: tuple[str, ...]) -> None:
    office.run("policy", *reason, expect=1)
    assert "names the officers, the threshold, the recipients and the hosts that are pinned" in office.error


def expire(officer: DemoOfficer) -> None:
    """The certificate has ended by the time that this returns."""
    officer.gpg("--quick-set-expire", primary_key(officer), "seconds=1")
    officer.export()
    time.sleep(2)


def fingerprint_of(office: Office, name: str) -> str:
    return primary_key(office.people[name])


def primary_key(officer: DemoOfficer) -> str:
    listed = officer.gpg("--with-colons", "--with-fingerprint", "--list-keys").decode()
    return next(line.split(":")[9] for line in listed.splitlines() if line.startswith("fpr:"))


def pairs(*officers: tuple[str, str]) -> str:
    return ", ".join(f'"{name}" ({fingerprint})' for name, fingerprint in sorted(officers, key=lambda each: each[1]))


def line(text: str, name: str) -> str:
    return next(each.partition(": ")[2] for each in text.splitlines() if each.startswith(f"{name}: "))
