"""Files that `--output` names: written once, never over what is there."""

from pathlib import Path

from keyrotation_pipeline.errors import KeyRotationError


def require_new(target: Path | None) -> None:
    """Refuse a name that is taken, before anything is done for it.

    Raises:
        KeyRotationError: something is there.
    """
    if target is not None and (target.exists() or target.is_symlink()):
        raise taken(target)


def write_new(target: Path, content: bytes) -> None:
    """Write a file that only its owner may read.

    Raises:
        KeyRotationError: something is there by now.
    """
    try:
        target.touch(mode=0o600, exist_ok=False)
    except FileExistsError:
        raise taken(target) from None
    target.write_bytes(content)


def taken(target: Path) -> KeyRotationError:
    """The refusal of a name that is taken."""
    return KeyRotationError(f"{target} is there already; name another one with --output, or remove it first")
