"""Who holds a port."""

from __future__ import annotations

import os
import socket
import sys

from daisi_ws.supervisor.holder import port_holder


def test_names_the_listening_process() -> None:
    """Process ID and the first words of its command line."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        said = port_holder(server.getsockname()[1])
    assert said is not None
    assert said.startswith(f"process {os.getpid()} (")
    assert sys.executable.rpartition("/")[2][:6] in said


def test_knows_ipv6_listeners() -> None:
    """Both tables of the kernel are read."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert port_holder(server.getsockname()[1]) is not None


def test_nobody_listens() -> None:
    """A port that is bound but not listened on has no holder worth naming."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        assert port_holder(bound.getsockname()[1]) is None
