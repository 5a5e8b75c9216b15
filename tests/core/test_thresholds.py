"""Thresholds on a summary, and what CI systems read of them."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.junit import junit_xml
from fineserve_shapes.measure.thresholds import Check, Threshold

SUMMARY = {
    "run": "r",
    "completed": 300,
    "p99_ttft_ms": 500.0,
    "p99.9_ttft_ms": 900.0,
    "p99_tpot_ms": None,
    "goodput": {"share": 0.96, "rps": 9.6, "slo": {"ttft_ms": 500.0}},
    "fidelity": {"verdict": "valid", "lag_p99_ms": 1.5, "held": 0},
    "streams": {"qwen-3.5": {"p99_ttft_ms": 250.0}},
}


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("p99_ttft_ms<500", False),
        ("p99_ttft_ms<=500", True),
        ("p99_ttft_ms > 499.9", True),
        ("p99_ttft_ms>=5e2", True),
        ("p99.9_ttft_ms<1000", True),
        ("goodput.share>=95%", True),
        ("goodput.share>=0.97", False),
        ("fidelity.lag_p99_ms<2", True),
        ("fidelity.held<=0", True),
        ("completed>=301", False),
        ("streams.qwen-3.5.p99_ttft_ms<300", True),
    ],
)
def test_a_figure_is_held_against_its_limit(text: str, passed: bool):
    assert Threshold.parse(text).check(SUMMARY).passed == passed


def test_the_message_has_the_figure_and_what_was_asked():
    assert Threshold.parse("p99_ttft_ms<500").check(SUMMARY).as_dict() == {
        "check": "p99_ttft_ms<500", "passed": False, "value": 500.0,
        "message": "p99_ttft_ms is 500, < 500 was asked",
    }  # fmt: skip


def test_what_was_not_measured_has_failed():
    check = Threshold.parse("p99_tpot_ms<50").check(SUMMARY)
    assert (check.passed, check.value) == (False, None)
    assert check.message == "p99_tpot_ms was not measured, < 50 was asked"


@pytest.mark.parametrize(
    ("text", "hint"),
    [("p99_tttft_ms<1", "did you mean p99_ttft_ms?"), ("lag_p99_ms<1", "did you mean fidelity.lag_p99_ms?"),
     ("run<1", "the summary has no figure 'run'"), ("fidelity<1", "the summary has no figure 'fidelity'")],
)  # fmt: skip
def test_a_figure_that_is_not_there_is_refused_with_the_nearest(text: str, hint: str):
    with pytest.raises(InputError, match=r"--threshold: the summary has no figure") as raised:
        Threshold.parse(text).check(SUMMARY)
    assert hint in str(raised.value)


@pytest.mark.parametrize(
    "text", ["", "p99_ttft_ms", "p99_ttft_ms=5", "<5", "a<b", "a<1e999", "a<1.2.3", "a<5ms", "a<<5"]
)
def test_a_threshold_without_sense_is_refused(text: str):
    with pytest.raises(InputError, match="--threshold must be a figure of the summary"):
        Threshold.parse(text)


def test_several_are_separated_by_commas_or_lines():
    assert [str(one) for one in Threshold.parse_all("p99_ttft_ms<500, completed >= 10\nfailed<=0,")] == [
        "p99_ttft_ms<500", "completed>=10", "failed<=0",
    ]  # fmt: skip
    assert Threshold.parse_all(" ") == []


def test_a_suite_has_a_case_for_each_check_and_its_failures():
    checks = [Threshold.parse(text).check(SUMMARY) for text in ("p99_ttft_ms<500", "completed>=300", "p99_tpot_ms<50")]
    suite = ElementTree.fromstring(junit_xml("fineserve poisson", checks, 12.5, "r"))[0]
    assert suite.attrib == {
        "name": "fineserve poisson", "tests": "3", "failures": "2", "errors": "0", "skipped": "0", "time": "12.500",
    }  # fmt: skip
    assert [one.attrib for one in suite.iter("property")] == [{"name": "run", "value": "r"}]
    assert [(case.get("name"), [failure.get("message") for failure in case]) for case in suite.iter("testcase")] == [
        ("p99_ttft_ms<500", ["p99_ttft_ms is 500, < 500 was asked"]),
        ("completed>=300", []),
        ("p99_tpot_ms<50", ["p99_tpot_ms was not measured, < 50 was asked"]),
    ]


@given(st.text(), st.text())
def test_whatever_stands_in_a_name_the_document_can_be_read(suite: str, message: str):
    document = ElementTree.fromstring(junit_xml(suite, [Check("x", False, None, message)], run=suite))
    assert document[0].get("failures") == "1"
