"""A models file: what models one server hosts, as TOML.

    [[model]]
    name = "small"
    preset = "8b-h100"
    adapters = ["small-sql", "small-support"]

    [[model]]
    name = "large"
    preset = "70b-4xh100"
    max-model-len = 16384
    kv-cache-tokens = 300000

    [[model]]
    name = "large-chat"
    engine = "large"          # runs in the batch of that model, and shares its budget

A table has the model's `name`, the names of its LoRA `adapters`, and any flag of the engine; what it leaves out is as on
the command line.
"""

import argparse
import tomllib
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any, NoReturn

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator.engineflags import add_engine_flags, add_length_flag, engine_of
from fineserve_shapes.simulator.hosting import HostedModel, Hosting


class _TableParser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def read_models(path: str, args: argparse.Namespace) -> Hosting:
    """The models of a file, with the command line's values where it gives none.

    Raises
    ------
    InputError
        If the file cannot be read or says what cannot be.
    """
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8")).get("model")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror} (--models)") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no TOML: {error} (--models)") from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise InputError(f"{path} has no [[model]] tables (--models)")
    hosted: dict[str, HostedModel] = {}
    for number, table in enumerate(tables, start=1):
        try:
            model = _model(dict(table), args, hosted)
        except InputError as error:
            raise InputError(f"{path}, model {number}: {error}") from None
        hosted[model.name] = model
    return Hosting(hosted.values())


def _model(table: dict[str, Any], args: argparse.Namespace, hosted: dict[str, HostedModel]) -> HostedModel:
    name, adapters, shared = table.pop("name", None), table.pop("adapters", []), table.pop("engine", None)
    if not isinstance(name, str) or not name:
        raise InputError(f"name must be a text, got {name!r}")
    if name in hosted:
        raise InputError(f"two models are called {name!r}")
    if not isinstance(adapters, list) or not all(isinstance(adapter, str) for adapter in adapters):
        raise InputError(f"adapters must be a list of names, got {adapters!r}")
    parser = _TableParser(add_help=False, allow_abbrev=False)
    add_length_flag(parser)
    add_engine_flags(parser)
    own = parser.parse_args(list(_as_flags(table)), namespace=copy(args))
    if shared is None:
        engine = engine_of(own, name)
    elif shared in hosted:
        engine = hosted[shared].engine
        if extra := table.keys() - {"max-model-len", "max_model_len"}:
            raise InputError(f"it runs in the engine of {shared!r} and cannot have {min(extra)!r} of its own")
    else:
        raise InputError(f"no model {shared!r} before it, whose engine it could share")
    return HostedModel(name, own.max_model_len, engine, tuple(adapters))


def _as_flags(table: dict[str, Any]) -> Iterator[str]:
    for key, value in table.items():
        flag = "--" + key.replace("_", "-")
        if value is True:
            yield flag
        elif value is not False:
            yield f"{flag}={value}"
