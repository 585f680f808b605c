"""A hub: repositories of files by commit, speaking the part of the hub's HTTP API that huggingface_hub uses."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from tests.unit.models.sources.servers import Asked, Reply, ranged

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"
TOKEN = "hf_right"
REPOSITORY = "acme/bee"


@dataclass
class Hub:
    """One repository with the branch `main`; `cdn` is the other host that holds its large files."""

    files: Mapping[str, bytes]
    gated: bool = False
    private: bool = False
    accepted: bool = False
    cdn: str = ""
    down: bool = False
    damaged: set[str] = field(default_factory=set)
    commit: str = COMMIT
    token: str = TOKEN

    def answer(self, asked: Asked) -> Reply:
        if self.down:
            return Reply(503, b"{}")
        token = asked.headers.get("authorization")
        if token not in {None, f"Bearer {self.token}"}:
            return _error(401, "", "Invalid credentials in Authorization header")
        if asked.path == "/api/models":
            return _json([{"id": REPOSITORY}, {"id": "acme/wasp"}])
        if self.private and token is None:
            return _error(401, "RepoNotFound", "Repository not found")
        head, _, rest = asked.path.removeprefix("/api/models").lstrip("/").partition(REPOSITORY)
        if head or rest[:1] not in {"", "/"}:
            return _error(404 if token else 401, "RepoNotFound", "Repository not found")
        return self._api(rest) if asked.path.startswith("/api/") else self._file(asked, rest, token)

    def _api(self, rest: str) -> Reply:
        if rest == "/refs":
            return _json({"branches": [_ref("main"), _ref("quants")], "tags": [], "converts": []})
        if rest.startswith("/tree/"):
            return _json([_entry(name, content) for name, content in self.files.items()])
        revision = rest.removeprefix("/revision/") or "main"
        if revision not in {"main", self.commit, OLDER}:
            return _error(404, "RevisionNotFound", "Invalid rev id")
        siblings = [_sibling(name, content) for name, content in self.files.items()]
        gated = "auto" if self.gated else False
        return _json({"id": REPOSITORY, "sha": self.commit, "gated": gated, "siblings": siblings})

    def _file(self, asked: Asked, rest: str, token: str | None) -> Reply:
        commit, _, name = rest.removeprefix("/resolve/").partition("/")
        if self.gated and not (token and self.accepted):
            return _error(403 if token else 401, "GatedRepo", "Access to model is restricted")
        if commit not in {"main", self.commit} or name not in self.files:
            return _error(404, "EntryNotFound", "Entry not found")
        if self.cdn and is_large(name):
            return Reply(302, b"", {"location": f"{self.cdn}/{name}", "x-repo-commit": self.commit})
        content = self.files[name]
        sent = content[::-1] if name in self.damaged else content
        return ranged(asked, sent, etag=f'"{_content_name(name, content)}"', x_repo_commit=self.commit)

    def content(self, asked: Asked) -> Reply:
        """Answer as the other host."""
        return ranged(asked, self.files[asked.path.lstrip("/")], etag='"of the other host"')


def is_large(name: str) -> bool:
    return name.endswith((".gguf", ".safetensors"))


def git_name(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def _sibling(name: str, content: bytes) -> dict[str, object]:
    entry: dict[str, object] = {"rfilename": name, "size": len(content), "blobId": git_name(content)}
    if is_large(name):
        entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
    return entry


def _entry(name: str, content: bytes) -> dict[str, object]:
    sibling = _sibling(name, content)
    lfs = {"lfs": {"oid": _content_name(name, content), "size": len(content), "pointerSize": 134}}
    entry = {"type": "file", "path": name, "size": len(content), "oid": sibling["blobId"]}
    return entry | (lfs if is_large(name) else {})


def _content_name(name: str, content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if is_large(name) else git_name(content)


def _ref(name: str) -> dict[str, str]:
    return {"name": name, "ref": f"refs/heads/{name}", "targetCommit": COMMIT}


def _json(value: object) -> Reply:
    return Reply(200, json.dumps(value).encode(), {"content-type": "application/json"})


def _error(status: int, code: str, message: str) -> Reply:
    return Reply(status, json.dumps({"error": message}).encode(), {"x-error-code": code, "x-error-message": message})
