"""The manifest of a backup set as a document: what each of its fields may be, since it is read as untrusted text."""

from dataclasses import replace
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer
from pydantic_core import PydanticCustomError

from keyrotation_pipeline.errors import ConfigurationError, InvalidLayoutError
from keyrotation_pipeline.fieldcrypto.binding import parsed_template
from keyrotation_pipeline.fieldcrypto.codecs.format import layout_of
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.fieldcrypto.formats.registry import DERIVATIONS, FORMATS
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED, parsed
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import server_at
from keyrotation_pipeline.fieldcrypto.grammar import MAX_VERSION_NUMBER, VERSION_PATTERN
from keyrotation_pipeline.fieldcrypto.material import LONGEST_NAME
from keyrotation_pipeline.model.backups import RelationKind
from keyrotation_pipeline.model.tables import MEMBER_NAME
from keyrotation_pipeline.model.undumped import RoleAttribute

# Of an error: a package that is not installed may bring what is named.
UNKNOWN = "unknown"
PUBLIC_KEY = r"[A-Za-z0-9+/]{1,200}={0,2}"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern=r"^[0-9A-F]{40}([0-9A-F]{24})?$")]
Version = Annotated[str, Field(pattern=rf"^{VERSION_PATTERN}$")]
# PostgreSQL's names have 63 bytes at most, and a build of it may allow more.
Identifier = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]+$")]
# A place is named by its column and the keys that lead to it; a manifest is not read beyond its own limit.
PathKey = Annotated[str, Field(max_length=4096, pattern=r"^[^\x00]*$")]
PlaceName = Annotated[str, Field(min_length=1, max_length=65536, pattern=r"^[^\x00]+$")]
Number = Annotated[int, Field(ge=0, lt=1 << 63)]
Phrase = Annotated[str, Field(max_length=200)]
Timestamp = Annotated[str, Field(pattern=r"^(-infinity|[0-9]{4,6}-[0-9TZ:.+-]{1,40}( BC)?)$")]


class Document(BaseModel):
    """Exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    left_out_if_empty: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_what_is_not_there(self, serialised: SerializerFunctionWrapHandler) -> dict[str, object]:
        content: dict[str, object] = serialised(self)
        return {name: value for name, value in content.items() if value or name not in self.left_out_if_empty}


class File(Document):
    """An encrypted file of a set, and who can decrypt it."""

    file: Annotated[str, Field(max_length=100)]
    sha256: Sha256
    size_bytes: Number
    recipients: Annotated[tuple[Fingerprint, ...], Field(min_length=1)]


class Key(File):
    """The file of one key."""

    left_out_if_empty: ClassVar = frozenset({"sealed_by"})
    version: Version
    fingerprint: Sha256
    sealed_by: Annotated[str, Field(max_length=600, pattern=r"^[ -~]*$")] = ""


def _known_format(text: str) -> str:
    name, _, layout = text.partition(" ")
    try:
        known = name in FORMATS and (not layout or layout_of(replace(FORMATS[name], layout=layout)).text == layout)
    except InvalidLayoutError:
        known = False
    if not known:
        raise PydanticCustomError(UNKNOWN, "a format that this version does not know")
    return text


def _known_derivation(text: str) -> str:
    if text not in DERIVATIONS:
        raise PydanticCustomError(UNKNOWN, "a derivation of keys that this version does not know")
    return text


def _known_template(text: str) -> str:
    try:
        parsed_template(text)
    except InvalidLayoutError:
        raise ValueError("a template of associated data that is not one") from None
    return text


KnownFormat = Annotated[str, AfterValidator(_known_format)]


def _known_source(text: str) -> str:
    if text and text != NEVER_ENCRYPTED:
        try:
            parsed(text)
        except ConfigurationError:
            raise ValueError("a format that no value is taken from") from None
    return text


class Place(Document):
    """Where values are in a column."""

    left_out_if_empty: ClassVar = frozenset({"when", "iv", "source", "source_key"})
    column: Identifier
    path: tuple[PathKey, ...]
    elements: bool
    when: Identifier | Literal[""] = ""
    iv: Identifier | Literal[""] = ""
    source: Annotated[str, AfterValidator(_known_source)] = ""
    source_key: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=LONGEST_NAME)] | Literal[""] = ""


class DerivedFormat(Document):
    """A format of which reading a value takes more than its name and the keys."""

    left_out_if_empty: ClassVar = frozenset({"aad"})
    name: KnownFormat
    derivation: Annotated[str, AfterValidator(_known_derivation)]
    salt: str
    deterministic: bool
    aad: Annotated[str, AfterValidator(_known_template)] | Literal[""] = ""


class BoundFormat(Document):
    """A format whose values are authenticated with associated data by this template."""

    name: KnownFormat
    aad: Annotated[str, AfterValidator(_known_template)]


class Row(Document):
    """What values of the table are bound to their row by, and the number of the first version of which they are."""

    key: Identifier
    since: Annotated[int, Field(alias="from", ge=1, le=MAX_VERSION_NUMBER)]


def _known_address(text: str) -> str:
    try:
        server_at(text)
    except ConfigurationError:
        raise ValueError("an address of a key that is not one") from None
    return text


class HeldFormat(Document):
    """A format whose keys a server holds."""

    name: KnownFormat
    transit: Annotated[str, Field(max_length=500), AfterValidator(_known_address)]


FormatDocument = KnownFormat | DerivedFormat | BoundFormat | HeldFormat


class Table(Document):
    """A declared table: how its values are read, and how many there were under each version."""

    left_out_if_empty: ClassVar = frozenset({"bindings", "row", "old_forms"})
    in_schema: Identifier = Field(alias="schema")
    table: Identifier
    columns: tuple[PlaceName, ...]
    places: tuple[Place, ...] = ()
    format: FormatDocument = NATIVE.name
    bindings: dict[PlaceName, str] = Field(default_factory=dict)
    row: Row | None = None
    rows: Number
    values: dict[PlaceName, dict[Version, Number]]
    old_forms: dict[PlaceName, Number] = Field(default_factory=dict)


class Relation(Document):
    """A relation of the dump, and how many rows it had."""

    in_schema: Identifier = Field(alias="schema")
    relation: Identifier
    kind: Annotated[RelationKind, Field(strict=False)]
    rows: Number | None


class Content(Document):
    """Everything in the dump, counted."""

    relations: tuple[Relation, ...]
    large_objects: Number


class Definition(Document):
    """How the dumped database was created."""

    encoding: Identifier
    provider: Literal["libc", "icu", "builtin"]
    collate: Identifier
    ctype: Identifier
    locale: Identifier | None
    icu_rules: Annotated[str, Field(max_length=100_000)] | None
    collation_version: Identifier | None
    collations: dict[Annotated[str, Field(max_length=600)], Identifier]
    roles: tuple[Identifier, ...]
    superusers: tuple[Identifier, ...]


class Role(Document):
    """A role of the dumped server."""

    name: Identifier
    attributes: tuple[Annotated[RoleAttribute, Field(strict=False)], ...] = ()
    connection_limit: Annotated[int, Field(ge=-1, lt=1 << 31)] = -1
    valid_until: Timestamp | None = None


class Membership(Document):
    """That a role is a member of another one."""

    role: Identifier
    member: Identifier
    admin: bool = False
    inherits: bool = True
    sets: bool = True


class Roles(Document):
    """Roles, and who is a member of which."""

    roles: tuple[Role, ...]
    memberships: tuple[Membership, ...] = ()


class Undumped(Document):
    """What a database has at its server beside what its dump holds."""

    roles: Roles
    lost: tuple[Phrase, ...] = ()
    of_server: tuple[Phrase, ...] = ()
    extension_owners: dict[Identifier, Identifier] = Field(default_factory=dict)


class Dump(File):
    """The file of the dump."""

    left_out_if_empty: ClassVar = frozenset({"undumped", "source_keys"})
    server_major: Annotated[int, Field(ge=1, lt=1000)]
    definition: Definition
    versions: tuple[Version, ...]
    tables: tuple[Table, ...]
    content: Content
    undumped: Undumped | None = None
    source_keys: tuple[Version, ...] = ()


class Audit(Document):
    """The audit's head when the set was made."""

    seq: Number
    head: Sha256


class MemberDump(Document):
    """The dump of a fleet's member: of which database it is, and the audit's head when it was begun."""

    member: Annotated[str, Field(pattern=rf"^{MEMBER_NAME}$")]
    place: Annotated[str, Field(min_length=1, max_length=500)]
    dump: Dump
    audit: Audit


class MadeFrom(Document):
    """The older set that this one was made from."""

    manifest: Annotated[str, Field(max_length=100)]
    sha256: Sha256
    seq: Number


class FormatOrigin(Document):
    """Where a value format of another package came from."""

    name: Phrase
    package: Phrase
    version: Phrase
    sha256: Sha256


class FormatOrigins(Document):
    """What a manifest says of other packages, whatever else is in it."""

    model_config = ConfigDict(extra="ignore")
    formats: tuple[FormatOrigin, ...] = ()


class Manifest(Document):
    """The whole manifest."""

    left_out_if_empty: ClassVar = frozenset({"home", "formats", "members"})
    format: Literal[1] = Field(alias="schema")
    signed_by: Annotated[str, Field(pattern=rf"^{PUBLIC_KEY}$")]
    made_at: Annotated[str, Field(max_length=40)]
    database: Annotated[str, Field(min_length=1, max_length=500)]
    keys: tuple[Key, ...]
    dump: Dump | None
    audit: Audit
    roster: Sha256 | None
    configuration: File | None
    made_from: MadeFrom | None
    home: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")] | None = None
    formats: tuple[FormatOrigin, ...] = ()
    members: tuple[MemberDump, ...] = ()
