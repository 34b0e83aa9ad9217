"""Finds every format that is re-encrypted, by its name. Imports their specs, and no code of theirs."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules
from types import MappingProxyType

from keyrotation_pipeline.fieldcrypto import formats
from keyrotation_pipeline.fieldcrypto.codecs.value_format import ValueFormat
from keyrotation_pipeline.fieldcrypto.formats.spec import Derivation, FormatSpec


def _found() -> Iterator[FormatSpec]:
    for module in iter_modules(formats.__path__, f"{formats.__name__}."):
        if module.ispkg and (spec := getattr(import_module(module.name), "SPEC", None)) is not None:
            yield spec


# Our own comes first, whatever its name.
SPECS: Mapping[str, FormatSpec] = MappingProxyType(
    {each.name: each for each in sorted(_found(), key=lambda each: (not each.names_versions, each.name))}
)
# What a declaration of each name alone says; that of a form of another format has the name of the other.
FORMATS: Mapping[str, ValueFormat] = MappingProxyType(
    {name: ValueFormat.of(spec) for name, spec in SPECS.items() if spec.form_of is None}
)
DERIVATIONS: Mapping[str, Derivation] = MappingProxyType(
    {each.name: each for spec in SPECS.values() for each in spec.derivations}
)
