"""Where the queen is and who asks: options and environment, then what a queen on this machine left for its user."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from rbee_runtime import ports
from rbee_runtime.errors import ConfigError

DEFAULT_URL = f"http://127.0.0.1:{ports.QUEEN_PORT}"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Settings:
    """How to reach one queen; the key never shows in a printed form."""

    url: str
    key: "Key"
    ca: Path | None = None

    def verify(self) -> ssl.SSLContext | bool:
        """Return what certificates of the queen are checked against: `ca`, else the system's authorities."""
        if self.ca is None:
            return True
        try:
            return ssl.create_default_context(cafile=self.ca)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cannot use the certificates in {self.ca}: {error}") from error


class Key:
    """An API key; only `reveal` gives it away."""

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the key itself, for a request header."""
        return self._text

    def __repr__(self) -> str:
        return "Key(***)" if self._text else "Key()"


def settle(url: str, key: str, key_file: Path | None, ca: Path | None) -> Settings:
    """Return settings from options, or raise ConfigError."""
    host = _host(url)
    if not key and key_file is not None:
        key = _read(key_file)
    if not key and host in _LOOPBACK:
        key = _own_key()
    return Settings(url.rstrip("/").removesuffix("/v1"), Key(_printable(key.strip())), ca)


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts.hostname
    except ValueError:
        # A port out of range, or half a pair of brackets.
        pass
    raise ConfigError(f"--url {url!r} is not an address: write http://HOST:{ports.QUEEN_PORT} or https://…")


def _own_key() -> str:
    path = ports.user_root() / "queen" / "api-key"
    return _read(path) if path.is_file() else ""


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(f"cannot read the API key in {path}: {reason}") from error


def _printable(key: str) -> str:
    if not key.isascii() or not key.isprintable():
        raise ConfigError("the API key holds characters that no key has; check --api-key-file")
    return key
