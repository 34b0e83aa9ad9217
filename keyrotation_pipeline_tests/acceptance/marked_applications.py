"""Programs of applications with the real libraries: what guides/rails.md and guides/prisma.md print, and a loop."""

import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from keyrotation_pipeline_tests.acceptance.fernet_applications import Project
from keyrotation_pipeline_tests.marked_libraries import CLOAK, RAILS, SALT, Library
from keyrotation_pipeline_tests.pages import fenced, report_of

VARIABLE = "ACTIVE_RECORD_ENCRYPTION_PRIMARY_KEY"
CLOAK_VARIABLE = "FIELD_ENCRYPTION_KEYS"

# A Rails application of one file, with the defaults of Rails 7.1.
_RAILS = """
require "rails"
require "active_record/railtie"
require "pg"
require "json"
require "yaml"
{reporting}
{before}
class Clinic < Rails::Application
  config.load_defaults 7.1
  config.eager_load = false
  config.secret_key_base = "x" * 64
  config.logger = Logger.new(nil)
  config.active_record.encryption.key_derivation_salt = "{salt}"
{guide}
end
given = PG::Connection.conninfo_parse(ENV.fetch("URL")).to_h {{ |each| [each[:keyword], each[:val]] }}
ENV["DATABASE_URL"] = nil
Clinic.config.paths.add "config/database", with: "database.yml"
File.write("database.yml", JSON.generate(development: {{
  adapter: "postgresql", host: given["host"], port: given["port"], database: given["dbname"],
  username: given["user"], password: given["password"]
}}.compact))
Clinic.initialize!
class Client < ActiveRecord::Base
  encrypts :name{options}
  encrypts :note
end
def read(row, text = nil)
  client = Client.uncached {{ {found} }}
  return "not found by its text" if client.nil?
  client.name == client.note ? client.name : [client.name, client.note]
end
def write(row, text)
  Client.find_or_initialize_by(id: row).update!(name: text, note: text)
end
"""
RUBY_LOOP = """
$stdout.sync = true
expected = JSON.parse($stdin.gets).to_h { |row, text| [row.to_i, text] }
keep_reporting(KEYS) unless ENV["SEED"]
expected.each { |row, text| write(row, text) } if ENV["SEED"]
wrong, writes, stop = [], 0, false
if ENV["READS_ALL"]
  wrong = expected.filter_map { |row, text| "#{read(row, text)}, not #{text}" if read(row, text) != text }
  stop = true
end
reading = Thread.new { $stdin.read; stop = true }
puts "at work"
until stop
  row = expected.keys.sample
  begin
    found = read(row, expected[row])
    wrong << "#{found}, not #{expected[row]}" if found != expected[row]
    writes += 1
    expected[row] = "#{row}, write #{writes} of #{Process.pid}" + (rand < 0.2 ? " and a long text" * 50 : "")
    write(row, expected[row])
  rescue => error
    wrong << "#{row}: #{error.class} #{error.message[0, 200]}"
  end
  sleep 0.02
end
reading.join
puts JSON.generate(expected: expected, wrong: wrong, writes: writes)
"""
_CLOAK = """
const { encryptStringSync, decryptStringSync } = require("@47ng/cloak");
const { Client } = require("pg");
const keys = process.env.FIELD_ENCRYPTION_KEYS.split(",");
const fingerprint = key => require("crypto").createHash("sha256").update(key).digest("hex").slice(0, 8);
// As prisma-field-encryption finds the key of a value, and encrypts with the one that it is given.
const decrypt = text => decryptStringSync(text, keys.find(key => fingerprint(key) === text.split(".")[2]));
const encrypt = text => encryptStringSync(text, keys[0]);
(async () => {
  const lines = require("readline").createInterface({ input: process.stdin });
  let stop = false;
  lines.on("close", () => { stop = true; });
  const first = await new Promise(resolve => lines.once("line", resolve));
  const expected = new Map(Object.entries(JSON.parse(first)).map(([row, text]) => [Number(row), text]));
  const db = new Client({ connectionString: process.env.URL });
  await db.connect();
  const read = async row => {
    const { rows: [client] } = await db.query("SELECT name, note FROM clients WHERE id = $1", [row]);
    const [name, note] = [decrypt(client.name), decrypt(client.note)];
    return name === note ? name : [name, note];
  };
  const write = (row, text) => db.query(
    "INSERT INTO clients VALUES ($1, $2, $3) ON CONFLICT (id) DO UPDATE SET name = excluded.name, note = excluded.note",
    [row, encrypt(text), encrypt(text)]);
  const wrong = [];
  let writes = 0;
  if (process.env.SEED) for (const [row, text] of expected) await write(row, text);
  if (process.env.READS_ALL) {
    for (const [row, text] of expected) {
      const found = await read(row);
      if (found !== text) wrong.push(`${found}, not ${text}`);
    }
  }
  console.log("at work");
  while (!stop) {
    if (!process.env.READS_ALL && !process.env.SEED) {
      const row = [...expected.keys()][Math.floor(Math.random() * expected.size)];
      try {
        const found = await read(row);
        if (found !== expected.get(row)) wrong.push(`${found}, not ${expected.get(row)}`);
        expected.set(row, `${row}, write ${++writes} of ${process.pid}`);
        await write(row, expected.get(row));
      } catch (error) {
        wrong.push(`${row}: ${error}`);
      }
    }
    await new Promise(resolve => setTimeout(resolve, 20));
  }
  await db.end();
  console.log(JSON.stringify({ expected: Object.fromEntries(expected), wrong, writes }));
})();
"""


@dataclass
class MarkedProject(Project):
    """A program of one of these libraries.

    Args:
        library: how its list is written.
    """

    library: Library = RAILS

    def listed(self) -> list[str]:
        name, _, listed = self.delivered.read_text().strip().partition("=")
        assert name == self.variable
        return self.library.read(listed)

    def environment(self, keys: list[str], **more: str) -> dict[str, str]:
        return {**super().environment(keys, **more), self.variable: self.library.write(keys)}


def lines(language: str, name: str) -> str:
    """The lines of the one block of that name in the guides."""
    (found,) = [each.text for each in fenced() if (each.language, each.name) == (language, name)]
    return found


def rails(url: str, folder: Path, provider: str = "") -> MarkedProject:
    """A model with two encrypted attributes.

    Args:
        provider: of the keys of the first one.
    """
    program = _RAILS.format(
        reporting=report_of("rails.rb"), salt=SALT, guide=lines("ruby", "rails-encryption"), before="",
        options=provider, found="Client.find(row)",
    )  # fmt: skip
    return _rails(url, folder, program, VARIABLE, RAILS)


def rails_with_envelopes(url: str, folder: Path) -> MarkedProject:
    """The same, of which the values of one attribute have data keys of their own."""
    return rails(url, folder, ", key_provider: ActiveRecord::Encryption::EnvelopeEncryptionKeyProvider.new")


def deterministic_rails(url: str, folder: Path) -> MarkedProject:
    """A model with two deterministic attributes, of which a row is found by its text."""
    program = _RAILS.format(
        reporting=report_of("rails.rb"), salt=SALT, guide=lines("ruby", "rails-deterministic"),
        before=lines("ruby", "rails-one-key"), options=", deterministic: { fixed: false }",
        found="text ? Client.find_by(name: text, note: text) : Client.find(row)",
    )  # fmt: skip
    program = program.replace("encrypts :note", "encrypts :note, deterministic: {{ fixed: false }}".format())
    library = replace(RAILS, format=f"{RAILS.format}\ndeterministic = true")
    return _rails(url, folder, program, "ACTIVE_RECORD_ENCRYPTION_DETERMINISTIC_KEY", library)


def _rails(url: str, folder: Path, program: str, variable: str, library: Library) -> MarkedProject:
    keys = f'Array(YAML.safe_load(ENV.fetch("{variable}")))'
    loop = RUBY_LOOP.replace("KEYS", keys)
    (folder / "program.rb").write_text(program + loop)
    rows = {row: f"row {row}" for row in range(1, 41)}
    return MarkedProject(folder, url, variable, rows, library=library, command=("ruby", "program.rb"))


def cloak(url: str, folder: Path) -> MarkedProject:
    """A program that keeps the library's values itself, as the extension of Prisma does."""
    (folder / "program.js").write_text(_CLOAK)
    rows = {row: f"row {row}" for row in range(1, 41)}
    return MarkedProject(
        folder, url, CLOAK_VARIABLE, rows, reports=False, library=CLOAK, command=("node", "program.js")
    )


def runs(*command: str) -> bool:
    """Whether a program with its libraries is here."""
    if shutil.which(command[0]) is None:
        return False
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


HAS_RAILS = runs("ruby", "-e", 'require "rails"; require "active_record/railtie"; require "pg"')
HAS_CLOAK = runs("node", "-e", 'require("@47ng/cloak"); require("pg")')
