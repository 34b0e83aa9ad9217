"""One Python file that holds a module of this package with all that it imports, verbatim: the pack's `verify.py`.

So no rule stands twice: what judges the audit here judges it there. The same release gives the same bytes;
``python3 -m keyrotation_pipeline.reporting.bundle`` writes them, to compare a pack's file with.
"""

import ast
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from keyrotation_pipeline.errors import KeyRotationError

PACKAGE = "keyrotation_pipeline"
ENTRY = f"{PACKAGE}.assembly.offline"
_QUOTES = "'''"
_PROGRAM = '''"""Checks the pack that this file lies in: ``python3 -I verify.py [--witness URL] [HEAD]``.

HEAD is the hash of an audit head that you have from somewhere else, such as a signed text or an earlier report: without
one, whoever made the pack could have made all of it. It needs Python 3.11 or later, gpg, openssl 3.0 or later, and, if
an officer has signed with an SSH key, ssh-keygen (OpenSSH 8.2 or later). Exit code 1: something differs, is missing,
or could not be checked.

URL is a witness that officers have named: it is asked to sign the pack's checkpoint, which it does only if that
continues all that it has signed. Ask soon: it refuses a pack that has become older. Without this option nothing is sent
anywhere.

This file is generated. Its `SOURCES` are modules of keyrotation-pipeline @VERSION@, byte for byte: those that judge the
audit there, and nothing else. Whoever gave you the pack can have changed this file, too. So install that release from a
source that you trust, and compare:

    python3 -m keyrotation_pipeline.reporting.bundle | cmp - verify.py
"""

import sys

if sys.version_info < (3, 11):
    raise SystemExit("this needs Python 3.11 or later; run it by another python3 -I verify.py")
if __name__ == "__main__" and not sys.flags.isolated:
    # Else Python would import whatever lies next to this file under the name of one of its own modules.
    raise SystemExit("this is not isolated from the other files here; run it as python3 -I verify.py")

from importlib.abc import InspectLoader
from importlib.machinery import ModuleSpec

SOURCES = {
@SOURCES@}


class Sources(InspectLoader):
    """Imports the modules of the package from `SOURCES`, and from nowhere else."""

    def find_spec(self, name, path=None, target=None):
        """Return where a module of the package is; None: it is one of Python's."""
        if name.partition(".")[0] != "@PACKAGE@":
            return None
        if name not in SOURCES:
            raise ModuleNotFoundError(f"{name} is not in this file", name=name)
        return ModuleSpec(name, self, origin=f"verify.py, {name}", is_package=self.is_package(name))

    def is_package(self, name):
        """Whether there are modules below it."""
        return any(each.startswith(f"{name}.") for each in SOURCES)

    def get_source(self, name):
        """Return the text of a module."""
        return SOURCES[name]


if __name__ == "__main__":
    sys.meta_path.insert(0, Sources())
    from @ENTRY@ import main

    raise SystemExit(main(__file__, sys.argv[1:]))
'''


@cache
def bundle(entry: str = ENTRY) -> bytes:
    """The program that runs `main` of a module.

    Raises:
        KeyRotationError: a module of it needs more than Python's standard library.
    """
    sources = "".join(f"    {name!r}: r{_QUOTES}{text}{_QUOTES},\n" for name, text in sorted(closure(entry).items()))
    program = _PROGRAM.replace("@VERSION@", version("keyrotation-pipeline"))
    program = program.replace("@PACKAGE@", PACKAGE).replace("@ENTRY@", entry).replace("@SOURCES@", sources)
    return program.encode()


def closure(entry: str) -> Mapping[str, str]:
    """The source of a module, of every module of this package that it needs, and of the packages that they are in.

    Raises:
        KeyRotationError: as `bundle`.
    """
    found: dict[str, str] = {}
    wanted = [entry]
    while wanted:
        name = wanted.pop()
        text = None if name in found else _source(name)
        if text is None:
            continue
        if _QUOTES in text or not text.endswith("\n"):
            raise KeyRotationError(f"{name} cannot stand in verify.py as it is; write it without {_QUOTES}")
        found[name] = text
        parts = name.split(".")
        wanted += [".".join(parts[:end]) for end in range(1, len(parts))]
        wanted += _imported(name, ast.parse(text))
    return found


def _source(name: str) -> str | None:
    """The text of a module or package; None: there is none of this name."""
    parts = name.split(".")[1:]
    for path in ([*parts, "__init__.py"], [*parts[:-1], f"{parts[-1]}.py"] if parts else []):
        file = files(PACKAGE).joinpath(*path)
        if file.is_file():
            return file.read_bytes().decode()
    return None


def _imported(name: str, tree: ast.AST) -> Iterator[str]:
    """What a module imports of this package, in functions too: names that may be modules.

    Of others, functions may import what they like: a pack's program never calls those that do.
    """
    at_once = set(_at_once(tree))
    for node in ast.walk(tree):
        modules = _modules(node)
        ours = [each for each in modules if each.partition(".")[0] == PACKAGE]
        yield from ours
        others = {each.partition(".")[0] for each in modules} - {PACKAGE}
        if node in at_once and (foreign := sorted(others - sys.stdlib_module_names)):
            raise KeyRotationError(f"{name} imports {foreign[0]}, which verify.py does not have; import it where used")


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [each.name for each in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        return [node.module, *(f"{node.module}.{each.name}" for each in node.names)]
    return []


def _at_once(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but the bodies of functions, and what only type checkers read."""
    yield node
    for each in ast.iter_child_nodes(node):
        types_only = isinstance(each, ast.If) and "TYPE_CHECKING" in ast.unparse(each.test)
        if not types_only and not isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _at_once(each)


if __name__ == "__main__":
    sys.stdout.buffer.write(bundle())
