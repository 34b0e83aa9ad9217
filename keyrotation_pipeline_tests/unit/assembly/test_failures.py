"""What a user reads of an error of the database."""

import psycopg
import pytest

from keyrotation_pipeline.assembly.failures import message_of


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(psycopg.ProgrammingError("4 placeholders, but 'secret'"), "defect of this program", id="ours"),
        pytest.param(psycopg.DataError("'secret' has a NUL"), "defect of this program", id="a parameter of ours"),
        pytest.param(psycopg.OperationalError("consuming input failed: secret"), "connection to the", id="lost"),
        pytest.param(psycopg.errors.UndefinedTable("secret"), "refused or ended a statement (Un", id="refused"),
        pytest.param(psycopg.errors.AdminShutdown("secret"), "refused or ended a statement (AdminSh", id="ended"),
    ],
)
def test_a_statement_of_ours_an_answer_and_a_lost_connection_are_told_apart(error: psycopg.Error, said: str) -> None:
    sentence = message_of(error)
    assert sentence is not None
    assert said in sentence
    assert "secret" not in sentence
