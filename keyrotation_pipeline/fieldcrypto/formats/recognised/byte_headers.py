"""Recognises values that are bytes behind a header of their library, of formats that are not re-encrypted here."""

import re
from uuid import UUID

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.recogniser import Recognised, from_base64, in_bytes, in_text
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

_DECRYPT, _MARKER = IdentifiedBy.DECRYPT, IdentifiedBy.MARKER
_DATA_PROTECTION = b"\x09\xf0\xc9\xf0"
# magic, key id, key modifier, nonce, tag
_SHORTEST_PROTECTED_BYTES = 4 + 16 + 16 + 12 + 16


@in_bytes(
    "aspnet-data-protection",
    starts=(_DATA_PROTECTION,),
    advice=Advice(
        identified_by=_MARKER,
        steps="its key ring keeps expired keys for reading, so make a new default key and protect every value again",
        source="dotnet/aspnetcore src/DataProtection/DataProtection/src/KeyManagement/KeyRingBasedDataProtector.cs "
        "(0646d1acb692)",
    ),
)
def aspnet_data_protection(raw: bytes) -> Recognised | None:
    """Recognises ASP.NET Core Data Protection: ``09 F0 C9 F0 ‖ key id (a GUID) ‖ payload``, in base64url ``CfDJ8…``."""
    if len(raw) < _SHORTEST_PROTECTED_BYTES:
        return None
    return Recognised("aspnet-data-protection", str(UUID(bytes_le=raw[4:20])))


# version, salt, iv, mac
_SHORTEST_DEFUSE_BYTES = 4 + 32 + 16 + 32


@in_bytes(
    "defuse",
    starts=(b"\xde\xf5\x02\x00",),
    advice=Advice(identified_by=_DECRYPT, one_key="Defuse", source="defuse/php-encryption src/Core.php (0455be5a4658)"),
)
def defuse(raw: bytes) -> Recognised | None:
    """Recognises defuse/php-encryption: ``DE F5 02 00 ‖ salt32 ‖ iv16 ‖ ciphertext ‖ HMAC-SHA-256``, in hex."""
    return Recognised("defuse") if len(raw) > _SHORTEST_DEFUSE_BYTES else None


# version, salt, nonce, and the shortest of its MACs
_SHORTEST_HALITE_BYTES = 4 + 32 + 24 + 32


@in_bytes(
    "halite",
    starts=tuple(bytes((0x31, 0x42, version)) for version in range(2, 6)),
    advice=Advice(identified_by=_DECRYPT, one_key="Halite", source="paragonie/halite src/Halite.php (0120005d600d)"),
)
def halite(raw: bytes) -> Recognised | None:
    """Recognises Halite (PHP): ``31 42 ‖ version ‖ salt32 ‖ nonce24 ‖ ciphertext ‖ MAC``, in base64url ``MUIE…``."""
    return Recognised("halite") if len(raw) > _SHORTEST_HALITE_BYTES and raw[3] < 16 else None  # noqa: PLR2004  minor version


_FIELDS, _SYMMETRIC_HEAD_BYTES = (0x40, 0x20, 0x10), 6


@in_bytes(
    "symmetric-encryption",
    starts=(b"@EnC",),
    advice=Advice(
        identified_by=_MARKER,
        steps="its configuration lists ciphers by version, so add one first in the list, then save every value again",
        source="reidmorrison/symmetric-encryption lib/symmetric_encryption/header.rb (05daba1f78ce)",
    ),
)
def symmetric_encryption(raw: bytes) -> Recognised | None:
    """Recognises symmetric-encryption (Ruby): ``@EnC ‖ version ‖ flags ‖ [iv, key, cipher's name] ‖ ciphertext``.

    Each field has its size, of 16 bits, before it. The version names the key.
    """
    if len(raw) <= _SYMMETRIC_HEAD_BYTES:
        return None
    at, flags = _SYMMETRIC_HEAD_BYTES, raw[5]
    for flag in _FIELDS:
        if flags & flag:
            at += 2 + int.from_bytes(raw[at : at + 2], "little")
    return Recognised("symmetric-encryption", str(raw[4])) if at + 8 <= len(raw) else None


_AGE, _AGE_ARMOR = b"age-encryption.org/v1\n-> ", "-----BEGIN AGE ENCRYPTED FILE-----"
_AGE_ADVICE = Advice(
    identified_by=_DECRYPT,
    steps="encrypt every value to the new recipient, too; readers have a list of identities",
    source="C2SP/C2SP age.md (037e546d164a)",
)


@in_bytes("age", starts=(_AGE,), advice=_AGE_ADVICE)
def age(raw: bytes) -> Recognised | None:
    """Recognises age: ``age-encryption.org/v1``, stanzas of recipients, ``---`` and a MAC, then nonce16 and chunks."""
    head, mac, rest = raw.partition(b"\n--- ")
    return Recognised("age") if mac and head.count(b"-> ") and len(rest) > 43 + 1 + 16 + 16 else None


@in_text("age-armor", starts=(_AGE_ARMOR,), advice=_AGE_ADVICE)
def age_armor(text: str) -> Recognised | None:
    """Recognises age in its armor: ``-----BEGIN AGE ENCRYPTED FILE-----``."""
    body, end, _ = text.removeprefix(_AGE_ARMOR).partition("-----END AGE ENCRYPTED FILE-----")
    raw = from_base64("".join(body.split())) if end else None
    return Recognised("age-armor") if raw is not None and raw.startswith(_AGE) and age(raw) else None


_THEMIS_HEAD_BYTES = 16


@in_bytes(
    "themis-cell",
    starts=(b"\x00\x01\x01\x40", b"\x00\x01\x01\x41"),
    advice=Advice(
        identified_by=_DECRYPT,
        one_key="Themis",
        source="cossacklabs/themis src/themis/sym_enc_message.c (02fa3c22bcb2)",
    ),
)
def themis_cell(raw: bytes) -> Recognised | None:
    """Recognises Themis Secure Cell: ``algorithm ‖ sizes of iv, tag, message ‖ iv12 ‖ tag16 ‖ ciphertext``."""
    sizes = [int.from_bytes(raw[at : at + 4], "little") for at in (4, 8, 12)]
    fits = sizes[:2] == [12, 16] and sum(sizes) + _THEMIS_HEAD_BYTES <= len(raw) <= sum(sizes) + _THEMIS_HEAD_BYTES + 32
    return Recognised("themis-cell") if fits else None


# The RSA-wrapped key of 2048 bits or more, EAX nonce and tag.
_SHORTEST_DIFY_BYTES = 7 + 256 + 16 + 16


@in_bytes(
    "dify",
    starts=(b"HYBRID:",),
    advice=Advice(identified_by=_DECRYPT, one_key="Dify", source="langgenius/dify api/libs/rsa.py (08174abe7677)"),
)
def dify(raw: bytes) -> Recognised | None:
    """Recognises Dify's credentials: ``HYBRID: ‖ RSA-wrapped key ‖ nonce16 ‖ tag16 ‖ AES-EAX``, in base64."""
    return Recognised("dify") if len(raw) > _SHORTEST_DIFY_BYTES else None


@in_bytes(
    "infisical",
    ends=b"v01",
    advice=Advice(
        identified_by=_DECRYPT,
        one_key="Infisical",
        source="Infisical/infisical backend/src/services/kms/kms-service.ts (015303b913ac)",
    ),
)
def infisical(raw: bytes) -> Recognised | None:
    """Recognises Infisical's bytea: ``nonce12 ‖ ciphertext ‖ tag16 ‖ "v01"``; it takes several values to tell."""
    return Recognised("infisical", weak=True, body=raw[:-3]) if len(raw) > 12 + 16 + 3 else None


_KUBERNETES = re.compile(rb"k8s:enc:(?:aescbc|aesgcm|secretbox|kms):v[12]:([\w.-]{1,64}):", re.ASCII)


@in_bytes(
    "kubernetes",
    starts=(b"k8s:enc:",),
    advice=Advice(
        identified_by=_MARKER,
        steps="list the new key first in the EncryptionConfiguration, then replace every Secret",
        source="kubernetes/kubernetes staging/src/k8s.io/apiserver/pkg/server/options/encryptionconfig/config.go "
        "(01019770cfa6)",
    ),
)
def kubernetes(raw: bytes) -> Recognised | None:
    """Recognises Secrets of Kubernetes at rest, as kine stores them: ``k8s:enc:<provider>:v1:<key>: ‖ bytes``."""
    head = _KUBERNETES.match(raw)
    return Recognised("kubernetes", head[1].decode("ascii")) if head and len(raw) - head.end() > 28 else None  # noqa: PLR2004


_JENKINS_ADVICE = Advice(
    identified_by=_DECRYPT,
    one_key="Jenkins",
    source="jenkinsci/jenkins core/src/main/java/hudson/util/Secret.java (057d4ed98642)",
)


@in_bytes("jenkins", starts=(b"\x01\x00\x00\x00\x10\x00",), advice=_JENKINS_ADVICE)
def jenkins(raw: bytes) -> Recognised | None:
    """Recognises Jenkins' secrets: ``{<base64 of 01 ‖ sizes of iv and data ‖ iv16 ‖ AES-CBC>}``."""
    size = int.from_bytes(raw[5:9], "big")
    return Recognised("jenkins") if size and size % 16 == 0 and len(raw) == 9 + 16 + size else None


@in_text("jenkins", starts=("{AQAAABAAAA",))
def jenkins_in_braces(text: str) -> Recognised | None:
    """Recognises Jenkins' secrets: ``{<base64 of 01 ‖ sizes of iv and data ‖ iv16 ‖ AES-CBC>}``."""
    raw = from_base64(text[1:-1]) if text.endswith("}") else None
    return jenkins(raw) if raw is not None else None


_DPAPI = bytes.fromhex("01000000d08c9ddf0115d1118c7a00c04fc297eb")


@in_bytes(
    "dpapi",
    starts=(_DPAPI,),
    advice=Advice(
        identified_by=_MARKER,
        one_key="DPAPI",
        source="what CryptProtectData returns, which Microsoft calls opaque; read from published ones",
    ),
)
def dpapi(raw: bytes) -> Recognised | None:
    """Recognises Windows' DPAPI: version, the provider's GUID, then the master key's, which is named."""
    return Recognised("dpapi", str(UUID(bytes_le=raw[24:40]))) if len(raw) > 100 else None  # noqa: PLR2004


_ENVELOPED = bytes.fromhex("06092a864886f70d010703")


@in_bytes(
    "cms-enveloped",
    starts=(b"\x30\x82", b"\x30\x81", b"\x30\x80"),
    advice=Advice(
        identified_by=_DECRYPT, steps="encrypt to both certificates, then every value again", source="RFC 5652"
    ),
)
def cms_enveloped(raw: bytes) -> Recognised | None:
    """Recognises CMS (PKCS #7) EnvelopedData in DER."""
    return Recognised("cms-enveloped") if raw.find(_ENVELOPED, 2, 20) >= 2 else None  # noqa: PLR2004
