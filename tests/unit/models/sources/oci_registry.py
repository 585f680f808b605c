"""A registry: manifests and blobs of one repository, behind no login, a basic one, or a token's."""

import base64
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.unit.models.sources.servers import Asked, Reply, ranged

REPOSITORY = "acme/bee"
TOKEN = "a-token"
BASIC = base64.b64encode(b"keeper:honey").decode()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
TITLE = "org.opencontainers.image.title"
FILE = "application/octet-stream"
TAR = "application/vnd.oci.image.layer.v1.tar"


@dataclass
class Registry:
    """`login` is "", "basic" or "bearer"; `cdn` is another host that sends the blobs."""

    login: str = ""
    cdn: str = ""
    url: str = ""
    broken: bool = False
    tags: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)

    def answer(self, asked: Asked) -> Reply:
        if asked.path == "/token":
            return self._token(asked)
        if self.login and asked.headers.get("authorization") not in {f"Bearer {TOKEN}", f"Basic {BASIC}"}:
            return Reply(401, b"{}", {"www-authenticate": self._challenge()})
        if asked.path == "/v2/":
            return Reply(200, b"{}")
        kind, _, name = asked.path.removeprefix(f"/v2/{REPOSITORY}/").partition("/")
        if kind == "manifests" and name in self.tags:
            return Reply(200, self.tags[name], {"content-type": MANIFEST})
        if kind == "blobs" and name in self.blobs:
            return Reply(307, b"", {"location": f"{self.cdn}/{name}"}) if self.cdn else self.content(asked)
        return Reply(404, b"{}")

    def content(self, asked: Asked) -> Reply:
        """Send a blob, as the other host does."""
        content = self.blobs[asked.path.rpartition("/")[2]]
        return ranged(asked, content[:-1] + b"!" if self.broken else content)

    def blob(self, content: bytes) -> str:
        self.blobs[digest(content)] = content
        return digest(content)

    def push(self, tag: str, document: Mapping[str, object]) -> str:
        body = json.dumps(document).encode()
        self.tags[tag] = self.tags[digest(body)] = body
        return digest(body)

    def artefact(self, files: Mapping[str, bytes], *, tag: str = "latest", kind: str = FILE) -> str:
        layers = [layer(self.blob(content), len(content), kind, name) for name, content in files.items()]
        return self.push(tag, {"mediaType": MANIFEST, "layers": layers})

    def image(self, layers: Sequence[bytes], *, tag: str = "latest", kind: str = TAR) -> str:
        listed = [layer(self.blob(content), len(content), kind) for content in layers]
        return self.push(tag, {"mediaType": MANIFEST, "layers": listed})

    def _token(self, asked: Asked) -> Reply:
        if asked.headers.get("authorization") not in {None, f"Basic {BASIC}"}:
            return Reply(401, b"{}")
        right = asked.query == {"service": "bees", "scope": f"repository:{REPOSITORY}:pull"}
        return Reply(200, json.dumps({"token": TOKEN}).encode()) if right else Reply(400, b"{}")

    def _challenge(self) -> str:
        if self.login == "basic":
            return 'Basic realm="bees"'
        return f'Bearer realm="{self.url}/token",service="bees",scope="repository:{REPOSITORY}:pull"'


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def layer(name: str, size: int, kind: str, title: str = "") -> dict[str, object]:
    return {"mediaType": kind, "digest": name, "size": size} | ({"annotations": {TITLE: title}} if title else {})


def tar(files: Mapping[str, bytes | str | None], *, form: int = tarfile.PAX_FORMAT) -> bytes:
    """Return an archive: bytes are a file, a text is a symbolic link to it, None a folder."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w", format=form) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = (tarfile.SYMTYPE, content) if content else (tarfile.DIRTYPE, "")
                archive.addfile(info)
    return written.getvalue()
