"""Every command, as its `--help` describes it."""

from collections.abc import Iterator

import click

from keyrotation_pipeline.cli.commands import COMMANDS, SECTIONS
from keyrotation_pipeline_tests.reference.markdown import code, in_markdown, page_of, table

_INTRODUCTION = """
As `keyrotation COMMAND --help` says of each. Every command takes `--config FILE`: else the file that
`KEYROTATION_CONFIG` names is used, else `keyrotation.toml` in the current directory. `-h` is `--help`; `keyrotation
--install-completion` completes commands and ids. [What `--json` prints](json.md), [exit codes](exit-codes.md).
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
        for name, command in listed.items():
            for typed, leaf in _leaves(name, command.load(name)):
                yield from _described(typed, leaf)


def _leaves(typed: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from _leaves(f"{typed} {name}", inner)
    else:
        yield typed, command


def _described(typed: str, command: click.Command) -> Iterator[str]:
    yield f"### {typed}"
    shown = [
        each for each in command.params if not getattr(each, "hidden", False) and each.name not in {"config", "help"}
    ]
    yield code(" ".join(["keyrotation", typed, *(_usage(each) for each in shown)]).strip())
    yield in_markdown(command.help or "")
    if shown:
        yield table(
            ("option", "is", "default"), [(code(_name(each)), _meaning(each), _default(each)) for each in shown]
        )


def _usage(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return _name(parameter)
    value = "" if _is_flag(parameter) else f" {_metavar(parameter)}"
    written = f"{parameter.opts[0]}{value}"
    return f"{written if parameter.required else f'[{written}]'}{'…' * parameter.multiple}"


def _name(parameter: click.Parameter) -> str:
    if isinstance(parameter, click.Argument):
        return _metavar(parameter) + ("…" if parameter.nargs == -1 else "")
    return ", ".join(parameter.opts) + ("" if _is_flag(parameter) else f" {_metavar(parameter)}")


def _metavar(parameter: click.Parameter) -> str:
    if parameter.metavar:
        return parameter.metavar.removesuffix("...")
    if isinstance(parameter.type, click.Choice):
        return "|".join(map(str, parameter.type.choices))
    return (
        "N"
        if isinstance(parameter.type, click.types.IntRange | click.types.FloatRange)
        else parameter.type.name.upper()
    )


def _is_flag(parameter: click.Parameter) -> bool:
    return bool(getattr(parameter, "is_flag", False))


def _meaning(parameter: click.Parameter) -> str:
    return in_markdown(getattr(parameter, "help", None) or "")


def _default(parameter: click.Parameter) -> str:
    if _is_flag(parameter) or parameter.default in (None, (), []):
        return "" if not parameter.required else "required"
    return code(str(getattr(parameter.default, "value", parameter.default)))
