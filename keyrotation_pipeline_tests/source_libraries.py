"""The libraries that values come from, each in a process of its own that encrypts and decrypts as an application does.

Those of Node are found where `NODE_PATH` names their folder, as by ``npm install crypto-js typeorm typeorm-encrypted``;
attr_encrypted is Debian's ruby-attr-encrypted; CipherSweet is where `KEYROTATION_TEST_CIPHERSWEET` names a folder with
its repository and those of constant_time_encoding and sodium_compat.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

# What stands in the columns of one value.
Stored = tuple[str | bytes | None, ...]

_PYTHON_LOOP = """
for line in sys.stdin:
    task, values = json.loads(line)
    print(json.dumps([{"seal": seal, "open": opened}[task](*each) for each in values]), flush=True)
"""
_SQLALCHEMY_UTILS = """
import json, sys
from sqlalchemy_utils.types.encrypted.encrypted_type import AesEngine, AesGcmEngine
engine = ENGINE()
engine._update_key(sys.argv[1])
engine._set_padding_mechanism("naive")
seal, opened = lambda text: [engine.encrypt(text)], engine.decrypt
"""
_DJANGO_CRYPTOGRAPHY = """
import json, sys
from django.conf import settings
settings.configure(SECRET_KEY=sys.argv[1])
import django
django.setup()
from django.db import models
from django_cryptography.fields import encrypt
field = encrypt(models.TextField())
seal = lambda text: [field._dump(text).hex()]
opened = lambda stored: field._load(bytes.fromhex(stored))
"""
# It has no code outside the server.
_PGCRYPTO = """
import json, sys
import psycopg
connection = psycopg.connect(sys.argv[2], autocommit=True)
connection.execute("CREATE EXTENSION IF NOT EXISTS pgcrypto")
def ask(query, *values):
    return connection.execute(query, (*values, sys.argv[1])).fetchone()[0]
"""
_PGP = """
seal = lambda text: [ask("SELECT encode(pgp_sym_encrypt(%s, %s), 'hex')", text)]
opened = lambda stored: ask("SELECT pgp_sym_decrypt(decode(%s, 'hex'), %s)", stored)
"""
_ARMOR = """
seal = lambda text: [ask("SELECT armor(pgp_sym_encrypt(%s, %s))", text)]
opened = lambda stored: ask("SELECT pgp_sym_decrypt(dearmor(%s), %s)", stored)
"""
_NODE_LOOP = """
const lines = require("node:readline").createInterface({ input: process.stdin });
lines.on("line", (line) => {
  const [task, values] = JSON.parse(line);
  console.log(JSON.stringify(values.map((each) => (task === "seal" ? seal(...each) : open(...each)))));
});
"""
_CRYPTO_JS = """
const { AES, enc } = require("crypto-js");
const seal = (text) => [AES.encrypt(text, process.argv[1]).toString()];
const open = (stored) => AES.decrypt(stored, process.argv[1]).toString(enc.Utf8);
"""
_TYPEORM_THERE = """
process.env.APP_ROOT_PATH = "/";  // else typeorm asks for the file of the program
const { EncryptionTransformer } = require("typeorm-encrypted");
"""
_TYPEORM = """
const transformer = new EncryptionTransformer({ key: process.argv[1], algorithm: "ALGORITHM", ivLength: 16 });
const seal = (text) => [transformer.to(text)];
const open = (stored) => transformer.from(stored);
"""
_RUBY_LOOP = """
require "json"
Encoding.default_external = Encoding::UTF_8
$stdout.sync = true
$stdin.each_line do |line|
  task, values = JSON.parse(line)
  puts JSON.generate(values.map { |each| task == "seal" ? seal(*each) : open_value(*each) })
end
"""
# Its columns have other names than ours, which it never sees.
_ATTR_ENCRYPTED = """
require "securerandom"
require "attr_encrypted"
class Row
  extend AttrEncrypted
  attr_encrypted :token, key: ARGV[0], encode: true OPTIONS
end
def parts = %w[encrypted_token encrypted_token_iv encrypted_token_salt].first(PARTS)
def seal(text)
  row = Row.new
  row.token = text
  parts.map { |each| row.send(each) }
end
def open_value(*stored)
  row = Row.new
  parts.zip(stored) { |each, value| row.send("#{each}=", value) }
  row.token
end
"""
# As GitLab's `CryptoHelper` calls it.
_GITLAB = """
require "base64"
require "encryptor"
HOW = { algorithm: "aes-256-gcm", key: ARGV[0].byteslice(0, 32), iv: ARGV[0].byteslice(0, 12) }
def seal(text) = [Base64.strict_encode64(Encryptor.encrypt(HOW.merge(value: text)))]
def open_value(stored) = Encryptor.decrypt(HOW.merge(value: Base64.decode64(stored))).force_encoding("UTF-8")
"""
# As Infisical, and many an application by itself, calls Node's own functions.
_NODE_GCM = """
const crypto = require("node:crypto");
const encrypted = (key, text) => {
  const iv = crypto.randomBytes(16), cipher = crypto.createCipheriv("aes-256-gcm", key, iv);
  const body = Buffer.concat([cipher.update(text, "utf8"), cipher.final()]);
  return { iv, body, tag: cipher.getAuthTag() };
};
const decrypted = (key, { iv, body, tag }) => {
  const decipher = crypto.createDecipheriv("aes-256-gcm", key, iv);
  decipher.setAuthTag(tag);
  return decipher.update(body, undefined, "utf8") + decipher.final("utf8");
};
"""
_THREE_COLUMNS = """
const key = process.argv[1];
const seal = (text) => {
  const { iv, body, tag } = encrypted(key, text);
  return [body, iv, tag].map((each) => each.toString("base64"));
};
const open = (...stored) => {
  const [body, iv, tag] = stored.map((each) => Buffer.from(each, "base64"));
  return decrypted(key, { iv, body, tag });
};
"""
_SALTED = """
const keyOf = (salt) => crypto.scryptSync(process.argv[1], salt, 32, { N: COST });
const seal = (text) => {
  const salt = crypto.randomBytes(64), { iv, body, tag } = encrypted(keyOf(salt), text);
  return [Buffer.concat([salt, iv, tag, body]).toString("base64")];
};
const open = (stored) => {
  const raw = Buffer.from(stored, "base64"), at = (from, to) => raw.subarray(from, to);
  return decrypted(keyOf(at(0, 64)), { iv: at(64, 80), tag: at(80, 96), body: at(96) });
};
"""
_PHP_LOOP = r"""
while (($line = fgets(STDIN)) !== false) {
    [$task, $values] = json_decode($line, true, 512, JSON_THROW_ON_ERROR);
    $made = array_map(fn ($each) => $task === "seal" ? seal(...$each) : open_value(...$each), $values);
    echo json_encode($made, JSON_THROW_ON_ERROR), "\n";
}
"""
_CIPHERSWEET_THERE = r"""
$folder = getenv("KEYROTATION_TEST_CIPHERSWEET");
require "$folder/sodium_compat/autoload.php";
spl_autoload_register(function ($name) use ($folder) {
    foreach (["CipherSweet" => "ciphersweet", "ConstantTime" => "constant_time_encoding"] as $space => $repository) {
        if (str_starts_with($name, $head = "ParagonIE\\$space\\")) {
            require "$folder/$repository/src/" . strtr(substr($name, strlen($head)), "\\", "/") . ".php";
        }
    }
});
new ParagonIE\CipherSweet\Backend\FIPSCrypto;
"""
_CIPHERSWEET = r"""
use ParagonIE\CipherSweet\{Backend, CipherSweet, EncryptedField, KeyProvider\StringProvider};
$field = new EncryptedField(new CipherSweet(new StringProvider($argv[1]), new Backend\BACKEND), "cases", "COLUMN");
function seal($text) { global $field; return [$field->encryptValue($text)]; }
function open_value($stored) { global $field; return $field->decryptValue($stored); }
"""


@dataclass(frozen=True)
class Library:
    """A library with one key, or none, which stores texts as they are.

    Args:
        declared: what `from` says of it in keyrotation.toml, besides `keys`; "": it has no key.
        key: as it takes it, and `init` imports it.
        run: runs a program that stands behind it, with the key and a database's URL as arguments. The program reads a
            task and values a line, in JSON, and answers so.
        program: its text.
        columns: of one value, with their types; the program has bytes in hex.
        needs: a program that ends well only where the library is installed; "": it is always there.
        on_debian: whether it needs what embedded servers lack.
    """

    declared: str
    key: str
    run: tuple[str, ...]
    program: str
    columns: tuple[tuple[str, str], ...]
    needs: str = ""
    on_debian: bool = False

    @property
    def options(self) -> dict[str, str]:
        """What is declared, by name."""
        said = (each.split(" = ") for each in self.declared.split(", ") if each)
        return {name: option.strip('"') for name, option in said}

    @property
    def source(self) -> str:
        """What `from` says."""
        return f'{{ {self.declared}, keys = {{ env = "{self.variable}" }} }}' if self.declared else '"plaintext"'

    @property
    def column(self) -> str:
        """The column of its values, or of most of each."""
        return self.columns[0][0]

    @property
    def is_binary(self) -> bool:
        """Whether that is of bytea."""
        return self.columns[0][1] == "bytea"

    @property
    def variable(self) -> str:
        """Of the environment, with its key."""
        return f"KEY_OF_{self.column.upper()}"

    @property
    def is_here(self) -> bool:
        """Whether it runs here."""
        if shutil.which(self.run[0]) is None:
            return False
        return (
            not self.needs or not subprocess.run([*self.run, self.needs], capture_output=True, check=False).returncode
        )

    @contextmanager
    def running(self, url: str) -> "Iterator[RunningLibrary]":
        """Inside, it runs."""
        process = subprocess.Popen(
            [*self.run, self.program, self.key, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            yield RunningLibrary(self, process, threading.Lock())
        finally:
            process.communicate(timeout=60)


@dataclass(frozen=True)
class RunningLibrary:
    """A library at work, for any thread."""

    library: Library
    process: "subprocess.Popen[str]"
    lock: threading.Lock

    def sealed(self, texts: Sequence[str]) -> list[Stored]:
        """Returns what it stores for texts."""
        kinds = [kind for _, kind in self.library.columns]
        return [
            tuple(bytes.fromhex(value) if kind == "bytea" else value for value, kind in zip(each, kinds, strict=True))
            for each in self._answer("seal", [(text,) for text in texts])
        ]

    def opened(self, stored: Sequence[Stored]) -> list[str]:
        """Returns the texts that it reads."""
        as_text = [tuple(value.hex() if isinstance(value, bytes) else value for value in each) for each in stored]
        return [str(each) for each in self._answer("open", as_text)]

    def _answer(self, task: str, values: Sequence[tuple[str | None, ...]]) -> list[str]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self.lock:
            self.process.stdin.write(json.dumps([task, values]) + "\n")
            self.process.stdin.flush()
            found: list[str] = json.loads(self.process.stdout.readline())
        return found


_PYTHON, _NODE, _RUBY, _PHP = (sys.executable, "-c"), ("node", "-e"), ("ruby", "-e"), ("php", "-r")
# With 1024 a key takes milliseconds, and each value has its own: 2 is the least for as many rows as of other forms.
_SCRYPT_N = os.environ.get("KEYROTATION_TEST_SCRYPT_N", "1024")
_SECRET, _HEX = "the application's secret", "e41c966f21f9e1577802463f8924e6a3fe3e9751f201304213b2f845d8841d61"


def _columns(name: str, *parts: str, kind: str = "text") -> tuple[tuple[str, str], ...]:
    return ((name, kind), *((f"{name}_{part}", "text") for part in parts))


LIBRARIES = (
    Library(
        "", "", _PYTHON, "import json, sys\nseal, opened = lambda text: [text], lambda text: text" + _PYTHON_LOOP,
        _columns("plaintext"),
    ),
    Library(
        'format = "sqlalchemy-utils-aes", padding = "naive"', _SECRET, _PYTHON,
        _SQLALCHEMY_UTILS.replace("ENGINE", "AesEngine") + _PYTHON_LOOP, _columns("utils_aes"),
    ),
    Library(
        'format = "sqlalchemy-utils-aesgcm"', _SECRET, _PYTHON,
        _SQLALCHEMY_UTILS.replace("ENGINE", "AesGcmEngine").replace('engine._set_padding_mechanism("naive")\n', "")
        + _PYTHON_LOOP, _columns("utils_gcm"),
    ),
    Library(
        'format = "django-cryptography", key_of = "SECRET_KEY"', _SECRET, _PYTHON, _DJANGO_CRYPTOGRAPHY + _PYTHON_LOOP,
        _columns("django", kind="bytea"),
    ),
    Library(
        'format = "pgcrypto-pgp"', _SECRET, _PYTHON, _PGCRYPTO + _PGP + _PYTHON_LOOP, _columns("pgp", kind="bytea"),
        on_debian=True,
    ),
    Library(
        'format = "pgcrypto-armor"', _SECRET, _PYTHON, _PGCRYPTO + _ARMOR + _PYTHON_LOOP, _columns("armor"),
        on_debian=True,
    ),
    Library(
        'format = "cryptojs-openssl"', _SECRET, _NODE, _CRYPTO_JS + _NODE_LOOP, _columns("crypto_js"),
        'require("crypto-js")',
    ),
    *(
        Library(
            f'format = "typeorm-encrypted-{mode}"', _HEX, _NODE,
            _TYPEORM_THERE + _TYPEORM.replace("ALGORITHM", f"aes-256-{mode}") + _NODE_LOOP,
            _columns(f"typeorm_{mode}"), _TYPEORM_THERE,
        )
        for mode in ("cbc", "gcm")
    ),
    *(
        Library(
            f'format = "{name}", {", ".join(f"""{part} = "{column}_{part}" """.strip() for part in parts)}',
            _SECRET + "32 bytes", _RUBY,
            _ATTR_ENCRYPTED.replace("OPTIONS", options).replace("PARTS", str(1 + len(parts))) + _RUBY_LOOP,
            _columns(column, *parts), 'require "attr_encrypted"',
        )
        for name, column, options, parts in (
            ("attr-encrypted", "attr_gcm", "", ["iv"]),
            ("attr-encrypted", "attr_salted", ", mode: :per_attribute_iv_and_salt", ["iv", "salt"]),
            ("attr-encrypted-cbc", "attr_cbc", ', algorithm: "aes-256-cbc"', ["iv"]),
        )
    ),
    Library(
        'format = "gitlab-token"', _HEX, _RUBY, _GITLAB + _RUBY_LOOP, _columns("gitlab"), 'require "encryptor"',
    ),
    Library(
        'format = "aes-256-gcm", layout = "b64.ct", kdf = "none", iv = "infisical_iv", tag = "infisical_tag"',
        _HEX[:32], _NODE, _NODE_GCM + _THREE_COLUMNS + _NODE_LOOP, _columns("infisical", "iv", "tag"),
    ),
    Library(
        f'format = "aes-256-gcm", layout = "b64.salt64.nonce16.tag16.ct", kdf = "scrypt", cost = "{_SCRYPT_N}"',
        _SECRET, _NODE, _NODE_GCM + _SALTED.replace("COST", _SCRYPT_N) + _NODE_LOOP, _columns("salted"),
    ),
    *(
        Library(
            f'format = "ciphersweet-{name}", table = "cases", column = "{name}"', _HEX, _PHP,
            _CIPHERSWEET_THERE + _CIPHERSWEET.replace("BACKEND", back_end).replace("COLUMN", name) + _PHP_LOOP,
            _columns(name), _CIPHERSWEET_THERE,
        )
        for name, back_end in (("brng", "BoringCrypto"), ("nacl", "ModernCrypto"), ("fips", "FIPSCrypto"))
    ),
)  # fmt: skip
