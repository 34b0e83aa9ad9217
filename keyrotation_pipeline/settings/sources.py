"""Defines ``from = { format = …, keys = … }`` of a column: which library, and which key, its values are of so far."""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model, model_validator

from keyrotation_pipeline.errors import ConfigurationError, InvalidKeyError
from keyrotation_pipeline.fieldcrypto.formats.sources import NEVER_ENCRYPTED, SourceForm, sources
from keyrotation_pipeline.fieldcrypto.source_keys import require_possible
from keyrotation_pipeline.settings.value_formats import KeyVariable
from keyrotation_pipeline.settings.values import Section, Text, repeated


class SourceSection(Section):
    """What a column held before, and a rotation brings into our own format.

    Args:
        format: of these values; ``"plaintext"`` alone: they were never encrypted.
        keys: the one key that the library reads, as the application has it. `init` imports it.
    """

    format: Text
    keys: KeyVariable | None = None

    @model_validator(mode="after")
    def _is_known(self) -> "SourceSection":
        try:
            if (form := self.form) is not None:
                require_possible(form)
        except (ConfigurationError, InvalidKeyError) as error:
            raise ConfigurationError(f"[[tables]] columns, from: {error}") from None
        if form is not None and (twice := repeated(form.columns)):
            raise ConfigurationError(
                f"[[tables]] columns, from: column {twice} is named for two parts of a value; correct one"
            )
        if form is not None and self.keys is None:
            raise ConfigurationError(
                f'[[tables]] columns, from: format = "{self.format}" needs to know where the application has its key; '
                'add keys = { env = "NAME" }'
            )
        return self

    @property
    def form(self) -> SourceForm | None:
        """The same as a value of the procedure; None: plaintext."""
        said = {name: getattr(self, name) for name in self.model_fields_set - {"format", "keys"}}
        if self.format == NEVER_ENCRYPTED and not said and self.keys is None:
            return None
        return SourceForm.of(self.format, said)

    @property
    def key(self) -> str:
        """The name of the variable; empty: there is no key."""
        return "" if self.keys is None else self.keys.env


def as_source(entry: object) -> object:
    """Returns what `from` says as a section."""
    if isinstance(entry, str):
        return {"format": entry}
    if not isinstance(entry, dict):
        raise ConfigurationError(
            f'[[tables]] columns has from = {entry!r:.60}; write "{NEVER_ENCRYPTED}", or {{ format = "NAME", keys = '
            '{ env = "NAME" } }'
        )
    return entry


def _fields() -> dict[str, Any]:
    options: dict[str, tuple[tuple[str, ...], list[str]]] = {}
    for spec in sources().values():
        for each in spec.options:
            choices, said = options.setdefault(each.name, (each.choices, []))
            options[each.name] = (
                tuple(dict.fromkeys((*choices, *each.choices))),
                [*said, f"of `{spec.name}`: {each.says}"],
            )
    return {
        name: ((Literal[choices] if choices else Text) | None, Field(None, description=" ".join(dict.fromkeys(said))))
        for name, (choices, said) in options.items()
    }


if TYPE_CHECKING:
    SourceSettings = SourceSection
else:
    SourceSettings = create_model("SourceSettings", __base__=SourceSection, __doc__=SourceSection.__doc__, **_fields())
