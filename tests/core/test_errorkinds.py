"""Which errors are one kind."""

from __future__ import annotations

import pytest

from fineserve_shapes.measure.errorkinds import OTHER_ERRORS, ErrorKinds

LONG = "HTTP 400: your prompt contains {} input tokens, which exceeds 2048 (parameter=input_tokens, value={})"


def test_texts_that_differ_in_their_numbers_alone_are_one_kind_by_its_first_text():
    kinds = ErrorKinds()
    names = {kinds.name("http_error", LONG.format(length, length)) for length in (2126, 3825, 11526)}
    assert names == {LONG.format(2126, 2126)}


@pytest.mark.parametrize(
    "texts",
    [
        ("HTTP 500: busy", "HTTP 503: busy"),
        ("refused by 127.0.0.1:8000", "refused by 127.0.0.1:8001"),
        ("no model llama-8b", "no model llama-70b"),
        ("request cmpl-17 is gone", "request cmpl-18 is gone"),
        ("no progress for 5 s", "no end within 5 s"),
    ],
)
def test_a_status_an_address_and_a_name_tell_kinds_apart(texts: tuple[str, str]):
    kinds = ErrorKinds()
    assert [kinds.name("http_error", text) for text in texts] == list(texts)


def test_an_outcome_tells_kinds_apart():
    kinds = ErrorKinds(most=1)
    assert kinds.name("http_error", "late by 3") == "late by 3"
    assert kinds.name("timeout", "late by 4") == OTHER_ERRORS


def test_beyond_so_many_kinds_the_others_are_one_and_those_that_are_known_stay():
    kinds = ErrorKinds(most=2)
    assert [kinds.name("timeout", text) for text in ("a 1", "b 1", "c 1", "a 2")] == ["a 1", "b 1", OTHER_ERRORS, "a 1"]
