"""PKCS#11 tokens for tests: SoftHSM's, in a directory of a test, with AES keys that cannot be read out."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pkcs11
import pytest
from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass

from keyrotation_pipeline.fieldcrypto.wrapping_keys import pkcs11 as wrapping
from keyrotation_pipeline.fieldcrypto.wrapping_keys.pkcs11 import Pkcs11Key, uri_of
from keyrotation_pipeline_tests.cards import LIBRARY
from keyrotation_pipeline_tests.programs import needs

SPY = next(iter(Path("/usr/lib").glob("*/pkcs11-spy.so")), None)
needs_spy = pytest.mark.skipif(SPY is None, reason="no pkcs11-spy.so here: apt-get install opensc-pkcs11")
needs_softhsm = needs("softhsm2-util", "softhsm2")
PIN, OFFICER_PIN = "123456", "87654321"
GCM = MechanismFlag.ENCRYPT | MechanismFlag.DECRYPT
KEY_WRAP = MechanismFlag.WRAP | MechanismFlag.UNWRAP


@dataclass(frozen=True)
class Tokens:
    """Tokens that a process reaches by SOFTHSM2_CONF."""

    directory: Path

    @property
    def configuration(self) -> Path:
        """The file that SOFTHSM2_CONF names."""
        return self.directory / "softhsm2.conf"

    def prepare(self) -> None:
        """The configuration, without a token."""
        (self.directory / "tokens").mkdir(parents=True)
        self.configuration.write_text(f"directories.tokendir = {self.directory}/tokens\nlog.level = ERROR\n")

    def add(self, label: str = "clinic") -> None:
        """A token without a key."""
        command = ("softhsm2-util", "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", OFFICER_PIN)
        environment = {"PATH": "/usr/bin:/bin", "SOFTHSM2_CONF": str(self.configuration)}
        subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment)

    @contextmanager
    def session(self, label: str = "clinic", pin: str = PIN) -> Iterator[Any]:
        """A session in which a person changes a token."""
        library = pkcs11.lib(str(LIBRARY))
        try:
            with library.get_token(token_label=label).open(rw=True, user_pin=pin) as session:
                yield session
        finally:
            library.finalize()

    def add_key(
        self,
        token: str = "clinic",  # noqa: S107  a label
        label: str = "field keys",
        *,
        use: MechanismFlag = GCM,
        value: bytes | None = None,
        bits: int = 256,
        extractable: bool = False,
    ) -> None:
        """A key in a token: made there, or a copy of one whose bytes are given."""
        with self.session(token) as session:
            template = {
                Attribute.SENSITIVE: not extractable,
                Attribute.EXTRACTABLE: extractable,
                **{
                    each: bool(use & flag)
                    for each, flag in (
                        (Attribute.ENCRYPT, MechanismFlag.ENCRYPT),
                        (Attribute.DECRYPT, MechanismFlag.DECRYPT),
                        (Attribute.WRAP, MechanismFlag.WRAP),
                        (Attribute.UNWRAP, MechanismFlag.UNWRAP),
                    )
                },
            }
            if value is None:
                session.generate_key(KeyType.AES, bits, label=label, store=True, capabilities=use, template=template)
                return
            about = {Attribute.CLASS: ObjectClass.SECRET_KEY, Attribute.KEY_TYPE: KeyType.AES, Attribute.TOKEN: True}
            session.create_object({**about, Attribute.LABEL: label, Attribute.VALUE: value, **template})

    def key(
        self,
        token: str = "clinic",  # noqa: S107  a label
        label: str = "field keys",
        *,
        replica: str | None = None,
    ) -> Pkcs11Key:
        """The key as the pipeline has it."""
        return Pkcs11Key(uri_of(token, label), str(LIBRARY), PIN, replica)

    def section(self, recovery: str = "officers", module: Path = LIBRARY) -> str:
        """The settings of that key, whose PIN is in the variable HSM_PIN."""
        return (
            f'[keys.seal]\nkind = "pkcs11"\nmodule = "{module}"\ntoken_label = "clinic"\nkey_label = "field keys"\n'
            f'pin = {{ env = "HSM_PIN" }}\nreplica_token_label = "replica"\nrecovery = "{recovery}"\n'
        )


@pytest.fixture
def tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tokens:
    """A token ``clinic``, without a key."""
    made = Tokens(tmp_path / "softhsm")
    made.prepare()
    monkeypatch.setenv("SOFTHSM2_CONF", str(made.configuration))
    monkeypatch.setattr(wrapping, "_WRONG", set())
    made.add()
    return made
