"""What every request passes before its route: whether the server still takes requests, the key, the Host."""

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import LOG, ApiError, busy, error_response
from .running import Server

LOCAL_NAMES = ("localhost",)


class Guard:
    """ASGI middleware. `open_paths` need no key: what says nothing about models and texts."""

    def __init__(self, app: ASGIApp, server: Server, open_paths: Collection[str]) -> None:
        self._app, self._server, self._open_paths = app, server, frozenset(open_paths)
        self._keys = [key.encode() for key in server.settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.setdefault("x-content-type-options", "nosniff")
                if self._server.draining:
                    headers["connection"] = "close"
            await send(message)

        self._server.n_requests += 1
        try:
            problem = self._problem(scope)
            app = self._app if problem is None else error_response(problem, scope["path"])
            await app(scope, receive, counted)
        except Exception:
            status = status or 500  # sent by the middleware around this one
            raise
        finally:
            self._server.n_requests -= 1
            route = getattr(scope.get("route"), "path", None) or getattr(scope.get("endpoint"), "__name__", "other")
            key = (str(route), status)
            self._server.responses[key] = self._server.responses.get(key, 0) + 1
            seconds = time.perf_counter() - started
            LOG.debug("%s %s %d %.3f s", scope["method"], route, status, seconds)

    def _problem(self, scope: Scope) -> ApiError | None:
        headers = Headers(scope=scope)
        if self._server.draining:
            return busy("the server is shutting down", 5, code="shutting_down")
        if self._server.settings.only_local_hosts and not is_local(headers.get("host", "")):
            return ApiError(403, "this server answers to localhost and to addresses only", code="foreign_host")
        if not self._keys:
            return None
        given = (headers.get("x-api-key") or _bearer(headers.get("authorization", ""))).encode()
        matches = [hmac.compare_digest(given, key) for key in self._keys]  # all, so that the time says nothing
        if any(matches):
            scope["maskprobe.key"] = hashlib.sha256(given).hexdigest()
            return None
        if scope["path"] in self._open_paths:
            return None
        said = "is wrong" if given else "is missing: Authorization: Bearer KEY, or x-api-key"
        return ApiError(401, f"the API key {said}", code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _bearer(authorization: str) -> str:
    scheme, _, key = authorization.partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def is_local(host: str) -> bool:
    """Whether a Host header has an address, or a name of this machine. A page on a foreign name that points here has
    that name in it."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    if name.lower() in LOCAL_NAMES or name.lower().endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
