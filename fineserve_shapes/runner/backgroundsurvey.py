"""Surveying: a long trace is counted beside the run that replays it, in a process of the lowest priority."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
from pathlib import Path

import gevent

from fineserve_shapes.workload.traces.surveyprocess import arguments, survey_of
from fineserve_shapes.workload.traces.trace import Trace

logger = logging.getLogger(__name__)


class BackgroundSurvey:
    """The survey of one trace. When it is done it is logged, and the trace and its plan's description have it."""

    def __init__(self, path: str | Path, trace: Trace) -> None:
        self._trace = trace
        # one thread is enough for what has time: the cores are the load's
        environment = os.environ | {"OMP_NUM_THREADS": "1", "ARROW_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            arguments(str(path), trace.options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        atexit.register(self.stop)
        self._greenlet = gevent.spawn(self._collect)

    def stop(self) -> None:
        """End the process, if it is still reading."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._process.kill()

    def _collect(self) -> None:
        printed, complaint = self._process.communicate()
        atexit.unregister(self.stop)
        try:
            survey = survey_of(printed)
        except ValueError:
            if self._process.returncode > 0:  # below 0 it was stopped
                logger.warning("the trace could not be read through: %s", complaint.decode("utf-8", "replace").strip())
            return
        self._trace.adopt(survey)
        logger.info("read to its end: %s", survey.line())
        for warning in survey.warnings:
            logger.warning("%s", warning)
