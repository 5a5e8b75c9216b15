"""What a process shows to others: its ports, its routes."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from runs import REPLAY, cluster, free_port

LOGIN = """
import flask
import flask_login
from locust import events


class Someone(flask_login.UserMixin):
    def get_id(self):
        return "someone"


@events.init.add_listener
def on_init(environment, **_):
    if environment.web_ui:
        environment.web_ui.login_manager.user_loader(lambda name: Someone())
        environment.web_ui.app.secret_key = "not one"


"""


def listening(port: int) -> set[str]:
    """The addresses on which someone listens on a port, as the kernel writes them."""
    lines = Path("/proc/net/tcp").read_text().splitlines() + Path("/proc/net/tcp6").read_text().splitlines()
    found = [line.split() for line in lines]
    return {row[1].split(":")[0] for row in found if row[3] == "0A" and int(row[1].split(":")[1], 16) == port}


@pytest.mark.parametrize(
    ("arguments", "addresses"), [((), {"0100007F"}), (("--master-bind-host", "0.0.0.0"), {"00000000"})]
)
def test_the_masters_port_takes_this_machine_alone_unless_told_otherwise(
    tmp_path: Path, arguments: tuple[str, ...], addresses: set[str]
) -> None:
    port = free_port()
    with cluster(tmp_path) as locust:
        process = locust.start("--master", "--master-bind-port", port, "--web-host", "127.0.0.1", "--web-port",
                               free_port(), *arguments)  # fmt: skip
        output = locust.await_output(process, "Starting web interface")
        assert listening(port) == addresses
        if arguments:
            output = locust.await_output(process, "neither encrypted nor authenticated")
        assert ("whoever reaches it can take part" in output) == bool(arguments)


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


def test_with_a_login_no_run_starts_without_one(tmp_path: Path) -> None:
    file = tmp_path / "login.py"
    file.write_text(LOGIN + REPLAY.read_text())
    with cluster(tmp_path) as locust:
        port = free_port()
        process = locust.start("--web-login", "--web-host", "127.0.0.1", "--web-port", port, file=file)
        locust.await_output(process, "Starting web interface")
        request = urllib.request.Request(f"http://127.0.0.1:{port}/swarm", b"user_count=1&spawn_rate=1")
        assert status_of(request) in (302, 401)
        assert not re.search(r"plan [0-9a-f]{16}", locust.output(process))


def status_of(request: urllib.request.Request) -> int:
    """The status of the answer, as soon as there is one."""
    opener = urllib.request.build_opener(_Stay)
    until_s = time.monotonic() + 20
    while time.monotonic() < until_s:
        try:
            return int(opener.open(request, timeout=10).status)
        except urllib.error.HTTPError as error:
            return error.code
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError("no answer")
