"""What pg_restore says of failures becomes phrases without content; what is left out is decided by kind alone."""

import pytest

from keyrotation_pipeline.adapters.postgres.server.restore import ArchiveEntry, _failures
from keyrotation_pipeline.adapters.postgres.server.restore_prerequisites import (
    BY_SUPERUSER,
    Extension,
    Prerequisites,
    is_left_out,
    named_in,
)

TOLD = """pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 2; 3079 16390 EXTENSION citext\x20
pg_restore: error: could not execute query: ERROR:  extension "citext" is not available
Command was: CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA public;
pg_restore: from TOC entry 9; 0 16391 TABLE DATA clients postgres
pg_restore: error: COPY failed for table "clients": ERROR:  invalid input syntax for type integer: "secret"
CONTEXT:  COPY clients, line 1, column id: "secret"
pg_restore: warning: errors ignored on restore: 3
"""


def test_each_failure_is_a_phrase_that_quotes_no_row_and_none_is_forgotten() -> None:
    assert _failures(1, TOLD) == (
        'EXTENSION citext (extension "citext" is not available)',
        "TABLE DATA clients postgres",
        "1 more",
    )


@pytest.mark.parametrize(
    ("code", "told", "failures"),
    [
        pytest.param(0, "", (), id="all restored"),
        pytest.param(1, "", ("1 more",), id="a bad end without a word"),
        pytest.param(0, "pg_restore: warning: errors ignored on restore: 1\n", ("1 more",), id="an error not named"),
    ],
)
def test_a_bad_end_is_a_failure_whatever_is_said(code: int, told: str, failures: tuple[str, ...]) -> None:
    assert _failures(code, told) == failures


def test_what_a_newer_server_wrote_into_the_dump_is_named() -> None:
    told = """pg_restore: from TOC entry 3; 1259 16408 TABLE Termine owner
pg_restore: error: could not execute query: ERROR:  unrecognized parameter "pg_attver"
"""
    assert _failures(1, told) == ('TABLE Termine owner (unrecognized parameter "pg_attver")',)


def test_many_failures_are_shown_in_part_and_counted() -> None:
    failures = _failures(1, "pg_restore: error: x\n" * 1500)
    assert failures[-1] == "500 more"
    assert len(failures) == 1001


@pytest.mark.parametrize(
    ("text", "left_out"),
    [
        ("TABLE public clients postgres", False),
        ("TABLE DATA public SERVER postgres", False),
        ("SCHEMA - public postgres", False),
        ("SCHEMA - tools postgres", True),
        ("EXTENSION - citext ", False),
        ("EXTENSION - postgres_fdw ", True),
        ("COMMENT - EXTENSION citext ", True),
        ("COMMENT public TABLE clients postgres", False),
        ("EVENT TRIGGER - spy postgres", True),
        ("PUBLICATION TABLE public spy clients postgres", True),
        ("FOREIGN TABLE public remote postgres", True),
        ("USER MAPPING - USER MAPPING postgres SERVER other postgres", True),
    ],
)
def test_only_what_holds_no_row_is_left_out(text: str, *, left_out: bool) -> None:
    created = Prerequisites((Extension("pg_stat_statements", "tools"),))
    assert is_left_out(ArchiveEntry(1, text), created) is left_out


def test_extensions_and_roles_are_taken_by_name_from_what_pg_dump_writes() -> None:
    text = """
CREATE EXTENSION IF NOT EXISTS pg_stat_statements WITH SCHEMA "Odd ""tools";
CREATE EXTENSION IF NOT EXISTS plpython3u WITH SCHEMA pg_catalog;
CREATE POLICY seen ON public.clients TO day, "Night ""Nurse" USING ((id > 0));
CREATE POLICY "x TO y" ON public."Odd.Table" AS RESTRICTIVE FOR UPDATE TO PUBLIC WITH CHECK (true);
CREATE POLICY kept ON public.clients FOR SELECT TO auditor;
"""
    assert named_in(text, BY_SUPERUSER) == Prerequisites(
        (Extension("pg_stat_statements", 'Odd "tools'),), ('Night "Nurse', "auditor", "day")
    )
