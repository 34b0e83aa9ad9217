"""Values of the transit engine of Vault and OpenBao: ``vault:v<N>:<base64 of nonce, ciphertext and tag>``.

The keys never leave the server, so values are rewrapped there, in batches; see `transit`. The marker is the number of
the version, and our version has the same number.

Source: OpenBao 2 (internal/builtin/logical/transit, sdk/helper/keysutil).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NoReturn

from keyrotation_pipeline.errors import KeyRotationError, KeyStoreError, KeyStoreUnavailableError
from keyrotation_pipeline.fieldcrypto.batch import Failure, Held, Labels, ReencryptedBatch, Value
from keyrotation_pipeline.fieldcrypto.codecs.format import Codec
from keyrotation_pipeline.fieldcrypto.codecs.marked import require_different
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.vault_transit.server import TransitServer, server_at
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing
from keyrotation_pipeline.fieldcrypto.material import KeyMaterial
from keyrotation_pipeline.fieldcrypto.reads import NOT_A_VALUE, UNDER_NO_KEY, Defect, DefectKind

BEGINS = "vault:v"
BEFORE = "vault:"
SHORTEST_BODY_CHARS = 40
# That is canonical base64 if its length is divisible by four.
_BODY = r"[A-Za-z0-9+/]+(?:[AEIMQUYcgkosw048]=|[AQgw]==)?"
VALUE_PATTERN = rf"vault:(v[1-9][0-9]{{0,5}}):({_BODY})"
_VALUE = re.compile(VALUE_PATTERN.encode())


def marker_in(value: bytes) -> bytes | None:
    """Returns the version that a stored value names, exactly as the engine writes it; None: anything else."""
    match = _VALUE.fullmatch(value)
    if match is None or len(match[2]) % 4 or len(match[2]) < SHORTEST_BODY_CHARS:
        return None
    return bytes(match[1])


class TransitFormat:
    """`Format` for values of a transit engine, which name their key as those of `marked.MarkedFormat` do.

    Args:
        address: of the key; see `TransitServer`.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    @property
    def _server(self) -> TransitServer:
        return server_at(self._address)

    def reencryptor(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> "TransitReencryptor":  # noqa: ARG002
        """See `Format.reencryptor`."""
        return TransitReencryptor(self._server, ring, target)

    def native_codec(self, ring: KeyRing, target: KeyVersion, labels: Labels = ()) -> None:  # noqa: ARG002
        """See `Format.native_codec`: the server does it."""
        return

    def opened_by(
        self,
        ring: KeyRing,
        stored: bytes,
        label: str | None = None,  # noqa: ARG002
    ) -> tuple[KeyVersion, KeyVersion | None] | None:
        """See `Format.opened_by`."""
        marker = marker_in(stored)
        if marker is None:
            return None
        named = {ring.material(version).name.encode(): version for version in ring.versions}
        body = stored.split(b":", 2)[2]
        # Under the version that it names first: as a rule no other is asked for.
        if (version := named.get(marker)) is not None and self._server.decrypted([stored])[0] is not None:
            return version, version
        others = [name for name in named if name != marker]
        texts = self._server.decrypted([b"vault:%b:%b" % (name, body) for name in others])
        opener = next((named[name] for name, text in zip(others, texts, strict=True) if text is not None), None)
        return version or opener or ring.primary, opener

    def plaintext(self, ring: KeyRing, stored: bytes, label: str | None = None) -> bytes | Defect:  # noqa: ARG002
        """See `Format.plaintext`."""
        return self.reencryptor(ring, ring.primary).plaintext(stored)

    def markers(self, ring: KeyRing) -> dict[KeyVersion, str]:
        """See `MarkedFormat.markers`."""
        markers = {version: self.marker_of(ring.material(version)) for version in ring.versions}
        require_different(markers)
        return markers

    def marker_of(self, material: KeyMaterial) -> str:
        """See `MarkedFormat.marker_of`."""
        return material.name

    def generate(self, taken: Iterable[str] = ()) -> NoReturn:  # noqa: ARG002
        """See `MarkedFormat.generate`."""
        raise KeyStoreError("only the server makes versions of its keys; request a rotation with `keyrotation request`")


class TransitReencryptor:
    """Has values rewrapped to one version, and compares what old and new ones decrypt to; see `batch.Reencryptor`.

    Values that name the target, empty strings and NULLs are left unchanged, and so is a value whose plaintext is itself
    one. What the server cannot open goes to the quarantine, if it still opens what else is under that version.

    Raises:
        InvalidKeyError: two keys of the ring have the same marker.
    """

    def __init__(self, server: TransitServer, ring: KeyRing, target: KeyVersion) -> None:
        self._server = server
        self._keys = {version: ring.material(version) for version in ring.versions}
        self._target = ring.material(target).name.encode()
        require_different({version: key.name for version, key in self._keys.items()})
        self._named = {key.name.encode(): version for version, key in self._keys.items()}

    def reencrypt(self, columns: Sequence[Sequence[Value]]) -> ReencryptedBatch:
        """Re-encrypts one batch; see `ValueReencryptor.reencrypt`."""
        failures: list[Failure] = []
        places, values = self._known(columns, failures, but=self._target)
        rewrapped = self._server.rewrapped(values)
        whole = [number for number, new in enumerate(rewrapped) if new is not None]
        if len(whole) < len(values):
            lost = [number for number, new in enumerate(rewrapped) if new is None]
            self._require_unopenable([values[number] for number in lost])
            failures += self._not_authentic([places[number] for number in lost], [values[number] for number in lost])
        old, new = [values[number] for number in whole], [rewrapped[number] or b"" for number in whole]
        self._require_target(new)
        texts = self._server.decrypted([*old, *new])
        if shut := [value for value, text in zip([*old, *new], texts, strict=True) if text is None]:
            self._require_versions(shut)  # a version may have been withdrawn since
        if None in texts or texts[: len(old)] != texts[len(old) :]:
            raise KeyRotationError(
                f"{self._server.address} gave values that decrypt to something else; nothing was written: find out "
                "what is faulty, then run `keyrotation rotate` again"
            )
        columns_of_new: list[list[Value]] = [[None] * len(column) for column in columns]
        for number, sealed, text in zip(whole, new, texts, strict=False):
            row, column = places[number]
            if marker_in(text or b"") is not None:
                failures.append(Failure(row, column, self._twice(values[number])))
            else:
                columns_of_new[column][row] = sealed
        return ReencryptedBatch(columns_of_new, failures)

    def check(self, columns: Sequence[Sequence[Value]]) -> tuple[list[Held], list[Failure]]:
        """Decrypts every value; see `ValueReencryptor.check`."""
        failures: list[Failure] = []
        places, values = self._known(columns, failures)
        texts = self._server.decrypted(values)
        held: list[Held] = [Counter({None: column.count(b"")}) for column in columns]
        for place, value, text in zip(places, values, texts, strict=True):
            if text is not None and marker_in(text) is not None:
                failures.append(Failure(*place, self._twice(value)))
            elif text is not None:
                held[place[1]][self._version(value)] += 1
        lost = [number for number, text in enumerate(texts) if text is None]
        if lost:
            self._require_versions([values[number] for number in lost])
            failures += self._not_authentic([places[number] for number in lost], [values[number] for number in lost])
        return [+each for each in held], failures

    def plaintext(self, value: bytes) -> bytes | Defect:
        """Decrypts one value."""
        failures: list[Failure] = []
        _, values = self._known([[value]], failures)
        if not values:
            return failures[0].defect if failures else NOT_A_VALUE
        text = self._server.decrypted(values)[0]
        if text is None:
            self._require_versions(values)
            return Defect(DefectKind.NOT_AUTHENTIC, self._version(value))
        return self._twice(value) if marker_in(text) is not None else text

    def _known(
        self, columns: Sequence[Sequence[Value]], failures: list[Failure], but: bytes | None = None
    ) -> tuple[list[tuple[int, int]], list[bytes]]:
        """Returns row and column of each value under a known version, and the value; those under `but` are left out."""
        places, values = [], []
        for number, column in enumerate(columns):
            for row, value in enumerate(column):
                if not value:
                    continue
                marker = marker_in(value)
                if marker not in self._named:
                    failures.append(Failure(row, number, NOT_A_VALUE if marker is None else UNDER_NO_KEY))
                elif marker != but:
                    places.append((row, number))
                    values.append(value)
        return places, values

    def _version(self, value: bytes) -> KeyVersion:
        return self._named[value.split(b":", 2)[1]]

    def _twice(self, value: bytes) -> Defect:
        return Defect(DefectKind.ENCRYPTED_TWICE, self._version(value))

    def _not_authentic(self, places: Sequence[tuple[int, int]], values: Sequence[bytes]) -> list[Failure]:
        return [
            Failure(*place, Defect(DefectKind.NOT_AUTHENTIC, self._version(value)))
            for place, value in zip(places, values, strict=True)
        ]

    def _require_unopenable(self, values: Sequence[bytes]) -> None:
        """Refuses to quarantine values that the server opens, or whose version it has withdrawn as a whole."""
        if any(text is not None for text in self._server.decrypted(values)):
            raise KeyStoreError(
                f"{self._server.address} opens values and does not encrypt them again; have its min_encryption_version "
                "set to 0, then run the same again"
            )
        self._require_versions(values)

    def _require_versions(self, values: Sequence[bytes]) -> None:
        asked = [self._keys[version] for version in sorted({self._version(value) for value in values})]
        if unknown := self._server.unknown_keys(asked):
            raise KeyStoreUnavailableError(
                f"{self._server.address} does not decrypt under {unknown[0].name} any more, or is another key; "
                "have min_decryption_version or the key put back there, then run this again"
            )

    def _require_target(self, values: Sequence[bytes]) -> None:
        for value in values:
            if marker_in(value) != self._target:
                raise KeyStoreError(
                    f"{self._server.address} encrypts under another version than {self._target.decode()}: somebody has "
                    "rotated it there; run `keyrotation init`, which imports that version, then `keyrotation request`"
                )


class _Codec(Codec):
    def format(self, declared: ValueFormat) -> TransitFormat:
        return TransitFormat(declared.transit)


CODEC = _Codec()
