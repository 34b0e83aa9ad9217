"""Values that libraries have stored, with their keys, of every format that is re-encrypted here."""

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keyrotation_pipeline.fieldcrypto.codecs.format import format_of, new_key, notation_of
from keyrotation_pipeline.fieldcrypto.codecs.key_lists import KeyEncoding
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.rails_ar_encryption import PBKDF2_SHA1
from keyrotation_pipeline.fieldcrypto.formats.registry import DERIVATIONS, FORMATS, SPECS
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

_FOLDER = Path(__file__).parent
# What the values of Lockbox are stored under.
_MASTER_KEY, _LABEL = "00" * 32, "users.email_ciphertext"


@dataclass(frozen=True)
class FormatVector:
    """Values of one library under one list of keys.

    Args:
        name: under which the format is declared.
        listed: the keys in the library's notation.
        encoding: of each key, where the library has no notation of its own.
        label: of the values' column.
        values: with their plaintexts.
    """

    made_by: str
    name: str
    declared: ValueFormat
    listed: str
    values: tuple[tuple[bytes, bytes], ...]
    encoding: KeyEncoding = KeyEncoding.B64URL
    label: str | None = None

    @property
    def stored(self) -> list[bytes]:
        return [stored for stored, _ in self.values]

    def ring(self) -> tuple[KeyRing, KeyVersion]:
        """The keys, the oldest first, and the version of a further one, as a rotation makes it."""
        keys = notation_of(self.declared, self.encoding).keys_in(self.listed, "KEYS")
        held = {KeyVersion(number): key for number, key in enumerate(reversed(keys), 1)}
        target = KeyVersion(len(keys) + 1)
        return KeyRing({**held, target: new_key(self.declared, present=keys[0], held=keys)}, target), target

    def plaintext(self, ring: KeyRing, stored: bytes) -> object:
        return format_of(self.declared).plaintext(ring, stored, self.label)


def _read(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((_FOLDER / f"{name}.json").read_text())
    return found


def _values(entry: dict[str, Any], *, in_hex: bool = False) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (bytes.fromhex(each["stored"]) if in_hex else each["stored"].encode(), each["plaintext"].encode())
        for each in entry["values"]
    )


def _marked() -> Iterator[FormatVector]:
    for entry in _read("marked"):
        declared, listed = FORMATS[entry["format"]], ",".join(entry["keys"])
        if entry["format"] == "rails-ar-encryption":
            same = "deterministic" in entry["made_by"]
            declared = replace(declared, derivation=PBKDF2_SHA1, salt=entry["salt"], deterministic=same)
            listed = f"[{listed}]"
        yield FormatVector(entry["made_by"], declared.name, declared, listed, _values(entry))


def _prefixed() -> Iterator[FormatVector]:
    for entry in _read("prefixed"):
        declared, values = FORMATS[entry["format"]], _values(entry, in_hex=True)
        if "keyset" in entry:
            bound = replace(declared, aad="{table}.{column}") if "aad" in entry else declared
            yield FormatVector(
                entry["made_by"], declared.name, bound, json.dumps(entry["keyset"]), values, label=entry.get("aad")
            )
        else:
            listed = f"{entry['label']}:{base64.b64encode(bytes.fromhex(entry['key'])).decode()}"
            layout = f"raw(nonce{entry['iv_length']} tag16 ct)"
            yield FormatVector(entry["made_by"], declared.name, replace(declared, layout=layout), listed, values)


def _others() -> Iterator[FormatVector]:
    for entry in _read("fernet"):
        derivation = DERIVATIONS[entry["derivation"]] if "derivation" in entry else None
        declared = replace(FORMATS["fernet"], derivation=derivation)
        yield FormatVector(entry["library"], declared.name, declared, entry["keys"], _values(entry))
    for entry in _read("laravel"):
        declared = replace(FORMATS["laravel-crypt"], layout=entry["cipher"])
        yield FormatVector(entry["made_by"], declared.name, declared, entry["key"], _values(entry))
    for entry in _read("aes_gcm"):
        declared = replace(FORMATS["aes-gcm"], layout=entry["layout"])
        values = _values(entry, in_hex=entry["encoding"] == "hex")
        yield FormatVector(entry["library"], declared.name, declared, entry["key"], values, KeyEncoding.HEX)
        if entry["library"].startswith("lockbox"):
            lockbox = ValueFormat.of(SPECS["lockbox"])
            yield FormatVector(f"{entry['library']}, master key", "lockbox", lockbox, _MASTER_KEY, values, label=_LABEL)
    native: Any = json.loads((_FOLDER / "vectors.json").read_text())
    values = tuple(
        (each["stored"].encode(), each["plaintext"].encode())
        for each in native["values"]
        if each.get("stored", "").startswith("v1:")
    )
    yield FormatVector("ourselves", "native", FORMATS["native"], native["keys"]["v1"], values)


VECTORS = [each for each in (*_marked(), *_prefixed(), *_others()) if each.values]
