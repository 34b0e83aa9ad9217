"""Whether keys decrypt the values under their versions, as tried on a sample, and what to do where they do not."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from keyrotation_pipeline.fieldcrypto.grammar import SECOND, KeyVersion
from keyrotation_pipeline.fieldcrypto.keyring import KeyRing

# A few values that do not decrypt are damaged. More than a tenth of a column were encrypted under another key.
_DAMAGED_AT_MOST = 0.1
_NAMED_ROWS = 3

PlaceOf = Callable[[KeyVersion], str]


@dataclass(frozen=True, slots=True)
class GivenKeys:
    """The keys that an application uses today, as given to `init`.

    Args:
        place_of: where the key of a version was given, or is to be given, in words.
    """

    ring: KeyRing
    place_of: PlaceOf


@dataclass(frozen=True, slots=True)
class ColumnTrial:
    """What decrypting values of one column under one version showed; without their content.

    Args:
        table: its name.
        tried: values that were decrypted, or failed to.
        opened: of these, by the key of their own version.
        opened_by: of those that their own key does not decrypt, how many each other key decrypts.
        rows: keys of some rows whose values their own key does not decrypt.
        twice: of those that it decrypts, how many hold another encrypted value.
        twice_rows: keys of some of these rows.
    """

    table: str
    column: str
    version: KeyVersion
    tried: int
    opened: int
    opened_by: Mapping[KeyVersion, int] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    twice: int = 0
    twice_rows: tuple[str, ...] = ()

    @property
    def failed(self) -> int:
        """Values that the key of their version does not decrypt."""
        return self.tried - self.opened

    @property
    def is_wrong_key(self) -> bool:
        """Whether more values fail than single damaged ones would explain."""
        return self.failed > 0 and (not self.opened or self.failed > max(1, _DAMAGED_AT_MOST * self.tried))

    def __str__(self) -> str:
        return f"{self.table}.{self.column} {self.opened:,} of {self.tried:,}"


@dataclass(frozen=True, slots=True)
class PlaceProbe:
    """Whether values of one place open in the declared layout; only where nothing else tells their format.

    Args:
        tried: values, of any version.
        opened: of these, by any of the keys.
        fits: another layout in which some of them open, where none does in the declared one.
        derived: how else keys are derived by which some of them open, as `[format]` has it.
        name: by which the key of the place is derived, if it is.
        option: of `[format]`, which says the layout.
        key_name: of values of another library: the variable that their key is imported from.
        is_imported: whether it was.
        index_of: of the columns of a search index, the column of the texts; `opened` are indexes of these.
    """

    table: str
    column: str
    layout: str
    tried: int
    opened: int
    fits: str | None = None
    derived: str | None = None
    name: str = ""
    option: str = "layout"
    index_of: str = ""
    key_name: str = ""
    is_imported: bool = True

    @property
    def refusal(self) -> str | None:
        """Why this place cannot be rotated, and what to do; None: its values open, or there are none."""
        if self.key_name:
            return self._of_source
        if self.index_of and 0 < self.opened < self.tried:
            return (
                f"{self.table}.{self.index_of}: {self.tried - self.opened:,} of {self.tried:,} search indexes in "
                f"{self.column} are not those of their texts by {self.layout}; where blind_index has an "
                "`expression`, remove it from indexes (`keyrotation docs search-indexes`); otherwise have the "
                "application compute the indexes again"
            )
        if self.opened or not self.tried:
            return None
        if self.index_of:
            return (
                f"{self.table}.{self.index_of}: none of {self.tried:,} search indexes in {self.column} is that of "
                f"its text by {self.layout}; correct algorithm, size_bytes, the columns or bindings, or remove it "
                "from indexes if they have a master key of their own"
            )
        if self.derived or not self.layout:
            return self.derived and (
                f"{self.table}.{self.column}: none of {self.tried:,} values opens with the keys as [format] says that "
                f"they are derived; they open with {self.derived}: correct that"
            )
        name = f", or in bindings the name {self.name}, by which its key is derived" if self.name else ""
        others = "layout, aad" if self.option == "layout" else self.option
        then = (
            f"no other known {self.option} opens them either: correct [format] {others} or the keys{name}, or leave "
            "the column out"
            if self.fits is None
            else f'they open as "{self.fits}": correct [format] {self.option}'
        )
        return (
            f"{self.table}.{self.column}: none of {self.tried:,} values opens with the present keys as "
            f'"{self.layout}"; {then}'
        )

    @property
    def _of_source(self) -> str | None:
        if not self.is_imported:
            return (
                f"{self.table}.{self.column} comes from {self.layout}, whose key is not imported; set "
                f"{self.key_name} to it and run `keyrotation init`, or remove `from` once no such value is left"
            )
        failed = self.tried - self.opened
        if not failed or (self.opened and failed <= max(1, _DAMAGED_AT_MOST * self.tried)):
            return None
        then = (
            "correct format, keys and options there"
            if self.fits is None
            else f"they open as {self.fits}: write that there"
        )
        return (
            f"{self.table}.{self.column}: {self.opened:,} of {self.tried:,} values tried open with the key imported "
            f"from {self.key_name} as `from` says ({self.layout}); {then}"
        )


@dataclass(frozen=True, slots=True)
class KeyTrial:
    """The trial of a key ring on a sample of every declared column.

    Args:
        untried: names of tables of a fleet's members that did not answer.
    """

    versions: tuple[KeyVersion, ...]
    columns: tuple[ColumnTrial, ...]
    untried: tuple[str, ...] = ()

    @property
    def tried(self) -> int:
        """Values in the sample."""
        return sum(each.tried for each in self.columns)

    @property
    def failed(self) -> int:
        """Values that the key of their version does not decrypt, or for which there is no key."""
        return sum(each.failed for each in self.columns)

    def of_version(self, version: KeyVersion) -> tuple[int, int]:
        """How many values under a version were tried, and how many of them its key decrypts."""
        mine = [each for each in self.columns if each.version == version]
        return sum(each.tried for each in mine), sum(each.opened for each in mine)

    @property
    def wrong_versions(self) -> tuple[KeyVersion, ...]:
        """Versions whose key is missing, or is not the one that their values were encrypted under."""
        return tuple(sorted({each.version for each in self.columns if each.is_wrong_key}))

    def wrong_key(self, version: KeyVersion, place_of: PlaceOf) -> str:
        """What is wrong with the key of one of `wrong_versions`, and how to give the right one.

        Args:
            place_of: where the key of a version is, or would be given, in words.
        """
        mine = [each for each in self.columns if each.version == version]
        tried, opened = self.of_version(version)
        others = sum((Counter(dict(each.opened_by)) for each in mine), Counter[KeyVersion]())
        where = ", ".join(map(str, mine))
        found = (
            f"{place_of(version)} decrypts {f'{opened:,}' if opened else 'none'} of the {tried:,} values tried under "
            f"{version} ({where})"
            if version in self.versions
            else f"there are values under {version} ({tried:,} tried), and no key for it is given"
        )
        labels = _labels_first(version, mine) if version in self.versions and not others else ""
        return f"{found}; {labels}{_advice(version, mine, others, place_of)}"

    def damaged(self) -> tuple[str, ...]:
        """A phrase for each column in which single values do not decrypt."""
        return tuple(
            f"{each.failed:,} of {each.tried:,} values under {each.version} in {each.table}.{each.column} "
            f"({_rows(each.rows, each.failed)})"
            for each in self.columns
            if each.failed and not each.is_wrong_key
        )

    def encrypted_twice(self) -> tuple[str, ...]:
        """A phrase for each column with values that hold another encrypted value."""
        return tuple(
            f"{each.twice:,} of {each.tried:,} values under {each.version} in {each.table}.{each.column} "
            f"({_rows(each.twice_rows, each.twice)})"
            for each in self.columns
            if each.twice
        )


def _labels_first(version: KeyVersion, columns: Sequence[ColumnTrial]) -> str:
    """Of the second generation: a column of which no value opens may have another label than the values have."""
    closed = ", ".join(f"{each.table}.{each.column}" for each in columns if not each.opened)
    if version.generation != SECOND or not closed:
        return ""
    return (
        f"if {closed} (or the table) was renamed, or the application declares a binding, declare that label under "
        "bindings of [[tables]], and under row what it declares as row and row_from, see `keyrotation docs "
        "second-generation`; otherwise "
    )


def _advice(version: KeyVersion, columns: Sequence[ColumnTrial], others: Counter[KeyVersion], place_of: PlaceOf) -> str:
    opened = sum(each.opened for each in columns)
    for other, number in others.most_common(1):
        if opened:
            return (
                f"{place_of(other)} decrypts {number:,} of the others, so two keys were used under {version}; encrypt "
                "one part again under a version of its own"
            )
        return f"{place_of(other)} decrypts {number:,} of them, so give that key as {place_of(version)}"
    foreign = [f"{each.table}.{each.column}" for each in columns if not each.opened]
    if opened and foreign:
        return (
            f"if another application writes {', '.join(foreign)} with a key of its own, take that out of [[tables]] "
            "and give it a configuration of its own"
        )
    if opened:
        rows = next(each for each in columns if each.is_wrong_key)
        return (
            f"the others were encrypted under another key ({rows.table}.{rows.column}: "
            f"{_rows(rows.rows, rows.failed)}); find out what wrote them"
        )
    return f"give the key that encrypted them as {place_of(version)}"


def _rows(rows: Sequence[str], failed: int) -> str:
    named = ", ".join(rows[:_NAMED_ROWS])
    return f"row {named}" if failed <= len(rows[:_NAMED_ROWS]) == 1 else f"among them rows {named}"
