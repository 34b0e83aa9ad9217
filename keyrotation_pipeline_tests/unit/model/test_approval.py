"""The canonical text: exact bytes, and nothing in it that two people could read differently."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.approval import ApprovalText, differing_lines, require_plain

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
    required=2,
    officers=("A" * 40, "B" * 40),
    recipients=("F" * 40,),
    audit_head=(41, "cd" * 32),
    start_by=datetime(2026, 4, 1, 9, 0, tzinfo=UTC),
    finish_by=datetime(2026, 7, 1, 11, 0, tzinfo=timezone(timedelta(hours=2))),
    reason="Annual rotation – Größe, 年次",
)

GOLDEN = """\
keyrotation-approval-v1
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
Officers: 2 of AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA, BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB
Recipients: FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF
Audit head: 41 cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd
Start by: 2026-04-01T09:00:00Z
Finish by: 2026-07-01T09:00:00Z
Reason: Annual rotation – Größe, 年次
"""


def test_the_text_is_these_bytes_and_no_others() -> None:
    assert TEXT.render() == GOLDEN.encode()


def test_a_date_before_which_nothing_starts_stands_before_the_others() -> None:
    later = replace(TEXT, not_before=datetime(2026, 3, 5, 9, 0, tzinfo=UTC))
    line = "Not before: 2026-03-05T09:00:00Z\n"
    assert later.render().decode() == GOLDEN.replace("Start by", f"{line}Start by")


def test_what_people_carry_out_says_so_before_its_reason() -> None:
    line = "Carried out: by people, in Dagster or by keyrotation rotate; the conductor leaves it\n"
    assert replace(TEXT, manual=True).render() == GOLDEN.replace("Reason: ", f"{line}Reason: ").encode()


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
        ("Columns", {"columns": ("a\nb",)}),
        ("Officers", {"officers": ("a\nb",)}),
        ("Recipients", {"recipients": ("a\nb",)}),
        ("Audit head", {"audit_head": (1, "a\nb")}),
        ("Reason", {"reason": "a\nb"}),
    ],
)
def test_no_field_can_bring_a_line_of_its_own_into_the_text(field: str, change: dict[str, object]) -> None:
    with pytest.raises(ApprovalError, match=rf"^{field} holds the character U\+000A"):
        replace(TEXT, **change).render()  # type: ignore[arg-type]


def test_the_fields_in_which_two_texts_differ_are_named() -> None:
    other = replace(TEXT, columns=("clients.first_name",), reason="another").render()
    assert list(differing_lines(TEXT.render(), other)) == ["Columns", "Reason"]
