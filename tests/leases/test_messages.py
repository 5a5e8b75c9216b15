"""Messages: what goes in comes out, and what is no message is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fineserve_shapes.leases.beginning import Beginning
from fineserve_shapes.leases.lease import Batch, Lease, Report, Row
from fineserve_shapes.leases.messages import MessageError, Warmed, pack_lease, pack_report, unpack_lease, unpack_report
from fineserve_shapes.leases.standing import Standing
from fineserve_shapes.measure.names import Names
from fineserve_shapes.measure.reads import Reads

rows = st.builds(Row, st.floats(0, 1e6), st.integers(0, 2**62), st.integers(1, 2**30), st.integers(1, 2**30),
                 st.integers(0, 100), st.integers(0, 2**62),
                 st.just(()) | st.lists(st.integers(1, 2**62), min_size=2, max_size=4).map(tuple))  # fmt: skip


@given(st.builds(Lease, st.integers(0, 9), st.floats(-1e6, 1e6), st.integers(0, 99), st.none() | st.integers(0, 99),
                 st.lists(rows, max_size=5)))  # fmt: skip
def test_a_lease_survives_its_journey(lease: Lease):
    assert unpack_lease(pack_lease(lease)) == lease


def test_a_report_survives_its_journey():
    batch = Batch(3, np.array([5, 6]), np.array([0, 7], dtype=np.uint8), np.array([9]), np.array([1]), {"k": b"v"})
    report = Report(1, 2.5, 4, [batch])
    found = unpack_report(pack_report(report))
    assert (found.epoch, found.at_s, found.leases) == (1, 2.5, 4)
    for name in ("done", "outcomes", "dropped", "epochs"):
        assert getattr(found.batches[0], name).tolist() == getattr(batch, name).tolist()
    assert (found.batches[0].number, found.batches[0].payload) == (3, {"k": b"v"})


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.binary(max_size=9) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["epoch", "at_s", "leases", "batches", "number", "rows", "seen_s"]), inner)
    ),
    max_leaves=8,
)


@pytest.mark.parametrize("unpack", [unpack_lease, unpack_report])
@given(data=junk)
def test_junk_is_refused_in_words(unpack: Any, data: object):
    try:
        unpack(data)
    except MessageError:
        pass
    else:
        assert isinstance(data, dict)


@pytest.mark.parametrize(
    ("field", "value", "error"),
    [
        ("done", b"\x00" * 7, "cannot be read"),
        ("done", b"\x00" * 16, "differ in length"),
        ("outcomes", b"\xff", "255 is no outcome"),
        ("number", True, "is a bool"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(field: str, value: object, error: str):
    packed = pack_report(Report(0, 0.0, 0, [Batch(0, np.array([1]), np.array([0], dtype=np.uint8), np.array([], dtype=np.int64), np.array([], dtype=np.int64))]))  # fmt: skip  # noqa: E501
    packed["batches"][0][field] = value
    with pytest.raises(MessageError, match=error):
        unpack_report(packed)


counts = st.dictionaries(st.integers(0, 2**15 - 1), st.integers(0, 2**31 - 1), max_size=4)


@given(st.builds(Standing, st.text(), counts, counts, st.floats(-1e6, 1e6), st.floats(0, 1e6),
                 st.lists(st.floats(0, 1e3), max_size=4).map(np.array), st.just(Reads())))  # fmt: skip
def test_how_a_worker_is_doing_survives_its_journey(standing: Standing):
    found = Standing.unpack(standing.pack())
    assert found.loop_delays_s.tolist() == standing.loop_delays_s.tolist()
    assert found.reads.as_dict() == standing.reads.as_dict()
    for name in ("run", "in_flight", "tokens_come", "offset_s", "uncertainty_s"):
        assert getattr(found, name) == getattr(standing, name)


@given(st.builds(Beginning, st.text(), st.floats(-1e6, 1e6), st.floats(0, 1e6), st.booleans(), st.booleans(),
                 st.builds(Names, st.lists(st.text(), min_size=1, max_size=4).map(tuple), st.booleans())),
       st.builds(Warmed, st.text(), st.integers(0), st.integers(0), st.none() | st.text()))  # fmt: skip
def test_the_word_to_begin_and_that_of_the_warm_up_survive_theirs(beginning: Beginning, warmed: Warmed):
    assert Beginning.unpack(beginning.pack()) == beginning
    assert Warmed.unpack(warmed.pack()) == warmed
