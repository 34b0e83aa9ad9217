"""A request that officers are to sign, and results, as commands print them."""

import json
from collections.abc import Sequence

import pytest

from keyrotation_pipeline.cli.output import Table, Text, show
from keyrotation_pipeline.cli.signing import Guide, guide, propose, require_signed
from keyrotation_pipeline.errors import ApprovalError, BlockedError
from keyrotation_pipeline.model.approval import Officer, Roster, ssh_fingerprint
from keyrotation_pipeline.model.backups import CertificateStatus
from keyrotation_pipeline.rotation.rotate import open_request
from keyrotation_pipeline_tests.fakes import FakeWorld, fake_pipeline


@pytest.fixture
def world() -> FakeWorld:
    return fake_pipeline({"clients": [{"first_name": "v1:Ada", "email": None}]})


@pytest.mark.parametrize(
    ("then", "ends"), [(None, "what, and how"), ("run it again", "what, and how; then run it again")]
)
def test_the_id_stands_alone_on_stdout(
    world: FakeWorld, then: str | None, ends: str, capsys: pytest.CaptureFixture[str]
) -> None:
    request = open_request(world.pipeline, reason="yearly", requested_by="ops@host")
    propose(world.pipeline, request, {"id": request.id}, ["clinic: v1 to v2"], then, as_json=False)
    printed = capsys.readouterr()
    assert printed.out == f"{request.id}\n"
    assert printed.err.splitlines() == [
        "clinic: v1 to v2",
        f"2 officers must sign; `keyrotation approve {request.id[:8]} --as NAME` shows each {ends}",
    ]  # fmt: skip


def test_a_request_that_is_not_signed_is_not_carried_out(world: FakeWorld) -> None:
    request = open_request(world.pipeline, reason="yearly", requested_by="ops@host")
    with pytest.raises(BlockedError, match=r"needs 2 more approvals; sign with `keyrotation approve"):
        require_signed(world.pipeline, request)


@pytest.mark.parametrize(
    ("database", "as_json", "printed"),
    [
        pytest.param("clinic", True, '{\n"schema": 1,\n"id": "ä"\n}\n', id="JSON"),
        pytest.param("clinic", False, "clinic\none\ntwo\nRows\n1,000\n", id="text begins with the database"),
        pytest.param(None, False, "one\ntwo\nRows\n1,000\n", id="named before"),
    ],
)
def test_a_result_is_its_value_or_its_lines(
    database: str | None, as_json: bool, printed: str, capsys: pytest.CaptureFixture[str]
) -> None:
    show(database, {"id": "ä"}, ["one", Text("two", "bold"), Table(("Rows",), [(1000,)])], as_json=as_json)
    assert "".join(f"{line.strip()}\n" for line in capsys.readouterr().out.splitlines()) == printed


KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIC6rKenjv8RZxDCTAOpsJtv9I1UP1hGzpPS5NQocZpyh"
TOKEN = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAIMnuGCBjAkExWRSSZjH3VceMdj"
ADA, BEN = Officer("Ada", "A" * 40), Officer("Ben", "B" * 40, ssh_key=KEY)
CEM = Officer("Cem", ssh_fingerprint(TOKEN), ssh_key=TOKEN)
BY_GPG = "keyrotation confirm ID --text | gpg -u {} -ab | keyrotation confirm ID --signature -"
BY_SSH = BY_GPG.replace("gpg -u {} -ab", "ssh-keygen -Y sign -n keyrotation-pipeline -f {}")


@pytest.mark.parametrize(
    ("officer", "signed", "required", "lines"),
    [
        pytest.param(
            None, (), 2,
            ["signed    nobody (2 must)", "to sign   `keyrotation confirm ID --as NAME` (Ada, Ben, Cem)",
             "then      once 2 more have signed: keyrotation rotate ID"],
            id="nobody asks",
        ),
        pytest.param(
            "ADA", (), 2,
            ["signed    nobody (2 must)",
             f"to sign   Ada, with the OpenPGP key {'A' * 40}:", f"  {BY_GPG.format('A' * 40)}",
             "note      gpg asks for your passphrase, or the PIN of your card",
             "then      once 2 more have signed: keyrotation rotate ID"],
            id="with OpenPGP",
        ),
        pytest.param(
            "Ben", (), 2,
            ["signed    nobody (2 must)",
             f"to sign   Ben, with the OpenPGP key {'B' * 40}:", f"  {BY_GPG.format('B' * 40)}",
             f"to sign   Ben, with the SSH key {ssh_fingerprint(KEY)}:", f"  {BY_SSH.format('~/.ssh/id_ed25519')}",
             "note      gpg asks for your passphrase, or the PIN of your card",
             "note      after -f stands the file of your SSH key; a security key waits for your touch",
             "then      once 2 more have signed: keyrotation rotate ID"],
            id="with either key",
        ),
        pytest.param(
            None, (ADA.fingerprint, BEN.fingerprint), 3,
            ["signed    Ada, Ben (3 must)", f"to sign   Cem, with the SSH security key {CEM.fingerprint}:",
             f"  {BY_SSH.format('~/.ssh/id_ed25519_sk')}",
             "note      after -f stands the file of your SSH key; a security key waits for your touch",
             "then      once 1 more has signed: keyrotation rotate ID"],
            id="one is missing",
        ),
        pytest.param(
            "Cem", (ADA.fingerprint, BEN.fingerprint), 2,
            ["signed    Ada, Ben (2 must)", "then      keyrotation rotate ID"],
            id="enough have",
        ),
        pytest.param(
            "Ada", (ADA.fingerprint,), 2,
            ["signed    Ada (2 must)", "then      once 1 more has signed: keyrotation rotate ID"], id="who has signed",
        ),
    ],
)  # fmt: skip
def test_the_guide_names_for_each_key_the_line_to_type(
    world: FakeWorld,
    officer: str | None,
    signed: Sequence[str],
    required: int,
    lines: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    roster = Roster(required, (ADA, BEN, CEM), ())
    shown = Guide(
        "confirm", "ID", b"keyrotation-confirmation-v1\n", roster, signed, required, "keyrotation rotate ID", officer
    )
    guide(world.pipeline.environment, shown, as_json=False)
    printed = capsys.readouterr().out.splitlines()
    text = printed.index("keyrotation-confirmation-v1")
    assert printed[text - 2 : text] == ["Read this whole text; it is what you sign:", ""]
    assert printed[text + 2 :] == lines
    guide(world.pipeline.environment, shown, as_json=True)
    found = json.loads(capsys.readouterr().out)
    commands = [f"  {each['command']}" for each in found["how_to_sign"]]
    assert commands == [each for each in lines if each.startswith("  ")] or (officer is None and len(commands) == 4)
    assert (found["text"], found["required"]) == ("keyrotation-confirmation-v1\n", required)


def test_who_is_no_officer_is_told_who_is(world: FakeWorld) -> None:
    shown = Guide("approve", "ID", b"text\n", Roster(2, (ADA, BEN), ()), (), 2, "x", "Eve")
    with pytest.raises(ApprovalError, match="no officer is called Eve; give one of Ada, Ben as --as"):
        guide(world.pipeline.environment, shown, as_json=False)


def test_the_guide_shows_no_text_with_hidden_characters(world: FakeWorld) -> None:
    shown = Guide("approve", "ID", "Reason: a\u202eb\n".encode(), Roster(2, (ADA, BEN), ()), (), 2, "x")
    with pytest.raises(ApprovalError, match="do not sign it, and run `keyrotation audit verify`"):
        guide(world.pipeline.environment, shown, as_json=False)


def test_an_officer_whose_certificate_has_ended_is_told_before_the_line_to_type(
    world: FakeWorld, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = CertificateStatus("certificate ada.asc", False, None, "officer Ada: it has expired", ADA.fingerprint)
    roster = Roster(2, (ADA, BEN), ())
    for officer, told in (("Ada", True), ("Ben", False)):
        shown = Guide("approve", "ID", b"text\n", roster, (), 2, "keyrotation rotate ID", officer, (ended,))
        guide(world.pipeline.environment, shown, as_json=False)
        printed = capsys.readouterr().out
        assert ("note      officer Ada: it has expired\nto sign   Ada" in printed) is told
