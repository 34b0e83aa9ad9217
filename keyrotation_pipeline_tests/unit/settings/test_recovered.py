"""The configuration of a backup on another machine: which of its files count, and what it then says."""

import tomllib
from pathlib import Path

import pytest

from keyrotation_pipeline.errors import ConfigurationError, DamagedBackupError
from keyrotation_pipeline.settings.recovered import backed_up, over_database, to_provide, url_assignment

TABLES = '[[tables]]\nname = "clients"\ncolumns = ["a"]\n'
OFFICER = '[[approvals.officers]]\nname = "A"\ncertificate = "{}"\n'
VARIABLE = {"url": {"env": "KEYROTATION_DATABASE_URL"}}


@pytest.mark.parametrize(
    ("named", "stored", "written"),
    [
        pytest.param("officers/a.asc", "officers/a.asc", "officers/a.asc", id="next to the configuration"),
        pytest.param("./officers/a.asc", "officers/a.asc", "officers/a.asc", id="the same, written otherwise"),
        pytest.param("/etc/kr/officers/a.asc", "officers/a.asc", "officers/a.asc", id="absolute, within its directory"),
        pytest.param("/srv/a.asc", "elsewhere/srv/a.asc", "elsewhere/srv/a.asc", id="outside of its directory"),
        pytest.param("../shared/a.asc", "elsewhere/etc/shared/a.asc", "elsewhere/etc/shared/a.asc", id="above it"),
    ],
)
def test_a_certificate_is_written_into_the_directory_and_named_there(named: str, stored: str, written: str) -> None:
    files = {"keyrotation.toml": f"{TABLES}{OFFICER.format(named)}".encode(), stored: b"certificate", "x/evil": b"x"}
    found = backed_up(files)
    assert found.files == {written: b"certificate"}, "and nothing that the configuration does not name"
    assert tomllib.loads(found.text)["approvals"]["officers"][0]["certificate"] in {named, written}
    path = Path("/new/folder/keyrotation.toml")
    (officer,) = over_database(found.text, path, "dbname=x").approvals.officers
    assert officer.certificate == path.parent / written


def test_an_ssh_key_is_written_as_a_certificate_is() -> None:
    officer = '[[approvals.officers]]\nname = "B"\nssh_key = "/srv/b.pub"\n[backup]\nrecipients = ["a.asc"]\n'
    stored = {"elsewhere/srv/b.pub": b"ssh-ed25519 AAAA\n", "a.asc": b"certificate"}
    found = backed_up({"keyrotation.toml": f"{TABLES}{officer}".encode(), **stored})
    assert found.files == stored
    (read,) = over_database(found.text, Path("/new/keyrotation.toml"), "dbname=x").approvals.officers
    assert (read.certificate, read.ssh_key) == (None, Path("/new/elsewhere/srv/b.pub"))


@pytest.mark.parametrize(
    ("text", "database"),
    [
        pytest.param("", VARIABLE, id="the embedded one"),
        pytest.param("[database]\n# url = …\n", VARIABLE, id="as init writes it for the embedded one"),
        pytest.param('[database]  # ours\nurl = "postgresql://db/lost"\n', VARIABLE, id="a plain address"),
        pytest.param(
            '[database]\nstandbys = [{ env = "FAR" }]\nurl = "host=db"\n[keys]\n',
            VARIABLE | {"standbys": [{"env": "FAR"}]},
            id="with others",
        ),
        pytest.param(
            '[database]\nschema = "x"\nurl = "host=db"\n', VARIABLE | {"schema": "x"}, id="a schema of its own"
        ),
        pytest.param('database.url = "postgresql://db/lost"  # ours\n', VARIABLE, id="with a dot"),
        pytest.param(
            'database.schema = "x"\n database . url = "host=db"\n', VARIABLE | {"schema": "x"}, id="several with dots"
        ),
        pytest.param('[database]\nurl = { env = "CLINIC" }\n', {"url": {"env": "CLINIC"}}, id="a variable"),
        pytest.param('database.url = { file = "url" }\n', {"url": {"file": "url"}}, id="a file"),
    ],
)
def test_the_new_database_is_named_where_the_configuration_says(text: str, database: dict[str, object]) -> None:
    found = backed_up({"keyrotation.toml": f"{text}{TABLES}".encode()})
    assert tomllib.loads(found.text) == tomllib.loads(f"{text}{TABLES}") | {"database": database}


def test_an_address_that_cannot_be_replaced_is_said_to_be_one() -> None:
    text = f'database = {{ url = "postgresql://db/lost" }}\n{TABLES}'
    found = backed_up({"keyrotation.toml": text.encode()})
    assert found.text == text
    assert url_assignment(found.text) == "write as [database] url in keyrotation.toml: "


def test_variables_and_files_that_are_not_here_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IS_SET", "x")
    (tmp_path / "here").touch()
    text = (
        '[database]\nurl = { env = "NOT_THE_URL" }\nstandbys = [{ env = "FAR" }, { file = "here" }]\n'
        '[alerts]\nwebhook_url = { env = "IS_SET" }\n[recovery]\nsecret_key = { file = "/media/key" }\n'
        'gnupg_home = "/nowhere/gnupg"\n[audit]\ntimestamp_certificates = ["here", "tsa.pem"]\n'
    ) + OFFICER.format("a.asc")
    text += '[format]\nname = "fernet"\nkeys = { env = "IN_THE_KEY_STORE" }\n'
    assert to_provide(text, tmp_path) == (
        "set FAR, which [database] standbys names",
        "put the file /media/key there, which [recovery] secret_key names",
        "put tsa.pem there, which [audit] timestamp_certificates names",
        "put /nowhere/gnupg there, which [recovery] gnupg_home names",
        "put the certificate a.asc there; the backup does not have it",
    )


def test_a_recovery_needs_no_secret_and_no_host_of_the_configuration(tmp_path: Path) -> None:
    text = f'[alerts]\nwebhook_url = {{ env = "NOT_SET" }}\n{TABLES}'
    settings = over_database(text, tmp_path / "keyrotation.toml", "dbname=x password=y")
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == "dbname=x password=y"
    assert "password" not in repr(settings)
    assert settings.database.schema_name == "keyrotation"
    named = over_database(f'{text}[database]\nschema = "shop_keys"\n', tmp_path / "keyrotation.toml", "dbname=x")
    assert named.database.schema_name == "shop_keys"
    with pytest.raises(ConfigurationError, match="cannot be the schema of a home"):
        over_database(f'{text}[database]\nschema = "public"\n', tmp_path / "keyrotation.toml", "dbname=x")
    with pytest.raises(ConfigurationError, match="names no table"):
        over_database("", tmp_path / "keyrotation.toml", "dbname=x")


@pytest.mark.parametrize("files", [{}, {"other.toml": b""}, {"keyrotation.toml": b"\xff"}, {"keyrotation.toml": b"["}])
def test_what_holds_no_configuration_is_refused(files: dict[str, bytes]) -> None:
    with pytest.raises(DamagedBackupError, match=r"holds no keyrotation\.toml that can be read"):
        backed_up(files)
