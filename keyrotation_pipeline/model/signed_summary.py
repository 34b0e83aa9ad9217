"""The plain sentences that a text for signing begins with, for an officer who is no programmer.

They are made of the text's own lines and of nothing else, so that they can claim no more than the lines, which are
checked, and cannot differ from them. Whatever somebody else has chosen (a name, a reason) stands in quotes.

Texts are stored, rendered again and compared: to change a sentence, give the text its next header and move what it
said until then to `earlier_summaries`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE, UNBOUND
from keyrotation_pipeline.model.earlier_summaries import EARLIER, earlier_summary
from keyrotation_pipeline.model.signed_consequences import destroyed, reconciled, replaced
from keyrotation_pipeline.model.signed_lines import (
    COMPARED_BACKUP,
    DECRYPTS,
    ENCRYPTED,
    ENDED,
    HELD,
    INDEX,
    NOT_COUNTED,
    PLACE,
    ROW,
    Fields,
    authorised,
    gone_and_new,
    is_held_by_server,
    key_of,
    people_in,
    quoted,
    time_of,
    version_of,
)

APPROVAL = "keyrotation-approval-v5"
FOURTH_APPROVAL, THIRD_APPROVAL = "keyrotation-approval-v4", "keyrotation-approval-v3"
# These repeat fingerprints and names that stand in the lines, too.
REPEATING = frozenset({FOURTH_APPROVAL, THIRD_APPROVAL})
CONFIRMATION = "keyrotation-confirmation-v2"
ASSESSMENT, THIRD_ASSESSMENT = "keyrotation-assessment-v4", "keyrotation-assessment-v3"
# The name may hold anything, so what is taken for the rest is what stands at the end.
_PLACE = re.compile(
    r"(?P<name>.+), system identifier (?P<number>[0-9]+|unknown)(?:, schema (?P<schema>[a-z0-9_]+))?"
    r"(?:, as superuser (?P<role>.+))?",
    re.ASCII,
)


def summary(header: str, fields: Fields) -> Sequence[str]:
    """What a text with these lines means, one sentence (or a few) in each line, without line breaks.

    Lines that a text of its kind lacks leave their sentence out: whether they may be missing is checked elsewhere.
    """
    if header in EARLIER:
        return earlier_summary(header, fields)
    if header == CONFIRMATION:
        return tuple(_confirmation(fields))
    if header in {ASSESSMENT, THIRD_ASSESSMENT}:
        return tuple((_third_assessment if header == THIRD_ASSESSMENT else _assessment)(fields))
    actions = _THIRD_ACTIONS if header == THIRD_APPROVAL else _FOURTH_ACTIONS if header in REPEATING else _ACTIONS
    action = actions.get(fields.get("Action", ""), _unknown)
    every = _repeated_for_every_action(fields) if header in REPEATING else _for_every_action(fields)
    return (*_emergency(fields), *action(fields), *every)


def _database(fields: Fields) -> str:
    """``the database "clinic" (server number 7)``; what is not of that form stands whole in quotes."""
    named = fields.get("Database", "")
    if (parts := _PLACE.fullmatch(named)) is None:
        return f"the database {quoted(named)}"
    schema = f", schema {quoted(parts['schema'])}" if parts["schema"] else ""
    return f"the database {quoted(parts['name'])} (server number {parts['number']}{schema})"


def _power(fields: Fields) -> Iterator[str]:
    parts = _PLACE.fullmatch(fields.get("Database", ""))
    if parts is not None and parts["role"]:
        yield f"The program works there as the administrator {quoted(parts['role'])}, who can change anything on it."


def _emergency(fields: Fields) -> Iterator[str]:
    if "Incident" in fields:
        yield f"THIS IS AN EMERGENCY, because of the incident {quoted(fields['Incident'])}."


def _who_and_why(fields: Fields) -> Iterator[str]:
    if "Requested by" in fields:
        yield f"Who asks: {quoted(fields['Requested by'])}. Nobody has verified that name."
    if "Reason" in fields:
        yield f"Why, as it was given: {quoted(fields['Reason'])}."
    yield from _power(fields)
    if found := HELD.match(fields.get("Authorises", "")):
        yield (
            f"As soon as enough officers have signed, {found['versions']} counts as known to others (compromised), and "
            "is never used for new data again. That cannot be undone, even if this request is cancelled."
        )


def _rotate(fields: Fields, *, repeats: bool = False) -> Iterator[str]:
    source, target = fields.get("From", ""), fields.get("To", "")
    old = version_of(source)
    older = "" if old in {"v1", "v1x"} else " and every older key"
    yield f"You are asked to allow a new encryption key, called {target}, for {_database(fields)}."
    yield from _who_and_why(fields)
    if is_held_by_server(fields):
        if target != f"v{int(old[1:]) + 1}":  # somebody else made versions between them
            older = f" and every other key before {target}"
        yield (
            f"What happens: the server that holds the keys makes {target}, and applications write with it at once. "
            f"All data in the columns listed below are encrypted again with {target}. At the end {old}{older} is "
            "refused by server and database."
        )
        yield from _replaced(source) if repeats else ()
        yield from _limits(fields, repeats=repeats)
        yield from _ends(fields)
        yield (
            f"What cannot be undone: once the server has made {target}, this can no longer be stopped, and nothing "
            f"leads back to {old}. No key is destroyed: the server keeps {old}, and can be told to read it again."
        )
        return
    if old == "plaintext":
        yield (
            f"What happens: applications get their first key, {target}, and write with it from then on. All data in "
            "the columns listed below are encrypted with it."
        )
        yield from _limits(fields, repeats=repeats)
        yield from _ends(fields)
        before = "plain text" if "Plaintext" in fields else "the other library"
        yield (
            f"What cannot be undone: once applications may write with {target}, this can no longer be stopped, and "
            f"nothing leads back to {before}. Without {target} nobody can read these data any more."
        )
        return
    yield (
        f"What happens: applications get the key {target} and write with it from then on. All data in the columns "
        f"listed below are encrypted again with {target}. At the end {old}{older} is taken from the applications, "
        "refused by the database, and kept in the archive."
    )
    yield from _replaced(source) if repeats else ()
    yield from _limits(fields, repeats=repeats)
    yield from _ends(fields)
    yield (
        f"What cannot be undone: once applications may write with {target}, this can no longer be stopped. Only "
        f"another request, which officers sign like this one, leads back. No key is destroyed: {old} stays in the "
        "archive."
    )


def _replaced(source: str) -> Iterator[str]:
    yield f"The key that is replaced: {key_of(source)}. A fingerprint is computed from a key; no two keys share one."


def _rollback(fields: Fields, *, repeats: bool = False) -> Iterator[str]:
    source, target = fields.get("From", ""), fields.get("To", "")
    named = key_of if repeats else version_of
    back = version_of(target)
    yield f"You are asked to allow that {_database(fields)} goes back to an earlier encryption key, called {back}."
    yield from _who_and_why(fields)
    yield (
        f"What happens: applications write with {named(target)} again, taken from the archive if it is there. All "
        f"data in the columns listed below are encrypted again, from {named(source)} back to {back}. At the end "
        f"applications no longer have {version_of(source)}, the database refuses it, and it is kept in the archive."
    )
    yield from _limits(fields, repeats=repeats)
    yield from _ends(fields)
    yield (
        "What cannot be undone: once it has begun, it can no longer be stopped. No key is destroyed: "
        f"{version_of(source)} stays in the archive."
    )


def _decrypt(fields: Fields) -> Iterator[str]:
    """The action of its own that leads out of encryption, which its first sentence says."""
    source, target = version_of(fields.get("From", "")), version_of(fields.get("To", ""))
    yield (
        f"You are asked to allow that data of {_database(fields)} are NO LONGER PROTECTED BY THIS PROGRAM: "
        f"{fields.get(DECRYPTS, 'not said which')}, by the last count."
    )
    yield (
        "Whoever can read the database, its backups or its logs from then on can read what becomes plain text, without "
        "any key. What gets the form of another library is under that library's key alone."
    )
    yield from _who_and_why(fields)
    yield (
        f"What happens: applications write with {target} again, and into these columns what they wrote before these "
        f"were encrypted. Then the values in these columns are decrypted, and all others in the columns listed below "
        f"are encrypted again, from {source} back to {target}. At the end the database refuses {source}, and any "
        f"encrypted value in these columns."
    )
    yield from _limits(fields, repeats=False)
    yield from _ends(fields)
    yield (
        "What cannot be undone: once it has begun, it can no longer be stopped, and what was readable stays so in "
        f"copies and backups. No key is destroyed: {source} stays in the archive, and older backups need it."
    )


def _limits(fields: Fields, *, repeats: bool) -> Iterator[str]:
    """What the procedure knows of applications, and where it does not look."""
    yield from _of_members(fields)
    key = version_of(fields.get("To", ""))
    if is_held_by_server(fields):
        yield (
            "NOBODY LOOKS ELSEWHERE: data under the old key in other databases, or in columns that are not below, "
            "cannot be read any more from then on."
        )
    elif "Rollout" in fields:
        yield (
            f"NOBODY CHECKS whether the applications have {key}: one that does not get it in time fails."
            if fields["Rollout"].startswith("none:")
            else f"No application writes with {key} before the applications are seen to have it, in the way that the "
            "line Rollout describes."
            if repeats
            else f"No application writes with {key} before all are seen to have it, as the line Rollout says."
        )
    yield from _of_format(fields)
    if (plaintext := fields.get("Plaintext", "")).startswith(ENCRYPTED):
        yield (
            f"What is not encrypted yet in{plaintext.removeprefix(ENCRYPTED)} is encrypted, and plain text refused "
            "there. Nobody can search or sort by it any more. Plain text stays where the line Plaintext stays says."
        )
    elif plaintext:
        yield f"What is not encrypted yet {plaintext}, and applications write plain text there again."
    if (migrated := fields.get("Other libraries", "")).startswith(ENCRYPTED):
        yield (
            f"What is still in the form of another library is encrypted under the new key, and refused afterwards, in"
            f"{migrated.removeprefix(ENCRYPTED)}. Older backups are still in that form, and need that key."
        )
    elif migrated:
        yield f"What is still in the form of another library {migrated}, and applications write that form there again."
    if "Not authenticated" in fields:
        yield (
            f"NOTHING PROVES that a value was not changed before, or was under another key, in "
            f"{fields['Not authenticated']}: that format has no authentication. A value counts as read rightly if its "
            "padding and characters are right."
        )
    if COMPARED_BACKUP in fields:
        yield (
            f"What a recovery test found when it compared a restored backup with these tables, value by value: "
            f"{fields[COMPARED_BACKUP]}."
        )
    if "Not searched" in fields:
        yield (
            "Copies of data in places that nobody searches are not found. The line Not searched names these places."
            if repeats
            else "Copies in the places that the line Not searched names are not found."
        )


def _of_members(fields: Fields) -> Iterator[str]:
    named = [name.removeprefix(PLACE) for name in fields if name.startswith(PLACE)]
    members = [each for each in named if "*" not in each]
    if members:
        yield (
            f"The same happens in further databases, each exactly the one that its line Place names: "
            f"{', '.join(members)}. The old key goes only when it is proven in all of them."
        )
    yield from _of_rules(fields)
    if silent := [each for each in members if fields[f"{PLACE}{each}"].endswith(f"; {NOT_COUNTED}")]:
        yield (
            f"NOBODY HAS COUNTED what is in {', '.join(silent)}, which did not answer when this was requested. The "
            "same happens there as soon as it answers, and until then the old key stays."
        )


def _of_rules(fields: Fields) -> Iterator[str]:
    rules = [each for name in fields if "*" in (each := name.removeprefix(PLACE)) and name.startswith(PLACE)]
    if rules:
        yield (
            "NOBODY IS ASKED about databases that join later: each whose name matches, on the server that the line "
            f"Place names, is treated alike as soon as a query of the first database lists it: {', '.join(rules)}."
        )


def _of_format(fields: Fields) -> Iterator[str]:
    declared = fields.get("Format", "").split("; ")
    rows = [found for each in declared if (found := ROW.fullmatch(each))]
    indexes = [each for each in declared if INDEX.fullmatch(each)]
    if fields.get("Format", "").startswith(f"{NATIVE.name}, second generation"):
        yield (
            "New data are written in a newer form, the second generation, each value tied to its column. An "
            "application must know that form, and each column under the same label, or it cannot read them."
        )
    elif fields.get("Format", "").startswith(UNBOUND):
        yield (
            "New data are in the older form, the first generation, again: tied to no column, so that a value copied "
            "into another column can be read there."
        )
    elif "Format" in fields and len(rows) + len(indexes) < len(declared):
        yield f"The data stay in the format that the application reads with its own library: {fields['Format']}."
    if any(found["undone"] for found in rows):
        yield "New values can be read in every row of their column again, so that two can be exchanged unnoticed."
    elif rows:
        yield (
            "Where the line Format says so, a value can be read only in its own row. An application must know of that, "
            "or it can neither read nor write the value."
        )
    if indexes:
        yield "What applications search by (the indexes in the line Format) is computed again with the new key."


def _ends(fields: Fields) -> Iterator[str]:
    said = authorised(fields)
    if found := ENDED.match(said):
        yield (
            f"It takes over the request {found['request']} where that stands."
            if found["how"] == "take over"
            else f"It ends the rotation {found['request']} and undoes it."
        )
    elif said.startswith("end whatever else runs or is signed"):
        yield "It ends whatever else runs or is signed, or takes it over where it stands if that has the same aim."


# What follows from a line `Authorises`, in sentences.
Consequences = Callable[[Fields], Iterator[str]]


def _reconcile(consequences: Consequences, fields: Fields) -> Iterator[str]:
    yield (
        f"You are asked to allow that the records about {_database(fields)} are made to agree again with the database "
        "and the key store, as after a backup was restored."
    )
    yield from _who_and_why(fields)
    yield from consequences(fields)
    yield (
        "What cannot be undone: rotations that this ends stay ended, and records that it accepts as missing are "
        "never asked for again."
    )


def _destroy(consequences: Consequences, fields: Fields) -> Iterator[str]:
    source = fields.get("From", "")
    yield f"You are asked to allow that an encryption key of {_database(fields)} is DESTROYED: {key_of(source)}."
    yield from _who_and_why(fields)
    yield from consequences(fields)
    yield (
        f"What cannot be undone: all of it. Whatever is still encrypted with {version_of(source)}, as in old backups, "
        "can never be read again, unless a copy of this key is left somewhere."
    )


def _replace_key(consequences: Consequences, fields: Fields) -> Iterator[str]:
    before, after = fields.get("From", ""), fields.get("To", "")
    yield f"You are asked to allow that {version_of(before)} of {_database(fields)} becomes another key."
    yield from _who_and_why(fields)
    yield f"What happens: {key_of(before)} is replaced by {key_of(after)}."
    yield from consequences(fields)
    yield "What cannot be undone: only another request, which officers sign, can replace the key again."


def _policy(fields: Fields) -> Iterator[str]:
    before, after = fields.get("From", ""), fields.get("To", "")
    yield (
        f"You are asked to allow a change of the rules for {_database(fields)}: who decides about its keys, who can "
        "read its backups, or which computers the program may connect to."
    )
    yield from _who_and_why(fields)
    if before == after:
        secrets = " Their passwords come from where the line Secrets says." if "Secrets" in fields else ""
        yield (
            "What happens: officers and readers of backups stay as they are. The computers become those in the line "
            f"Hosts.{secrets}"
        )
    else:
        yield from _people_change(before, after)
    yield from _of_rules(fields)
    yield "What cannot be undone: to take this back, the officers who decide from then on must sign another change."


def _people_change(before: str, after: str) -> Iterator[str]:
    """How officers and recipients change."""
    (officers_before, recipients_before), (officers, recipients) = map(people_in, (before, after))
    gone, new = gone_and_new(officers_before, officers)
    needed = [line.partition(" of ")[0] for line in (before, after)]
    yield f"Can approve nothing any more: {gone}. Can approve from then on: {new}."
    yield f"Signatures needed for each request: {needed[0]} before, {needed[1]} from then on."
    gone, new = gone_and_new(recipients_before, recipients)
    yield f"Cannot open later backups any more: {gone}. Can open every later backup: {new}."


def _unknown(fields: Fields) -> Iterator[str]:
    yield f"You are asked to approve this about {_database(fields)}: {quoted(authorised(fields))}."
    yield from _who_and_why(fields)


def _for_every_action(fields: Fields) -> Iterator[str]:
    required, _, officers = fields.get("Officers", "").partition(" of ")
    if officers:
        yield f"{required} of these officers must sign: {_names_of(officers)}."
    if "Recipients" in fields:
        same = fields["Recipients"] == officers
        yield "They can open the backups, too." if same else f"Who can open the backups: {fields['Recipients']}."
    if "Carried out" in fields:
        yield "People carry it out step by step; the program starts nothing of it by itself."
    yield "You also sign the lines below, which name all this exactly."
    if "Audit head" in fields:
        yield "An auditor may ask you for the line Audit head: keep this text."
    yield _to_check(fields)
    yield _if_not_signed(fields)
    yield "If you did not expect this, or if anything in it is not right, do not sign, and ask."


def _names_of(officers: str) -> str:
    """The quoted names in the line `Officers`, without fingerprints; a line of another form whole."""
    people, _ = people_in(officers)
    named = ", ".join(each.rpartition(" (")[0] or each for each in people)
    return named if ", ".join(people) == officers else officers


def _repeated_for_every_action(fields: Fields) -> Iterator[str]:
    if "Officers" in fields:
        required, _, officers = fields["Officers"].partition(" of ")
        yield f"{required} of these officers must sign: {officers}."
    if "Recipients" in fields:
        yield f"Who can open the backups: {fields['Recipients']}."
    if "Carried out" in fields:
        yield "People carry it out step by step; the program starts nothing of it by itself."
    yield "The lines below name each of these things exactly. You sign them, too."
    yield _to_check(fields)
    yield _if_not_signed(fields)
    yield "If you did not expect this, or if anything in it is not right, do not sign, and ask."


def _to_check(fields: Fields) -> str:
    return f"Before you sign, check: {_CHECKS.get(fields.get('Action', ''), _CHECK)} Are database and reason right?"


_CHECK = "Did somebody whom you know tell you about it?"
_CHECKS = {
    "rotate": f"{_CHECK} Do those who run the applications know of it?",
    "rollback": f"{_CHECK} Do those who run the applications know of it, and why the new key is given up?",
    "decrypt": f"{_CHECK} Do those who answer for these data agree that they are stored without this protection?",
    "destroy": f"{_CHECK} Does nothing that must still be read, such as an old backup, need this key?",
    "policy": f"{_CHECK} Did each new person read their fingerprint to you, in person or by telephone?",
    "reconcile": f"{_CHECK} Was a backup restored, and do you know when?",
    "replace-key": f"{_CHECK} Is it known how the wrong key came there?",
}


def _if_not_signed(fields: Fields) -> str:
    """What follows if too few sign, and until when a signature counts."""
    stays = ", and the key that others may know stays in use" if "Incident" in fields else ""
    if "Start by" not in fields:
        return f"If too few officers sign, nothing of this happens{stays}."
    earliest = f" It does not begin before {time_of(fields['Not before'])}." if "Not before" in fields else ""
    return (
        f"If too few officers sign by {time_of(fields['Start by'])}, nothing of this happens{stays}.{earliest} After "
        f"{time_of(fields.get('Finish by', ''))} your signature no longer counts."
    )


def _confirmation(fields: Fields) -> Iterator[str]:
    yield f"You are asked to confirm something about all applications that use {_database(fields)}."
    yield from _power(fields)
    keys = [version_of(each) for each in fields.get("Keys", "").split(", ")]
    rollout = fields.get("Rollout", "")
    joined = (" or " if rollout == "without" else " and ").join(keys)
    yield f"What you state: {_STATED.get(rollout, _NOTHING_KNOWN).format(keys=joined)}"
    yield f"In the words of the program: {quoted(fields.get('Confirms', ''))}. The keys: {fields.get('Keys', '')}."
    if fields.get("Gone", "none") != "none":
        yield f"You also state that these copies of an application have ended for good: {fields['Gone']}."
    yield (
        "What follows: the change of the key goes on because of your word. An application for which it "
        "is not true may then fail to read or to write."
    )
    yield (
        "Before you sign, check: have those who run the applications shown it to you, for every one, also those that "
        "run at night or elsewhere?"
    )
    yield "If nobody signs, the change of the key waits, and everything works as before."
    yield "If you have not checked it yourself, do not sign, and ask."


_NOTHING_KNOWN = "what the line Confirms says."
# By the line Rollout; the keys are those in the line Keys.
_STATED = {
    "names": "every application goes on writing with {keys}, also when it gets a newer key, until the program changes "
    "that.",
    "reads": "every application can read data that are encrypted with {keys}.",
    "writes": "every application encrypts new data with {keys}.",
    "without": "no application has {keys} any more.",
}


def _assessment(fields: Fields) -> Iterator[str]:
    decision, notices = fields.get("Decision", ""), fields.get("Notices", "")
    yield (
        f"You are asked to sign answers about the incident {quoted(fields.get('Incident', ''))} "
        f"({quoted(fields.get('What', ''))}) of {_database(fields)}. They stand below, in the lines Answer. By them it "
        "is decided whether people must be told that others may have seen their data."
    )
    yield (
        f"What follows from the answers, by the rules of the United States for data about health (45 CFR 164.402 to "
        f"164.414): {quoted(decision)}.{_DECISIONS.get(decision, '')}"
    )
    yield (
        "Who must be told: nobody."
        if notices == "none"
        else f"Who must be told, and by when (in brackets the paragraph of these rules): {quoted(notices)}."
    )
    yield (
        "Once enough officers have signed exactly these answers, this is decided."
        + (" Nobody is then reminded to tell anybody, and the incident can be closed." if notices == "none" else "")
    )
    yield "What cannot be undone: whoever is not told in time cannot be told in time later."
    yield (
        "Before you sign, check: do you know each answer to be true, and from whom? Do you know of anything else that "
        "others may have seen? Does the lawyer or privacy officer whom you ask in such cases agree?"
    )
    yield "If too few officers sign, what was decided before holds. What nobody has decided counts as a breach."
    yield "If an answer is not what you know to be true, do not sign, and ask."


def _third_assessment(fields: Fields) -> Iterator[str]:
    yield (
        f"You are asked to sign the answers below about the incident {quoted(fields.get('Incident', ''))} "
        f"({quoted(fields.get('What', ''))}) of {_database(fields)}."
    )
    decision = fields.get("Decision", "")
    yield f"What follows from them: {quoted(decision)}.{_DECISIONS.get(decision, '')}"
    yield f"Who is to be notified: {quoted(fields.get('Notices', ''))}."
    yield (
        "As soon as enough officers have signed exactly these answers, this decision is in force. If it says that "
        "nobody is to be notified, then nobody is reminded to notify anybody, and the incident can be closed."
    )
    yield "What cannot be undone: people who are not told in time cannot be told in time later."
    yield "Before you sign, check: do you know each answer to be true, and from whom? Is it complete?"
    yield "If too few officers sign, what was decided before holds. What nobody has decided counts as a breach."
    yield "If an answer is not what you know to be true, do not sign, and ask."


# The outcomes of a breach decision (`model.breach.Outcome`), for people.
_DECISIONS = {
    "breach of unsecured PHI: notify": " Others may have seen patients' data: people must be told.",
    "secured PHI: no notification": " The data were encrypted and the key was safe: nobody must be told.",
    "no breach": " By the law this is no breach: nobody must be told.",
    "not decided: presumed a breach until shown otherwise": " Until more is known, it counts as a breach.",
}
_ACTIONS: Mapping[str, Consequences] = {
    "rotate": _rotate,
    "rollback": _rollback,
    "decrypt": _decrypt,
    "reconcile": partial(_reconcile, reconciled),
    "destroy": partial(_destroy, destroyed),
    "policy": _policy,
    "replace-key": partial(_replace_key, replaced),
}


def _happens_as_quoted(fields: Fields) -> Iterator[str]:
    yield f"What happens, in the words of the program: {quoted(authorised(fields))}."


def _as_quoted(fields: Fields) -> Iterator[str]:
    yield f"In the words of the program: {quoted(authorised(fields))}."


_FOURTH_ACTIONS: Mapping[str, Consequences] = {
    **_ACTIONS,
    "rotate": partial(_rotate, repeats=True),
    "rollback": partial(_rollback, repeats=True),
}
_THIRD_ACTIONS: Mapping[str, Consequences] = {
    **_FOURTH_ACTIONS,
    "reconcile": partial(_reconcile, _happens_as_quoted),
    "destroy": partial(_destroy, _happens_as_quoted),
    "replace-key": partial(_replace_key, _as_quoted),
}
