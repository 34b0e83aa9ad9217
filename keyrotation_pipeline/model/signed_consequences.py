"""What destroying, replacing and reconciling keys does, in plain sentences made of the line `Authorises`.

A line that is not wholly of the form that this program writes stands in quotes, so that nothing of it is left out.
"""

import re
from collections.abc import Iterator, Sequence

from keyrotation_pipeline.model.signed_lines import Fields, authorised, quoted

_KEY = r"v[0-9]+x?"
_KEYS = rf"{_KEY}(?:, {_KEY})*"
_DESTROYED = re.compile(
    rf"destroy (?P<key>{_KEY}) in the key store and its key files in the local backups; copies elsewhere stay until "
    r"their locks and rules end; nothing under (?P=key) can be read again without such a copy(?:; (?P<left>.+))?",
    re.ASCII,
)
_REPLACED = re.compile(
    rf"put another key in the place of the imported {_KEY}, which opened none of (?P<tried>[0-9]+) values that were "
    r"tried; the other one opened (?P<opened>[0-9]+) of them; no row changes, and backups of the replaced key stay",
    re.ASCII,
)
# Parts between semicolons; one in the quotes of a name ends none.
_PART = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^";]|;(?! ))+')
_TREE = (
    r"begin another tree at witnesses, since (\S+) has signed (\d+) events of (\S+) that are not those of this audit"
)
_PARTS: Sequence[tuple[re.Pattern[str], str]] = tuple(
    (re.compile(pattern, re.ASCII), sentence)
    for pattern, sentence in (
        (
            rf"reconcile database and key store: primary ({_KEY}), live ({_KEYS})",
            "Applications have the keys {1} from then on, and write with {0}.",
        ),
        (rf"states ({_KEY} [a-z-]+(?:, {_KEY} [a-z-]+)*)", "The records then say of each key: {0}."),
        (r"end ([0-9a-f]+(?:, [0-9a-f]+)*)", "These requests end where they stand: {0}."),
        (rf"refuse ({_KEYS}) in (.+)", "The table {1} accepts no data under {0} any more."),
        (
            rf"refuse search indexes under ({_KEYS}) in (.+)",
            "The table {1} accepts no search indexes under {0} any more.",
        ),
        (
            r"continue on (.+), timeline ([0-9]+)",
            "The program goes on with the database server {0}, which has taken over from another (timeline {1}).",
        ),
        (
            r"continue in ([a-z][a-z0-9_]*) on (.+), timeline ([0-9]+)",
            "In {0} the program goes on with the server {1}, which has taken over from another (timeline {2}).",
        ),
        (
            r"set aside events ([0-9]+) to ([0-9]+) [0-9a-f]{64} of the copy of the audit in ([a-z][a-z0-9_]*)",
            "The copy of the records in {2} has events {0} to {1} more. These go into a file, and it is made anew.",
        ),
        (
            r"take the key store over from the home (.+) of (.+)",
            "The key store is taken over from another installation of this program, {0}, that of {1}.",
        ),
        (r"pin again (.+)", "Who decides from then on, as the records had it before: {0}."),
        (r"recipients (.+)", "Who can open the backups from then on: {0}."),
        (
            r"accept that event ([0-9]+ [0-9a-f]+(?: \(nor [0-9]+ older\))?) is not in the audit",
            "It is accepted that the records lack event {0}, which a note kept elsewhere says was there.",
        ),
        (
            r"hold event ([0-9]+ [0-9a-f]+(?: and \d+ before it)?) for nothing, since the pipeline did not sign that",
            "Event {0} in the records counts for nothing, since the program did not sign it.",
        ),
        (
            r"let this home, whose key is (\S+), go on with the audit",
            "This installation, whose own key has the fingerprint {0}, may write the records from then on.",
        ),
        (
            _TREE,
            "The witnesses begin a new list, since {0} has signed {1} events of {2} that these records do not have.",
        ),
    )
)


def destroyed(fields: Fields) -> Iterator[str]:
    """What happens when a key is destroyed."""
    found = _DESTROYED.fullmatch(authorised(fields))
    if found is None:
        yield _in_its_words(fields)
        return
    yield (
        f"What happens: {found['key']} is deleted from the key store, and its files from the backups that are kept "
        "here. Copies of it that are kept elsewhere stay until they may be deleted there."
    )
    if found["left"]:
        yield f"What may still hold it afterwards: {quoted(found['left'])}."


def replaced(fields: Fields) -> Iterator[str]:
    """Why a key is replaced by another one, and what stays."""
    found = _REPLACED.fullmatch(authorised(fields))
    if found is None:
        yield _in_its_words(fields)
        return
    yield (
        f"How it is known to be the wrong one: it could read none of {found['tried']} values that were tried, and the "
        f"other key could read {found['opened']} of them."
    )
    yield "All data stay as they are, and so do the backups of the key that is replaced."


def reconciled(fields: Fields) -> Iterator[str]:
    """What changes when the records are made to agree with database and key store."""
    said = authorised(fields)
    parts = _PART.findall(said)
    sentences = [_sentence(part.removeprefix(" ")) for part in parts]
    if not parts or ";".join(parts) != said or not all(sentences):
        yield _in_its_words(fields)
        return
    yield f"What happens: {' '.join(filter(None, sentences))}"


def _sentence(part: str) -> str | None:
    for pattern, sentence in _PARTS:
        if found := pattern.fullmatch(part):
            return sentence.format(*found.groups())
    return None


def _in_its_words(fields: Fields) -> str:
    return f"What happens, in the words of the program: {quoted(authorised(fields))}."
