"""What is pasted as a superuser gives roles what they had, says nothing else, and makes nobody a superuser."""

import re

import pytest

from keyrotation_pipeline.adapters.postgres.server.role_sql import quoted, role_sql
from keyrotation_pipeline.model.undumped import DatabaseRole, Membership, RoleAttribute, Roles
from keyrotation_pipeline.model.visible_text import is_hidden

SUPERUSER, LOGIN, CREATEDB, CREATEROLE, *_, NOINHERIT = RoleAttribute
V15, V18 = 150_000, 180_000
BOSS = DatabaseRole("boss", (SUPERUSER,))
OWNER, WEB = DatabaseRole("owner"), DatabaseRole("web")
NAME = r'(?:"[\w .@-]*"|U&"(?:[\w .@-]|\\[0-9A-F]{4}|\\\+[0-9A-F]{6})*")'
STATEMENT = re.compile(f"CREATE ROLE {NAME};|ALTER ROLE {NAME} LOGIN;|GRANT {NAME} TO {NAME};")
GRANT = 'GRANT "owner" TO "web" WITH'
UNTIL = "2027-01-01T00:00:00+00:00"


@pytest.mark.parametrize(
    ("wanted", "here", "version", "statements"),
    [
        pytest.param(
            [DatabaseRole("web", (LOGIN,), 5, UNTIL)],
            [],
            V18,
            ['CREATE ROLE "web";', f"ALTER ROLE \"web\" LOGIN CONNECTION LIMIT 5 VALID UNTIL '{UNTIL}';"],
            id="a role that is not there",
        ),
        pytest.param(
            [DatabaseRole("web", (LOGIN, NOINHERIT))],
            [WEB],
            V18,
            ['ALTER ROLE "web" LOGIN NOINHERIT;'],
            id="one that the restore has made",
        ),
        pytest.param(
            [DatabaseRole("web", (LOGIN, CREATEDB, NOINHERIT), 5)],
            [DatabaseRole("web", (LOGIN,))],
            V18,
            ['ALTER ROLE "web" CREATEDB;'],
            id="one that is in use there is not restricted",
        ),
        pytest.param([WEB], [DatabaseRole("web", (LOGIN, CREATEDB))], V18, [], id="nothing is taken away"),
        pytest.param([OWNER, WEB, Membership("owner", "web")], [], V15,
                     ['CREATE ROLE "owner";', 'CREATE ROLE "web";', 'GRANT "owner" TO "web";'], id="a member"),
        pytest.param([OWNER, WEB, Membership("owner", "web", admin=True)], [OWNER, WEB], V15,
                     [f"{GRANT} ADMIN OPTION;"], id="its administrator, before 16"),
        pytest.param([OWNER, WEB, Membership("owner", "web", True, False, False)], [OWNER, WEB], V18,
                     [f"{GRANT} ADMIN TRUE, INHERIT FALSE, SET FALSE;"], id="with options"),
        pytest.param([OWNER, DatabaseRole("web", (NOINHERIT,)), Membership("owner", "web")], [OWNER, WEB], V18,
                     ['ALTER ROLE "web" NOINHERIT;', f"{GRANT} ADMIN FALSE, INHERIT TRUE, SET TRUE;"],
                     id="which the attribute does not give"),
        pytest.param([OWNER, WEB, Membership("owner", "web")],
                     [OWNER, WEB, Membership("owner", "web", True, False, True)], V18,
                     [f"{GRANT} ADMIN TRUE, INHERIT TRUE, SET TRUE;"], id="a membership with less"),
        pytest.param([OWNER, WEB, Membership("owner", "web")], [OWNER, WEB, Membership("owner", "web", admin=True)],
                     V18, [], id="a membership with more"),
        pytest.param([WEB, Membership("pg_read_all_data", "web")], [DatabaseRole("pg_read_all_data"), WEB], V18,
                     ['GRANT "pg_read_all_data" TO "web";'], id="a predefined role"),
    ],
)  # fmt: skip
def test_a_role_gets_what_it_had(
    wanted: list[DatabaseRole | Membership], here: list[DatabaseRole | Membership], version: int, statements: list[str]
) -> None:
    assert list(role_sql(roles(*wanted), roles(*here), version).statements) == statements


def roles(*described: DatabaseRole | Membership) -> Roles:
    return Roles(
        tuple(each for each in described if isinstance(each, DatabaseRole)),
        tuple(each for each in described if isinstance(each, Membership)),
    )


FILES = DatabaseRole("pg_write_server_files")


@pytest.mark.parametrize(
    ("wanted", "here", "version", "apart"),
    [
        pytest.param([DatabaseRole("web", (SUPERUSER,))], [WEB], V18, '"web" was a superuser', id="a superuser"),
        pytest.param([BOSS, WEB, Membership("boss", "web")], [BOSS, WEB], V18, '"web" was a member of "boss"',
                     id="a superuser's role"),
        pytest.param([OWNER, WEB, Membership("owner", "web")], [BOSS, OWNER, WEB, Membership("boss", "owner")], V18,
                     '"web" was a member of "owner", and would have a superuser\'s', id="one that leads to it here"),
        pytest.param([OWNER, WEB, Membership("owner", "web")], [DatabaseRole("owner", (SUPERUSER,)), WEB], V18,
                     '"web" was a member of "owner", and would have', id="a plain role that is a superuser here"),
        pytest.param([WEB, Membership("pg_write_server_files", "web")], [FILES, WEB], V18,
                     "would have a superuser's power", id="a predefined role of such power"),
        pytest.param([DatabaseRole("web", (LOGIN,))], [DatabaseRole("web", (SUPERUSER,))], V18,
                     "had LOGIN, and has a superuser's power", id="a superuser here, who cannot log in"),
        pytest.param([DatabaseRole("web", (LOGIN, NOINHERIT))], [DatabaseRole("web", (LOGIN,))], V18,
                     '"web" had NOINHERIT, and inherits', id="rights that were not inherited"),
        pytest.param([DatabaseRole("web", (CREATEROLE,))], [WEB], V15, '"web" had CREATEROLE', id="CREATEROLE in 15"),
        pytest.param([OWNER, WEB, Membership("owner", "web")], [DatabaseRole("owner", (CREATEROLE,)), WEB], V15,
                     "would have a superuser's power", id="a member of CREATEROLE in 15"),
        pytest.param([DatabaseRole("a" * 63 + "b", (LOGIN,))], [DatabaseRole("a" * 63, (SUPERUSER,))], V18,
                     "no role of this server can have the name", id="a name that would be shortened"),
        pytest.param([WEB, Membership("boss" + "s" * 60, "web")], [WEB], V18, "this server has no such role",
                     id="a membership in nothing"),
        pytest.param([WEB, Membership("owner", "pg_monitor")], [WEB], V18, "this server has no such role",
                     id="a member that is not there"),
        pytest.param([DatabaseRole("pg_monitor", (LOGIN,))], [DatabaseRole("pg_monitor")], V18,
                     "no role of this server can have the name", id="a predefined role"),
    ],
)  # fmt: skip
def test_power_is_named_apart_and_never_granted(
    wanted: list[DatabaseRole | Membership], here: list[DatabaseRole | Membership], version: int, apart: str
) -> None:
    done = role_sql(roles(*wanted), roles(*here), version)
    assert done.statements == ()
    assert [each for each in done.apart if apart in each], done.apart
    assert max(map(len, done.apart)) <= 200


def test_what_a_role_has_beyond_stays_and_is_named() -> None:
    done = role_sql(roles(WEB), roles(DatabaseRole("web", (SUPERUSER, LOGIN))), V18)
    assert done.apart == ('"web" has LOGIN, SUPERUSER on this server, had not, and keeps it',)


HOSTILE = (
    'web"; ALTER ROLE mallory SUPERUSER; --', "web\n\\! touch /tmp/pwned", "\\gexec", "$(id)", "`id`", ":'x'", "x;y",
    "tab\there", "\x1b[2Jx", "\u202egnp.evil", "z\u200bero", "\u3164", "it's", "U&\\0022", "*/", "😀", "a\\", "$$",
)  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_says_anything_to_a_terminal_a_shell_or_psql(name: str) -> None:
    done = role_sql(roles(DatabaseRole(name, (LOGIN,)), OWNER, Membership("owner", name)), roles(), V18)
    assert len(done.statements) == 4
    assert all(map(STATEMENT.fullmatch, done.statements)), done.statements
    assert not any(map(is_hidden, done.statements))


def test_names_that_harm_nothing_are_shown_as_they_are() -> None:
    assert [*map(quoted, ("keyrotation", "Ärztin 2", "web-1.a@b"))] == ['"keyrotation"', '"Ärztin 2"', '"web-1.a@b"']
