"""A real S3 server on loopback (moto's), behind a proxy that can answer 503, drop connections or cut bodies."""

from __future__ import annotations

import http.client
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
from moto.server import ThreadedMotoServer

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}

_OF_THE_CONNECTION = ("transfer-encoding", "expect", "content-length")

Fault = Callable[[int, str, str], str | None]
"""(number of the request, method, path) -> "busy" | "drop" | "cut" | "deny", or None to pass it on."""


class ObjectStore:
    """The server, and the proxy in front of it that tests talk to."""

    def __init__(self) -> None:
        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self._moto.start()
        self._upstream = self._moto.get_host_and_port()
        self.fault: Fault = lambda number, method, path: None
        self.requests: list[tuple[str, str]] = []
        self.faults: list[str] = []
        self._lock = threading.Lock()
        self._proxy = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, daemon=True).start()
        self.endpoint = f"127.0.0.1:{self._proxy.server_address[1]}"

    @property
    def options(self) -> dict[str, str]:
        """For ``data.storage_options``."""
        return {"endpoint_override": self.endpoint, "scheme": "http", "region": "us-east-1"}

    @property
    def query(self) -> str:
        """The same for a URI."""
        return "&".join(f"{key}={value}" for key, value in self.options.items())

    def direct(self) -> pafs.S3FileSystem:
        """The server without the proxy, allowed to make and delete buckets."""
        host, port = self._upstream
        return pafs.S3FileSystem(
            endpoint_override=f"{host}:{port}",
            scheme="http",
            region="us-east-1",
            access_key="testing",
            secret_key="testing",
            allow_bucket_creation=True,
            allow_bucket_deletion=True,
        )

    def upload(self, folder: Path, target: str) -> None:
        """Copies a local folder to ``bucket/prefix``; the bucket is made."""
        self.direct().create_dir(target.partition("/")[0])
        pafs.copy_files(
            str(folder), target, source_filesystem=pafs.LocalFileSystem(), destination_filesystem=self.direct()
        )

    def delete_bucket(self, name: str) -> None:
        """With all that is in it."""
        self.direct().delete_dir(name)

    def calm(self) -> None:
        """No more faults; forgets what was asked."""
        self.fault = lambda number, method, path: None
        self.requests, self.faults = [], []

    def stop(self) -> None:
        self._proxy.shutdown()
        self._proxy.server_close()
        self._moto.stop()

    def choose(self, method: str, path: str) -> str | None:
        """The fault for a request, which is noted."""
        with self._lock:
            self.requests.append((method, path))
            kind = self.fault(len(self.requests), method, path)
            if kind:
                self.faults.append(kind)
            return kind

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
        """Asks the real server."""
        host, port = self._upstream
        connection = http.client.HTTPConnection(host, port, timeout=30)
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, response.headers, content

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def _any(self) -> None:
                kind = store.choose(self.command, self.path)
                body = self._body()
                if kind == "drop":
                    self.close_connection = True
                    return
                if kind in ("busy", "deny"):
                    self._answer(503 if kind == "busy" else 403, {}, b"", 0)
                    return
                asked = {key: value for key, value in self.headers.items() if key.lower() not in _OF_THE_CONNECTION}
                status, headers, content = store.forward(self.command, self.path, asked, body)
                length = int(headers.get("Content-Length") or 0) if self.command == "HEAD" else len(content)
                self._answer(status, headers, content[: length // 2] if kind == "cut" else content, length)
                self.close_connection = self.close_connection or kind == "cut"

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                    return self.rfile.read(int(self.headers.get("Content-Length") or 0))
                body = b""
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size)
                    self.rfile.readline()
                self.rfile.readline()
                return body

            def _answer(self, status: int, headers: Any, content: bytes, length: int) -> None:
                self.send_response_only(status)
                for key, value in headers.items():
                    if key.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(key, value)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any

        return Handler


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """A running store, stopped at the end."""
    store = ObjectStore()
    try:
        yield store
    finally:
        store.stop()
