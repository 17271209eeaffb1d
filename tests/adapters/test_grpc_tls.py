"""TLS and mutual TLS between pods."""

from __future__ import annotations

import asyncio
import shutil
import ssl
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daisi_ws.adapters.grpc_server import GrpcServer, ServerSettings
from daisi_ws.adapters.grpc_tls import BadCertificate, TlsFiles
from daisi_ws.config import testing_config
from daisi_ws.domain.errors import Unavailable
from daisi_ws.metrics import Metrics
from tests.adapters.certificates import Authority, encrypted_key
from tests.adapters.forwarding import QUICK, Addresses, B, Recorder, item, peers_of, serving, until

ONE_TRY = replace(QUICK, fail_threshold=1, open_duration=3600)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The cluster's certificate authority."""
    return Authority(tmp_path)


async def _reaches(server: TlsFiles | None, client: TlsFiles | None) -> bool:
    """Tell whether an event gets from a pod with these files to one with those."""
    inbound = Recorder()
    async with (
        serving(inbound, settings=ServerSettings(tls=server)) as (_, port),
        peers_of(Addresses(b_0_1=port), replace(ONE_TRY, tls=client)) as peers,
    ):
        peers.push(B, item(1))
        try:
            await peers.barrier(B, [], 10)
        except Unavailable:
            return False
        await until(lambda: inbound.accepted == [1])
        return True


@pytest.mark.parametrize("mutual", [False, True], ids=["tls", "mtls"])
async def test_pods_with_certificates_of_one_authority_talk(
    authority: Authority, mutual: bool
) -> None:
    """Events flow over TLS, and over mutual TLS."""
    server = authority.pod("b", mutual=mutual)
    assert await _reaches(server, authority.pod("a", mutual=mutual))


async def test_a_client_without_certificate_is_refused_by_mutual_tls(authority: Authority) -> None:
    """Who has no certificate cannot push to anybody."""
    assert not await _reaches(authority.pod("b"), authority.pod("a", mutual=False))


async def test_a_client_of_another_authority_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    """A certificate of somebody else's authority is none."""
    stranger = replace(Authority(tmp_path, "other").pod("x"), ca_file=authority.ca_file)
    assert not await _reaches(authority.pod("b"), stranger)


async def test_a_server_of_another_authority_is_not_trusted(
    authority: Authority, tmp_path: Path
) -> None:
    """A pod does not hand events to a server it cannot verify."""
    impostor = replace(Authority(tmp_path, "other").pod("x"), ca_file=authority.ca_file)
    assert not await _reaches(replace(impostor, mutual=False), authority.pod("a", mutual=False))


async def test_a_certificate_for_another_address_is_not_trusted(authority: Authority) -> None:
    """The certificate must name the address that the peer tells."""
    elsewhere = authority.pod("b", address="10.1.2.3", mutual=False)
    assert not await _reaches(elsewhere, authority.pod("a", mutual=False))


async def test_plain_and_encrypted_do_not_mix(authority: Authority) -> None:
    """Neither side falls back to plain text."""
    pod = authority.pod("b", mutual=False)
    assert not await _reaches(pod, None)
    assert not await _reaches(None, pod)


async def test_the_reason_of_a_failed_handshake_is_logged(authority: Authority) -> None:
    """Whoever sets TLS up wrongly reads why."""
    with capture_logs() as logs:
        await _reaches(authority.pod("b", address="10.1.2.3", mutual=False), authority.pod("a"))
    assert [line["event"] for line in logs] == ["peer's breaker opened"]
    assert "UNAVAILABLE" in logs[0]["reason"]


async def test_a_renewed_certificate_is_used_for_the_next_connection(
    authority: Authority, tmp_path: Path
) -> None:
    """Files are read anew for every channel."""
    inbound = Recorder()
    bad = Authority(tmp_path, "other").pod("a")
    good = authority.pod("good")
    client = replace(bad, ca_file=authority.ca_file)
    settings = replace(QUICK, tls=client, fail_threshold=100)
    async with (
        serving(inbound, settings=ServerSettings(tls=authority.pod("b"))) as (_, port),
        peers_of(Addresses(b_0_1=port), settings) as peers,
    ):
        peers.push(B, item(1))
        with pytest.raises(AssertionError):
            await until(lambda: peers.floor() is None, 0.5)
        shutil.copy(good.cert_file, client.cert_file)
        shutil.copy(good.key_file, client.key_file)
        await until(lambda: peers.floor() is None)


@pytest.mark.parametrize("broken", ["cert_file", "key_file", "ca_file"])
async def test_an_unusable_file_is_named(authority: Authority, tmp_path: Path, broken: str) -> None:
    """A server with a file that is missing or no PEM does not start, and says which it is."""
    files = authority.pod("b")
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    for path in (str(tmp_path / "missing.pem"), str(garbage)):
        tls = TlsFiles(**(asdict(files) | {broken: path}))
        server = GrpcServer(Recorder(), ServerSettings(tls=tls), Metrics())
        with pytest.raises(BadCertificate, match=Path(path).name):
            await server.start("127.0.0.1", 0)


async def test_a_key_of_another_certificate_is_named(authority: Authority) -> None:
    """Certificate and key must belong together."""
    files = replace(authority.pod("b"), key_file=authority.pod("c").key_file)
    with pytest.raises(BadCertificate, match=r"c-key\.pem"):
        files.check()


async def test_a_key_with_passphrase_is_refused(authority: Authority, tmp_path: Path) -> None:
    """Nobody is asked on the terminal."""
    files = replace(authority.pod("b"), key_file=encrypted_key(tmp_path / "locked.pem"))
    with pytest.raises(BadCertificate, match="passphrase"):
        files.check()


async def test_a_client_without_its_files_keeps_the_events(
    authority: Authority, tmp_path: Path
) -> None:
    """Files that vanish are a failure like another: nothing is lost, the reason is said."""
    files = replace(authority.pod("a"), key_file=str(tmp_path / "missing.pem"))
    with capture_logs() as logs:
        async with peers_of(Addresses(b_0_1=1), replace(ONE_TRY, tls=files)) as peers:
            peers.push(B, item(1))
            await until(lambda: bool(logs))
            assert peers.floor() == 1
    assert "missing.pem" in logs[0]["reason"]


def test_the_files_come_from_the_configuration(authority: Authority) -> None:
    """`server.grpc_tls` decides; off means none."""
    files = authority.pod("b")
    config = testing_config(
        server__grpc_tls__enabled=True,
        server__grpc_tls__cert_file=files.cert_file,
        server__grpc_tls__key_file=files.key_file,
        server__grpc_tls__ca_file=files.ca_file,
        server__grpc_tls__mutual=False,
    )
    assert TlsFiles.from_config(config.server.grpc_tls) == replace(files, mutual=False)
    assert TlsFiles.from_config(testing_config().server.grpc_tls) is None


async def test_a_server_shows_a_new_certificate_to_new_connections(authority: Authority) -> None:
    """Files that are replaced, in whatever order, need no restart; wrong ones are not shown."""
    server, client = authority.pod("b"), authority.pod("a")
    inbound = Recorder()
    async with serving(inbound, settings=ServerSettings(tls=server, name="127.0.0.1")) as (_, port):
        first = await _shown(port, client)
        shutil.copy(client.key_file, server.key_file)
        assert await _shown(port, client) == first
        authority.pod("b")
        assert await _shown(port, client) != first


async def _shown(port: int, client: TlsFiles) -> bytes:
    """Return the certificate that a server shows now."""
    context = ssl.create_default_context(cafile=client.ca_file)
    context.load_cert_chain(client.cert_file, client.key_file)
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return bytes(shown)


def test_a_certificate_that_does_not_name_this_pod_is_refused(
    authority: Authority, tmp_path: Path
) -> None:
    """It is found out here, not by every peer that then cannot connect."""
    files = authority.pod("b", "10.1.2.3")
    files.check("10.1.2.3")
    with pytest.raises(BadCertificate, match=r"b\.pem does not name 127\.0\.0\.1.* 10\.1\.2\.3"):
        files.check("127.0.0.1")
    pair = authority.issue("wild", ["*.pods.example"])
    wild = TlsFiles(str(pair.cert_file), str(pair.key_file), "", mutual=False)
    wild.check("One.pods.example")
    for name in ("pods.example", "a.b.pods.example", "127.0.0.1"):
        with pytest.raises(BadCertificate):
            wild.check(name)
