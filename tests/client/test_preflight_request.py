"""The one real request before a run: whether the server will answer the run's, and in whose words it does not."""

from __future__ import annotations

import time

import pytest
from looking import (
    BODY,
    PATH,
    TOKENS,
    asks,
    refuses,
    says,
)
from servers import (
    DONE,
    HEAD,
    UNFRAMED,
    Lab,
    Peer,
    chunk,
    event,
    events,
    free_port,
    sized,
    whole,
)


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
