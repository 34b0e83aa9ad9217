"""Applications with the real libraries, rotated by what their guides print, while they write and restart."""

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests.acceptance.marked_applications import (
    HAS_CLOAK,
    HAS_RAILS,
    MarkedProject,
    cloak,
    deterministic_rails,
    rails,
    rails_with_envelopes,
)
from keyrotation_pipeline_tests.acceptance.test_fernet_applications import Clinic, officers  # noqa: F401
from keyrotation_pipeline_tests.officers import roster_in_toml

TABLE = '[[tables]]\nname = "clients"\ncolumns = ["name", "note"]\n'
Made = Callable[[str, Path], MarkedProject]


def home(application: MarkedProject, people: tuple[DemoOfficer, ...]) -> Clinic:
    """A home for an application that has written its rows with the older of two keys."""
    keys = [application.library.generate() for _ in range(2)]
    file = application.folder / "keyrotation.toml"
    named = roster_in_toml(people)
    mode = "attest" if application.reports else "confirm"
    file.write_text(
        f'database.url = "{application.url}"\nrollout = {{ mode = "{mode}", timeout_seconds = 1 }}\n'
        f"[approvals]\nrequired = 2\n{named}"
        "[reencryption]\nshards = 1\nduty_cycle = 1.0\n"
        f'[format]\n{application.library.format}\nkeys = {{ env = "{application.variable}" }}\n{TABLE}'
    )
    with psycopg.connect(application.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text, note varchar(2000))")
    application.seed([keys[1]])
    found = Clinic(file, people, application)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(application.variable, application.library.write(application.library.in_order(keys)))
        found.typed("init")
    assert application.listed() == application.library.in_order(keys)
    return found


def refusal(application: MarkedProject, key: str) -> str:
    """How the database refuses a value of a key."""
    late = application.library.alone(key).encrypt(b"late").decode()
    with psycopg.connect(application.url, autocommit=True) as connection:
        try:
            connection.execute("UPDATE clients SET name = %s WHERE id = 1", (late,))
        except psycopg.errors.InvalidTextRepresentation as error:
            said = " ".join(str(getattr(error.diag, each)) for each in dir(error.diag) if each.startswith("message"))
            assert late not in said
            return said
    return ""


@pytest.mark.extended
@pytest.mark.parametrize(
    "made",
    [
        pytest.param(rails, id="Rails", marks=pytest.mark.skipif(not HAS_RAILS, reason="activerecord is not here")),
        pytest.param(
            rails_with_envelopes,
            id="Rails, envelopes",
            marks=pytest.mark.skipif(not HAS_RAILS, reason="activerecord is not here"),
        ),
        pytest.param(
            deterministic_rails,
            id="Rails, deterministic",
            marks=pytest.mark.skipif(not HAS_RAILS, reason="activerecord is not here"),
        ),
        pytest.param(cloak, id="47ng", marks=pytest.mark.skipif(not HAS_CLOAK, reason="@47ng/cloak is not here")),
    ],
)
def test_an_application_is_rotated_and_rolled_back_while_it_writes(
    made: Made,
    tmp_path: Path,
    database_url: str,
    officers: tuple[DemoOfficer, ...],  # noqa: F811
) -> None:
    application = made(database_url, tmp_path)
    place = home(application, officers)
    older, old = reversed(application.library.in_order(application.listed()))
    with application.at_work():
        request = place.finished("request", "--reason", "yearly")
        (new,) = application.listed()
        assert "key version v2 is retired" in refusal(application, old)
        assert "key version v1 is retired" in refusal(application, older)
        place.finished("rollback", request)
    assert (application.wrong, application.writes > 20) == ([], True)
    assert application.listed() == [old]
    application.require_read([old])
    assert "key version v3 is retired" in refusal(application, new)
    (table,) = place.shown("status")["tables"]
    assert (table["identified_by"], table["values_by_version"]["v2"]) == ("marker", 80)
