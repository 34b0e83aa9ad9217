"""The package in deploy/own-format adds its format, as docs/guides/own-format.md says."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from keyrotation_pipeline_tests.acceptance import toy_rotation
from keyrotation_pipeline_tests.acceptance.warm import KEYROTATION
from keyrotation_pipeline_tests.pages import TOP


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of processes that have the package, built and installed without any registry."""
    source, site = tmp_path_factory.mktemp("toy") / "source", tmp_path_factory.mktemp("site")
    shutil.copytree(TOP / "deploy" / "own-format", source, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(site)]
    subprocess.run(build, cwd=source, check=True, capture_output=True)
    (wheel,) = site.glob("*.whl")
    shutil.unpack_archive(wheel, site, "zip")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(TOP)])}


def typed(environment: dict[str, str], *arguments: str, cwd: Path = TOP) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)


def test_its_values_are_recognised_opened_and_sealed(installed: dict[str, str]) -> None:
    (old, new), text = [toy_rotation.TOY.generate() for _ in range(2)], "Ana Pérez"
    stored = toy_rotation.TOY.alone(old).encrypt(text.encode()).decode()
    asked = f"""
from keyrotation_pipeline.fieldcrypto.probe import fits
from keyrotation_pipeline.fieldcrypto.formats.recognition import recognise_text
from keyrotation_pipeline.fieldcrypto.formats.registry import FORMATS, origins
from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, notation_of
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
declared, stored = FORMATS["toy"], {stored.encode()!r}
new, old = notation_of(declared).keys_in({f"{new},{old}"!r}, "TOY_KEYS")
ring = KeyRing({{KeyVersion(1): old, KeyVersion(2): new}}, KeyVersion(2))
assert recognise_text(stored.decode()).format == "toy"
assert [each.format for each in fits({old!r}, "TOY_KEYS", [stored])] == ["toy"]
assert [(each.name, each.package, each.version) for each in origins()] == [("toy", "keyrotation-toy", "1.0")]
assert declared.signed() == "toy, keys as they are, identified by the marker in each value"
print(format_of(declared).reencryptor(ring, KeyVersion(2)).reencrypt([[stored]]).columns[0][0].decode())
"""
    done = typed(installed, "-c", asked)
    assert done.returncode == 0, done.stderr
    assert toy_rotation.TOY.alone(new).decrypt(done.stdout.strip()).decode() == text


WRONG = """
from dataclasses import replace
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation, Option
from keyrotation_toy import SPEC
VERSIONED = replace(SPEC, name="wrong", names_versions=True)
DERIVED = replace(SPEC, name="wrong", derivations=(Derivation("sha256", "wrong:derived"),))
DEFAULT = replace(SPEC, name="wrong", derivation=Derivation("sha256", "wrong:derived"))
OPTION = replace(SPEC, name="wrong", options=(Option(name="of_its_own", takes=str, says=""),))
GENERATION = replace(SPEC, name="wrong", options=(Option(name="generation", takes=int, default=2, says=""),))
TIME = replace(SPEC, name="wrong", options=(Option(name="keep_time", takes=bool, default=True, says=""),))
UNMARKED = replace(SPEC, name="wrong", markers=False)
CONDITIONAL = replace(SPEC, name="wrong", conditional=True)
"""
OF_ANOTHER_RELEASE = """
from keyrotation_pipeline.fieldcrypto.format_spec import FormatSpec
SPEC = FormatSpec(name="wrong", package=__name__, what_there_was_once=True)
"""


@pytest.mark.parametrize(
    ("point", "said"),
    [
        ("keyrotation_pipeline.fieldcrypto.formats.fernet:SPEC", 'there is another one named "fernet"'),
        ("keyrotation_toy.codec:PATTERN", "cannot be used: its entry point in keyrotation.formats names no FormatSpec"),
        ("keyrotation_toy:NOTHING", "cannot be imported (AttributeError)"),
        ("wrong:VERSIONED", "only formats of this program are"),
        ("wrong:DERIVED", "another derivation sha256"),
        ("wrong:DEFAULT", "another derivation sha256"),
        ("wrong:OPTION", "an option of_its_own of its own"),
        ("wrong:GENERATION", "an option generation of its own"),
        ("wrong:TIME", "its option keep_time differs"),
        ("wrong:UNMARKED", "markers goes with IdentifiedBy.MARKER"),
        ("wrong:CONDITIONAL", "conditional with IdentifiedBy.MAC"),
        ("of_another_release:SPEC", "cannot be imported (TypeError)"),
    ],
)
def test_a_format_that_cannot_be_used_is_refused_by_its_package(
    installed: dict[str, str], tmp_path: Path, point: str, said: str
) -> None:
    wrong = tmp_path / "wrong-1.dist-info"
    wrong.mkdir()
    (tmp_path / "wrong.py").write_text(WRONG)
    (tmp_path / "of_another_release.py").write_text(OF_ANOTHER_RELEASE)
    (wrong / "METADATA").write_text("Metadata-Version: 2.1\nName: wrong\nVersion: 1\n")
    (wrong / "entry_points.txt").write_text(f"[keyrotation.formats]\nwrong = {point}\n")
    environment = {**installed, "PYTHONPATH": f"{tmp_path}{os.pathsep}{installed['PYTHONPATH']}"}
    done = typed(environment, str(KEYROTATION), "status", cwd=tmp_path)
    assert done.returncode == 1
    assert "the package wrong brings a format that cannot be" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.extended
def test_a_rotation_in_its_format(installed: dict[str, str]) -> None:
    done = typed(installed, "-m", "pytest", "-n0", "-q", "-p", "no:randomly", toy_rotation.__file__)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "1 passed" in done.stdout
