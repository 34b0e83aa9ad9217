"""Every command by what it is for; `--help` of each has the rest."""

from collections.abc import Iterator

import click

from keyrotation_pipeline.cli.commands import COMMANDS, SECTIONS
from keyrotation_pipeline_tests.reference.markdown import code, in_markdown, listing, page_of

_INTRODUCTION = """
Each is typed after `keyrotation`; `keyrotation COMMAND --help` has its options. Every command takes `--config
FILE`: else the file that `KEYROTATION_CONFIG` names is used, else `keyrotation.toml` in the current directory.
`keyrotation --install-completion` completes commands and ids. [What `--json` prints](json.md), [exit
codes](exit-codes.md).
"""


def page() -> str:
    """The page."""
    return page_of("Commands", _parts())


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that can be run, by what is typed."""
    for name, listed in COMMANDS.items():
        yield from _leaves(name, listed.load(name))


def _parts() -> Iterator[str]:
    yield _INTRODUCTION
    for section, listed in SECTIONS.items():
        yield f"## {section}"
        leaves = [leaf for name, command in listed.items() for leaf in _leaves(name, command.load(name))]
        yield listing((code(_usage(typed, leaf)), _first_sentence(leaf)) for typed, leaf in leaves)


def _leaves(typed: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _leaves(f"{typed} {name}", inner)
    else:
        yield typed, command


def _usage(typed: str, command: click.Command) -> str:
    """The command with its arguments and the options that it needs."""
    needed = [each for each in command.params if isinstance(each, click.Argument) or each.required]
    return " ".join((typed, *map(_written, needed)))


def _written(parameter: click.Parameter) -> str:
    value = (parameter.metavar or parameter.type.name.upper()).removesuffix("...")
    if isinstance(parameter, click.Argument):
        return value + ("…" if parameter.nargs == -1 else "")
    return f"{parameter.opts[0]} {value}"


def _first_sentence(command: click.Command) -> str:
    return in_markdown(command.help or "").partition("\n\n")[0]
