"""What can be done about each format today, as data: whether its library reads two keys, and one sentence.

Without two keys at once there is no change of key without downtime in place. This project re-encrypts its own format
and a few others; no sentence names a command that does not exist.
"""

from dataclasses import KW_ONLY, dataclass, replace

from keyrotation_pipeline.fieldcrypto import format_advice
from keyrotation_pipeline.fieldcrypto.format_spec import BYTEA, COLUMNS, TEXT, FormatSpec
from keyrotation_pipeline.fieldcrypto.formats.recogniser import GCM_IV_BYTES
from keyrotation_pipeline.fieldcrypto.formats.recognition import known_advice
from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline.fieldcrypto.formats.sources import sources
from keyrotation_pipeline.scan.companions import Companions
from keyrotation_pipeline.scan.report import IdentifiedBy, Place

_NOT_YET = "Not rotated by keyrotation yet"


@dataclass(frozen=True, slots=True)
class Advice:
    """What is known of a format.

    Args:
        identified_by: how the key of a value is recognised.
        next: one sentence, the same for every place of a format where the same can be done.
        note: what is to be known of the place besides; empty: nothing.
        reads_two_keys: whether an application can read old and new at once.
    """

    identified_by: IdentifiedBy
    next: str
    note: str = ""
    _: KW_ONLY
    reads_two_keys: bool | None


# Of what has no marker the library is not known.
UNKNOWN = Advice(
    "decrypt",
    f"{_NOT_YET}; find out in the application which library writes this and whether it reads two keys: only then is a "
    "new key possible without downtime.",
    reads_two_keys=None,
)

_TAG_APART = Advice(
    "decrypt",
    "Not rotated in place, since the tag has a column of its own. AES-256 is migrated into our own format without "
    'downtime: `from = { format = "aes-256-gcm", … }` (`keyrotation docs plaintext`).',
    reads_two_keys=None,
)
_SALTED = Advice(
    "decrypt",
    "Not rotated in place, with a salt for each value or in CBC mode, and attr_encrypted reads one key only; "
    "without downtime it is migrated into our own format.",
    reads_two_keys=False,
)
ATTR_ENCRYPTED = "attr_encrypted"

# The sentences hold for what is declared already, too: a scan need not know that.
_DECLARED = "Inside a column: `keyrotation docs prepare-database` says how it is declared."
_ROTATED = "keyrotation rotates it in place, without downtime"


def _elsewhere(said: format_advice.Advice) -> Advice:
    """Returns what can be done where values are not rotated in place."""
    reads_two_keys = False if said.one_key else True if said.steps else None
    if said.elsewhere:
        sentence = said.elsewhere
    elif said.one_key:
        sentence = (
            f"{_NOT_YET}; {said.one_key} reads one key only: a new key takes a maintenance window, or a second column "
            "that the application moves to."
        )
    else:
        sentence = f"{_NOT_YET}; its library reads two keys, so no downtime is needed: {said.steps}."
    return Advice(said.identified_by.value, sentence, reads_two_keys=reads_two_keys)


def _in_place(spec: FormatSpec, said: format_advice.Advice, declaration: str) -> Advice:
    """Returns by which declaration values are rotated in place."""
    if spec.names_versions:
        sentence = f"Once declared in `keyrotation.toml`, {_ROTATED}."
    else:
        condition = f", where {said.where}" if said.where else ""
        sentence = (
            f'Once declared in a `keyrotation.toml` with `[format] name = "{spec.name}"`'
            f"{said.also}, {_ROTATED}{condition} (`keyrotation docs {spec.guide}`)."
        )
    return Advice(said.identified_by.value, sentence, "" if declaration in COLUMNS else _DECLARED, reads_two_keys=True)


_CITEXT = "citext"  # of an extension, in whatever schema
_ARRAY_TYPES = ("text[]", "character varying")
# Keys that vary, and arrays inside documents, are no path.
_NO_KEYS = frozenset({"*", "[]"})


def advice_for(format_name: str, place: Place, *, wrapped: bool, names_keys: bool) -> Advice:
    """Returns what to do about a format in a place.

    Args:
        format_name: of a finding.
        place: where; it is rotated where a place can be declared.
        wrapped: whether the values stand behind a prefix or in another encoding.
        names_keys: whether the values name keys, as some do of formats that need not.
    """
    advice = _advice(format_name, "" if wrapped else _declaration_of(place))
    if names_keys and advice.identified_by == "decrypt":
        advice = replace(advice, identified_by="marker")
    return advice if wrapped else _with_sources(advice, format_name, place)


def advice_for_unmarked(format_name: str, place: Place, companions: Companions, *, has_one_layout: bool) -> Advice:
    """Returns what to do about values that nothing marks: a layout is recommended where it can be declared.

    Args:
        format_name: what they are taken for.
        has_one_layout: whether their bytes may be nonce, ciphertext and tag.
    """
    if companions.tag:
        return _TAG_APART
    if format_name == ATTR_ENCRYPTED and (companions.salt or companions.iv_bytes != GCM_IV_BYTES):
        return _with_sources(_SALTED, format_name, place)
    if companions.iv is None and not has_one_layout and known_advice(format_name) is None:
        return _with_sources(UNKNOWN, format_name, place)
    # A nonce of its own column is declared for columns alone.
    if companions.iv is not None:
        found = _advice(format_name, _declaration_of(place) if is_column(place) else "")
        return _with_sources(found, format_name, place)
    return advice_for(format_name, place, wrapped=False, names_keys=False)


def _with_sources(advice: Advice, format_name: str, place: Place) -> Advice:
    """Adds which libraries may have written such values whose columns are brought into our own format."""
    declared = _declaration_of(place)
    found = [
        each
        for each in sources().values()
        if each.seen_as == format_name and declared == (BYTEA if each.binary else TEXT)
    ]
    sentences = [
        f'If {each.library} wrote it, a rotation migrates it into our own format: `from = {{ format = "{each.name}", '
        "… }` (`keyrotation docs plaintext`)."
        for each in found
    ]
    if found and found[0].name == format_name:
        return replace(advice, next=sentences[0])
    return replace(advice, note=" ".join(filter(None, [advice.note, *sentences])))


def _advice(format_name: str, declaration: str) -> Advice:
    spec, said = SPECS.get(format_name), known_advice(format_name)
    if spec is not None and said is not None and declaration in spec.places:
        return _in_place(spec, said, declaration)
    for spec in SPECS.values():
        for guess in spec.guesses:
            if guess.name == format_name and declaration in guess.places:
                return Advice(spec.identified_by.value, guess.next, reads_two_keys=guess.reads_two_keys)
    return UNKNOWN if said is None else _elsewhere(said)


def is_column(place: Place) -> bool:
    """Returns whether a declaration names the column alone."""
    return _declaration_of(place) in COLUMNS


def _declaration_of(place: Place) -> str:
    """Returns how a place is declared; empty if it cannot be."""
    base = place.base_type
    if place.path is not None:
        return "path" if base == "jsonb" and not place.elements and _NO_KEYS.isdisjoint(place.path) else ""
    if place.elements or base.endswith("[]"):
        is_text = place.elements and base.startswith(_ARRAY_TYPES) and base.endswith("[]")
        return "elements" if is_text else ""
    if base.startswith("bytea"):
        return "bytea"
    return "text" if base.startswith(("text", "character varying")) or base.rpartition(".")[2] == _CITEXT else ""
