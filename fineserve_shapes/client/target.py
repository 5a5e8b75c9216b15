"""Target: a server's URL, and where on the server its API is found."""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.request import Api

_URL_TEXT = re.compile(r"[!-~]*")  # what may stand in a request line or a Host header
_VERSION = re.compile(r"v\d+((alpha|beta|p)\d*)?")  # v1, v4, v1beta, v1beta1, v1p1
_USERS = {Api.CHAT: ("chats", "ChatUser"), Api.COMPLETIONS: ("completions", "CompletionUser")}  # the longer path first


class Target:
    """Where requests go: a URL taken apart.

    path and query are as given, without a slash at the end. Raises InputError, which names the flag, for anything but
    http(s)://host[:port][/path][?query]. A name beyond ASCII is taken in its IDNA form.
    """

    def __init__(self, url: str, flag: str = "--host") -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise InputError(f"{url!r} is no URL: {error} ({flag})") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"{url!r} is no URL of a server, such as http://127.0.0.1:8000 ({flag})")
        if parts.username or parts.password or parts.fragment:
            raise InputError(f"the server's URL takes no user, password or fragment ({flag})")
        if port == 0:
            raise InputError(f"{url!r}: no server has port 0 ({flag})")
        try:
            self.host = parts.hostname.encode("idna").decode("ascii")
        except UnicodeError:
            raise InputError(f"{parts.hostname!r} cannot be the name of a server ({flag})") from None
        if not _URL_TEXT.fullmatch(self.host + parts.path + parts.query):
            raise InputError(f"{url!r} holds characters that a URL writes with % ({flag})")
        self.tls = parts.scheme == "https"
        self.port: int = port or (443 if self.tls else 80)
        self.path, self.query = parts.path.rstrip("/"), parts.query
        self.authority = f"[{self.host}]" if ":" in self.host else self.host
        if port is not None:
            self.authority += f":{port}"

    @property
    def origin(self) -> str:
        """Scheme and authority."""
        return f"{'https' if self.tls else 'http'}://{self.authority}"

    def __str__(self) -> str:
        return self.origin + self.path


class Endpoints:
    """Where on a server its API is: what `--host` and `--endpoint` say, as paths.

    Requests go to `<base>/completions` or `<base>/chat/completions`, and `<base>/models` is the list of models. A URL
    with a path that names a version of the API, in the path (v1, v4, v1beta) or in the query (api-version), is the base
    as it stands, as OpenAI's clients take it. Any other is a server's, whose API is below /v1. A whole endpoint has its
    base before it. The server's own pages, /metrics and /health, lie before the version.

    | URL                                            | base                  | pages at                |
    |------------------------------------------------|-----------------------|-------------------------|
    | https://h, https://h/, https://h/v1            | /v1                   | /metrics                |
    | https://h/proxy/team-a, .../team-a/v1          | /proxy/team-a/v1      | /proxy/team-a/metrics   |
    | https://h/openai/v1                            | /openai/v1            | /openai/metrics         |
    | https://h/v1beta/openai                        | /v1beta/openai        | /metrics                |
    | https://h/openai/deployments/d?api-version=1   | /openai/deployments/d | (no known server has them there) |
    | https://h/chat/completions                     | (empty)               | /metrics                |

    The URL's query goes with requests and with the list of models, and with no other page. endpoint: the path of
    requests outright, from the server's root, whatever the URL's path is; a query of its own takes the place of the
    URL's.
    """

    def __init__(self, target: Target, endpoint: str | None = None) -> None:
        self.target = target
        self._flag = "--host" if endpoint is None else "--endpoint"
        path, self._query = target.path, target.query
        self._request: str | None = None
        if endpoint is not None:
            path, _, query = endpoint.partition("?")
            if not path.startswith("/") or "#" in endpoint or not _URL_TEXT.fullmatch(endpoint):
                raise InputError(f"{endpoint!r} is no path from the server's root, such as {Api.CHAT} (--endpoint)")
            self._request, self._query = path, query or target.query
        self._api = next((api for api in _USERS if path.endswith(api.suffix)), None)
        if self._api is not None:
            self._request, self.base = path, path.removesuffix(self._api.suffix)
        else:
            self.base = target.path if _names_version(target) else f"{target.path}/v1"

    def request(self, api: Api) -> str:
        """The path of requests. Raises InputError where the URL is the endpoint of the other API."""
        if self._api is not None and self._api is not api:
            (theirs, user), (ours, _) = _USERS[self._api], _USERS[api]
            raise InputError(
                f"{self._request} takes {theirs}, and the locustfile sends {ours}: make its user a {user}, or ask at"
                f" {self.base}{api.suffix} ({self._flag})"
            )
        return self._with_query(self._request or self.base + api.suffix)

    @property
    def models(self) -> str:
        """The path of the list of models."""
        return self._with_query(f"{self.base}/models")

    def page(self, name: str) -> str:
        """The path of a page of the server's own, such as /metrics or /health."""
        parts = self.base.split("/")
        before = next((place for place, part in enumerate(parts) if _VERSION.fullmatch(part)), len(parts))
        return "/".join(parts[:before]) + name

    def _with_query(self, path: str) -> str:
        return f"{path}?{self._query}" if self._query else path


def unused_proxies(target: Target) -> list[str]:
    """The variables of the environment that name a proxy for the server: requests go past it, straight to the server.

    Not their values, which may hold a password.
    """
    if proxy_bypass(target.host):
        return []
    proxies = getproxies_environment()
    names = [f"{scheme}_proxy" for scheme in ("https" if target.tls else "http", "all") if scheme in proxies]
    return [name if name in os.environ else name.upper() for name in names]


def _names_version(target: Target) -> bool:
    if any(_VERSION.fullmatch(part) for part in target.path.split("/")):
        return True
    return target.path != "" and any(
        "version" in name.lower() for name, _ in parse_qsl(target.query, keep_blank_values=True)
    )
