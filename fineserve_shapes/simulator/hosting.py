"""The models that a server hosts: names, context, counts, and an engine of their own or a shared one."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.engine import Engine
from fineserve_shapes.simulator.metrics import Metrics


@dataclass(frozen=True, slots=True, eq=False)
class HostedModel:
    """A model and what runs it. `adapters` are names of LoRA adapters: they are asked for like models."""

    name: str
    max_model_len: int
    engine: Engine
    adapters: tuple[str, ...] = ()
    metrics: Metrics = field(default_factory=Metrics)


class Hosting:
    """Finds models by the name a client asks for. The first one is meant where no name is given."""

    def __init__(self, models: Iterable[HostedModel]) -> None:
        self._models = tuple(models)
        self._named: dict[str, HostedModel] = {}
        for model in self._models:
            for name in (model.name, *model.adapters):
                if name in self._named:
                    raise InputError(f"two models are called {name!r} (--models, --lora-modules)")
                self._named[name] = model

    def __iter__(self) -> Iterator[HostedModel]:
        return iter(self._models)

    @property
    def first(self) -> HostedModel:
        return self._models[0]

    @property
    def names(self) -> list[str]:
        """All names that a client may ask for."""
        return list(self._named)

    @property
    def engines(self) -> list[Engine]:
        """Each engine once."""
        return list(dict.fromkeys(model.engine for model in self._models))

    def find(self, name: object) -> HostedModel | None:
        """The model of this name, the first one for None, None for an unknown name."""
        if name is None:
            return self.first
        return self._named.get(name) if isinstance(name, str) else None
