"""Ready-made commands for a second terminal."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import click

from daisi_ws.cli.dev_clients import AGENT, CHAT, COMPANY
from daisi_ws.cli.dev_gateway import GatewayProcess

_WHO = f"--company {COMPANY} --agent {AGENT}"


def commands(gateway: GatewayProcess, set_aside: list[str]) -> str:
    """Return lines to be pasted into a second terminal.

    :param set_aside: names of settings in this shell that would get in the way there.
    """
    body = f'{{"company_id":"{COMPANY}","agent_id":"{AGENT}","user_id":"zoe"'
    body += ',"expires_in_seconds":3600}'
    header = shlex.quote(f"@{gateway.header_file('user')}")
    lines = [
        *_preparation(gateway, set_aside),
        f"daisi-ws tail user {_WHO} --user zoe --chat {CHAT}",
        "daisi-ws tail admin --admin alice",
        f"daisi-ws publish chats {_WHO}",
        f"daisi-ws publish messages {_WHO} --chat {CHAT} --rate 200 --count 2000",
        f"daisi-ws token user {_WHO} --user zoe | daisi-ws token check -",
        "daisi-ws status",
        f"curl -s {gateway.url}/ready",
        f"curl -s -H {header} -d '{body}' {gateway.url}/generate-token",
    ]
    head = click.style("For a second terminal:", bold=True)
    return "\n".join([head, *(f"  {line}" for line in lines)])


def _preparation(gateway: GatewayProcess, set_aside: list[str]) -> list[str]:
    lines = [f"export DAISI_WS_CONFIG={shlex.quote(str(gateway.config_file))}"]
    others = [name for name in set_aside if name != "DAISI_WS_CONFIG"]
    if others:
        lines.insert(0, f"unset {' '.join(others)}")
    script = Path(sys.executable).with_name("daisi-ws")
    found = shutil.which("daisi-ws")
    if found is None or not script.exists() or Path(found).resolve() != script.resolve():
        lines.append(_definition(script))
    return lines


def _definition(script: Path) -> str:
    """Return what makes `daisi-ws` the program that runs here."""
    if script.exists():
        return f"PATH={shlex.quote(str(script.parent))}:$PATH"
    return f'daisi-ws() {{ {shlex.quote(sys.executable)} -m daisi_ws "$@"; }}'
