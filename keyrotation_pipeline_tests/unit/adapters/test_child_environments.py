"""What programs of others get of our environment, and what stands in their arguments: real children tell it."""

import sys
from pathlib import Path

import pytest

from keyrotation_pipeline.adapters.openpgp import runner
from keyrotation_pipeline.adapters.postgres.server import dump
from keyrotation_pipeline.adapters.postgres.server.archive import run_on
from keyrotation_pipeline.adapters.postgres.server.programs import Programs

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

TELLING = "#!/bin/sh\ncat /proc/self/environ /proc/$$/cmdline\n"
OURS = {
    "ENCRYPTION_MASTER_KEY": "a-key",
    "AWS_SECRET_ACCESS_KEY": "for-aws",
    "KEYROTATION_DATABASE_URL": "postgresql://keyrotation:geheim@db/clinic",
}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    """A pg_dump, a pg_restore and a gpg that print environment and arguments; our own environment holds secrets."""
    for name in ("pg_dump", "pg_restore", "gpg"):
        (tmp_path / name).write_text(TELLING)
        (tmp_path / name).chmod(0o755)
    for name, value in OURS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return Programs(tmp_path)


def shown(reported: bytes) -> tuple[dict[str, str], list[str]]:
    """The environment and the arguments."""
    parts = reported.decode().rstrip("\0").split("\0")
    first = next(at for at, part in enumerate(parts) if "=" not in part)
    return dict(part.split("=", 1) for part in parts[:first]), parts[first:]


def test_gpg_gets_nothing_of_our_environment(programs: Programs, tmp_path: Path) -> None:
    environment, arguments = shown(runner.run(tmp_path, ["--list-keys"]).output)
    assert set(environment) - {"PWD", "SHLVL", "_", "OLDPWD"} == {"LC_ALL"}
    assert "--list-keys" in arguments


@pytest.mark.parametrize("name", ["pg_dump", "pg_restore"])
def test_clients_of_postgresql_get_the_password_by_its_variable_and_nothing_else(programs: Programs, name: str) -> None:
    command, variables = programs.command(name, "--no-password"), programs.environment(OURS["KEYROTATION_DATABASE_URL"])
    if name == "pg_dump":
        with dump._running(command, variables) as stream:  # noqa: SLF001  how pg_dump is started
            reported = stream.read()
    else:
        with Path("/dev/null").open("rb") as nothing:
            reported = run_on(nothing, command, variables).stdout
    environment, arguments = shown(reported)
    assert not set(OURS) & set(environment)
    assert environment["PGPASSWORD"] == "geheim"
    assert [part for part in (*arguments, *environment.values()) if "a-key" in part or "for-aws" in part] == []
    assert not any("geheim" in part for part in arguments)


def test_what_a_connection_string_leaves_out_is_as_in_our_own_connections(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGUSER": "backup", "PGPORT": "6432", "PGPASSWORD": "of the variable"}.items():
        monkeypatch.setenv(name, value)
    found = programs.environment("postgresql://db:7000/clinic")
    assert (found["PGUSER"], found["PGPORT"], found["PGPASSWORD"]) == ("backup", "7000", "of the variable")
    assert "PGUSER" not in programs.environment()


def test_a_service_is_looked_for_where_our_own_connections_look(
    programs: Programs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGSERVICEFILE", "/etc/clinic/services")
    found = programs.environment("postgresql://?service=south")
    assert (found["PGSERVICE"], found["PGSERVICEFILE"]) == ("south", "/etc/clinic/services")
    assert "PGSERVICEFILE" not in programs.environment()
