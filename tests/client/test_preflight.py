"""The look at the server before a run: one clear line for whatever is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from typing import Any

import gevent
import pytest
from certificates import Certificate
from looking import (
    asks,
    gives,
    listing,
    look,
    refusal,
)
from servers import (
    MAX_TEST_S,
    Lab,
    Peer,
    TLSPeer,
    black_hole,
    free_port,
    sized,
    whole,
)

from fineserve_shapes.client.preflight import ServedModel
from fineserve_shapes.client.tls import tls_context


def test_the_only_model_is_taken(lab: Lab) -> None:
    assert look(gives(lab, listing("tiny", max_model_len=2048))) == ServedModel("tiny", 2048)


def test_the_request_carries_the_headers_and_the_path(lab: Lab) -> None:
    """Those of the run, since any of them may be the key; but no body comes, and no stream is wanted."""
    run = {"Api-Key": "key", "Content-Type": "application/json", "accept": "text/event-stream"}
    look(gives(lab, listing("tiny")) + "/base/v1?api-version=1", headers=run)
    (request,) = lab.seen  # type: ignore[attr-defined]
    assert request.line == "GET /base/v1/models?api-version=1 HTTP/1.1"
    assert (request.headers["api-key"], request.headers["accept"]) == ("key", "application/json")
    assert "content-type" not in request.headers


@pytest.mark.parametrize("length", [None, "2048", 2048.0, True])
def test_a_context_that_is_no_number_is_not_known(lab: Lab, length: Any) -> None:
    assert look(gives(lab, listing("tiny", max_model_len=length))) == ServedModel("tiny", None)


def test_one_of_several_models_is_found(lab: Lab) -> None:
    assert look(gives(lab, listing("a", "b")), "b") == ServedModel("b")


def test_several_models_and_none_asked_for(lab: Lab) -> None:
    assert "serves 2 models, 'a', 'b': choose one (--model)" in refusal(gives(lab, listing("a", "b")))


def test_many_models_stay_one_bounded_line(lab: Lab) -> None:
    models = (f"model\n{number}" + 100 * "x" for number in range(500))
    assert len(refusal(gives(lab, listing(*models)))) < 400


@pytest.mark.parametrize("names", [["openai/*"], ["llama3:latest", "openai/*"]])
def test_a_pattern_is_no_model_to_ask_for(lab: Lab, names: list[str]) -> None:
    assert "choose one (--model)" in refusal(gives(lab, listing(*names)))


LISTS = {
    "another model": (listing("a", "b", max_model_len=9), "its list of models has 'a', 'b'"),
    "a pattern": (listing("openai/*"), "its list of models has 'openai/*'"),
    "a tag": (listing("tiny:latest"), "its list of models has 'tiny:latest'"),
    "none": (sized("404 Not Found", b'{"detail":"Not Found"}'), "it gives no list of models (HTTP 404: Not Found)"),
    "refused": (sized("401 No", b'{"error":"Unauthorized"}'), "it gives no list of models (HTTP 401: Unauthorized)"),
    "elsewhere": (
        sized("308 There", b"", "Location: https://h/v1/models"),
        "it gives no list of models (HTTP 308, to https://h/v1/models)",
    ),
    "garbage": (sized("200 OK", b"<html>"), "it gives no list of models (HTTP 200)"),
}


@pytest.mark.parametrize(("answer", "listed"), LISTS.values(), ids=LISTS)
def test_a_named_model_that_no_list_has_is_in_doubt(lab: Lab, answer: bytes, listed: str) -> None:
    found = look(gives(lab, answer), "tiny")
    assert found == ServedModel("tiny", listed=listed)
    assert not found.certain


def test_no_doubt_is_left_by_a_list_in_the_form_of_vllm(lab: Lab) -> None:
    assert look(gives(lab, listing("tiny", max_model_len=2048)), "tiny").certain
    assert not look(gives(lab, listing("tiny")), "tiny").certain


def test_an_empty_list_is_no_list(lab: Lab) -> None:
    """`transformers serve` lists what lies in its cache, which need not be what it serves."""
    assert "(--model)" in refusal(gives(lab, listing()))
    assert look(gives(lab, listing()), "tiny").name == "tiny"


GARBAGE = {
    "empty": b"",
    "no JSON": b"<html>",
    "no object": b"[]",
    "null": b"null",
    "no data": b"{}",
    "data is null": b'{"data": null}',
    "data is an object": b'{"data": {"id": "a"}}',
    "a model is text": b'{"data": ["a"]}',
    "a model has no id": b'{"data": [{}]}',
    "broken UTF-8": b'{"data": [{"id": "\xff"}]}',
    "deeply nested": 200_000 * b"[",
}


@pytest.mark.parametrize("body", GARBAGE.values(), ids=GARBAGE)
def test_garbage_is_no_list_of_models(lab: Lab, body: bytes) -> None:
    assert "gives no list of models (HTTP 200): name the model (--model)" in refusal(gives(lab, sized("200 OK", body)))


@pytest.mark.parametrize("status", ["404 Not Found", "405 Method Not Allowed", "500 Oops", "503 Not Yet", "307 There"])
def test_a_server_without_a_list_needs_the_model_named(lab: Lab, status: str) -> None:
    text = refusal(gives(lab, sized(status, b'{"detail":"Words"}')))
    assert f"gives no list of models (HTTP {status[:3]}: Words): name the model (--model)" in text


@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden"])
def test_a_refused_key_names_the_variable_and_not_the_key(lab: Lab, status: str) -> None:
    url = gives(lab, sized(status, b'{"error":"Unauthorized"}'))
    text = refusal(url, headers={"Authorization": "Bearer sk-secret"})
    assert f"(HTTP {status[:3]}: Unauthorized): name the model (--model; the key is read from OPENAI_API_KEY)" in text
    assert "secret" not in text


@pytest.mark.parametrize("key", ["sk-secret\nx", "sk-secret\r\nX-Evil: 1", "sk-secret\u2026", "sk-secret\x00"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_shown(lab: Lab, key: str) -> None:
    text = refusal(gives(lab, listing("tiny")), headers={"Authorization": f"Bearer {key}"})
    assert text == "the header 'Authorization' holds characters that no header can hold"


def test_a_refused_connection(lab: Lab) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    assert refusal(url) == f"cannot reach {url}: connection refused (--host)"


def test_a_name_that_does_not_exist(lab: Lab) -> None:
    assert refusal("http://no-such-host.invalid", timeout_s=5).startswith("cannot reach http://no-such-host.invalid: ")


def test_a_black_hole(lab: Lab) -> None:
    with black_hole() as url:
        assert refusal(url, timeout_s=0.3) == f"cannot reach {url}: no answer within 0.3 s (--host)"


def test_a_server_that_hangs_up(lab: Lab) -> None:
    assert "cannot reach" in refusal(lab.serve(Peer.head).url)


def test_a_server_that_resets(lab: Lab) -> None:
    assert "connection reset" in refusal(lab.serve(lambda peer: peer.head() and peer.reset()).url)


def test_a_server_that_says_nothing(lab: Lab) -> None:
    url = lab.serve(Peer.gone).url
    assert refusal(url, timeout_s=0.2) == f"cannot reach {url}: no answer within 0.2 s (--host)"


def drip_headers(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\nX-Long: ")
    drip(peer)


def drip_body(peer: Peer) -> None:
    peer.send(b"HTTP/1.1 200 OK\r\n\r\n")
    drip(peer)


def drip(peer: Peer) -> None:
    until_s = time.perf_counter() + MAX_TEST_S
    while time.perf_counter() < until_s:
        peer.send(b" ")
        gevent.sleep(0.05)


LOOK = """
from gevent import monkey; monkey.patch_all()
import sys, time
from fineserve_shapes.client.preflight import Server, find_model
from fineserve_shapes.client.target import Endpoints, Target
for url in sys.argv[1:]:
    started_s = time.perf_counter()
    try:
        find_model(Server(Endpoints(Target(url)), None, {}), None, 0.4)
    except ValueError as error:
        print(time.perf_counter() - started_s < 2, error)
"""


def test_an_answer_that_never_ends_is_given_up_in_time(lab: Lab) -> None:
    """Each byte comes within the socket's time-out, the whole does not. In a process as Locust makes it."""
    urls = [lab.serve(handle).url for handle in (drip_headers, drip_body)]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen([sys.executable, "-c", LOOK, *urls], stdout=output, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                gevent.sleep(0.02)
        finally:
            process.kill()
            process.wait()
        output.seek(0)
        lines = output.read().splitlines()
    assert lines == [f"True cannot reach {url}: no answer within 0.4 s (--host)" for url in urls]


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.0\r\n", os.urandom(100) + b"\r\n\r\n", b"HTTP/1.1 abc\r\n\r\n"])
def test_a_server_of_another_kind(lab: Lab, answer: bytes) -> None:
    assert "does not speak HTTP" in refusal(gives(lab, answer))


def test_tls_to_a_plain_port(lab: Lab) -> None:
    server = lab.serve(lambda peer: peer.recv() and peer.send(sized("400 Bad Request", b"plain HTTP here")))
    assert "TLS failed" in refusal(f"https://127.0.0.1:{server.port}")


def over_tls(lab: Lab, certificate: Certificate) -> str:
    """The URL of a server with this certificate, which has one model and answers for it."""

    def handle(peer: Peer) -> None:
        secure = TLSPeer(peer.sock, certificate.server())
        if (request := secure.request()) is not None:
            secure.send_and_say_goodbye(listing("tiny") if request.line.startswith("GET") else whole())

    return f"https://localhost:{lab.serve(handle).port}"


def test_a_certificate_that_nobody_vouches_for_is_one_line_with_the_way_out(lab: Lab, certificate: Certificate) -> None:
    url = over_tls(lab, certificate)
    expected = f"cannot reach {url}: its certificate is not valid: self-signed certificate"
    expected += " (--ca-file FILE to trust it, --insecure to trust anyone)"
    assert refusal(url, context=tls_context()) == expected
    assert asks(url, context=tls_context()) == expected


def test_whom_to_trust_is_the_users_choice(lab: Lab, certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    url = over_tls(lab, certificate)
    trusting = [tls_context(certificate.path), tls_context(insecure=True)]
    monkeypatch.setenv("SSL_CERT_FILE", certificate.path)
    for context in [*trusting, tls_context()]:
        assert look(url, context=context).name == "tiny"
        assert asks(url, context=context) is None
