"""URLs taken apart, and where on a server its API is."""

from __future__ import annotations

import pytest

from fineserve_shapes.client.target import Endpoints, Target, unused_proxies
from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.request import Api

SUFFIXES = {Api.CHAT: "/chat/completions", Api.COMPLETIONS: "/completions"}


def refusal(url: str, api: Api = Api.CHAT, endpoint: str | None = None) -> str:
    with pytest.raises(InputError) as refused:
        Endpoints(Target(url), endpoint).request(api)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", ("127.0.0.1", 8000, "", "", "127.0.0.1:8000", False)),
        ("http://127.0.0.1:8000/", ("127.0.0.1", 8000, "", "", "127.0.0.1:8000", False)),
        ("http://127.0.0.1:8000/v1/", ("127.0.0.1", 8000, "/v1", "", "127.0.0.1:8000", False)),
        ("https://host.example/deep/path", ("host.example", 443, "/deep/path", "", "host.example", True)),
        ("https://host.example/a/?b=c&d", ("host.example", 443, "/a", "b=c&d", "host.example", True)),
        ("https://host.example?b=c", ("host.example", 443, "", "b=c", "host.example", True)),
        ("http://[::1]:8000/v1", ("::1", 8000, "/v1", "", "[::1]:8000", False)),
        ("https://[::1]", ("::1", 443, "", "", "[::1]", True)),
        ("HTTP://localhost:", ("localhost", 80, "", "", "localhost", False)),
        ("http://bücher.example", ("xn--bcher-kva.example", 80, "", "", "xn--bcher-kva.example", False)),
    ],
)
def test_a_url_is_taken_apart(url: str, expected: tuple[str, int, str, str, str, bool]) -> None:
    target = Target(url)
    assert (target.host, target.port, target.path, target.query, target.authority, target.tls) == expected


def test_a_target_is_shown_without_its_query_which_may_hold_a_key() -> None:
    assert str(Target("HTTPS://Host.example:8443/a/?key=secret")) == "https://host.example:8443/a"


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:8000", "127.0.0.1", "ftp://host", "http://", "http:///v1", "http://:8000", "host.example/v1"),
        *("http://host:0", "http://host:65536", "http://host:x", "http://[::1", "http://user:secret@host"),
        *("http://host?a b", "http://host/#fragment", "http://host/a b", "http://ho st", "http://host/ä"),
        *("http://a..b", "http://.host", "http://" + 64 * "a", "http://ho\x00st", "http://host/\x7f"),
    ],
)
def test_what_is_no_url_of_a_server_is_refused_in_one_line(url: str) -> None:
    text = refusal(url)
    assert "--host" in text
    assert "secret" not in text


def test_a_refusal_names_the_flag_that_held_the_url() -> None:
    with pytest.raises(InputError, match=r"\(--scrape-server-metrics\)"):
        Target("nowhere", "--scrape-server-metrics")


BASES = [  # URL, base of the API, where the server's own pages are
    ("https://h", "/v1", ""),
    ("https://h/", "/v1", ""),
    ("https://h/v1", "/v1", ""),
    ("https://h/v1/", "/v1", ""),
    ("http://[::1]:8000", "/v1", ""),
    ("http://[::1]:8000/v1", "/v1", ""),
    ("https://h:8443/openai/v1", "/openai/v1", "/openai"),
    ("https://h/proxy/team-a", "/proxy/team-a/v1", "/proxy/team-a"),
    ("https://h/proxy/team-a/", "/proxy/team-a/v1", "/proxy/team-a"),
    ("https://h/proxy/team-a/v1", "/proxy/team-a/v1", "/proxy/team-a"),
    ("https://h/v1beta/openai", "/v1beta/openai", ""),
    ("https://h/v1beta/openai/", "/v1beta/openai", ""),
    ("https://h/api/paas/v4", "/api/paas/v4", "/api/paas"),
    ("https://h/v1beta1/projects/p/endpoints/openapi", "/v1beta1/projects/p/endpoints/openapi", ""),
    ("https://h/v1/account/gateway/openai", "/v1/account/gateway/openai", ""),
    ("https://h/version/vllm/v", "/version/vllm/v/v1", "/version/vllm/v"),
]


@pytest.mark.parametrize("api", Api)
@pytest.mark.parametrize("query", ["", "?team=a&x"])
@pytest.mark.parametrize(("url", "base", "root"), BASES)
def test_a_url_has_one_place_for_requests_models_and_pages(
    url: str, base: str, root: str, query: str, api: Api
) -> None:
    """The table of `Endpoints`; a query goes with requests and models, and with no page of the server."""
    endpoints = Endpoints(Target(url + query))
    assert endpoints.request(api) == f"{base}{SUFFIXES[api]}{query}"
    assert endpoints.models == f"{base}/models{query}"
    assert (endpoints.page("/metrics"), endpoints.page("/health")) == (f"{root}/metrics", f"{root}/health")


@pytest.mark.parametrize("query", ["api-version=2024-10-21", "API-Version=1", "version=", "x=1&api-version=2"])
def test_a_version_in_the_query_is_a_version(query: str) -> None:
    endpoints = Endpoints(Target(f"https://h/openai/deployments/d?{query}"))
    assert endpoints.request(Api.CHAT) == f"/openai/deployments/d/chat/completions?{query}"
    assert endpoints.models == f"/openai/deployments/d/models?{query}"


def test_a_version_in_the_query_is_no_path() -> None:
    assert Endpoints(Target("https://h?api-version=1")).request(Api.CHAT) == "/v1/chat/completions?api-version=1"


@pytest.mark.parametrize("api", Api)
@pytest.mark.parametrize("query", ["", "?team=a"])
@pytest.mark.parametrize("base", sorted({base for _, base, _ in BASES} | {"", "/proxy/team-a"}))
def test_a_whole_endpoint_says_the_same_as_its_base(base: str, query: str, api: Api) -> None:
    pasted = Endpoints(Target(f"https://h{base}{SUFFIXES[api]}{query}"))
    outright = Endpoints(Target(f"https://h/elsewhere{query}"), f"{base}{SUFFIXES[api]}")
    for endpoints in (pasted, outright):
        assert endpoints.request(api) == f"{base}{SUFFIXES[api]}{query}"
        assert endpoints.models == f"{base}/models{query}"
    assert pasted.page("/metrics") == outright.page("/metrics")


@pytest.mark.parametrize("api", Api)
def test_the_endpoint_outright_may_be_any_path(api: Api) -> None:
    endpoints = Endpoints(Target("https://h/base/v1?a=1"), "/generate_stream/?b=2")
    assert endpoints.request(api) == "/generate_stream/?b=2"
    assert endpoints.models == "/base/v1/models?b=2"
    assert Endpoints(Target("https://h?a=1"), "/generate").request(api) == "/generate?a=1"


@pytest.mark.parametrize("endpoint", ["chat", "https://h/v1/chat/completions", "/a b", "/ä", "/a#b", "/a\n"])
def test_an_endpoint_that_is_no_path_is_refused(endpoint: str) -> None:
    assert "such as /v1/chat/completions (--endpoint)" in refusal("https://h", endpoint=endpoint)


def test_the_endpoint_of_the_other_api_is_refused_with_the_way_out() -> None:
    """The API is what the locustfile's user sends; no path changes that."""
    expected = (
        "/x/chat/completions takes chats, and the locustfile sends completions: make its user a ChatUser, or ask at"
        " /x/completions"
    )
    assert refusal("https://h/x/chat/completions", Api.COMPLETIONS) == f"{expected} (--host)"
    assert refusal("https://h", Api.COMPLETIONS, "/x/chat/completions") == f"{expected} (--endpoint)"
    assert "takes completions, and the locustfile sends chats: make its user a CompletionUser" in refusal(
        "https://h/v1/completions", Api.CHAT
    )


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("url", "variables", "named"),
    [
        ("http://h", {}, []),
        ("http://h", {"HTTP_PROXY": "http://user:secret@proxy:3128"}, ["HTTP_PROXY"]),
        (
            "https://h",
            {"https_proxy": "http://proxy:3128", "ALL_PROXY": "socks5://proxy"},
            ["https_proxy", "ALL_PROXY"],
        ),
        ("https://h", {"HTTP_PROXY": "http://proxy:3128"}, []),
        ("http://h", {"HTTP_PROXY": ""}, []),
        ("http://h", {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "h"}, []),
    ],
)
def test_a_proxy_that_would_be_meant_for_the_server_is_known_by_its_variable(
    environment: pytest.MonkeyPatch, url: str, variables: dict[str, str], named: list[str]
) -> None:
    for name, value in variables.items():
        environment.setenv(name, value)
    assert unused_proxies(Target(url)) == named
