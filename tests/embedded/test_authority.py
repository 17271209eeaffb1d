"""The authority for trying TLS out."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from daisi_ws.embedded.authority import main


def test_run_again_it_renews_all_but_the_authority(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Server and client are signed by the one authority; nobody else can read the keys."""
    main([str(tmp_path), "--host", "gateway.example"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    main([str(tmp_path), "--host", "gateway.example"])
    after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {name for name in before if before[name] == after[name]}
    assert kept == {"ca.pem", "ca-key.pem"}
    authority = x509.load_pem_x509_certificate(after["ca.pem"])
    for name in ("server.pem", "client.pem"):
        x509.load_pem_x509_certificate(after[name]).verify_directly_issued_by(authority)
    assert all((tmp_path / name).stat().st_mode & 0o077 == 0 for name in after if "-key" in name)
    assert str(tmp_path / "server.pem") in capsys.readouterr().out
