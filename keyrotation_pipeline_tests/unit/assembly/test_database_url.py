"""The URL of the database, before anything is connected to."""

from pathlib import Path

import pytest

from keyrotation_pipeline.assembly.home import database_url
from keyrotation_pipeline.errors import DatabaseUnavailableError
from keyrotation_pipeline.settings import parse

TABLE = '[[tables]]\nname = "clients"\ncolumns = ["email"]\n'


@pytest.mark.parametrize(
    "url",
    ["postgresql://app:hunter2@db/clinic?ssl=1", "postgresql://app:hunter2…@db/clinic?sslmod=require", "db hunter2"],
)
def test_what_is_no_connection_string_is_refused_in_a_sentence_without_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLINIC_URL", url)
    declared = parse(f'[database]\nurl = {{ env = "CLINIC_URL" }}\n{TABLE}', tmp_path / "keyrotation.toml")
    with pytest.raises(DatabaseUnavailableError, match=r"\[database\] url .*write postgresql://user") as refusal:
        database_url(declared).__enter__()
    assert "hunter2" not in str(refusal.value)
