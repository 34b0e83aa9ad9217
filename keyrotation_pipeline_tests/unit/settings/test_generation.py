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
            SECOND + table(columns='{ column = "tags", elements = true }'),
            "tags[] of clients is in a document or an array",
            id="an array",
        ),
    ],
)
def test_what_cannot_be_bound_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse(text, tmp_path / "keyrotation.toml")
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value)
