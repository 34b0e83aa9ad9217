"""The worst day by `keyrotation recover`: what it accepts, what it writes, and what it says to type next."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline.model.backups import signature_name
from keyrotation_pipeline_tests.acceptance import dying_recovery
from keyrotation_pipeline_tests.acceptance.command import Folder, environment
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.backup_sites import write_configuration
from keyrotation_pipeline_tests.lost_clinics import ROLE, EmptyMachine, Forger, tar_of


@pytest.mark.parametrize("home", [True, False], ids=["with a home", "without a home"])
def test_over_an_empty_database_nothing_is_set_up_and_recover_is_named(
    tmp_path: Path, database_url: str, backup_officers: dict[str, DemoOfficer], *, home: bool
) -> None:
    folder = Folder(tmp_path, [])
    write_configuration(tmp_path, database_url, backup_officers, None)
    if home:
        (tmp_path / ".keyrotation").mkdir(mode=0o700)
    before = sorted(tmp_path.rglob("*"))
    for command in (("init",), ("status",), ("status", "--json"), ("restore-key", "v1"), ("restore-key", "--survey")):
        folder.run(*command, expect=1)
        assert "restore a backup: `keyrotation recover`" in folder.printed[-1], command
    assert sorted(tmp_path.rglob("*")) == before
    with psycopg.connect(database_url) as connection:
        found = connection.execute("SELECT FROM pg_namespace WHERE nspname = 'keyrotation'").fetchall()
    assert found == []


def test_without_a_home_there_is_no_embedded_database_to_initialise(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    officers = "".join(f'[[approvals.officers]]\nname = "{each}"\ncertificate = "{each}.asc"\n' for each in "AB")
    (tmp_path / "keyrotation.toml").write_text(f'[[tables]]\nname = "clients"\ncolumns = ["a"]\n{officers}')
    folder.run("init", expect=1)
    assert "and so no embedded PostgreSQL" in folder.printed[-1]
    assert "restore a backup: `keyrotation recover`" in folder.printed[-1]
    assert not (tmp_path / ".keyrotation").exists()


def test_an_empty_folder_gets_database_configuration_home_and_keys(machine: EmptyMachine) -> None:
    done = machine.recover()
    assert machine.values() == machine.lost.values
    assert done["set"] == machine.lost.newest.name
    assert done["rejected"] == {}
    assert done["values_decrypted"] == {"clients": 6, "billing.Invoices": 1}
    assert done["put_back"] == {"v1": "live", "v2": "live"}
    assert (machine.home.stat().st_mode & 0o777, machine.home.is_dir()) == (0o700, True)
    assert "put the file url there, which [database] url names" not in done["to_provide"], "its own line says so"
    assert any(step.startswith(f"write into the file url: 'dbname={machine.into}") for step in done["next"])
    machine.variables()
    machine.folder.run("verify")
    assert done["backup_signer"] != machine.lost.signer
    assert not (machine.home / "recovering.json").exists()
    assert not (machine.home / "recovery").exists()
    assert sorted(path.name for path in (machine.home / "anchors").iterdir()) == ["audit-head.json", "roster.json"]


def test_roles_owners_and_privileges_come_back_and_what_takes_power_is_left_to_a_superuser(
    machine: EmptyMachine,
) -> None:
    done = machine.recover()
    with psycopg.connect(machine.url) as connection:
        owner = connection.execute("SELECT tableowner FROM pg_tables WHERE tablename = 'clients'").fetchone()
        may = connection.execute(f"SELECT has_table_privilege('{ROLE}', 'billing.\"Invoices\"', 'SELECT')").fetchone()
        login = connection.execute(f"SELECT rolcanlogin FROM pg_roles WHERE rolname = '{ROLE}'").fetchone()
        triggers = connection.execute("SELECT evtname FROM pg_event_trigger").fetchall()
    assert (owner, may, login, triggers) == ((ROLE,), (True,), (False,), [])
    assert done["role_statements"] == [f'ALTER ROLE "{ROLE}" LOGIN;']
    assert any(f'by one: "{ROLE}"' in step for step in done["next"])
    assert any("watched" in each for each in done["left_out"])
    file = machine.folder.path / done["for_superuser"]
    assert file.stat().st_mode & 0o777 == 0o600
    with psycopg.connect(machine.url, autocommit=True) as connection:
        lines = file.read_text().splitlines(keepends=True)
        connection.execute("".join(line for line in lines if not line.startswith("\\")).encode())  # of psql
        triggers = connection.execute("SELECT evtname FROM pg_event_trigger").fetchall()
    assert triggers == [("watched",)]
    assert done["failures"] == []


def vouched_for(machine: EmptyMachine, change: Callable[[dict[str, Any]], object]) -> tuple[str, ...]:
    """Changes the newest manifest, which an officer then signs; the options that take it."""
    manifest = machine.backups / machine.lost.newest.name
    content = json.loads(manifest.read_text())
    change(content["dump"])
    manifest.write_text(f"{json.dumps(content, indent=2)}\n")
    signature = machine.folder.path.parent / "manifest.asc"
    signature.write_bytes(machine.lost.officers["security"].sign(manifest.read_bytes(), "--armor"))
    return ("--trust-unsigned", str(signature), "--officer", str(machine.lost.officers["security"].certificate))


def test_a_set_of_an_earlier_version_says_that_it_does_not_record_roles(machine: EmptyMachine) -> None:
    options = vouched_for(machine, lambda dump: dump.pop("undumped"))
    done = machine.recover(*options, signer="")
    assert machine.values() == machine.lost.values
    assert (done["role_statements"], done["roles_to_decide"]) == (None, None)
    assert any(f"the roles {ROLE} cannot log in" in step for step in done["next"])
    assert any(f"{machine.lost.newest.name} does not record roles" in step for step in done["next"])


@pytest.mark.extended
def test_no_statement_makes_a_superuser_whatever_names_are_signed(machine: EmptyMachine) -> None:
    pwned = Path(f"/tmp/pwned{os.getpid()}")  # short enough for the name of a role
    names = [f'a{os.getpid()}"; ALTER ROLE "{ROLE}" SUPERUSER; --', f"b\n\\! touch {pwned}", f"\\! touch {pwned}"]

    def plant(dump: dict[str, Any]) -> None:
        roles = dump["undumped"]["roles"]
        roles["roles"] += [{"name": each, "attributes": ["SUPERUSER", "LOGIN"]} for each in names]
        roles["memberships"] += [{"role": "postgres", "member": ROLE}, {"role": names[0], "member": ROLE}]

    printed = machine.folder.run(*machine.options(*vouched_for(machine, plant), signer=""))
    statements = re.findall(r"(?m)^ {10}(?=[CAG])(.*)$", printed)
    assert len(statements) == 2 * len(names) + 1
    try:
        program = machine.lost.server.binaries / "psql"
        variables = {**environment(), "LD_LIBRARY_PATH": str(program.parents[1] / "lib")}
        command = [str(program), "-X", machine.lost.server.url()]
        subprocess.run(command, input="\n".join(statements), text=True, check=True, env=variables)
        with psycopg.connect(machine.lost.server.url()) as connection:
            superusers = connection.execute("SELECT rolname FROM pg_roles WHERE rolsuper").fetchall()
            made = connection.execute("SELECT count(*) FROM pg_roles WHERE rolname = ANY(%s)", (names,)).fetchall()
        assert (superusers, made, pwned.exists()) == ([("postgres",)], [(len(names),)], False)
        decided = re.findall(r"(?m)^decide +(.*)$", printed)
        assert len([each for each in decided if "was a superuser" in each]) == len(names)
        assert len([each for each in decided if "was a member of" in each]) == 2
    finally:
        with psycopg.connect(machine.lost.server.url(), autocommit=True) as connection:
            for each in names:
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(each)))


def test_a_role_without_superusers_power_brings_everything_back_as_well(machine: EmptyMachine) -> None:
    admin = f"admin_{machine.into}"
    with psycopg.connect(machine.lost.server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {admin} LOGIN CREATEDB CREATEROLE")
    try:
        server = machine.lost.server.url(user=admin)
        documented("recover", machine.folder.run(*machine.options("--json", "--server", server)))
        assert machine.values() == machine.lost.values
    finally:
        with psycopg.connect(machine.lost.server.url(), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {machine.into} WITH (FORCE)")
            connection.execute(f"DROP ROLE IF EXISTS {ROLE}")
            connection.execute(f"DROP OWNED BY {admin}; DROP ROLE {admin}")


def test_only_the_database_is_lost_and_home_configuration_and_keys_stay(machine: EmptyMachine) -> None:
    machine.recover()
    machine.variables()
    (machine.folder.path / f"{machine.into}-for-superuser.sql").unlink()
    files = (path for path in machine.folder.path.rglob("*") if path.is_file() and path.name != "recovered.json")
    before = {path: path.read_bytes() for path in files}
    with psycopg.connect(machine.lost.server.url(), autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {machine.into}")
    backups = machine.home / "backups"
    shutil.copytree(machine.backups, backups, dirs_exist_ok=True)

    done = machine.recover()

    assert machine.values() == machine.lost.values
    assert (done["put_back"], done["backup_signer"], done["written"]) == ({}, None, [])
    after = {path: path.read_bytes() for path in machine.folder.path.rglob("*") if path.is_file()}
    assert {path: after.get(path) for path in before} == before
    assert any("keyrotation reconcile" in step for step in done["next"])


def test_the_newest_set_that_verifies_is_used_and_a_forged_newer_one_is_reported(
    machine: EmptyMachine, forger: Forger
) -> None:
    """Unencrypted, with SQL and a configuration of the forger's: the recipe of the documentation ran both."""
    evil = tar_of({"keyrotation.toml": b"[database]\n", "../evil": b"x", "officers/x.asc": b"x"})
    dump = b"CREATE ROLE evil SUPERUSER LOGIN;\n"
    files = {"database-": forger.stored(dump), "configuration-": forger.stored(evil), "encryption-key-": b"no key"}
    first = forger.set(newer(machine, 1), files)
    second = forger.set(newer(machine, 2), files, public=public_of(machine))  # which names the genuine signer

    done = machine.recover()

    assert done["set"] == machine.lost.newest.name
    assert machine.values() == machine.lost.values
    assert list(done["rejected"]) == [second, first]
    assert "has a signature that is not this pipeline's" in done["rejected"][second]
    assert f"names the signer {forger.signer}" in done["rejected"][first]
    assert not (machine.folder.path / "evil").exists()
    assert not (machine.folder.path.parent / "evil").exists()
    with psycopg.connect(machine.lost.server.url()) as connection:
        assert connection.execute("SELECT FROM pg_roles WHERE rolname = 'evil'").fetchall() == []


def test_nothing_but_a_forged_set_restores_nothing(machine: EmptyMachine, forger: Forger) -> None:
    name = forger.set(newer(machine, 1), {"database-": forger.stored(b"SELECT 1")})
    for path in machine.backups.iterdir():
        if newer(machine, 1) not in path.name:
            path.unlink()
    assert f"the manifest {name} in directory" in machine.refused()
    assert list(machine.folder.path.iterdir()) == []
    assert not machine.database_is_there()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-30] + bytes([content[-30] ^ 1]) + content[-29:])


def swell(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(400 << 20)


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        pytest.param(Path.unlink, "is not in directory", id="missing"),
        pytest.param(cut, "is truncated", id="cut off"),
        pytest.param(flip, "is corrupt", id="one bit"),
        pytest.param(swell, "bytes", id="400 MB"),
    ],
)
def test_of_a_damaged_newest_set_the_one_before_it_is_used(
    machine: EmptyMachine, harm: Callable[[Path], object], sentence: str
) -> None:
    assert machine.lost.newest.dump is not None
    harm(machine.backups / machine.lost.newest.dump.file.name)
    used_before = shutil.disk_usage(machine.folder.path).used
    done = machine.recover()
    assert done["set"] == machine.lost.older.name
    assert sentence in done["rejected"][machine.lost.newest.name]
    assert shutil.disk_usage(machine.folder.path).used - used_before < 200 << 20
    assert machine.values() == machine.lost.values


@pytest.mark.parametrize("file", ["signature", "dump", "key"])
def test_no_older_set_is_taken_while_a_file_of_the_newest_cannot_be_read(machine: EmptyMachine, file: str) -> None:
    newest = machine.lost.newest
    assert newest.dump is not None
    names = {
        "signature": signature_name(newest.name),
        "dump": newest.dump.file.name,
        "key": newest.keys[0].file.name,
    }
    path = machine.backups / names[file]
    content = path.read_bytes()
    path.unlink()
    path.mkdir()  # which cannot be read, also as root
    printed = machine.refused()
    assert f"{path.name} cannot be read from directory" in printed
    assert "name an older set with --set" in printed
    assert not machine.database_is_there()
    path.rmdir()
    path.write_bytes(content)
    assert machine.recover()["set"] == newest.name


def test_a_manifest_that_is_cut_off_is_damaged_and_not_called_forged(machine: EmptyMachine) -> None:
    path = machine.backups / machine.lost.newest.name
    path.write_bytes(path.read_bytes()[:-40])
    rejected = machine.recover()["rejected"][path.name]
    assert "is damaged (it is cut off)" in rejected
    assert "forged" not in rejected


def test_a_set_is_restored_by_its_name_and_never_one_of_the_future(machine: EmptyMachine) -> None:
    done = machine.recover("--set", machine.lost.older.name)
    assert (done["set"], done["rejected"]) == (machine.lost.older.name, {})


def test_without_the_signer_an_officers_signature_over_the_manifest_counts(machine: EmptyMachine) -> None:
    manifest = machine.backups / machine.lost.newest.name
    signature = machine.folder.path.parent / "manifest.asc"
    signature.write_bytes(machine.lost.officers["security"].sign(manifest.read_bytes(), "--armor"))
    (machine.backups / signature_name(manifest.name)).unlink()
    officers = {role: str(each.certificate) for role, each in machine.lost.officers.items()}

    assert "nothing says which backups are yours" in machine.refused(signer="")
    vouched = ("--trust-unsigned", str(signature), "--officer")
    assert "is signed by none of the officers named" in machine.refused(*vouched, officers["privacy"], signer="")
    done = machine.recover(*vouched, officers["security"], signer="")
    assert done["set"] == machine.lost.newest.name
    machine.variables()
    (event,) = [
        each
        for each in json.loads(machine.folder.run("audit", "log", "--json"))
        if each["event"] == "database_restored_beside"
    ]
    assert "signed by an officer" in str(event)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        pytest.param(("--key", "/nowhere/x"), "/nowhere/x cannot be read", id="no recovery key"),
        pytest.param(
            ("--set", "backup-20200101-000000-00000000.json"), "of the name backup-20200101", id="no such set"
        ),
        pytest.param(("--into", "a b"), "is not a valid name", id="no name of a database"),
        pytest.param(("--server", "postgresql://postgres@/x?host=/nowhere"), "no server answers", id="no server"),
    ],
)
def test_what_cannot_work_is_a_sentence_and_leaves_nothing(
    machine: EmptyMachine, options: tuple[str, ...], sentence: str
) -> None:
    assert sentence in machine.refused(*options)
    assert list(machine.folder.path.iterdir()) == []


def test_another_recipients_key_is_said_to_be_one(machine: EmptyMachine) -> None:
    other = machine.folder.path.parent / "other.key"
    other.write_bytes(machine.lost.officers["privacy"].gpg("--armor", "--export-secret-keys"))
    assert "is not encrypted to the recovery key" in machine.refused("--key", str(other))
    assert list(machine.folder.path.iterdir()) == []


def test_a_database_of_the_name_is_never_touched(machine: EmptyMachine) -> None:
    with psycopg.connect(machine.lost.server.url(), autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {machine.into}")
    with psycopg.connect(machine.url) as connection:
        connection.execute("CREATE TABLE public.ours (id int)")
    assert f"there is a database {machine.into} already" in machine.refused()
    with psycopg.connect(machine.url) as connection:
        assert connection.execute("SELECT * FROM public.ours").fetchall() == []
    assert list(machine.folder.path.iterdir()) == []


def test_what_is_here_stays_and_what_the_configuration_names_and_is_not_here_is_said(machine: EmptyMachine) -> None:
    mine = machine.folder.path / "keyrotation.toml"
    write_configuration(machine.folder.path, machine.url, machine.lost.officers, None)
    text = mine.read_text() + (
        '[alerts]\nwebhook_url = { env = "NOT_SET_HERE" }\n[recovery]\nsecret_key = { file = "/media/key" }\n'
        '[keys]\nstore = "aws-secrets-manager"\n[keys.aws-secrets-manager]\nsecret_id = "pazpaz/encryption-key"\n'
    )
    mine.write_text(text)
    done = machine.recover()
    assert mine.read_text() == text
    assert done["kept"] == ["keyrotation.toml was here and stays; the backup's is keyrotation.toml.from-backup"]
    assert done["to_provide"] == [
        "set NOT_SET_HERE, which [alerts] webhook_url names",
        "put the file /media/key there, which [recovery] secret_key names",
    ]
    assert done["put_back"] == {}
    assert any("keyrotation restore-key v1 v2 --key" in step for step in done["next"])
    assert not (machine.home / "keys").exists()


DEATHS = [
    ("decrypt_all", "call", 1),  # the database is restored, and nobody knows yet whether it is the same
    ("note_restored", "return", 1),  # everything is read, and the database not released
    ("write_configuration", "call", 1),  # the database is there, and nothing else
    ("write_new", "return", 1),  # one file of several
    ("opened", "call", 1),
]


def killed(machine: EmptyMachine, function: str, event: str, number: int) -> bool:
    """Recover, to be killed at a moment; False if it came to its end, which it has shown."""
    done = subprocess.run(
        [sys.executable, dying_recovery.__file__, function, event, str(number), *machine.options()],
        cwd=machine.folder.path,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    machine.folder.printed.append(done.stderr)
    assert done.returncode in {-signal.SIGKILL, 0}, "".join(machine.folder.printed)
    return "keyrotation backup" not in done.stdout


@pytest.mark.parametrize(
    "deaths", [pytest.param(DEATHS, marks=pytest.mark.extended, id="five"), pytest.param(DEATHS[::3], id="two")]
)
def test_a_recovery_that_is_killed_again_and_again_is_continued(
    machine: EmptyMachine, deaths: Sequence[tuple[str, str, int]]
) -> None:
    for function, event, number in deaths:
        assert killed(machine, function, event, number), function
    done = machine.recover()
    assert done["put_back"] == {"v1": "live", "v2": "live"}
    assert machine.values() == machine.lost.values
    machine.variables()
    machine.folder.run("verify")
    left = {path.name for path in machine.home.iterdir()}
    assert "recovery" not in left
    assert "recovering.json" not in left
    again = machine.refused("--set", machine.lost.older.name)
    assert "there is a database" in again, "it is complete, and another recovery needs another name"


def test_the_line_of_a_finished_recovery_prints_the_next_steps_again_and_changes_nothing(machine: EmptyMachine) -> None:
    done = machine.recover()
    before = state_of(machine)
    printed = machine.folder.run(*machine.options())
    assert f"{done['set']} was restored before, and nothing is changed now" in printed
    assert all(f"{number}. {step[:40]}" in printed for number, step in enumerate(done["next"], 1))
    assert machine.recover() == done
    assert state_of(machine) == before
    assert "there is a database" in machine.refused("--set", machine.lost.older.name)


@pytest.mark.parametrize("gone", ["database", "configuration", "home"])
def test_where_something_of_a_finished_recovery_is_gone_it_is_not_called_finished(
    machine: EmptyMachine, gone: str
) -> None:
    machine.recover()
    if gone == "database":
        with psycopg.connect(machine.lost.server.url(), autocommit=True) as admin:
            admin.execute(f"DROP DATABASE {machine.into}")
            admin.execute(f"CREATE DATABASE {machine.into}")  # by somebody else
    elif gone == "configuration":
        (machine.folder.path / "keyrotation.toml").unlink()
    else:
        shutil.rmtree(machine.home)
    assert f"there is a database {machine.into} already" in machine.refused()


def state_of(machine: EmptyMachine) -> tuple[dict[Path, bytes], object]:
    """Every file, and the audit's head."""
    files = {path: path.read_bytes() for path in machine.folder.path.rglob("*") if path.is_file()}
    with psycopg.connect(machine.url) as connection:
        return files, connection.execute("SELECT count(*) FROM keyrotation.audit_events").fetchall()


@pytest.mark.extended
def test_a_recovery_is_continued_wherever_it_is_killed(machine: EmptyMachine) -> None:
    """Each run is killed a little later than the one before it, over whatever that one left."""
    moment, step = 3, 5
    while killed(machine, "-", "-", moment):
        moment += step
    assert moment > 10 * step
    assert machine.values() == machine.lost.values
    machine.variables()
    machine.folder.run("verify")


def newer(machine: EmptyMachine, minutes: int) -> str:
    """A stamp of the pipeline's own, a little later than its newest set."""
    stamp = machine.lost.newest.stamp
    return f"{machine.lost.newest.made_at + timedelta(minutes=minutes):%Y%m%d-%H%M%S}{stamp[15:]}"


def public_of(machine: EmptyMachine) -> str:
    text = json.loads((machine.backups / machine.lost.newest.name).read_text())
    return str(text["signed_by"])


def test_a_rekeyed_set_is_recovered_with_the_key_that_its_audit_does_not_know(rekeyed_machine: EmptyMachine) -> None:
    machine = rekeyed_machine
    done = machine.recover("--set", machine.lost.newest.name)
    assert machine.values() == machine.lost.values
    assert (done["put_back"], done["not_registered"]) == ({"v3": "live"}, [])
    machine.variables()

    request = machine.folder.run("reconcile").strip()
    text = machine.folder.run("approve", request, "--text")
    assert "To: v3" in text
    for role in ("security", "privacy"):
        signature = machine.lost.officers[role].sign(text.encode()).decode()
        machine.folder.run("approve", request, "--signature", "-", text=signature)
    machine.folder.run("reconcile")
    machine.folder.run("audit", "verify")
    machine.folder.run("verify")
    status = json.loads(machine.folder.run("status", "--json"))
    assert (status["primary"], status["rotation"]) == ("v3", None)
    # The older keys are still registered: to be put back from an older set, or to be destroyed.
    machine.folder.run("backup", "--keys-only", expect=1)
    assert "keyrotation restore-key v1" in machine.folder.printed[-1]


def test_a_key_store_in_a_cloud_gets_the_key_that_a_set_was_rekeyed_to(rekeyed_machine: EmptyMachine) -> None:
    # What a recovery leaves where it does not touch the key store.
    machine = rekeyed_machine
    machine.recover("--set", machine.lost.newest.name)
    machine.variables()
    shutil.rmtree(machine.home / "keys")
    secret = str(machine.folder.path.parent / "recovery.key")
    machine.folder.run("restore-key", "v3", "--key", secret, "--from", str(only_key(machine)))
    assert (machine.home / "keys" / "primary").read_text().strip() == "v3"


def only_key(machine: EmptyMachine) -> Path:
    (copy,) = machine.lost.newest.keys
    return machine.backups / copy.file.name


@pytest.mark.parametrize("in_place_of", ["manifest", "signature", "dump", "key"])
def test_nothing_that_is_no_file_is_waited_for_or_passed_over(machine: EmptyMachine, in_place_of: str) -> None:
    newest = machine.lost.newest
    assert newest.dump is not None
    name = {
        "manifest": newest.name,
        "signature": signature_name(newest.name),
        "dump": newest.dump.file.name,
        "key": newest.keys[0].file.name,
    }[in_place_of]
    for replace in (os.mkfifo, partial(os.symlink, "/dev/zero")):
        (machine.backups / name).unlink()
        replace(machine.backups / name)
        refused = machine.refused()
        assert f"{name} cannot be read from directory {machine.backups} (not a regular file); check the disk" in refused
        assert refused.endswith("run the same again, or name an older set with --set\n")
    assert not machine.database_is_there()
