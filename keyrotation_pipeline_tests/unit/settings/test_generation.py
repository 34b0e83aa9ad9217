"""`[format] generation` and `bindings`: what a file may say of the second generation of the format."""

from pathlib import Path

import pytest

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.settings import parse

SECOND = "[format]\ngeneration = 2\n"


def table(name: str = "clients", columns: str = '"email", "phone"', more: str = "") -> str:
    return f'[[tables]]\nname = "{name}"\ncolumns = [{columns}]\n{more}\n'


def test_the_next_key_is_of_the_declared_generation_and_each_column_has_its_label(tmp_path: Path) -> None:
    declared = table("billing.invoices", '"note"') + table(more='bindings = { email = "people.mail" }')
    invoices, clients = parse(SECOND + declared, tmp_path / "keyrotation.toml").encrypted_tables
    assert (invoices.labels, clients.labels) == (("billing.invoices.note",), ("people.mail", "clients.phone"))
    assert clients.format.next_of(KeyVersion(9)) == KeyVersion(10, 2)
    (first,) = parse(table(), tmp_path / "keyrotation.toml").encrypted_tables
    assert first.format.next_of(KeyVersion(9, 2)) == KeyVersion(10)


def test_values_are_bound_to_their_row_from_the_declared_version_on(tmp_path: Path) -> None:
    declared = table("billing.invoices", '"note"') + table(more='row = { key = "id", from = 3 }')
    invoices, clients = parse(SECOND + declared, tmp_path / "keyrotation.toml").encrypted_tables
    assert (clients.bound_to, clients.read_columns) == (("id",), ("email", "phone", "id"))
    versions = [KeyVersion(2, 2), KeyVersion(3), KeyVersion(3, 2), KeyVersion(4, 2)]
    assert [clients.format.binds_rows(version) for version in versions] == [False, False, True, True]
    assert not any(invoices.format.binds_rows(version) for version in versions)
    assert clients.format.of_all_tables == invoices.format


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param("[format]\ngeneration = 3\n" + table(), "generation", id="a third"),
        pytest.param(
            '[format]\nname = "fernet"\ngeneration = 2\nkeys = { env = "K" }\n' + table(),
            'generation is for name = "native" alone',
            id="of another format",
        ),
        pytest.param(
            SECOND + table(more='bindings = { mail = "clients.email" }'),
            "has a binding of mail, which is not among its columns",
            id="a binding of no column",
        ),
        pytest.param(
            SECOND + table(more='bindings = { email = "a\\nb" }'), "printable characters", id="a label of two lines"
        ),
        pytest.param(SECOND + table(columns='"e.mail"'), "holds a dot", id="a name with a dot"),
        pytest.param(
            SECOND + table(more='bindings = { email = "clients.phone" }'),
            "clients.email and clients.phone are bound to the same label",
            id="two columns with one label",
        ),
        pytest.param(
            table(more='bindings = { email = "clients.phone" }'),
            "clients.email and clients.phone are bound to the same label",
            id="in the first generation, two columns with one label",
        ),
        pytest.param(
            SECOND + table(columns='{ column = "tags", elements = true }'),
            "tags[] of clients is in a document or an array",
            id="an array",
        ),
        pytest.param(
            SECOND + table(more='row = { key = "email", from = 3 }'),
            "which changes with the encryption key",
            id="a row by an encrypted column",
        ),
        pytest.param(SECOND + table(more='row = { key = "id" }'), "from", id="a row without a version"),
        pytest.param(SECOND + table(more='row = { key = "id", from = 0 }'), "from", id="a row from no version"),
        pytest.param(
            table(columns='{ column = "tags", elements = true }', more='row = { key = "id", from = 3 }'),
            "tags[], which is more than that",
            id="elements bound to a row",
        ),
        pytest.param(
            '[format]\nname = "fernet"\nkeys = { env = "K" }\n' + table(more='row = { key = "id", from = 3 }'),
            'row is for name = "native" alone',
            id="a row of another format",
        ),
        pytest.param(
            SECOND + table(more='row = { key = "i\u2066d", from = 3 }'), "cannot be seen", id="a row by a hidden name"
        ),
    ],
)
def test_what_cannot_be_bound_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse(text, tmp_path / "keyrotation.toml")
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
