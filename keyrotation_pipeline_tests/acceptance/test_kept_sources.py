"""Kept values of libraries that do not run here come into our own format, beside the release that reads both."""

import base64
import json
import os
import re
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
import sqlalchemy as sa

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, LegacyKey, MountedKeyRing
from keyrotation_pipeline.fieldcrypto.formats.sources import parsed
from keyrotation_pipeline_tests.acceptance.migrations import Home, Release, home_of
from keyrotation_pipeline_tests.applications import beside

pytestmark = pytest.mark.extended
VECTORS = Path(__file__).parents[1] / "vectors"
ROWS = 120


class Kept(NamedTuple):
    """Values of one library, as they stand in a column of their own, and the key in a variable of its own."""

    form: str
    key: str
    values: Sequence[tuple[str, str | bytes]]

    @property
    def format(self) -> str:
        return parsed(self.form).name

    @property
    def options(self) -> dict[str, str]:
        return dict(parsed(self.form).options)

    @property
    def column(self) -> str:
        return re.sub(r"\W+", "_", self.form)[:40].rstrip("_")

    @property
    def is_bytes(self) -> bool:
        return isinstance(self.values[0][1], bytes)

    @property
    def variable(self) -> str:
        return f"KEY_OF_{self.column.upper()}"

    @property
    def place(self) -> str:
        options = "".join(f', {name} = "{said}"' for name, said in self.options.items())
        declared = f'{{ format = "{self.format}"{options}, keys = {{ env = "{self.variable}" }} }}'
        return f'{{ column = "{self.column}", from = {declared} }}'


def kept() -> list[Kept]:
    made = json.loads((VECTORS / "sources.json").read_text(encoding="utf-8"))
    found = [
        Kept(form, each["key"], [(a, b) for a, b in each["values"]])
        for form, each in made.items()
        if not parsed(form).columns  # nobody reads these by `EncryptedType`
    ]
    of_pgcrypto = json.loads((VECTORS / "pgcrypto.json").read_text(encoding="utf-8"))
    opened = [
        (text, bytes.fromhex(stored))
        for options, values in of_pgcrypto.items()
        if options not in {"disable-mdc=1", "cipher-algo=3des"}
        for text, stored in values
    ]
    return [*found, Kept("pgcrypto-pgp", "the application's passphrase", opened)]


LIBRARIES = kept()
FIRST = len(LIBRARIES) + 2  # v1 is there, and each key of a library has a number


@pytest.fixture
def home(
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    for each in LIBRARIES:
        monkeypatch.setenv(each.variable, each.key)
    columns = f"[{', '.join(each.place for each in LIBRARIES)}]"
    create = ", ".join(f"{each.column} {'bytea' if each.is_bytes else 'text'}" for each in LIBRARIES)
    made = home_of(tmp_path, database_url, (security_officer, privacy_officer), columns, create)
    with psycopg.connect(database_url, autocommit=True) as connection:
        for row in range(ROWS):
            chosen = [each.values[row % len(each.values)] for each in LIBRARIES]
            marks = ", ".join(["%s"] * (len(chosen) + 1))
            connection.execute(f"INSERT INTO cases VALUES ({marks})".encode(), (row, *(each[1] for each in chosen)))
            made.expected[row] = tuple(text for text, _ in chosen)
    made.typed("init")
    made.reported()
    return made


def test_kept_values_are_encrypted_beside_the_release_that_reads_both(home: Home) -> None:
    def types(keys: MountedKeyRing) -> dict[str, sa.types.TypeEngine[Any]]:
        return {
            each.column: EncryptedType(
                keys,
                encrypted_from=FIRST,
                legacy=[LegacyKey(each.format, each.key, **each.options)],
                bytea=each.is_bytes,
            )
            for each in LIBRARIES
        }

    names = tuple(each.column for each in LIBRARIES)
    application = Release(home.url, home.keys, types, home.expected, names, "reads both")
    assert application.read() == home.expected
    request = home.typed("request", "--reason", "one format").splitlines()[-1]
    text = home.typed("approve", request, "--text")
    open_to_change = (f"cases.{each.column}" for each in LIBRARIES if not parsed(each.form).spec.authenticated)
    assert f"\nNot authenticated: {', '.join(open_to_change)}\n" in text
    home.sign(request)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        assert home.said("rotate", request) == ""
    assert application.wrong == []
    assert application.writes > 10
    assert application.read() == home.expected
    stored = [each if isinstance(each, str) else each.decode() for each in home.stored(*names)]
    assert {value.partition(":")[0] for value in stored} == {f"v{FIRST}"}
    table = home.table()
    assert (table["unencrypted"], table["unreadable"]) == (0, 0)
    for each in LIBRARIES:
        late = "decode('c30d', 'hex')" if each.is_bytes else "'U2FsdGVkX19GGbRe'"
        with pytest.raises(psycopg.Error, match="another library is refused"):
            home.execute(f"UPDATE cases SET {each.column} = {late} WHERE id = 1")
    home.typed("verify")
    home.typed("audit", "verify")
