"""A Hub on loopback, for the real huggingface_hub client: files of repositories, their errors, and uploads.

    with HubServer() as hub:
        hub.put("owner/name", {"a.safetensors": content})       "datasets/owner/name" for one of data
        hub.behave = lambda request: request.refuse(503)      # True: answered; anything else: as usual

It has what the client asks for and no more: resolve (with ranges), a CDN on another host name, repository creation,
preupload, the LFS batch protocol and ndjson commits.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from saferedir_core.registry import git_blob

RESOLVE = re.compile(r"/(?P<repo>(?:datasets/)?[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<what>preupload|commit|revision)/(?P<revision>[^/]+)")
LFS = re.compile(r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")


@dataclass
class Repository:
    """Commits by name ("main" is one of them): path -> content."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""


class HubServer:
    """`url` is its address; `requests` is what came: (method, path, headers by lower-case name)."""

    def __init__(self, large: bool = True):
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}     # large files by their SHA-256
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.behave: Callable[[Request], object] = lambda request: None
        self.large = large      # whether files come from the CDN, as the Hub's large files do
        self.gone = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Request)
        self._server.daemon_threads = True
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.elsewhere = f"http://localhost:{self.port}"

    def __enter__(self) -> HubServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.gone.set()
        self._server.shutdown()
        self._server.server_close()

    def put(self, repo: str, files: dict[str, bytes]) -> str:
        """A commit with these files on top of what is there; returns its id."""
        repository = self.repositories.setdefault(repo, Repository())
        tree = {**repository.commits.get(repository.head, {}), **files}
        commit = hashlib.sha1(repr((repo, repository.head, sorted(files))).encode(), usedforsecurity=False).hexdigest()
        repository.commits[commit] = tree
        repository.head = commit
        return commit

    def asked(self, method: str, part: str = "/resolve/") -> list[dict[str, str]]:
        """Headers of the requests with this method and this part of a path."""
        return [headers for verb, path, headers in self.requests if verb == method and part in path]


class Request(BaseHTTPRequestHandler):
    """One request; `hub.behave` may answer it in its own way, with the methods below."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError, TimeoutError):
            super().handle()

    @property
    def hub(self) -> HubServer:
        return self.server.hub

    @property
    def is_file(self) -> bool:
        return bool(RESOLVE.fullmatch(unquote(urlsplit(self.path).path))) or self.path.startswith("/cdn/")

    @property
    def wants_body(self) -> bool:
        """A request for a file's bytes, from the Hub or its CDN."""
        return self.command == "GET" and self.is_file

    def _any(self):
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            self.body = b"".join(self._pieces())
        else:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.command, self.path, headers))
        if self.hub.behave(self) is True:
            return
        path = unquote(urlsplit(self.path).path)
        for pattern, answer in ((RESOLVE, self._resolve), (API, self._api), (LFS, self._lfs)):
            found = pattern.fullmatch(path)
            if found:
                return answer(**found.groupdict())
        if path.startswith("/cdn/"):
            return self.send(self.hub.objects[path.split("/")[2]])
        if path.startswith("/lfs/"):
            self.hub.objects[path.split("/")[2]] = self.body
            return self.answer(200)
        if path == "/api/repos/create":
            wanted = json.loads(self.body)
            repo = f"{wanted.get('organization') or 'me'}/{wanted['name']}"
            if repo in self.hub.repositories:
                return self.answer(409, {"error": "You already created this model repo"})
            self.hub.repositories[repo] = Repository({"0" * 40: {}}, "0" * 40)
            return self.answer(200, {"url": f"{self.hub.url}/{repo}", "name": repo})
        if path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        return self.refuse(404)

    def _pieces(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    do_GET = do_HEAD = do_POST = do_PUT = _any

    # --- answers

    def answer(self, status: int, body: dict | bytes = b"", **headers: str) -> bool:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        return True

    def refuse(self, status: int, code: str = "", **headers: str) -> bool:
        return self.answer(status, {"error": code or f"status {status}"}, **({"X_Error_Code": code} if code else {}),
                           **headers)

    def send(self, content: bytes, *, cut: int | None = None, drip: float | None = None, length: bool = True,
             endless: bool = False, **headers: str) -> bool:
        """A file, as far as a Range asks.  cut: bytes after which the connection ends; drip: seconds for each byte."""
        start, found = 0, re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if found:
            start = int(found[1])
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        part = content[start:]
        self.send_response(206 if found else 200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if length:
            self.send_header("Content-Length", str(len(part)))
        else:
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return True
        if drip is not None:
            for position in range(len(part)):
                self.wfile.write(part[position:position + 1])
                if self.hub.gone.wait(drip):
                    return True
        elif cut is not None and start + len(part) > cut:
            self.wfile.write(part[:max(0, cut - start)])
            self.hang_up()
        else:
            self.wfile.write(part)
            while endless and not self.hub.gone.is_set():
                self.wfile.write(bytes(1 << 16))
        return True

    def silence(self) -> bool:
        """Nothing, until the server ends."""
        self.hub.gone.wait()
        self.close_connection = True
        return True

    def hang_up(self) -> bool:
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True
        return True

    # --- the Hub

    def content(self) -> bytes:
        """What a request for a file would get."""
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/cdn/"):
            return self.hub.objects[path.split("/")[2]]
        found = RESOLVE.fullmatch(path)
        repository = self.hub.repositories[found["repo"]]
        revision = repository.head if found["revision"] == "main" else found["revision"]
        return repository.commits[revision][found["path"]]

    def _resolve(self, repo: str, revision: str, path: str):
        repository = self.hub.repositories.get(repo)
        if repository is None:
            return self.refuse(401, "RepoNotFound")
        commit = repository.head if revision == "main" else revision
        if commit not in repository.commits:
            return self.refuse(404, "RevisionNotFound")
        content = repository.commits[commit].get(path)
        if content is None:
            return self.refuse(404, "EntryNotFound", X_Repo_Commit=commit)
        if not self.hub.large:
            return self.send(content, X_Repo_Commit=commit, ETag=f'"{git_blob(content)}"')
        digest = hashlib.sha256(content).hexdigest()
        self.hub.objects[digest] = content
        return self.answer(302, X_Repo_Commit=commit, X_Linked_Etag=f'"{digest}"', X_Linked_Size=str(len(content)),
                           Location=f"{self.hub.elsewhere}/cdn/{digest}")

    def _api(self, repo: str, what: str, revision: str):
        if repo not in self.hub.repositories:
            return self.refuse(404, "RepoNotFound")
        if what == "preupload":
            files = [{"path": each["path"], "uploadMode": "regular" if each["path"].endswith(".md") else "lfs",
                      "shouldIgnore": False} for each in json.loads(self.body)["files"]]
            return self.answer(200, {"files": files})
        if what == "revision":
            return self.answer(200, {"id": repo, "sha": self.hub.repositories[repo].head, "siblings": []})
        files = {}
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif operation["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = self.hub.put(repo, files)
        return self.answer(200, {"success": True, "commitOid": commit, "hookOutput": "",
                                 "commitUrl": f"{self.hub.url}/{repo}/commit/{commit}"})

    def _lfs(self, repo: str):
        objects = [{"oid": each["oid"], "size": each["size"],
                    "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}", "header": {}}}}
                   for each in json.loads(self.body)["objects"]]
        return self.answer(200, {"transfer": "basic", "objects": objects})
