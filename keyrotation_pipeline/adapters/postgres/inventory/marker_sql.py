"""Expresses what SQL can say of values that name their key by another library's marker: shape, key, and refusal.

The markers are in `keyrotation.key_markers`. A value that names no key counts as old under every version, and so does
every value while the marker of a version is not there. There is no percent sign here but in what a CHECK refuses,
since these expressions stand in statements with parameters.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

from psycopg import sql

from keyrotation_pipeline.adapters.own_schema import own
from keyrotation_pipeline.adapters.postgres.inventory.grammar_sql import (
    EMPTY,
    PIECE_CHARS,
    UNENCRYPTED,
    UNNAMED,
)
from keyrotation_pipeline.errors import PreflightError, ProofError
from keyrotation_pipeline.fieldcrypto.formats.marking import Marking
from keyrotation_pipeline.fieldcrypto.grammar import VERSION_PATTERN, KeyVersion


class RefusalsByMarker(ABC):
    """`Refusals` of values that name their key by a marker."""

    def __init__(self, markers: Mapping[KeyVersion, str]) -> None:
        self._markers = markers

    def refusal(self, text: str, versions: Iterable[KeyVersion], *, other_generation: bool = False) -> str:  # noqa: ARG002
        """See `Refusals.refusal`; a value that names no key is refused, too, since it may be under a retired one."""
        cases = [self._case(text, self._names(text, each), f"key version {each} is retired") for each in versions]
        cases += [self._case(text, condition, "a value must name its key") for condition in self.names_none(text)]
        return f"\nCASE\n{''.join(cases)}    ELSE true\nEND"

    def refusal_in_array(self, array: str, versions: Iterable[KeyVersion]) -> NoReturn:  # noqa: ARG002
        """See `Refusals.refusal_in_array`: the settings let no such place through."""
        raise PreflightError(f"values of this format in elements of the array {array} cannot be fenced; leave it out")

    def versions_refused(self, constraint: str) -> tuple[KeyVersion, ...]:
        """See `Refusals.versions_refused`."""
        named = re.findall(rf"'keyrotation: key version ({VERSION_PATTERN}) is retired'", constraint)
        return tuple(sorted({KeyVersion.parse(each) for each in named}))

    def knows(self, versions: Iterable[KeyVersion]) -> bool:
        """See `Refusals.knows`."""
        return all(version in self._markers for version in versions)

    def names_none(self, text: str) -> list[str]:  # noqa: ARG002
        """Returns whether a value names no key, where some do not."""
        return []

    @abstractmethod
    def names(self, text: str, marker: str) -> str:
        """Returns whether a value names a key."""

    def empty(self, text: str) -> str:
        """Returns a text without characters that depends on the row."""
        return f'"left"({text}, 0)'

    def _names(self, text: str, version: KeyVersion) -> str:
        if version not in self._markers:
            raise ProofError(
                f"the text by which values name the key {version} is not known here; run this step where the key store "
                "is configured"
            )
        return self.names(text, self._markers[version])

    def _case(self, text: str, condition: str, message: str) -> str:
        # It must depend on the row: a constant would be cast, and fail, during planning.
        failing = f"(('keyrotation: {message}'::text || {self.empty(text)}))::boolean"
        return f"    WHEN {condition} THEN {failing}\n"


_UNDER = "(CASE WHEN {begins} THEN {tests} ELSE false END)"
_TO_BE_REWRITTEN = """(CASE WHEN {value} IS NULL OR octet_length({value}) = 0 THEN false
    ELSE coalesce(NOT {named}, true) END)"""
_VERSION = own("(SELECT known.version FROM keyrotation.key_markers AS known WHERE known.marker = {marker})")
_CLASS = f"""CASE WHEN octet_length({{value}}) = 0 THEN {EMPTY} WHEN {{whole}} THEN coalesce({{version}}, {UNNAMED})
    WHEN {{value}} IS NOT NULL THEN {UNENCRYPTED} END"""
_NAMED = own(
    "(SELECT {before} || known.marker || {after} FROM keyrotation.key_markers AS known WHERE known.version = {n})"
)
_HITS = own(r"""keyrotation.key_markers AS known, LATERAL regexp_matches(
    {text}, {begins} || regexp_replace(known.marker, '([^A-Za-z0-9])', '\\\1', 'g') || {ends}, 'g'
) AS hit""")


class KeyedByMarker(ABC):
    """`FormatSql` for values that name their key by a text that is in `keyrotation.key_markers`."""

    def value_class(self, value: sql.Composable, expected: Sequence[KeyVersion] = ()) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.value_class`."""
        return sql.SQL(_CLASS).format(value=value, whole=self.whole(value), version=self._version(value))

    def to_be_rewritten(self, text: sql.Composable, target: KeyVersion) -> sql.Composed:
        """See `FormatSql.to_be_rewritten`: it does not name the target."""
        value = sql.SQL('({} COLLATE "C")').format(text)
        return sql.SQL(_TO_BE_REWRITTEN).format(value=value, named=self.names(value, target))

    def to_be_opened(self, text: sql.Composable, target: KeyVersion) -> sql.Composed:
        """See `FormatSql.to_be_opened`: the marker says all."""
        return self.to_be_rewritten(text, target)

    def under(self, value: sql.Composable, versions: Sequence[KeyVersion]) -> sql.Composed:
        """See `FormatSql.under`; a value that names no key counts, and all do without the marker of a version."""
        tests = [sql.SQL("coalesce({}, true)").format(self.names(value, each)) for each in sorted(set(versions))]
        tests += self.names_none(value)
        return sql.SQL(_UNDER).format(
            begins=self.has_prefix(value), tests=sql.SQL("({})").format(sql.SQL(" OR ").join(tests))
        )

    def unencrypted(self, value: sql.Composable, expected: Sequence[KeyVersion] = ()) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.unencrypted`."""
        return sql.SQL("(octet_length({}) > 0 AND NOT ({}))").format(value, self.whole(value))

    def number_named(self, value: sql.Composable) -> sql.Composed:
        """See `FormatSql.number_named`."""
        return sql.SQL("CASE WHEN {} THEN coalesce({}, 0) END").format(self.whole(value), self._version(value))

    def longest_under(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:
        """See `FormatSql.longest_under`."""
        longest = self.under_another(value, version)
        return sql.SQL("max(octet_length({})) FILTER (WHERE {})").format(longest, self.has_prefix(value))

    def is_in(self, text: sql.Composable) -> sql.Composed:
        """See `FormatSql.is_in`."""
        return sql.SQL("EXISTS (SELECT FROM {})").format(self.hits(text))

    def _version(self, value: sql.Composable) -> sql.Composed:
        return _VERSION.format(marker=self.marker(value))

    def names_none(self, value: sql.Composable) -> list[sql.Composed]:  # noqa: ARG002
        """Returns whether a value names no key, where some do not."""
        return []

    @abstractmethod
    def whole(self, value: sql.Composable) -> sql.Composed:
        """Returns whether a text is all of a value, as the parser judges it."""

    @abstractmethod
    def marker(self, value: sql.Composable) -> sql.Composed:
        """Returns the marker in a value."""

    @abstractmethod
    def names(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:
        """Returns whether a value names a version; NULL without its marker, which is read once a statement."""

    @abstractmethod
    def has_prefix(self, value: sql.Composable) -> sql.Composed:
        """See `FormatSql.has_prefix`."""

    @abstractmethod
    def under_another(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:
        """See `FormatSql.under_another`."""

    @abstractmethod
    def may_be_in(self, size: sql.Composable, text: sql.Composable) -> sql.Composed:
        """See `FormatSql.may_be_in`."""

    @abstractmethod
    def hits(self, text: sql.Composable) -> sql.Composed:
        """Returns a FROM list with a row, of `known.version`, for each marker of a key in a text."""

    @abstractmethod
    def refusals(self, markers: Mapping[KeyVersion, str]) -> "RefusalsByMarker":
        """Returns what a CHECK says of these keys."""


class MarkerSql(KeyedByMarker):
    """The same of a marker in text."""

    def __init__(self, marking: Marking) -> None:
        self._marking = marking

    def names_none(self, value: sql.Composable) -> list[sql.Composed]:
        """See `KeyedByMarker.names_none`."""
        before = sql.Literal(self._marking.before)
        return [sql.SQL("strpos({}, {}) = 0").format(value, before)] if self._marking.added else []

    def has_prefix(self, value: sql.Composable) -> sql.Composed:
        """See `FormatSql.has_prefix`."""
        begins = self._marking.begins
        return sql.SQL("(left({}, {}) = {})").format(value, sql.Literal(len(begins)), sql.Literal(begins))

    def under_another(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:  # noqa: ARG002
        """See `FormatSql.under_another`: most markers are of one length, so only one that is added changes anything."""
        if self._marking.grows:
            grown = sql.SQL("regexp_replace({}, {}, {})")
            return grown.format(value, sql.Literal(self._marking.grows), sql.Literal(r"\1_:"))
        if not self._marking.added:
            return sql.SQL("{}").format(value)
        return sql.SQL(
            "(CASE WHEN strpos({value}, {before}) = 0 THEN left({value}, -2) || {header} || right({value}, 2) "
            "ELSE {value} END)"
        ).format(
            value=value,
            before=sql.Literal(self._marking.before),
            header=sql.Literal(self._marking.added),
        )

    def may_be_in(self, size: sql.Composable, text: sql.Composable) -> sql.Composed:
        """See `FormatSql.may_be_in`."""
        return own(
            "CASE width_bucket({size}, ARRAY[{shortest}, {chars}]) WHEN 1 THEN EXISTS (SELECT "
            "FROM keyrotation.key_markers AS known WHERE strpos({text}, known.marker) > 0) WHEN 2 THEN true END"
        ).format(
            size=size,
            shortest=sql.Literal(len(self._marking.begins)),
            chars=sql.Literal(PIECE_CHARS + 1),
            text=sql.SQL('({} COLLATE "C")').format(text),
        )

    def hits(self, text: sql.Composable) -> sql.Composed:
        """See `KeyedByMarker.hits`."""
        begins, ends = self._marking.elsewhere
        return _HITS.format(
            text=sql.SQL('({} COLLATE "C")').format(text), begins=sql.Literal(begins), ends=sql.Literal(ends)
        )

    def refusals(self, markers: Mapping[KeyVersion, str]) -> "MarkerRefusals":
        """See `KeyedByMarker.refusals`."""
        return MarkerRefusals(self._marking, markers)

    def whole(self, value: sql.Composable) -> sql.Composed:
        """See `KeyedByMarker.whole`."""
        return _template(self._marking.whole, value=value)

    def marker(self, value: sql.Composable) -> sql.Composed:
        """See `KeyedByMarker.marker`."""
        return _template(self._marking.marker, value=value)

    def names(self, value: sql.Composable, version: KeyVersion) -> sql.Composed:
        """See `KeyedByMarker.names`."""
        named = _NAMED.format(
            before=sql.Literal(self._marking.before),
            after=sql.Literal(self._marking.after),
            n=sql.Literal(version.number),
        )
        if self._marking.at_start:
            return sql.SQL("starts_with({}, {})").format(value, named)
        return sql.SQL("strpos({}, {}) > 0").format(value, named)


class MarkerRefusals(RefusalsByMarker):
    """The same of a marker in text."""

    def __init__(self, marking: Marking, markers: Mapping[KeyVersion, str]) -> None:
        super().__init__(markers)
        self._marking = marking

    def names_none(self, text: str) -> list[str]:
        """See `RefusalsByMarker.names_none`."""
        if not self._marking.added:
            return []
        begins = self._marking.begins
        begun = f"""(("left"({text}, {len(begins)}) COLLATE "C") = '{begins}'::text)"""
        return [f"({begun} AND (strpos({_under_c(text)}, '{self._marking.before}'::text) = 0))"]

    def names(self, text: str, marker: str) -> str:
        """See `RefusalsByMarker.names`."""
        named = f"{self._marking.before}{marker}{self._marking.after}"
        if self._marking.at_start:
            return f"""(("left"({text}, {len(named)}) COLLATE "C") = '{named}'::text)"""
        return f"(strpos({_under_c(text)}, '{named}'::text) > 0)"


def _under_c(text: str) -> str:
    return f'({text} COLLATE "C")'


def _template(text: str, value: sql.Composable) -> sql.Composed:
    """Fills `{value}` into a text of ours that may hold other braces."""
    return sql.SQL("").join([*_alternating(text.split("{value}"), value)])


def _alternating(parts: Sequence[str], value: sql.Composable) -> Iterable[sql.Composable]:
    for number, part in enumerate(parts):
        if number:
            yield value
        yield sql.SQL(part)
