"""`[[databases]]`: which tables are where, and what works in a single database alone."""

from pathlib import Path

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.errors import ConfigurationError

MEMBERS = '[[databases]]\nname = "north"\nurl = "north"\n[[databases]]\nname = "south"\nurl = "south"\n'
CLIENTS = '[[tables]]\nname = "clients"\ncolumns = ["name"]\n'


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


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(f'{MEMBERS}{CLIENTS}databases = ["nroth", "south"]', "is in nroth, which no", id="unknown"),
        pytest.param(f'{MEMBERS}{CLIENTS}databases = ["north"]', r"\[\[databases\]\] south has no table", id="unused"),
        pytest.param(f"{MEMBERS}{MEMBERS}{CLIENTS}", "two .* are named north", id="twice"),
        pytest.param(
            f'{MEMBERS}{CLIENTS}databases = "*"\n{CLIENTS}databases = ["south"]',
            "south:clients is listed in two",
            id="t",
        ),
        pytest.param(
            f'format = {{ name = "fernet", keys = {{ env = "K" }} }}\n{MEMBERS}{CLIENTS}databases = "*"',
            'not for "fernet"',
            id="format",
        ),
        pytest.param(
            f'{MEMBERS}[[tables]]\nname = "c"\ncolumns = [{{ column = "n", from = "plaintext" }}]\ndatabases = "*"',
            "has from, which this version rotates in a single database alone",
            id="from",
        ),
        pytest.param(
            f'{MEMBERS}{CLIENTS}databases = "*"\nrow = {{ key = "id", from = 3 }}', "has row, which this", id="row"
        ),
    ],
)
def test_a_configuration_that_could_mislead_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        loaded(tmp_path, text)
