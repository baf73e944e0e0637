"""Settings as options of a command, and a file of options (`--config`)."""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from igm import UserError, warn
from igm.settings import Settings, shortened

MOST_BYTES = 2**20  # of a file of options


class Parser(argparse.ArgumentParser):
    """A parser that knows no abbreviations, so that a typing error is one, and whose refusals are one line."""

    def __init__(self, doc: str):
        title, _, rest = doc.partition("\n")
        super().__init__(description=title, epilog=rest.strip(), formatter_class=_Help, allow_abbrev=False)
        self.add_argument("--config", metavar="FILE.yaml", help="options from a file; the command line wins")
        self.classes: list[type[Settings]] = []

    def error(self, message: str) -> NoReturn:
        """End with exit code 2 and one line."""
        self.exit(2, f"error: {shortened(message, 2000)}\n")

    def add(self, title: str, *classes: type[Settings], **defaults: Any) -> None:
        """Add the options of settings under a title; of several classes that share a name, one option.

        Args:
            defaults: what a command uses in place of a class's own defaults.
        """
        group = self.add_argument_group(title)
        self.classes += classes
        seen: dict[str, list[tuple[type[Settings], dataclasses.Field]]] = {}
        for settings in classes:
            for own in dataclasses.fields(settings):
                if own.metadata and f"--{option_name(own)}" not in self._option_string_actions:
                    seen.setdefault(own.name, []).append((settings, own))
        self.set_defaults(**{name: value for name, value in defaults.items() if name in seen})
        for name, owners in seen.items():
            _add_option(group, name, owners, defaults, several=len(classes) > 1)

    def read(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """The options of a command line, and of the file that its `--config` names.

        Raises:
            UserError: the file is missing, or names an option that this command does not have.
        """
        argv = list(sys.argv[1:] if argv is None else argv)
        first = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        first.add_argument("--config")
        try:
            file = first.parse_known_args(argv)[0].config
        except argparse.ArgumentError:
            file = None  # the full parser says what is wrong
        return self.parse_args([*self.tokens_of(Path(file)), *argv] if file else argv)

    def tokens_of(self, file: Path) -> list[str]:
        """A file of options as words of a command line."""
        words: list[str] = []
        for name, value in read_options_file(file).items():
            action = self._option_string_actions.get(f"--{name}")
            if action is None or name in ("config", "help"):
                raise UserError(f"--config {file}: {shortened(name)} is not an option of this command; see --help")
            if action.nargs == 0 or isinstance(action, argparse.BooleanOptionalAction):
                words += _flag(file, name, value, action)
            else:
                words += [f"--{name}", *value] if isinstance(value, list) else [f"--{name}={value}"]
        return words


def _flag(file: Path, name: str, value: str | list[str], action: argparse.Action) -> list[str]:
    if value not in ("true", "false"):
        raise UserError(f"--config {file}: {name} is {value!r}; write true or false")
    if value == "true":
        return [f"--{name}"]
    return [f"--no-{name}"] if isinstance(action, argparse.BooleanOptionalAction) else []


def read_options_file(file: Path) -> dict[str, str | list[str]]:
    """Options by name, of a YAML file whose values are scalars or lists of scalars; all as texts.

    Raises:
        UserError: not a file, or not of that kind.
    """
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"--config {file} is larger than a file of options; name another")
        values = yaml.load(file.read_text(encoding="utf-8-sig"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise UserError(f"--config {file} cannot be read ({error.strerror}); name a YAML file of options") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError):
        raise UserError(f"--config {file} is not YAML; write one `option: value` a line") from None
    values = {} if values in (None, "") else values
    if not isinstance(values, dict):
        raise UserError(f"--config {file} holds no options; write one `option: value` a line")
    for name, value in values.items():
        scalars = value if isinstance(value, list) else [value]
        if not isinstance(name, str) or not all(isinstance(one, str) for one in scalars):
            raise UserError(f"--config {file}: {shortened(str(name))} is no single value and no list; write one")
    return values


def take(options: argparse.Namespace, settings: type[Settings], **values: Any) -> Any:
    """The settings that parsed options make; `values` win, and an option that was not given keeps the default.

    Raises:
        SettingError: options that do not fit each other.
    """
    own = {f.name for f in dataclasses.fields(settings)}
    given = {name: value for name, value in vars(options).items() if name in own}
    return settings(**{name: _plain(v) for name, v in given.items()} | values)


def note_idle(
    options: argparse.Namespace, all_classes: Iterable[type[Settings]], chosen: Iterable[type[Settings]], why: str
) -> None:
    """Say which given options have no effect with the settings that were chosen.

    Raises:
        UserError: one that makes no sense without what it needs.
    """
    own = {f.name for c in chosen for f in dataclasses.fields(c)}
    others = {f.name: f for c in all_classes for f in dataclasses.fields(c) if f.name not in own}
    for name in sorted(others.keys() & vars(options).keys()):
        needs = others[name].metadata.get("needs")
        if needs:
            raise UserError(f"--{option_name(others[name])} {needs}")
        warn(f"--{option_name(others[name])} has no effect {why}")


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def option_name(own: dataclasses.Field) -> str:
    """The name of a field's option."""
    return own.metadata.get("option") or own.name


def _add_option(group: Any, name: str, owners: list, defaults: dict[str, Any], *, several: bool) -> None:
    own = owners[0][1]
    about = own.metadata
    values = {settings: defaults.get(name, _default(field)) for settings, field in owners}
    default = next(iter(values.values()))
    text = about["help"] + _default_in_words(values, several)
    if isinstance(default, bool):
        action = argparse.BooleanOptionalAction if default else "store_true"
        group.add_argument(f"--{option_name(own)}", dest=name, action=action, default=argparse.SUPPRESS, help=text)
        return
    group.add_argument(
        f"--{option_name(own)}",
        dest=name,
        type=about["kind"] or (str if about["choices"] is None else None),
        choices=about["choices"],
        nargs=about["nargs"],
        metavar=about["metavar"],
        required=default is dataclasses.MISSING,
        default=argparse.SUPPRESS,
        help=text,
    )


def _default(own: dataclasses.Field) -> Any:
    return own.default_factory() if own.default_factory is not dataclasses.MISSING else own.default


def _default_in_words(values: dict[type[Settings], Any], several: bool) -> str:
    shown = {s: v for s, v in values.items() if v is not None and v is not dataclasses.MISSING and v is not False}
    if not shown:
        return ""
    texts = {s: _in_words(v) for s, v in shown.items()}
    if len(set(texts.values())) == 1:
        return f" (default {next(iter(texts.values()))})"
    named = [f"{getattr(s, 'title', s.__name__)} {text}" for s, text in texts.items()]
    return f" (default: {', '.join(named)})"


def _in_words(value: Any) -> str:
    if isinstance(value, tuple | list):
        return " ".join("-".join(map(str, v)) if isinstance(v, tuple) else str(v) for v in value)
    return str(value)


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wide enough for one option a line or two; the examples stay as they are written."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=32, width=110)

    def _get_help_string(self, action: argparse.Action) -> str:
        return (action.help or "").replace("%", "%%")
