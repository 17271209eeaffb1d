"""`daisi-ws serve` as a real process; the worker's own work is not looked at here."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self

import pytest
from click.testing import CliRunner

from daisi_ws.cli import cli
from daisi_ws.cli.serving import Reload, settings_of, timings_of
from daisi_ws.config import FileWatch, load, testing_config
from daisi_ws.domain.slots import ConfigSource
from daisi_ws.embedded.ports import free_ports, is_free
from daisi_ws.supervisor.settings import Reloaded, ReloadRefused
from tests.processes import children, is_alive, wait_until_gone

ROOT = Path(__file__).parents[2]
DEADLINE = 20.0
SECRETS = {
    "DAISI_WS_AUTH_SECRET_TOKEN": "user-api-key-0123456789",
    "DAISI_WS_AUTH_TOKEN_AES_KEY": "0a" * 32,
    "DAISI_WS_AUTH_ADMIN_SECRET_TOKEN": "admin-api-key-0123456789",
    "DAISI_WS_AUTH_ADMIN_TOKEN_AES_KEY": "0b" * 32,
}
WORKER = """
import json, os, select, signal, sys
import daisi_ws.config
from daisi_ws.domain.slots import Heartbeat, Ready, encode_report

VERSION = 1
STALE = hasattr(daisi_ws.config, "LOADED_BY_THE_SUPERVISOR")

def run(source, context):
    stop = []
    wake, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    signal.set_wakeup_fd(wake_write)
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    signal.signal(signal.SIGHUP, lambda *_: None)
    os.write(context.report_fd, encode_report(Ready()))
    config = daisi_ws.config.load(source.path, source.environ, source.flags).config
    about = {
        "version": VERSION, "stale": STALE, "pid": os.getpid(), "pod_id": context.pod_id,
        "redis": config.redis.address, "nats": config.nats.url,
        "create_stream": config.nats.create_stream,
    }
    while not stop:
        ready = select.select([context.listener, context.lifeline_fd, wake], [], [], 0.2)[0]
        os.write(context.report_fd, encode_report(Heartbeat()))
        if context.lifeline_fd in ready:
            return 0
        if context.listener in ready:
            try:
                client, _ = context.listener.accept()
            except BlockingIOError:
                continue
            client.sendall(json.dumps(about).encode())
            client.close()
    return 0
"""


class Serve:
    """A running `daisi-ws serve` and its log."""

    def __init__(self, folder: Path, *arguments: str, environ: Mapping[str, str] = SECRETS) -> None:
        self.text = ""
        self._said = threading.Condition()
        ports = ["--http-port", "0", "--grpc-port", "0"]
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DAISI_WS_")}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests/cli/fake_serve.py"), "serve", *ports, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            start_new_session=True,
            env={**kept, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), **environ},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as said:
            for line in said:
                with self._said:
                    self.text += line
                    self._said.notify_all()

    def lines(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of an event."""
        found = []
        for raw in self.text.splitlines():
            with suppress(json.JSONDecodeError):
                line = json.loads(raw)
                if line["event"] == event:
                    found.append(line)
        return found

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """Return the `count`-th log line of an event, waiting for it."""
        with self._said:
            done = self._said.wait_for(lambda: len(self.lines(event)) >= count, DEADLINE)
            assert done, f"no line {event!r}; the log:\n{self.text}"
            return self.lines(event)[count - 1]

    def ask(self) -> dict[str, Any]:
        """Connect and return what the worker says of itself."""
        self.wait_for("all workers ready")
        address = self.wait_for("supervisor started")["http"]
        with socket.create_connection(("127.0.0.1", int(address.split(":")[-1])), DEADLINE) as sock:
            data = b""
            while chunk := sock.recv(65536):
                data += chunk
        answer: dict[str, Any] = json.loads(data)
        return answer

    def exit_code(self) -> int:
        """Wait for the end; return the exit code."""
        code = self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        return code

    def stop(self) -> int:
        """Stop politely; return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.exit_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        left = children(self.process.pid)
        self.process.kill()
        self.process.wait(DEADLINE)
        self._reader.join(DEADLINE)
        assert not wait_until_gone(left, DEADLINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with a stand-in for the worker."""
    (tmp_path / "stand_in_worker.py").write_text(WORKER)
    return tmp_path


def test_serves_and_stops(folder: Path) -> None:
    """Workers as many as asked, pod IDs after the configured name, JSON lines, exit code 0."""
    environ = {**SECRETS, "DAISI_WS_SERVER_POD_ID": "gateway-7"}
    with Serve(folder, "--workers", "3", environ=environ) as serve:
        assert re.fullmatch(r"gateway-7-[012]-\d+", serve.ask()["pod_id"])
        assert serve.wait_for("all workers ready")["workers"] == 3
        assert serve.stop() == 0
        assert serve.wait_for("supervisor stopped")["exit_code"] == 0


def test_signals_for_the_supervisor_harm_nothing_before_it_is_there(folder: Path) -> None:
    """SIGHUP and SIGUSR2 while the configuration is read do not end it; later ones are heeded."""
    with _reading(folder) as (serve, config):
        serve.process.send_signal(signal.SIGHUP)
        serve.process.send_signal(signal.SIGUSR2)
        config.close()
        serve.ask()
        serve.process.send_signal(signal.SIGHUP)
        serve.wait_for("configuration reloaded")
        assert serve.stop() == 0


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_is_stopped_before_it_has_begun(folder: Path, signum: signal.Signals) -> None:
    """While the configuration is read a stop ends it at once, as asked, without a word."""
    with _reading(folder) as (serve, _):
        serve.process.send_signal(signum)
        assert serve.exit_code() == 0
        assert serve.text == ""


@contextmanager
def _reading(folder: Path) -> Iterator[tuple[Serve, BinaryIO]]:
    """Start it, and have it wait for the rest of its configuration.

    Yields it, and what it waits for: a named pipe, in whose place the next reader finds a file.
    """
    pipe, file = folder / "config.yaml", folder / "next.yaml"
    os.mkfifo(pipe)
    with (
        Serve(folder, "--workers", "1", "--config", str(pipe)) as serve,
        pipe.open("wb") as config,  # waits for who reads
    ):
        file.touch()
        file.replace(pipe)
        yield serve, config


def test_running_supervisor_has_no_client_library_in_its_memory(folder: Path) -> None:
    """Not even a shared object of one, also after workers were born and died."""
    with Serve(folder, "--workers", "1", "--embedded") as serve:
        os.kill(serve.ask()["pid"], signal.SIGKILL)
        serve.wait_for("worker ready", 2)
        maps = Path(f"/proc/{serve.process.pid}/maps").read_text()
        assert "msgspec" in maps, "extension modules are seen here"
        for name in ("uvloop", "grpc", "aiohttp", "hiredis", "_http_parser"):
            assert name not in maps
        assert serve.stop() == 0


def test_worker_runs_the_code_that_is_on_disk_when_it_is_born(folder: Path) -> None:
    """After an upgrade a rolling restart brings new code, without modules of the old one."""
    with Serve(folder, "--workers", "2") as serve:
        assert serve.ask()["version"] == 1
        # Of another size: compiled files are told apart by size and second.
        newer = WORKER.replace("VERSION = 1", "VERSION = 2  # newer")
        (folder / "stand_in_worker.py").write_text(newer)
        serve.process.send_signal(signal.SIGUSR2)
        serve.wait_for("rolling restart done")
        answer = serve.ask()
        assert answer["version"] == 2
        assert answer["stale"] is False
        assert serve.stop() == 0


def test_worker_whose_code_cannot_be_imported_ends_the_start(folder: Path) -> None:
    """One line that says what is missing, exit code 3, no traceback, no retry."""
    (folder / "stand_in_worker.py").write_text("import no_such_module")
    with Serve(folder, "--workers", "2") as serve:
        assert serve.exit_code() == 3
        assert (
            "No module named 'no_such_module'" in serve.wait_for("worker cannot start")["problem"]
        )
        assert "Traceback" not in serve.text


def test_reload_tells_what_applies_and_what_waits(folder: Path) -> None:
    """Keys that changed, hot or waiting for a restart; an invalid file changes nothing."""
    file = folder / "config.yaml"
    file.write_text("app: {write_timeout_seconds: 1, shutdown_timeout_seconds: 20}")
    with Serve(folder, "--workers", "1", "--config", str(file)) as serve:
        pid = serve.ask()["pid"]
        file.write_text("app: {shutdown_timeout_seconds: -1}\nserver: {fish: 3}")
        serve.process.send_signal(signal.SIGHUP)
        problems = serve.wait_for("reload refused, nothing changed")["problems"]
        assert len(problems) == 2
        assert "app.shutdown_timeout_seconds" in "".join(problems)
        file.write_text(
            "app: {write_timeout_seconds: 1, shutdown_timeout_seconds: 3}\nredis: {db: 5}"
        )
        serve.process.send_signal(signal.SIGHUP)
        line = serve.wait_for("configuration reloaded")
        assert line["hot"] == ["app.shutdown_timeout_seconds"]
        assert line["restart"] == ["redis.db"]
        assert serve.ask()["pid"] == pid
        assert serve.stop() == 0
        assert serve.wait_for("stopping")["kill_after_seconds"] == 8


def test_embedded_servers_come_and_go_with_it(folder: Path) -> None:
    """Workers are pointed at them; afterwards no process and no folder is left."""
    redis, nats = f"127.0.0.1:{free_ports()}", f"nats://127.0.0.1:{free_ports()}"
    environ = {**SECRETS, "DAISI_WS_REDIS_ADDRESS": redis, "DAISI_WS_NATS_URL": nats}
    with Serve(folder, "--workers", "1", "--embedded", environ=environ) as serve:
        said = serve.wait_for("embedded servers started")
        assert (said["redis"], said["nats"]) == (redis, nats)
        answer = serve.ask()
        assert (answer["redis"], answer["nats"]) == (redis, nats)
        for address in (redis, nats.rpartition("/")[2]):
            host, _, port = address.rpartition(":")
            with socket.create_connection((host, int(port)), 5):
                pass
        assert answer["create_stream"] is True
        servers = children(serve.process.pid) - {answer["pid"]}
        assert len(servers) == 2
        assert serve.stop() == 0
        assert not wait_until_gone(servers, DEADLINE)


def test_embedded_servers_avoid_a_default_port_that_is_taken(folder: Path) -> None:
    """They take free ones, and the log says what other commands need to find them."""
    with ExitStack() as taken:
        for port in (6379, 4222):
            if is_free(port):
                taken.enter_context(socket.create_server(("127.0.0.1", port)))
        with Serve(folder, "--workers", "1", "--embedded") as serve:
            said, answer = serve.wait_for("embedded servers started"), serve.ask()
            assert said["other_commands_need"] == {
                "DAISI_WS_REDIS_ADDRESS": answer["redis"],
                "DAISI_WS_NATS_URL": answer["nats"],
            }
            assert answer["redis"] != "127.0.0.1:6379"
            assert serve.stop() == 0


def test_embedded_servers_cannot_be_elsewhere_or_on_a_taken_port(folder: Path) -> None:
    """Exit code 2 and every problem, rather than other servers than those configured."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = {**SECRETS, "DAISI_WS_REDIS_ADDRESS": f"127.0.0.1:{port}"}
        with Serve(folder, "--embedded", environ=environ) as serve:
            assert serve.exit_code() == 2
            assert f"port {port} is taken" in serve.text
    environ = {
        **SECRETS,
        "DAISI_WS_NATS_URL": "nats://a:4222",
        "DAISI_WS_NATS_NKEY_SEED_FILE": __file__,
        "DAISI_WS_REDIS_PASSWORD": "x",
    }
    with Serve(folder, "--embedded", environ=environ) as serve:
        assert serve.exit_code() == 2
        assert "has 3 problems" in serve.text
        assert "redis.password" in serve.text
        assert "nats.nkey_seed_file" in serve.text


def test_embedded_server_that_dies_is_started_again(folder: Path) -> None:
    """At the same address, so that the workers find it."""
    with Serve(folder, "--workers", "1", "--embedded") as serve:
        answer = serve.ask()
        port = int(answer["redis"].rpartition(":")[2])
        guards = children(serve.process.pid) - {answer["pid"]}
        servers = {_name(pid): pid for guard in guards for pid in children(guard)}
        os.kill(servers["redis-server"], signal.SIGKILL)
        serve.wait_for("embedded server ended, starting it")
        _connect_soon(port)
        assert is_alive(answer["pid"])
        assert serve.stop() == 0


def _name(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _connect_soon(port: int) -> None:
    deadline = time.monotonic() + DEADLINE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        else:
            return


def test_embedded_data_stays_where_it_is_told(folder: Path) -> None:
    """`--data` keeps the servers' files."""
    data = folder / "data"
    with Serve(folder, "--workers", "1", "--embedded", "--data", str(data)) as serve:
        serve.ask()
        assert serve.stop() == 0
    assert any(file.is_file() for file in (data / "nats").rglob("*"))
    assert any(file.is_file() for file in (data / "redis").rglob("*"))


def test_second_serve_on_the_same_port_is_refused(folder: Path) -> None:
    """Exit code 2 and a message that names the port and the process."""
    with Serve(folder, "--workers", "1") as first:
        first.ask()
        port = first.wait_for("supervisor started")["http"].split(":")[-1]
        with Serve(folder, "--workers", "1", "--http-port", port) as second:
            assert second.exit_code() == 2
            assert f"cannot use port {port}" in second.text
            assert f"taken by process {first.process.pid}" in second.text
            assert "Traceback" not in second.text
        assert first.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ([], {}, ["has 4 problems", "auth.secret_token", "auth.admin_token_aes_key"]),
        (["--embedded"], {}, ["has 4 problems", "A new secret is made by"]),
        (["--data", "d"], SECRETS, ["--embedded"]),
        (["--workers", "0"], SECRETS, ["--workers"]),
        (
            [],
            {**SECRETS, "DAISI_WS_SERVER_HTTP_PORT": "fish", "DAISI_WS_LOG_LEVEL": "loud"},
            ["has 2 problems", "server.http_port", "log.level"],
        ),
    ],
)
def test_bad_configuration_ends_with_2(
    arguments: Sequence[str],
    environ: Mapping[str, str],
    said: Sequence[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every problem in one message, before anything is started."""
    monkeypatch.chdir(tmp_path)
    result = CliRunner(env=environ).invoke(cli, ["serve", *arguments])
    assert result.exit_code == 2
    for words in said:
        assert words in result.output


def test_supervisor_waits_longer_than_the_workers_drain() -> None:
    """SIGKILL comes after announcement, drain and a margin."""
    config = testing_config(
        app__shutdown_timeout_seconds=40, server__shutdown_delay_seconds=7, server__workers=3
    )
    assert timings_of(config).kill > 47
    assert settings_of(config).workers == 3


def test_reload_compares_with_the_start_for_what_waits(tmp_path: Path) -> None:
    """A key that waits for a restart is named again at the next reload, a hot one is not."""
    file = tmp_path / "c.yaml"
    source = ConfigSource(file, SECRETS, {})
    file.write_text("")
    reload = Reload(source, load(file, SECRETS, {}).config, FileWatch([file]))
    file.write_text("redis: {db: 5}\napp: {write_timeout_seconds: 9}")
    first, second = reload(), reload()
    assert isinstance(first, Reloaded)
    assert isinstance(second, Reloaded)
    assert (first.hot, first.restart) == (["app.write_timeout_seconds"], ["redis.db"])
    assert (second.hot, second.restart) == ([], ["redis.db"])
    file.unlink()
    assert isinstance(reload(), ReloadRefused)
