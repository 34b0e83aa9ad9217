"""The proof of possession as every language must make it: frozen values, and those of deploy/reports."""

import json
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from keyrotation_pipeline.adapters.clock import SystemClock
from keyrotation_pipeline.adapters.postgres.server.connection import Connection
from keyrotation_pipeline.adapters.rollouts.reported import ReportedInstances
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.key_bytes import base64_of, key_from_base64, raw_of
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.possession import proof_of_possession
from keyrotation_pipeline.fieldcrypto.wrapping_keys import CANARY
from keyrotation_pipeline.model.fleet import RolloutMode
from keyrotation_pipeline_tests.pages import report_of
from keyrotation_pipeline_tests.reports import INSERT, asked, reported_by, store_of

HERE = Path(__file__).parent
VECTOR: dict[str, Any] = json.loads((HERE / "possession.json").read_text())
KEYS = {KeyVersion.parse(name): key_from_base64(key) for name, key in VECTOR["keys"].items()}
# Folder, nonce, time, and whether it is the farewell.
Run = Callable[[Path, str, str, bool], list[str]]


def answer(*command: str | Path) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    printed: list[str] = json.loads(done.stdout)
    return printed


def ruby(folder: Path, nonce: str, at: str, sign_off: bool) -> list[str]:
    call = f"report({VECTOR['instance']!r}, {nonce!r}, {at!r}, {VECTOR['keys']!r}, {VECTOR['primary']!r}"
    said = f"{call.replace(': ', ' => ')}, {json.dumps(sign_off)})"
    program = f"{report_of('report.rb')}\nputs JSON.generate({said})\n"
    (folder / "report.rb").write_text(program)
    return answer("ruby", folder / "report.rb")


def php(folder: Path, nonce: str, at: str, sign_off: bool) -> list[str]:
    keys = ", ".join(f"{name!r} => {key!r}" for name, key in VECTOR["keys"].items())
    call = f"report({VECTOR['instance']!r}, {nonce!r}, {at!r}, [{keys}], {VECTOR['primary']!r}, {json.dumps(sign_off)})"
    (folder / "report.php").write_text(f"{report_of('report.php')}\necho json_encode({call});\n")
    return answer("php", folder / "report.php")


def js(folder: Path, nonce: str, at: str, sign_off: bool) -> list[str]:
    arguments = ", ".join(map(json.dumps, (VECTOR["instance"], nonce, at, VECTOR["keys"], VECTOR["primary"], sign_off)))
    program = f"{report_of('report.mjs')}\nconsole.log(JSON.stringify(report({arguments})));\n"
    (folder / "report.mjs").write_text(program)
    return answer("node", folder / "report.mjs")


def go(folder: Path, nonce: str, at: str, sign_off: bool) -> list[str]:
    keys = ", ".join(f"{json.dumps(name)}: {json.dumps(key)}" for name, key in VECTOR["keys"].items())
    names = ", ".join(map(json.dumps, (VECTOR["instance"], nonce, at)))
    others = f"{json.dumps(VECTOR['primary'])}, {json.dumps(sign_off)}"
    call = f"text, proofs := report({names}, map[string]string{{{keys}}}, {others})"
    show = "printed, _ := json.Marshal([]string{text, proofs})\nfmt.Println(string(printed))"
    module = report_of("report.go").replace("package keyrotation\n", "package main\n")
    (folder / "report.go").write_text(f"{module}\nfunc main() {{\n{call}\n{show}\n}}\n")
    return answer("go", "run", folder / "report.go")


def java(folder: Path, nonce: str, at: str, sign_off: bool) -> list[str]:
    puts = "".join(f"keys.put({json.dumps(name)}, {json.dumps(key)});" for name, key in VECTOR["keys"].items())
    names = ", ".join(map(json.dumps, (VECTOR["instance"], nonce, at)))
    others = f"{json.dumps(VECTOR['primary'])}, {json.dumps(sign_off)}"
    main = (
        "public static void main(String[] arguments) throws Exception {"
        f"var keys = new java.util.TreeMap<String, String>(); {puts}"
        f"for (var each : report({names}, keys, {others})) System.out.println(each); }}"
    )
    (folder / "Report.java").write_text(f"{report_of('Report.java').rstrip().removesuffix('}')}{main}\n}}\n")
    done = subprocess.run(
        ["java", "-XX:TieredStopAtLevel=1", folder / "Report.java"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


LANGUAGES = pytest.mark.parametrize(
    "run",
    [
        pytest.param(
            run,
            id=run.__name__,
            marks=pytest.mark.skipif(shutil.which(program) is None, reason=f"needs {program}; its values are frozen"),
        )
        for run, program in ((ruby, "ruby"), (php, "php"), (js, "node"), (go, "go"), (java, "java"))
    ],
)


def test_the_frozen_proofs_are_made() -> None:
    made = (
        f"{version}={proof_of_possession(key, version, VECTOR['instance'], VECTOR['report'])}"
        for version, key in KEYS.items()
    )
    assert " ".join(made) == VECTOR["proofs"]


@LANGUAGES
def test_the_published_function_makes_the_frozen_report(run: Run, tmp_path: Path) -> None:
    assert run(tmp_path, VECTOR["nonce"], VECTOR["at"], False) == [VECTOR["report"], VECTOR["proofs"]]


@LANGUAGES
def test_what_the_published_function_makes_counts(run: Run, tmp_path: Path, migrated: Connection) -> None:
    made = run(tmp_path, *asked(migrated), False)
    migrated.execute(INSERT, (VECTOR["instance"], *made))
    [seen] = reported_by(migrated, KeyRing(KEYS, KeyVersion(1))).instances()
    assert (seen.reads, seen.writes, seen.names_primary, seen.problem) == (tuple(KEYS), KeyVersion(1), True, None)
    migrated.execute(INSERT, (VECTOR["instance"], *run(tmp_path, *asked(migrated), True)))
    assert reported_by(migrated, KeyRing(KEYS, KeyVersion(1))).instances() == ()


@LANGUAGES
def test_a_canary_among_the_keys_shows_that_they_can_be_sealed(
    run: Run, tmp_path: Path, migrated: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = KeyMaterial.generate()
    monkeypatch.setitem(VECTOR["keys"], CANARY, base64_of(canary))
    store = store_of(KeyRing(KEYS, KeyVersion(1)))
    store.shown = store.contents().under("aws-kms key", (), canary)
    migrated.execute(INSERT, (VECTOR["instance"], *run(tmp_path, *asked(migrated), False)))
    [seen] = ReportedInstances(migrated, store, RolloutMode.ATTEST, 60, 0, SystemClock()).instances()
    assert (seen.reads, seen.problem, seen.opens_sealed) == (tuple(KEYS), None, True)


def sent_by_a_fernet_application(connection: Connection, keys: Sequence[KeyMaterial], **parts: bool) -> None:
    """What deploy/reports has, of an application that knows its keys by their order alone."""
    module: dict[str, Any] = {}
    exec(report_of("fernet.py"), module)  # noqa: S102
    module["report"](connection.cursor(), "web-1", [urlsafe_b64encode(raw_of(key)).decode() for key in keys], **parts)


def test_a_fernet_application_names_its_keys_by_their_fingerprints(migrated: Connection) -> None:
    v1, v2 = KEYS.values()
    rollout = reported_by(migrated, KeyRing(KEYS, KeyVersion(1)))
    sent_by_a_fernet_application(migrated, [v2, v1])
    [seen] = rollout.instances()
    assert (seen.reads, seen.writes, seen.names_primary, seen.problem) == (tuple(KEYS), KeyVersion(2), True, None)
    sent_by_a_fernet_application(migrated, [v2], sign_off=True)
    assert rollout.instances() == ()


def test_a_fingerprint_proves_nothing_without_the_key(migrated: Connection) -> None:
    nonce, at = asked(migrated)
    (first, key), second = KEYS.items()
    named = [each.fingerprint for each in KEYS.values()]
    text = json.dumps({"nonce": nonce, "at": at, "reads": named, "writes": named[0]})
    proofs = [
        f"{named[0]}={proof_of_possession(key, first, 'web-1', text)}",  # made for another name
        f"{named[1]}={proof_of_possession(key, named[1], 'web-1', text)}",  # by another key
    ]
    migrated.execute(INSERT, ("web-1", text, " ".join(proofs)))
    [seen] = reported_by(migrated, KeyRing(KEYS, KeyVersion(1))).instances()
    assert (seen.reads, seen.unproven) == ((), (first, second[0]))


@pytest.mark.parametrize("name", ["report.rb", "report.php", "report.mjs", "report.go", "Report.java", "rails.rb"])
def test_each_language_is_published(name: str) -> None:
    assert "keyrotation-possession-v1" in report_of(name)


def test_a_proof_is_of_one_key_version_instance_and_report_and_reveals_no_key() -> None:
    version = KeyVersion(1)
    key, other = KEYS[version], KeyMaterial.generate()
    proof = proof_of_possession(key, version, "web-1", "{}")
    assert len(proof) == 64
    assert key.fingerprint not in proof
    others = {
        proof_of_possession(other, version, "web-1", "{}"),
        proof_of_possession(key, KeyVersion(2), "web-1", "{}"),
        proof_of_possession(key, version, "web-2", "{}"),
        proof_of_possession(key, version, "web-1", "{ }"),
    }
    assert len(others | {proof}) == 5
