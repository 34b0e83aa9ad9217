"""Loads the compiled codec where it was built. Imports nothing else, since `--version` uses this module."""

from importlib import import_module
from types import ModuleType


def _loaded() -> ModuleType | None:
    try:
        return import_module("_keyrotation_codec")
    except ImportError:  # not built, or its OpenSSL is not on this machine
        return None


MODULE = _loaded()


def codec_in_use() -> str:
    """Names the codec that re-encrypts rows, and whose AES-GCM it uses."""
    if MODULE is not None:
        return f"native codec, {MODULE.LIBRARY}"
    return (
        "Python codec, slower: the native one needs a C compiler, Python's headers and libcrypto.so.3; "
        "`uv sync --reinstall-package keyrotation-pipeline` then builds it"
    )


def is_native() -> bool:
    """Returns whether this installation has the native codec."""
    return MODULE is not None
