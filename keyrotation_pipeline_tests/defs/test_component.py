"""`KeyRotation` in a project of somebody else, loaded in this process; a real project is in acceptance/."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster.components.core.component_tree import ComponentTreeException
from dagster.components.testing import create_defs_folder_sandbox
from dagster.components.testing.utils import DefsFolderSandbox

import keyrotation_pipeline
from keyrotation_pipeline.component import KeyRotation
from keyrotation_pipeline.errors import ConfigurationError

# Dagster's own, of how it reads YAML, and of code references.
pytestmark = [
    pytest.mark.filterwarnings("ignore:`parse_obj_as` is deprecated"),
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
]
CONFIGURATION = '[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n'
NAME = "keyrotation_pipeline.KeyRotation"


@pytest.fixture
def project() -> Iterator[DefsFolderSandbox]:
    with create_defs_folder_sandbox() as sandbox:
        (sandbox.project_root / "keyrotation.toml").write_text(CONFIGURATION)
        yield sandbox


def loaded(project: DefsFolderSandbox, **attributes: Any) -> dg.Definitions:  # noqa: ANN401  of YAML
    contents = {"type": NAME, "attributes": attributes}
    path = project.scaffold_component(KeyRotation, "rotation", defs_yaml_contents=contents)
    with project.load_component_and_build_defs(path) as (_, definitions):
        return definitions


def test_what_is_scaffolded_has_the_name_of_its_folder_as_the_prefix(project: DefsFolderSandbox) -> None:
    path = project.scaffold_component(KeyRotation, "rotation")

    written = yaml.safe_load((path / "defs.yaml").read_text())
    assert written["attributes"] == {"config": "keyrotation.toml", "key_prefix": "rotation"}
    with project.load_component_and_build_defs(path) as (_, definitions):
        keys = definitions.resolve_asset_graph().toposorted_asset_keys
        assert {key.path[0] for key in keys} == {"rotation"}
        assert dg.AssetKey(["rotation", "rows", "clients"]) in keys


@pytest.mark.parametrize(
    ("prefix", "key"),
    [
        pytest.param("", "rows/clients", id="none"),
        pytest.param("security/rotation", "security/rotation/rows/clients", id="a path"),
        pytest.param(["security", "rotation"], "security/rotation/rows/clients", id="a list"),
    ],
)
def test_the_prefix_is_a_path_or_a_list(project: DefsFolderSandbox, prefix: str | list[str], key: str) -> None:
    keys = loaded(project, key_prefix=prefix).resolve_asset_graph().toposorted_asset_keys
    assert key in {each.to_user_string() for each in keys}


@pytest.mark.parametrize(
    ("attributes", "sentence"),
    [
        pytest.param({"key_prefix": "a//b"}, "key_prefix of KeyRotation has the part ''", id="empty part"),
        pytest.param({"key_prefix": "9 lives"}, "has the part '9 lives'; write letters, digits", id="no name"),
        pytest.param({"key_prefix": ["a/b"]}, "has the part 'a/b'", id="slash in a list"),
        pytest.param({"config": "gone.toml"}, "gone.toml is not there; run `keyrotation init --config", id="no file"),
    ],
)
def test_what_is_wrong_is_one_sentence(project: DefsFolderSandbox, attributes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ComponentTreeException) as caught:
        loaded(project, **attributes)
    assert isinstance(caught.value.__cause__, ConfigurationError)
    assert sentence in str(caught.value.__cause__)


def test_a_wrong_configuration_is_the_sentence_of_the_command_line(project: DefsFolderSandbox) -> None:
    (project.project_root / "keyrotation.toml").write_text(CONFIGURATION + "colour = 1\n")
    with pytest.raises(ComponentTreeException) as caught:
        loaded(project)
    assert isinstance(caught.value.__cause__, ConfigurationError)
    assert "colour" in str(caught.value.__cause__)


def test_a_second_one_in_a_project_is_refused(project: DefsFolderSandbox) -> None:
    project.scaffold_component(KeyRotation, "another")
    with pytest.raises(ComponentTreeException) as caught:
        loaded(project, key_prefix="rotation")
    assert "two KeyRotation components; keep one" in str(caught.value.__cause__)


def test_dg_finds_the_component_where_dagster_is_and_applications_import_nothing() -> None:
    assert keyrotation_pipeline.KeyRotation is KeyRotation
    assert "KeyRotation" in dir(keyrotation_pipeline)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        keyrotation_pipeline.Nothing  # noqa: B018
    code = (
        "import sys; sys.modules['dagster'] = None; import importlib.util as u; f = u.find_spec;"
        "u.find_spec = lambda name: None if name == 'dagster' else f(name);"
        "import keyrotation_pipeline as k, inspect; inspect.getmembers(k);"
        "import keyrotation_pipeline.encrypted_type; print('KeyRotation' in dir(k))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("False", "")


def test_every_dg_command_imports_the_component_and_not_the_pipeline() -> None:
    code = (
        "import sys, keyrotation_pipeline as k; k.KeyRotation; print(*(m for m in sys.modules if 'keyrotation' in m))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {"keyrotation_pipeline", "keyrotation_pipeline.component"}
