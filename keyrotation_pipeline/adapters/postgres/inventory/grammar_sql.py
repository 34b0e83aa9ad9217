"""Expresses the value grammar as SQL, composed from the patterns of `fieldcrypto.grammar`; no other SQL knows it.

Every value is read under ``COLLATE "C"``: searching fails on nondeterministic collations, and ``[A-Z]`` means ASCII
only under "C".
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby

from psycopg import sql

from keyrotation_pipeline.fieldcrypto.formats.marking import LONGEST_JUDGED_BYTES
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED, SourceForm
from keyrotation_pipeline.fieldcrypto.grammar import (
    BASE64_OF_GOOD_LENGTH_PATTERN,
    FIRST,
    LONGEST_PREFIX_CHARS,
    MAX_VERSION_NUMBER,
    NEAR_MISS_PATTERN,
    PLAINTEXT,
    PREFIX_PATTERN,
    SECOND,
    SHORTEST_UNPADDED_CHARS,
    VALUE_OF_GOOD_LENGTH_PATTERN,
    VALUE_PATTERN,
    VERSION_PATTERN,
    KeyVersion,
)

# What `value_class` returns instead of the code of a version. A value that names no known key is not of our format.
EMPTY, UNENCRYPTED, NEAR_MISS, UNNAMED = 0, -1, -2, -3

_NEAR_MISS_CHARS = 64

# Characters as they may occur in JSON, in URLs (%3A, %253A) and in HTML (&#58; &#x3a; &colon;), also escaped twice.
# Escapes are matched directly, since decoding a text would cost more than searching it.
_AND = "&(?:amp;)*"
_COLON = rf"(?:\\*:|\\+u003[aA]|%(?:25)*3[aA]|{_AND}(?:#0*58|#[xX]0*3[aA]|colon);)"
_V = rf"(?:[vV]|\\+u00[57]6|%(?:25)*[57]6|{_AND}(?:#0*(?:86|118)|#[xX]0*[57]6);)"
_X = rf"(?:[xX]|\\+u00[57]8|%(?:25)*[57]8|{_AND}(?:#0*(?:88|120)|#[xX]0*[57]8);)"
_DIGIT = rf"(?:[0-9]|\\+u003[0-9]|%(?:25)*3[0-9]|{_AND}(?:#0*(?:4[89]|5[0-7])|#[xX]0*3[0-9]);)"
# A backslash before three octal digits is how PostgreSQL prints a byte of binary content, and belongs to no value; else
# two or three places in each gigabyte of random bytes would look like one.
_ESCAPE = r"(?:[%&]|\\(?![0-3][0-7][0-7]))"

# Where mail or PEM has broken a value into lines: with = before the break in quoted-printable, with > before the rest
# in a quoted mail.
_BREAK = r"(?:=?[\r\n]+[ \t>]*)?"
_SPACE = r"=?[\s>]*"

# One of our values anywhere in a text: version, nonce and the shortest possible tag. Lenient about the version's
# spelling and white space (near-misses), about escapes, and about line breaks wherever they are.
# Groups: white space at the very beginning, version, end of the nonce.
ANYWHERE = (
    rf"(^\s+)?({_V}{_BREAK}{_DIGIT}(?:{_BREAK}{_DIGIT})*(?:{_BREAK}{_X})?{_SPACE}{_COLON}{_SPACE})"
    rf"(?:(?:(?:[A-Za-z0-9+/]{_BREAK}){{{FIRST.nonce_chars}}}){{1,{SECOND.nonce_chars // FIRST.nonce_chars}}}"
    rf"|[A-Za-z0-9+/]*{_ESCAPE}(?:[A-Za-z0-9+/#;\r\n]|{_ESCAPE})*)"
    rf"({_SPACE}{_COLON}{_SPACE})(?:(?:[A-Za-z0-9+/#;]|{_ESCAPE}){_BREAK}){{{SHORTEST_UNPADDED_CHARS}}}"
)
# What every match of ANYWHERE has near its beginning: how a v may end, digits, how a colon may begin. Searching for
# this alone takes a quarter of the time, and most texts do not contain it.
LIKELY = (
    rf"[vV6;]{_BREAK}(?:[0-9](?:{_BREAK}[0-9])*(?:{_BREAK}[xX])?|[0-9]*{_ESCAPE}\S*[0-9xX;]){_SPACE}(?::|{_ESCAPE})"
)
# A match has a version, a nonce of at least one escape, the colons, and the characters of a tag.
_SHORTEST_CHARS = len("v1:%:") + SHORTEST_UNPADDED_CHARS
# The two groups of a correctly spelt value, whatever is escaped in it.
EXACT_PREFIX = f"^{VERSION_PATTERN}{_COLON}$"
EXACT_END = f"^{_COLON}$"

# A text is searched in pieces of so many characters: matching takes four bytes per character, and at most 1 GB. Pieces
# overlap by more than a match can be long, unless white space fills it.
PIECE_CHARS = 4 * 1024 * 1024
_OVERLAP_CHARS = 1024

# What a fence looks at for its message, which is enough for every name of a version without its colon.
_FENCE_CHARS = LONGEST_PREFIX_CHARS - len(":")

# How values of both generations begin, for LIKE: a regular expression with bounds would cost several times as much.
_HEADS = tuple(f"v%{each.marker}:{'_' * each.nonce_chars}:%" for each in (FIRST, SECOND))

# The length of a value's prefix in characters, including its colon; 0 if it has none.
_PREFIX_LENGTH = f"strpos(left({{value}}, {LONGEST_PREFIX_CHARS}), ':')"
# Whether the prefix is one of the second generation; the length of what follows the nonce in a value of the first.
_IS_SECOND = f"substr({{value}}, {_PREFIX_LENGTH} - 1, 1) = '{SECOND.marker}'"
_BODY_LENGTH = f"octet_length({{value}}) - {_PREFIX_LENGTH} - {FIRST.nonce_chars + len(':')}"
_LONGER_NONCE_CHARS = SECOND.nonce_chars - FIRST.nonce_chars
# The shortest body of the second generation has no padding: with some it would have a byte or two less.
_SHORTEST_LENGTH = (
    f"CASE WHEN {_IS_SECOND} THEN {SECOND.shortest_body_chars + _LONGER_NONCE_CHARS} "
    f"+ CASE WHEN right({{value}}, 1) = '=' THEN 4 ELSE 0 END ELSE {FIRST.shortest_body_chars} END"
)
_CODE_OF_SECOND = MAX_VERSION_NUMBER + 1
_NUMBER = f"substr(left({{value}}, {LONGEST_PREFIX_CHARS}), 2, {_PREFIX_LENGTH} - 2)"
_VERSION_CODE = f"""rtrim({_NUMBER}, '{SECOND.marker}')::int
    + CASE WHEN {_IS_SECOND} THEN {_CODE_OF_SECOND} ELSE 0 END"""

_VALUE_CLASS = f"""CASE
    WHEN octet_length({{value}}) = 0 THEN {EMPTY}{{expected}}
    WHEN {_BODY_LENGTH} >= {_SHORTEST_LENGTH} AND ({_BODY_LENGTH}) % 4 = 0
     AND octet_length({{value}}) <= {LONGEST_JUDGED_BYTES} AND {{value}} ~ {{whole}} THEN {_VERSION_CODE}
    WHEN left({{value}}, {_NEAR_MISS_CHARS}) ~ {{near_miss}} THEN {NEAR_MISS}
    WHEN {{value}} IS NOT NULL THEN {UNENCRYPTED} END"""


# The same for a value under one known version. LIKE checks the prefix and where the nonce ends; so the expression need
# not count, and has few states. PostgreSQL builds these again for each value, which is most of the cost.
_EXPECTED = f"""{{value}} LIKE {{head}} AND octet_length({{value}}) - {{head_bytes}} >= {{shortest}}
     AND (octet_length({{value}}) - {{head_bytes}}) % 4 = 0 AND octet_length({{value}}) <= {LONGEST_JUDGED_BYTES}
     AND {{value}} ~ {{rest}}"""
# Plaintext fails at LIKE already, and is judged by nothing else.
_NOT_EXPECTED = """CASE
    WHEN octet_length({value}) = 0 OR {expected} THEN false WHEN {value} IS NOT NULL THEN true END"""


_SHORTEST = {
    FIRST: f"{FIRST.shortest_body_chars}",
    SECOND: f"{SECOND.shortest_body_chars} + CASE WHEN right({{value}}, 1) = '=' THEN 4 ELSE 0 END",
}


def value_class(value: sql.Composable, expected: Sequence[KeyVersion] = ()) -> sql.Composed:
    """Classifies a value: its version's `code`, or `EMPTY`, `UNENCRYPTED`, `NEAR_MISS`; NULL for NULL.

    All counts use this classification. A value counts under a version only if all of it matches the grammar, as in the
    parser; only decryption can show whether it is authentic.

    Args:
        value: a text under "C", as `places.text` returns it.
        expected: the versions of most values: these are judged in a third of the time, with the same result.

    Measured on 300 000 rows of five short values: 3.5 s with one process, 1.8 s with two; prefixes alone 0.4 s. A value
    of 1 MB takes 9 ms. One of more than `LONGEST_JUDGED_BYTES` is never taken for encrypted.
    """
    return sql.SQL(_VALUE_CLASS).format(
        value=value,
        expected=sql.SQL("").join(
            sql.SQL("\n    WHEN {} THEN {}").format(_whole_under(value, version), sql.Literal(version.code))
            for version in expected
        ),
        whole=sql.Literal(f"^{VALUE_OF_GOOD_LENGTH_PATTERN}$"),
        near_miss=sql.Literal(f"^{NEAR_MISS_PATTERN}"),
    )


def unencrypted(value: sql.Composable, expected: Sequence[KeyVersion] = ()) -> sql.Composed:
    """Returns whether a value is neither empty nor one of ours; `expected`: as for `value_class`."""
    return sql.SQL("{} < 0").format(value_class(value, expected))


def _whole_under(value: sql.Composable, version: KeyVersion) -> sql.Composed:
    head = f"{version.prefix}{'_' * version.generation.nonce_chars}:"
    return sql.SQL(_EXPECTED).format(
        value=value,
        head=sql.Literal(f"{head}%"),
        head_bytes=sql.Literal(len(head)),
        rest=sql.Literal(f"^[^:]+:[A-Za-z0-9+/]+:{BASE64_OF_GOOD_LENGTH_PATTERN}$"),
        shortest=sql.SQL(_SHORTEST[version.generation]).format(value=value),
    )


def may_be_in(size: sql.Composable, text: sql.Composable) -> sql.Composed:
    """Returns whether one of our values, or a near-miss, occurs anywhere in a text; unknown (true) for a large one.

    Measured on 100 000 rows of names, notes, JSON, addresses and URLs: a fifth of the time of ANYWHERE alone.

    Args:
        size: the text's length in bytes, or a lower bound of it.
        text: not evaluated if it is large.
    """
    # The size is evaluated once: for types other than text, that means producing the text.
    return sql.SQL(
        "CASE width_bucket({size}, ARRAY[{shortest}, {chars}]) "
        'WHEN 1 THEN {text} COLLATE "C" ~ {likely} AND {text} COLLATE "C" ~ {anywhere} WHEN 2 THEN true END'
    ).format(
        size=size,
        shortest=sql.Literal(_SHORTEST_CHARS),
        chars=sql.Literal(PIECE_CHARS + 1),
        text=text,
        likely=sql.Literal(LIKELY),
        anywhere=sql.Literal(ANYWHERE),
    )


def is_in(text: sql.Composable) -> sql.Composed:
    """Returns whether one of our values, or a near-miss, occurs anywhere in a text."""
    return sql.SQL('({text} COLLATE "C" ~ {likely} AND {text} COLLATE "C" ~ {anywhere})').format(
        text=text, likely=sql.Literal(LIKELY), anywhere=sql.Literal(ANYWHERE)
    )


def under(value: sql.Composable, versions: Sequence[KeyVersion]) -> sql.Composed:
    """Returns whether a value begins with the prefix of one of these versions, as the fence does.

    Args:
        versions: at least one.
    """
    tests = [
        sql.SQL("left({value}, {length}) IN ({prefixes})").format(
            value=value,
            length=sql.Literal(length),
            prefixes=sql.SQL(", ").join(map(sql.Literal, same_length)),
        )
        for length, same_length in _prefixes_by_length(versions)
    ]
    return sql.SQL("({})").format(sql.SQL(" OR ").join(tests))


def to_be_rewritten(text: sql.Composable, target: KeyVersion) -> sql.Composed:
    """Returns whether a text is neither empty nor under `target`; reads no more than the length of the prefix.

    LIKE would detoast the whole value.
    """
    return sql.SQL("left({}, {}) COLLATE \"C\" NOT IN ('', {})").format(
        text, sql.Literal(len(target.prefix)), sql.Literal(target.prefix)
    )


def not_in_full_under(value: sql.Composable, target: KeyVersion) -> sql.Composed:
    """Returns whether a text is neither empty nor a value under `target`, though it may begin like one."""
    return sql.SQL(_NOT_EXPECTED).format(value=value, expected=_whole_under(value, target))


def in_full_under(value: sql.Composable, versions: Sequence[KeyVersion]) -> sql.Composed:
    """Returns whether a text is a value under one of these versions, which another text may only begin like."""
    codes = sql.SQL(", ").join(sql.Literal(version.code) for version in versions)
    return sql.SQL("{} IN ({})").format(value_class(value, versions[-2:]), codes)


def in_full(value: sql.Composable, expected: Sequence[KeyVersion] = ()) -> sql.Composed:
    """Returns whether a text is a value under any version, known or not; `expected`: as for `value_class`."""
    return sql.SQL("{} > 0").format(value_class(value, expected))


def to_be_opened(text: sql.Composable, target: KeyVersion) -> sql.Composed:
    """See `FormatSql.to_be_opened`: the prefix says all."""
    return to_be_rewritten(text, target)


def has_prefix(value: sql.Composable) -> sql.Composed:
    """Returns whether a value begins with the prefix of any version."""
    return sql.SQL("left({}, {}) ~ {}").format(
        value, sql.Literal(LONGEST_PREFIX_CHARS), sql.Literal(f"^{PREFIX_PATTERN}")
    )


def has_head(value: sql.Composable) -> sql.Composed:
    """Returns whether a text begins with the prefix of any version and characters of base64 up to another colon."""
    return sql.SQL("{} ~ {}").format(value, sql.Literal(f"^{PREFIX_PATTERN}[A-Za-z0-9+/]{{16,}}:"))


def number_named(value: sql.Composable) -> sql.Composed:
    """Returns the `code` of the version whose prefix a value has; NULL without one."""
    text = sql.SQL("substring(left({}, {}) from {})").format(
        value, sql.Literal(LONGEST_PREFIX_CHARS), sql.Literal(f"^({PREFIX_PATTERN})")
    )
    return code_in(text)


def code_in(prefix: sql.Composable) -> sql.Composed:
    """Returns the `code` of the version in a correctly spelt prefix, in which digits may be escaped; NULL for NULL."""
    return sql.SQL(
        "(regexp_match({prefix}, '[0-9]+'))[1]::int + CASE WHEN {prefix} ~ {second} THEN {more} ELSE 0 END"
    ).format(prefix=prefix, second=sql.Literal(f"^v[0-9]+{SECOND.marker}"), more=sql.Literal(_CODE_OF_SECOND))


# A value of the other generation than the target has its nonce cut or filled up, and as many characters more or less at
# the beginning of its ciphertext as the commitment takes: three more than it needs, at most.
_COMMITMENT_CHARS = (SECOND.overhead_bytes - FIRST.overhead_bytes + 2) // 3 * 4
_NONCE_BEGINS = f"substr({{value}}, {_PREFIX_LENGTH} + 1, {FIRST.nonce_chars})"
_TO_SECOND = f"""{_NONCE_BEGINS} || repeat('A', {_LONGER_NONCE_CHARS}) || ':'
    || repeat('A', {_COMMITMENT_CHARS}) || substr({{value}}, {_PREFIX_LENGTH} + {FIRST.nonce_chars + 2})"""
_TO_FIRST = f"""{_NONCE_BEGINS} || ':'
    || substr({{value}}, {_PREFIX_LENGTH} + {SECOND.nonce_chars + 2 + _COMMITMENT_CHARS - 4})"""


def _changes_generation(value: sql.Composable, version: KeyVersion) -> sql.Composed:
    second = version.generation == SECOND
    return sql.SQL(f"({_IS_SECOND}) <> {{second}}").format(value=value, second=sql.Literal(second))


def under_another(value: sql.Composable, version: KeyVersion) -> sql.Composed:
    """Returns a text that constraints judge like the value under `version`: of its prefix, length and characters."""
    change = _TO_SECOND if version.generation == SECOND else _TO_FIRST
    rest = sql.SQL(f"CASE WHEN {{changes}} THEN {change} ELSE substr({{value}}, {_PREFIX_LENGTH} + 1) END").format(
        changes=_changes_generation(value, version), value=value
    )
    return sql.SQL("({prefix} || {rest})").format(prefix=sql.Literal(version.prefix), rest=rest)


# The base64 of as many bytes as the text has and a value adds.
_ENCRYPTED_BODY = "4 * (({text} + {overhead} + 2) / 3)"


def _encrypted_body(value: sql.Composable, version: KeyVersion, form: SourceForm | None) -> sql.Composed:
    text = sql.SQL(form.spec.text_bytes if form else "{size}").format(size=sql.SQL("octet_length({})").format(value))
    return sql.SQL(_ENCRYPTED_BODY).format(text=text, overhead=sql.Literal(version.generation.overhead_bytes))


def plaintext_under(value: sql.Composable, version: KeyVersion, form: SourceForm | None = None) -> sql.Composed:
    """Returns a text that constraints judge like what a value of the old form becomes: with its head, as long at most.

    Args:
        value: as text, or its bytes as they are.
        form: of the value; None: it is plaintext, whose length is known.
    """
    size = _encrypted_body(value, version, form)
    head = f"{version.prefix}{'A' * version.generation.nonce_chars}:"
    return sql.SQL("({} || repeat('A', {}))").format(sql.Literal(head), size)


def longest_plaintext_under(value: sql.Composable, version: KeyVersion, form: SourceForm | None = None) -> sql.Composed:
    """Aggregates the length in characters of what the longest value of the old form becomes; NULL without any."""
    size = _encrypted_body(value, version, form)
    head = len(version.prefix) + version.generation.nonce_chars + 1
    return sql.SQL("max({} + {}) FILTER (WHERE {})").format(sql.Literal(head), size, unencrypted(value))


def longest_under(value: sql.Composable, version: KeyVersion) -> sql.Composed:
    """Aggregates the length in characters of the longest value under `version`; NULL without values."""
    longer = _LONGER_NONCE_CHARS + _COMMITMENT_CHARS
    more = longer if version.generation == SECOND else -(longer - 4)
    return sql.SQL(
        f"max(octet_length({{value}}) - {_PREFIX_LENGTH} + {{prefix_chars}} "
        "+ CASE WHEN {changes} THEN {more} ELSE 0 END) FILTER (WHERE {has_prefix})"
    ).format(
        value=value,
        changes=_changes_generation(value, version),
        more=sql.Literal(more),
        has_prefix=has_prefix(value),
        prefix_chars=sql.Literal(len(version.prefix)),
    )


def pieces(whole: sql.Composable, size: sql.Composable, piece: sql.Composable) -> sql.Composed:
    """Returns a subquery of one column `text`: the whole, or if it is large its overlapping pieces.

    Args:
        whole: the text.
        size: its length, in the units of `piece`.
        piece: the part of `{length}` units that begins at `{start}`, with these two as names `start` and `length`.
    """
    return sql.SQL(
        "(SELECT {whole} AS text WHERE {size} <= {chars} UNION ALL "
        "SELECT {piece} FROM generate_series(1, {size}, {chars}) AS start, (VALUES ({length})) AS l (length) "
        "WHERE {size} > {chars})"
    ).format(
        whole=whole,
        size=size,
        piece=piece,
        chars=sql.Literal(PIECE_CHARS),
        length=sql.Literal(PIECE_CHARS + _OVERLAP_CHARS),
    )


# What a fence calls a text that is none of our values, in its message.
FOREIGN = "a value of another library"
# And one of our values, where columns are of their old form again.
ENCRYPTED = "an encrypted value"


def refusal(
    text: str,
    versions: Iterable[KeyVersion],
    *,
    other_generation: bool = False,
    plaintext: bool | None = None,
    refused: str = NEVER_ENCRYPTED,
) -> str:
    """Returns a boolean expression that is true, or fails with SQLSTATE 22P02 and names only the retired version.

    Args:
        text: a column as text, exactly as PostgreSQL prints it.
        versions: the retired versions, at least one.
        other_generation: whether the same numbers are refused in the other generation, too, which never had a key.
        plaintext: of a column that held plaintext: whether a text without the head of a value, version and nonce, is
            refused, too, unless it is empty. If not, a plaintext may begin like a value under a retired version.
        refused: what such a text is called.

    Returns:
        Exactly the text that ``pg_get_constraintdef`` of PostgreSQL 14 to 18 prints.
    """
    wanted = tuple(versions)
    version = f"""split_part(("left"({text}, {_FENCE_CHARS}) COLLATE "C"), ':'::text, 1)"""
    # It must depend on the row: a constant would be cast, and fail, during planning.
    failing = f"""((('keyrotation: key version '::text || {version}) || ' is retired'::text))::boolean"""
    others = [version.other_generation for version in wanted if version != PLAINTEXT] if other_generation else []
    numbers = [wanted, others] if others else [wanted]
    begins = _is_value_under if plaintext is False else _begins_with
    cases = "".join(f"\n    WHEN {begins(text, each)} THEN {failing}" for each in numbers)
    if plaintext:
        tests = [f"({text} <> ''::text)", *(f"""(({text} COLLATE "C") !~~ '{head}'::text)""" for head in _HEADS)]
        none = f"""('keyrotation: {refused} is refused'::text || "left"({text}, 0))"""
        cases += f"\n    WHEN ({' AND '.join(tests)}) THEN ({none})::boolean"
    return f"\nCASE{cases}\n    ELSE true\nEND"


def refusal_of_values(
    text: str, versions: Iterable[KeyVersion], present: KeyVersion, *, other_generation: bool = False
) -> str:
    """Returns the same as `refusal` for a column that is of its old form again: values under `present` fail, too.

    Those under a later version do not: a rotation may encrypt the column again.
    """
    usual = refusal(text, versions, other_generation=other_generation, plaintext=False)
    failing = f"""(('keyrotation: {ENCRYPTED} is refused'::text || "left"({text}, 0)))::boolean"""
    return usual.replace("\n    ELSE", f"\n    WHEN {_is_value_under(text, [present])} THEN {failing}\n    ELSE")


def _begins_with(text: str, versions: Iterable[KeyVersion]) -> str:
    tests = [
        f"""(("left"({text}, {length}) COLLATE "C") = ANY (ARRAY[{", ".join(f"'{each}'::text" for each in same)}]))"""
        for length, same in _prefixes_by_length(versions)
    ]
    return f"({' OR '.join(tests)})" if len(tests) > 1 else tests[0]


def _is_value_under(text: str, versions: Iterable[KeyVersion]) -> str:
    """Returns whether a text is a value in full; the expensive expression is evaluated where it begins like one."""
    heads = (f"{version.prefix}{'_' * version.generation.nonce_chars}:%" for version in versions)
    tests = [f"""(({text} COLLATE "C") ~~ '{head}'::text)""" for head in heads]
    has_head = f"({' OR '.join(tests)})" if len(tests) > 1 else tests[0]
    return f"""({has_head} AND (({text} COLLATE "C") ~ '^{VALUE_PATTERN}$'::text))"""


def refusal_in_array(array: str, versions: Iterable[KeyVersion]) -> str:
    """Returns the same as `refusal` for every element of an array; a CHECK cannot have a subquery.

    Args:
        array: a column of text[] or varchar[], exactly as PostgreSQL prints it.
    """
    # Before each element stands a character that no value has; a CHECK looks for it with a prefix behind it.
    joined = f'((chr(1) || array_to_string({array}, chr(1))) COLLATE "C")'
    cases = []
    for prefix in sorted({version.prefix for version in versions}, key=lambda prefix: (len(prefix), prefix)):
        at = f"strpos({joined}, (chr(1) || '{prefix}'::text))"
        name = f"substr({joined}, ({at} + 1), {len(prefix) - 1})"
        failing = f"""((('keyrotation: key version '::text || {name}) || ' is retired'::text))::boolean"""
        cases.append(f"    WHEN ({at} > 0) THEN {failing}")
    return "\nCASE\n" + "\n".join(cases) + "\n    ELSE true\nEND"


def versions_refused(constraint: str) -> tuple[KeyVersion, ...]:
    """Returns the retired versions in a constraint that `refusal` made, in order, without their twins."""
    # Of a CASE the first condition; of one over an array all, each of which has one version.
    conditions = "".join(re.findall(r"\n(?:CASE\n    WHEN |    WHEN (?=\(strpos\())([^\n]*)", constraint))
    names = re.findall(rf"'({VERSION_PATTERN}|{PLAINTEXT}):(?:_+:%)?'", conditions)
    return tuple(sorted(map(KeyVersion.parse, set(names))))


def present_refused(constraint: str) -> KeyVersion | None:
    """Returns the version that is refused besides the retired ones, by a constraint of `refusal_of_values`."""
    found = re.search(rf"'({VERSION_PATTERN}):_+:%'::text\)[^\n]* THEN \(+'keyrotation: {ENCRYPTED} ", constraint)
    return None if found is None else KeyVersion.parse(found[1])


def knows(versions: Iterable[KeyVersion]) -> bool:  # noqa: ARG001
    """See `Refusals.knows`: a prefix is the version itself."""
    return True


def _prefixes_by_length(versions: Iterable[KeyVersion]) -> list[tuple[int, list[str]]]:
    prefixes = sorted({version.prefix for version in versions}, key=lambda prefix: (len(prefix), prefix))
    return [(length, list(same)) for length, same in groupby(prefixes, key=len)]
