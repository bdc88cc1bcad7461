"""Answers requests that name this machine alone, from the page it served itself. Pure ASGI.

Streamlit checks hosts and origins of its WebSocket only, and there any port of this machine passes.
A foreign name in Host is DNS rebinding: a page of the internet whose name was made to lead here. A
foreign Origin is any other page, also one that another program serves on this machine.
"""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

HOSTS = ("127.0.0.1", "localhost")
_REFUSAL = (
    b"Refused: this server answers pages that it served itself, under 127.0.0.1 or localhost.\n"
)


class OwnHostOnly:
    """Middleware that refuses what is not for, or not from, this server's own page."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] not in ("http", "websocket") or is_own(scope["headers"]):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": _REFUSAL})
        else:
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008})  # 403 before it is accepted


def is_own(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request's headers name this machine, and its own page as their origin.

    The port may be another one than the server's: a tunnel (ssh -L) has its own.
    """
    given: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        given.setdefault(name.lower(), []).append(value.strip().lower())
    (host, *more), origins = given.get(b"host", [b""]), given.get(b"origin", [])
    name, separator, port = host.decode("latin-1").rpartition(":")
    if not separator:
        name = port
    elif not port.isdecimal():
        return False
    return not more and name in HOSTS and all(origin == b"http://" + host for origin in origins)
