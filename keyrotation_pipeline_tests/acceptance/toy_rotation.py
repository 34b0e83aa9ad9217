"""A rotation in the format of deploy/own-format, for a process in which its package is installed."""

import json
import secrets
from base64 import b64decode, b64encode
from collections.abc import Sequence

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keyrotation_pipeline_tests.acceptance import test_marked_formats
from keyrotation_pipeline_tests.acceptance.test_marked_formats import MakeHome
from keyrotation_pipeline_tests.marked_libraries import CannotReadError, Library

make_home = test_marked_formats.make_home


class Toy:
    """The application's library: the first key encrypts, and the name in a value finds the one that decrypts."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = {name: b64decode(key) for name, _, key in (each.partition(":") for each in keys)}

    def encrypt(self, text: bytes) -> bytes:
        name, key = next(iter(self._keys.items()))
        nonce = secrets.token_bytes(12)
        return f"toy:{name}:{b64encode(nonce + AESGCM(key).encrypt(nonce, text, None)).decode()}".encode()

    def decrypt(self, stored: str) -> bytes:
        _, name, encoded = stored.split(":")
        raw = b64decode(encoded)
        try:
            return AESGCM(self._keys[name]).decrypt(raw[:12], raw[12:], None)
        except (KeyError, InvalidTag):
            raise CannotReadError from None


TOY = Library(
    'name = "toy"',
    Toy,
    lambda: f"key-{secrets.token_hex(4)}-1:{b64encode(secrets.token_bytes(32)).decode()}",
    ",".join,
    lambda text: text.split(","),
    last=False,
)


def test_a_rotation_in_the_format_of_another_package(make_home: MakeHome) -> None:
    kept = []

    def make(library: Library) -> test_marked_formats.MarkedHome:
        kept.append(make_home(library))
        return kept[0]

    test_marked_formats.test_a_rotation_by_the_commands_beside_the_application(make, TOY)
    manifests = [json.loads(each.read_text()) for each in kept[0].file.parent.rglob("backup-*.json")]
    origins = {
        (each["name"], each["package"], each["version"], len(each["sha256"]))
        for made in manifests
        for each in made["formats"]
    }
    assert origins == {("toy", "keyrotation-toy", "1.0", 64)}
