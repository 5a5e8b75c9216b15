"""A run of one stream is what it was before streams had names: the same plan, request ids and bodies, byte for byte."""

from __future__ import annotations

import argparse
import hashlib
import itertools
from pathlib import Path

import pytest
from fakes import FakeEnvironment

from fineserve_shapes import commandline, options
from fineserve_shapes.leases.book import LeaseBook
from fineserve_shapes.planning.synthesis import ended, parametric, poisson
from fineserve_shapes.runner.performer import UserPerformer
from fineserve_shapes.shipped import DATASETS
from fineserve_shapes.users import CompletionUser, PlannedRequest, Result
from fineserve_shapes.values import Values
from fineserve_shapes.workload.plan import Plan
from fineserve_shapes.workload.replay import replay_plan

GIVEN = ["--skip-preflight", "--model", "m", "--num-prompts", "60"]


def parsed(asked: tuple[options.Option, ...], *given: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    commandline.add(parser, (*asked, *options.SERVER, *options.PROMPTS, *options.RUN), environment=False)
    return parser.parse_args([*GIVEN, *given])


def replayed(namespace: argparse.Namespace) -> Plan:
    values = Values(namespace)
    return replay_plan(Path(values.text("--request-trace-csv") or ""), options.trace_options(values), num_prompts=60)


def drawn(namespace: argparse.Namespace) -> Plan:
    values = Values(namespace)
    return ended(poisson(values, 1.0, DATASETS).plan, values, None)


def windows(namespace: argparse.Namespace) -> Plan:
    values = Values(namespace)
    return ended(parametric(values, DATASETS).plan, values, None)


TRACE = str(DATASETS / "replay" / "MoE_gt100B.csv")
CASES = {
    "replay": (replayed, parsed(options.TRACE, "--request-trace-csv", TRACE)),
    "poisson": (drawn, parsed(options.POISSON, "--request-rate", "20", "--seed", "7", "--prefix-share", "0.5")),
    "parametric": (windows, parsed(options.PARAMETRIC, "--model-class", "Dense_lt10B", "--prompt-form", "text")),
}
BEFORE = {
    "replay": "4d087bdf3d2534ef",
    "poisson": "3ce51c2b692b4220",
    "parametric": "961dd145fe9c6f00",
}
"""Digests of the rows, ids and bodies of 60 requests, taken before streams had names."""


@pytest.mark.parametrize("case", CASES)
def test_plan_ids_and_bodies_are_what_they_were(case: str):
    make, namespace = CASES[case]
    plan = make(namespace)
    sent: list[tuple[str, bytes]] = []

    class Recording(CompletionUser):
        host = "http://127.0.0.1:9"

        def __init__(self, environment: object) -> None:
            self.environment = environment

        def on_start(self) -> None: ...

        def on_stop(self) -> None: ...

        def perform(self, request: PlannedRequest) -> Result | None:
            sent.append((request.id, self.body(request)))
            return None

    performer = UserPerformer(FakeEnvironment(Recording, **vars(namespace)))
    performer.open()
    try:
        book = LeaseBook(iter(plan))
        book.join("w", 0.0)
        rows = [row for _, lease in book.step(1e6) for row in lease.rows]
        for row in rows:
            performer.perform("run", row, performer.prepare(row))
    finally:
        performer.close()
    digest = hashlib.sha256(plan.fingerprint.encode())
    for row, (request, body) in itertools.zip_longest(rows, sent):
        digest.update(f"{row.due_s!r} {row.input_tokens} {row.output_tokens} {request} ".encode() + body)
    assert len(rows) == 60
    assert BEFORE[case] == digest.hexdigest()[:16]
