"""The look at the server before a run: one clear line for whatever is wrong."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from certificates import Certificate
from servers import (
    DONE,
    HEAD,
    MAX_TEST_S,
    UNFRAMED,
    Lab,
    Peer,
    Request,
    TLSPeer,
    black_hole,
    chunk,
    event,
    events,
    free_port,
    sized,
    whole,
)

from fineserve_shapes.client.preflight import ServedModel, Server, ask, find_model
from fineserve_shapes.client.target import Endpoints, Target
from fineserve_shapes.client.tls import tls_context
from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.answer import AnswerReader


def server_at(url: str, headers: dict[str, str] | None = None, context: ssl.SSLContext | None = None) -> Server:
    return Server(Endpoints(Target(url)), context, headers or {})


def in_thread(work: Callable[[], Any]) -> Any:
    """Preflight in a thread: http.client blocks where gevent has not patched it, and the servers are greenlets here.

    Its time-outs give the thread a hub, which ends with the work: the pool would keep it, and its descriptors, for some
    seconds, and they would be missing when another test counts its own.
    """

    def attempt() -> Any:
        try:
            return work()
        except Exception as error:
            return error
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    found = gevent.get_hub().threadpool.apply(attempt)
    if isinstance(found, Exception):
        raise found
    return found


def look(
    url: str,
    wanted: str | None = None,
    *,
    headers: dict[str, str] | None = None,
    timeout_s: float = 2.0,
    context: ssl.SSLContext | None = None,
) -> ServedModel:
    """The list of models, and the choice."""
    found: ServedModel = in_thread(lambda: find_model(server_at(url, headers, context), wanted, timeout_s))
    return found


def refusal(url: str, wanted: str | None = None, **how: Any) -> str:
    with pytest.raises(InputError) as refused:
        look(url, wanted, **how)
    text = str(refused.value)
    assert "\n" not in text
    return text


def listing(*names: str, **fields: Any) -> bytes:
    return sized("200 OK", json.dumps({"object": "list", "data": [{"id": name, **fields} for name in names]}).encode())


def answering(lab: Lab, read: Callable[[Peer], Request | None], answer: bytes) -> str:
    """The URL of a server that reads so, and answers."""

    def handle(peer: Peer) -> None:
        if (request := read(peer)) is not None:
            server.requests.append(request)
            peer.send(answer)

    server = lab.serve(handle)
    lab.seen = server.requests  # type: ignore[attr-defined]
    return server.url


def gives(lab: Lab, answer: bytes) -> str:
    """The URL of a server that answers a GET."""
    return answering(lab, Peer.head, answer)


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


# one real request

PATH = "/v1/chat/completions?api-version=1"
BODY = b'{"model":"tiny","messages":[],"max_tokens":1,"stream":true,"stream_options":{},"ignore_eos":true}'
TOKENS = b'{"model":"tiny","prompt":[5,6],"max_completion_tokens":1}'


def asks(
    url: str, body: bytes = BODY, *, listed: str | None = None, timeout_s: float = 2.0, context: Any = None
) -> str | None:
    """What comes of one real request: None, or the one line."""
    server = server_at(url, {"X-Team": "a"}, context)
    model = ServedModel("tiny", listed=listed)
    try:
        in_thread(lambda: ask(server, PATH, body, AnswerReader(1), model, timeout_s, {"X-Request-Id": "preflight-1"}))
    except InputError as error:
        text = str(error)
        assert "\n" not in text
        assert "--skip-preflight starts without this look" in text or "TLS" in text or "certificate" in text
        return text
    return None


def says(lab: Lab, answer: bytes) -> str:
    """The URL of a server that answers a POST."""
    return answering(lab, Peer.request, answer)


def refuses(lab: Lab, status: str, body: object, *headers: str) -> str:
    return says(lab, sized(status, json.dumps(body).encode(), *headers))


def test_the_real_request_is_the_runs(lab: Lab) -> None:
    assert asks(says(lab, whole())) is None
    (request,) = lab.seen  # type: ignore[attr-defined]
    assert request.line == f"POST {PATH} HTTP/1.1"
    assert request.body == BODY
    assert (request.headers["x-team"], request.headers["x-request-id"]) == ("a", "preflight-1")


ANSWERED = {
    "a stream": whole(),
    "a stream without a length": UNFRAMED + b"".join(events()),
    "a whole answer": sized("200 OK", b'{"choices":[{"index":0,"text":"a","finish_reason":"length"}]}'),
    "no token at all": sized("200 OK", b'data: {"choices":[{"index":0,"text":"","finish_reason":"stop"}]}\n\n'),
    "a token, and then an end in the middle": HEAD + chunk(event()),
}


@pytest.mark.parametrize("answer", ANSWERED.values(), ids=ANSWERED)
def test_a_server_that_generates_is_good_enough(lab: Lab, answer: bytes) -> None:
    assert asks(says(lab, answer)) is None


def test_the_first_token_is_enough_and_the_rest_is_not_waited_for(lab: Lab) -> None:
    server = lab.serve(lambda peer: peer.request() and (peer.send(HEAD + chunk(event())), peer.gone()))
    started_s = time.perf_counter()
    assert asks(server.url, timeout_s=5) is None
    assert time.perf_counter() - started_s < 2


@pytest.mark.parametrize("last", [DONE, b'data: {"error": {"message": "busy"}}\n\n'], ids=["an end", "an error"])
def test_the_last_word_of_a_server_is_enough_although_its_connection_lingers(lab: Lab, last: bytes) -> None:
    server = lab.serve(lambda peer: peer.request() and (peer.send(HEAD + chunk(last)), peer.gone()))
    started_s = time.perf_counter()
    text = asks(server.url, timeout_s=5)
    assert text is not None
    assert ("busy" if last is not DONE else "no choice") in text
    assert time.perf_counter() - started_s < 2


UNSUPPORTED = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
REFUSALS = {  # status, body, the run's body -> what the server said, and what mends it
    "the other name": ("400 No", {"error": {"message": UNSUPPORTED}}, BODY, "HTTP 400: Unsupported parameter: 'max_t",
                       "(--max-tokens-field max_completion_tokens; "),
    "the older name": ("400 No", {"error": {"message": "Unrecognized request argument supplied: max_completion_tokens"}},
                       TOKENS, "supplied: max_completion_tokens", "(--max-tokens-field max_tokens; "),
    "a field of vLLM's": ("422 No", {"detail": "Unexpected keys in the request: {'ignore_eos'}"}, BODY,
                          "HTTP 422: Unexpected keys", "(--backend openai; "),
    "a field that stands beside the words": (
        "422 No", {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}, BODY,
        "HTTP 422: Extra inputs are not permitted", """(--extra-request-body '{"stream_options": null}'; """),
    "token ids": ("400 No", {"error": "prompt must be a string"}, TOKENS, "HTTP 400: prompt must", "(--prompt-form text; "),
    "the key": ("401 No", {"error": "Unauthorized"}, BODY, "401: Unauthorized", "(the key is read from OPENAI_API_KEY; "),
    "the path": ("404 No", {"detail": "Not Found"}, BODY, "HTTP 404: Not Found", "(--host or --endpoint; "),
    "whatever": ("500 No", {"error": "max_tokens unknown"}, b"{}", "HTTP 500: max_tokens unknown", " (--skip-preflight "),
    "an error of its own": ("200 OK", {"error": {"message": "no workers"}}, BODY, ": no workers", " (--skip-preflight "),
    "nothing of use": ("200 OK", {"a": 1}, BODY, "tiny'", " (--skip-preflight "),
}  # fmt: skip


@pytest.mark.parametrize(("status", "said", "body", "words", "way"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_has_the_servers_own_words_and_the_way_out(
    lab: Lab, status: str, said: object, body: bytes, words: str, way: str
) -> None:
    url = refuses(lab, status, said)
    text = asks(url, body)
    assert text is not None
    assert text.startswith(f"{url}/v1/chat/completions does not answer for model 'tiny': ")
    assert words in text
    assert way in text


@pytest.mark.parametrize("body", [b"", b"words", b"[1]", b"\xff"])
def test_a_body_may_be_of_any_kind(lab: Lab, body: bytes) -> None:
    assert "HTTP 400: unsupported max_tokens" in (asks(refuses(lab, "400 No", "unsupported max_tokens"), body) or "")


def test_a_model_that_the_server_does_not_know_is_named_with_those_it_lists(lab: Lab) -> None:
    text = asks(refuses(lab, "404 No", {"error": {"message": "no such model"}}), listed="its list of models has 'a'")
    assert text is not None
    assert ": HTTP 404: no such model; its list of models has 'a' (--model; --skip-preflight" in text


@pytest.mark.parametrize("status", ["301 There", "307 There", "308 There"])
def test_a_redirect_shows_where_to(lab: Lab, status: str) -> None:
    """It is not followed: a body, and a key, would go where nobody said."""
    text = asks(says(lab, sized(status, b"", "Location: https://h.example/v1/chat/completions")))
    assert text is not None
    assert f": HTTP {status[:3]}, to https://h.example/v1/chat/completions (--host; --skip-preflight" in text


@pytest.mark.parametrize("words", [10**5 * "word ", "\x1b[31m\n" * 100])
def test_many_words_of_a_server_leave_room_for_the_way_out(lab: Lab, words: str) -> None:
    text = asks(refuses(lab, "400 No", {"error": words}), listed=200 * "x")
    assert text is not None
    assert len(text) < 600
    assert text.isprintable()


def test_an_answer_that_breaks_off_is_none(lab: Lab) -> None:
    text = asks(says(lab, HEAD + chunk(b": comment\n\n")[:-4]))
    assert text is not None
    assert "does not answer for model 'tiny': the connection ended in the middle of the answer" in text


def test_what_is_wrong_on_the_way_is_said_as_ever(lab: Lab) -> None:
    nobody = f"http://127.0.0.1:{free_port()}"
    assert asks(nobody) == f"cannot reach {nobody}: connection refused (--skip-preflight starts without this look)"
    silent = lab.serve(Peer.gone).url
    assert (asks(silent, timeout_s=0.2) or "").startswith(f"cannot reach {silent}: no answer within 0.2 s (--skip-pre")
    assert "does not speak HTTP" in (asks(says(lab, b"SSH-2.0-OpenSSH_9.0\r\n")) or "")


# TLS


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
