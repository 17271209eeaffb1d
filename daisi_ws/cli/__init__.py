"""The command line. Each command is imported when it is used, and only then.

That keeps `daisi-ws --help` quick, and `daisi-ws serve` free of every client library: what the
supervisor has not loaded cannot break in the processes it forks.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from dataclasses import dataclass
from typing import Final

import click
from click.shell_completion import CompletionItem

from daisi_ws import __version__

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command by name.

    :param module: where it is defined.
    :param attribute: its name there.
    :param about: one line for the list of commands.
    :param supervises: it has a meaning for signals that would end another command.
    """

    module: str
    attribute: str
    about: str
    supervises: bool = False


COMMANDS = {
    "serve": Lazy("daisi_ws.cli.serve", "serve_command", "Run the gateway on this host.", True),
    "dev": Lazy("daisi_ws.cli.dev", "dev_command", "Run and show everything on one machine."),
    "token": Lazy("daisi_ws.cli.token_cmd", "token_group", "Make and explain tokens."),
    "publish": Lazy("daisi_ws.cli.publish_cmd", "publish_command", "Put events into the stream."),
    "tail": Lazy("daisi_ws.cli.tail_cmd", "tail_group", "Connect as a client and print frames."),
    "status": Lazy("daisi_ws.cli.status_cmd", "status_command", "Show pods, connections and lag."),
    "config": Lazy("daisi_ws.cli.config_cmd", "config_group", "Check, show and explain settings."),
}


class LazyGroup(click.Group):
    """A group that knows its commands' names and one-line helps without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, or return None where there is none of that name."""
        lazy = COMMANDS.get(cmd_name)
        if lazy is None:
            return None
        command = getattr(importlib.import_module(lazy.module), lazy.attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{lazy.module}:{lazy.attribute} is no command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command that is to run; one that supervises minds its signals before that."""
        if (lazy := COMMANDS.get(args[0])) is not None and lazy.supervises:
            from daisi_ws.cli.early import coming_up  # noqa: PLC0415 - of no use to the others

            ctx.with_resource(coming_up())
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.about) for name, lazy in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete names of commands from the table, options as usual."""
        names = [
            CompletionItem(name, help=lazy.about)
            for name, lazy in COMMANDS.items()
            if name.startswith(incomplete)
        ]
        return names + click.Command.shell_complete(self, ctx, incomplete)


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Example:
  daisi-ws dev                  everything on one machine, with a demonstration
  daisi-ws serve --workers 4    the gateway itself

\b
Shell completion, for the running shell (put the line into ~/.bashrc or ~/.zshrc to keep it):
  eval "$(_DAISI_WS_COMPLETE=bash_source daisi-ws)"
  eval "$(_DAISI_WS_COMPLETE=zsh_source daisi-ws)"
  _DAISI_WS_COMPLETE=fish_source daisi-ws | source
""",
)
@click.version_option(__version__, "--version", prog_name="daisi-ws")
def cli() -> None:
    """A WebSocket gateway cluster for events from NATS JetStream.

    Events arrive in a stream; each reaches every browser that looks at it, on whichever worker of
    whichever host that browser is connected.
    """


def main() -> None:
    """Run the command line: the console script `daisi-ws`."""
    _open_standard_streams()
    try:
        cli(prog_name="daisi-ws")
    except OSError as error:
        # Standard output to a full disk, say. Which file it was about is in the text.
        if error.errno not in _NO_ROOM:
            raise
        click.echo(f"{click.style('error:', fg='red')} {error}", err=True)
        sys.exit(1)


def _open_standard_streams() -> None:
    """Point standard streams that were handed over closed at /dev/null.

    Else the first sockets get their numbers: what is printed would go to a client, and the event
    loop refuses to close them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
