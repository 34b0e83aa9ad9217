"""What a value of the second generation is bound to: its column, by a label.

A label is a name for the column that both the application and the pipeline use: ``clients.email``, or
``billing.invoices.note`` outside the schema `public`. It is what is bound, not the catalogue's name: where a table or
column is renamed, the label is declared and stays as it was.
"""

from keyrotation_pipeline.errors import InvalidBindingError
from keyrotation_pipeline.fieldcrypto.grammar import KeyVersion

_DOMAIN = b"keyrotation-value-v2\0"
LONGEST_LABEL_BYTES = 1000


def default_label(schema: str | None, table: str, column: str) -> str:
    """Returns the label of a column for which none was declared.

    Raises:
        InvalidBindingError: a name with a dot, by which two columns could have the same label.
    """
    parts = [table, column] if schema in {None, "public"} else [str(schema), table, column]
    if any("." in part for part in parts):
        raise InvalidBindingError(
            f"the names of column {column} of table {table} hold a dot, so its values need a declared label to be "
            "bound to; declare one, in the application and in keyrotation.toml alike"
        )
    return ".".join(parts)


def checked_label(label: str) -> str:
    """Returns the label.

    Raises:
        InvalidBindingError: it is empty, too long, or not printable.
    """
    if not label or not label.isprintable() or len(label.encode(errors="replace")) > LONGEST_LABEL_BYTES:
        raise InvalidBindingError(
            f"a label has 1 to {LONGEST_LABEL_BYTES} bytes of printable characters, such as clients.email; correct it"
        )
    return label


def associated_data(version: KeyVersion, label: str | None) -> bytes | None:
    """Returns what a value under `version` is authenticated with; None in the first generation, which binds nothing.

    Args:
        label: of the column; None: it is not known.

    Raises:
        InvalidBindingError: the label is needed and not known.
    """
    if version.generation_number == 1:
        return None
    if label is None:
        raise InvalidBindingError(
            f"a value under {version} is bound to its column, and which column this is is not known; use EncryptedType "
            'in a column of a table, or give it binding="table.column", also inside another type'
        )
    return _DOMAIN + label.encode()
