"""What is known of a configuration key besides its type and default.

Every key is one annotated struct field: ``http_port: Annotated[int, Key(...)] = 8080``. Type,
default and ``Key`` together are the only statement of that key; parsing, range checks, the
reference in ``conf/config.yaml``, ``docs/configuration.md`` and ``daisi-ws config doc`` are all
derived from them.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, cast, get_args, get_origin, get_type_hints

import msgspec

Value = int | float | bool | str | tuple[str, ...] | None
Kind = Literal["int", "float", "bool", "bool or null", "text", "list", "choice"]

MASK = "********"
ENVIRONMENT_PREFIX = "DAISI_WS_"


class Key(msgspec.Struct, frozen=True):
    """The meaning of one key.

    :param about: what it is for, in one or two sentences.
    :param hot: a reload applies it to the running process; otherwise it waits for a restart.
    :param whole: that restart must be one of the whole host: the supervisor uses it, and a
        rolling restart leaves the supervisor running.
    :param unit: of a number, such as ``seconds`` or ``bytes``.
    :param low: smallest number allowed.
    :param high: largest number allowed.
    :param pattern: regular expression that the whole text (or every list item) matches.
    :param expects: what is right, in words, where ``low``, ``high`` and the type do not say it.
    :param secret: never shown.
    :param aliases: other spellings accepted for the last part of the name.
    :param example: a value worth showing in the reference.
    """

    about: str
    hot: bool = False
    whole: bool = False
    unit: str = ""
    low: float | None = None
    high: float | None = None
    pattern: str = ""
    expects: str = ""
    secret: bool = False
    aliases: tuple[str, ...] = ()
    example: str = ""


def seconds(
    about: str, low: float, high: float, *, hot: bool = True, aliases: tuple[str, ...] = ()
) -> Key:
    """A duration in seconds; fractions are allowed."""
    return Key(about, hot=hot, unit="seconds", low=low, high=high, aliases=aliases)


def milliseconds(about: str, low: int, high: int, *, hot: bool = True) -> Key:
    """A duration in milliseconds."""
    return Key(about, hot=hot, unit="milliseconds", low=low, high=high)


def count(about: str, unit: str, low: float, high: float, *, hot: bool = True) -> Key:
    """A number of things, named by ``unit``."""
    return Key(about, hot=hot, unit=unit, low=low, high=high)


class Field(msgspec.Struct, frozen=True):
    """One key with its dotted name, as found in the schema."""

    name: str
    kind: Kind
    default: Value
    required: bool
    key: Key
    choices: tuple[str, ...] = ()

    @property
    def section(self) -> str:
        """Dotted name of the section, such as ``server.grpc_tls``."""
        return self.name.rpartition(".")[0]

    @property
    def leaf(self) -> str:
        """Last part of the name, such as ``http_port``."""
        return self.name.rpartition(".")[2]

    @property
    def environment(self) -> str:
        """Name of the environment variable, such as ``DAISI_WS_SERVER_HTTP_PORT``."""
        return environment_name(self.name)

    @property
    def reload(self) -> str:
        """When a change applies: `hot`, `restart` or `full restart`."""
        if self.key.hot:
            return "hot"
        return "full restart" if self.key.whole else "restart"

    @property
    def right(self) -> str:
        """What a good value is, in words."""
        return self.key.expects or _in_words(self)


class Section(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of every configuration section; its repr shows no secret."""

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value}" for name, value in self.__rich_repr__())
        return f"{type(self).__name__}({shown})"

    def __rich_repr__(self) -> list[tuple[str, str]]:
        hints = get_type_hints(type(self), include_extras=True)
        return [
            (name, _masked(hints[name], getattr(self, name))) for name in self.__struct_fields__
        ]


def environment_name(dotted: str) -> str:
    """Name of the environment variable for a dotted key."""
    return ENVIRONMENT_PREFIX + dotted.upper().replace(".", "_")


def fields_of(
    section: type[Section], prefix: str = "", defaults: Section | None = None
) -> dict[str, Field]:
    """Every key below ``section`` by its dotted name, in the order of the schema.

    :param prefix: dotted name of the section with a final dot; empty for the whole.
    :param defaults: the section as its parent declares it; its values are the defaults then.
    """
    found: dict[str, Field] = {}
    hints = get_type_hints(section, include_extras=True)
    for info in msgspec.structs.fields(section):
        hint, name = hints[info.name], f"{prefix}{info.name}"
        default = getattr(defaults, info.name) if defaults is not None else info.default
        if get_origin(hint) is Annotated:
            found[name] = _field(name, hint, default)
        else:
            inner = default if isinstance(default, Section) else None
            found.update(fields_of(hint, f"{name}.", inner))
    return found


def sections_of(section: type[Section], prefix: str = "") -> dict[str, type[Section]]:
    """Every section below ``section`` by its dotted name, outermost first."""
    found: dict[str, type[Section]] = {}
    for name, hint in get_type_hints(section).items():
        if isinstance(hint, type) and issubclass(hint, Section):
            found[f"{prefix}{name}"] = hint
            found.update(sections_of(hint, f"{prefix}{name}."))
    return found


def _field(name: str, hint: object, default: object) -> Field:
    plain, key = get_args(hint)[:2]
    kinds: dict[object, Kind] = {
        int: "int",
        float: "float",
        bool: "bool",
        bool | None: "bool or null",
        str: "text",
        tuple[str, ...]: "list",
    }
    choices = get_args(plain) if get_origin(plain) is Literal else ()
    kind = "choice" if choices else kinds[plain]
    required = default is msgspec.NODEFAULT
    if kind == "float" and isinstance(default, int):
        default = float(default)
    return Field(
        name=name,
        kind=kind,
        default=None if required else cast("Value", default),
        required=required,
        key=key,
        choices=choices,
    )


def _in_words(field: Field) -> str:
    key = field.key
    if field.kind == "choice":
        return "one of: " + ", ".join(field.choices)
    if field.kind in ("bool", "bool or null"):
        return "true or false" + (" (or null)" if field.kind == "bool or null" else "")
    if field.kind in ("int", "float"):
        number = "a whole number" if field.kind == "int" else "a number"
        unit = f" of {key.unit}" if key.unit else ""
        return f"{number}{unit} from {number_text(key.low)} to {number_text(key.high)}"
    return "a list of texts" if field.kind == "list" else "text"


def number_text(number: float | None) -> str:
    """A number as people write it: 30, not 30.0."""
    if number is None:
        return "any"
    return str(int(number)) if number == int(number) else str(number)


def _masked(hint: object, value: object) -> str:
    key = next((part for part in get_args(hint) if isinstance(part, Key)), None)
    if key is None or not value:
        return repr(value)
    return MASK if key.secret else repr(without_userinfo(value))


def without_userinfo(value: object) -> object:
    """``value`` with the user name and password of every URL in it masked."""
    if not isinstance(value, str) or "@" not in value or "://" not in value:
        return value
    # Up to the last @: a password may hold an unescaped one.
    return ",".join(
        re.sub(r"://.*@", f"://{MASK}@", url) for url in re.split(r",(?=\w+://)", value)
    )
