"""Outside its folder nothing of the program names a value format of another library."""

import re

from keyrotation_pipeline.fieldcrypto.formats.registry import SPECS
from keyrotation_pipeline_tests.pages import TOP

PROGRAM = TOP / "keyrotation_pipeline"
FORMATS = PROGRAM / "fieldcrypto" / "formats"
# A key that a server holds takes a key store of its own, and the demo has an application of a library. Never more.
REMAINING = {
    "adapters/keystores/transit.py",
    "assembly/keystores.py",
    "assembly/pipeline.py",
    "backups/restore_checks.py",
    "cli/demo.py",
    "cli/initialise.py",
    "demo/fernet_application.py",
    "demo/home.py",
    "demo/run.py",
    "fieldcrypto/codecs/value_format.py",
    "fieldcrypto/key_bytes.py",
    "fieldcrypto/keyring.py",
    "fieldcrypto/material.py",
    "model/manifest.py",
    "model/manifest_documents.py",
    "settings/hosts.py",
    "settings/value_formats.py",
}


def words() -> set[str]:
    """How a format of another library may be named: as it is declared, as its module is, and as people call it."""
    specs = [spec for spec in SPECS.values() if not spec.names_versions]
    names = {spec.name for spec in specs} | {spec.guide for spec in specs} - {"vault"} | {"transit"}
    return {form for name in names for form in (name, name.replace("-", "_"), name.capitalize(), name.upper())} - {
        "AES-GCM"  # the cipher
    }


def test_a_format_is_named_in_its_folder_alone() -> None:
    named = re.compile(rf"(?<![A-Za-z])(?:{'|'.join(sorted(map(re.escape, words())))})(?![a-z]|IONS)")
    files = [each for each in PROGRAM.rglob("*") if each.suffix in {".py", ".c", ".h", ".html"}]
    found = {
        str(each.relative_to(PROGRAM))
        for each in files
        if not each.is_relative_to(FORMATS) and named.search(each.read_text())
    }
    assert found == REMAINING
