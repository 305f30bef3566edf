"""Chromium as it binds sessions, and a site over HTTPS that it trusts.

Chromium acts on the headers of the protocol only if it trusts the certificate of the site. A home
folder of its own says so. Its keys are in software, as machines for tests have no TPM.
"""

from __future__ import annotations

import datetime
import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from django.core.handlers.wsgi import WSGIHandler
from django.core.servers.basehttp import ThreadedWSGIServer

from tests.browser import Chromium, SilentHandler
from tests.services import HOST, accepts, executable, free_port, run, skip_or_fail, wait_until

_FEATURES: Final = (
    "DeviceBoundSessions:RefreshQuota/false",
    "EnableBoundSessionCredentialsSoftwareKeysForManualTesting",
)
"""With a quota, there are only a few refreshes in some minutes."""


class Certificate:
    """A certificate for localhost, and the home folder of a browser that trusts it."""

    def __init__(self, folder: Path) -> None:
        program = executable("certutil")
        if program is None:
            skip_or_fail(
                "certutil is not installed. Install it with: apt-get install libnss3-tools"
            )
        self.home = folder / "home"
        self.file, self.key_file = folder / "certificate.pem", folder / "key.pem"
        self._make()
        database = self.home / ".pki" / "nssdb"
        database.mkdir(parents=True)
        run(program, "-d", f"sql:{database}", "-N", "--empty-password")
        trusted = ("-t", "CT,C,C", "-n", "tests", "-i", str(self.file))
        run(program, "-d", f"sql:{database}", "-A", *trusted)

    def _make(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        moment = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(moment - datetime.timedelta(days=1))
            .not_valid_after(moment + datetime.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), False)
            .sign(key, hashes.SHA256())
        )
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.key_file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )


class _SecureHandler(SilentHandler):
    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), "HTTPS": "on"}


@contextmanager
def serve_securely(certificate: Certificate) -> Iterator[str]:
    """Serve the Django project of this process over HTTPS; yield its address."""
    server = ThreadedWSGIServer((HOST, 0), _SecureHandler, connections_override={})
    server.set_app(WSGIHandler())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.file, certificate.key_file)
    # A browser opens connections in advance. The thread of each one waits for what it sends.
    server.socket = context.wrap_socket(
        server.socket, server_side=True, do_handshake_on_connect=False
    )
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"https://localhost:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class BindingChromium(Chromium):
    """A Chromium that binds sessions. Its one window is ``browser.contexts[0].pages[0]``."""

    def __init__(self, certificate: Certificate) -> None:
        self._certificate = certificate
        self._process: subprocess.Popen[bytes] | None = None
        super().__init__()

    def _start(self, program: str) -> None:
        from playwright.sync_api import sync_playwright

        port, home = free_port(), self._certificate.home
        self._process = subprocess.Popen(
            [
                program,
                "--headless=new",
                "--no-sandbox",
                "--no-first-run",
                f"--enable-features={','.join(_FEATURES)}",
                f"--user-data-dir={home / 'profile'}",
                f"--remote-debugging-port={port}",
                "about:blank",
            ],
            env={**os.environ, "HOME": str(home), "TMPDIR": str(home)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: accepts(port), "Chromium", seconds=20)
            self._playwright = sync_playwright().start()
            self._browser = self._playwright.chromium.connect_over_cdp(f"http://{HOST}:{port}")
        except BaseException:
            self._end()
            raise

    def _end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        super().close()
        self._end()
