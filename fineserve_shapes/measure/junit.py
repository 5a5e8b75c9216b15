"""JUnit: checks in the XML form that CI systems read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from fineserve_shapes.measure.thresholds import Check

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(suite: str, checks: Sequence[Check], duration_s: float = 0.0, run: str = "") -> bytes:
    """A test suite with a case for each check, as a UTF-8 document.

    suite: its name, by which a CI system knows a check again the next time. run: its id, a property of the suite.
    duration_s: of the run, which is the suite's; a check itself takes no time. Characters that XML cannot hold become a
    question mark. Source of the form: the schema of Jenkins' xUnit plugin, which GitLab and others read too.
    """
    failed = sum(not check.passed for check in checks)
    counts = {"tests": str(len(checks)), "failures": str(failed), "errors": "0", "time": f"{duration_s:.3f}"}
    root = ElementTree.Element("testsuites", counts)
    inside = ElementTree.SubElement(root, "testsuite", {"name": _clean(suite), **counts, "skipped": "0"})
    properties = ElementTree.SubElement(inside, "properties")
    ElementTree.SubElement(properties, "property", {"name": "run", "value": _clean(run)})
    for check in checks:
        about = {"classname": _clean(suite), "name": _clean(check.name), "time": "0"}
        case = ElementTree.SubElement(inside, "testcase", about)
        if not check.passed:
            failure = ElementTree.SubElement(case, "failure", {"message": _clean(check.message), "type": "threshold"})
            failure.text = _clean(check.message)
    ElementTree.indent(root)
    return bytes(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True))


def _clean(text: str) -> str:
    return _NOT_XML.sub("?", text)
