"""Recognises values by the prefix alone that applications put before them, so that these are looked into first."""

from collections.abc import Callable

from keyrotation_pipeline.fieldcrypto.format_advice import Advice
from keyrotation_pipeline.fieldcrypto.formats.recogniser import in_text
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

_DECRYPT = IdentifiedBy.DECRYPT


def _one(name: str, source: str) -> Advice:
    return Advice(identified_by=_DECRYPT, one_key=name, source=source)


_JASYPT = _one(
    "Jasypt",
    "jasypt/jasypt properties/PropertyValueEncryptionUtils.java, encryption/pbe/StandardPBEByteEncryptor.java "
    "(3e36dab9dee8)",
)
_SPRING = Advice(
    identified_by=_DECRYPT,
    elsewhere="Not rotated by keyrotation yet; with a keystore, values name their key (`{key:…}`), so encrypt every "
    "value again under a new alias; with `encrypt.key`, one key only is read: a new one takes a maintenance window.",
    source="spring-cloud/spring-cloud-config EnvironmentPrefixHelper.java, KeyStoreTextEncryptorLocator.java "
    "(ec731ee1e600); spring-projects/spring-security AesBytesEncryptor.java (11a61dc8cc6f), RsaSecretEncryptor.java "
    "(2fdca16c1a88)",
)
_SONARQUBE = Advice(
    identified_by=_DECRYPT,
    elsewhere="Not rotated by keyrotation yet; if your SonarQube has `sonar.previousSecretKeyPath`, name the old key "
    "there and encrypt every setting again; in other releases a new key takes a maintenance window.",
    source="SonarSource/sonarqube org/sonar/api/config/internal/Encryption.java, AesCipher.java (021cfd39356f)",
)
_WEBLOGIC = _one(
    "WebLogic",
    "closed; read in a decryptor, TideSec/Decrypt_Weblogic_Password WebLogicPasswordDecryptor.java (811707f2ff6b)",
)
_OF_JASYPT = "Jasypt: ``ENC(<salt8 ‖ DES blocks, or salt16 ‖ [iv16 ‖] AES-CBC>)`` in base64 or hex."
_OF_SPRING = (
    "Spring Cloud Config: ``{cipher}[{key:<alias>}]<hex of iv16 ‖ AES, or base64 of an RSA-wrapped key ‖ AES>``."
)
_OF_SONARQUBE = "SonarQube's settings: ``{aes-gcm}<base64 of iv12 ‖ ciphertext ‖ tag16>``, earlier ``{aes}`` (ECB)."
_OF_WEBLOGIC = "WebLogic: ``{AES}<base64 of iv16 ‖ AES-CBC>``, with AES-256 ``{AES256}``."
# A prefix, the name of who writes it, and its form.
_WRAPPED = (
    ("ENC(", "jasypt", _OF_JASYPT, _JASYPT),
    ("{cipher}", "spring-cipher", _OF_SPRING, _SPRING),
    ("{aes-gcm}", "sonarqube", _OF_SONARQUBE, _SONARQUBE),
    ("{aes}", "sonarqube", _OF_SONARQUBE, _SONARQUBE),
    ("{AES}", "weblogic", _OF_WEBLOGIC, _WEBLOGIC),
    ("{AES256}", "weblogic", _OF_WEBLOGIC, _WEBLOGIC),
    (
        "enc{", "nifi", "Apache NiFi: ``enc{<hex>}``.",
        _one("NiFi", "apache/nifi flow/encryptor/AbstractFlowEncryptor.java (60319e26f854)"),
    ),
    (
        "<enc-v1>", "harbor", "Harbor: ``<enc-v1><base64 of iv16 ‖ ciphertext>``, AES-CFB.",
        _one("Harbor", "goharbor/harbor src/common/utils/encrypt.go (18455ef092de)"),
    ),
)  # fmt: skip
_WRITERS = {prefix: name for prefix, name, _, _ in _WRAPPED}


def writer_of(prefix: str) -> str | None:
    """Returns who writes values behind a prefix; a key's name may follow it, as in ``{cipher}{key:k1}``."""
    head, brace, rest = prefix.partition("}")
    return _WRITERS.get(prefix) or (_WRITERS.get(head + brace) if rest.startswith("{") else None)


def _unmarked(says: str) -> Callable[[str], None]:
    def recognise(_: str) -> None:
        """Nothing in a value tells it from others."""

    recognise.__doc__ = f"Recognises {says}"
    return recognise


for _, _name, _says, _advice in _WRAPPED:
    in_text(_name, advice=_advice)(_unmarked(_says))
