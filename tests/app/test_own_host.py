"""Which requests are this machine's own; the real server is asked in test_processes."""

import asyncio

import pytest

from app.own_host import OwnHostOnly, is_own


def headers(host, *origins):
    return [(b"Host", host.encode()), *((b"Origin", origin.encode()) for origin in origins)]


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8501", "localhost:8501", "LOCALHOST:9000", "localhost"]
)
def test_own_names_pass_with_any_port(host):
    assert is_own(headers(host))
    assert is_own(headers(host, f"http://{host}"))
    assert not is_own(headers(host, f"http://{host}", "http://evil.example"))


@pytest.mark.parametrize(
    "given",
    [
        [],
        headers("evil.example"),
        headers("localhost.") + headers("localhost"),
        headers("localhost:80@evil.example"),
        headers("localhost:"),
        headers("127.0.0.1:8501", "http://127.0.0.1:8502"),
        headers("127.0.0.1:8501", ""),
    ],
)
def test_all_else_is_foreign(given):
    assert not is_own(given)


def test_life_of_the_server_is_passed_on():
    seen = []

    async def application(scope, receive, send):
        seen.append(scope["type"])

    asyncio.run(OwnHostOnly(application)({"type": "lifespan"}, None, None))
    assert seen == ["lifespan"]
