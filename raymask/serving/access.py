"""What every request passes on its way in, and every answer on its way out: hosts, origins, a token, headers, the log."""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from raymask.core.errors import InputError

log = logging.getLogger("raymask.requests")

OPEN_PATHS = ("/", "/health", "/docs", "/redoc", "/openapi.json")
OPEN_FOLDERS = ("/docs/", "/static-offline-docs/")
"""What needs no token: the page, which asks for it, readiness, and how to ask. All else does: answers and metrics."""
MIN_TOKEN = 16
MAX_HEADERS, MAX_HEADER_BYTES = 100, 16_384
METHODS, TAKEN_HEADERS = "GET, HEAD, POST", "authorization, content-type"

NOTHING = "default-src 'none'; frame-ancestors 'none'"
PAGES = {
    "/": (
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "/docs": (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; script-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "font-src 'self' data:; connect-src 'self'; worker-src blob:; base-uri 'none'; frame-ancestors 'none'"
    ),
}
"""What a page may load and do: nothing from elsewhere."""
PAGES["/redoc"] = PAGES["/docs"]
ALWAYS = {"X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer"}


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    token: str = ""
    """What a request must carry as `Authorization: Bearer TOKEN`; "" for nothing."""
    hosts: tuple[str, ...] = ()
    """Names that a request may ask for by its `Host`, without ports; none for any."""
    origins: tuple[str, ...] = ()
    """Pages of other servers that may ask, such as https://example.com; `*` for all."""

    @classmethod
    def checked(cls, token_file: Path | None, hosts: Sequence[str], origins: Sequence[str]) -> Access:
        """What an operator gives; without a file the token is that of the environment's RAYMASK_TOKEN.

        Raises:
            InputError: the token cannot be read or sent, a host has a port, or an origin is none.
        """
        for host in hosts:
            if not host or _name_of(host) != host.lower():
                raise InputError(f"--allow-host is {host!r}; give a name or an address, without scheme and port.")
        for origin in origins:
            parts = urlsplit(origin)
            if origin not in ("*", "null") and (
                not (parts.scheme and parts.netloc) or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise InputError(f"--allow-origin is {origin!r}; give one such as https://example.com, without a path.")
        return cls(_read_token(token_file), tuple(host.lower() for host in hosts), tuple(origins))


def _read_token(file: Path | None) -> str:
    try:
        token = file.read_text("ascii").strip() if file else os.environ.get("RAYMASK_TOKEN", "")
    except (OSError, ValueError) as error:
        raise InputError(
            f"the token cannot be read from '{file}' ({getattr(error, 'strerror', None) or 'it is no text'})."
        ) from None
    if file and not token:
        raise InputError(f"'{file}' holds no token; write one line of letters and digits into it.")
    if token and (len(token) < MIN_TOKEN or not re.fullmatch(r"[\w.~+/=-]+", token, re.ASCII)):
        what = f"the token has fewer than {MIN_TOKEN} letters, or others than a header takes"
        raise InputError(f"{what}; make one by `openssl rand -hex 32`.")
    return token


class Guard:
    """An ASGI app around another one."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request pass or refuses it, and takes note of it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        passage = _Passage(scope, self.access, send)
        headers = Headers(scope=scope)
        try:
            refused = refusal_of(scope, headers, self.access)
            if refused or (scope["method"] == "OPTIONS" and "access-control-request-method" in headers):
                await passage.answer(*(refused or (204, "")))
            else:
                asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
                asked.setdefault("state", {})
                await self.app(asked, passage.counted(receive), passage.send)
        finally:
            passage.note(scope.get("state", {}))


def refusal_of(scope: Scope, headers: Headers, access: Access) -> tuple[int, str] | None:
    """Status and sentence of what does not pass."""
    raw = scope["headers"]
    if len(raw) > MAX_HEADERS or sum(len(name) + len(value) for name, value in raw) > MAX_HEADER_BYTES:
        return 431, f"The request has too many headers; send at most {MAX_HEADERS}, and {MAX_HEADER_BYTES // 1024} kB of them."
    host = headers.get("host", "")
    if access.hosts and _name_of(host) not in access.hosts:
        return 421, f"This server does not answer for the host {host[:200]!r}; its operator may add it by --allow-host."
    origin = headers.get("origin")
    if origin is not None and scope["method"] == "POST" and not _may_ask(origin, host, headers, access):
        return 403, f"Pages of {origin[:200]!r} may not ask this server; its operator may add it by --allow-origin."
    preflight = scope["method"] == "OPTIONS"  # a browser sends it without the token
    if access.token and not preflight and not _is_open(scope["path"]) and not _holds(headers, access.token):
        return 401, "This needs the server's token; send it in the header 'Authorization: Bearer TOKEN'."
    return None


def _name_of(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _may_ask(origin: str, host: str, headers: Headers, access: Access) -> bool:
    """Whether a page's request is from this server's own page or from one that is allowed."""
    own = headers.get("sec-fetch-site") == "same-origin" or origin.partition("://")[2] == host
    return own or "*" in access.origins or origin in access.origins


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)


def _holds(headers: Headers, token: str) -> bool:
    """Whether a request carries the token; how long this takes says nothing of it."""
    kind, _, given = headers.get("authorization", "").partition(" ")
    return hmac.compare_digest(given.strip().encode(), token.encode()) and kind.lower() == "bearer"


class _Passage:
    """One request on its way: what its answer gets, and what the log says of it."""

    def __init__(self, scope: Scope, access: Access, send: Send) -> None:
        self.scope, self.access, self.sent = scope, access, send
        self.began, self.status, self.bytes = time.perf_counter(), 0, 0

    def counted(self, receive: Receive) -> Receive:
        """Counts the bytes of the body."""

        async def counting() -> Message:
            message = await receive()
            self.bytes += len(message.get("body", b""))
            return message

        return counting

    async def send(self, message: Message) -> None:
        """Sends on, with the headers of every answer, and no body where none was asked for."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._add(MutableHeaders(raw=message.setdefault("headers", [])))
        elif self.scope["method"] == "HEAD":
            message = {**message, "body": b""}
        await self.sent(message)

    def _add(self, headers: MutableHeaders) -> None:
        policy = PAGES.get(self.scope["path"], NOTHING) if self.status == 200 else NOTHING
        for name, value in {**ALWAYS, "Content-Security-Policy": policy}.items():
            headers[name] = value
        if not self.scope["path"].startswith(OPEN_FOLDERS):
            headers["Cache-Control"] = "no-store"
        origin = Headers(scope=self.scope).get("origin")
        if origin is not None and ("*" in self.access.origins or origin in self.access.origins):
            headers["Access-Control-Allow-Origin"] = origin
            headers["Vary"] = "Origin"
            headers["Access-Control-Allow-Methods"], headers["Access-Control-Allow-Headers"] = METHODS, TAKEN_HEADERS

    async def answer(self, status: int, sentence: str) -> None:
        """An answer without the app."""
        body = json.dumps({"error": sentence}).encode() if sentence else b""
        headers = [(b"content-length", str(len(body)).encode())] if sentence else []
        headers += [(b"content-type", b"application/json")] if sentence else []
        headers += [(b"www-authenticate", b"Bearer")] if status == 401 else []
        headers += [(b"connection", b"close")] if status >= 400 else []
        await self.send({"type": "http.response.start", "status": status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    def note(self, state: Mapping[str, Any]) -> None:
        """A line in the log: client, method, path, status, milliseconds, bytes of the body, images."""
        client = (self.scope.get("client") or ("-",))[0]  # behind a proxy of this machine, what that says
        path = self.scope.get("raw_path") or self.scope["path"].encode("utf-8", "replace")
        fields = (client, self.scope["method"], path.decode("ascii", "backslashreplace"))
        who, how, where = (text.translate(CONTROL)[:200] for text in fields)
        milliseconds = 1000 * (time.perf_counter() - self.began)
        status, images = self.status or 499, state.get("images", 0)
        log.info("%s %s %s %d %.1fms %dB %d images", who, how, where, status, milliseconds, self.bytes, images)


CONTROL = {number: f"\\x{number:02x}" for number in (*range(33), 127)}
"""What would break a line of the log."""
