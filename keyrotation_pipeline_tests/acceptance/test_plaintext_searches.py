"""A unique column of plaintext is encrypted with a search index, and is searched and kept unique all the while."""

import base64
import os
import threading
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.encrypted_type import EncryptedType, MountedKeyRing, SearchIndex, matches
from keyrotation_pipeline_tests.acceptance.migrations import Home, Release, home_of
from keyrotation_pipeline_tests.applications import beside

pytestmark = pytest.mark.extended
ROWS = 100
NORMALISE = ("strip", "lower")
COLUMNS = """[{ column = "email", from = "plaintext" }]
indexes = [{ of = "email", odd = "odd", even = "even", normalise = ["strip", "lower"] }]"""
CREATE = "email text, odd text, even text"


class Searching(Release):
    """Finds rows by their address in any spelling, and tries to store each twice, once every row has an index."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.columns = ("email",)
        self.searches = self.refused = 0
        self.has_indexes = False

    def save_all(self) -> None:
        with self.engine.begin() as connection:
            for row, (email,) in self.expected.items():
                changed = {"email": email, "odd": email, "even": email}
                connection.execute(sa.update(self.case).where(self.case.id == row).values(changed))
        self.has_indexes = True

    def work(self, stop: threading.Event) -> None:
        chance = Random(self.label)
        while not stop.wait(0.01):
            row, other = chance.randrange(ROWS), chance.randrange(ROWS)
            if row % 2 == 0 or row == other:
                continue  # nobody writes those
            with Session(self.engine) as session:
                self.find(session, row)
                self.write(session, row)
            self.write_twice(row, other)

    def find(self, session: Session, row: int) -> None:
        email = self.expected[row][0]
        found = session.scalars(sa.select(self.case.id).where(matches(self.case.email, f" {email.upper()}"))).all()
        if list(found) != [row]:
            self.wrong.append(f"{row}: found {found}")
        self.searches += 1

    def write(self, session: Session, row: int) -> None:
        self.writes += 1
        session.get_one(self.case, row).email = f"v1: {row}.{self.writes}@example.org"
        session.commit()
        self.expected[row] = (f"v1: {row}.{self.writes}@example.org",)

    def write_twice(self, row: int, other: int) -> None:
        with Session(self.engine) as session:
            taken = session.scalars(sa.select(self.case.id).where(matches(self.case.email, self.expected[other][0])))
            if list(taken) != [other]:
                self.wrong.append(f"{other}: not found")
            if not self.has_indexes:
                return
            session.get_one(self.case, row).email = self.expected[other][0]
            try:
                session.commit()
                self.wrong.append(f"{row}: has the address of {other}, too")
            except sa.exc.IntegrityError:
                self.refused += 1


@pytest.fixture(params=["without a key", "with a key"])
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database_url: str,
    security_officer: DemoOfficer,
    privacy_officer: DemoOfficer,
    already_migrated: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Home:
    monkeypatch.delenv("ENCRYPTION_MASTER_KEY", raising=False)
    if request.param == "with a key":
        monkeypatch.setenv("ENCRYPTION_MASTER_KEY", base64.b64encode(os.urandom(32)).decode())
    made = home_of(tmp_path, database_url, (security_officer, privacy_officer), COLUMNS, CREATE)
    made.execute("CREATE UNIQUE INDEX by_email ON cases (lower(email))")
    for row in range(ROWS):
        made.expected[row] = (f"v1: {row}@example.org" if row % 5 else f"{row}@Example.org",)
        made.execute(f"INSERT INTO cases VALUES ({row}, '{made.expected[row][0]}')")
    made.typed("init")
    made.reported()
    return made


def application_of(home: Home) -> Searching:
    def types(keys: MountedKeyRing) -> dict[str, sa.types.TypeEngine[Any]]:
        return {
            "email": EncryptedType(keys, encrypted_from=1 if not list(home.keys.glob("v1.key")) else 2),
            "odd": SearchIndex(keys, of="email", odd=True, normalise=NORMALISE),
            "even": SearchIndex(keys, of="email", odd=False, normalise=NORMALISE),
        }

    return Searching(home.url, home.keys, types, home.expected, ("email",), "searching")


def test_every_address_is_found_and_none_stored_twice_while_it_is_encrypted(home: Home) -> None:
    said = home.said("request", "--reason", "encrypt the addresses")
    assert "drop it, or declare a search index with a unique index on both its columns" in said
    home.execute("CREATE UNIQUE INDEX by_odd ON cases (odd)", "CREATE UNIQUE INDEX by_even ON cases (even)")
    application = application_of(home)
    if (home.keys / "v1.key").exists():
        application.save_all()
    request = home.typed("request", "--reason", "encrypt the addresses").splitlines()[-1]
    home.sign(request)
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        assert home.said("rotate", request) == ""
    assert application.wrong == []
    assert application.searches > 5
    assert (application.refused > 5) is application.has_indexes
    application.has_indexes = True
    assert application.read() == home.expected
    with Session(application.engine) as session:
        for row in range(ROWS):
            application.find(session, row)
    assert application.wrong == []
    assert len({value[:3] for value in home.stored("email")}) == 1
    assert home.shown("inventory")["unindexed_rows"] == {"cases": 0}
    assert home.shown("verify")["failures"] == 0
    home.execute("DROP INDEX by_email")
    application.refused = 0
    with ExitStack() as running:
        running.callback(application.attest().stop)
        running.enter_context(beside(application.work))
        again = home.typed("request", "--reason", "yearly").splitlines()[-1]
        home.sign(again)
        assert home.said("rotate", again) == ""
    assert (application.wrong, application.refused > 5) == ([], True)
    assert home.shown("verify")["failures"] == 0
