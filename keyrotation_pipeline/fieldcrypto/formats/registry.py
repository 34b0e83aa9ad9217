"""Finds every format that is re-encrypted, by its name. Imports their specs, and no code of theirs.

Other packages add formats by entry points in the group `keyrotation.formats`. The code of such a one sees keys: its
name stands in the text that officers sign, its package with version and hash in every manifest of a backup.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pkgutil import iter_modules
from types import MappingProxyType

from keyrotation_pipeline.errors import ConfigurationError
from keyrotation_pipeline.fieldcrypto import formats
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.format_spec import Derivation, FormatSpec, Option
from keyrotation_pipeline.fieldcrypto.identified_by import IdentifiedBy

GROUP = "keyrotation.formats"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,59}")
_DECLARED = frozenset(each.name for each in fields(ValueFormat))


@dataclass(frozen=True, slots=True)
class FormatOrigin:
    """Where a format of another package comes from.

    Args:
        name: of the format.
        package: that was installed.
        version: of that package.
        sha256: over the files of the format's folder.
    """

    name: str
    package: str
    version: str
    sha256: str


def _own() -> Iterator[FormatSpec]:
    for module in iter_modules(formats.__path__, f"{formats.__name__}."):
        if module.ispkg and (spec := getattr(import_module(module.name), "SPEC", None)) is not None:
            yield spec


def _others() -> Mapping[str, tuple[FormatSpec, EntryPoint]]:
    found: dict[str, tuple[FormatSpec, EntryPoint]] = {}
    for each in entry_points(group=GROUP):
        package = each.dist.name if each.dist is not None else each.module
        try:
            spec = each.load()
        except Exception as error:  # noqa: BLE001  whatever its code raises, such as TypeError for another FormatSpec
            raise ConfigurationError(
                f"the package {package} brings a format that cannot be imported ({type(error).__name__}); install what "
                "it needs, or uninstall the package"
            ) from None
        if problem := _problem(spec, {**_OWN, **{name: other for name, (other, _) in found.items()}}):
            raise ConfigurationError(f"the package {package} brings a format that cannot be used: {problem}")
        found[spec.name] = spec, each
    return MappingProxyType(found)


def _problem(spec: object, known: Mapping[str, FormatSpec]) -> str | None:
    """Returns what is wrong with the format of another package, and what to do."""
    if not isinstance(spec, FormatSpec):
        return f"its entry point in {GROUP} names no FormatSpec; correct it, or uninstall the package"
    if not _NAME.fullmatch(spec.name):
        return "its name is to have small letters, digits and hyphens; rename it, or uninstall the package"
    if spec.name in known:
        return f'there is another one named "{spec.name}"; uninstall one of them'
    return _claim(spec, _derivations(known.values())) or _option(spec)


def _claim(spec: FormatSpec, known: Mapping[str, Derivation]) -> str | None:
    """Returns what a format of another package says that is not its to say."""
    if spec.names_versions or spec.held_by_server or spec.form_of is not None:
        return (
            "it says of itself what only formats of this program are; correct its FormatSpec, or uninstall the package"
        )
    if spec.markers is not (spec.identified_by is IdentifiedBy.MARKER) or (
        spec.conditional and spec.identified_by is not IdentifiedBy.MAC
    ):
        return (
            "markers goes with IdentifiedBy.MARKER, and conditional with IdentifiedBy.MAC; correct its FormatSpec, or "
            "uninstall the package"
        )
    if clashes := [name for name, each in _derivations([spec]).items() if known.get(name, each) != each]:
        return f"it has another derivation {clashes[0]} than a format that is here; rename it, or uninstall the package"
    return None


def _option(spec: FormatSpec) -> str | None:
    """Returns which option a format of another package may not have: one type and default hold for all formats."""
    for each in spec.options:
        shared = _SHARED.get(each.name)
        if shared is None and (not each.layout or each.name in _DECLARED | _RESERVED):
            return f"it has an option {each.name} of its own; leave that out, or uninstall the package"
        if shared is not None and (each.takes, each.default) != (shared.takes, shared.default):
            return f"its option {each.name} differs from that of other formats; rename it, or uninstall the package"
    return None


def _derivations(specs: Iterable[FormatSpec]) -> dict[str, Derivation]:
    return {each.name: each for spec in specs for each in (*spec.derivations, spec.derivation) if each is not None}


_RESERVED = frozenset({"name", "keys"})
_OWN = {each.name: each for each in _own()}
# Of options, those that formats of other packages may have, too.
_SHARED: Mapping[str, Option] = {each.name: each for spec in _OWN.values() if spec.lists_keys for each in spec.options}
_OTHERS = _others()
# The native one comes first, and those of other packages last: what two formats enter under one name is that of ours.
SPECS: Mapping[str, FormatSpec] = MappingProxyType(
    {
        each.name: each
        for each in sorted(
            [*_OWN.values(), *(spec for spec, _ in _OTHERS.values())],
            key=lambda each: (not each.names_versions, each.name in _OTHERS, each.name),
        )
    }
)
# What a declaration of each name alone says; that of a form of another format has the name of the other.
FORMATS: Mapping[str, ValueFormat] = MappingProxyType(
    {name: ValueFormat.of(spec) for name, spec in SPECS.items() if spec.form_of is None}
)
DERIVATIONS: Mapping[str, Derivation] = MappingProxyType(_derivations(SPECS.values()))


@cache
def origins() -> tuple[FormatOrigin, ...]:
    """Returns where the formats of other packages come from that are installed here."""
    return tuple(
        FormatOrigin(
            spec.name,
            found.dist.name if found.dist is not None else found.module,
            found.dist.version if found.dist is not None else "",
            _digest(files(spec.package)),
        )
        for spec, found in _OTHERS.values()
    )


def _digest(folder: Traversable) -> str:
    """Returns the SHA-256 over names and contents of the files in a folder."""
    digest = hashlib.sha256()
    for name, content in sorted(_contents(folder)):
        for part in (name.encode(), content):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _contents(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    for each in folder.iterdir():
        if each.is_dir() and each.name != "__pycache__":
            yield from _contents(each, f"{prefix}{each.name}/")
        elif each.is_file():
            yield f"{prefix}{each.name}", each.read_bytes()
