"""The command line as a whole: names, help, version, completion, laziness."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from daisi_ws import __version__
from daisi_ws.cli import COMMANDS, cli

HEAVY = ("uvloop", "aiohttp", "redis", "nats", "grpc", "prometheus_client", "multiprocessing")


def _python(code: str, **environ: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environ}, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_help_lists_every_command_without_importing_one() -> None:
    """`daisi-ws --help` is as quick as the interpreter."""
    code = (
        "import sys; from daisi_ws.cli import cli\n"
        "try: cli(['--help'], prog_name='daisi-ws')\n"
        "except SystemExit as end: assert not end.code\n"
        "print('LOADED', [m for m in sys.modules if m.startswith('daisi_ws.')])"
    )
    out = _python(code)
    for name, lazy in COMMANDS.items():
        assert f"  {name} " in out
        assert lazy.about in out
    assert "LOADED ['daisi_ws.cli']" in out


def test_serve_loads_no_event_loop_and_no_client_library() -> None:
    """What the supervisor has not loaded cannot break in the processes it forks.

    The module `asyncio` itself comes with structlog; a loop is never made.
    """
    code = "import sys, daisi_ws.cli.serve, daisi_ws.embedded; print(*sys.modules)"
    loaded = set(_python(code).split())
    assert not {name for name in loaded if name.partition(".")[0] in HEAVY}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    """Each name of the table leads to a command whose help shows how it is used."""
    result = CliRunner().invoke(cli, [name, "--help"], prog_name="daisi-ws")
    assert result.exit_code == 0, result.output
    assert f"daisi-ws {name}" in result.output
    assert "Example" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_called_what_the_table_calls_it(name: str) -> None:
    """The name in usage lines is the one that was typed."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    assert command.name == name


def test_version() -> None:
    """`--version` says name and version."""
    result = CliRunner().invoke(cli, ["--version"])
    assert result.output == f"daisi-ws, version {__version__}\n"


def test_closed_standard_streams_are_not_left_to_sockets() -> None:
    """What a service manager closed points to /dev/null before anything else is opened."""
    code = (
        "import os, sys; sys.argv = ['daisi-ws', '--version']; from daisi_ws.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(*map(os.readlink, ['/proc/self/fd/0', '/proc/self/fd/1']),"
        " file=sys.stderr)"
    )
    closing = ["sh", "-c", 'exec "$@" <&- >&-', "sh"]
    done = subprocess.run(
        [*closing, sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, check=True
    )
    assert done.stderr == "/dev/null /dev/null\n"


def test_a_full_disk_is_told_in_one_line() -> None:
    """Whose output cannot be written ends with code 1 and the reason, not with a traceback."""
    command = [sys.executable, "-m", "daisi_ws", "config", "doc"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "error: [Errno 28] No space left on device\n")


def test_unknown_command_ends_with_2() -> None:
    """A typing error is a usage error."""
    result = CliRunner().invoke(cli, ["serv"])
    assert result.exit_code == 2
    assert "No such command 'serv'" in result.output


@pytest.mark.parametrize(
    ("words", "completions"),
    [
        ("daisi-ws s", {"serve", "status"}),
        ("daisi-ws serve --grpc", {"--grpc-port"}),
        ("daisi-ws serve --log-format ", {"json", "text"}),
        ("daisi-ws --v", {"--version"}),
    ],
)
def test_shell_completion(words: str, completions: set[str]) -> None:
    """Commands, options and choices complete in bash."""
    count = str(len(words.split()) - (0 if words.endswith(" ") else 1))
    out = _python(
        "from daisi_ws.cli import main; main()",
        _DAISI_WS_COMPLETE="bash_complete",
        COMP_WORDS=words,
        COMP_CWORD=count,
    )
    assert {line.partition(",")[2] for line in out.splitlines()} == completions


def test_completion_script_is_for_the_command() -> None:
    """What the help says to evaluate defines the completion of `daisi-ws`."""
    out = _python("from daisi_ws.cli import main; main()", _DAISI_WS_COMPLETE="zsh_source")
    assert "#compdef daisi-ws" in out
