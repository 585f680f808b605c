"""An S3 bucket: list, head and get with ranges and If-Match, as a signed-in client and a stranger see it."""

import hashlib
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

from tests.unit.models.sources.servers import Asked, Reply, ranged

BUCKET = "models"
KEY_ID = "BEEKEY"


@dataclass
class Bucket:
    """Objects by key; `public` lets strangers in, `page` is how many keys one answer lists."""

    objects: dict[str, bytes] = field(default_factory=dict)
    public: bool = True
    page: int = 2

    def answer(self, asked: Asked) -> Reply:
        bucket, _, key = asked.path.lstrip("/").partition("/")
        signed = f"Credential={KEY_ID}/" in asked.headers.get("authorization", "")
        if not signed and (not self.public or "authorization" in asked.headers):
            return _error(403, "AccessDenied")
        if bucket != BUCKET:
            return _error(404, "NoSuchBucket")
        return self._object(asked, key) if key else self._list(asked)

    def _object(self, asked: Asked, key: str) -> Reply:
        if key not in self.objects:
            return _error(404, "NoSuchKey")
        content = self.objects[key]
        if asked.headers.get("if-match", etag(content)) != etag(content):
            return _error(412, "PreconditionFailed")
        return ranged(asked, content, etag=etag(content), last_modified="Mon, 01 Jan 2024 00:00:00 GMT")

    def _list(self, asked: Asked) -> Reply:
        keys = sorted(key for key in self.objects if key.startswith(asked.query.get("prefix", "")))
        start = int(asked.query.get("continuation-token", "0"))
        shown, more = keys[start : start + self.page], start + self.page < len(keys)
        token = f"<NextContinuationToken>{start + self.page}</NextContinuationToken>" if more else ""
        entries = "".join(_entry(key, self.objects[key]) for key in shown)
        return Reply(
            200,
            f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>".encode(),
        )


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _entry(key: str, content: bytes) -> str:
    when = "2024-01-01T00:00:00.000Z"
    return (
        f"<Contents><Key>{escape(key)}</Key><LastModified>{when}</LastModified>"
        f"<ETag>{escape(etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
    )


def _error(status: int, code: str) -> Reply:
    return Reply(status, f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode())
