"""Encrypted places as applications store them, made after their sources: none of these values is an application's own.

Each is a table, a column and its type; what names it right; and how a value is put together. Values that the libraries
made themselves are in `vectors`. Where the sources are: beside each format in `fieldcrypto/formats`.
"""

import base64
import json
import random
import struct
import uuid
from collections.abc import Callable
from typing import NamedTuple

from keyrotation_pipeline_tests.unit.scan.ciphertexts import (
    b64,
    cbc_with_iv,
    email,
    gcm,
    iv_and_blocks,
    name,
    nonce_tag_text,
)

AEAD, CBC = ("unknown-aead",), ("unknown-cbc",)
# Of CFB, CTR and DES: their class is that of what has no blocks of 16 bytes, unless all values happen to have them.
STREAM = (*AEAD, *CBC)
TEXT, BYTEA, JSONB = "text", "bytea", "jsonb"
KMS_OIDS = bytes.fromhex("06092a864886f70d010706"), bytes.fromhex("060960864801650304012e")
KEY_ID = uuid.UUID("3f0c9a52-3b0e-4c7e-9d60-1b7a5f0f5d11")


class Application(NamedTuple):
    """One encrypted place.

    Args:
        place: ``application: table.column``.
        kind: its type.
        named: names that are right.
        value: makes one value.
        path: in jsonb.
    """

    place: str
    kind: str
    named: tuple[str, ...]
    value: Callable[[random.Random], str | bytes]
    path: tuple[str, ...] | None = None


def token(rng: random.Random) -> str:
    return "sk-" + "".join(rng.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=rng.randrange(20, 60)))


def noise(rng: random.Random) -> bytes:
    """A ciphertext as long as a token."""
    return rng.randbytes(len(token(rng)))


def b64url(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def sealed(rng: random.Random) -> bytes:
    """nonce12 ‖ ciphertext ‖ tag16."""
    return b"".join(gcm(rng, token(rng)))


def blocks(rng: random.Random) -> bytes:
    """iv16 ‖ AES-CBC."""
    return cbc_with_iv(rng, token(rng))


def stream(rng: random.Random, text: str) -> bytes:
    """iv16 ‖ ciphertext of the text's length."""
    return rng.randbytes(16 + len(text.encode()))


def gitlab(rng: random.Random) -> str:
    _, ciphertext, tag = gcm(rng, "glrt-" + token(rng)[:20])
    return f"|{b64(ciphertext + tag)}{rng.randbytes(6).hex()}"


def redmine(rng: random.Random) -> str:
    iv, ciphertext = iv_and_blocks(rng, token(rng))
    return f"aes-256-cbc:{b64(ciphertext)}--{b64(iv)}"


def nextcloud(rng: random.Random) -> str:
    iv, ciphertext = iv_and_blocks(rng, token(rng))
    return f"{ciphertext.hex()}|{iv.hex()}|{rng.randbytes(64).hex()}|3"


def bitwarden(rng: random.Random) -> str:
    iv, ciphertext = iv_and_blocks(rng, name(rng))
    return f"2.{b64(iv)}|{b64(ciphertext)}|{b64(rng.randbytes(32))}"


def n8n(rng: random.Random) -> str:
    return f"{KEY_ID}:{b64(bytes([1]) + rng.randbytes(32 + 16) + noise(rng))}"


def data_protection(rng: random.Random) -> str:
    _, ciphertext = iv_and_blocks(rng, email(rng))
    return b64url(b"\x09\xf0\xc9\xf0" + KEY_ID.bytes_le + rng.randbytes(32) + ciphertext + rng.randbytes(32))


def aws_kms(rng: random.Random) -> bytes:
    inner = rng.randbytes(12) + rng.randbytes(len(token(rng)) + 16)
    head = b"\x01\x02\x02\x00\x78" + random.Random(1).randbytes(32) + b"\x01" + rng.randbytes(16)
    der = b"\x00\x00\x00\x7e\x30\x7c" + KMS_OIDS[0] + b"\xa0\x6f\x30\x6d\x02\x01\x00\x30\x68"
    return head + der + KMS_OIDS[0][:-1] + b"\x01\x30\x1e" + KMS_OIDS[1] + b"\x30\x11\x04\x0c" + inner


def gcp_kms(rng: random.Random) -> bytes:
    body = b"\x00" + rng.randbytes(12 + 16) + noise(rng)
    return b"\x0a\x24\x00" + random.Random(2).randbytes(35) + b"\x12" + bytes([len(body)]) + body


def sops(rng: random.Random) -> str:
    _, ciphertext, tag = gcm(rng, token(rng))
    return f"ENC[AES256_GCM,data:{b64(ciphertext)},iv:{b64(rng.randbytes(32))},tag:{b64(tag)},type:str]"


def plug_crypto(rng: random.Random) -> str:
    nonce, ciphertext, tag = gcm(rng, token(rng))
    return ".".join(("QTEyOEdDTQ", *map(b64url, (rng.randbytes(44), nonce, ciphertext, tag))))


def symmetric_encryption(rng: random.Random) -> str:
    iv, ciphertext = iv_and_blocks(rng, email(rng))
    return b64(b"@EnC\x02\x40\x10\x00" + iv + ciphertext)


def cipherstash(rng: random.Random) -> str:
    sealed_text = base64.b85encode(rng.randbytes(80)).decode()
    payload = {"k": "ct", "c": sealed_text, "i": {"t": "users", "c": "email"}, "v": 2, "hm": rng.randbytes(32).hex()}
    return json.dumps({key: payload[key] for key in ("k", "c", "i", "v")})


def cipherstash_3(rng: random.Random) -> str:
    sealed_text = base64.b85encode(rng.randbytes(80)).decode()
    return json.dumps({"v": 3, "i": {"t": "users", "c": "email"}, "c": sealed_text, "hm": rng.randbytes(32).hex()})


def cipherstash_document(rng: random.Random) -> str:
    entries = [
        {"s": rng.randbytes(16).hex(), "c": base64.b85encode(rng.randbytes(40)).decode(), "op": rng.randbytes(65).hex()}
        for _ in range(3)
    ]
    header = base64.b85encode(rng.randbytes(60)).decode()
    return json.dumps({"v": 3, "k": "sv", "i": {"t": "users", "c": "profile"}, "h": header, "sv": entries})


def themis(rng: random.Random) -> bytes:
    text = token(rng)
    return struct.pack("<IIII", 0x40010100, 12, 16, len(text)) + rng.randbytes(28 + len(text))


def jenkins(rng: random.Random) -> bytes:
    iv, ciphertext = iv_and_blocks(rng, token(rng))
    return b"\x01" + struct.pack(">II", len(iv), len(ciphertext)) + iv + ciphertext


def zitadel(rng: random.Random) -> str:
    payload = {"CryptoType": 0, "Algorithm": "aes", "KeyID": "userKey", "Crypted": b64(stream(rng, token(rng)))}
    return json.dumps(payload)


def standard_notes(rng: random.Random) -> str:
    return (
        f"004:{rng.randbytes(24).hex()}:{b64(sealed(rng))}:{b64(json.dumps({'u': str(KEY_ID), 'v': '004'}).encode())}"
    )


def standard_notes_3(rng: random.Random) -> str:
    iv, ciphertext = iv_and_blocks(rng, token(rng))
    return f"003:{rng.randbytes(32).hex()}:{uuid.UUID(bytes=rng.randbytes(16))}:{iv.hex()}:{b64(ciphertext)}"


def evervault(rng: random.Random) -> str:
    return f"ev:Tk9D:{b64(rng.randbytes(12))}:{b64(rng.randbytes(33))}:{b64(rng.randbytes(16) + noise(rng))}:$"


def java_length_prefixed(rng: random.Random) -> str:
    return b64(b"\x00\x00\x00\x0c" + sealed(rng))


def hybrid(rng: random.Random) -> str:
    return b64(b"HYBRID:" + rng.randbytes(256 + 32) + noise(rng))


def in_hex(parts: tuple[bytes, ...]) -> str:
    return ":".join(part.hex() for part in parts)


def order_of_langfuse(rng: random.Random) -> str:
    return in_hex(gcm(rng, token(rng)))


def order_of_calcom(rng: random.Random) -> str:
    return in_hex(iv_and_blocks(rng, token(rng)))


def jasypt(rng: random.Random) -> str:
    return b64(rng.randbytes(8 + 8 * rng.randrange(2, 9)))


def with_tag(rng: random.Random) -> str:
    return b64(nonce_tag_text(rng, token(rng), 12))


PLACES = (
    Application("GitLab: ci_runners.token_encrypted", TEXT, ("gitlab-token",), gitlab),
    Application("GitLab: ci_variables.encrypted_value", TEXT, CBC, lambda rng: b64(blocks(rng)[16:]) + "\n"),
    Application("OpenProject: repositories.password", TEXT, ("redmine",), redmine),
    Application("Redmine: auth_sources.account_password", TEXT, ("redmine",), redmine),
    Application("n8n: credentials_entity.data", TEXT, ("n8n-keyid",), n8n),
    Application("Nextcloud: oc_authtoken.password", TEXT, ("nextcloud",), nextcloud),
    Application("Dify: providers.encrypted_config", TEXT, ("dify",), hybrid),
    Application("Vaultwarden: ciphers.name", TEXT, ("bitwarden",), bitwarden),
    Application(
        "Bitwarden: organization_users.key", TEXT, ("bitwarden-rsa",), lambda rng: f"4.{b64(rng.randbytes(256))}"
    ),
    Application(
        "Kong: basicauth_credentials.password",
        TEXT,
        ("kong-keyring",),
        lambda rng: f"$ke$1$-LaW1urRQ-{rng.randbytes(12).hex()}-{sealed(rng)[12:].hex()}",
    ),
    Application("Infisical: secrets_v2.encrypted_value", BYTEA, ("infisical",), lambda rng: sealed(rng) + b"v01"),
    Application("ASP.NET Core: users.totp_secret", TEXT, ("aspnet-data-protection",), data_protection),
    Application("AWS KMS: accounts.api_key", TEXT, ("aws-kms",), lambda rng: b64(aws_kms(rng))),
    Application("AWS KMS: accounts.blob", BYTEA, ("aws-kms",), aws_kms),
    Application("GCP KMS: accounts.secret", TEXT, ("gcp-kms",), lambda rng: b64(gcp_kms(rng))),
    Application("GCP KMS: accounts.blob", BYTEA, ("gcp-kms",), gcp_kms),
    Application("SOPS: settings.document", JSONB, ("sops",), sops, ("database", "password")),
    Application("Defuse: customers.iban", TEXT, ("defuse",), lambda rng: (b"\xde\xf5\x02\0" + rng.randbytes(90)).hex()),
    Application(
        "Halite: customers.iban",
        TEXT,
        ("halite",),
        lambda rng: b64url(b"1B\x05\0" + rng.randbytes(88 + len(token(rng)))),
    ),
    Application(
        "DoctrineEncryptBundle: person.ssn",
        TEXT,
        ("doctrine-encrypt",),
        lambda rng: b64url(b"1B\x04\0" + rng.randbytes(88 + len(token(rng)))) + "<ENC>",
    ),
    Application("Phoenix: user_tokens.payload", TEXT, ("plug-crypto",), plug_crypto),
    Application("symmetric-encryption: people.encrypted_email", TEXT, ("symmetric-encryption",), symmetric_encryption),
    Application("CipherStash: users.email", JSONB, ("cipherstash-eql",), cipherstash),
    Application("CipherStash, EQL 3: users.email", JSONB, ("cipherstash-eql",), cipherstash_3),
    Application("CipherStash, EQL 3: users.profile", JSONB, ("cipherstash-eql",), cipherstash_document),
    Application("Evervault: cards.number", TEXT, ("evervault",), evervault),
    Application("Jasypt: datasource.password", TEXT, ("jasypt",), lambda rng: f"ENC({jasypt(rng)})"),
    Application(
        "Jasypt with AES: datasource.password",
        TEXT,
        ("jasypt",),
        lambda rng: f"ENC({b64(rng.randbytes(16) + blocks(rng))})",
    ),
    Application("Jasypt in JPA: customer.iban", TEXT, STREAM, jasypt),
    Application("Spring's Encryptors.text: app_user.ssn", TEXT, CBC, lambda rng: blocks(rng).hex()),
    Application(
        "Spring's Encryptors.delux: app_user.ssn", TEXT, AEAD, lambda rng: nonce_tag_text(rng, token(rng), 16).hex()
    ),
    Application(
        "Spring Cloud Config: properties.value", TEXT, ("spring-cipher",), lambda rng: f"{{cipher}}{blocks(rng).hex()}"
    ),
    Application(
        "Spring Cloud Config, keys of a keystore: properties.value",
        TEXT,
        ("spring-cipher",),
        lambda rng: f"{{cipher}}{{key:k{rng.randrange(1, 3)}}}{b64(bytes((1, 0)) + rng.randbytes(256) + blocks(rng))}",
    ),
    Application("WebLogic: jdbc.password_encrypted", TEXT, ("weblogic",), lambda rng: "{AES256}" + b64(blocks(rng))),
    Application(
        "WebLogic, AES-128: jdbc.password_encrypted", TEXT, ("weblogic",), lambda rng: "{AES}" + b64(blocks(rng))
    ),
    Application(
        "SonarQube before 8.7: properties.text_value", TEXT, ("sonarqube",), lambda rng: "{aes}" + b64(blocks(rng)[16:])
    ),
    Application("Hibernate converter: patient.diagnosis", TEXT, AEAD, lambda rng: b64(sealed(rng))),
    Application("Hibernate converter with a length: patient.phone", TEXT, AEAD, java_length_prefixed),
    Application("Tink in Java: patient.note", TEXT, ("tink",), lambda rng: b64(b"\x01\x75\x48\x52\x95" + sealed(rng))),
    Application("Azure Key Vault: tenants.encrypted_dek", TEXT, STREAM, lambda rng: b64url(rng.randbytes(256))),
    Application("Themis: notes.body", BYTEA, ("themis-cell",), themis),
    Application("SonarQube: properties.text_value", TEXT, ("sonarqube",), lambda rng: "{aes-gcm}" + b64(sealed(rng))),
    Application(
        "Harbor: registry.access_secret", TEXT, ("harbor",), lambda rng: "<enc-v1>" + b64(stream(rng, token(rng)))
    ),
    Application("ManageIQ: authentications.password", TEXT, ("manageiq",), lambda rng: f"v2:{{{b64(blocks(rng))}}}"),
    Application("Gitea: secret.data", TEXT, STREAM, lambda rng: "v2:" + stream(rng, b64(token(rng).encode())).hex()),
    Application("Forgejo: two_factor.secret", TEXT, STREAM, lambda rng: b64(stream(rng, b64(token(rng).encode())))),
    Application("ZITADEL: idp_configs.client_secret", JSONB, ("zitadel",), zitadel),
    Application("Standard Notes, protocol 003: items.content", TEXT, ("standard-notes",), standard_notes_3),
    Application("Standard Notes: items.content", TEXT, ("standard-notes",), standard_notes),
    Application(
        "Moodle: config_plugins.value", TEXT, ("moodle",), lambda rng: f"sodium:{b64(rng.randbytes(40) + noise(rng))}"
    ),
    Application(
        "Dolibarr: llx_user.api_key",
        TEXT,
        ("dolibarr",),
        lambda rng: f"dolcrypt:AES-256-CTR:{rng.randbytes(8).hex()}:{b64(noise(rng))}",
    ),
    Application("Novu: environments.api_key", TEXT, ("novu",), lambda rng: "nvsk." + order_of_calcom(rng)),
    Application(
        "Travis CI: env_vars.value",
        TEXT,
        ("travis",),
        lambda rng: f"--ENCR--{b64(blocks(rng)[16:] + rng.randbytes(8).hex().encode())}",
    ),
    Application("NiFi: parameter.value", TEXT, ("nifi",), lambda rng: f"enc{{{sealed(rng).hex()}}}"),
    Application("Langfuse: llm_api_keys.secret_key", TEXT, ("handmade-hex-colon",), order_of_langfuse),
    Application(
        "LibreChat: keys.value", TEXT, ("librechat",), lambda rng: f"v3:{in_hex((rng.randbytes(16), noise(rng)))}"
    ),
    Application("Cal.com: credential.key", TEXT, CBC, order_of_calcom),
    Application("Kine: kine.value", BYTEA, ("kubernetes",), lambda rng: b"k8s:enc:aescbc:v1:key1:" + blocks(rng)),
    Application(
        "Jenkins' secrets in a table: credential.secret", TEXT, ("jenkins",), lambda rng: f"{{{b64(jenkins(rng))}}}"
    ),
    Application("Authelia: totp_configurations.secret", BYTEA, AEAD, sealed),
    Application(
        "Ory Kratos: identity_credentials.tokens",
        JSONB,
        AEAD,
        lambda rng: sealed(rng).hex(),
        ("providers", "[]", "initial_access_token"),
    ),
    Application("Ory Hydra: hydra_jwk.keydata", TEXT, AEAD, lambda rng: b64url(sealed(rng))),
    Application("Outline: authentications.token", BYTEA, CBC, blocks),
    Application("Hyperswitch: merchant_connector_account.connector_account_details", BYTEA, AEAD, sealed),
    Application("Conjur: secrets.value", BYTEA, AEAD, lambda rng: b"G" + nonce_tag_text(rng, token(rng), 12)),
    Application(
        "LiteLLM: LiteLLM_ProxyModelTable.litellm_params",
        JSONB,
        AEAD,
        lambda rng: b64(rng.randbytes(40) + noise(rng)),
        ("api_key",),
    ),
    Application("Metabase: metabase_database.details", TEXT, CBC, lambda rng: b64(blocks(rng) + rng.randbytes(32))),
    Application("Supabase Vault: secrets.secret", TEXT, AEAD, lambda rng: b64(sealed(rng)[12:] + rng.randbytes(16))),
    Application("ToolJet: credentials.value_ciphertext", TEXT, AEAD, with_tag),
    Application(
        "NocoDB: nc_sources.config",
        TEXT,
        ("cryptojs-openssl",),
        lambda rng: b64(b"Salted__" + rng.randbytes(8) + blocks(rng)[16:]),
    ),
    Application(
        "Boundary: credential.ct_secret",
        BYTEA,
        AEAD,
        lambda rng: b"\x0a" + bytes([len(text := sealed(rng))]) + text + b"\x2a\x0a\x0a\x08key_0001",
    ),
    Application("Windmill: variable.value", TEXT, STREAM, lambda rng: b64(blocks(rng)[16:])),
    Application("Concourse: pipelines.config", TEXT, AEAD, lambda rng: sealed(rng)[12:].hex()),
    Application("Cloud Foundry: apps.encrypted_environment_json", TEXT, CBC, lambda rng: b64(blocks(rng)[16:]) + "\n"),
    Application("GLPI: glpi_authldaps.rootdn_passwd", TEXT, AEAD, lambda rng: b64(rng.randbytes(40) + noise(rng))),
    Application(
        "Mautic: integration_settings.api_keys",
        TEXT,
        STREAM,
        lambda rng: f"{b64(blocks(rng)[16:])}|{b64(rng.randbytes(16))}",
    ),
    Application("EF Core's column encryption: customers.ssn", TEXT, CBC, lambda rng: b64(blocks(rng))),
    Application("libsodium, sealed: messages.body", TEXT, AEAD, lambda rng: b64(rng.randbytes(48) + noise(rng))),
    Application("1Password Connect: items.enc", JSONB, AEAD, lambda rng: b64url(sealed(rng)[12:]), ("details", "data")),
)
