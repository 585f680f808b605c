"""What a refused certificate says about clocks: liveness never depends on them, but certificates have their time."""

import re
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

_NOT_YET, _OVER = 9, 10
"""Of OpenSSL, when it verifies: X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED."""

_REFUSED = ("CERTIFICATE_EXPIRED", "BAD_CERTIFICATE")
"""What the other end says of a certificate that is over, or has not begun."""

_VALIDITY = re.compile(rb"\x30\x1e\x17\x0d(\d{12})Z\x17\x0d(\d{12})Z")
"""In DER: a sequence of two UTCTimes, which a certificate has once. After 2049 they are another type."""


def doubt(error: BaseException, certificate: Path | None, now: Callable[[], float]) -> str:
    """Return a sentence about the clocks if `error`, of a call over TLS, may come from them, else an empty string.

    `certificate` is this process's own (PEM); `now` is in Unix seconds, as certificates are of wall clocks. An end
    that refuses ours may say why, or only hang up: that our own is outside its time is reason enough.
    """
    moment = datetime.fromtimestamp(now(), UTC)
    own = _own(certificate, moment)
    if own:
        return f"this host's clock says {_said(moment)}, {own}; set the clock (`timedatectl`) or run the deploy again"
    found = [each for each in _chain(error) if isinstance(each, ssl.SSLError)]
    ours = any(getattr(each, "verify_code", 0) in (_NOT_YET, _OVER) for each in found)
    if not ours and not any(word in (each.reason or "") for each in found for word in _REFUSED):
        return ""
    whose = "the other end's certificate is" if ours else "the other end takes this host's certificate to be"
    return f"{whose} outside its time; this host's clock says {_said(moment)}: compare `date -u` on both hosts"


def _own(certificate: Path | None, moment: datetime) -> str:
    """Return how far a moment is outside the time of a certificate, "" if it is within or nothing is known."""
    try:
        found = _VALIDITY.search(ssl.PEM_cert_to_DER_cert(_first(certificate))) if certificate is not None else None
    except (OSError, ValueError):
        return ""
    if found is None:
        return ""
    begin, end = (datetime.strptime(part.decode(), "%y%m%d%H%M%S").replace(tzinfo=UTC) for part in found.groups())
    if moment < begin:
        return f"{_span(begin - moment)} before its own certificate begins ({_said(begin)})"
    return f"{_span(moment - end)} after its own certificate ended ({_said(end)})" if moment > end else ""


def _first(certificate: Path) -> str:
    text = certificate.read_text(encoding="ascii")
    return text[: text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)]


def _span(length: object) -> str:
    return str(length).partition(".")[0]


def _said(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S UTC")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
