"""The plain sentences that a text for signing begins with, for an officer who is no programmer.

They are made of the text's own lines and of nothing else, so that they can claim no more than the lines, which are
checked, and cannot differ from them. Whatever somebody else has chosen (a name, a reason) stands in quotes.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence

from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE, UNBOUND

Fields = Mapping[str, str]
# Texts with it are stored and rendered again: what it gives must never change, whatever its successor says.
FIRST_APPROVAL = "keyrotation-approval-v1"
_HELD = re.compile(
    r"hold (?P<versions>v[0-9]+x?(?:, v[0-9]+x?)*) compromised, never to be the primary again; ", re.ASCII
)
_ENDED = re.compile(
    r"(?P<how>take over|end) [a-z_]+ (?P<request>[0-9a-f]+)(?: where it stands| and undo it): ", re.ASCII
)
_PERSON = re.compile(r'(?:"(?:[^"\\]|\\.)*" )?\([^()"]*\)')
# In the line Format; a name with a comma or semicolon is quoted, with its commas escaped.
_INDEX = re.compile(r"search index of .+ in .+ and .+: .+")
_ROW = re.compile(
    r"[^,;]+: values under v[0-9]+x and later open only in their row, by [^,;]+"
    r"(?P<undone>, and new values are bound to no row)?"
)
_NOTHING_CHANGED = "nobody"


def summary(header: str, fields: Fields) -> Sequence[str]:
    """What a text with these lines means, one sentence (or a few) in each line, without line breaks.

    Lines that a text of its kind lacks leave their sentence out: whether they may be missing is checked elsewhere.
    """
    if header.startswith("keyrotation-confirmation"):
        return tuple(_confirmation(fields))
    if header.startswith("keyrotation-assessment"):
        return tuple(_assessment(fields))
    actions = _FIRST_ACTIONS if header == FIRST_APPROVAL else _ACTIONS
    action = actions.get(fields.get("Action", ""), _unknown)
    return (*action(fields), *_held(fields), *_for_every_action(fields))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _database(fields: Fields) -> str:
    return f"the database {_quoted(fields.get('Database', ''))}"


def _key(line: str) -> str:
    """``v1 <fingerprint>`` in words."""
    version, _, fingerprint = line.partition(" ")
    return f"{version} (fingerprint {fingerprint})" if fingerprint else version


def _authorised(fields: Fields) -> str:
    """The line `Authorises` without what is said of compromised versions."""
    return _HELD.sub("", fields.get("Authorises", ""), count=1)


def _version(line: str) -> str:
    return line.partition(" ")[0]


def _rotate(fields: Fields) -> Iterator[str]:
    source, target = fields.get("From", ""), fields.get("To", "")
    old = _version(source)
    older = "" if old in {"v1", "v1x"} else " and every older version"
    if "Incident" in fields:
        yield f"THIS IS AN EMERGENCY, because of the incident {_quoted(fields['Incident'])}."
    yield f"You are asked to approve a new encryption key for {_database(fields)}."
    if _is_held(fields):
        if target != f"v{int(old[1:]) + 1}":  # somebody else made versions between them
            older = f" and every other version before {target}"
        yield (
            f"What happens: the server that holds the keys makes {target}, under which applications write at once; "
            f"every value in the columns below is encrypted again, from {_key(source)}{older} to {target}; then "
            f"{old}{older} is refused to everybody by the server, refused by the database, and archived."
        )
        yield from _limits(fields)
        yield from _ends(fields)
        yield (
            f"What cannot be undone: once the server has made {target}, this cannot be cancelled any more, and nothing "
            f"leads back to {old}. No key is destroyed: the server keeps {old}, and can be told to read it again."
        )
        return
    yield (
        f"What happens: applications get the key {target} and write under it; every value in the columns below is "
        f"encrypted again, from {_key(source)}{older} to {target}; then {old}{older} is taken from the applications, "
        "refused by the database, and archived."
    )
    yield from _limits(fields)
    yield from _ends(fields)
    yield (
        f"What cannot be undone: once applications may write under {target}, this cannot be cancelled any more; only "
        f"another request, which officers sign, can lead back. No key is destroyed: {old} stays in the archive."
    )


def _is_held(fields: Fields) -> bool:
    """Whether a server holds the keys, and no application has one."""
    return fields.get("Rollout", "").startswith("server:")


def _rollback(fields: Fields) -> Iterator[str]:
    source, target = fields.get("From", ""), fields.get("To", "")
    if "Incident" in fields:
        yield f"THIS IS AN EMERGENCY, because of the incident {_quoted(fields['Incident'])}."
    yield f"You are asked to approve that {_database(fields)} goes back to an earlier encryption key."
    yield (
        f"What happens: {_key(target)} becomes the key that applications write under again, from the archive if it is "
        f"there; every value in the columns below is encrypted again, from {_key(source)} back to {_version(target)}; "
        f"then {_version(source)} is taken from the applications, refused by the database, and archived."
    )
    yield from _limits(fields)
    yield from _ends(fields)
    yield (
        "What cannot be undone: once it has begun, this cannot be cancelled any more. No key is destroyed: "
        f"{_version(source)} stays in the archive."
    )


def _limits(fields: Fields) -> Iterator[str]:
    """What the procedure knows of applications, and where it does not look."""
    if _is_held(fields):
        yield (
            "NOBODY LOOKS ELSEWHERE: values under the old version in other databases, or in columns that are not "
            "below, cannot be read any more from then on."
        )
    elif "Rollout" in fields:
        yield (
            "NOBODY CHECKS whether the applications have the key: one that does not get it in time fails."
            if fields["Rollout"].startswith("none:")
            else "Writes move only when the applications are seen to have the key, as the line Rollout says."
        )
    declared = fields.get("Format", "").split("; ")
    rows = [found for each in declared if (found := _ROW.fullmatch(each))]
    indexes = [each for each in declared if _INDEX.fullmatch(each)]
    if fields.get("Format", "").startswith(f"{NATIVE.name}, second generation"):
        yield (
            "New values are of the second generation, each bound to its column: an application must read that "
            "generation, and find each column under the same label, before it can read them."
        )
    elif fields.get("Format", "").startswith(UNBOUND):
        yield (
            "New values are of the first generation again: bound to no column, so that a value copied into another one "
            "opens there."
        )
    elif "Format" in fields and len(rows) + len(indexes) < len(declared):
        yield (f"The values stay in the format that the application reads with its own library: {fields['Format']}.")
    if any(found["undone"] for found in rows):
        yield "New values open in every row of their column again, so that two of them can be exchanged unnoticed."
    elif rows:
        yield (
            "Where the line Format says so, a value opens only in its own row: an application must declare the same, "
            "or it can neither read nor write it."
        )
    if indexes:
        yield "Search indexes, as the line Format describes them, are computed again with the new key and replaced."
    if "Not searched" in fields:
        yield "Copies of values in places that nobody searches are not found; the line Not searched names those."


def _ends(fields: Fields) -> Iterator[str]:
    said = _authorised(fields)
    if found := _ENDED.match(said):
        yield (
            f"It takes over the request {found['request']} where that stands."
            if found["how"] == "take over"
            else f"It ends the rotation {found['request']} and undoes it."
        )
    elif said.startswith("end whatever else runs or is signed"):
        yield "It ends whatever else runs or is signed, or takes it over where it stands if that has the same aim."


def _reconcile(fields: Fields) -> Iterator[str]:
    yield (
        f"You are asked to approve that the records about {_database(fields)} are made to agree again with the "
        "database and the key store, as after a backup was restored."
    )
    yield f"What happens, in the words of the program: {_quoted(_authorised(fields))}."
    yield (
        "What cannot be undone: rotations that this ends stay ended, and records that it accepts as missing are "
        "never asked for again."
    )


def _destroy(fields: Fields) -> Iterator[str]:
    source = fields.get("From", "")
    yield f"You are asked to approve that the key {_key(source)} of {_database(fields)} is DESTROYED."
    yield f"What happens, in the words of the program: {_quoted(_authorised(fields))}."
    yield (
        f"What cannot be undone: all of it. Whatever is still encrypted under {_version(source)}, as in old backups, "
        "can never be read again, unless a copy of this key is left somewhere."
    )


def _replace_key(fields: Fields) -> Iterator[str]:
    before, after = fields.get("From", ""), fields.get("To", "")
    yield f"You are asked to approve that {_version(before)} of {_database(fields)} becomes another key."
    yield f"What happens: {_key(before)} is replaced by {_key(after)}."
    yield f"In the words of the program: {_quoted(_authorised(fields))}."
    yield "What cannot be undone: only another request, which officers sign, can replace the key again."


def _first_policy(fields: Fields) -> Iterator[str]:
    yield (
        f"You are asked to approve a change of who decides about the keys of {_database(fields)}, of who can read its "
        "backups, or of the hosts that the program may connect to."
    )
    same = "What happens: officers and recipients stay as they are; the hosts become those in the line Hosts."
    yield from _people_change(fields, same)


def _policy(fields: Fields) -> Iterator[str]:
    yield (
        f"You are asked to approve a change of who decides about the keys of {_database(fields)}, of who can read its "
        "backups, or of the hosts that the program may connect to, and where it takes their passwords from."
    )
    secrets = "; their passwords come from where the line Secrets says" if "Secrets" in fields else ""
    yield from _people_change(
        fields,
        f"What happens: officers and recipients stay as they are; the hosts become those in the line Hosts{secrets}.",
    )


def _people_change(fields: Fields, same: str) -> Iterator[str]:
    """How officers and recipients change; `same`: what to say where they do not."""
    before, after = fields.get("From", ""), fields.get("To", "")
    if before == after:
        yield same
    else:
        (officers_before, recipients_before), (officers, recipients) = map(_people, (before, after))
        gone, new = _difference(officers_before, officers)
        needed = [line.partition(" of ")[0] for line in (before, after)]
        yield f"Can approve nothing any more: {gone}. Can approve from then on: {new}."
        yield f"Signatures needed for each request: {needed[0]} before, {needed[1]} from then on."
        gone, new = _difference(recipients_before, recipients)
        yield f"Cannot open later backups any more: {gone}. Can open every later backup: {new}."
    yield "What cannot be undone: to take this back, the officers who decide from then on must sign another change."


def _people(roster: str) -> tuple[list[str], list[str]]:
    """Officers and recipients in a roster's line, each with name and keys."""
    # Names are quoted, so that what stands in one is never taken for the end of the officers.
    people = list(_PERSON.finditer(roster))
    ends = (place for place, each in enumerate(people, 1) if roster.startswith("; recipients ", each.end()))
    number, found = next(ends, len(people)), [each[0] for each in people]
    return found[:number], found[number:]


def _difference(before: Sequence[str], after: Sequence[str]) -> tuple[str, str]:
    gone, new = ([each for each in here if each not in there] for here, there in ((before, after), (after, before)))
    return ", ".join(gone) or _NOTHING_CHANGED, ", ".join(new) or "nobody new"


def _unknown(fields: Fields) -> Iterator[str]:
    yield f"You are asked to approve this about {_database(fields)}: {_quoted(_authorised(fields))}."


def _held(fields: Fields) -> Iterator[str]:
    if found := _HELD.match(fields.get("Authorises", "")):
        yield (
            f"As soon as enough officers have signed, {found['versions']} counts as compromised, and can never again "
            "be the key that applications write under. That cannot be undone, even if this request is cancelled."
        )


def _for_every_action(fields: Fields) -> Iterator[str]:
    if "Officers" in fields:
        yield f"How many must sign, and who may: {fields['Officers']}."
    if "Recipients" in fields:
        yield f"Who can open the backups: {fields['Recipients']}."
    if "Start by" in fields:
        earliest = f"not before {_time(fields['Not before'])}, " if "Not before" in fields else ""
        yield (
            f"Until when: it begins {earliest}by {_time(fields['Start by'])} at the latest; after "
            f"{_time(fields.get('Finish by', ''))} your signature counts for nothing more."
        )
    if "Carried out" in fields:
        yield "People carry it out step by step; the program starts nothing of it by itself."
    if "Requested by" in fields:
        yield f"Requested in the name of {_quoted(fields['Requested by'])}, which nobody has verified."
    if "Reason" in fields:
        yield f"The reason as it was given: {_quoted(fields['Reason'])}."
    yield "If you did not expect this, or if anything in it is not right, do not sign, and ask."


def _time(line: str) -> str:
    """``2026-05-01T12:00:00Z`` for people."""
    return line.replace("T", " ").replace("Z", " UTC")


def _confirmation(fields: Fields) -> Iterator[str]:
    yield f"You are asked to confirm that a rollout to the applications of {_database(fields)} is done."
    yield f"What you state: {_quoted(fields.get('Confirms', ''))}. The keys: {fields.get('Keys', '')}."
    if fields.get("Gone", "none") != "none":
        yield f"You also state that these instances have ended for good: {fields['Gone']}."
    yield (
        "What follows: the rotation goes on because of your word. An application instance for which it is not true may "
        "then be unable to read or write."
    )
    yield "If you have not checked it yourself, do not sign, and ask."


def _assessment(fields: Fields) -> Iterator[str]:
    yield (
        f"You are asked to sign the answers below about the incident {_quoted(fields.get('Incident', ''))} "
        f"({_quoted(fields.get('What', ''))}) of {_database(fields)}."
    )
    yield f"What follows from them: {_quoted(fields.get('Decision', ''))}."
    yield f"Who is to be notified: {_quoted(fields.get('Notices', ''))}."
    yield (
        "As soon as enough officers have signed exactly these answers, this decision is in force. If it says that "
        "nobody is to be notified, then nobody is reminded to notify anybody, and the incident can be closed."
    )
    yield "If an answer is not what you know to be true, do not sign, and ask."


_ACTIONS: Mapping[str, Callable[[Fields], Iterator[str]]] = {
    "rotate": _rotate,
    "rollback": _rollback,
    "reconcile": _reconcile,
    "destroy": _destroy,
    "policy": _policy,
    "replace-key": _replace_key,
}
_FIRST_ACTIONS = {**_ACTIONS, "policy": _first_policy}
