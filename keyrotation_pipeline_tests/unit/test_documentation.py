"""What the pages name is there: files of the code, and the decisions in their index."""

import re
from collections import Counter
from pathlib import Path

import pytest

from keyrotation_pipeline_tests.acceptance.test_runbook import PAGES as RUNBOOK
from keyrotation_pipeline_tests.acceptance.test_runbook import blocks_of
from keyrotation_pipeline_tests.conftest import COLLECTED, NORMAL
from keyrotation_pipeline_tests.pages import PAGES as TYPED_PAGES
from keyrotation_pipeline_tests.pages import TOP, fenced
from keyrotation_pipeline_tests.reference.guards import guard_tests

# Blocks that no test types, and why none can here.
NOT_TYPED = {
    "image": "docker is not to be had where tests run",
    "pods": "kubectl exec and port-forward reach into Pods, which a stand-in of the API server does not run",
    "card": "a real OpenPGP card; a virtual one is in integration/test_recovery_card.py",
}
# Blocks of one name, which one test types one after another.
IN_PARTS = {"runbook", "tutorial"}
NO_SHELL = {
    "text",
    "hcl",
    "json",
    "toml",
    "yaml",
    "sql",
    "python",
    "nginx",
    "ruby",
    "php",
    "js",
    "go",
    "java",
    "elixir",
}
PAGES = sorted(path.relative_to(TOP) for path in (*TOP.glob("*.md"), *TOP.glob("docs/**/*.md")))
FOLDERS = ("keyrotation_pipeline*", "benchmarks", "deploy", "docs")
FILES = [
    path.relative_to(TOP).as_posix()
    for folder in ("", *FOLDERS)
    for path in TOP.glob(f"{folder}/**/*.py" if folder else "*.py")
]


def test_every_python_file_that_a_page_names_is_there() -> None:
    named = {name for page in PAGES for name in re.findall(r"`((?:\w+/)*\w+\.py)`", (TOP / page).read_text())}
    assert {name for name in named if not any(f"/{each}".endswith(f"/{name}") for each in FILES)} == set()


def test_the_pages_stay_short() -> None:
    # What is needed less than something else goes, before something is added.
    words = {page: len((TOP / page).read_text().split()) for page in PAGES}
    assert sum(count for page, count in words.items() if page.parts[0] in {"docs", "README.md"}) <= 60_000
    assert words[Path("README.md")] <= 900
    assert len((TOP / "CHANGELOG.md").read_text().splitlines()) <= 200


def test_no_page_holds_what_a_merge_left() -> None:
    assert [page for page in PAGES if re.search(r"(?m)^(?:<{7}|>{7}) ", (TOP / page).read_text())] == []


def test_every_test_that_the_threat_model_names_is_there() -> None:
    pages = (TOP / "docs/security.md", *TOP.glob("docs/security/*.md"))
    named = {name for page in pages for name in re.findall(r"`(test_\w+)`", page.read_text())}
    listed = {name for guards in guard_tests().values() for tests in guards.values() for name in tests}
    tests = "".join(path.read_text() for path in TOP.glob("keyrotation_pipeline_tests/**/*.py"))
    written = set(re.findall(r"def (\w+)\(", tests))
    assert len(listed) > 300
    assert {name for name in named | listed if name not in written and not is_file(name)} == set()


def test_each_guard_of_the_threat_model_has_a_test_in_the_normal_run(request: pytest.FixtureRequest) -> None:
    normal, collected = request.config.stash[NORMAL], request.config.stash[COLLECTED]
    guards = {(page, number): tests for page, found in guard_tests().items() for number, tests in found.items()}
    files = TOP.glob("keyrotation_pipeline_tests/**/test_*.py")
    if sum(name.endswith(".py") for name in collected) < len(list(files)) * 0.8:
        pytest.skip("only some tests are collected")
    assert [guard for guard, tests in guards.items() if normal.isdisjoint(tests)] == []


def is_file(name: str) -> bool:
    return name.endswith(".py") and any(each.endswith(f"/{name}") for each in FILES)


def test_each_guard_of_the_threat_model_has_a_test() -> None:
    numbered = {
        page.stem: re.findall(r"(?m)^(\d+)\. \*\*", page.read_text()) for page in TOP.glob("docs/security/*.md")
    }
    assert sum(map(len, numbered.values())) > 200
    assert numbered == {page: list(guards) for page, guards in guard_tests().items()}
    assert all(tests for guards in guard_tests().values() for tests in guards.values())


def test_the_table_of_attackers_links_the_page_of_each() -> None:
    linked = set(re.findall(r"\]\(security/([\w-]+)\.md\)", (TOP / "docs/security.md").read_text()))
    assert linked == set(guard_tests())


def test_the_index_of_decisions_lists_each_by_its_title() -> None:
    index = (TOP / "docs/adr/README.md").read_text()
    listed = {file: title for title, file in re.findall(r"(?m)^- \[\d+\. (.+?)\]\((\d{4}-.+?\.md)\)", index)}
    titles = {
        path.name: re.sub(r"^# \d+\. ", "", path.read_text().splitlines()[0]) for path in TOP.glob("docs/adr/[0-9]*.md")
    }
    assert listed == titles


@pytest.mark.parametrize("page", RUNBOOK)
def test_every_block_of_the_runbook_says_what_is_seen_then(page: str) -> None:
    assert all(block.seen for block in blocks_of(page))


def typed_by_tests() -> set[str]:
    """Names of blocks that a test fetches by `pages.block`."""
    sources = "".join(path.read_text() for path in TOP.glob("keyrotation_pipeline_tests/**/test_*.py"))
    return set(re.findall(r"\bblock\(\s*['\"]([^'\"]+)", sources))


def test_every_block_of_shell_lines_is_typed_by_a_test_or_listed_with_a_reason() -> None:
    shell = [each for each in fenced() if each.language not in NO_SHELL]
    assert {f"{each.page}: ```{each.language}" for each in shell if each.language != "sh"} == set()
    names = [each.name for each in shell if each.name not in IN_PARTS]
    assert sorted(names) == sorted(set(names)), "two blocks have one name"
    assert set(names) - typed_by_tests() == set(NOT_TYPED)


def test_what_no_test_types_is_nothing_but_docker_pods_and_a_card() -> None:
    listed = [line for each in fenced() if each.name in NOT_TYPED for line in each.text.splitlines()]
    allowed = r"docker |helm |kubectl \S+ \S+ (?:exec|port-forward) |gpg --homedir \S+ --card-status|export GPG_TTY|"
    assert [line for line in listed if not re.match(f"(?:{allowed}keyrotation recovery-test)", line)] == []


def test_no_command_hides_in_a_block_that_is_not_for_a_shell() -> None:
    hidden = r"(?m)^(?:\$ )?(?:uv run|keyrotation|kubectl|docker|helm|aws|gpg|psql|dg) [a-z-]"
    reported = [each for each in fenced() if each.language in NO_SHELL - {"text"} and re.search(hidden, each.text)]
    assert [each.page for each in reported] == []


def test_every_fence_of_a_page_is_seen() -> None:
    seen = Counter(each.page for each in fenced())
    for page in TYPED_PAGES:
        fences, name = len(re.findall(r"(?m)^[ \t>]*(?:```|~~~)", page.read_text())), page.relative_to(TOP).as_posix()
        assert fences == 2 * seen[name], name
