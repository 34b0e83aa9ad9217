"""What a terminal of 80 columns shows: lines broken between words, and no command, id or name that is cut."""

import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import pytest
from rich.console import Console

from keyrotation_pipeline.cli import output, progress
from keyrotation_pipeline.cli.output import wrapped
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.requests import Step

COLUMNS = 80
ID = "f" * 32
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
WAIT = (
    "waiting for an officer: no application instance is seen to read v2; "
    f"`keyrotation confirm {ID} --text | gpg -ab | keyrotation confirm {ID} --signature -`"
)


class Screen(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def show(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Prints by a function, and returns the lines of the screen."""
    monkeypatch.setenv("COLUMNS", str(COLUMNS))
    monkeypatch.setattr("rich.console.Console.is_terminal", False)

    def printed(by: Callable[[output.Line], None], shown: output.Line) -> list[str]:
        screen = Screen()
        with redirect_stdout(screen), redirect_stderr(screen):
            by(shown)
        return [line.rstrip() for line in screen.getvalue().splitlines()]

    return printed


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        pytest.param("short", ["short"], id="short"),
        pytest.param(f"next is rows, after two officers have signed: `keyrotation rotate {ID}`",
                     ["next is rows, after two officers have signed:", f"`keyrotation rotate {ID}`"],
                     id="a command stays whole"),
        pytest.param(f"  key_version                0.4 s  v2 {'e' * 16}, backed up in {'n' * 46}",
                     [f"  key_version                0.4 s  v2 {'e' * 16}, backed up in",
                      f"{' ' * 29}{'n' * 46}"], id="a name under its column"),
        pytest.param(f"  key_version                0.4 s  v2 {'e' * 16}, backed up in {'n' * 60}",
                     [f"  key_version                0.4 s  v2 {'e' * 16}, backed up in",
                      f"  {'n' * 60}"], id="a name that does not fit under its column begins further left"),
        pytest.param(f"stored in directory {'a ' * 40}".rstrip(),
                     [f"stored in directory {'a ' * 30}".rstrip(), f"{'a ' * 10}".rstrip()], id="no label"),
        pytest.param(f"keys      {'v1, ' * 20}v2",
                     [f"keys      {'v1, ' * 17}".rstrip(), f"          {'v1, ' * 3}v2"], id="under its label"),
        pytest.param(f"a {'x' * 90} b", ["a", "x" * 90, "b"], id="a word that is longer than the line"),
        pytest.param("", [""], id="empty"),
    ],
)  # fmt: skip
def test_a_line_is_broken_between_words_and_within_no_command(text: str, lines: list[str]) -> None:
    assert wrapped(text, COLUMNS) == lines


@pytest.mark.parametrize("text", [" " * 90, "`" * 90, "` " * 50, "`a b " * 30, "\t" * 90, "é" * 90, "- " * 60])
def test_nothing_is_lost_whatever_a_text_is_made_of(text: str) -> None:
    assert "".join("".join(wrapped(text, COLUMNS)).split()) == "".join(text.split())


def test_a_pipe_gets_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.line("word " * 40)
    output.note("word " * 40)
    assert [each.count("\n") for each in capsys.readouterr()] == [1, 1]


@pytest.mark.parametrize("by", [output.line, output.note], ids=["stdout", "stderr"])
def test_sentences_with_a_command_can_be_copied(
    show: Callable[..., list[str]], by: Callable[[output.Line], None]
) -> None:
    sentence = "rotation needs 1 more approval(s) of an officer who is on the roster now; run " * 2
    *_, last = lines = show(by, f"{sentence}`keyrotation approve {ID} --text`")
    assert last.endswith(f"`keyrotation approve {ID[:8]} --text`")
    assert max(map(len, lines)) <= COLUMNS


def test_an_id_is_printed_by_the_digits_that_commands_take_for_it(capsys: pytest.CaptureFixture[str]) -> None:
    whole, other = "5060db83" + "0" * 24, "ab" * 32  # a request's, and a fingerprint
    output.line(f"  keyrotation approve {whole} --text")
    output.line(output.Table(("Request",), [(whole,)]))
    output.note(f"run `keyrotation rotate {whole}`; key {other}")
    output.refuse(f"rotation {whole}", as_json=True)
    out, err = capsys.readouterr()
    assert (out.count("5060db83"), out.count(whole)) == (2, 0)
    assert err.splitlines() == [
        f"run `keyrotation rotate 5060db83`; key {other}",
        f'{{"schema": 1, "error": "rotation {whole}"}}',
    ]


def test_a_command_alone_is_one_line(show: Callable[..., list[str]]) -> None:
    command = f"  psql -X -v ON_ERROR_STOP=1 -d clinic -f {'long/' * 20}"
    assert show(output.line, output.Text(command, whole=True)) == [command]


def test_cells_are_broken_between_words(show: Callable[..., list[str]]) -> None:
    rows = [(ID[:12], "routine rotate", "v1", "v2", "2026-11-28 12:27", "7 s", 5964, "finished, and taken over by v3")]
    columns = ("Request", "What", "From", "To", "Started", "Took", "Rows", "Outcome")
    shown = show(output.line, output.Table(columns, rows))
    assert max(map(len, shown)) <= COLUMNS
    assert {ID[:12], "routine", "rotate", "finished,", "2026-11-28", "12:27"} <= set(" ".join(shown).split())


def test_a_row_that_is_wider_than_its_words_allow_becomes_a_block(show: Callable[..., list[str]]) -> None:
    name = "encryption-key-v2-20261128-122707-d1fd6809.bin.gpg"
    table = output.Table(("Manifest", "Made", "Place"), [(name, "now", name), ("b", "c", "d")])
    assert show(output.line, table) == [
        f"Manifest  {name}", "Made      now", f"Place     {name}", "",
        "Manifest  b", "Made      c", "Place     d",
    ]  # fmt: skip


def test_bars_show_the_time_left_and_the_whole_instruction() -> None:
    drawn = StringIO()
    seconds = [0.0]
    overall = progress.Overall({"billing.appointments": 12_345_678}, 1, left=lambda: 90.0, clock=lambda: seconds[0])
    subject, rate = "billing.appointments shard 00", "1,203,456 rows, 10,203 a second"
    with progress.bars_on(
        Console(file=drawn, force_terminal=True, width=COLUMNS, color_system=None), timed=False
    ) as bars:
        shown = progress.OnTerminal(bars, overall)
        for done in (10, 50):
            shown(Progress(Step.ROWS, subject, done, 100, "pages", rate))
            seconds[0] += 60
        bars.refresh()
        shown(Progress(Step.DUAL_KEY_ROLLOUT, "read v2", 0, 1, "instances", WAIT))
        bars.refresh()
    words = " ".join(CONTROL.sub(" ", drawn.getvalue()).split())
    assert "rows: 6,172,839 of 12,345,678 rows (50 %), 102,881 a second, about 2 min left" in words
    assert f"{subject}: {rate}" in words
    assert WAIT.replace(ID, ID[:8]) in words
    assert "…" not in words
