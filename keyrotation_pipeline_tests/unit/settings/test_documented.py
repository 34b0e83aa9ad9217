"""What the pages say of keyrotation.toml is what it takes."""

import re
from pathlib import Path

import pytest

from keyrotation_pipeline import settings
from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline_tests.pages import Fenced, fenced

TABLE = '\n[[tables]]\nname = "clients"\ncolumns = ["first_name"]\n'
# A block that continues where another one ends.
CONTINUED = {
    "[keys.kubernetes-secret.aws-archive]": '[keys]\nstore = "kubernetes-secret"\n'
    '[keys.kubernetes-secret]\nnamespace = "pazpaz"\nname = "pazpaz-secrets"\n'
}
BLOCKS = [each for each in fenced() if each.language == "toml"]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(block.text.split()[0]))
def test_each_block_of_settings_on_a_page_is_read(
    block: Fenced, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in re.findall(r'env = "(\w+)"', block.text):
        monkeypatch.setenv(name, "postgresql://keyrotation@db/clinic" if "URL" in name else "https://hooks.example/")
    path = tmp_path / "keyrotation.toml"
    before, after = CONTINUED.get(block.text.split()[0], ""), "" if "[[tables]]" in block.text else TABLE
    path.write_text(f"{before}{block.text}{after}")
    assert settings.load(path).tables


def test_a_misspelt_setting_on_a_page_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "keyrotation.toml"
    path.write_text(f"[verification]\nevery_day = 90\n{TABLE}")
    with pytest.raises(ConfigurationError, match="every_days"):
        settings.load(path)
