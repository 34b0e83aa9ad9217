"""Reads the lengths of OpenPGP packets (RFC 4880, section 4.2)."""


def new_length(raw: bytes, at: int) -> tuple[int, int, bool]:
    """Reads the length of a packet in the new format.

    Args:
        at: where the length begins.

    Returns:
        Where the body begins, its size, and whether that is all of it; else another length follows.
    """
    first = raw[at]
    if first < 192:  # noqa: PLR2004  one byte
        return at + 1, first, True
    if first < 224:  # noqa: PLR2004  two bytes
        return at + 2, (first - 192 << 8) + int.from_bytes(raw[at + 1 : at + 2], "big") + 192, True
    if first == 255:  # noqa: PLR2004  four bytes
        return at + 5, int.from_bytes(raw[at + 1 : at + 5], "big"), True
    return at + 1, 1 << (first & 0x1F), False


def old_length(raw: bytes, at: int) -> tuple[int, int, bool]:
    """Reads the length of a packet in the old format.

    Args:
        at: where the packet begins.

    Returns:
        As `new_length` does.
    """
    kind = raw[at] & 3
    if kind == 3:  # noqa: PLR2004  to the end
        return at + 1, len(raw) - at - 1, True
    width = 1 << kind
    return at + 1 + width, int.from_bytes(raw[at + 1 : at + 1 + width], "big"), True
