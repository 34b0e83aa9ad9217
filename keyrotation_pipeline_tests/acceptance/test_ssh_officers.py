"""Officers with OpenPGP and SSH keys approve together: a whole rotation, its pack, a policy; what does not count."""

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.assembly.keystores import signing_key
from keyrotation_pipeline.assembly.pipeline import initialise, open_pipeline
from keyrotation_pipeline.audit.history import LedgerState
from keyrotation_pipeline.demo.officers import DemoOfficer, short_path
from keyrotation_pipeline.fieldcrypto.cipher import encrypt
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.requests.approvals import add_approval
from keyrotation_pipeline.requests.policy import change_policy, open_policy
from keyrotation_pipeline.rotation import runner
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder, environment
from keyrotation_pipeline_tests.applications import reporting
from keyrotation_pipeline_tests.officers import make_officer
from keyrotation_pipeline_tests.packs import chained, verified
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.servers import Server, copy_of
from keyrotation_pipeline_tests.ssh_officers import NAMESPACE, SecurityKey, SshOfficer, ssh_keygen

V1 = KeyVersion(1)
SIGNER = "no officer of the roster has"


@dataclass
class Office:
    """Ada has an OpenPGP key, Ben an SSH key, Cem both, Dan a security key; Eve is nobody."""

    folder: Folder
    url: str
    ada: DemoOfficer
    ben: SshOfficer
    cem: tuple[DemoOfficer, SshOfficer]
    dan: SecurityKey
    eve: SshOfficer

    def configure(self, *names: str) -> None:
        keys = {
            "Ada": f'certificate = "{self.ada.certificate}"',
            "Ben": f'ssh_key = "{self.ben.public}"',
            "Cem": f'certificate = "{self.cem[0].certificate}"\nssh_key = "{self.cem[1].public}"',
            "Dan": f'ssh_key = "{self.dan.public}"',
        }
        officers = "".join(f'[[approvals.officers]]\nname = "{name}"\n{keys[name]}\n' for name in names)
        tables = '[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n'
        backup = f'[backup]\nrecipients = ["{self.ada.certificate}", "{self.cem[0].certificate}"]\n'
        text = f'database.url = "{self.url}"\n{officers}{backup}{tables}'
        (self.folder.path / "keyrotation.toml").write_text(text)

    @property
    def declared(self) -> settings.Settings:
        return settings.load(self.folder.path / "keyrotation.toml")

    def run(self, *arguments: str, text: str | None = None, expect: int = 0) -> str:
        return self.folder.run(*arguments, text=text, expect=expect)

    def refused(self, request: str, signature: bytes) -> str:
        """What the command says about a signature that does not count."""
        self.run("approve", request, "--signature", "-", text=signature.decode(), expect=1)
        return self.folder.printed[-1]

    def add(self, request: str, *sign: Callable[[bytes], bytes]) -> None:
        with open_pipeline(self.declared, actor="test") as pipeline:
            for each in sign:
                text = pipeline.ledger.approval_text(request)
                add_approval(pipeline, pipeline.ledger.request(request), each(text))

    def type(self, line: str, gnupg_home: Path, ssh_key: Path) -> str:
        """Type a line of the guide in a shell of an officer."""
        shell = environment(PATH=f"{Path(KEYROTATION).parent}:/usr/bin:/bin", GNUPGHOME=str(gnupg_home))
        typed = line.replace("~/.ssh/id_ed25519", str(ssh_key))
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", typed], cwd=self.folder.path, env=shell, capture_output=True, check=False
        )
        assert not done.returncode, done.stderr.decode()
        return done.stdout.decode()

    def bodies(self) -> list[dict[str, Any]]:
        """The events of the audit, to be changed by whoever owns database and home."""
        with open_pipeline(self.declared, actor="test") as pipeline:
            return [json.loads(each.body) for each in pipeline.ledger.events()]

    def faults(self, bodies: list[dict[str, Any]]) -> str:
        """What a replay says of a chain, with every signature verified."""
        with open_pipeline(self.declared, actor="test") as pipeline:
            key = signing_key(self.declared)
            state = LedgerState(pipeline.signatures.verify_as_of, verify_event=key.verifies)
            return "\n".join(state.apply(chained(bodies, key)).faults)


@contextmanager
def opened(folder: Path, server: Server, ben: SshOfficer | None = None) -> Iterator[Office]:
    """An office whose roster is Ada, Ben and Cem, with a database of its own."""
    key = KeyMaterial.generate()
    with copy_of(server, "template1") as url, ExitStack() as applications:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("CREATE TABLE clients (id int PRIMARY KEY, first_name text)")
            connection.execute("INSERT INTO clients VALUES (1, %s)", (encrypt(KeyRing({V1: key}, V1), "Zoe"),))
        ada, cem = (make_officer(folder, name) for name in ("Ada", "Cem"))
        cems, eve = (SshOfficer.create(folder, name) for name in ("Cem", "Eve"))
        ben = ben or SshOfficer.create(folder, "Ben")
        dan = SecurityKey(folder / "dan.pub").write()
        found = Office(Folder(folder, []), url, ada, ben, (cem, cems), dan, eve)
        found.configure("Ada", "Ben", "Cem")
        initialise(found.declared, KeyRing({V1: key}, V1), actor="test")
        applications.enter_context(reporting(url, found.declared.keys_directory))
        yield found


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, server: Server) -> Iterator[Office]:
    with opened(tmp_path_factory.mktemp("office"), server) as found:
        yield found


@pytest.fixture
def another_office(tmp_path: Path, server: Server) -> Iterator[Office]:
    with opened(tmp_path, server) as found:
        yield found


@pytest.fixture(scope="module")
def rotated(office: Office) -> str:
    """A rotation that Cem and Ben signed as the guide says, with whatever does not count in between."""
    request = office.run("request", "--reason", "yearly rotation").strip()
    assert f"`keyrotation approve {request[:8]} --as NAME` shows each what, and how" in office.folder.printed[-1]
    guide = office.run("approve", request, "--as", "ben")
    assert office.run("approve", request, "--text") in guide
    assert "signed    nobody (2 must)" in guide
    assert f"to sign   Ben, with the SSH key {office.ben.fingerprint}:" in guide
    assert f"then      once 2 more have signed: keyrotation rotate {request[:8]}" in guide
    ways = json.loads(office.run("approve", request, "--json"))["how_to_sign"]
    line = {(each["officer"], each["key"].partition(" ")[0]): each["command"] for each in ways}
    assert list(line) == [("Ada", "OpenPGP"), ("Ben", "SSH"), ("Cem", "OpenPGP"), ("Cem", "SSH")]
    cem, cems = office.cem
    with short_path(cem.home) as home:
        assert "approved by Cem: 1 of 2" in office.type(line["Cem", "OpenPGP"], home, cems.key)
    text = office.run("approve", request, "--text").encode()
    assert "Cem has signed this request already; another officer must" in office.refused(request, cems.sign(text))
    assert SIGNER in office.refused(request, office.eve.sign(text))
    assert "made for another purpose" in office.refused(request, office.ben.sign(text, "git"))
    assert "not over exactly this text" in office.refused(request, office.ben.sign(text.replace(b"v2", b"v3")))
    assert "once 1 more has signed" in office.run("approve", request)
    typed = office.type(line["Ben", "SSH"], Path("/nonexistent"), office.ben.key)
    assert f"approved by Ben: 2 of 2\nnext: keyrotation rotate {request[:8]}" in typed
    with open_pipeline(office.declared, actor="test") as pipeline:
        list(runner.run(pipeline, request, lambda _progress: None))
    return request


@pytest.fixture(scope="module")
def pack(office: Office, rotated: str) -> Path:
    assert rotated
    target = office.folder.path / "pack"
    office.run("backup")  # with the configuration, and so with the SSH keys
    office.run("report", "--format", "pack", "--output", str(target))
    return target


def test_an_openpgp_and_an_ssh_officer_approve_a_rotation_whose_audit_verifies(office: Office, rotated: str) -> None:
    office.run("audit", "verify")
    report = json.loads(office.run("report", "--format", "json"))
    (decided,) = (each for each in report["requests"] if each["id"] == rotated)
    assert [each["officer"] for each in decided["approvals"]] == ["Cem", "Ben"]


def test_a_signature_of_another_request_does_not_count(office: Office, rotated: str) -> None:
    with open_pipeline(office.declared, actor="test") as pipeline:
        former = next(each for each in pipeline.ledger.signatures(rotated) if each.officer == office.ben.fingerprint)
        other = open_request(pipeline, reason="yearly rotation", requested_by="test").id
    assert "not over exactly this text" in office.refused(other, former.signature)
    office.run("cancel", other)
    office.run("approve", other, expect=1)
    assert "is cancelled" in office.folder.printed[-1]


def test_the_pack_is_verified_by_its_program_and_by_ssh_keygen_alone(
    office: Office, rotated: str, pack: Path, tmp_path: Path
) -> None:
    code, said = verified(pack)
    assert code == 0, said
    assert "2  signatures of officers, each over the text of its moment, by gpg or ssh-keygen" in said
    name = office.ben.fingerprint.replace(":", "-").replace("+", "-").replace("/", "_")
    (key,), text = pack.glob(f"officers/{name}.*.pub"), pack / "approvals" / f"{rotated}.txt"
    (tmp_path / "allowed").write_text(f"ben {key.read_text()}")
    by_hand = ("-Y", "verify", "-f", str(tmp_path / "allowed"), "-I", "ben", "-n", NAMESPACE)
    signature = text.with_name(f"{rotated}.{name}.sig")
    assert b"Good" in ssh_keygen(*by_hand, "-s", str(signature), text=text.read_bytes())


def test_a_pack_without_ssh_keygen_is_not_taken_for_a_bad_one(pack: Path, tmp_path: Path) -> None:
    for program in ("gpg", "openssl", "setpriv"):
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    code, said = verified(pack, path=str(tmp_path))
    assert code == 1
    assert "DIFFERENT    ssh-keygen is not installed; install OpenSSH 8.2 or later" in said
    assert "has no good signature" not in said


PASSPHRASE = "correct horse battery"


def test_the_page_leads_an_officer_from_no_key_to_the_first_approval(tmp_path: Path, server: Server) -> None:
    home, asked = tmp_path / "home", tmp_path / "askpass"
    (home / ".ssh").mkdir(parents=True)
    asked.write_text(f"#!/bin/sh\necho {PASSPHRASE}\n")
    asked.chmod(0o700)
    path = f"{Path(KEYROTATION).parent}:/usr/bin:/bin"
    desk = environment(HOME=str(home), PATH=path, SSH_ASKPASS=str(asked), SSH_ASKPASS_REQUIRE="force")

    def typed(lines: str, **variables: str) -> str:
        done = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", lines],
            cwd=tmp_path, env={**desk, **variables}, capture_output=True, check=False,
        )  # fmt: skip
        assert not done.returncode, done.stderr.decode()
        return done.stdout.decode()

    made = typed(block("officer-key"))
    ben = SshOfficer("Ben", home / ".ssh" / "id_ed25519")
    assert f"{ben.fingerprint} Privacy Officer (ED25519)" in made
    assert ssh_keygen_refuses("-y", "-P", "", "-f", str(ben.key)), "the key is under the passphrase"
    with opened(tmp_path, server, ben) as office:
        request = office.run("request", "--reason", "yearly rotation").strip()
        guide = typed(block("first-approval").replace("Privacy Officer", "Ben"), ID=request[:6])
        assert "You are asked to allow a new encryption key, called v2, for the database" in guide
        lines = guide.splitlines()
        (mine,) = (place for place, line in enumerate(lines) if line.startswith("to sign   Ben"))
        assert "approved by Ben: 1 of 2" in typed(lines[mine + 1])


def test_the_page_leads_an_officer_to_an_openpgp_key_that_can_sign_and_open_backups(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory() as home:  # short enough for the socket of gpg's agent
        (Path(home) / "passphrase").write_text(PASSPHRASE)
        (Path(home) / "gpg.conf").write_text(f"batch\npinentry-mode loopback\npassphrase-file {home}/passphrase\n")
        made = subprocess.run(
            ["bash", "-euc", block("officer-openpgp-key")],
            cwd=tmp_path, env=environment(GNUPGHOME=home), capture_output=True, text=True, check=True,
        )  # fmt: skip
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=True)
    assert re.search(r"(?m)^pub .*\[SC\] \[expires: ", made.stdout)
    assert re.search(r"(?m)^sub .*\[E\]", made.stdout)
    assert "BEGIN PGP PUBLIC KEY" in (tmp_path / "privacy.asc").read_text()


def ssh_keygen_refuses(*arguments: str) -> bool:
    return subprocess.run(["ssh-keygen", *arguments], capture_output=True, check=False).returncode != 0


def ssh_signature(office: Office, bodies: list[dict[str, Any]]) -> dict[str, Any]:
    found = (each for each in bodies if each["event"] == "signature_added")
    return next(each for each in found if each["facts"]["officer"] == office.ben.fingerprint)


@pytest.mark.parametrize("days", [pytest.param(-30, id="before the request"), pytest.param(1, id="after its event")])
def test_a_signature_without_a_time_is_not_filed_under_another_one(office: Office, rotated: str, days: int) -> None:
    bodies = office.bodies()
    assert office.faults(bodies) == ""
    facts, request = ssh_signature(office, bodies)["facts"], next(each for each in bodies if each["request"] == rotated)
    with open_pipeline(office.declared, actor="test") as pipeline:
        at = pipeline.ledger.request(request["request"]).requested_at + timedelta(days=days)
    facts["signed_at"] = at.isoformat()
    assert "says another time than the signature" in office.faults(bodies)


def test_an_ssh_signature_filed_under_another_officer_or_another_key_is_a_fault(office: Office, rotated: str) -> None:
    assert rotated
    for officer, signature, fault in (
        (office.eve.fingerprint, office.ben, f"is signed by {office.ben.fingerprint[-16:]}, not by"),
        (office.ben.fingerprint, office.eve, SIGNER),
    ):
        bodies = office.bodies()
        added, text = (
            ssh_signature(office, bodies)["facts"],
            next(each["facts"]["approval_text"] for each in bodies if each["event"] == "request_opened"),
        )
        added |= {"officer": officer, "signature": signature.sign(text.encode()).hex()}
        assert fault in office.faults(bodies)


def test_a_lying_sentence_above_true_lines_is_a_fault_even_if_officers_signed_it(office: Office, rotated: str) -> None:
    """Whoever owns the database writes the text that officers are shown; the lines alone are true."""
    bodies = office.bodies()
    opened = next(each for each in bodies if each["event"] == "request_opened" and each["request"] == rotated)
    true = opened["facts"]["approval_text"]
    lie = true.replace("What cannot be undone: ", "Nothing here matters, and it can all be undone. ")
    assert lie != true
    assert lie.partition("\n\nRequest: ")[2] == true.partition("\n\nRequest: ")[2]
    opened["facts"]["approval_text"] = lie
    signers = {office.ben.fingerprint: office.ben.sign}
    for each in bodies:
        if each["event"] == "signature_added":
            sign = signers.get(each["facts"]["officer"], office.cem[1].sign)
            each["facts"]["signature"] = sign(lie.encode()).hex()
    assert "(request_opened) has a text that nobody can have signed" in office.faults(bodies)


def test_whoever_is_removed_by_policy_signs_nothing_more_and_what_they_signed_stays(another_office: Office) -> None:
    office = another_office
    with open_pipeline(office.declared, actor="test") as pipeline:
        before = open_request(pipeline, reason="yearly rotation", requested_by="test").id
    office.add(before, office.cem[0].sign, office.ben.sign)
    office.run("cancel", before)
    office.configure("Ada", "Cem", "Dan")
    with open_pipeline(office.declared, actor="test") as pipeline:
        policy = open_policy(pipeline, reason="Ben leaves, Dan comes", requested_by="test").id
        text = pipeline.ledger.approval_text(policy).decode()
    ben, dan = office.ben.fingerprint, ssh_keygen("-l", "-f", str(office.dan.public)).decode().split()[1]
    said = f'Can approve nothing any more: "Ben" ({ben}). Can approve from then on: "Dan" ({dan}).'
    assert said in text
    assert SIGNER in office.refused(policy, office.dan.sign(text.encode()))
    office.add(policy, office.ada.sign, office.ben.sign)
    with open_pipeline(office.declared, actor="test") as pipeline:
        change_policy(pipeline, pipeline.ledger.request(policy))
        request = open_request(pipeline, reason="again", requested_by="test").id
        text = pipeline.ledger.approval_text(request).decode()
    assert SIGNER in office.refused(request, office.ben.sign(text.encode()))
    assert "without a touch" in office.refused(request, office.dan.sign(text.encode(), flags=0))
    office.add(request, office.cem[1].sign, office.dan.sign)
    office.run("audit", "verify")
    # The owner of the database files Ben's signature all the same.
    bodies = office.bodies()
    last = [each for each in bodies if each["event"] == "signature_added"][-1]
    facts = {**last["facts"], "officer": ben, "signature": office.ben.sign(text.encode()).hex()}
    assert office.faults(bodies) == ""
    faults = office.faults([*bodies, {**last, "at": bodies[-1]["at"], "facts": facts}])
    assert faults.count("\n") == 0
    assert "(signature_added) has no good signature: no officer of the roster has the SSH key of this signature" in (
        faults
    )
    assert ssh_signature(office, bodies)["request"] == before
