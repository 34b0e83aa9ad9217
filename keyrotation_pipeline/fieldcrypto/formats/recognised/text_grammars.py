"""Recognises values that are texts of fixed parts: a table of formats, a row each, with what can be done about them.

Every group of a pattern is decoded, and its size is tested: a marker alone recognises nothing.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.fernet.recognise import fernet
from keyrotation_pipeline.fieldcrypto.formats.recogniser import (
    BLOCK_BYTES,
    Recognised,
    from_base64,
    from_base64url,
    from_hex,
    in_text,
    key_id,
)
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

_DECRYPT, _MARKER = IdentifiedBy.DECRYPT, IdentifiedBy.MARKER
# A salt or iv, and a block.
_SHORTEST_CBC_BYTES = 2 * BLOCK_BYTES


class Part(NamedTuple):
    """What a group of a pattern must be.

    Args:
        decode: its text to bytes; None: the group names the key.
        sizes: how many bytes it may have; empty: any number from `least` on.
        least: the smallest number of bytes.
        multiple: what the number of bytes is a multiple of.
    """

    decode: Callable[[str], bytes | None] | None
    sizes: tuple[int, ...] = ()
    least: int = 1
    multiple: int = 1

    def fits(self, text: str) -> bool:
        """Returns whether a text is such a part."""
        if self.decode is None:
            return True
        if (raw := self.decode(text)) is None:
            return False
        return len(raw) >= self.least and len(raw) % self.multiple == 0 and (not self.sizes or len(raw) in self.sizes)


class Grammar(NamedTuple):
    """A format of texts.

    Args:
        name: of the format.
        says: its parts, for the reference.
        starts: how values begin.
        pattern: of a whole value.
        parts: of its groups, in their order; a group that did not match is left out.
        advice: about its values.
        ends: how values end, where they have no common beginning.
        contains: what every value contains, where they have neither.
        least: characters of the shortest one.
        by_size: whether nothing but sizes marks them, so that several values of different lengths are needed.
    """

    name: str
    says: str
    starts: tuple[str, ...]
    pattern: str
    parts: tuple[Part, ...]
    advice: Advice
    ends: tuple[str, ...] = ()
    contains: str = ""
    least: int = 0
    by_size: bool = False


def _base64(text: str) -> bytes | None:
    """Decodes base64 of either alphabet, with its padding or without."""
    if "+" in text or "/" in text:
        return from_base64(text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4))
    return from_base64url(text)


def _token(text: str) -> bytes | None:
    """Decodes the base64 of a Fernet token, which is base64url itself."""
    raw = from_base64(text)
    return raw if raw is not None and fernet(raw.decode("latin-1")) is not None else None


def _lines(text: str) -> bytes | None:
    return from_hex("".join(text.split()))


def _readable(text: str) -> bytes | None:
    """Decodes base64url of 16 characters of base64url."""
    raw = from_base64url(text)
    return raw if raw is not None and from_base64url(raw.decode("latin-1")) is not None else None


KEY = Part(None)
_ANY, _NONCE, _MAC = Part(_base64), Part(_base64, (12,)), Part(_base64, (32,))
_IV = _TAG = Part(_base64, (16,))
_BLOCKS = Part(_base64, least=BLOCK_BYTES, multiple=BLOCK_BYTES)
_HEX_BLOCKS = Part(from_hex, least=BLOCK_BYTES, multiple=BLOCK_BYTES)
_B64, _HEX = r"([A-Za-z0-9+/]++={0,2})", r"((?:[0-9a-f]{2})++|(?:[0-9A-F]{2})++)"
_B64U = r"([A-Za-z0-9_-]++={0,2})"


def _one(name: str, source: str) -> Advice:
    return Advice(identified_by=_DECRYPT, one_key=name, source=source)


def _two(steps: str, source: str, identified_by: IdentifiedBy = _MARKER) -> Advice:
    return Advice(identified_by=identified_by, steps=steps, source=source)


_BITWARDEN = _one(
    "a vault of Bitwarden",
    "bitwarden/clients libs/common/src/key-management/crypto/models/enc-string.ts (0b0a03ff24aa)",
)
GRAMMARS = (
    Grammar(
        "gitlab-token", "GitLab's `*_token_encrypted`: ``|<base64 of ciphertext ‖ tag16><nonce of 12 characters>``.",
        ("|",), rf"\|{_B64}[0-9a-f]{{12}}", (Part(_base64, least=17),),
        _one("GitLab", "gitlabhq/gitlabhq token_authenticatable_strategies/encryption_helper.rb (14bd84b61276)"),
    ),
    Grammar(
        "redmine", "Redmine and OpenProject: ``aes-256-cbc:<base64 of ciphertext>--<base64 of iv16>``.",
        ("aes-256-cbc:",), rf"aes-256-cbc:{_B64}--{_B64}", (_BLOCKS, _IV),
        _one("Redmine::Ciphering", "redmine/redmine lib/redmine/ciphering.rb (0f20f6010234)"),
    ),
    Grammar(
        "nextcloud", "Nextcloud's ICrypto: ``<ciphertext>|<iv16>|<HMAC-SHA-512>|3`` in hex.",
        (), rf"{_HEX}\|{_HEX}\|{_HEX}\|[23]", (_HEX_BLOCKS, Part(from_hex, (16,)), Part(from_hex, (64,))),
        _one("Nextcloud", "nextcloud/server lib/private/Security/Crypto.php (007be83a968e)"), ends=("|2", "|3"),
    ),
    Grammar(
        "bitwarden", "Bitwarden and Vaultwarden: ``2.<iv16>|<ciphertext>|<HMAC-SHA-256>``, AES-CBC.",
        ("0.", "1.", "2."), rf"(?:[12]\.{_B64}\|{_B64}\|{_B64}|0\.{_B64}\|{_B64})",
        (_IV, _BLOCKS, _MAC, _IV, _BLOCKS), _BITWARDEN,
    ),
    Grammar(
        "bitwarden-rsa", "Bitwarden and Vaultwarden: ``4.<base64 of RSA-OAEP>``, with a MAC in types 5 and 6.",
        ("3.", "4.", "5.", "6."), rf"[3-6]\.{_B64}(?:\|{_B64})?", (Part(_base64, (256, 384, 512)), _MAC), _BITWARDEN,
    ),
    Grammar(
        "kong-keyring", "Kong's keyring: ``$ke$1$-<key id>-<nonce12>-<ciphertext ‖ tag16>`` in hex.",
        ("$ke$1$-",), rf"\$ke\$1\$-([\w.-]{{1,64}})-([0-9a-f]{{24}})-{_HEX}",
        (KEY, Part(from_hex, (12,)), Part(from_hex, least=17)),
        _two(
            "generate and activate a new key in the keyring, which keeps the older ones, then update every entity",
            "the keyring of Kong Gateway, whose source is closed; read from published values",
        ),
    ),
    Grammar(
        "sops", "SOPS: ``ENC[AES256_GCM,data:…,iv:…,tag:…,type:…]``.",
        ("ENC[AES256_GCM,",), rf"ENC\[AES256_GCM,data:{_B64},iv:{_B64},tag:{_B64},type:[a-z]+\]",
        (_ANY, Part(_base64, (12, 16, 32)), _TAG),
        _two("`sops updatekeys` wraps the data key for other keys, and `sops rotate` makes a new one",
             "getsops/sops aes/cipher.go (0486373cdde3)", _DECRYPT),
    ),
    Grammar(
        "ansible-vault", "Ansible Vault: ``$ANSIBLE_VAULT;1.1;AES256`` and lines of hex; 1.2 names the vault id.",
        ("$ANSIBLE_VAULT;",), r"\$ANSIBLE_VAULT;1\.[12];AES256(?:;([\w.-]+))?\r?\n([0-9a-f\s]+)",
        (KEY, Part(_lines, least=80)),
        _two("give Ansible both passwords by vault ids, then `ansible-vault rekey`",
             "ansible/ansible lib/ansible/parsing/vault/__init__.py (005f6401cdfa)", _DECRYPT),
    ),
    Grammar(
        "paseto-local", "PASETO, encrypted: ``v<1-4>.local.<base64url>[.<footer>]``.",
        tuple(f"v{version}.local." for version in range(1, 5)), rf"v[1-4]\.local\.{_B64U}(?:\.{_B64U})?",
        (Part(_base64, least=40), _ANY),
        _two("name keys in the footer (`kid`), so that readers choose by it, then encrypt every value again",
             "paseto-standard/paseto-spec: Version2.md (07df4951b698), Version4.md (1534915e07c0)", _DECRYPT),
    ),
    Grammar(
        "plug-crypto", "Plug.Crypto (Elixir): ``QTEyOEdDTQ.<wrapped key>.<iv12>.<ciphertext>.<tag16>``.",
        ("QTEyOEdDTQ.", "QTE5MkdDTQ.", "QTI1NkdDTQ."),
        rf"(?:QTEyOEdDTQ|QTE5MkdDTQ|QTI1NkdDTQ)\.{_B64U}\.{_B64U}\.{_B64U}\.{_B64U}",
        (Part(_base64, (44, 52, 60)), _NONCE, _ANY, _TAG),
        _one("Plug.Crypto", "elixir-plug/plug_crypto lib/plug/crypto/message_encryptor.ex (01398d5a5401)"),
    ),
    Grammar(
        "evervault", "Evervault: ``ev:<version>:[<type>:]<iv12>:<public key of 33 bytes>:<ciphertext>:$``.",
        ("ev:",), rf"ev:[\w+/=-]+:(?:(?:string|number|boolean):)?{_B64}:{_B64}:{_B64}:\$",
        (_NONCE, Part(_base64, (33,)), Part(_base64, least=17)),
        _two("Evervault keeps its keys itself, and reads what any of them encrypted",
             "evervault's SDKs, read from published values"),
    ),
    Grammar(
        "awx", "AWX and Ansible Tower: ``$encrypted$UTF8$AESCBC$<base64 of a token>``, Fernet with AES-256.",
        ("$encrypted$",), rf"\$encrypted\$(?:UTF8\$)?AESCBC\${_B64}", (Part(_token),),
        Advice(
            identified_by=_DECRYPT, one_key="AWX",
            elsewhere="Not rotated by keyrotation yet; AWX reads one SECRET_KEY, from which each field of each row has "
            "a key of its own: `awx-manage regenerate_secret_key` encrypts all again in a maintenance window.",
            source="ansible/awx awx/main/utils/encryption.py (0d248a12bc1e)",
        ),
    ),
    Grammar(
        "eyaml", "Hiera's eyaml: ``ENC[PKCS7,<base64>]``.",
        ("ENC[PKCS7,",), rf"ENC\[PKCS7,{_B64}\]", (Part(_base64, least=200),),
        _one("hiera-eyaml", "voxpupuli/hiera-eyaml lib/hiera/backend/eyaml/encryptors/pkcs7.rb (029aa895a040)"),
    ),
    Grammar(
        "doctrine-encrypt", "DoctrineEncryptBundle (Symfony): a value of Halite or Defuse, then ``<ENC>``.",
        (), rf"(?:{_HEX}|{_B64U}|{_B64})<ENC>",
        (Part(from_hex, least=84), Part(_base64, least=32), Part(_base64, least=16)),
        _one("DoctrineEncryptBundle",
             "absolute-quantum/DoctrineEncryptBundle src/Subscribers/DoctrineEncryptSubscriber.php (70c9594ba315)"),
        ends=("<ENC>",),
    ),
    Grammar(
        "standard-notes",
        "Standard Notes: ``004:<nonce24 in hex>:<base64>:<base64 of authenticated data>``, earlier ``003:<HMAC-SHA-256 "
        "in hex>:<uuid>:<iv16 in hex>:<base64>``.",
        ("002:", "003:", "004:"),
        rf"(?:004:([0-9a-f]{{48}}):{_B64}:{_B64}|"
        rf"00[23]:([0-9a-f]{{64}}):[0-9a-f-]{{36}}:([0-9a-f]{{32}}):{_B64}(?::{_B64})?)",
        (Part(from_hex, (24,)), Part(_base64, least=17), _ANY,
         Part(from_hex, (32,)), Part(from_hex, (16,)), _BLOCKS, _ANY),
        _one("Standard Notes",
             "standardnotes/app specification.md (0e40469e2fe8), packages/encryption Operator002.ts (2a305020f37b)"),
    ),
    Grammar(
        "dolibarr", "Dolibarr: ``dolcrypt:<cipher>:<iv>:<base64>``.",
        ("dolcrypt:",), rf"dolcrypt:[\w-]+:[^:]{{16,32}}:{_B64}", (_ANY,),
        _one("Dolibarr", "Dolibarr/dolibarr htdocs/core/lib/security.lib.php (0002dcda2acb)"),
    ),
    Grammar(
        "moodle", "Moodle: ``sodium:<base64 of nonce24 ‖ tag16 ‖ ciphertext>``, earlier ``openssl-aes-256-ctr:…``.",
        ("sodium:", "openssl-aes-256-ctr:"), rf"(?:sodium|openssl-aes-256-ctr):{_B64}", (Part(_base64, least=41),),
        _one("Moodle", "moodle/moodle lib/classes/encryption.php (3b786b87c3dd)"),
    ),
    Grammar(
        "travis", "Travis CI: ``--ENCR--<base64 of ciphertext ‖ iv16>``, AES-256-CBC.",
        ("--ENCR--",), rf"--ENCR--{_B64}", (Part(_base64, least=_SHORTEST_CBC_BYTES, multiple=16),),
        _one("travis-encrypt", "travis-ci/travis-encrypt lib/travis/encrypt/common.rb (177a6dd4fb61)"),
    ),
    Grammar(
        "manageiq", "ManageIQ and CloudForms: ``v2:{<base64>}``, AES-256-CBC under a fixed iv.",
        ("v2:{",), rf"v2:\{{{_B64}\}}", (_BLOCKS,),
        _one("ManageIQ::Password", "ManageIQ/manageiq-password lib/manageiq/password.rb (0d50fc550be2)"),
    ),
    Grammar(
        "novu", "Novu: ``nvsk.<iv16>:<ciphertext>`` in hex, AES-256-CBC.",
        ("nvsk.",), rf"nvsk\.([0-9a-f]{{32}}):{_HEX}", (Part(from_hex, (16,)), _HEX_BLOCKS),
        _one("Novu", "novuhq/novu libs/application-generic/src/encryption/cipher.ts (742206f3aed6)"),
    ),
    Grammar(
        "adonisjs", "AdonisJS: ``<AES-CBC>.<iv16>.<HMAC-SHA-256>`` in base64url; the iv is 16 characters of it.",
        (), rf"{_B64U}\.([A-Za-z0-9_-]{{22}})\.([A-Za-z0-9_-]{{43}})",
        (_BLOCKS, Part(_readable, (16,)), _MAC),
        _one("AdonisJS", "adonisjs/encryption src/encryption.ts (491efaad645e)"),
        contains=".", least=22 + 1 + 22 + 1 + 43,
    ),
    Grammar(
        "librechat", "LibreChat: ``v3:<iv16>:<ciphertext>`` in hex, AES-CTR.",
        ("v3:",), rf"v3:([0-9a-f]{{32}}):{_HEX}", (Part(from_hex, (16,)), Part(from_hex)),
        _one("LibreChat", "danny-avila/LibreChat api/server/utils/crypto.js (03713385049e)"), by_size=True,
    ),
)  # fmt: skip


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)


def _recogniser(grammar: Grammar) -> Callable[[str], Recognised | None]:
    # Compiled when the first value begins so: compiling all takes a part of the time in which a scan starts.
    def recognise(text: str) -> Recognised | None:
        whole = _compiled(grammar.pattern).fullmatch(text)
        if whole is None:
            return None
        found = [(part, group) for part, group in zip(grammar.parts, whole.groups(), strict=True) if group is not None]
        if not all(part.fits(group) for part, group in found):
            return None
        key = next((key_id(group) for part, group in found if part is KEY), None)
        body = b"".join([part.decode(group) or b"" for part, group in found if part.decode]) if grammar.by_size else b""
        return Recognised(grammar.name, key, weak=grammar.by_size, by_size=grammar.by_size, body=body)

    recognise.__doc__ = f"Recognises {grammar.says}"
    return recognise


for _grammar in GRAMMARS:
    in_text(
        _grammar.name,
        starts=_grammar.starts,
        ends=_grammar.ends,
        contains=_grammar.contains,
        least=_grammar.least,
        advice=_grammar.advice,
    )(_recogniser(_grammar))
