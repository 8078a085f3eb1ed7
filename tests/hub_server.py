"""A small hub on this machine: the parts of the Hugging Face Hub's HTTP interface that pushing and pulling use."""

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlparse

COMMIT = "0123456789abcdef0123456789abcdef01234567"
GATED = {"X-Error-Code": "GatedRepo", "X-Error-Message": "Access to this repository is restricted."}
NOT_FOUND = {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}


@dataclass
class Hub:
    """What the server holds, and what it was asked for."""

    url: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    """Files by path, by `models/organisation/name` or `datasets/organisation/name`."""
    gated: set[str] = field(default_factory=set)
    private: dict[str, bool] = field(default_factory=dict)
    fetched: list[str] = field(default_factory=list)
    """Paths of the files whose content was sent."""


@contextmanager
def running() -> Iterator[Hub]:
    """A hub at `url` until the block ends."""
    hub = Hub()

    class Handler(_Handler):
        held = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    held: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        if parts[0] == "api":
            _, kind, organisation, name, what, *_ = parts
            self._about(f"{kind}/{organisation}/{name}", what)
            return
        kind, rest = (parts[0], parts[1:]) if parts[0] == "datasets" else ("models", parts)
        key, path = f"{kind}/{rest[0]}/{rest[1]}", "/".join(rest[4:])
        content = self.held.repositories[key][path]
        if self.command == "GET":
            self.held.fetched.append(path)
        self._send(200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": COMMIT})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        if parts[1] == "repos":
            asked = json.loads(body)
            key = f"{asked.get('type', 'model')}s/{asked['organization']}/{asked['name']}"
            self.held.repositories.setdefault(key, {})
            self.held.private[key] = (
                asked.get("visibility", "private" if asked.get("private") else "public") == "private"
            )
            self._json({"url": f"{self.held.url}/{key.removeprefix('models/')}"})
        elif parts[1] == "validate-yaml":
            self._json({"warnings": [], "errors": []})
        elif parts[4] == "preupload":
            files = json.loads(body)["files"]
            self._json({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]})
        else:
            key = "/".join(parts[1:4])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.held.repositories[key][line["value"]["path"]] = content
            address = f"{self.held.url}/{key.removeprefix('models/')}/commit/{COMMIT}"
            self._json({"success": True, "commitUrl": address, "commitOid": COMMIT})

    def _about(self, key: str, what: str) -> None:
        if key in self.held.gated:
            self._send(403, b"", GATED)
        elif key not in self.held.repositories:
            self._send(404, b"", NOT_FOUND)
        elif what == "revision":
            self._json({"id": key.partition("/")[2], "sha": COMMIT, "siblings": []})
        else:
            files = self.held.repositories[key].items()
            self._json([{"type": "file", "path": p, "size": len(c), "oid": _oid(c)} for p, c in files])

    def _json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
