"""Defines the SQLAlchemy column type."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NoReturn, TypeGuard

from sqlalchemy import Column, Table, event, type_coerce
from sqlalchemy.engine import Dialect
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import ColumnElement, Null
from sqlalchemy.types import LargeBinary, String, Text, TypeDecorator, TypeEngine
from sqlalchemy.util import immutabledict

from keyrotation_pipeline.encrypted_type.failures import unwrapped
from keyrotation_pipeline.encrypted_type.rows import Waiting, divided, with_key
from keyrotation_pipeline.errors import (
    AlreadyEncryptedError,
    EncryptedComparisonError,
    InvalidBindingError,
    InvalidKeyError,
    KeyRingUnavailableError,
    KeyRotationError,
    LegacyValueError,
    MalformedCiphertextError,
    PlaintextTypeError,
    UnencryptedValueError,
)
from keyrotation_pipeline.fieldcrypto.binding import Row, checked_label, default_label, is_bound_to_row
from keyrotation_pipeline.fieldcrypto.cipher import decrypt, encrypt, utf8_of
from keyrotation_pipeline.fieldcrypto.codecs.source import ClosedError
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED
from keyrotation_pipeline.fieldcrypto.grammar import (
    MAX_VERSION_NUMBER,
    SECOND,
    KeyVersion,
    any_value_in,
    looks_damaged,
)
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.reads import FailedReads, OldReads
from keyrotation_pipeline.fieldcrypto.source_keys import LegacyKey

_old_reads: dict[KeyRing | Callable[[], KeyRing], OldReads] = {}
_failed_reads: dict[KeyRing | Callable[[], KeyRing], FailedReads] = {}
_encrypted_from: dict[KeyRing | Callable[[], KeyRing], dict[str, tuple[int, str]]] = {}


def old_reads_of(key_ring: KeyRing | Callable[[], KeyRing]) -> OldReads:
    """Returns the counts of what this process decrypted under non-primary versions, for one key ring or provider."""
    return _old_reads.setdefault(key_ring, OldReads())


def failed_reads_of(key_ring: KeyRing | Callable[[], KeyRing]) -> FailedReads:
    """Returns the counts of what this process could not decrypt, for one key ring or provider."""
    return _failed_reads.setdefault(key_ring, FailedReads())


def encrypted_from_of(key_ring: KeyRing | Callable[[], KeyRing]) -> Mapping[str, int]:
    """Returns the columns that one key ring or provider begins to encrypt, by label, and the `encrypted_from` of each.

    Known once the column's table is defined.
    """
    return {label: number for label, (number, _) in _encrypted_from.get(key_ring, {}).items()}


def old_forms_of(key_ring: KeyRing | Callable[[], KeyRing]) -> Mapping[str, str]:
    """Returns what these columns hold until then: ``plaintext``, or a format with the fingerprint of its key."""
    return {label: form for label, (_, form) in _encrypted_from.get(key_ring, {}).items()}


def current_ring(key_ring: KeyRing | Callable[[], KeyRing]) -> KeyRing:
    """Returns a key ring, or the current one of its provider.

    Raises:
        KeyRingUnavailableError: the provider raised an error that is not one of ours.
    """
    if isinstance(key_ring, KeyRing):
        return key_ring
    try:
        return key_ring()
    except KeyRotationError:
        raise
    except Exception as error:  # noqa: BLE001 - SQLAlchemy would print the plaintext parameters with any other
        failure = type(error).__name__
    raise KeyRingUnavailableError(f"the key ring provider failed with {failure}; call it alone to see why")


def checked_provider(key_ring: object, what: str) -> None:
    """Refuses what is neither a key ring nor a provider of one that SQLAlchemy can cache.

    Raises:
        InvalidKeyError: says what to pass.
    """
    if not isinstance(key_ring, KeyRing) and not callable(key_ring):
        raise InvalidKeyError(f"{what} takes a KeyRing or what gives one; pass an EnvironmentKeyRing, say")
    if getattr(key_ring, "__hash__", None) is None:
        raise InvalidKeyError(f"{what} needs a hashable key_ring, for SQLAlchemy's cache; pass a function")


_MAY_ASK_FOR_NULL = frozenset({operators.is_, operators.is_not, operators.eq, operators.ne})


def _is_null(operand: object) -> bool:
    return operand is None or isinstance(operand, Null)


class _NullOnly(TypeDecorator.Comparator[Any]):
    """Allows a query to ask whether an encrypted column is NULL, and nothing else."""

    __slots__ = ()

    def operate(self, op: operators.OperatorType, *other: object, **kwargs: object) -> ColumnElement[Any]:
        asks_for_null = op in _MAY_ASK_FOR_NULL and _is_null(other[0])
        if not asks_for_null and not (op is operators.eq and self._may_be_looked_for(other[0])):
            self._refuse(op)
        return super().operate(op, *other, **kwargs)

    def reverse_operate(self, op: operators.OperatorType, other: object, **kwargs: object) -> NoReturn:  # noqa: ARG002
        self._refuse(op)

    def _may_be_looked_for(self, other: object) -> bool:
        # SQLAlchemy stores columns in dictionaries, where a column is compared with annotated forms of itself; and in
        # lists of one table's. A statement that compares two columns of a table is refused when it is sent.
        if isinstance(other, Column) and isinstance(self.expr, Column) and other.table is self.expr.table:
            return True
        return isinstance(other, ColumnElement) and hash(other) == hash(self.expr)

    def _refuse(self, op: operators.OperatorType) -> NoReturn:
        operation = getattr(op, "__name__", "an operator").removesuffix("_op")
        raise EncryptedComparisonError(
            f"{self.expr} is encrypted and cannot be used with {operation!r}: only is_(None) and is_not(None) work; "
            "find rows by another column, or compare after reading"
        )


class EncryptedType(TypeDecorator[str]):
    """Text that is stored as ``v<N>:<nonce>:<ciphertext ‖ tag>`` (AES-256-GCM), or in the second generation.

    Both generations are read at all times; the ring's primary says which one is written. A value of the second opens
    only in its own column: it is bound to the column's label, ``table.column`` (``schema.table.column`` outside the
    schema `public`) as the `Table` names them. With `row` and `row_from` it opens only in its own row, too. It is read
    wherever the column itself is selected, since the key of its row is selected with it, and written wherever a
    statement gives the key of each row: by the ORM, by an INSERT with the key among its values, by an UPDATE with
    ``where(table.key == value)``. Anything else is refused.

    None is NULL; the empty text is encrypted like any other, and a stored empty text reads as such. Sorting, grouping
    and DISTINCT on such a column see only ciphertext; ``cast(column, Text)`` selects the stored value.

    Args:
        key_ring: a ring, or a function that returns the current one (called for every value, so a reload takes effect).
        legacy: ``"passthrough"`` returns values that were never encrypted unchanged, during a first migration. A
            damaged value of ours still raises, as long as it has the version and the nonce of one. Or, with
            `encrypted_from`, a list of one `LegacyKey`: of the library that encrypted the column so far.
        length: width of a ``varchar`` (see `ciphertext_length`); absent: ``text``.
        binding: the label, where it is not the column's name: after a renaming, or where the type is no column's own,
            as inside another `TypeDecorator`. A variant for one database (`with_variant`) is its column's.
        row: the column of the primary key that a value's row is known by, as the database names it: a whole number, a
            UUID or a text that is known before the INSERT and never changes.
        row_from: the number of the first version of the second generation whose values are bound to their row: 3 for
            v3x. The same in keyrotation.toml, in every instance before the key is made.
        encrypted_from: for a column that holds plaintext, or values of another library (`legacy`), so far: the number
            of the first primary under which texts are encrypted. Until then they are stored as before, and both are
            read: in every instance before that key is made, so that none meets what it cannot read. Only what has the
            whole form of a value is taken for one.
        bytea: whether the column is bytea, which holds a value as ASCII, and values of a former library as these are.

    Raises (in statements and results):
        PlaintextTypeError: neither a string nor None.
        AlreadyEncryptedError: the text to store is itself an encrypted value, or has the form of one.
        UnencryptedValueError, MalformedCiphertextError: the stored text is not a value of ours.
        LegacyValueError: nor one that the `LegacyKey` opens; or a text that the former library would not give back.
        UnknownKeyVersionError, DecryptionError: it is under a key that the ring does not hold, or damaged.
        KeyRingUnavailableError: `key_ring` raised an error of its own.
        InvalidBindingError: a value of the second generation, and no label; or one that is bound to its row, and a
            statement that does not give the key of the row.
    """

    impl: TypeEngine[Any] | type[TypeEngine[Any]] = Text
    # The cache key of a statement holds these arguments, so no statement meets another column's.
    cache_ok = True
    comparator_factory = _NullOnly

    def __init__(
        self,
        key_ring: KeyRing | Callable[[], KeyRing],
        legacy: Literal["passthrough"] | Sequence[LegacyKey] | None = None,
        length: int | None = None,
        binding: str | None = None,
        row: str | None = None,
        row_from: int | None = None,
        encrypted_from: int | None = None,
        bytea: bool = False,  # noqa: FBT001, FBT002  as the others, and SQLAlchemy prints it by its name
    ) -> None:
        checked_provider(key_ring, "EncryptedType")
        self._former = None if legacy is None or legacy == "passthrough" else _former(legacy, encrypted_from)
        _check_bytes(self._former, bytea=bytea, others=(legacy == "passthrough", length, row, encrypted_from))
        # It identifies the type in SQLAlchemy's cache, where a list could not.
        self.legacy = "passthrough" if legacy == "passthrough" else self._former
        super().__init__()
        if length is not None:
            self.impl = String(length)
        elif bytea:
            self.impl = LargeBinary()
        self.bytea = bytea
        self.key_ring = key_ring
        self.length = length
        self.binding = None if binding is None else checked_label(binding)
        self._declares_binding = binding is not None
        if (row is None) != (row_from is None) or (row_from is not None and not 1 <= row_from <= MAX_VERSION_NUMBER):
            raise InvalidBindingError(
                "EncryptedType takes both row and row_from, or neither: the row's key and the first version "
                'bound to it, such as row="id", row_from=3'
            )
        self.row = row
        self.row_from = row_from
        if encrypted_from is not None and not 1 <= encrypted_from <= MAX_VERSION_NUMBER:
            raise InvalidKeyError(
                "EncryptedType(encrypted_from=…) is the number of the first key that the column is encrypted under, "
                "such as 2 for v2; correct it"
            )
        self.encrypted_from = encrypted_from
        self._reads_keys = False  # of the expression by which a statement selects a column

    def bound_to(self, schema: str | None, table: str, column: str) -> "EncryptedType":
        """Returns the type for one column: the same where a label was declared."""
        bound = self
        if not self._declares_binding:
            bound = self.copy()
            try:
                bound.binding = default_label(schema, table, column)
            except InvalidBindingError:  # said when a value of the second generation is met
                bound.binding = None
        if self.encrypted_from is not None and bound.binding is not None:
            form = NEVER_ENCRYPTED if self._former is None else self._former.description
            _encrypted_from.setdefault(self.key_ring, {})[bound.binding] = self.encrypted_from, form
        return bound

    def holds_second_generation(self) -> bool:
        """Returns whether the current ring has a key of the second generation."""
        return any(version.generation == SECOND for version in self._current_ring().versions)

    def binds_rows(self) -> bool:
        """Returns whether the current ring has a key whose values are bound to their row."""
        return any(is_bound_to_row(version, self.row_from or 0) for version in self._current_ring().versions)

    def column_expression(self, column: ColumnElement[Any]) -> ColumnElement[Any]:
        """Returns what a statement selects for a column: with the key of its row, where values may be bound to it.

        Only what has that type is divided again, so no stored text can pass for one with a key.
        """
        both = None if self.row is None else with_key(column, self.row)
        return column if both is None else type_coerce(both, self._reading(column.type))

    def _reading(self, type_: TypeEngine[Any]) -> TypeEngine[Any]:
        """Returns a column's type, or a decorator around it, that reads the key of a row with each value."""
        if isinstance(type_, TypeDecorator) and not isinstance(type_, EncryptedType):
            around = type_.copy()
            around.impl = around.impl_instance = self._reading(type_.impl_instance)
            return around
        reading = self.copy()
        reading._reads_keys = True  # noqa: SLF001
        return reading

    def literal_processor(self, dialect: Dialect) -> Callable[[Any], str] | None:
        """Returns what writes a value into a statement's text; one that waits for its row's key fails where it is run.

        SQLAlchemy would print the value with any error that is raised here.
        """
        written = super().literal_processor(dialect)
        if self.row is None or written is None:
            return written

        def literal(value: Any) -> str:  # noqa: ANN401
            if not isinstance(waiting := self.process_bind_param(value, dialect), Waiting):
                return written(value)
            what = f"{waiting} is no literal".replace("'", "''")
            return f"CAST('{what}' AS INTEGER)"

        return literal

    def process_bind_param(self, value: object, dialect: Dialect) -> str | bytes | Waiting | None:  # noqa: ARG002
        """Encrypts one value on its way to the database, or has it wait for the key of its row."""
        if value is None:
            return None
        try:
            ring, text = self._current_ring(), _string(value, "encrypts")
            if ring.primary.number < (self.encrypted_from or 0):
                before = _as_before(text, self._former)
                return before if self.bytea else before.decode()
            if self.row is not None and is_bound_to_row(ring.primary, self.row_from or 0):
                return Waiting(ring, text, self.binding, self.row, self.row_from or 0)
            encrypted = encrypt(ring, text, self.binding)
            return encrypted.encode() if self.bytea else encrypted
        except KeyRotationError as error:
            raise unwrapped(error) from None

    def process_result_value(self, value: object, dialect: Dialect) -> str | None:  # noqa: ARG002
        """Decrypts one value on its way from the database."""
        if value is None:
            return None
        try:
            text = bytes(value).decode("latin-1") if self._is_bytes(value) else _string(value, "stores")
            key, stored = divided(text) if self._reads_keys else (None, text)
            row = None if self.row_from is None else Row(self.row_from, None if key is None else key.encode())
            return self._read(self._current_ring(), stored, row) if stored else stored
        except KeyRotationError as error:
            raise unwrapped(error) from None

    def _read(self, ring: KeyRing, stored: str, row: Row | None) -> str:
        try:
            plaintext = self._decrypted(ring, stored, row)
        except KeyRotationError:
            failed_reads_of(self.key_ring).note(stored)
            raise
        return stored if plaintext is None else plaintext

    def _decrypted(self, ring: KeyRing, stored: str, row: Row | None) -> str | None:
        """Returns the plaintext; None for a value that may pass unchanged."""
        try:
            plaintext = decrypt(ring, stored, self.binding, row)
        except MalformedCiphertextError:
            if self._former is not None:
                return _opened(stored, self._former, "latin-1" if self.bytea else "utf-8")
            if self.encrypted_from is not None:
                return None
            if looks_damaged(stored):
                raise
        else:
            if not stored.startswith(ring.primary.prefix):
                old_reads_of(self.key_ring).note(KeyVersion.parse(stored.partition(":")[0]))
            return plaintext
        if self.legacy is None:
            raise UnencryptedValueError
        return None

    def _is_bytes(self, value: object) -> TypeGuard[bytes | memoryview]:
        return self.bytea and isinstance(value, bytes | memoryview)

    def _current_ring(self) -> KeyRing:
        return current_ring(self.key_ring)


@event.listens_for(Column, "after_parent_attach")
def _bind(column: Column[Any], parent: object) -> None:
    """Gives a column of a table a type of its own, which knows the column's label; its variants too."""
    if not isinstance(parent, Table):
        return

    def bound(type_: TypeEngine[Any]) -> TypeEngine[Any]:
        if isinstance(type_, EncryptedType):
            return type_.bound_to(parent.schema, parent.name, column.name)
        return type_

    column.type = bound(column.type)
    # SQLAlchemy has no public name for the variants; the types of a column are shared until it has bound ones.
    variants = column.type._variant_mapping  # noqa: SLF001
    if any(isinstance(each, EncryptedType) for each in variants.values()):
        column.type = column.type.copy()
        column.type._variant_mapping = immutabledict({name: bound(each) for name, each in variants.items()})  # noqa: SLF001


def _string(value: object, verb: str) -> str:
    if not isinstance(value, str):
        raise PlaintextTypeError(
            f"an encrypted column {verb} str or None, not {type(value).__name__}; convert the value to str first"
        )
    return value


def _former(legacy: object, encrypted_from: int | None) -> LegacyKey:
    """Returns the one former key.

    Raises:
        InvalidKeyError: says what to pass.
    """
    keys = list(legacy) if isinstance(legacy, list | tuple) else []
    if len(keys) != 1 or not isinstance(keys[0], LegacyKey) or encrypted_from is None:
        raise InvalidKeyError(
            "EncryptedType(legacy=…) is None, 'passthrough', or with encrypted_from a list of one LegacyKey; correct it"
        )
    return keys[0]


def _check_bytes(former: LegacyKey | None, *, bytea: bool, others: tuple[object, ...]) -> None:
    """Refuses what a column of bytes cannot hold, or another column.

    Args:
        others: whether plaintext passes, the length, the key of the row, and the number of the first key.

    Raises:
        InvalidKeyError: says what to pass.
    """
    if former is not None and former.form.spec.binary and not bytea:
        raise InvalidKeyError(f"values of {former.form.name} are bytes; give EncryptedType(bytea=True)")
    passes, length, row, begins = others
    if bytea and (passes or length is not None or row is not None or (begins is not None and former is None)):
        raise InvalidKeyError(
            "EncryptedType(bytea=True) takes no length, no row and no plaintext; leave these out, or make it text"
        )


def _as_before(text: str, former: LegacyKey | None) -> bytes:
    """Returns what is stored of a text until it is encrypted: the text itself, or a value of the former library.

    Raises:
        AlreadyEncryptedError: whoever reads it would take it for an encrypted value.
        LegacyValueError: the former library would read another text.
        PlaintextEncodingError: it holds a lone surrogate.
    """
    encoded = utf8_of(text)
    if any_value_in([encoded]):
        raise AlreadyEncryptedError
    if former is None:
        return encoded
    try:
        return former.source.sealed(encoded)
    except ClosedError:
        raise LegacyValueError from None


def _opened(stored: str, former: LegacyKey, encoding: str) -> str:
    try:
        return former.source.opened(stored.encode(encoding)).decode()
    except ClosedError:
        raise LegacyValueError from None
