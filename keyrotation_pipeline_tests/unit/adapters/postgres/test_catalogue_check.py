"""A pg_dump that cannot read the restored database's catalogue is reported in a sentence, whatever it said."""

from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.postgres.server.catalogue_check import differences
from keyrotation_pipeline.adapters.postgres.server.programs import Programs
from keyrotation_pipeline.errors import IncompleteRestoreError


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        pytest.param("kill -KILL $$", "it ended with -9", id="killed without a word"),
        pytest.param("echo no room >&2; echo and more >&2; exit 1", "no room", id="its first line"),
    ],
)
def test_a_pg_dump_that_fails_is_reported(tmp_path: Path, script: str, reason: str) -> None:
    (tmp_path / "pg_dump").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "pg_dump").chmod(0o755)
    programs = Programs(tmp_path)
    with pytest.raises(IncompleteRestoreError, match=rf"pg_dump cannot read its catalogue \({reason}\); correct that"):
        differences(programs, "", "postgresql://nowhere/copy", frozenset(), (), encoding="UTF8", is_same=True)
