"""`from = "plaintext"`: where it may stand, and what is said where it may not."""

from pathlib import Path

import pytest

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline_tests.unit.settings.test_loading import read

TABLE = '[[tables]]\nname = "cases"\ncolumns = ["name", {}]\n'
LAYOUT = 'format = "aes-256-gcm", keys = {{ env = "K" }}, layout = "{}", kdf = "{}"'
FROM = '{{ column = "note", from = {{ {} }} }}'
NOTE = '{ column = "note", from = "plaintext" }'


def test_a_column_of_plaintext_is_declared(tmp_path: Path) -> None:
    (table,) = read(TABLE.format(NOTE), tmp_path).encrypted_tables
    assert (table.columns, table.begun) == (("name", "note"), ("note",))
    assert table.label("note") == "cases.note"


def test_a_column_of_another_library_is_declared_with_its_form_and_the_name_of_its_key(tmp_path: Path) -> None:
    declared = FROM.format('format = "sqlalchemy-utils-aes", keys = { env = "OLD_KEY" }, padding = "pkcs5"')
    (table,) = read(TABLE.format(declared), tmp_path).encrypted_tables
    assert (table.begun, table.held_plaintext, table.old_form) == (("note",), (), "the form of sqlalchemy-utils-aes")
    place = table.place("note")
    assert (str(place.form), place.source_key) == ("sqlalchemy-utils-aes, padding pkcs5", "OLD_KEY")


def test_the_columns_in_which_a_library_has_parts_of_its_values_are_read_and_not_written(tmp_path: Path) -> None:
    declared = FROM.format('format = "attr-encrypted", keys = { env = "K" }, salt = "note_salt", iv = "note_iv"')
    (table,) = read(TABLE.format(declared), tmp_path).encrypted_tables
    assert str(table.place("note").form) == "attr-encrypted, iv note_iv, salt note_salt"
    assert table.read_columns == ("name", "note", "note_iv", "note_salt")
    assert table.written_columns == ("name", "note")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(TABLE.format('{ column = "note", from = "text" }'), "plaintext", id="another source"),
        pytest.param(
            TABLE.format(FROM.format('format = "fernet", keys = { env = "K" }')),
            '"fernet" is no format that values can be taken from; write plaintext or ',
            id="a format with two keys",
        ),
        pytest.param(
            TABLE.format(FROM.format('format = "sqlalchemy-utils-aes", keys = { env = "K" }')),
            'needs padding, one of "naive", "pkcs5", "oneandzeroes", "zeroes"; the library takes "naive"',
            id="no padding",
        ),
        pytest.param(
            TABLE.format(FROM.format('format = "sqlalchemy-utils-aesgcm", keys = { env = "K" }, padding = "naive"')),
            "has no padding; leave it out",
            id="an option of another source",
        ),
        pytest.param(
            TABLE.format(FROM.format('format = "sqlalchemy-utils-aesgcm", keys = "secret"')), "keys", id="a bare key"
        ),
        pytest.param(
            TABLE.format('{ column = "note", from = "plaintext", elements = true }'),
            "a path or elements; have the application save each value encrypted, or in a column of its own",
            id="elements",
        ),
        pytest.param(
            TABLE.format('{ column = "note", from = "plaintext", path = ["a"] }'),
            "a path or elements; have the application save each value encrypted, or in a column of its own",
            id="a path",
        ),
        pytest.param(
            TABLE.format('{ column = "note", from = "plaintext", when = "sealed" }'), "leave one out", id="some rows"
        ),
        pytest.param(
            TABLE.format(FROM.format(LAYOUT.format("b64.nonce12.ct", "none"))),
            "hold nonce, ct, not nonce, ct, tag once each; correct from in [[tables]]",
            id="a layout without a tag",
        ),
        pytest.param(
            TABLE.format(FROM.format(LAYOUT.format("b64.nonce13.tag16.ct", "none"))),
            "layout has nonce13, which this cipher does not; correct from in [[tables]]",
            id="a nonce of another length",
        ),
        pytest.param(
            TABLE.format(FROM.format(LAYOUT.format("b64.salt16.nonce12.tag16.ct", "pbkdf2-sha256"))),
            "cost is a number of at most 10000000 in quotes",
            id="no rounds",
        ),
        pytest.param(
            TABLE.format(FROM.format(LAYOUT.format("b64.salt16.nonce12.tag16.ct", "scrypt") + ', cost = "1000"')),
            "cost of scrypt is N, a power of two, not 1000; correct from in [[tables]]",
            id="no power of two",
        ),
        pytest.param(
            TABLE.format(FROM.format(LAYOUT.format("b64.ct", "none") + ', iv = "part", tag = "part"')),
            "column part is named for two parts of a value; correct one",
            id="two parts in one column",
        ),
        pytest.param(
            TABLE.format(FROM.format('format = "ciphersweet-brng", keys = { env = "K" }, column = "note"')),
            "needs table, a name of letters, digits, dots, hyphens and underscores; add it",
            id="no name",
        ),
        pytest.param(
            TABLE.format(
                FROM.format('format = "ciphersweet-brng", keys = { env = "K" }, column = "a, b", table = "c"')
            ),
            "needs column, a name of letters",
            id="a name that reads otherwise in a signed text",
        ),
        pytest.param(
            TABLE.format(FROM.format('format = "attr-encrypted", keys = { env = "K" }, iv = "name"')),
            "cases lists name among its columns, in which another one has a part of its values; leave it out",
            id="a part of values among the columns",
        ),
        pytest.param(
            '[format]\nname = "fernet"\nkeys = { env = "K" }\n' + TABLE.format(NOTE),
            'from is for name = "native" alone',
            id="another format",
        ),
        pytest.param(
            '[keys]\nstore = "kubernetes-secret"\n[keys.kubernetes-secret]\nnamespace = "n"\nname = "s"\n'
            'archive_name = "a"\n[rollout]\nmode = "kubernetes"\n[[rollout.workloads]]\n'
            'kind = "Deployment"\nname = "a"\ncontainer = "b"\n' + TABLE.format(NOTE),
            'write [rollout] mode = "attest" until the column is encrypted',
            id="Pods",
        ),
        pytest.param(
            TABLE.format(NOTE) + '[tables.row]\nkey = "id"\nfrom = 3\n',
            "and note, which is more than that",
            id="bound to rows",
        ),
    ],
)
def test_where_it_may_not_stand_one_sentence_says_why(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(text, tmp_path)
    assert sentence in str(refused.value)
