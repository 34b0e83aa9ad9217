"""Encrypted places of applications that nothing was tuned on, made after their sources, and other columns beside them.

A place is a table of columns: what stands next to a value is as the application has it. After each place stand the
repository, the file and the commit that it was read at.
"""

import random
import struct
import uuid
from collections.abc import Callable, Mapping
from typing import NamedTuple

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from keyrotation_pipeline_tests.unit.scan.applications import AEAD, BYTEA, CBC, JSONB, STREAM, TEXT, b64url, token
from keyrotation_pipeline_tests.unit.scan.ciphertexts import (
    b64,
    cbc_with_iv,
    email,
    gcm,
    iv_and_blocks,
    name,
    nonce_tag_text,
    note,
)
from keyrotation_pipeline_tests.unit.scan.other_data import BASE58, BASE62, letters, prose

Cells = Mapping[str, str | bytes]
Row = Callable[[random.Random], str | bytes]
FERNET = Fernet(Fernet.generate_key())


class Table(NamedTuple):
    """A table of an application in which one column is encrypted.

    Args:
        place: ``application: table.column``; a key of a document follows in brackets.
        kind: the type of that column.
        named: names that are right; none: bytes of one size under such a name may be any key or digest.
        row: makes one row, by column or key; others than the encrypted one stand next to it.
    """

    place: str
    kind: str
    named: tuple[str, ...]
    row: Callable[[random.Random], Cells]

    @property
    def column(self) -> str:
        """The encrypted column, or the key inside a document."""
        return self.place.rpartition(".")[2].partition(" [")[2].rstrip("]") or self.place.rpartition(".")[2]

    @property
    def in_document(self) -> bool:
        """Whether the cells are keys of one document."""
        return self.place.endswith("]")


def hex_parts(rng: random.Random) -> Cells:
    nonce, ciphertext, tag = gcm(rng, token(rng))
    return {"nonce": nonce.hex(), "ciphertext": ciphertext.hex(), "tag": tag.hex()}


def typebot(rng: random.Random) -> Cells:
    nonce, ciphertext, tag = gcm(rng, note(rng))
    return {"data": b64(ciphertext + tag), "iv": nonce.hex(), "name": name(rng)}


def nango(rng: random.Random) -> Cells:
    nonce, ciphertext, tag = gcm(rng, f'{{"access_token":"{token(rng)}"}}')
    return {"credentials": b64(ciphertext), "credentials_iv": b64(nonce), "credentials_tag": b64(tag)}


def logto(rng: random.Random) -> Cells:
    nonce, ciphertext, tag = gcm(rng, f'{{"access_token":"{token(rng)}"}}', 12)
    return {"ciphertext": ciphertext, "iv": nonce, "auth_tag": tag, "encrypted_dek": rng.randbytes(12 + 32 + 16)}


def activepieces(rng: random.Random) -> Cells:
    iv, blocks = iv_and_blocks(rng, f'{{"type":"OAUTH2","access_token":"{token(rng)}"}}')
    return {"iv": iv.hex(), "data": blocks.hex()}


def psono(rng: random.Random) -> Cells:
    return {"data": rng.randbytes(16 + len(note(rng))), "data_nonce": rng.randbytes(24).hex()}


def formbricks(rng: random.Random) -> str:
    nonce, ciphertext, tag = gcm(rng, token(rng), 16)
    return f"{nonce.hex()}:{ciphertext.hex()}:{tag.hex()}"


def adonis(rng: random.Random) -> str:
    _, blocks = iv_and_blocks(rng, f'{{"message":"{email(rng)}"}}')
    iv = letters(rng, BASE62 + "-_", 16).encode()
    return ".".join(map(b64url, (blocks, iv, rng.randbytes(32))))


def laminas(rng: random.Random) -> str:
    return rng.randbytes(32).hex() + b64(cbc_with_iv(rng, token(rng)))


def joined(rng: random.Random, text: str) -> bytes:
    """nonce12 ‖ ciphertext ‖ tag16."""
    return b"".join(gcm(rng, text))


def alone(column: str, value: Row) -> Callable[[random.Random], Cells]:
    return lambda rng: {column: value(rng)}


TABLES = (
    # supabase/realtime lib/realtime/crypto.ex (833cf36c3a36)
    Table(
        "Supabase Realtime: extensions.settings [db_password]", JSONB, AEAD,
        alone("db_password", lambda rng: "g1:" + b64(nonce_tag_text(rng, token(rng), 12))),
    ),
    Table(
        "Supabase Realtime, ECB: tenants.jwt_secret", TEXT, CBC,
        alone("jwt_secret", lambda rng: b64(iv_and_blocks(rng, token(rng))[1])),
    ),
    # semaphoreui/semaphore db/AccessKey.go
    Table("Semaphore: access_key.secret", TEXT, AEAD, alone("secret", lambda rng: b64(joined(rng, note(rng))))),
    # hoppscotch/hoppscotch packages/hoppscotch-backend/src/utils.ts
    Table(
        "Hoppscotch: InfraConfig.value", TEXT, CBC,
        alone("value", lambda rng: ":".join(part.hex() for part in iv_and_blocks(rng, token(rng)))),
    ),
    # svix/svix-webhooks server/svix-server/src/core/cryptography.rs (4fc0cfb8b426): a type, then 24 bytes
    Table("Svix: endpoint.key", BYTEA, (), alone("key", lambda rng: rng.randbytes(24 + 25 + 16))),
    # teamhanko/hanko backend/crypto/aes_gcm/aes_gcm.go
    Table("Hanko: jwks.key_data", TEXT, AEAD, alone("key_data", lambda rng: b64url(joined(rng, note(rng) * 3)))),
    # laminas/laminas-crypt src/BlockCipher.php (6f291fe90c84)
    Table("Laminas BlockCipher: gateway.api_secret", TEXT, ("laminas-block-cipher",), alone("api_secret", laminas)),
    # adonisjs/encryption src/encryption.ts (491efaad645e)
    Table("AdonisJS: users.phone", TEXT, ("adonisjs",), alone("phone", adonis)),
    # baptisteArno/typebot.io packages/credentials/src/encrypt.ts (830ba7139bc1)
    Table("Typebot: Credentials.data", TEXT, AEAD, typebot),
    # NangoHQ/nango packages/utils/lib/encryption.ts (2f4c0af671e2)
    Table("Nango: _nango_connections.credentials", TEXT, STREAM, nango),
    # kestra-io/kestra core/src/main/java/io/kestra/core/encryption/EncryptionService.java (58c1ca2d0589)
    Table(
        "Kestra: executions.value [token]", JSONB, AEAD, alone("token", lambda rng: b64(joined(rng, token(rng)))),
    ),
    # formbricks/formbricks apps/web/lib/crypto.ts (b66c1dd978af)
    Table("Formbricks: Integration.config", TEXT, ("handmade-hex-colon",), alone("config", formbricks)),
    # triggerdotdev/trigger.dev apps/webapp/app/utils/tokens.server.ts (b082e4438933)
    Table("Trigger.dev: SecretStore.value [ciphertext]", JSONB, STREAM, hex_parts),
    # rundeck/rundeck encryption-core AesEncryptor.java (2f047102d84e)
    Table(
        "Rundeck: storage.data", BYTEA, AEAD,
        alone("data", lambda rng: b"\x01" + rng.randbytes(16) + joined(rng, note(rng))),
    ),
    # hatchet-dev/hatchet pkg/encryption/local.go
    Table(
        "Hatchet: SNSIntegration.token", TEXT, ("tink",),
        alone("token", lambda rng: b64(b"\x01\x33\x1c\x2a\x07" + joined(rng, token(rng)))),
    ),
    # coder/coder enterprise/dbcrypt/cipher.go (199bdad29919)
    Table(
        "Coder: user_links.oauth_access_token", TEXT, AEAD,
        lambda rng: {"oauth_access_token": b64(joined(rng, token(rng))), "oauth_access_token_key_id": "a1b2c3d"},
    ),
    # documenso/documenso packages/lib/universal/crypto.ts (801d37f7a360): a secret of 32 characters
    Table(
        "Documenso: User.twoFactorSecret", TEXT, (),
        alone("twoFactorSecret", lambda rng: rng.randbytes(24 + 32 + 16).hex()),
    ),
    # onyx-dot-app/onyx backend/ee/onyx/utils/encryption.py (175258dc7d2d)
    Table(
        "Onyx: credential.credential_json", BYTEA, CBC,
        alone("credential_json", lambda rng: cbc_with_iv(rng, token(rng))),
    ),
    # activepieces/activepieces packages/server/api/src/app/helper/encryption.ts (03c3239ede00)
    Table("Activepieces: app_connection.value [data]", JSONB, CBC, activepieces),
    # PrefectHQ/prefect src/prefect/server/utilities/encryption.py (26bfb2bce38b)
    Table(
        "Prefect: block_document.data [encrypted_blob]", JSONB, ("fernet",),
        alone("encrypted_blob", lambda rng: FERNET.encrypt(token(rng).encode()).decode()),
    ),
    # psono/psono-server psono/restapi/models: NaCl's box, its nonce in a column
    Table("Psono: restapi_secret.data", BYTEA, STREAM, psono),
    # etesync/server etebase_server/django/models.py: XChaCha20-Poly1305, padded
    Table(
        "Etebase: django_collectionitemrevision.meta", BYTEA, STREAM,
        alone("meta", lambda rng: rng.randbytes(24 + 16 + 32 * rng.randrange(1, 9))),
    ),
    # logto-io/logto packages/schemas/tables/secrets.sql
    Table("Logto: secrets.ciphertext", BYTEA, STREAM, logto),
    # lightdash/lightdash packages/backend/src/utils/EncryptionUtil: salt64, tag16, iv12
    Table(
        "Lightdash: warehouse_credentials.encrypted_credentials", BYTEA, AEAD,
        alone("encrypted_credentials", lambda rng: rng.randbytes(64 + 28 + len(note(rng)))),
    ),
    # jasypt's bytes in another application: adorsys/keycloak-config-cli, `$(…)`; here ENC of AES in hex
    Table(
        "Jasypt, hex: settings.value", TEXT, ("jasypt",),
        alone("value", lambda rng: f"ENC({(rng.randbytes(16) + cbc_with_iv(rng, token(rng))).hex()})"),
    ),
    # TeslaMate and other users of Cloak with a label of their own
    Table(
        "TeslaMate: tokens.access", BYTEA, ("cloak-ecto",),
        alone("access", lambda rng: b"\x01\x0aAES.GCM.V1" + nonce_tag_text(rng, token(rng), 12)),
    ),
)  # fmt: skip


def cose_key(rng: random.Random) -> bytes:
    """A public key of WebAuthn in CBOR."""
    return b"\xa5\x01\x02\x03\x26\x20\x01\x21\x58\x20" + rng.randbytes(32) + b"\x22\x58\x20" + rng.randbytes(32)


def credential_id(rng: random.Random) -> bytes:
    """Of authenticators of several makers, whose ids have 16 to 300 bytes."""
    return rng.randbytes(rng.choice((16, 20, 32, 48, 64, 64, 64, 65, 80, 96, 112, 256)))


def msgpack(rng: random.Random) -> bytes:
    return (
        b"\x83\xa2id\xce"
        + rng.randbytes(4)
        + b"\xa3key\xc4\x20"
        + rng.randbytes(32)
        + b"\xa1n"
        + bytes([rng.randrange(128)])
    )


def yjs(rng: random.Random) -> bytes:
    """An update of Yjs: clients, clocks and text."""
    texts = [prose(rng, rng.randrange(2, 9)).encode() for _ in range(rng.randrange(1, 4))]
    body = b"".join(b"\x84" + rng.randbytes(5) + bytes([len(text) % 128]) + text for text in texts)
    return bytes([1, len(texts)]) + rng.randbytes(5) + b"\x00\x04\x01\x07default" + body + b"\x00"


def brotli(rng: random.Random) -> bytes:
    """Like brotli's output of JSON: a few bits of header, then bits that are nearly random."""
    return bytes([0x1B, rng.randrange(256), rng.randrange(2), 0x00]) + rng.randbytes(rng.randrange(60, 400))


def zstd(rng: random.Random) -> bytes:
    return b"\x28\xb5\x2f\xfd\x20" + bytes([rng.randrange(256)]) + rng.randbytes(rng.randrange(60, 400))


def snappy_block(rng: random.Random) -> bytes:
    text = prose(rng, 30).encode()
    return bytes([0x80 | (len(text) & 0x7F), len(text) >> 7, 0xF0, len(text) - 1]) + text


def discord(rng: random.Random) -> str:
    return (
        f"{b64url(str(rng.randrange(10**17, 10**18)).encode())}.{letters(rng, BASE62, 6)}.{b64url(rng.randbytes(27))}"
    )


def macaroon(rng: random.Random) -> str:
    fields = (
        b"\x02\x01\x07pypi.org",
        b"\x02\x24" + str(uuid.UUID(bytes=rng.randbytes(16))).encode(),
        b"\x06\x20" + rng.randbytes(32),
    )
    return "pypi-" + b64url(b"\x00".join(fields))


def private_der(rng: random.Random) -> str:
    key = ec.derive_private_key(rng.randrange(1, 1 << 128), ec.SECP256R1())
    form = serialization.PrivateFormat.PKCS8
    return b64(key.private_bytes(serialization.Encoding.DER, form, serialization.NoEncryption()))


def ssh_key(rng: random.Random) -> str:
    key = ed25519.Ed25519PrivateKey.from_private_bytes(rng.randbytes(32)).public_key()
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def page_token(rng: random.Random) -> str:
    return b64url(
        b"\x0a\x10"
        + rng.randbytes(16)
        + b"\x10"
        + bytes([rng.randrange(1, 128)])
        + b"\x1a\x06id-"
        + rng.randbytes(3).hex().encode()
    )


# Columns of these and other applications that look random and are no ciphertext; some with the name that they have.
OTHERS: Mapping[str, Row] = {
    "webauthn: credential_id": credential_id,
    "webauthn, base64url: credential_id": lambda rng: b64url(credential_id(rng)),
    "webauthn: public_key": cose_key,
    "webauthn, base64: public_key": lambda rng: b64(cose_key(rng)),
    "webauthn: aaguid": lambda rng: str(uuid.UUID(bytes=rng.randbytes(16))),
    "web push: p256dh": lambda rng: b64url(b"\x04" + rng.randbytes(64)),
    "web push: auth": lambda rng: b64url(rng.randbytes(16)),
    "web push: endpoint": lambda rng: (
        f"https://updates.push.services.mozilla.com/wpush/v2/gAAAAAB{b64url(rng.randbytes(120))}"
    ),
    "apns: device_token": lambda rng: rng.randbytes(32).hex(),
    "api_keys: hashed_secret": lambda rng: rng.randbytes(32),
    "api_keys: hash in base64": lambda rng: b64(rng.randbytes(64)),
    "api_keys: openai": lambda rng: "sk-proj-" + letters(rng, BASE62 + "_-", 156),
    "api_keys: stripe": lambda rng: "sk_live_" + letters(rng, BASE62, 99),
    "api_keys: github": lambda rng: "ghp_" + letters(rng, BASE62, 36),
    "api_keys: gitlab": lambda rng: "glpat-" + letters(rng, BASE62 + "_-", 20),
    "api_keys: shopify": lambda rng: "shpat_" + rng.randbytes(16).hex(),
    "api_keys: aws secret": lambda rng: letters(rng, BASE62 + "+/", 40),
    "api_keys: telegram": lambda rng: f"{rng.randrange(10**9, 10**10)}:AA{letters(rng, BASE62 + '_-', 33)}",
    "api_keys: discord": discord,
    "api_keys: pypi": macaroon,
    "oauth: azure refresh_token": lambda rng: (
        f"0.A{b64url(rng.randbytes(60))}.AgABAwEAAAD{b64url(rng.randbytes(rng.randrange(600, 800)))}"
    ),
    "oauth: linkedin access_token": lambda rng: "AQ" + b64url(rng.randbytes(rng.randrange(250, 270))),
    "oauth: facebook access_token": lambda rng: "EAA" + letters(rng, BASE62, rng.randrange(150, 220)),
    "oauth: opaque token of many lengths": lambda rng: letters(rng, BASE62, rng.randrange(40, 120)),
    "totp: secret in base32": lambda rng: letters(rng, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 32),
    "nanoid": lambda rng: letters(rng, BASE62 + "_-", 21),
    "ulid": lambda rng: "01J" + letters(rng, "0123456789ABCDEFGHJKMNPQRSTVWXYZ", 23),
    "cuid2": lambda rng: letters(rng, "abcdefghijklmnopqrstuvwxyz0123456789", 24),
    "typeid": lambda rng: "user_" + letters(rng, "0123456789abcdefghjkmnpqrstvwxyz", 26),
    "relay id": lambda rng: b64(f"gid://shop/Product/{rng.randrange(10**12)}".encode()),
    "page token": page_token,
    "messagepack": msgpack,
    "yjs": yjs,
    "brotli": brotli,
    "zstd": zstd,
    "zstd in base64": lambda rng: b64(zstd(rng)),
    "snappy block": snappy_block,
    "int8 embedding": lambda rng: bytes(min(max(int(rng.gauss(0, 30)), -128), 127) & 0xFF for _ in range(384)),
    "float32 embedding in base64": lambda rng: b64(struct.pack("<96f", *(rng.gauss(0, 0.05) for _ in range(96)))),
    "matrix signature": lambda rng: b64(rng.randbytes(64)).rstrip("="),
    "signal prekey": lambda rng: b64(b"\x05" + rng.randbytes(32)),
    "ipfs cid": lambda rng: "Qm" + letters(rng, BASE58, 44),
    "ipfs cid 1": lambda rng: "bafybei" + letters(rng, "abcdefghijklmnopqrstuvwxyz234567", 52),
    "nostr": lambda rng: "npub1" + letters(rng, "qpzry9x8gf2tvdw0s3jn54khce6mua7l", 58),
    "dkim private key in base64": private_der,
    "ssh public key": ssh_key,
    "jwk modulus": lambda rng: b64url(bytes([0x80 | rng.randrange(128)]) + rng.randbytes(255)),
    "firebase scrypt": lambda rng: b64(rng.randbytes(64)),
    "ldap ssha512": lambda rng: "{SSHA512}" + b64(rng.randbytes(64 + 8)),
    "drupal hash": lambda rng: "$S$E" + letters(rng, BASE62 + "./", 51),
    "bcrypt-sha256": lambda rng: (
        f"$bcrypt-sha256$v=2,t=2b,r=12${letters(rng, BASE62 + './', 22)}${letters(rng, BASE62 + './', 31)}"
    ),
    "content-md5": lambda rng: b64(rng.randbytes(16)),
    "sri of scripts": lambda rng: "sha512-" + b64(rng.randbytes(64)),
    "kafka cluster id": lambda rng: b64url(rng.randbytes(16)),
    "scroll id": lambda rng: (
        "FGluY2x1ZGVfY29udGV4dF91dWlkDXF1ZXJ5QW5kRmV0Y2gB"
        + b64url(b"\x16" + letters(rng, BASE62, 22).encode() + struct.pack(">Q", rng.randrange(10**6)))
    ),
}
