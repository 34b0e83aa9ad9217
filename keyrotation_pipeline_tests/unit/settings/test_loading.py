"""The configuration: what is read, where from, and one sentence for each way to get it wrong."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from keyrotation_pipeline.errors import ConfigurationError, HomeError
from keyrotation_pipeline.fieldcrypto.formats.native import NATIVE
from keyrotation_pipeline.model.tables import EncryptedTable, TableName
from keyrotation_pipeline.settings import Settings, load, parse

TABLE = '[[tables]]\nname = "clients"\ncolumns = ["first_name", "email"]\n'
CONTRACT = """
[database]
url = { env = "KEYROTATION_DATABASE_URL" }   # absent: embedded PostgreSQL

[keys]
store = "file"
[keys.file]
directory = "keys"
[keys.aws-secrets-manager]
secret_id = "pazpaz/encryption-key"
[keys.kubernetes-secret]
namespace = "pazpaz"
name = "pazpaz-secrets"

[[tables]]
name = "clients"
columns = ["first_name", "last_name", "email", "medical_history"]

[[tables]]
name = "billing.Invoices"
columns = ["note"]

[reencryption]
shards = 8
workers = 2
max_rows_per_second = 100
max_replica_lag_seconds = 2.5

[approvals]
required = 2
[[approvals.officers]]
name = "Security Officer"
certificate = "officers/security.asc"
[[approvals.officers]]
name = "Compliance Officer"
certificate = "/elsewhere/compliance.asc"

[backup]
directory = "backups"
recipients = ["officers/recovery.asc"]
keep_local_days = 7
"""

WORKLOAD = """
[[rollout.workloads]]
kind = "Deployment"
name = "api"
container = "web"
"""


TRANSIT = '[format]\nname = "vault-transit"\ntransit = "https://vault.example/transit/app"\n'
FERNET = '[format]\nname = "fernet"\nkeys = { env = "F_K" }\n'


LARAVEL = '[format]\nname = "laravel-crypt"\nkeys = { env = "APP_KEYS" }\n'
AES_GCM = '[format]\nname = "aes-gcm"\nkeys = { env = "F_K" }\nlayout = "b64(nonce12 ct tag16)"\n'


LOCKBOX = '[format]\nname = "lockbox"\nkeys = { env = "F_K" }\nlogins = { v1 = "a" }\n'
PAIR = '[[tables]]\nname = "c"\ncolumns = [{{ column = "a", iv = "a_iv" }}{}]'


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KEYROTATION_CONFIG", "KEYROTATION_HOME", "KEYROTATION_DATABASE_URL"):
        monkeypatch.delenv(name, raising=False)


def read(text: str, directory: Path) -> Settings:
    return parse(text, directory / "keyrotation.toml")


def test_the_contracts_example_is_read_with_paths_relative_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEYROTATION_DATABASE_URL", "postgresql://app:hunter2@db/clinic")
    settings = read(CONTRACT, tmp_path)
    assert settings.database.url is not None
    assert settings.database.url.get_secret_value() == "postgresql://app:hunter2@db/clinic"
    assert settings.encrypted_tables[1] == EncryptedTable(TableName("billing", "Invoices"), ("note",))
    assert settings.keys_directory == tmp_path / "keys"
    assert settings.backup_directory == tmp_path / "backups"
    assert settings.recipients == (tmp_path / "officers/recovery.asc",)
    assert [officer.certificate for officer in settings.approvals.officers] == [
        tmp_path / "officers/security.asc",
        Path("/elsewhere/compliance.asc"),
    ]
    assert (settings.reencryption.shards, settings.reencryption.max_replica_lag_seconds) == (8, 2.5)
    assert "hunter2" not in repr(settings)


def test_what_is_not_said_has_its_default_and_our_own_state_lives_in_the_home(tmp_path: Path) -> None:
    settings = read(TABLE + '[[approvals.officers]]\nname = "A"\ncertificate = "a.asc"\n', tmp_path)
    assert settings.database.url is None
    assert settings.home == tmp_path / ".keyrotation"
    assert settings.keys_directory == tmp_path / ".keyrotation" / "keys"
    assert settings.backup_directory == tmp_path / ".keyrotation" / "backups"
    assert settings.recipients == (tmp_path / "a.asc",)
    assert (settings.reencryption.shards, settings.reencryption.workers, settings.approvals.required) == (4, 1, 2)


def test_the_format_is_that_of_every_table_and_its_variable_need_not_be_set(tmp_path: Path) -> None:
    text = f'{TABLE}{FERNET}keep_time = true\n[rollout]\nmode = "confirm"\n'
    (table,) = read(text, tmp_path).encrypted_tables
    assert (table.format.name, str(table.format.identified_by), table.format.keep_time) == ("fernet", "mac", True)
    assert read(text, tmp_path).key_variable == "F_K"
    assert read(TABLE, tmp_path).key_variable is None
    logins = 'key_encoding = "hex"\nlogins = { v2 = "b", v1 = ["a", "worker"] }\n'
    (table,) = read(f'{TABLE}{AES_GCM}{logins}[rollout]\nmode = "confirm"\n', tmp_path).encrypted_tables
    assert table.format.signed() == (
        "aes-gcm, keys as they are, identified by decrypting each value, which is weaker evidence than a count by the "
        "database; layout b64(nonce12 ct tag16); refused by taking the right to write from the login of the old "
        "version: v1 a, v1 worker, v2 b"
    )
    assert read(TABLE, tmp_path).encrypted_tables[0].format == NATIVE


def test_a_value_may_have_its_nonce_in_another_column_and_be_bound_to_others(tmp_path: Path) -> None:
    laid_out = AES_GCM.replace("nonce12 ct tag16)", "ct tag16); b64(nonce12)")
    bound = 'aad = "{table}|{column}|{tenant}:{id}"\nlogins = { v1 = "a" }\n[rollout]\nmode = "confirm"\n'
    text = PAIR.format(', { column = "b+c", iv = "d" }') + f"\n{laid_out}{bound}"
    (table,) = read(text, tmp_path).encrypted_tables
    assert table.columns == ("a+a_iv", '"b+c"+d')
    assert table.stored_columns == ("a", "a_iv", "b+c", "d")
    assert table.bound_to == ("tenant", "id")
    assert (
        'layout b64(ct tag16), and in a column of its own b64(nonce12); bound to associated data "{table}|{column}|'
        '{tenant}:{id}"; refused by'
    ) in table.format.signed()


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        read(TABLE, tmp_path).reencryption.shards = 5


SEAL = """
[keys.seal]
kind = "aws-kms"
key_id = "arn:aws:kms:eu-central-1:111122223333:key/8f0a1c9e-0000-4000-8000-000000000000"
"""


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param(
            TABLE + '[keys.seal]\nkind = "aws-kms"\nkey_id = "alias/pazpaz"',
            "names a key by something else than its ARN",
            id="a seal under an alias",
        ),
        pytest.param(
            f'[keys.seal]\nkind = "aws-kms"\n{TABLE}',
            "[keys.seal] kind = \"aws-kms\" lacks 'key_id'; add it",
            id="a seal by no key",
        ),
        pytest.param(
            f'{SEAL}token_label = "clinic"\n{TABLE}',
            "[keys.seal] kind = \"aws-kms\" has no setting 'token_label'; leave it out",
            id="a token in a KMS",
        ),
        pytest.param(
            f"{SEAL.replace('aws-kms', 'pkcs11')}{TABLE}",
            "[keys.seal] kind = \"pkcs11\" lacks 'module'",
            id="no module",
        ),
        pytest.param(
            f'{SEAL}earlier = ["pkcs11:object=field-keys"]\n{TABLE}',
            "names a key by something else than",
            id="no token",
        ),
        pytest.param(
            f'[keys.seal]\nkind = "pkcs11"\npin = "1234 password"\n{TABLE}',
            "may hold a secret; say only",
            id="a bare PIN",
        ),
        pytest.param(
            f'{TABLE}[format]\nname = "vault-transit"\ntransit = "https://v.example/transit/app"\n'
            f'[rollout]\nmode = "server"\n{SEAL}',
            "has keys that never leave their server; leave out [keys.seal]",
            id="a server's keys under a seal",
        ),
        pytest.param("x = = 1", "not valid TOML: invalid value (at line 1, column 5)", id="bad TOML names the line"),
        pytest.param("", "names no table; add [[tables]]", id="no tables"),
        pytest.param(TABLE + TABLE, "table clients is listed in two [[tables]]", id="a table twice"),
        pytest.param(
            TABLE + TABLE.replace('"clients"', '"public.clients"'),
            "table clients is listed in two",
            id="a table twice, once with its schema",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = ["a", { column = "a", path = ["b"] }]',
            "c lists a place within another one of column a; remove one",
            id="a place within a column",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", path = ["b"] }, { column = "a", path = ["b", "c"] }]',
            "c lists a place within another one of column a; remove one",
            id="a place within another",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", path = ["b"] }, { column = "a", path = ["b"] }]',
            "column a.b is listed twice",
            id="a place twice",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", path = ["b"] }, "a.b"]',
            "column a.b is listed twice",
            id="a column that is called like a place",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", path = ["b"], elements = true }]',
            "arrays in documents cannot be rotated yet",
            id="elements at a path",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", path = ["b"], when = "is_encrypted" }]',
            "column a has when, which is for values that are the whole column, and path or elements",
            id="a condition of a path",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", when = "is_encrypted" }]',
            'column a has when, which this version knows for name = "fernet" alone',
            id="a condition in our own format",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", when = "b" }, { column = "a", when = "c" }]',
            "column a is listed twice in [[tables]] c",
            id="two conditions of a column",
        ),
        pytest.param(
            PAIR.format(""),
            "column a has an iv, and [format] layout is of one column",
            id="a nonce in another column than the layout has",
        ),
        pytest.param(
            TABLE + AES_GCM.replace("nonce12 ct tag16)", "ct tag16); b64(nonce12)") + 'logins = { v1 = "a" }',
            "has no iv, and [format] layout has one",
            id="a layout of two columns for one",
        ),
        pytest.param(
            PAIR.format(', { column = "b", iv = "a_iv" }'),
            "[[tables]] c uses a_iv, the nonces of column a, twice",
            id="one nonce for two values",
        ),
        pytest.param(PAIR.format(', "a_iv"'), "uses a_iv", id="a nonce that is a value"),
        pytest.param(PAIR.replace("a_iv", "a").format(""), "uses a,", id="its own nonce"),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", path = ["x"], iv = "a_iv" }]',
            "iv is for whole columns alone",
            id="a nonce of a value in a document",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", path = ["b\\u202e"] }]',
            "characters that cannot be seen",
            id="a hidden character in a path",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "a", paths = ["b"] }]',
            "did you mean 'path'",
            id="a misspelt setting of a place",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [3]',
            'columns has the entry 3; write "name"',
            id="a number for a column",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = ["a", "b", "a"]',
            "column a is listed twice in [[tables]] c",
            id="a column twice",
        ),
        pytest.param('[[tables]]\nname = "c"\ncolumns = []', "[[tables]] c columns: the list", id="no columns"),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [1]', "[[tables]] columns has the entry 1; write", id="column no text"
        ),
        pytest.param('[[tables]]\nname = "c"', "[[tables]] c lacks 'columns'", id="columns missing"),
        pytest.param('[[tables]]\nname = "a.b.c"\ncolumns = ["x"]', "a.b.c is not a table's name", id="two dots"),
        pytest.param('[tables]\nname = "c"', "tables: input should be a list", id="one bracket too few"),
        pytest.param(TABLE + "[reencyption]\nshards = 3", "'reencyption'; did you mean 'reencryption'?", id="section"),
        pytest.param(
            TABLE + '[format]\nname = "ciphersweet-brng"',
            '"ciphersweet-brng" cannot be rotated by this version, which rotates "native", "aes-gcm", ',
            id="a format that is not there yet",
        ),
        pytest.param(
            TABLE + LARAVEL + 'cipher = "aes"\nlogins = { v1 = "g1" }',
            "input should be 'AES-256-CBC', 'AES-256-GCM', 'AES-128-CBC' or 'AES-128-GCM'",
            id="a cipher that Laravel does not have",
        ),
        pytest.param(TABLE + LARAVEL, 'add logins = { v1 = "app_g1", v2 = "app_g2" }', id="Laravel without logins"),
        pytest.param(
            TABLE + "[format]\nkeep_time = true",
            '[format] keep_time is for name = "fernet" alone',
            id="of another format",
        ),
        pytest.param(
            TABLE + '[format]\nname = "fernet"', 'add keys = { env = "FERNET_KEYS" }', id="Fernet without its keys"
        ),
        pytest.param(
            TABLE + FERNET + 'layout = "b64(ct)"',
            'layout is for name = "aes-gcm" and "lockbox" alone',
            id="Fernet's layout",
        ),
        pytest.param(
            TABLE + '[format]\nname = "aes-gcm"\nkeys = { env = "F_K" }',
            'add layout = "b64(nonce12 ct tag16)"',
            id="AES-GCM without its layout",
        ),
        pytest.param(TABLE + AES_GCM, 'add logins = { v1 = "app_g1", v2 = "app_g2" }', id="AES-GCM without logins"),
        pytest.param(
            TABLE + AES_GCM.replace("ct tag16", "ct") + 'logins = { v1 = "a" }',
            "[format] layout 'b64(nonce12 ct)' does not hold each of",
            id="AES-GCM of a layout that is none",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = ["a", { column = "doc", path = ["x", "y"] }]\n'
            + AES_GCM.replace("b64(", "raw(")
            + 'logins = { v1 = "a" }',
            "[[tables]] c: values of this [format] are bytes, which only columns of bytea hold; leave out doc.x.y",
            id="bytes in a document",
        ),
        pytest.param(
            TABLE + AES_GCM + 'logins = { v1 = "a" }\naad = "{table}:{column"',
            "aad '{table}:{column' has a brace that names no column",
            id="associated data with a brace too few",
        ),
        pytest.param(
            TABLE + AES_GCM + 'logins = { v1 = "a" }\naad = "{email}"',
            "[format] aad names email, an encrypted column of [[tables]] clients",
            id="associated data that changes with the key",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "t", elements = true }]\n'
            + AES_GCM
            + 'logins = { v1 = "a" }\naad = "{id}"',
            "elements of arrays, as in t, that are bound to associated data cannot be rotated by this version",
            id="associated data of elements",
        ),
        pytest.param(
            TABLE + FERNET.replace("fernet", "tink") + 'aad = "{table}.{id}"',
            '[format] aad names {id}, and name = "tink" knows only data that all rows share',
            id="Tink with associated data of a row",
        ),
        pytest.param(
            TABLE + 'bindings = { email = "x" }\n' + FERNET.replace("fernet", "tink"),
            'bindings of name = "tink" need [format] aad',
            id="Tink with labels and no associated data",
        ),
        pytest.param(TABLE + AES_GCM + 'logins = { one = "a" }', 'names "one", which is no version', id="no version"),
        pytest.param(
            TABLE + AES_GCM + 'logins = { v1 = "a", v2 = ["b", "a"] }', "[format] logins has a twice", id="one login"
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "tags", elements = true }]\n'
            + FERNET.replace("fernet", "cloak-47ng"),
            'values of "cloak-47ng" in elements of arrays, as in tags, cannot be rotated',
            id="markers in an array",
        ),
        pytest.param(
            TABLE + '[format]\nkeys = { env = "K" }', "[format] keys is for name =", id="keys of our own format"
        ),
        pytest.param(
            TABLE + '[format]\nname = "vault-transit"',
            '[format] transit names the key at its server; write "https://vault.example:8200/transit/app"',
            id="a transit engine that nothing names",
        ),
        pytest.param(TABLE + TRANSIT, 'write it for [format] name = "vault-transit"', id="a server, and instances"),
        pytest.param(
            TABLE + '[rollout]\nmode = "server"', 'write another mode for [format] name = "native"', id="no server"
        ),
        pytest.param(
            TABLE + TRANSIT + '[rollout]\nmode = "server"\n[keys]\nstore = "aws-secrets-manager"\n'
            '[keys.aws-secrets-manager]\nsecret_id = "clinic"\n',
            'write [keys] store = "file"',
            id="what versions are known by, in AWS",
        ),
        pytest.param(
            TABLE + '[format]\nname = "rails-ar-encryption"\nsalt = "x"',
            'add keys = { env = "ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY" }',
            id="Rails without its keys",
        ),
        pytest.param(
            TABLE + FERNET.replace("fernet", "rails-ar-encryption"), "with its key_derivation_salt", id="Rails, no salt"
        ),
        pytest.param(
            TABLE + FERNET + 'salt = "x"', '[format] salt is for name = "rails-ar-encryption" alone', id="Fernet, salt"
        ),
        pytest.param(
            TABLE + FERNET.replace("fernet", "rails-ar-encryption") + 'salt = "x"\nderivation = "scrypt"',
            "[format] derivation: input should be 'sha256', 'lockbox', 'django-fernet-fields'",
            id="a derivation that nobody has",
        ),
        pytest.param(
            TABLE + FERNET.replace("fernet", "rails-ar-encryption") + 'salt = "x"\nderivation = "sha256"',
            '[format] derivation of name = "rails-ar-encryption" is "pbkdf2-sha1" or "pbkdf2-sha256"',
            id="a derivation that Rails has not",
        ),
        pytest.param(
            TABLE + AES_GCM + 'derivation = "sha256"\nkey_encoding = "hex"\nlogins = { v1 = "a" }',
            '[format] key_encoding says how keys are, and with derivation = "sha256" the list has what they are',
            id="an encoding of keys that are derived",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = [{ column = "d", path = ["x"] }]\n' + LOCKBOX,
            '[[tables]] c: a value of "lockbox" is a column of its own, with its nonce; leave out d.x',
            id="a value of Lockbox in a document",
        ),
        pytest.param(
            '[[tables]]\nname = "c"\ncolumns = ["a.b"]\n' + LOCKBOX,
            'declare it of column "a.b": bindings = { column = "table.column" }',
            id="a column of Lockbox whose name says two things",
        ),
        pytest.param(
            TABLE + 'bindings = { email = "email_ciphertext" }\n' + LOCKBOX,
            "which a dot divides here, as in users.email_ciphertext; declare it of column",
            id="a column of Lockbox under a name without a table",
        ),
        pytest.param(
            TABLE + 'indexes = [{ of = "email", odd = "a", even = "b", normalise = ["lower"] }]\n' + LOCKBOX,
            "the search index of clients.email: normalise is for our own format, an",
            id="a blind index with an expression",
        ),
        pytest.param(
            TABLE + 'indexes = [{ of = "email", odd = "a", even = "b", algorithm = "scrypt" }]\n',
            'the search index of clients.email: algorithm is of blind_index, with name = "lockbox"; leave it out',
            id="an algorithm of our own indexes",
        ),
        pytest.param(TABLE + LOCKBOX + 'salt = "x"', "[format] salt is for name =", id="Lockbox, salt"),
        pytest.param(
            TABLE + LOCKBOX.partition("logins")[0], '[format] name = "lockbox" needs a login', id="Lockbox, no login"
        ),
        pytest.param(
            TABLE + FERNET + 'derivation = "pbkdf2-sha1"',
            '[format] derivation of name = "fernet" is "sha256" or "django-fernet-fields" or "django-fernet-encrypted',
            id="a derivation that Fernet packages have not",
        ),
        pytest.param(
            TABLE
            + FERNET.replace("F_K", "primary")
            + '[keys]\nstore = "aws-secrets-manager"\naws-secrets-manager.secret_id = "x"',
            "[format] keys names primary, which the key store uses itself; have the application read its list under",
            id="Fernet keys under a name of ours",
        ),
        pytest.param(TABLE + FERNET.replace("F_K", "F K"), "[format.keys] env: string should match", id="no variable"),
        pytest.param(
            TABLE + "[reencryption]\nshard = 3",
            "[reencryption] has no setting 'shard'; did you mean 'shards'?",
            id="setting",
        ),
        pytest.param(
            TABLE + '[keys.file]\ndirectoy = "k"', "[keys.file] has no setting 'directoy'", id="nested setting"
        ),
        pytest.param(TABLE + '[keys.fiel]\ndirectory = "k"', "'fiel'; did you mean 'file'?", id="nested section"),
        pytest.param(
            TABLE + "[keys.aws-secret-manager]\nx = 1", "did you mean 'aws-secrets-manager'?", id="name with hyphens"
        ),
        pytest.param(
            TABLE + '[[approvals.officers]]\nname = "A"\n',
            "[[approvals.officers]] A has no key; add certificate (OpenPGP) or ssh_key (SSH)",
            id="officer without a key",
        ),
        pytest.param(
            TABLE + '[[approvals.officers]]\nname = "Ada\\u200b"\ncertificate = "a.asc"\n',
            "[[approvals.officers]] name holds the character U+200B",
            id="officer with a hidden letter",
        ),
        pytest.param(
            TABLE + '[[approvals.officers]]\nname = "Ada\\nBen"\ncertificate = "a.asc"\n',
            "[[approvals.officers]] name holds the character U+000A",
            id="officer on two lines",
        ),
        pytest.param(
            TABLE + '[[approvals.officers]]\nname = "A"\nssh_key = "a.pub"\n',
            "no officer has an OpenPGP certificate to open backups with; make one, and name it in [backup] recipients",
            id="nobody who can open backups",
        ),
        pytest.param(
            TABLE + '[[approvals.officers]]\nname = "A"\ncertficate = "x"',
            "[[approvals.officers]] A has no setting 'certficate'; did you mean 'certificate'?",
            id="setting of an officer",
        ),
        pytest.param(
            TABLE + '[[tables]]\nname = "x"\ncolums = ["a"]',
            "[[tables]] x has no setting 'colums'; did you mean 'columns'?",
            id="setting of a table, before what it lacks",
        ),
        pytest.param(
            TABLE + "qqqqq = 1", "[[tables]] clients has no setting 'qqqqq'; did you mean", id="nothing like it"
        ),
        pytest.param(
            TABLE + '[rollout]\nmode = "kubernetes"',
            '[rollout] mode = "kubernetes" and [[rollout.workloads]] go together',
            id="Kubernetes without workloads",
        ),
        pytest.param(
            TABLE + WORKLOAD,
            '[rollout] mode = "kubernetes" and [[rollout.workloads]] go together',
            id="workloads without Kubernetes",
        ),
        pytest.param(
            TABLE + '[rollout]\nmode = "kubernetes"' + WORKLOAD,
            'write [keys] store = "kubernetes-secret"',
            id="workloads whose keys are elsewhere",
        ),
        pytest.param(
            TABLE + '[rollout]\nmode = "kubernetes"' + WORKLOAD * 2,
            "Deployment/api is listed in two [[rollout.workloads]]",
            id="a workload twice",
        ),
        pytest.param(
            TABLE + '[rollout]\nmode = "kubernetes"' + WORKLOAD.replace("Deployment", "Job"),
            "kind: input should be 'Deployment'",
            id="a workload of another kind",
        ),
        *(
            pytest.param(f'[database]\nschema = "{name}"', "cannot be the schema of a home; write at most", id=why)
            for name, why in {
                "public": "schema of the application",
                "information_schema": "schema of the standard",
                "pg_keys": "schema of the server",
                "Keys": "upper case",
                "x" * 41: "longer than names of fences allow",
                "a.b": "with a dot",
                "1a": "begins with a digit",
            }.items()
        ),
        pytest.param(TABLE + '[rollout]\nmode = "trust"', "[rollout] mode: input should be", id="unknown mode"),
        pytest.param(TABLE + '[keys]\nstore = "s3"', "[keys] store: input should be 'file'", id="unknown store"),
        pytest.param(
            TABLE + '[keys]\nstore = "kubernetes-secret"',
            "needs to know which Secret; add [keys.kubernetes-secret] with namespace",
            id="store in Kubernetes without its Secret",
        ),
        *(
            pytest.param(
                f'{TABLE}[{section}]\nendpoint_url = "{url}"\n{needed}',
                f"[{section}] endpoint_url: it is no address of a server, such as https://aws.example:4566; correct it",
                id=f"an address without its {without}",
            )
            for section, url, needed, without in (
                ("keys.aws-secrets-manager", "localhost:4566", 'secret_id = "s"', "scheme"),
                ("backup.s3", "https://:9000", 'bucket = "b"', "host"),
                ("alerts", "http://localhost:port", "", "port"),
            )
        ),
        pytest.param(
            TABLE + '[keys.kubernetes-secret]\nnamespace = "pazpaz"\nname = "a/b"',
            "'a/b' cannot be a name in Kubernetes",
            id="a name that is none in Kubernetes",
        ),
        pytest.param(
            TABLE + '[keys.kubernetes-secret]\nnamespace = "pazpaz"\nname = "keys"\narchive_name = "old"\n'
            '[keys.kubernetes-secret.aws-archive]\nprefix = "pazpaz/"',
            "names two archives; leave out archive_name and archive_namespace",
            id="two archives",
        ),
        pytest.param(
            TABLE + '[keys.kubernetes-secret]\nnamespace = "pazpaz"\nname = "keys"\narchive_name = "keys"',
            "archive_name is that of the Secret which applications get; name another",
            id="an archive that applications get",
        ),
        pytest.param(
            TABLE + '[keys]\nstore = "aws-secrets-manager"',
            "needs to know which secret; add [keys.aws-secrets-manager] with secret_id",
            id="store in AWS without its secret",
        ),
        pytest.param(TABLE + '[reencryption]\nshards = "4"', "[reencryption] shards: input", id="text for a number"),
        pytest.param(TABLE + "[reencryption]\nshards = true", "[reencryption] shards: input", id="truth for a number"),
        pytest.param(TABLE + "[reencryption]\nshards = 0", "[reencryption] shards: input", id="number out of range"),
        pytest.param(TABLE + "[approvals]\nrequired = 1", "no one person may rotate keys alone", id="one approval"),
        pytest.param(TABLE + "[approvals]\nrequired = 0", "[approvals] required: input", id="no approval"),
        pytest.param(
            TABLE + '[database]\nurl = { env = "KEYROTATION_DATABASE_URL" }',
            "[database] url names the environment variable KEYROTATION_DATABASE_URL, which is not set",
            id="variable not set",
        ),
        pytest.param(
            TABLE + '[database]\nurl = { file = "url.txt" }', "url.txt, which cannot be read", id="secret file missing"
        ),
        pytest.param(
            TABLE + '[database]\nurl = "postgresql://app:hunter2@db/clinic"',
            "may hold a secret",
            id="password in the file",
        ),
        pytest.param(
            TABLE + '[database]\nurl = "host=db password=hunter2"', "may hold a secret", id="password as a keyword"
        ),
        pytest.param(TABLE + '[database]\nurl = { evn = "X" }', "may hold a secret", id="misspelt env"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(text, tmp_path)
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_secret_may_be_in_a_file_next_to_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://app:x@db/clinic\n")
    url = read(TABLE + '[database]\nurl = { file = "url" }', tmp_path).database.url
    assert url is not None
    assert url.get_secret_value() == "postgresql://app:x@db/clinic"


def test_one_approval_is_enough_only_in_a_demo_home(tmp_path: Path) -> None:
    (tmp_path / ".keyrotation").mkdir()
    (tmp_path / ".keyrotation" / "demo.json").write_text("{}")
    assert read(TABLE + "[approvals]\nrequired = 1", tmp_path).approvals.required == 1


@pytest.mark.parametrize("how", ["--config", "KEYROTATION_CONFIG", "current directory"])
def test_the_file_is_found_by_option_variable_or_in_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    wanted = tmp_path / how / "keyrotation.toml"
    wanted.parent.mkdir()
    wanted.write_text(TABLE)
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(wanted.parent if how == "current directory" else other)
    if how != "current directory":
        monkeypatch.setenv("KEYROTATION_CONFIG", str(wanted if how == "KEYROTATION_CONFIG" else other / "missing.toml"))
    settings = load(wanted if how == "--config" else None)
    assert (settings.path, settings.home) == (wanted, wanted.parent / ".keyrotation")


def test_the_home_may_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYROTATION_HOME", str(tmp_path / "state"))
    assert read(TABLE, tmp_path).home == tmp_path / "state"


def test_without_any_file_the_sentence_says_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HomeError, match="run `keyrotation init` or `keyrotation demo`"):
        load()


def test_a_file_asked_for_by_name_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"missing\.toml is not there"):
        load(tmp_path / "missing.toml")


BACKUPS = """
time_zone = "Europe/Berlin"
[[tables]]
name = "clients"
columns = ["email"]
[backup.s3]
bucket = "pazpaz-key-backups"
endpoint_url = "http://localhost:5000"
[recovery]
secret_key = { file = "recovery.sec.asc" }
passphrase = { env = "RECOVERY_PASSPHRASE" }
rto_seconds = 60
"""


def test_a_recovery_key_is_looked_up_only_when_it_is_used(tmp_path: Path) -> None:
    settings = read(BACKUPS, tmp_path)
    assert settings.backup.s3 is not None
    assert (settings.backup.s3.prefix, settings.backup.s3.storage_class) == ("encryption-keys/", "STANDARD_IA")
    assert (settings.time_zone, settings.recovery.rto_seconds, settings.recovery.rpo_seconds) == (
        "Europe/Berlin",
        60,
        90000,
    )
    key = settings.recovery.secret_key
    assert key is not None
    with pytest.raises(ConfigurationError, match=r"\[recovery\] secret_key names the file .*recovery\.sec\.asc"):
        key.read("[recovery] secret_key")
    (tmp_path / "recovery.sec.asc").write_bytes(b"armor")
    assert key.read("[recovery] secret_key") == b"armor"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        pytest.param('time_zone = "Europe/Atlantis"\n' + TABLE, "is not a time zone", id="unknown time zone"),
        pytest.param(TABLE + "[backup.s3]\nbuckets = 'b'", "did you mean 'bucket'?", id="misspelt bucket"),
        pytest.param(TABLE + "[backup.s3]\nprefix = 'b'", "[backup.s3] lacks 'bucket'", id="no bucket"),
        pytest.param(TABLE + "[recovery]\nsecret_key = {}", "write one of them", id="key nowhere"),
        pytest.param(
            TABLE + "[recovery]\nrehearse_nightly = true",
            "name it in secret_key or gnupg_home",
            id="nights without a key",
        ),
        pytest.param(
            TABLE + "[recovery]\ngnupg_home = 'g'\nsecret_key = { file = 'k' }", "remove one", id="key in two places"
        ),
        pytest.param(
            TABLE + "[report]\norganisation = 'Clinic\u202e'",
            "[report] organisation holds the character U+202E",
            id="a name that reorders the page",
        ),
        pytest.param(
            TABLE + f"[report]\norganisation = '{'x' * 121}'", "should have at most 120 characters", id="a long name"
        ),
        pytest.param(
            TABLE + "[audit]\ntimestamp_url = 'https://tsa.example.org'",
            "needs to know whom to trust; add timestamp_certificates",
            id="an authority without a root",
        ),
        pytest.param(
            TABLE + "[audit]\ntimestamp_url = 'tsa.example.org'\ntimestamp_certificates = ['root.pem']",
            "write http://… or https://…",
            id="an authority without a scheme",
        ),
        pytest.param(
            TABLE + "[audit]\ntimestamp_url = 'https://u:p@tsa.example.org'\ntimestamp_certificates = ['root.pem']",
            "[audit] timestamp_url may hold a secret; say only where it is",
            id="a password in the address",
        ),
    ],
)
def test_a_wrong_backup_or_recovery_setting_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(text, tmp_path)
    assert sentence in str(refused.value)


def test_the_organisation_of_a_report_is_a_setting(tmp_path: Path) -> None:
    assert read(TABLE, tmp_path).report.organisation is None
    assert read(TABLE + "[report]\norganisation = 'Klinik Süd & Partner'", tmp_path).report.organisation == (
        "Klinik Süd & Partner"
    )
