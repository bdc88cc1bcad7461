"""A Hub on this machine: the endpoints that huggingface_hub calls, over files given by a test."""

import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories by (kind, name); `requests` and `authorizations` are what was asked."""

    def __init__(self):
        self.repos = {}
        self.requests = []
        self.authorizations = set()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def answer(self):
                path = unquote(urlsplit(self.path).path)
                stub.requests.append((self.command, path))
                stub.authorizations.add(self.headers.get("authorization"))
                length = int(self.headers.get("content-length") or 0)
                stub.answer(self, path, self.rfile.read(length) if length else b"")

            do_GET = do_HEAD = do_POST = answer  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def close(self):
        self.server.shutdown()
        self.server.server_close()

    def add(self, kind, name, files, *, status=None, error=None, tags=None, **info):
        """A repository; `status` and `error` are what the Hub says instead of giving it.

        `tags` are other states of it: name -> (commit, files).
        """
        at = {"main": (COMMIT, files), **(tags or {})}
        at |= {commit: (commit, held) for commit, held in at.values()}
        states = {revision: (commit, _as_bytes(held)) for revision, (commit, held) in at.items()}
        self.repos[kind, name] = {"at": states, "status": status, "error": error, "info": info}

    def downloads(self):
        """Paths of files that were fetched, not only asked about."""
        return [path for method, path in self.requests if method == "GET" and "/resolve/" in path]

    # -- answers --------------------------------------------------------------------------

    def answer(self, request, path, body):
        if found := re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(/.*)?", path):
            kind, name, rest = found.groups()
            self._api(request, kind, name, rest or "", body)
        elif found := re.fullmatch(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            data, name, revision, file = found.groups()
            self._resolve(request, "datasets" if data else "models", name, revision, file)
        else:
            self._send(request, 404, b"{}")

    def _repo(self, request, kind, name):
        repo = self.repos.get((kind, name))
        if repo is None:
            self._send(request, 401, b'{"error": "x"}', {"X-Error-Code": "RepoNotFound"})
        elif repo["status"]:
            headers = {"X-Error-Code": repo["error"]} if repo["error"] else {}
            self._send(request, repo["status"], b'{"error": "x"}', headers)
        else:
            return repo
        return None

    def _api(self, request, kind, name, rest, body):
        repo = self._repo(request, kind, name)
        if repo is None:
            return
        found = re.match(r"/(revision|tree|paths-info)/([^/]+)", rest)
        revision = found[2] if found else "main"
        if revision not in repo["at"]:
            self._send(request, 404, b'{"error": "x"}', {"X-Error-Code": "RevisionNotFound"})
            return
        commit, files = repo["at"][revision]
        entries = [self._entry(*item) for item in files.items()]
        if found and found[1] == "tree":
            answer = entries
        elif found and found[1] == "paths-info":
            wanted = json.loads(body)["paths"]
            answer = [entry for entry in entries if entry["path"] in wanted]
        else:
            siblings = [{"rfilename": e["path"], "size": e["size"]} for e in entries]
            answer = {
                "id": name,
                "sha": commit,
                "siblings": siblings,
                "private": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                **repo["info"],
            }
        self._send(request, 200, json.dumps(answer).encode())

    def _entry(self, file, content):
        oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return {"type": "file", "path": file, "size": len(content), "oid": oid}

    def _resolve(self, request, kind, name, revision, file):
        repo = self._repo(request, kind, name)
        if repo is None:
            return
        commit, files = repo["at"].get(revision, (None, {}))
        content = files.get(file)
        if content is None:
            self._send(request, 404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        oid = self._entry(file, content)["oid"]
        headers = {"ETag": f'"{oid}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        span = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range") or "")
        if span:
            start, end = int(span[1]), min(int(span[2] or len(content)), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            self._send(request, 206, content[start : end + 1], headers)
        else:
            self._send(request, 200, content, headers)

    def _send(self, request, status, content, headers=None):
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            request.send_response(status)
            request.send_header("Content-Length", str(len(content)))
            request.send_header("Content-Type", "application/json")
            for key, value in (headers or {}).items():
                request.send_header(key, value)
            request.end_headers()
            if request.command != "HEAD":
                request.wfile.write(content)


def _as_bytes(files):
    return {name: v if isinstance(v, bytes) else v.encode() for name, v in files.items()}
