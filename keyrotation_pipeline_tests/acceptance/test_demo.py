"""The first of the README's two commands, and the scan for what must never be left behind."""

import base64
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from keyrotation_pipeline.adapters.postgres.server.connection import Connection, connect
from keyrotation_pipeline.adapters.postgres.server.embedded import EmbeddedServer
from keyrotation_pipeline.demo import fernet_application
from keyrotation_pipeline.demo.clinic import FINDINGS, refuses, stored_value
from keyrotation_pipeline.demo.home import prepare
from keyrotation_pipeline.errors import HomeError
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.fernet import FERNET
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline_tests.acceptance.command import KEYROTATION, Folder
from keyrotation_pipeline_tests.acceptance.documents import documented
from keyrotation_pipeline_tests.acceptance.test_next_steps import next_lines, typed
from keyrotation_pipeline_tests.pages import block
from keyrotation_pipeline_tests.servers import EMBEDDED_18

PLAINTEXTS = re.compile(rb"patient\d+@example\.org|\+1-555-\d{7}|" + b"|".join(re.escape(f.encode()) for f in FINDINGS))


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Typed as the README has it, into a folder whose name a shell must have quoted."""
    folder = Folder(tmp_path_factory.mktemp("demo") / "a clinic's", [])
    folder.path.mkdir()
    first, second = (shlex.split(line, comments=True) for line in block("demo").splitlines())
    assert second == ["uv", "run", "pytest"]  # which runs this
    assert first[:3] == ["uv", "run", "keyrotation"]
    line = shlex.join([str(KEYROTATION), *first[3:], "--rows", "300", "--config", "a clinic's/keyrotation.toml"])
    folder.printed.append(typed(line, folder.path.parent))
    return folder


def test_status_works_as_printed_where_nothing_is_on_the_path(demo: Folder) -> None:
    status, up, again = next_lines(demo.printed[0])
    assert "Every value of these columns is under v2" in demo.printed[0]
    assert typed(status, demo.path.parent).startswith("clinic@localhost")
    assert [each.partition(" --config ")[2] for each in (status, up, again)] == [
        "'a clinic'\"'\"'s/keyrotation.toml'"
    ] * 3


def test_demo_ends_with_nothing_under_v1_and_v1_archived(demo: Folder) -> None:
    status = json.loads(demo.run("status", "--json", "--count"))

    assert status["primary"] == "v2" or status["primary"] == "v3"
    assert {key["version"]: key["state"] for key in status["key_versions"]}["v1"] == "archived"
    for table in status["tables"]:
        assert table["values_by_version"]["v1"] == 0
        assert sum(table["values_by_version"].values()) > 0
        assert "v1" in table["fenced_against"]


def test_after_the_demo_the_status_is_green(demo: Folder) -> None:
    status = json.loads(demo.run("status", "--json", "--exit-code"))
    assert (status["attention"], status["warnings"]) == ([], [])
    assert status["last_backup"] is not None


def test_demo_reports_what_the_application_met(demo: Folder) -> None:
    assert re.search(r"0 errors", demo.printed[0])
    assert re.search(r"0 lost writes", demo.printed[0])


def test_every_value_still_decrypts_and_the_audit_holds(demo: Folder) -> None:
    demo.run("verify")
    demo.run("audit", "verify")


def test_demo_again_rotates_once_more(demo: Folder) -> None:
    before = json.loads(demo.run("status", "--json"))["primary"]
    # What is left of a demo that was killed with its application is not waited for.
    with EmbeddedServer(demo.path / ".keyrotation" / "postgres") as server, connect(server.url("clinic")) as left:
        left.execute(
            "INSERT INTO keyrotation.instance_reports (instance, report, proofs) VALUES ('api-1/1-killed', '', '')"
        )
    done = documented("demo", demo.run("demo", "--json"))
    assert (done["from"], done["to"], done["holds"]) == ("v2", "v3", True)
    after = json.loads(demo.run("status", "--json", "--count"))

    assert (before, after["primary"]) == ("v2", "v3")
    assert all(table["values_by_version"]["v1"] == table["values_by_version"]["v2"] == 0 for table in after["tables"])
    assert {key["version"]: key["state"] for key in after["key_versions"]} == {
        "v1": "archived",
        "v2": "archived",
        "v3": "active",
    }


def test_demo_never_touches_a_home_that_is_not_a_demos(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    (tmp_path / "keyrotation.toml").write_text("# somebody's own\n")
    folder.run("demo", expect=1)

    assert (tmp_path / "keyrotation.toml").read_text() == "# somebody's own\n"
    assert not (tmp_path / ".keyrotation").exists()
    assert "empty folder" in folder.printed[1]


def test_a_fernet_demo_proves_by_mac_and_refuses_old_tokens(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    done = documented("demo", folder.run("demo", "--format", "fernet", "--rows", "200", "--json"))
    (clients, appointments) = json.loads(folder.run("status", "--json"))["tables"]

    assert (done["holds"], done["old_values"], done["old_value_refused"], done["archived"]) == (True, 0, True, ["v1"])
    assert (done["application"]["writes"] > 0, done["application"]["error_names"]) == (True, [])
    for table, least in ((clients, 800), (appointments, 400)):
        assert (table["identified_by"], table["fenced_against"]) == ("mac", ["v1"])
        assert table["values_by_version"]["v1"] == 0
        assert table["values_by_version"]["v2"] >= least
    listed = (tmp_path / ".keyrotation" / "keys" / "application.env").read_text().strip().partition("=")
    with EmbeddedServer(tmp_path / ".keyrotation" / "postgres") as server, connect(server.url("clinic")) as connection:
        assert Fernet(listed[2]).decrypt(stored_value(connection))


@pytest.mark.extended
def test_a_fernet_demo_again_rotates_once_more_and_the_native_one_is_refused(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    shown = folder.run("demo", "--format", "fernet", "--rows", "200")
    assert "the MAC of each was computed" in shown
    assert "demo --format fernet\n      once more, v2 to v3" in shown
    folder.run("demo", expect=1)
    assert "run `keyrotation demo --format fernet` here" in folder.printed[-1]
    done = json.loads(folder.run("demo", "--format", "fernet", "--json"))
    assert (done["from"], done["to"], done["holds"]) == ("v2", "v3", True)


def test_the_fernet_application_imports_nothing_of_ours() -> None:
    asked = "import runpy, sys; runpy.run_path(sys.argv[1]); print([each for each in sys.modules if 'keyrot' in each])"
    done = subprocess.run(
        [sys.executable, "-P", "-c", asked, fernet_application.__file__], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


@pytest.mark.parametrize(
    ("made", "values"),
    [pytest.param(NATIVE, FERNET, id="native"), pytest.param(FERNET, NATIVE, id="fernet")],
)
@pytest.mark.parametrize(
    "marker",
    [
        pytest.param('{"made_by": "keyrotation demo"}', id="as it is made"),
        pytest.param('{"made_by": "keyrotation demo", "format": "native"}', id="with a format"),
        pytest.param("", id="left by one that died"),
    ],
)
def test_a_demo_refuses_the_home_of_one_of_another_format_and_goes_on_with_its_own(
    tmp_path: Path, marker: str, made: ValueFormat, values: ValueFormat
) -> None:
    config = tmp_path / "keyrotation.toml"
    (tmp_path / ".keyrotation").mkdir()
    (tmp_path / ".keyrotation" / "demo.json").write_text(marker)  # nothing else: of a demo that died at once
    prepare(config, values=made)
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    with pytest.raises(HomeError, match=f"keyrotation demo --format {made.name}` here"):
        prepare(config, values=values)
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before
    settings, _ = prepare(config, values=made)
    assert settings.format.name == made.name


@pytest.mark.parametrize(
    ("shown", "refused"),
    [
        pytest.param("'1'", False, id="accepted"),
        pytest.param(
            "CASE WHEN last_name = 'old' THEN left('v1 is retired', 9 + length(last_name))::int = 0 END",
            True,
            id="refused",
        ),
        pytest.param("CASE WHEN last_name = 'old' THEN last_name::int = 0 END", False, id="refused, with its content"),
    ],
)
def test_an_old_value_counts_as_refused_only_if_nothing_of_it_is_shown(
    connection: Connection, shown: str, refused: bool
) -> None:
    check = f"CASE WHEN last_name = 'old' THEN ({shown})::int = 1 ELSE true END"
    connection.execute(f"CREATE TABLE public.clients (id int, last_name text CHECK ({check}))")
    connection.execute("INSERT INTO public.clients VALUES (1, 'new')")
    assert refuses(connection, "old") is refused
    assert stored_value(connection) == "new"


def test_no_key_and_no_plaintext_is_left_anywhere_but_in_the_key_store(demo: Folder) -> None:
    assert leaks(demo) == []


def test_the_scan_finds_planted_leaks(demo: Folder) -> None:
    key = next(iter(keys_of(demo)))
    forms = (key, key.hex().encode(), base64.b64encode(key), f"x {FINDINGS[2]} y".encode())
    files = [demo.path / ".keyrotation" / f"planted-{number}" for number in range(len(forms))]
    for file, planted in zip(files, forms, strict=True):
        file.write_bytes(b"before " + planted + b" after")
    try:
        assert leaks(demo) == [str(file) for file in files]
    finally:
        for file in files:
            file.unlink()


def keys_of(demo: Folder) -> set[bytes]:
    store = demo.path / ".keyrotation" / "keys"
    return {base64.b64decode(file.read_text()) for file in store.rglob("v*.key")}


def leaks(demo: Folder, *secrets: str) -> list[str]:
    """Where any key, raw, hex or base64, any plaintext or one of `secrets` stands: files, dumps, printed output."""
    home = demo.path / ".keyrotation"
    keys = keys_of(demo)
    assert keys
    forbidden = [form for key in keys for form in (key, key.hex().encode(), base64.b64encode(key).rstrip(b"="))]
    forbidden += [secret.encode() for secret in secrets]

    def leaking(content: bytes) -> bool:
        lowered = content.lower()
        return (
            any(form in content for form in forbidden)
            or any(key.hex().encode() in lowered for key in keys)
            or PLAINTEXTS.search(content) is not None
        )

    found = [
        str(file)
        for file in sorted(home.rglob("*"))
        if file.is_file() and not file.is_relative_to(home / "keys") and leaking(file.read_bytes())
    ]
    with EmbeddedServer(home / "postgres") as server:
        for database in ("clinic", "dagster"):
            dump = subprocess.run(
                [EMBEDDED_18 / "pg_dump", "--inserts", "-d", server.url(database)], capture_output=True, check=True
            ).stdout
            found += [f"dump of {database}"] if leaking(dump) else []
    found += [f"output {number}" for number, text in enumerate(demo.printed) if leaking(text.encode())]
    return found


@pytest.mark.extended
def test_a_demo_moves_to_the_second_generation(tmp_path: Path) -> None:
    folder = Folder(tmp_path, [])
    folder.run("demo", "--rows", "50")
    file = tmp_path / "keyrotation.toml"
    file.write_text(file.read_text().replace("[[tables]]", "[format]\ngeneration = 2\n\n[[tables]]", 1))
    done = documented("demo", folder.run("demo", "--json"))
    assert (done["from"], done["to"], done["holds"], done["application"]["errors"]) == ("v2", "v3x", True, 0)
