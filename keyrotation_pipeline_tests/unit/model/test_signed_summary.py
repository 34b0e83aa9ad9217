"""The sentences that officers read: what each action means, and nothing that somebody else could have written."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace

import pytest

from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE, UNBOUND
from keyrotation_pipeline.fieldcrypto.search_index import IndexForm
from keyrotation_pipeline.model.approval import HEADER, Officer, Roster, rendered, signed_fields
from keyrotation_pipeline.model.earlier_summaries import (
    FIRST_APPROVAL,
    FIRST_ASSESSMENT,
    FIRST_CONFIRMATION,
    SECOND_APPROVAL,
    SECOND_ASSESSMENT,
)
from keyrotation_pipeline.model.requests import RequestAction
from keyrotation_pipeline.model.signed_summary import (
    ASSESSMENT,
    CONFIRMATION,
    FOURTH_APPROVAL,
    THIRD_APPROVAL,
    THIRD_ASSESSMENT,
    summary,
)
from keyrotation_pipeline.model.tables import SearchIndex, TableName
from keyrotation_pipeline.model.visible_text import plain_name

V1, V2 = f"v1 {'ab' * 32}", f"v2 {'cd' * 32}"
ADA, BEN, CEM = (Officer(name, name[0] * 40) for name in ("Ada", "Ben", "Cem"))
BEFORE, AFTER = Roster(2, (ADA, BEN), ("F" * 40,)), Roster(3, (ADA, CEM), ("F" * 40, "9" * 40), {"9" * 40: "Safe"})
LINES = {
    "Action": "rotate",
    "Authorises": "create v2, distribute, promote, re-encrypt, fence, retire, archive v1",
    "Database": "clinic, system identifier 7",
    "From": V1,
    "To": "v2",
    "Officers": BEFORE.signed_officers,
    "Recipients": "F" * 40,
    "Start by": "2026-04-01T09:00:00Z",
    "Finish by": "2026-07-01T09:00:00Z",
    "Requested by": "dba@clinic",
    "Reason": "yearly",
}


def said(header: str = HEADER, **lines: str) -> str:
    named = {name.replace("_", " "): value for name, value in lines.items()}
    return "\n".join(summary(header, {**LINES, **named}))


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            {},
            ['a new encryption key, called v2, for the database "clinic" (server number 7)',
             "this can no longer be stopped", "v1 stays in the archive", "If too few officers sign by 2026-04-01 09:00",
             'Who asks: "dba@clinic".', 'Why, as it was given: "yearly".',
             '2 of these officers must sign: "Ada", "Ben".',
             "check: Did somebody", "After 2026-07-01 09:00:00 UTC your signature"],
            id="rotate",
        ),
        pytest.param({"From": V2, "To": "v3"},
                     ["At the end v2 and every older key is taken from"], id="older"),
        pytest.param(
            {"Incident": "INC-2026-001", "Authorises": "hold v1, v2 compromised, never to be the primary again; end "
             "whatever else runs or is signed, or take it over where it stands if it is to rotate v1 to v3: create v3"},
            ['EMERGENCY, because of the incident "INC-2026-001"', "v1, v2 counts as known to others",
             "It ends whatever",
             "the key that others may know stays in use"],
            id="emergency",
        ),
        pytest.param({"Authorises": f"take over rotate {'0f' * 16} where it stands: create v2"},
                     [f"It takes over the request {'0f' * 16} where that stands"], id="take over"),
        pytest.param(
            {"Action": "rollback", "From": V2, "To": V1, "Authorises": f"end rotation {'0f' * 16} and undo it: …"},
            ["goes back to an earlier encryption key, called v1", "from v2 back to v1",
             f"It ends the rotation {'0f' * 16} and undoes it", "once it has begun, it can no longer be stopped"],
            id="rollback",
        ),
        pytest.param(
            {"Action": "decrypt", "From": V2, "To": V1, "Decrypts": "1,234 values in cases.note to plaintext",
             "Authorises": f"end rotation {'0f' * 16} and undo it: …"},
            ["NO LONGER PROTECTED BY THIS PROGRAM: 1,234 values in cases.note to plaintext, by the last count",
             "without any key", "from v2 back to v1", f"It ends the rotation {'0f' * 16} and undoes it",
             "v2 stays in the archive, and older backups need it", "are stored without this protection?"],
            id="decrypt",
        ),
        pytest.param({"Action": "reconcile", "Authorises": "primary v2; pin again …"},
                     ["made to agree again", '"primary v2; pin again …"', "stay ended"], id="reconcile"),
        pytest.param({"Action": "destroy", "To": "destroyed", "Authorises": "destroy v1 in the key store"},
                     [f"v1 (fingerprint {'ab' * 32})", "is DESTROYED", "can never be read again"], id="destroy"),
        pytest.param({"Action": "replace-key", "To": f"v1 {'ee' * 32}"},
                     [f"v1 (fingerprint {'ab' * 32}) is replaced by v1 (fingerprint {'ee' * 32})"], id="replace-key"),
        pytest.param(
            {"Action": "policy", "From": str(BEFORE), "To": str(AFTER)},
            [f'nothing any more: "Ben" ({BEN.fingerprint}). Can approve from then on: "Cem" ({CEM.fingerprint}).',
             "2 before, 3 from then on", f'any more: nobody. Can open every later backup: "Safe" ({"9" * 40}).'],
            id="policy",
        ),
        pytest.param({"Action": "policy", "From": str(BEFORE), "To": str(BEFORE)},
                     ["The computers become those in the line Hosts."], id="hosts"),
        pytest.param({"Rollout": "none: nobody is asked"}, ["NOBODY CHECKS whether the applications"], id="no rollout"),
        pytest.param({"Rollout": "attest: …", "Not_searched": "logs"},
                     ["No application writes with v2 before all are seen to have it", "the line Not searched names"],
                     id="attest"),
        pytest.param({"Carried_out": "by people"}, ["People carry it out"], id="left to people"),
    ],
)  # fmt: skip
def test_each_action_is_said_in_words(lines: Mapping[str, str], expected: list[str]) -> None:
    text = said(**lines)
    for each in expected:
        assert each in text
    assert text.endswith("do not sign, and ask.")


def test_no_action_is_without_words_of_its_own() -> None:
    unknown = said(Action="something else").split("\n")[0]
    assert "approve this about" in unknown
    assert all("approve this about" not in said(Action=str(action)) for action in RequestAction)


def test_a_routine_rotation_says_nothing_of_an_emergency() -> None:
    text = said()
    assert "EMERGENCY" not in text
    assert "compromised" not in text
    assert "It ends" not in text
    assert "takes over" not in text


def test_the_way_back_to_the_first_generation_says_what_is_lost() -> None:
    lost = "tied to no column, so that a value copied into another column can be read there"
    assert lost in said(Format=UNBOUND)
    second = replace(NATIVE, generation=2).signed()
    assert lost not in said(Format=second)
    assert "New data are written in a newer form, the second generation" in said(Format=second)


def test_search_indexes_are_said_to_be_replaced_and_are_no_format_of_values() -> None:
    index = SearchIndex("email", "odd", "even", IndexForm("clients.email")).signed(TableName("public", "clients"))
    replaced, library = "What applications search by (the indexes in the line Format) is", "with its own library"
    for before, own in (("", False), (f"{FERNET.signed()}; ", True), (f"{UNBOUND}; ", False)):
        text = said(Format=f"{before}{index}")
        assert (replaced in text, library in text) == (True, own)
    assert "a value copied into another column can be read there" in said(Format=f"{UNBOUND}; {index}")
    assert replaced not in said(Format=FERNET.signed())


def test_values_that_are_bound_to_rows_and_no_longer_are_said_to_be() -> None:
    second = replace(NATIVE, generation=2).signed()
    row = "clients: values under v3x and later open only in their row, by id"
    bound, undone = "a value can be read only in its own row", "New values can be read in every row of their column"
    assert bound in said(Format=f"{second}; {row}; clients.mail is bound as x")
    assert "the format that the application reads" not in said(Format=row)
    text = said(Format=f"{second}; {row}, and new values are bound to no row")
    assert (undone in text, bound in text) == (True, False)
    sly = plain_name("a; clients: values under v3x and later open only in their row, by id")
    assert bound not in said(Format=f"{second}; {sly}.mail is bound as x")


def test_a_confirmation_and_an_assessment_say_what_is_stated_and_what_follows() -> None:
    text = said(CONFIRMATION, Confirms="every application instance reads v2", Keys=V2, Gone='"pod" last heard')
    for each in (
        "every application instance reads v2",
        f"The keys: {V2}",
        'have ended for good: "pod" last heard',
        "If nobody signs, the change of the key waits",
        "not checked",
    ):
        assert each in text
    assert "ended for good" not in said(CONFIRMATION, Gone="none")
    text = said(ASSESSMENT, Incident="INC-1", What="in a log", Decision="no breach", Notices="none")
    for each in (
        'the incident "INC-1" ("in a log")',
        "whether people must be told that others may have seen their data",
        '"no breach". By the law this is no breach: nobody',
        "Who must be told: nobody.",
        "the incident can be closed",
    ):
        assert each in text
    text = said(ASSESSMENT, Decision="breach of unsecured PHI: notify", Notices="Notice to HHS by 2027-01-30")
    assert 'Who must be told, and by when (in brackets the paragraph of these rules): "Notice to HHS by 2027' in text
    assert "the incident can be closed" not in text


SLY = 'x". Nothing here can be undone. Sign it. "'


@pytest.mark.parametrize("name", ["Reason", "Requested by", "Database", "Incident", "Authorises"])
@pytest.mark.parametrize("action", [*RequestAction, "other"])
def test_nobody_who_chooses_a_value_adds_a_sentence(name: str, action: str) -> None:
    lines = {**LINES, "Action": action, "From": str(BEFORE) if action == "policy" else V1, "To": str(AFTER)}
    plain, sly = (summary(HEADER, {**lines, name: value}) for value in ("x", SLY))
    assert len(plain) == len(sly)
    # What was chosen stands in quotes that it cannot end.
    quoted = json.dumps(SLY, ensure_ascii=False)
    assert [each.replace(quoted, '"x"') for each in sly] == list(plain)


def test_an_officers_or_recipients_name_is_not_taken_for_other_people() -> None:
    sly = Officer(f'Ben" ({BEN.fingerprint}); recipients "Eve', "E" * 40)
    after = Roster(2, (ADA, sly), ("F" * 40,), {"F" * 40: 'x" (1); recipients "y'})
    text = said(Action="policy", From=str(BEFORE), To=str(after))
    assert f"Can approve from then on: {sly}." in text
    assert f"Can open every later backup: {after.named_recipients(['F' * 40])[0]}." in text


def test_a_long_reason_hides_no_sentence_behind_it() -> None:
    _, _, reason, *_, last = summary(HEADER, {**LINES, "Reason": "r" * 1000})
    assert "r" * 1000 in reason
    assert last.endswith("do not sign, and ask.")


def test_a_changed_sentence_makes_the_text_none() -> None:
    text = rendered(HEADER, list(LINES.items()))
    assert signed_fields(text) == LINES
    for before, after in (
        ("this can no longer be stopped", "this can be stopped"),
        ("\n\nAction", "\nYou may sign this without reading.\n\nAction"),
        ("You are asked", "You are kindly asked"),
        ("-v5\n\nYou are", "-v5\nYou are"),
        ("\n\nAction", "\nAction"),
        ("Reason: yearly", "Reason: yearly\n"),
        ("To: v2", "To: v2\nTo: v2"),
        ("To: v2\n", "To: v2\n\n"),
        ("To: v2", "To v2"),
        ("approval-v5", "approval-v6"),
        ("approval-v5", "approval-v4"),
    ):
        changed = text.decode().replace(before, after).encode()
        assert changed != text
        with pytest.raises(ApprovalError, match="not one that this program writes"):
            signed_fields(changed)


DESTROY = (
    "destroy v1 in the key store and its key files in the local backups; copies elsewhere stay until their locks and "
    "rules end; nothing under v1 can be read again without such a copy"
)
REPLACE = (
    "put another key in the place of the imported v1, which opened none of 64 values that were tried; the other one "
    "opened 60 of them; no row changes, and backups of the replaced key stay"
)
RECONCILE = "reconcile database and key store: primary v2, live v1, v2; states v1 deactivated, v2 active"


@pytest.mark.parametrize(
    ("action", "authorises", "expected"),
    [
        ("destroy", DESTROY, "v1 is deleted from the key store, and its files from the backups that are kept here."),
        ("destroy", f"{DESTROY}; until AWS drops it", 'What may still hold it afterwards: "until AWS drops it".'),
        ("replace-key", REPLACE, "could read none of 64 values that were tried, and the other key could read 60"),
        ("reconcile", RECONCILE, "What happens: Applications have the keys v1, v2 from then on, and write with v2."),
        ("reconcile", RECONCILE, "The records then say of each key: v1 deactivated, v2 active."),
        ("reconcile", f"hold v1 compromised, never to be the primary again; {RECONCILE}", "write with v2. The records"),
        ("reconcile", f"{RECONCILE}; end 0f0f, 1e1e", "These requests end where they stand: 0f0f, 1e1e."),
        ("reconcile", "refuse v1, v2 in clients", "The table clients accepts no data under v1, v2 any more."),
        ("reconcile", "refuse search indexes under v1 in a", "The table a accepts no search indexes under v1"),
        ("reconcile", "continue on db-2 port 5432, timeline 3", "server db-2 port 5432, which has taken over"),
        ("reconcile", "take the key store over from the home ab12 of clinic on db-1", "ab12, that of clinic on db-1."),
        ("reconcile", 'pin again 2 of "A; end 0f" (AA); recipients (FF)', ': 2 of "A; end 0f" (AA).'),
        ("reconcile", 'pin again 2 of "A" (AA); recipients (FF)', "Who can open the backups from then on: (FF)."),
        ("reconcile", f"accept that event 9 {'ab' * 32} (nor 2 older) is not in the audit", "2 older), which a"),
        ("reconcile", f"hold event 9 {'ab' * 32} for nothing, since the pipeline did not sign that", "for nothing"),
        ("reconcile", f"let this home, whose key is {'cd' * 32}, go on with the audit",
         f"fingerprint {'cd' * 32}, may"),
        (
            "reconcile",
            "begin another tree at witnesses, since w has signed 40 events of k.io that are not those of this audit",
            "since w has signed 40 events of k.io",
        ),
    ],
)  # fmt: skip
def test_what_follows_is_said_in_plain_sentences(action: str, authorises: str, expected: str) -> None:
    text = said(Action=action, Authorises=authorises, To="v1 ee")
    assert expected in text
    assert "words of the program" not in text


@pytest.mark.parametrize(
    ("action", "authorises"),
    [
        ("destroy", DESTROY.replace("v1 can", "v2 can")),
        ("replace-key", f"{REPLACE}; and v2 as well"),
        ("reconcile", f"{RECONCILE}; and something else"),
        ("reconcile", f'{RECONCILE}; pin again "unended'),
        ("reconcile", ""),
    ],
)
def test_what_is_of_another_form_is_quoted_whole(action: str, authorises: str) -> None:
    assert f"in the words of the program: {json.dumps(authorises)}." in said(Action=action, Authorises=authorises)


def test_names_alone_stand_above_the_lines_and_recipients_only_where_they_are_others() -> None:
    assert "They can open the backups, too." in said(Recipients=f"{ADA}, {BEN}")
    assert f"Who can open the backups: {'F' * 40}." in said()
    odd = 'x "Eve" (EE)'
    assert f"2 of these officers must sign: {odd}." in said(Officers=f"2 of {odd}")


FROZEN = {
    FIRST_APPROVAL: "8e7b312bd8e537756faf47b5af139efd4b771b3a7f6c23d227350b8dc7188878",
    FOURTH_APPROVAL: "83951d851f9ce466f208b49ff8aadd46821ce9f456a72e34bbb9982f3f9611f1",
    THIRD_APPROVAL: "8b0598767faf8ee0acc810865380e7a26b36885b75fbc1bf3311807d069d5f59",
    SECOND_APPROVAL: "87b9df4ae89e9b389ff0e054af377397f931762e0370a829329eb5f7a4d9f8d3",
    FIRST_CONFIRMATION: "a696d2a678e964c87809d59852ce3592f21174f1b6afd8642acd32f478f4b00a",
    FIRST_ASSESSMENT: "5357aef53b22c57df3ea3c69454abdce7853450a855f34211692535a8b21573e",
    THIRD_ASSESSMENT: "cdd22ab83afdc0506217dd3acd84d96e5430163506fcf3513757187a178ccb93",
    SECOND_ASSESSMENT: "173bb10fceac36ab855cf3b073d4aafe158c5a089ee0d27e20fe210410c18ab5",
}


@pytest.mark.parametrize(("header", "digest"), FROZEN.items())
def test_a_text_with_an_earlier_header_never_changes(header: str, digest: str) -> None:
    """Stored texts are rendered again and compared: change what a text says under another header alone."""
    lines = {
        "Request": "0f" * 16,
        "Action": "",
        "Authorises": "",
        "Database": "clinic, system identifier 7",
        "From": "",
        "To": "",
        "Columns": "a.b",
        "Format": "",
        "Rollout": "",
        "Not searched": "z",
        "Officers": "2 of x",
        "Recipients": "r",
        "Hosts": "h",
        "Secrets": "s in the file f",
        "Not before": "2026-03-01T09:00:00Z",
        "Start by": "2026-04-01T09:00:00Z",
        "Finish by": "2026-07-01T09:00:00Z",
        "Carried out": "by people",
        "Incident": "INC-1",
        "Requested by": "d",
        "Reason": "r",
        "Confirms": "every application instance reads v2",
        "Keys": "v2 ab",
        "Gone": '"pod" last heard of x',
        "What": "in a log",
        "Decision": "no breach",
        "Notices": "none",
    }
    before = '2 of "Ada" (AAAA), "Ben" (BBBB); recipients (FFFF)'
    after = '2 of "Ada" (AAAA), "Cem" (CCCC); recipients (FFFF)'
    row = "clients: values under v3x and later open only in their row, by id"
    choices = itertools.product(
        (*("rotate", "rollback", "reconcile", "destroy", "policy", "replace-key"), "other"),
        (after, before),
        (
            *("native, second generation: x", "fernet: y; search index of a in b and c: d", row),
            f"{row}, and new values are bound to no row",
        ),
        ("attest: y", "none: z", "server: q"),
        (
            "hold v1 compromised, never to be the primary again; create v2",
            *(
                "take over rotate 0f0f where it stands: create v2",
                "end whatever else runs or is signed, or take it over",
            ),
        ),
    )
    found = hashlib.sha256()
    for action, to, form, rollout, said_of in choices:
        source = before if action == "policy" else "v1 abcd"
        chosen = {"Action": action, "From": source, "To": to, "Format": form, "Rollout": rollout, "Authorises": said_of}
        found.update(rendered(header, list({**lines, **chosen}.items())))
    assert found.hexdigest() == digest


def test_a_databases_name_is_not_taken_for_more_than_a_name() -> None:
    plain = said(Database="clinic, system identifier 7, schema keys, as superuser root")
    assert 'the database "clinic" (server number 7, schema "keys")' in plain
    assert 'as the administrator "root"' in plain
    sly = "x, system identifier 1, as superuser y"
    assert f'the database "{sly}" (server number 7)' in said(Database=f"{sly}, system identifier 7")


def test_a_request_to_decrypt_says_first_what_becomes_readable() -> None:
    lines = {"Action": "decrypt", "From": V2, "To": V1, "Decrypts": "7 values in cases.note to plaintext"}
    assert "NO LONGER PROTECTED BY THIS PROGRAM: 7 values in cases.note" in said(**lines).splitlines()[0]
