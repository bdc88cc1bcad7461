"""Starts the dashboard: binds 127.0.0.1, runs Streamlit's server in this process until it ends.

The settings come from `app/.streamlit/config.toml`, the one place they are written. They are handed
to Streamlit as overrides, so that neither the working directory nor a file in the home directory
weakens them.
"""

import argparse
import asyncio
import contextlib
import errno
import socket
import sys
import tomllib
import webbrowser
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.middleware import Middleware

from advisor.errors import AdvisorError
from advisor.recommend import Question
from app import cache
from app.own_host import OwnHostOnly

APP_DIR = Path(__file__).resolve().parent
ADDRESS = "127.0.0.1"
DEFAULT_PORT = 8501


def main(argv: Sequence[str] | None = None) -> int:
    """Run the dashboard until it is interrupted.

    Args:
        argv: arguments without the program's name; None reads sys.argv.

    Returns:
        0 after a normal end, 2 when the port cannot be bound.
    """
    options = _parser().parse_args(argv)
    problem = _port_problem(options.port)
    if problem:
        print(problem, file=sys.stderr)
        return 2

    @contextlib.asynccontextmanager
    async def announce(_app: st.App) -> AsyncIterator[None]:
        await asyncio.to_thread(_prepare_first_answer)
        url = f"http://{ADDRESS}:{st.get_option('server.port')}"
        print(f"Training Advisor is at {url}", flush=True)
        if options.browser:
            webbrowser.open(url)
        yield

    # Streamlit puts the launcher's directory at the front of sys.path. Ours must not be app/, whose
    # modules would then be importable under a second name.
    sys.argv = [str(APP_DIR.parent / "training-advisor-ui")]
    guards = [Middleware(OwnHostOnly)]
    st.App(APP_DIR / "main.py", lifespan=announce, middleware=guards).run(
        config=settings(options.port)
    )
    return 0


def _prepare_first_answer() -> None:
    """Answer the question the page opens on, so that it is there when the page is."""
    # The page asks again and shows the sentence where it belongs.
    with contextlib.suppress(AdvisorError):
        _, rest = cache.Asking(Question()).first(lambda _progress: None)
        if rest is not None:
            rest.go_on()


def settings(port: int = DEFAULT_PORT) -> dict[str, Any]:
    """Every setting of the server and the theme, keyed as Streamlit keys them ("server.port")."""
    with (APP_DIR / ".streamlit" / "config.toml").open("rb") as file:
        flat = _flatten(tomllib.load(file))
    return flat | {
        "server.port": port,
        "logger.hideWelcomeMessage": True,
        "global.developmentMode": False,
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m app", description="Training Advisor's dashboard, on this machine only."
    )
    parser.add_argument(
        "--port", type=_port, default=DEFAULT_PORT, metavar="N", help="default %(default)s"
    )
    parser.add_argument("--browser", action="store_true", help="open the page in a browser")
    return parser


def _port(text: str) -> int:
    try:
        port = int(text)
    except ValueError:
        port = -1
    if not 1 <= port <= 65535:
        raise argparse.ArgumentTypeError(f"a port is a number from 1 to 65535, got {text!r}")
    return port


def _port_problem(port: int) -> str | None:
    """Why the port cannot be bound, as one sentence that says what to do; None when it can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, port))
        except OSError as error:
            why = "is in use" if error.errno == errno.EADDRINUSE else f"failed: {error.strerror}"
            return f"Port {port} on {ADDRESS} {why}; choose another one with --port N."
    return None


def _flatten(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


if __name__ == "__main__":
    sys.exit(main())
