"""Real load balancers, with the configurations that are shipped."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from daisi_ws.embedded import free_ports
from tests.adapters.http_support import Wire
from tests.e2e.scene import until
from tests.tools import TOOLS, missing, tool

ROOT: Final = Path(__file__).parents[2]
NAMES: Final = ("nginx", "haproxy")

TIMEOUT_SECONDS: Final = 4
"""What the minutes of the shipped files are in the tests."""

_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 500; }}
"""
_NGINX_HTTP = """
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/daisi-ws.conf;
}}
"""


@dataclass(frozen=True)
class Balancer:
    """A running one.

    :param port: where clients connect.
    :param log_file: what it prints.
    """

    port: int
    log_file: Path


@asynccontextmanager
async def balancer(
    name: str,
    folder: Path,
    ports: Sequence[int],
    change: Callable[[str], str] = lambda text: text,
) -> AsyncIterator[Balancer]:
    """Run a balancer with its shipped configuration in front of two hosts on this machine.

    :param ports: of the hosts.
    :param change: makes another configuration of it.
    """
    own = free_ports(1)
    kinds = {"nginx": _nginx, "nginx-stream": _nginx_stream, "haproxy": _haproxy}
    path, log_file = tool(name.partition("-")[0]), folder / f"{name}.log"
    command = kinds[name](path, folder, own, ports, change)
    process = _started(command, log_file)
    try:
        await until(lambda: _listens(process, own, log_file), 20, f"{name} does not listen")
        yield Balancer(own, log_file)
    finally:
        process.kill()
        process.wait()


def changed(text: str, pattern: str, by: str) -> str:
    """Replace what must be there."""
    text, count = re.subn(pattern, by, text)
    assert count, f"the configuration has no {pattern}"
    return text


def _started(command: list[str], log_file: Path) -> subprocess.Popen[bytes]:
    with log_file.open("wb") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


async def _listens(process: subprocess.Popen[bytes], port: int, log_file: Path) -> bool:
    if process.poll() is not None:
        pytest.fail(await asyncio.to_thread(log_file.read_text, errors="replace"))
    try:
        async with await Wire.connect(port):
            return True
    except OSError:
        return False


def _nginx(
    path: str, folder: Path, own: int, ports: Sequence[int], change: Callable[[str], str]
) -> list[str]:
    text = (ROOT / "conf/nginx/daisi-ws.conf").read_text()
    text = changed(text, r"listen 80;", f"listen 127.0.0.1:{own};")
    text = changed(text, r"/var/log/nginx/daisi-ws.log", str(folder / "access.log"))
    text = changed(text, r"(timeout) (?:10|65)s;", rf"\1 {TIMEOUT_SECONDS}s;")
    (folder / "daisi-ws.conf").write_text(change(_servers(text, ports)))
    return _nginx_with(path, folder, (_NGINX + _NGINX_HTTP).format(folder=folder))


def _nginx_stream(
    path: str, folder: Path, own: int, ports: Sequence[int], change: Callable[[str], str]
) -> list[str]:
    text = (ROOT / "conf/nginx/daisi-ws-stream.conf").read_text()
    text = changed(text, r"listen 80;", f"listen 127.0.0.1:{own};")
    text = change(_servers(text, ports))
    built = subprocess.run([path, "-V"], capture_output=True, text=True, check=True).stderr
    module = "" if "--with-stream " in built else f"load_module {_stream_module()};\n"
    return _nginx_with(path, folder, module + _NGINX.format(folder=folder) + text)


def _nginx_with(path: str, folder: Path, configuration: str) -> list[str]:
    (folder / "nginx.conf").write_text(configuration)
    return [path, "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def _stream_module() -> Path:
    """Return the path of nginx's module, fetched or installed; the test is skipped without it."""
    name = "ngx_stream_module.so"
    places = (TOOLS, Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))
    found = next((place / name for place in places if (place / name).exists()), None)
    return found or missing(name)


def _haproxy(
    path: str, folder: Path, own: int, ports: Sequence[int], change: Callable[[str], str]
) -> list[str]:
    text = (ROOT / "conf/haproxy.cfg").read_text()
    text = changed(text, r"bind :80", f"bind 127.0.0.1:{own}")
    text = changed(text, r"log /dev/log local0", "log stdout format raw local0")
    text = changed(text, r"maxconn 200000", "maxconn 500")
    text = changed(text, r"(timeout [\w-]+ )(?:10|65)s", rf"\g<1>{TIMEOUT_SECONDS}s")
    (folder / "haproxy.cfg").write_text(change(_servers(text, ports)))
    return [path, "-db", "-f", str(folder / "haproxy.cfg")]


def _servers(text: str, ports: Sequence[int]) -> str:
    for shipped, port in zip(("10.0.3.17:8080", "10.0.3.18:8080"), ports, strict=True):
        text = changed(text, re.escape(shipped), f"127.0.0.1:{port}")
    return text
