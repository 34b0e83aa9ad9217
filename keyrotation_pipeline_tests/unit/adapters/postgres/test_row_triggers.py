"""Whether a trigger function may set a column, by its source."""

import pytest

from keyrotation_pipeline.adapters.postgres.retirement.row_triggers import may_set

COLUMNS = ("email", "50% off")


@pytest.mark.parametrize(
    "body",
    [
        "NEW.email := 'x'; RETURN NEW;",
        "new . /* a /* nested */ comment */ EMAIL = 1; RETURN NEW;",
        'NEW."50% off" := 1; RETURN NEW;',
        'NEW."email" := 1; RETURN NEW;',
        '"new".email := 1; RETURN NEW;',
        "body.NEW.email := 1; RETURN NEW;",
        "SELECT 1 INTO NEW.plain, NEW.email; RETURN NEW;",
        "SELECT 1 INTO NEW.email FROM t; RETURN NEW;",
        "FOR NEW.email IN SELECT 1 LOOP NULL; END LOOP; RETURN NEW;",
        "GET DIAGNOSTICS NEW.email = ROW_COUNT; RETURN NEW;",
        "CALL p(NEW.email); RETURN NEW;",
        "NEW.email[1] := 1; RETURN NEW;",
        "NEW := other; RETURN NEW;",
        "SELECT t.* INTO NEW FROM t; RETURN NEW;",
        "row := NEW; row.email := 1; RETURN row;",
        "RETURN other;",
        "RETURN (SELECT t FROM t);",
        "OLD.email := 1; RETURN OLD;",
        "NEW.plain := $a$ text $a$; NEW.email := 1; RETURN NEW;",
        "-- RETURN NEW;\nNEW.email := 1; RETURN NEW;",
        "NEW.plain := '\\'; NEW.email := ''; RETURN NEW;",
        'NEW.U&"email" := 1; RETURN NEW;',
        "/* never ends NEW.plain := 1; RETURN NEW;",
    ],
)
def test_what_may_set_it(body: str) -> None:
    assert may_set(f"DECLARE mine ALIAS FOR NEW; BEGIN {body} END", ())
    assert may_set(f"BEGIN {body} END", COLUMNS)


@pytest.mark.parametrize(
    "body",
    [
        "NEW.updated_at = now(); RETURN NEW;",
        "NEW.plain := 'NEW.email := 1'; RETURN NEW;",
        "NEW.plain := E'\\' NEW.email := 1'; RETURN NEW;",
        "NEW.plain := $$ NEW.email := 1 $$; RETURN NEW;",
        "NEW.plain := $a$ NEW.email $$ := 1 $a$; RETURN NEW;",
        "-- NEW.email := 1;\n /* NEW.email := 1; */ RETURN NEW;",
        "IF NEW.email IS DISTINCT FROM OLD.email THEN NEW.at := now(); END IF; RETURN NEW;",
        "IF NEW.email <> OLD.email AND OLD.email IS NULL THEN RETURN NULL; END IF; RETURN NEW;",
        "NEW.email_at := now(); RETURN NEW;",
        "IF TG_OP = 'DELETE' THEN RETURN OLD; END IF; RETURN NEW;",
        "RAISE EXCEPTION 'no';",
    ],
)
def test_what_cannot(body: str) -> None:
    assert not may_set(f"BEGIN {body} END", COLUMNS)
