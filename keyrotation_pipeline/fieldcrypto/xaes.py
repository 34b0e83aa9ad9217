"""KC-XAES-256-GCM, the cipher of the second generation, composed of AES-256 and AES-256-GCM; the nonces of a batch.

From a 256-bit key and the first half of a 192-bit nonce comes the AES-256-GCM key of a message (a KDF of NIST SP
800-108r1 with CMAC as its function), so that random nonces are safe for 2^80 messages a key. Two more blocks of CMAC
commit to the key: a ciphertext that opens under two keys would be a collision of these 256 bits.

The nonces of a batch are random, in the second generation in runs that share a derived key: to derive one takes
longer than to encrypt a short text. So one nonce is drawn for 256 values of a batch: they share its first half, and
their second halves count on from its own. Within a run no nonce can repeat. Two runs of n and m values have one in
common if their first halves are equal and their second ones overlap: with a chance of (n + m - 1) / 2^192, which is
at most nm / 2^192, the bound for as many values with random nonces. docs/adr/0030 has what follows.

Source: https://c2sp.org/XAES-256-GCM; the commitment as in Kampanakis et al., "Blockcipher-Based Key Commitment for
Nonce-Derived Schemes" (ePrint 2025/758), appended to the tag. NIST SP 800-38B (CMAC), 800-38D (GCM).
"""

import hmac
import os

from keyrotation_pipeline.fieldcrypto.grammar import COMMITMENT_BYTES, SECOND, TAG_BYTES, Generation

BLOCK_BYTES = 16
_HALF_BYTES = SECOND.nonce_bytes // 2
# The counters of the KDF with its label X; the label of the commitment and the counters of its two halves.
_DERIVE = (b"\x00\x01X\x00", b"\x00\x02X\x00")
_COMMIT, _COMMIT_COUNTERS = b"XCMT", (b"\x00\x01\x00\x01", b"\x00\x01\x00\x02")
_REDUCTION = 0x87


class KcXaes256Gcm:
    """The cipher under one key; safe between threads.

    Args:
        key: 32 bytes.
    """

    __slots__ = ("_aes", "_gcm", "_refusal", "_subkey")

    def __init__(self, key: bytes) -> None:
        # Not above, as in `keyring`: a pack's `verify.py` has only Python's standard library.
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers import Cipher  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.algorithms import AES256  # noqa: PLC0415
        from cryptography.hazmat.primitives.ciphers.modes import ECB  # noqa: PLC0415

        self._gcm, self._refusal = AESGCM, InvalidTag
        # Single blocks that never repeat, as CMAC uses them; nothing is encrypted in this mode.
        self._aes = Cipher(AES256(key), ECB())  # noqa: S305
        self._subkey = _doubled(self._aes.encryptor().update(bytes(BLOCK_BYTES)))

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Returns ciphertext ‖ 16-byte tag ‖ 32-byte commitment.

        Args:
            nonce: 24 random bytes.
        """
        key, commitment = self.derived(nonce)
        return self._gcm(key).encrypt(nonce[_HALF_BYTES:], data, associated_data) + commitment

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        """Returns the plaintext.

        Raises:
            InvalidTag: key, nonce, associated data or ciphertext are not those of the encryption.
        """
        if len(nonce) != SECOND.nonce_bytes or len(data) < TAG_BYTES + COMMITMENT_BYTES:
            raise self._refusal
        key, commitment = self.derived(nonce)
        if not hmac.compare_digest(commitment, data[-COMMITMENT_BYTES:]):
            raise self._refusal
        return self._gcm(key).decrypt(nonce[_HALF_BYTES:], data[:-COMMITMENT_BYTES], associated_data)

    def derived(self, nonce: bytes) -> tuple[bytes, bytes]:
        """Returns the message's key and its commitment, of 32 bytes each."""
        first, second = nonce[:_HALF_BYTES], nonce[_HALF_BYTES:]
        blocks = self._aes.encryptor()
        made = blocks.update(b"".join([*(_xor(each + first, self._subkey) for each in _DERIVE), _COMMIT + first]))
        key, chained = made[: 2 * BLOCK_BYTES], _xor(made[2 * BLOCK_BYTES :], self._subkey)
        return key, blocks.update(b"".join(_xor(second + each, chained) for each in _COMMIT_COUNTERS))


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one) ^ int.from_bytes(other)).to_bytes(BLOCK_BYTES)


def _doubled(block: bytes) -> bytes:
    """CMAC's first subkey: the block times x in GF(2^128)."""
    doubled = int.from_bytes(block) << 1
    if doubled >> 8 * BLOCK_BYTES:
        doubled ^= (1 << 8 * BLOCK_BYTES) | _REDUCTION
    return doubled.to_bytes(BLOCK_BYTES)


RUN_VALUES = 256
_MODULUS = 1 << 8 * _HALF_BYTES


def run_values(generation: Generation) -> int:
    """Returns how many values of a batch take their nonces from one that was drawn."""
    return RUN_VALUES if generation == SECOND else 1


def drawn_nonces(generation: Generation, values: int) -> bytes:
    """Returns new nonces for the values of one batch, joined; to be used once, whether the batch succeeds or not."""
    run, size = run_values(generation), generation.nonce_bytes
    starts = os.urandom(-(-values // run) * size)
    if run == 1:
        return starts
    each_start = (starts[at : at + size] for at in range(0, len(starts), size))
    return b"".join(
        _counted(start, min(run, values - before))
        for start, before in zip(each_start, range(0, values, run), strict=True)
    )


def _counted(start: bytes, values: int) -> bytes:
    half, number = start[:_HALF_BYTES], int.from_bytes(start[_HALF_BYTES:])
    return b"".join(half + ((number + further) % _MODULUS).to_bytes(_HALF_BYTES) for further in range(values))
