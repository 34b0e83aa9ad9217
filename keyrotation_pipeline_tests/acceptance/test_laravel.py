"""An application with the real Laravel, rotated by what its guide prints, while it writes and restarts."""

import os
from pathlib import Path

import psycopg
import pytest

from keyrotation_pipeline.demo.officers import DemoOfficer
from keyrotation_pipeline_tests import laravel
from keyrotation_pipeline_tests.acceptance.marked_applications import lines, runs
from keyrotation_pipeline_tests.acceptance.test_aes_gcm import logins as logins  # noqa: PLC0414
from keyrotation_pipeline_tests.acceptance.test_fernet_applications import Clinic
from keyrotation_pipeline_tests.acceptance.test_fernet_applications import officers as officers  # noqa: PLC0414
from keyrotation_pipeline_tests.acceptance.test_lockbox import ProjectWithLogins
from keyrotation_pipeline_tests.officers import roster_in_toml

# A file that loads the classes of Laravel 11 or later.
LARAVEL = os.environ.get("KEYROTATION_TEST_LARAVEL", "")
HAS_LARAVEL = bool(LARAVEL) and runs("php", "-r", f'require "{LARAVEL}"; exit((int) !extension_loaded("pdo_pgsql"));')
_PROGRAM = """<?php
use Illuminate\\Config\\Repository;
use Illuminate\\Container\\Container;
use Illuminate\\Database\\Capsule\\Manager;
use Illuminate\\Database\\Eloquent\\Model;
use Illuminate\\Encryption\\Encrypter;
use Illuminate\\Encryption\\EncryptionServiceProvider;
use Illuminate\\Support\\Facades\\Facade;

function env($name, $default = null) { return getenv($name) ?: $default; }
require getenv('AUTOLOAD');

$app = new Container;
$app['config'] = new Repository(['app' => ['cipher' => 'CIPHER', CONFIG]]);
Facade::setFacadeApplication($app);
(new EncryptionServiceProvider($app))->register();
MODELS
preg_match_all('/(\\w+)=(\\S+)/', getenv('URL'), $found);
$given = array_combine($found[1], $found[2]);
$manager = new Manager;
$manager->addConnection(['driver' => 'pgsql', 'host' => $given['host'], 'port' => $given['port'] ?? 5432,
    'database' => $given['dbname'], 'username' => $given['user'], 'charset' => 'utf8']);
$manager->setAsGlobal();
$manager->bootEloquent();

class Client extends Model {
    public $timestamps = false;
    public $incrementing = false;
    protected $guarded = [];
    protected $casts = ['name' => 'encrypted', 'note' => 'encrypted:array'];
}

function read_row($row) {
    $client = Client::findOrFail($row);
    return [$client->name] === $client->note ? $client->name : [$client->name, $client->note];
}
function write_row($row, $text) {
    Client::updateOrCreate(['id' => $row], ['name' => $text, 'note' => [$text]]);
}

$expected = json_decode(fgets(STDIN), true);
[$wrong, $writes, $more] = [[], 0, true];
if (getenv('SEED')) {
    foreach ($expected as $row => $text) write_row($row, $text);
}
if (getenv('READS_ALL')) {
    foreach ($expected as $row => $text) {
        if (read_row($row) !== $text) $wrong[] = json_encode([read_row($row), $text]);
    }
    $more = false;
}
stream_set_blocking(STDIN, false);
echo "at work\\n";
while ($more && !getenv('SEED')) {
    fread(STDIN, 10);
    $more = !feof(STDIN);
    $row = array_rand($expected);
    try {
        $found = read_row($row);
        if ($found !== $expected[$row]) $wrong[] = json_encode([$found, $expected[$row]]);
        $writes++;
        $expected[$row] = "$row, write $writes of " . getmypid() . str_repeat(' and a long text', random_int(0, 40));
        write_row($row, $expected[$row]);
    } catch (Throwable $error) {
        $wrong[] = "$row: " . get_class($error) . ' ' . substr($error->getMessage(), 0, 200);
    }
    usleep(20000);
}
while (!feof(STDIN)) { fread(STDIN, 10); usleep(5000); }
echo json_encode(['expected' => $expected, 'wrong' => $wrong, 'writes' => $writes]), "\\n";
"""
# By what the keys come to the models, the variable, and the cipher.
FORMS = {
    "the application's key": ("APP_KEYS", "AES-256-CBC", lines("php", "laravel-config"), ""),
    "a key of the models": ("FIELD_KEYS", "AES-256-CBC", "", lines("php", "laravel-models")),
    "GCM": ("APP_KEYS", "AES-256-GCM", lines("php", "laravel-config"), ""),
}


@pytest.mark.extended
@pytest.mark.skipif(
    not HAS_LARAVEL,
    reason="Laravel is not here: KEYROTATION_TEST_LARAVEL is a file that loads its classes, php-pgsql is needed",
)
@pytest.mark.parametrize("form", FORMS)
def test_an_application_is_rotated_and_rolled_back_while_it_writes(
    form: str,
    tmp_path: Path,
    database_url: str,
    logins: list[str],
    officers: tuple[DemoOfficer, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable, cipher, config, models = FORMS[form]
    old = laravel.new_key()
    program = _PROGRAM.replace("CIPHER", cipher).replace("CONFIG", config).replace("MODELS", models)
    (tmp_path / "program.php").write_text(program)
    application = ProjectWithLogins(
        tmp_path,
        database_url,
        variable,
        {row: f"row {row}" for row in range(1, 41)},
        command=("php", "program.php"),
        logins=logins,
        reports=False,
        more={"AUTOLOAD": LARAVEL},
    )
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE clients (id int PRIMARY KEY, name text, note text)")
        for login in logins:
            connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON clients TO {login}".encode())
    application.seed([old])
    file = tmp_path / "keyrotation.toml"
    named = roster_in_toml(officers)
    file.write_text(
        f'database.url = "{database_url}"\nrollout.mode = "confirm"\n'
        f"[approvals]\nrequired = 2\n{named}[reencryption]\nshards = 1\nduty_cycle = 1.0\n"
        f'[format]\nname = "laravel-crypt"\ncipher = "{cipher}"\nkeys = {{ env = "{variable}" }}\n'
        f'logins = {{ v1 = "{logins[0]}", v2 = "{logins[1]}" }}\n'
        '[[tables]]\nname = "clients"\ncolumns = ["name", "note"]\n'
    )
    home = Clinic(file, officers, application)
    monkeypatch.setenv(variable, old)
    home.typed("init")
    monkeypatch.delenv(variable)
    with application.at_work():
        request = home.finished("request", "--reason", "yearly")
        (new,) = application.listed()
        (table,) = home.shown("status")["tables"]
        assert (table["values_by_version"], table["fenced_against"]) == ({"v1": 0, "v2": 80}, ["v1"])
        home.finished("rollback", request)
    assert (application.wrong, application.writes > 20) == ([], True)
    assert (application.listed(), len(new)) == ([old], len(old))
    application.require_read([old])
    (table,) = home.shown("status")["tables"]
    assert (table["values_by_version"], table["unreadable"]) == ({"v1": 80, "v2": 0}, 0)
