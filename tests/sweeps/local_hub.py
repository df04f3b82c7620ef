"""A hub of models on loopback: the calls of its HTTP interface that pushing and opening make."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = (".safetensors",)
"""Files that do not travel within a commit."""
OWNERS = ("owner", "lab")
"""Accounts and organisations of all tokens."""
_FIRST = "the first commit"


@dataclass
class Hub:
    """What the hub holds.

    Attributes:
        address: of its server.
        tokens: role of each that it knows.
        repos: files by repository and revision.
        private: those repositories that only their owner sees.
        objects: large files by SHA-256.
        commits: (repository, revision, paths) of each commit.
        refusals: statuses with which the next uploads of a large file are answered, 0: as they
            should be.
    """

    address: str = ""
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_writer": "write"})
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    objects: dict[str, bytes] = field(default_factory=dict)
    commits: list[tuple[str, str, list[str]]] = field(default_factory=list)
    refusals: list[int] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the test's terminal."""

    def do_POST(self) -> None:
        body, path = self._body(), unquote(urlsplit(self.path).path)
        if not self._role():
            return self._answer(401, {"error": "Invalid username or password."})
        if self._role() == "read":
            return self._answer(403, {"error": "this token may only read"})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if found := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            return self._batch(json.loads(body))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|branch|commit)/(.+)", path):
            repo, what, revision = found.groups()
            return getattr(self, f"_{what}")(self.hub.repos[repo], repo, revision, body)
        return self._answer(404, {"error": f"nothing at {path}"})

    def do_PUT(self) -> None:
        body = self._body()
        if self.hub.refusals and (status := self.hub.refusals.pop(0)):
            return self._answer(status, {"error": "not now"})
        digest = self.path.rpartition("/")[2]
        assert hashlib.sha256(body).hexdigest() == digest
        self.hub.objects[digest] = body
        return self._answer(200, {})

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == "/api/whoami-v2":
            if not (role := self._role()):
                return self._answer(401, {"error": "Invalid credentials"})
            token = {"displayName": "the test's", "role": role}
            about = {"name": OWNERS[0], "orgs": [{"name": name} for name in OWNERS[1:]]}
            return self._answer(200, {**about, "auth": {"accessToken": token}})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, asked, name = found.groups()
            for revision, files in self.hub.repos.get(repo, {}).items():
                if asked in (revision, _sha(revision)):
                    return self._file(files, revision, name)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commits/main", path):
            commits = [_commit(name) for _, name, _ in self.hub.commits if name == "main"]
            return self._answer(200, [*commits, _commit(_FIRST)])
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        if found and found[1] in self.hub.repos:
            files = self.hub.repos[found[1]][found[2] or "main"]
            siblings = [{"rfilename": name} for name in files]
            about = {"id": found[1], "sha": _sha(found[2] or "main"), "siblings": siblings}
            return self._answer(200, {**about, "private": found[1] in self.hub.private})
        is_known = any(f"/{repo}/" in path for repo in self.hub.repos)
        missing = {"X-Error-Code": "EntryNotFound" if is_known else "RepoNotFound"}
        return self._answer(404, {"error": f"nothing at {path}"}, missing)

    def _create(self, asked: dict[str, Any]) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if asked["organization"] not in OWNERS:
            return self._answer(403, {"error": "You don't have the rights to create a model"})
        if repo in self.hub.repos:
            return self._answer(409, {"error": "it is there", "url": f"{self.hub.address}/{repo}"})
        self.hub.repos[repo] = {"main": {}}
        if asked.get("private") or asked.get("visibility") == "private":
            self.hub.private.add(repo)
        return self._answer(200, {"url": f"{self.hub.address}/{repo}"})

    def _branch(self, of: dict[str, dict[str, bytes]], repo: str, name: str, body: bytes) -> None:
        if name in of:
            return self._answer(409, {"error": "it is there"})
        start = json.loads(body).get("startingPoint")
        of[name] = {} if start == _sha(_FIRST) else dict(of["main"])
        return self._answer(200, {})

    def _preupload(self, of: dict[str, dict[str, bytes]], repo: str, name: str, b: bytes) -> None:
        files = [
            {
                "path": each["path"],
                "uploadMode": "lfs" if each["path"].endswith(LARGE) else "regular",
                "shouldIgnore": False,
                "oid": _oid(each["path"], of[name].get(each["path"])),
            }
            for each in json.loads(b)["files"]
        ]
        return self._answer(200, {"files": files})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = [
            each
            if each["oid"] in self.hub.objects
            else {
                **each,
                "actions": {"upload": {"href": f"{self.hub.address}/objects/{each['oid']}"}},
            }
            for each in asked["objects"]
        ]
        return self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, of: dict[str, dict[str, bytes]], repo: str, name: str, body: bytes) -> None:
        written = {}
        for line in map(json.loads, body.decode().splitlines()):
            value = line["value"]
            if line["key"] == "file":
                written[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                written[value["path"]] = self.hub.objects[value["oid"]]
        of[name] |= written
        self.hub.commits.append((repo, name, sorted(written)))
        url = f"{self.hub.address}/{repo}/commit/{_sha(name)}"
        return self._answer(200, {"commitUrl": url, "commitOid": _sha(name)})

    def _file(self, files: dict[str, bytes], revision: str, name: str) -> None:
        if (content := files.get(name)) is None:
            return self._answer(404, {"error": "no file"}, {"X-Error-Code": "EntryNotFound"})
        digest = hashlib.sha256(content).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": _sha(revision)}
        return self._answer(200, content, headers)

    def _role(self) -> str:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        return self.hub.tokens.get(token, "")

    def _body(self) -> bytes:
        if self.headers.get("transfer-encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("content-length") or 0))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = dict(headers or {})
        if status >= 400:
            headers["X-Error-Message"] = body["error"]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _commit(name: str) -> dict[str, Any]:
    date = "2026-01-01T00:00:00.000Z"
    return {"id": _sha(name), "title": name, "message": "", "authors": [], "date": date}


def _sha(revision: str) -> str:
    """A commit's name, which a revision keeps here."""
    return hashlib.sha1(revision.encode()).hexdigest()


def _oid(path: str, content: bytes | None) -> str | None:
    """What git calls a file, or of a large one its SHA-256."""
    if content is None or path.endswith(LARGE):
        return content and hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@contextlib.contextmanager
def local_hub() -> Iterator[Hub]:
    """A hub that listens on loopback."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
