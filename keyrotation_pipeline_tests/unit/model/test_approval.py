"""The canonical text: exact bytes, and nothing in it that two people could read differently."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import (
    ApprovalText,
    Officer,
    Roster,
    differing_lines,
    hosts_in,
    require_plain,
    signed_fields,
)
from keyrotation_pipeline.model.earlier_summaries import FIRST_APPROVAL, SECOND_APPROVAL

TEXT = ApprovalText(
    request="0123456789abcdef0123456789abcdef",
    action="rotate",
    authorises="create v2, distribute, promote, re-encrypt, fence, retire, archive v1",
    database="clinic@db.example, system identifier 7000000000000000001",
    key_store="file key store /srv/keys",
    source=f"v1 {'ab' * 32}",
    target="v2",
    columns=("clients.first_name", "billing.Invoices.note"),
    rollout="none: nobody is asked",
    not_looked_at=(("Not searched", "bit strings (scans.pixels); logs"), ("Replicas declared gone", "none")),
    roster=Roster(2, (Officer("Ada", "A" * 40), Officer("Ben", "B" * 40)), ("F" * 40,), {"F" * 40: "Recovery"}),
    audit_head=(41, "cd" * 32),
    start_by=datetime(2026, 4, 1, 9, 0, tzinfo=UTC),
    finish_by=datetime(2026, 7, 1, 11, 0, tzinfo=timezone(timedelta(hours=2))),
    requested_by="dba@clinic",
    reason="Annual rotation – Größe, 年次",
)

FIELDS = """\
Request: 0123456789abcdef0123456789abcdef
Action: rotate
Authorises: create v2, distribute, promote, re-encrypt, fence, retire, archive v1
Database: clinic@db.example, system identifier 7000000000000000001
Key store: file key store /srv/keys
From: v1 abababababababababababababababababababababababababababababababab
To: v2
Columns: clients.first_name, billing.Invoices.note
Rollout: none: nobody is asked
Not searched: bit strings (scans.pixels); logs
Replicas declared gone: none
Officers: 2 of "Ada" (AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA), "Ben" (BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB)
Recipients: "Recovery" (FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF)
Audit head: 41 cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
Start by: 2026-04-01T09:00:00Z
Finish by: 2026-07-01T09:00:00Z
Requested by: dba@clinic
Reason: Annual rotation – Größe, 年次
"""
SECOND = f"""\
keyrotation-approval-v2

You are asked to approve a new encryption key for the database "clinic@db.example, system identifier \
7000000000000000001".
What happens: applications get the key v2 and write under it; every value in the columns below is encrypted again, \
from v1 (fingerprint abababababababababababababababababababababababababababababababab) to v2; then v1 is taken from \
the applications, refused by the database, and archived.
NOBODY CHECKS whether the applications have the key: one that does not get it in time fails.
Copies of values in places that nobody searches are not found; the line Not searched names those.
What cannot be undone: once applications may write under v2, this cannot be cancelled any more; only another \
request, which officers sign, can lead back. No key is destroyed: v1 stays in the archive.
How many must sign, and who may: 2 of "Ada" (AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA), "Ben" \
(BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB).
Who can open the backups: "Recovery" (FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF).
Until when: it begins by 2026-04-01 09:00:00 UTC at the latest; after 2026-07-01 09:00:00 UTC your signature counts \
for nothing more.
Requested in the name of "dba@clinic", which nobody has verified.
The reason as it was given: "Annual rotation – Größe, 年次".
If you did not expect this, or if anything in it is not right, do not sign, and ask.

{FIELDS}"""
GOLDEN = f"""\
keyrotation-approval-v5

You are asked to allow a new encryption key, called v2, for the database "clinic@db.example" (server number \
7000000000000000001).
Who asks: "dba@clinic". Nobody has verified that name.
Why, as it was given: "Annual rotation – Größe, 年次".
What happens: applications get the key v2 and write with it from then on. All data in the columns listed below are \
encrypted again with v2. At the end v1 is taken from the applications, refused by the database, and kept in the archive.
NOBODY CHECKS whether the applications have v2: one that does not get it in time fails.
Copies in the places that the line Not searched names are not found.
What cannot be undone: once applications may write with v2, this can no longer be stopped. Only another request, \
which officers sign like this one, leads back. No key is destroyed: v1 stays in the archive.
2 of these officers must sign: "Ada", "Ben".
Who can open the backups: "Recovery" (FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF).
You also sign the lines below, which name all this exactly.
An auditor may ask you for the line Audit head: keep this text.
Before you sign, check: Did somebody whom you know tell you about it? Do those who run the applications know of it? \
Are database and reason right?
If too few officers sign by 2026-04-01 09:00:00 UTC, nothing of this happens. After 2026-07-01 09:00:00 UTC your \
signature no longer counts.
If you did not expect this, or if anything in it is not right, do not sign, and ask.

{FIELDS}"""


def test_the_text_is_these_bytes_and_no_others() -> None:
    assert TEXT.render() == GOLDEN.encode()
    assert replace(TEXT, header=SECOND_APPROVAL).render() == SECOND.encode()


def test_a_date_before_which_nothing_starts_stands_before_the_others() -> None:
    later = replace(TEXT, not_before=datetime(2026, 3, 5, 9, 0, tzinfo=UTC))
    line, sentence = "Not before: 2026-03-05T09:00:00Z\n", " It does not begin before 2026-03-05 09:00:00 UTC. After "
    expected = GOLDEN.replace("Start by", f"{line}Start by").replace(" After ", sentence)
    assert later.render().decode() == expected


def test_what_people_carry_out_says_so_before_its_reason() -> None:
    line = "Carried out: by people, in Dagster or by keyrotation rotate; the conductor leaves it\n"
    sentence = "People carry it out step by step; the program starts nothing of it by itself.\n"
    expected = GOLDEN.replace("\nRequested by: ", f"\n{line}Requested by: ").replace(
        "You also sign", f"{sentence}You also sign"
    )
    assert replace(TEXT, manual=True).render() == expected.encode()


def test_what_changes_no_application_has_no_line_about_its_rollout() -> None:
    assert b"Rollout" not in replace(TEXT, rollout=None).render()


MISLEADING = [
    pytest.param("a\nAction: destroy", id="newline"),
    pytest.param("a\rb", id="carriage return"),
    pytest.param("a\tb", id="tab"),
    pytest.param("a\x00b", id="NUL"),
    pytest.param("a\x1b[2Kb", id="terminal escape"),
    pytest.param("a\x7fb", id="DEL"),
    pytest.param("a\x85b", id="next line"),
    pytest.param("a\u2028b", id="line separator"),
    pytest.param("a\u2029b", id="paragraph separator"),
    pytest.param("a\u202eb", id="right-to-left override"),
    pytest.param("a\u2066b", id="left-to-right isolate"),
    pytest.param("a\u200fb", id="right-to-left mark"),
    pytest.param("a\u061cb", id="Arabic letter mark"),
    pytest.param("a\u200bb", id="zero-width space"),
    pytest.param("a\u200db", id="zero-width joiner"),
    pytest.param("a\ufeffb", id="byte order mark"),
    pytest.param("a\u00adb", id="soft hyphen"),
    pytest.param("a\U000e0041b", id="tag character"),
    pytest.param("a\ud800b", id="surrogate"),
    pytest.param("a\ue000b", id="private use"),
    pytest.param("a\uffffb", id="not a character"),
    pytest.param(" a", id="space before"),
    pytest.param("a ", id="space after"),
    pytest.param("a\u00a0", id="no-break space after"),
]


@pytest.mark.parametrize("reason", MISLEADING)
def test_a_reason_that_could_be_read_differently_is_refused(reason: str) -> None:
    with pytest.raises(ApprovalError, match=r"^Reason "):
        require_plain("Reason", reason)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("Request", {"request": "a\nb"}),
        ("Action", {"action": "a\nb"}),
        ("Authorises", {"authorises": "a\nb"}),
        ("Database", {"database": "a\nb"}),
        ("Key store", {"key_store": "a\nb"}),
        ("From", {"source": "a\nb"}),
        ("To", {"target": "a\nb"}),
        ("Officers", {"roster": Roster(1, (Officer("Ada", "a\nb"),), ())}),
        ("Recipients", {"roster": Roster(1, (Officer("Ada", "A" * 40),), ("a\nb",))}),
        ("Requested by", {"requested_by": "a\nb"}),
        ("Audit head", {"audit_head": (1, "a\nb")}),
        ("Reason", {"reason": "a\nb"}),
    ],
)
def test_no_field_can_bring_a_line_of_its_own_into_the_text(field: str, change: dict[str, object]) -> None:
    with pytest.raises(ApprovalError, match=rf"^{field} holds the character U\+000A"):
        replace(TEXT, **change).render()  # type: ignore[arg-type]


def test_a_name_that_could_be_two_or_is_not_what_it_looks_like_is_written_as_json() -> None:
    written = {
        "a.b, c.d": '"a.b\\u002c c.d"',
        "a.b\u200b": '"a.b\\u200b"',
        "a.b\nAction: destroy": '"a.b\\nAction: destroy"',
        "a.n\u0430me": '"a.n\\u0430me"',
        'a."b"': '"a.\\"b\\""',
        "a.größe": "a.größe",
        "a.имя": "a.имя",
        "a.東京tower": "a.東京tower",
    }
    line = f"\nColumns: {', '.join(written.values())}\n"
    assert line.encode() in replace(TEXT, columns=tuple(written)).render()


FIRST = replace(TEXT, header=FIRST_APPROVAL, secrets=("alerts.smtp.password in the file x",))


def test_the_first_form_of_a_text_stays_as_it_was_signed() -> None:
    assert FIRST.render().decode() == SECOND.replace("approval-v2", "approval-v1")
    assert signed_fields(FIRST.render())["Columns"] == "clients.first_name, billing.Invoices.note"
    names = ("a.b, c.d", "a.n\u0430me", 'a."b"')
    assert b'\nColumns: "a.b\\u002c c.d", a.n\xd0\xb0me, a."b"\n' in replace(FIRST, columns=names).render()


def test_the_secrets_that_are_sent_have_a_line_of_their_own() -> None:
    text = replace(TEXT, hosts=("alerts.smtp mail:25 with STARTTLS",), secrets=("alerts.smtp.password in the file x",))
    assert b"\nHosts: alerts.smtp mail:25 with STARTTLS\nSecrets: alerts.smtp.password in the file x\n" in text.render()
    assert hosts_in(signed_fields(text.render())) == (*text.hosts, *text.secrets)


def test_the_fields_in_which_two_texts_differ_are_named() -> None:
    other = replace(TEXT, columns=("clients.first_name",), reason="another").render()
    assert list(differing_lines(TEXT.render(), other)) == ["Columns", "Reason"]
