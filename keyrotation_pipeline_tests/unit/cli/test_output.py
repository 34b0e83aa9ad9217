"""Nothing that is printed moves the cursor, hides or reorders text, whoever wrote it."""

import ast
import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from keyrotation_pipeline import cli
from keyrotation_pipeline.cli import output, progress
from keyrotation_pipeline.errors import ApprovalError
from keyrotation_pipeline.model.progress import Progress
from keyrotation_pipeline.model.visible_text import is_hidden

HOSTILE = "web-1\x9b2J\x1b]0;t\x07\u202e\u3164\u2800\ufe0f\U000e0041\r\nAttention"
SHOWN = r"web-1\x9b2J\x1b]0;t\x07\u202e\u3164\u2800\ufe0f\U000e0041\r\nAttention"


def hidden(text: str) -> set[str]:
    return {each for each in text if each != "\n" and is_hidden(each)}


@pytest.mark.parametrize(
    "shown",
    [
        pytest.param(HOSTILE, id="a line"),
        pytest.param(output.Text(HOSTILE, output.BAD), id="a styled line, by Rich"),
        pytest.param(output.field("Reason", HOSTILE), id="a field"),
        pytest.param(output.Table(("Instance",), [(HOSTILE,)]), id="a cell of a table, by Rich"),
    ],
)
def test_a_text_from_outside_is_one_line_without_hidden_characters(
    capsys: pytest.CaptureFixture[str], shown: output.Line
) -> None:
    output.line(shown)
    printed = capsys.readouterr().out
    assert SHOWN in printed
    assert hidden(printed) == set()
    assert printed.count("\n") == (2 if isinstance(shown, output.Table) else 1)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        pytest.param("rotation {id} waits", "rotation 01234567 waits", id="in a sentence"),
        pytest.param("run `keyrotation rotate {id}`.", "run `keyrotation rotate 01234567`.", id="in a command"),
        pytest.param("{id}/rows is at work", "01234567/rows is at work", id="in the name of a lock"),
        pytest.param("/srv/{id}/keys: no such file", None, id="in a path"),
        pytest.param("{id}.example is not in Hosts", None, id="in a host"),
        pytest.param("Pod web-{id}", None, id="at the end of a name"),
        pytest.param("Pod {id}-web", None, id="at the beginning of a name"),
        pytest.param("fingerprint {id}{id}", None, id="in a longer number"),
        pytest.param('asked for "the invoice {id}"', None, id="in a reason, which is quoted"),
    ],
)
def test_an_id_of_a_request_is_short_and_what_others_have_named_is_whole(
    text: str, printed: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = text.format(id="0123456789abcdef" * 2)
    output.line(whole)
    assert capsys.readouterr().out == f"{printed or whole}\n"


def test_so_are_notes_headings_and_documents_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output.note(HOSTILE)
    output.line(HOSTILE)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    output.content(f"{HOSTILE}\n")
    printed = capsys.readouterr()
    assert hidden(printed.out + printed.err) == set()


def test_json_means_the_same_and_shows_no_hidden_character(capsys: pytest.CaptureFixture[str]) -> None:
    output.document({"name": HOSTILE, "officer": "Zoë"})
    printed = capsys.readouterr().out
    assert json.loads(printed) == {"schema": 1, "name": HOSTILE, "officer": "Zoë"}
    assert hidden(printed) == set()
    assert "Zoë" in printed


def test_bars_on_a_terminal_show_none_either() -> None:
    drawn = io.StringIO()
    with progress.bars_on(Console(file=drawn, force_terminal=True, width=200, markup=False), timed=True) as bars:
        progress.OnTerminal(bars)(Progress(None, HOSTILE, 1, 2, "rows", HOSTILE))
        bars.refresh()
    assert r"web-1\x9b2J" in drawn.getvalue()
    assert not {"\x9b", "\x07", "\u202e", "\u3164", "\u2800", "\ufe0f"} & set(drawn.getvalue())
    assert "\x1b]0;t" not in drawn.getvalue()


def test_a_text_that_could_mislead_is_not_given_to_sign(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ApprovalError, match="do not sign it"):
        output.to_sign("keyrotation-approval-v1\nReason: a\u202eb\n".encode())
    assert capsys.readouterr().out == ""


def test_commands_print_by_these_functions_alone() -> None:
    """What else writes to a stream is a text of ours, or an id of ours."""
    found = {
        f"{path.stem}: {ast.unparse(node.args[0])}"
        for path in Path(cli.__file__).parent.glob("*.py")
        if path.stem != "output"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"print", "typer.echo", "sys.stdout.write", "sys.stderr.write"}
    }
    assert found == {
        "__init__: MISSING_EXTRA.format(name=name)",
        "__init__: _STOPPED",
        "commands: codec_in_use()",
        "commands: f\"keyrotation {version('keyrotation-pipeline')}\"",
        "incident: f'{opened.id}\\n'",
        "signing: f'{request.id}\\n'",
    }
