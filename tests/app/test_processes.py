"""The dashboard as a process: light, named safely, reachable from this machine only."""

import base64
import contextlib
import importlib
import importlib.util
import os
import pkgutil
import re
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import app
from app import __main__ as launcher

APP = Path(app.__file__).parent
VIEWS = sorted(APP.glob("views/[!_]*.py"))
LIBRARIES = [
    m.name
    for m in pkgutil.walk_packages(app.__path__, "app.")
    if not m.name.startswith("app.views.") and m.name != "app.main"
]


def test_no_module_brings_torch_into_the_server():
    """All modules and the imports of all pages, in a fresh interpreter."""
    program = f"""
import importlib, sys
for name in {LIBRARIES!r}:
    importlib.import_module(name)
heavy = {{"torch", "transformers", "datasets", "peft", "accelerate"}} & set(sys.modules)
print(sorted(heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("page", ["main.py", *(f"views/{p.name}" for p in VIEWS)])
def test_pages_import_only_what_the_modules_import(page):
    names = re.findall(r"^(?:from|import) ([\w.]+)", (APP / page).read_text(), re.MULTILINE)
    assert not {n.split(".")[0] for n in names} & {"torch", "transformers", "datasets", "peft"}


def test_no_file_shadows_another_module():
    """Streamlit puts app/ on sys.path while a page runs: a module there hides its namesakes.

    `locale` is the exception: Streamlit itself has long imported the standard one by then, which
    the next test holds.
    """
    own = {p.stem for p in APP.glob("*.py")} | {p.name for p in APP.iterdir() if p.is_dir()}
    own -= {"__init__", "__main__", "__pycache__", "locale", "static", ".streamlit"}
    assert not own & set(sys.stdlib_module_names)
    elsewhere = [p for p in sys.path if Path(p or ".").resolve() != APP]
    found = {n for n in own if importlib.machinery.PathFinder.find_spec(n, elsewhere)}
    assert found == set()


def test_standard_locale_is_imported_before_any_page_runs():
    program = "import sys, streamlit.web.bootstrap; print(sys.modules['locale'].__file__)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert str(APP) not in done.stdout


def test_settings_are_safe_and_carry_the_look():
    settings = launcher.settings(1234)
    assert settings["server.address"] == "127.0.0.1"
    assert settings["server.port"] == 1234
    assert settings["server.allowedHosts"] == ["localhost", "127.0.0.1"]
    assert settings["server.enableXsrfProtection"] is True
    assert settings["server.enableCORS"] is True
    assert settings["browser.gatherUsageStats"] is False
    assert settings["server.fileWatcherType"] == "none"
    assert settings["client.toolbarMode"] == "viewer"
    for mode in ("light", "dark"):
        assert len(settings[f"theme.{mode}.chartCategoricalColors"]) == 10
        assert len(settings[f"theme.{mode}.chartSequentialColors"]) == 10


def test_every_font_of_the_theme_is_shipped():
    for face in launcher.settings()["theme.fontFaces"]:
        assert (APP / "static" / Path(face["url"]).name).is_file()
    assert "SIL Open Font License" in (APP / "static" / "OFL.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("port", ["0", "70000", "http"])
def test_port_that_is_none_exits_2(port, capsys):
    with pytest.raises(SystemExit) as error:
        launcher.main(["--port", port])
    assert error.value.code == 2
    assert port in capsys.readouterr().err


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The real launcher, started in a directory that has a weaker config of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / ".streamlit").mkdir()
    (folder / ".streamlit" / "config.toml").write_text(
        '[server]\naddress = "0.0.0.0"\nallowedHosts = []\n', encoding="utf-8"
    )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, TRAINING_ADVISOR_HOME=str(folder / "home"))
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "--port", str(port)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    yield process, port
    process.terminate()
    process.wait(timeout=20)
    process.stdout.close()


@pytest.fixture(scope="module")
def port(server):
    """Its port, once it has said that it listens."""
    process, number = server
    assert process.stdout.readline() == f"Training Advisor is at http://127.0.0.1:{number}\n"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{number}/_stcore/health") as answer:
                if answer.status == 200:
                    return number
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not come up")


def upgrade(port, host, origin):
    """Status line of a WebSocket handshake."""
    key = base64.b64encode(b"0123456789abcdef").decode()
    request = (
        f"GET /_stcore/stream HTTP/1.1\r\nHost: {host}\r\nOrigin: {origin}\r\n"
        "Upgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        return connection.recv(200).split(b"\r\n")[0].decode()


def test_listens_on_loopback_only(server, port):
    import psutil

    listening = [
        c.laddr
        for c in psutil.Process(server[0].pid).net_connections(kind="inet")
        if c.status == psutil.CONN_LISTEN
    ]
    assert {address.ip for address in listening} == {"127.0.0.1"}


def test_own_page_may_connect(port):
    for name in (f"127.0.0.1:{port}", f"localhost:{port}", "localhost:9000"):  # a tunnel's port
        assert " 101 " in upgrade(port, name, f"http://{name}")


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1:{port}.evil.example", "http://127.0.0.1:1",
     "http://localhost:3000", "https://127.0.0.1:{port}", "http://localhost:{port}"],
)  # fmt: skip
def test_foreign_origin_is_refused(port, origin, table_row):
    origin = origin.format(port=port)
    assert " 403 " in upgrade(port, f"127.0.0.1:{port}", origin)
    for method, path in (("GET", "/"), ("PUT", "/_stcore/upload_file/a/b"), ("OPTIONS", "/")):
        status, _ = ask(port, path, method=method, origin=origin)
        assert " 403 " in status, (method, path)
    table_row(
        "security",
        "page of another origin, also of another port of this machine",
        "WebSocket, GET, PUT of an upload, OPTIONS",
        "403",
    )


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0:{port}",
             "localhost.evil.example:{port}", "localhost:80:{port}x", "user@127.0.0.1", ""],
)  # fmt: skip
def test_foreign_host_is_refused(port, host, table_row):
    """DNS rebinding: a foreign name that resolves to this machine."""
    host = host.format(port=port)
    assert " 101 " not in upgrade(port, host, f"http://{host}")
    for path in ("/", "/_stcore/health", "/_stcore/host-config", "/app/static/OFL.txt", "/run"):
        status, _ = ask(port, path, host=host)
        assert " 403 " in status or " 400 " in status, path
    table_row(
        "security",
        "foreign name in Host (DNS rebinding), in 8 forms",
        "WebSocket and every kind of page",
        "403",
    )


@pytest.mark.parametrize(
    "path",
    [
        "/app/static/../main.py",
        "/app/static/%2e%2e/main.py",
        "/app/static/..%2fmain.py",
        "/app/static/....//main.py",
        "/app/static//etc/passwd",
        "/app/static/%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/static/../../../../../../etc/passwd",
        "/media/../../../etc/passwd",
        "/media/%2fetc%2fpasswd",
        "/component/streamlit.x/%2e%2e/%2e%2e/etc/passwd",
        "/_stcore/component/x/../../../etc/passwd",
    ],
)
def test_no_file_but_the_static_ones_is_served(port, path, table_row):
    status, body = ask(port, path)
    assert "root:" not in body
    assert "set_page_config" not in body
    assert " 400 " in status or " 404 " in status
    if path.endswith("2fpasswd"):
        table_row(
            "security",
            "path traversal in static files, media, components",
            "..  %2e%2e  %2f  //  in 11 forms",
            "400 or 404, no byte of a file",
        )


def ask(port, path, *, method="GET", host=None, origin=None):
    """Status line and body of a request sent exactly as written; urllib would tidy the path."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {f'127.0.0.1:{port}' if host is None else host}"]
    lines += [f"Origin: {origin}"] if origin else []
    request = "\r\n".join([*lines, "Connection: close", "Content-Length: 0", "", ""])
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", "replace")
    head, _, body = answer.partition("\r\n\r\n")
    return head.split("\r\n")[0], body


def test_fonts_are_served_whatever_the_directory(port):
    url = f"http://127.0.0.1:{port}/app/static/plex-sans-400.woff2"
    with urllib.request.urlopen(url) as answer:
        assert answer.read(4) == b"wOF2"


def test_port_in_use_exits_2_and_names_it(port):
    done = subprocess.run(
        [sys.executable, "-m", "app", "--port", str(port)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert f"Port {port} on 127.0.0.1 is in use" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def bare_port(tmp_path_factory):
    """The port of `streamlit run app/main.py`, which has not the launcher's guard."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, TRAINING_ADVISOR_HOME=str(tmp_path_factory.mktemp("home")))
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlit", "run", APP / "main.py", "--server.port", str(port)],
        cwd=APP.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if " 200 " in ask(port, "/_stcore/health")[0]:
                break
        time.sleep(0.1)
    yield port
    process.terminate()
    process.wait(timeout=20)


def first_words(port, origin):
    """What a WebSocket of that origin is shown until the script has ended, as one text."""
    from streamlit.proto.BackMsg_pb2 import BackMsg
    from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
    from websockets.sync.client import connect

    shown = []
    with connect(f"ws://127.0.0.1:{port}/_stcore/stream", origin=origin) as stream:
        ask_for_page = BackMsg()
        ask_for_page.rerun_script.query_string = ""
        stream.send(ask_for_page.SerializeToString())
        while True:
            message = ForwardMsg()
            message.ParseFromString(stream.recv(timeout=60))
            shown.append(str(message))
            if message.WhichOneof("type") == "script_finished" or "navigation {" in shown[-1]:
                return "\n".join(shown)


def test_without_the_launcher_a_page_of_another_port_is_shown_nothing(bare_port):
    own = first_words(bare_port, f"http://127.0.0.1:{bare_port}")
    assert "navigation {" in own
    foreign = first_words(bare_port, "http://127.0.0.1:1")
    assert "navigation {" not in foreign
    assert "Refused: this program answers pages that it served itself" in foreign
