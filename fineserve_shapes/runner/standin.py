"""Stand-in: the simulator that answers where there is no host."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fineserve_shapes import options
from fineserve_shapes.runner.environment import Environment, host_of_class
from fineserve_shapes.simulator.process import SimulatorProcess
from fineserve_shapes.streams import Stream

logger = logging.getLogger(__name__)

PRESET = "8b-h100"
"""Of the simulator, where a stream names none."""


class StandIn:
    """The simulator of a driving process, once a run needs it.

    url: where it listens, None where it does not run.
    """

    def __init__(self) -> None:
        self._process: SimulatorProcess | None = None
        self._models = ""

    @property
    def url(self) -> str | None:
        """Where it listens."""
        return None if self._process is None else self._process.url

    def provide(self, streams: Sequence[Stream], environment: Environment) -> tuple[Stream, ...]:
        """The streams, those without a host with the simulator's, which has a model for each of them.

        The run says so. Raises InputError for a preset that there is not.
        """
        of_class = host_of_class(environment)
        own = environment.host if environment.host != self.url else None
        needy = [stream for stream in streams if not options.host(stream.own, own, of_class)]
        if not needy:
            return tuple(streams)
        mixed = streams[0].mixed
        models = _models_file(needy) if mixed else ""
        if self._process is None or models != self._models:
            self.stop()
            self._process, self._models = _started(models), models
        environment.host = self._process.url
        who = f" for {', '.join(stream.name for stream in needy)}" if mixed else ""
        what = f"preset {PRESET}" if not mixed else f"{len(needy)} models"
        logger.warning("no --host: the simulator at %s stands in%s (%s), and all figures are its own",
                       self._process.url, who, what)  # fmt: skip
        if not mixed:
            return tuple(streams)
        names = {stream.name for stream in needy}
        return tuple(_asking(stream, _model(stream)) if stream.name in names else stream for stream in streams)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.stop()
            self._process = None


def _asking(stream: Stream, model: str) -> Stream:
    own = {**stream.own, "model": model}
    return replace(stream, own=own, values=stream.values.over(own))


def _model(stream: Stream) -> str:
    return stream.values.text("--model") or stream.name


def _models_file(streams: Sequence[Stream]) -> str:
    """A models file of the simulator with an engine for each model."""
    presets = {_model(stream): stream.values.text("--preset") or PRESET for stream in streams}
    return "".join(
        f"[[model]]\nname = {json.dumps(model)}\npreset = {json.dumps(preset)}\n" for model, preset in presets.items()
    )


def _started(models: str) -> SimulatorProcess:
    if not models:
        return SimulatorProcess(preset=PRESET).start()
    with tempfile.TemporaryDirectory(prefix="fineserve-") as folder:
        path = Path(folder) / "models.toml"
        path.write_text(models, encoding="utf-8")
        return SimulatorProcess(models=path).start()
