"""`[[tables]] indexes`: what a file may say of search indexes."""

from pathlib import Path

import pytest

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto.search_index import IndexForm, Normalisation
from keyrotation_pipeline.model.tables import SearchIndex
from keyrotation_pipeline.settings import parse


def table(indexes: str, name: str = "clients", columns: str = '"email", "phone"', more: str = "") -> str:
    return f'[[tables]]\nname = "{name}"\ncolumns = [{columns}]\nindexes = [{indexes}]\n{more}\n'


EMAIL = '{ of = "email", odd = "o", even = "e" }'


def test_an_index_is_bound_as_its_column_is(tmp_path: Path) -> None:
    whole = '{ of = "email", odd = "o", even = "e", normalise = ["strip", "lower"], size_bytes = 8 }'
    declared = table(whole) + table(EMAIL, "billing.people", more='bindings = { email = "x.y" }')
    clients, people = parse(declared, tmp_path / "keyrotation.toml").encrypted_tables
    form = IndexForm("clients.email", (Normalisation.STRIP, Normalisation.LOWER), 8)
    assert clients.indexes == (SearchIndex("email", "o", "e", form),)
    assert people.indexes == (SearchIndex("email", "o", "e", IndexForm("x.y")),)
    assert clients.columns == ("email", "phone")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(table('{ of = "mail", odd = "o", even = "e" }'), "none of its whole encrypted", id="of nothing"),
        pytest.param(
            table('{ of = "doc.a", odd = "o", even = "e" }', columns='{ column = "doc", path = ["a"] }'),
            "none of its whole encrypted",
            id="of a value in a document",
        ),
        pytest.param(table('{ of = "email", odd = "o" }'), "even", id="one column"),
        pytest.param(table('{ of = "email", odd = "o", even = "o" }'), "column o is named twice", id="the same twice"),
        pytest.param(
            table(EMAIL + ', { of = "phone", odd = "p", even = "e" }'), "column e is named twice", id="one for two"
        ),
        pytest.param(
            table(EMAIL + ', { of = "email", odd = "p", even = "q" }'), "two search indexes of email", id="two"
        ),
        pytest.param(
            table('{ of = "email", odd = "phone", even = "e" }'), "column phone is encrypted", id="an encrypted column"
        ),
        pytest.param(table('{ of = "email", odd = "o", even = "e", size_bytes = 1 }'), "size_bytes", id="a byte"),
        pytest.param(
            table('{ of = "email", odd = "o", even = "e", normalise = ["upper"] }'), "normalise", id="an unknown step"
        ),
        pytest.param(
            table('{ of = "e.mail", odd = "o", even = "e" }', columns='"e.mail"'), "holds a dot", id="a name with a dot"
        ),
        pytest.param(
            table(EMAIL) + table(EMAIL, "people", more='bindings = { email = "clients.email" }'),
            "clients.email and people.email are bound to the same label",
            id="one label for two",
        ),
        pytest.param(
            '[format]\nname = "fernet"\nkeys = { env = "K" }\n' + table(EMAIL),
            'indexes of values of "fernet" cannot be rotated yet, only those of our own format',
            id="of another format",
        ),
    ],
)
def test_what_cannot_be_an_index_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse(text, tmp_path / "keyrotation.toml")
    assert sentence in str(refusal.value)
