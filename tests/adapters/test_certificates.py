"""New certificates are noticed, wrong ones are named, and the end of each is told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from daisi_ws.adapters.certificates import Certificates
from daisi_ws.config import ClientTls, HttpTls
from daisi_ws.embedded.authority import Authority, Pair
from daisi_ws.metrics import Metrics


def section(pair: Pair) -> HttpTls:
    """TLS with these files."""
    return HttpTls(enabled=True, cert_file=str(pair.cert_file), key_file=str(pair.key_file))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """An authority of this test."""
    return Authority(tmp_path)


def test_new_files_are_used_once(authority: Authority) -> None:
    """Whoever uses a certificate is told when there is a new one, and not otherwise."""
    used = Certificates({"http": section(authority.issue("a"))}, Metrics())
    renewed: list[str] = []
    used.on_renewed("http", lambda: renewed.append("http"))
    used.look()
    authority.issue("a")
    used.look()
    used.look()
    assert renewed == ["http"]


def test_links_that_point_elsewhere_are_new_files(tmp_path: Path, authority: Authority) -> None:
    """Kubernetes swaps a link to a folder; the paths themselves stay as they are."""
    for number in (1, 2):
        Authority(tmp_path / f"v{number}").issue("tls")
    (tmp_path / "data").symlink_to("v1")
    data = tmp_path / "data"
    used = Certificates({"http": section(Pair(data / "tls.pem", data / "tls-key.pem"))}, Metrics())
    renewed: list[str] = []
    used.on_renewed("http", lambda: renewed.append("http"))
    (tmp_path / "new").symlink_to("v2")
    (tmp_path / "new").replace(data)
    used.look()
    assert renewed == ["http"]


def test_wrong_files_are_named_once_and_not_used(authority: Authority) -> None:
    """One line says which file is wrong; when it is right again it is used."""
    pair, other = authority.issue("a"), authority.issue("b")
    used = Certificates({"http": section(pair)}, Metrics())
    renewed: list[str] = []
    used.on_renewed("http", lambda: renewed.append("http"))
    good = pair.key_file.read_bytes()
    pair.key_file.write_bytes(other.key_file.read_bytes())
    with capture_logs() as lines:
        used.look()
        used.look()
    assert renewed == []
    assert [line["event"] for line in lines] == [
        "certificate not renewed: the old one stays in use"
    ]
    assert "a.pem" in lines[0]["problem"]
    pair.key_file.write_bytes(good)
    used.look()
    assert renewed == ["http"]


def test_the_end_is_told(authority: Authority) -> None:
    """The metric has the seconds that are left, the log a line before and after the end."""
    pair, now = authority.issue("a", lasts=timedelta(hours=1)), [datetime.now(UTC).timestamp()]
    metrics = Metrics()
    used = Certificates({"http": section(pair)}, metrics, lambda: now[0])
    with capture_logs() as lines:
        for _ in range(2):
            used.look()
        left = metrics.certificate_expiry.labels("http")._value.get()
        assert 3500 < left <= 3600
        now[0] += 2 * 3600
        for _ in range(2):
            used.look()
    assert metrics.certificate_expiry.labels("http")._value.get() < 0
    assert [line["event"] for line in lines] == [
        "certificate expires soon: renew it",
        "certificate has expired: replace it",
    ]


def test_sections_without_certificates_have_no_end(authority: Authority) -> None:
    """A zero would look like a certificate that ends now."""
    metrics = Metrics()
    tls = ClientTls(enabled=True, ca_file=str(authority.pair.cert_file))
    Certificates({"redis": tls, "nats": ClientTls(), "http": HttpTls()}, metrics).look()
    assert "dws_certificate_expiry_seconds{" not in metrics.exposition().decode()
