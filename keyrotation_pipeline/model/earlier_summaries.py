"""The sentences of texts for signing with an earlier header.

Such texts are stored, rendered again and compared byte by byte: what these functions give must never change.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE, UNBOUND
from keyrotation_pipeline.model.signed_lines import (
    ENDED,
    HELD,
    INDEX,
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

FIRST_APPROVAL, SECOND_APPROVAL = "keyrotation-approval-v1", "keyrotation-approval-v2"
FIRST_CONFIRMATION = "keyrotation-confirmation-v1"
FIRST_ASSESSMENT, SECOND_ASSESSMENT = "keyrotation-assessment-v1", "keyrotation-assessment-v2"
EARLIER = frozenset({FIRST_APPROVAL, SECOND_APPROVAL, FIRST_CONFIRMATION, FIRST_ASSESSMENT, SECOND_ASSESSMENT})


def earlier_summary(header: str, fields: Fields) -> Sequence[str]:
    """What a text with one of the `EARLIER` headers says before its lines."""
    if header == FIRST_CONFIRMATION:
        return tuple(_confirmation(fields))
    if header in {FIRST_ASSESSMENT, SECOND_ASSESSMENT}:
        return tuple(_assessment(fields))
    actions = _FIRST_ACTIONS if header == FIRST_APPROVAL else _ACTIONS
    action = actions.get(fields.get("Action", ""), _unknown)
    return (*action(fields), *_held(fields), *_for_every_action(fields))


def _database(fields: Fields) -> str:
    return f"the database {quoted(fields.get('Database', ''))}"


def _rotate(fields: Fields) -> Iterator[str]:
    source, target = fields.get("From", ""), fields.get("To", "")
    old = version_of(source)
    older = "" if old in {"v1", "v1x"} else " and every older version"
    if "Incident" in fields:
        yield f"THIS IS AN EMERGENCY, because of the incident {quoted(fields['Incident'])}."
    yield f"You are asked to approve a new encryption key for {_database(fields)}."
    if is_held_by_server(fields):
        if target != f"v{int(old[1:]) + 1}":  # somebody else made versions between them
            older = f" and every other version before {target}"
        yield (
            f"What happens: the server that holds the keys makes {target}, under which applications write at once; "
            f"every value in the columns below is encrypted again, from {key_of(source)}{older} to {target}; then "
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
        f"encrypted again, from {key_of(source)}{older} to {target}; then {old}{older} is taken from the applications, "
        "refused by the database, and archived."
    )
    yield from _limits(fields)
    yield from _ends(fields)
    yield (
        f"What cannot be undone: once applications may write under {target}, this cannot be cancelled any more; only "
        f"another request, which officers sign, can lead back. No key is destroyed: {old} stays in the archive."
    )


def _rollback(fields: Fields) -> Iterator[str]:
    source, target = fields.get("From", ""), fields.get("To", "")
    if "Incident" in fields:
        yield f"THIS IS AN EMERGENCY, because of the incident {quoted(fields['Incident'])}."
    yield f"You are asked to approve that {_database(fields)} goes back to an earlier encryption key."
    yield (
        f"What happens: {key_of(target)} becomes the key that applications write under again, from the archive if it "
        f"is there; every value in the columns below is encrypted again, from {key_of(source)} back to "
        f"{version_of(target)}; "
        f"then {version_of(source)} is taken from the applications, refused by the database, and archived."
    )
    yield from _limits(fields)
    yield from _ends(fields)
    yield (
        "What cannot be undone: once it has begun, this cannot be cancelled any more. No key is destroyed: "
        f"{version_of(source)} stays in the archive."
    )


def _limits(fields: Fields) -> Iterator[str]:
    """What the procedure knows of applications, and where it does not look."""
    if is_held_by_server(fields):
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
    rows = [found for each in declared if (found := ROW.fullmatch(each))]
    indexes = [each for each in declared if INDEX.fullmatch(each)]
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
    said = authorised(fields)
    if found := ENDED.match(said):
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
    yield f"What happens, in the words of the program: {quoted(authorised(fields))}."
    yield (
        "What cannot be undone: rotations that this ends stay ended, and records that it accepts as missing are "
        "never asked for again."
    )


def _destroy(fields: Fields) -> Iterator[str]:
    source = fields.get("From", "")
    yield f"You are asked to approve that the key {key_of(source)} of {_database(fields)} is DESTROYED."
    yield f"What happens, in the words of the program: {quoted(authorised(fields))}."
    yield (
        f"What cannot be undone: all of it. Whatever is still encrypted under {version_of(source)}, as in old backups, "
        "can never be read again, unless a copy of this key is left somewhere."
    )


def _replace_key(fields: Fields) -> Iterator[str]:
    before, after = fields.get("From", ""), fields.get("To", "")
    yield f"You are asked to approve that {version_of(before)} of {_database(fields)} becomes another key."
    yield f"What happens: {key_of(before)} is replaced by {key_of(after)}."
    yield f"In the words of the program: {quoted(authorised(fields))}."
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
        (officers_before, recipients_before), (officers, recipients) = map(people_in, (before, after))
        gone, new = gone_and_new(officers_before, officers)
        needed = [line.partition(" of ")[0] for line in (before, after)]
        yield f"Can approve nothing any more: {gone}. Can approve from then on: {new}."
        yield f"Signatures needed for each request: {needed[0]} before, {needed[1]} from then on."
        gone, new = gone_and_new(recipients_before, recipients)
        yield f"Cannot open later backups any more: {gone}. Can open every later backup: {new}."
    yield "What cannot be undone: to take this back, the officers who decide from then on must sign another change."


def _unknown(fields: Fields) -> Iterator[str]:
    yield f"You are asked to approve this about {_database(fields)}: {quoted(authorised(fields))}."


def _held(fields: Fields) -> Iterator[str]:
    if found := HELD.match(fields.get("Authorises", "")):
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
        earliest = f"not before {time_of(fields['Not before'])}, " if "Not before" in fields else ""
        yield (
            f"Until when: it begins {earliest}by {time_of(fields['Start by'])} at the latest; after "
            f"{time_of(fields.get('Finish by', ''))} your signature counts for nothing more."
        )
    if "Carried out" in fields:
        yield "People carry it out step by step; the program starts nothing of it by itself."
    if "Requested by" in fields:
        yield f"Requested in the name of {quoted(fields['Requested by'])}, which nobody has verified."
    if "Reason" in fields:
        yield f"The reason as it was given: {quoted(fields['Reason'])}."
    yield "If you did not expect this, or if anything in it is not right, do not sign, and ask."


def _confirmation(fields: Fields) -> Iterator[str]:
    yield f"You are asked to confirm that a rollout to the applications of {_database(fields)} is done."
    yield f"What you state: {quoted(fields.get('Confirms', ''))}. The keys: {fields.get('Keys', '')}."
    if fields.get("Gone", "none") != "none":
        yield f"You also state that these instances have ended for good: {fields['Gone']}."
    yield (
        "What follows: the rotation goes on because of your word. An application instance for which it is not true may "
        "then be unable to read or write."
    )
    yield "If you have not checked it yourself, do not sign, and ask."


def _assessment(fields: Fields) -> Iterator[str]:
    yield (
        f"You are asked to sign the answers below about the incident {quoted(fields.get('Incident', ''))} "
        f"({quoted(fields.get('What', ''))}) of {_database(fields)}."
    )
    yield f"What follows from them: {quoted(fields.get('Decision', ''))}."
    yield f"Who is to be notified: {quoted(fields.get('Notices', ''))}."
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
