"""Write every page of the reference."""

from keyrotation_pipeline_tests.reference.pages import FOLDER, PAGES

for name, page in PAGES.items():
    (FOLDER / f"{name}.md").write_text(page())
