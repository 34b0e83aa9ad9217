"""`from = "plaintext"`: where it may stand, and what is said where it may not."""

from pathlib import Path

import pytest

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline_tests.unit.settings.test_loading import read

TABLE = '[[tables]]\nname = "cases"\ncolumns = ["name", {}]\n'
NOTE = '{ column = "note", from = "plaintext" }'


def test_a_column_of_plaintext_is_declared(tmp_path: Path) -> None:
    (table,) = read(TABLE.format(NOTE), tmp_path).encrypted_tables
    assert (table.columns, table.begun) == (("name", "note"), ("note",))
    assert table.label("note") == "cases.note"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(TABLE.format('{ column = "note", from = "text" }'), "plaintext", id="another source"),
        pytest.param(
            TABLE.format('{ column = "note", from = "plaintext", elements = true }'), "leave one out", id="elements"
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
            'write mode = "attest" until the column is encrypted',
            id="Pods",
        ),
        pytest.param(
            TABLE.format(NOTE) + '[tables.row]\nkey = "id"\nfrom = 3\n',
            "and note, which is more than that",
            id="bound to rows",
        ),
        pytest.param(
            TABLE.format(NOTE) + '[[tables.indexes]]\nof = "note"\nodd = "o"\neven = "e"\n',
            "has a search index of note",
            id="a search index",
        ),
    ],
)
def test_where_it_may_not_stand_one_sentence_says_why(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(text, tmp_path)
    assert sentence in str(refused.value)
