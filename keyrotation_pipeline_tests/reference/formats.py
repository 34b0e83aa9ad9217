"""Every format that values are recognised in, by whomever they were written."""

from collections.abc import Iterator
from dataclasses import replace

from keyrotation_pipeline.fieldcrypto.formats.recogniser import RECOGNISERS
from keyrotation_pipeline.fieldcrypto.formats.registry import FORMATS
from keyrotation_pipeline.scan.advice import ATTR_ENCRYPTED, advice_for
from keyrotation_pipeline.scan.report import Place
from keyrotation_pipeline_tests.reference.markdown import code, in_markdown, listing, page_of

_INTRODUCTION = """
Encrypted values in these formats are recognised by their structure, in text and bytea, JSON and arrays, behind a prefix
or in one more base64: *certain*. What nothing marks is found by its bytes and lengths: *likely*, or *possible* where
other data look the same. In brackets: what tells the key of a value, and how many keys the library reads. `keyrotation
scan` says what to do about each; [these are rotated in place](../guides/own-library.md#formats).
"""
# Modules of formats that are only recognised, whose grammar stands in the code.
_BRIEFLY = (".text_grammars", ".text_prefixes", ".byte_headers", ".json_envelopes", ".key_services")
_TOLD = {"marker": "the value", "mac": "its MAC", "decrypt": "decrypting"}
_TWO_KEYS = {True: "two keys", False: "one key", None: "not known"}
_COLUMN = Place("public.table", "column", None, elements=False, type="text")
_UNMARKED = {
    "`attr_encrypted`": (
        "base64 of ciphertext and tag in `encrypted_<name>`, IV in `encrypted_<name>_iv`.",
        ATTR_ENCRYPTED,
    ),
    "`unknown-aead`, `unknown-cbc`": (
        "[Lockbox](../guides/lockbox.md), NaCl, CBC and GCM written by hand, and others without a marker.",
        "",
    ),
}


def page() -> str:
    """The page."""
    return page_of("Formats", _parts())


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    briefly = sorted(name for name, each in RECOGNISERS.items() if each.__module__.endswith(_BRIEFLY))
    alike: dict[str, list[str]] = {}
    for name, says in sorted(_described().items()):
        if name not in briefly:
            alike.setdefault(_meaning(says, name), []).append(code(name))
    yield listing((", ".join(names), meaning) for meaning, names in alike.items())
    yield listing((shown, _meaning(says, name)) for shown, (says, name) in _UNMARKED.items())
    yield f"Recognised only: {', '.join(map(code, briefly))}."


def _meaning(says: str, name: str) -> str:
    column = replace(_COLUMN, type="bytea") if name in FORMATS and FORMATS[name].is_binary else _COLUMN
    advice = advice_for(name, column, wrapped=False, names_keys=False)
    return f"{says} ({_TOLD[advice.identified_by]}; {_TWO_KEYS[advice.reads_two_keys]})"


def _described() -> dict[str, str]:
    """Returns names of formats, and what the recogniser of each says in its first line."""
    return {
        name: in_markdown((recognise.__doc__ or "").split("\n")[0].removeprefix("Recognises "))
        for name, recognise in RECOGNISERS.items()  # scan.classification imports them all
    }
