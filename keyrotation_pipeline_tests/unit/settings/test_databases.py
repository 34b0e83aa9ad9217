"""`[[databases]]`: which tables are where, and what works in a single database alone."""

from pathlib import Path

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.errors import ConfigurationError

MEMBERS = '[[databases]]\nname = "north"\nurl = "north"\n[[databases]]\nname = "south"\nurl = "south"\n'
RULE = '[[databases]]\nname = "t_*"\nurl = "t"\nquery = "SELECT name FROM tenants"\n'
CLIENTS = '[[tables]]\nname = "clients"\ncolumns = ["name"]\n'
PLAIN, LIBRARY = '"plaintext"', '{ format = "awx", field = "n", keys = { env = "K" } }'
BEGUN = f'[[tables]]\nname = "c"\ncolumns = [{{ column = "n", from = {PLAIN} }}]\n'


def loaded(folder: Path, text: str) -> settings.Settings:
    (folder / "keyrotation.toml").write_text(text)
    return settings.load(folder / "keyrotation.toml")


def test_members_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    south_first = "[[databases]]" + "[[databases]]".join(reversed(MEMBERS.split("[[databases]]")[1:]))
    both = f'{CLIENTS}databases = "*"', f'{CLIENTS}databases = ["south", "north"]'
    found = [loaded(tmp_path, f"{members}{tables}") for members in (MEMBERS, south_first) for tables in both]
    assert {tuple(str(each.name) for each in one.encrypted_tables) for one in found} == {
        ("north:clients", "south:clients")
    }
    assert {tuple(each.name for each in one.databases) for one in found} == {("north", "south")}


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        pytest.param(CLIENTS, ["clients"], id="one database"),
        pytest.param(
            f'{MEMBERS}{CLIENTS}{CLIENTS}databases = "*"', ["clients", "north:clients", "south:clients"], id="all"
        ),
        pytest.param(
            f'{MEMBERS}{CLIENTS}databases = ["south"]\n[[tables]]\nname = "b.notes"\ncolumns = ["x"]\n'
            'databases = ["north"]',
            ["south:clients", "north:b.notes"],
            id="each its own",
        ),
    ],
)
def test_a_table_is_in_the_databases_that_it_names(tmp_path: Path, text: str, tables: list[str]) -> None:
    assert [str(each.name) for each in loaded(tmp_path, text).encrypted_tables] == tables


def test_a_column_of_each_member_may_come_from_plaintext_or_each_from_a_form_under_its_own_label(
    tmp_path: Path,
) -> None:
    other = BEGUN.replace(PLAIN, LIBRARY).replace("columns", 'bindings = { n = "other" }\ncolumns')
    for text in (f'{BEGUN}{BEGUN}databases = "*"', f'{BEGUN}databases = ["north"]\n{other}databases = ["south"]'):
        tables = loaded(tmp_path, f"{MEMBERS}{text}").encrypted_tables
        assert all(table.begun == ("n",) for table in tables)


def test_members_by_a_rule_have_its_tables_and_one_by_name_its_own(tmp_path: Path) -> None:
    named = '[[databases]]\nname = "t_1"\nurl = "elsewhere"\n'
    found = loaded(
        tmp_path,
        f'{RULE}gone = ["t_3"]\n{named}{CLIENTS}databases = ["t_*"]\n[[tables]]\nname = "o"\n'
        'columns = ["x"]\ndatabases = ["t_1"]',
    )
    assert [str(each.name) for each in found.tables_in(["t_2", "t_1", "t_3", "other"])] == ["t_2:clients", "t_1:o"]
    assert (found.named_members, [each.name for each in found.rules]) == (("t_1",), ["t_*"])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(f'{MEMBERS}{CLIENTS}databases = ["nroth", "south"]', "is in nroth, which no", id="unknown"),
        *(
            pytest.param(
                MEMBERS + CLIENTS.replace("clients", name) + f'{CLIENTS}databases = "*"',
                "north:notes reads as a table in a member",
                id=f"the name of another table: {name}",
            )
            for name in ("north:notes", "public.north:notes")
        ),
        pytest.param(f'{MEMBERS}{CLIENTS}databases = ["north"]', r"\[\[databases\]\] south has no table", id="unused"),
        pytest.param(
            f'[[databases]]\nname = "t_*"\nurl = "t"\n{CLIENTS}databases = "*"', r"t_\* has no query", id="no query"
        ),
        pytest.param(
            f'[[databases]]\nname = "t"\nurl = "t"\nquery = "SELECT name FROM tenants"\n{CLIENTS}databases = "*"',
            "t has a query",
            id="no rule",
        ),
        pytest.param(
            f'{RULE}{CLIENTS}databases = "*"'.replace("name FROM", "pg_terminate_backend(pid) FROM"),
            r"query of \[\[databases\]\] t_\* is not like",
            id="a query that calls a function",
        ),
        pytest.param(f'{RULE}gone = ["north"]\n{CLIENTS}databases = "*"', r"t_\* has gone, which", id="gone"),
        pytest.param(f"{RULE}{CLIENTS}", r"t_\* has no table", id="rule without table"),
        pytest.param(
            f'{RULE}{CLIENTS}databases = "*"\n{CLIENTS}databases = ["t_*"]', r"t_\*:clients is listed in two", id="r"
        ),
        pytest.param(f"{MEMBERS}{MEMBERS}{CLIENTS}", "two .* are named north", id="twice"),
        pytest.param(
            f'{MEMBERS}{CLIENTS}databases = "*"\n{CLIENTS}databases = ["south"]',
            "south:clients is listed in two",
            id="t",
        ),
        pytest.param(
            'rollout.mode = "server"\nformat = { name = "vault-transit", transit = "https://vault/v1/transit/keys" }\n'
            f'{MEMBERS}{CLIENTS}databases = "*"',
            'not for the format "vault-transit"',
            id="format",
        ),
        pytest.param(
            f'{MEMBERS}{BEGUN}databases = ["north"]\n{BEGUN.replace(PLAIN, LIBRARY)}databases = ["south"]',
            "c.n is from plaintext in one database and from awx",
            id="two old forms under one label",
        ),
    ],
)
def test_a_configuration_that_could_mislead_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        loaded(tmp_path, text)
