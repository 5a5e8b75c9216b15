"""Preflight: a look at the server before time 0, so that a wrong host or model is one clear line and no failed run."""

from __future__ import annotations

import http.client
import json
import logging
import ssl
from dataclasses import dataclass

import gevent

from fineserve_shapes.engine.client import header_lines
from fineserve_shapes.engine.transport import Target
from fineserve_shapes.errors import InputError
from fineserve_shapes.protocol.openai import http_error_text, shorten

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that a run asks for; max_model_len: its context in tokens, where the server tells."""

    name: str
    max_model_len: int | None = None


def find_model(target: Target, wanted: str | None, headers: dict[str, str], timeout_s: float) -> ServedModel:
    """Ask the server for its models and choose.

    Raises InputError if the server cannot be reached, refuses, or has no such model (or more than one and none is asked
    for). A server that has no list of models is taken at the user's word.
    """
    status, body = _get(target, "/v1/models", headers, timeout_s)
    if status in (401, 403):
        raise InputError(f"{target} refused: {http_error_text(status, body)} (the key is read from OPENAI_API_KEY)")
    models = _models(body) if status == 200 else None
    if not models:  # `transformers serve` lists what lies in its cache, which need not be what it serves
        if wanted is None:
            raise InputError(f"{target} gives no list of models (HTTP {status}): name the model (--model)")
        logger.warning("%s gives no list of models (HTTP %d): taking --model %s unchecked", target, status, wanted)
        return ServedModel(wanted)
    if wanted is None:
        if len(models) == 1:
            return next(iter(models.values()))
        raise InputError(f"{target} serves {len(models)} models, {_listed(models)}: choose one (--model)")
    if wanted not in models:
        raise InputError(f"{target} has no model {wanted!r}; it serves {_listed(models)} (--model)")
    return models[wanted]


def _get(target: Target, path: str, headers: dict[str, str], timeout_s: float) -> tuple[int, bytes]:
    header_lines(headers)  # refuses what http.client would refuse with the value, a key maybe, in its message
    kind = http.client.HTTPSConnection if target.tls else http.client.HTTPConnection
    connection = kind(target.host, target.port, timeout=timeout_s)
    try:
        with gevent.Timeout(timeout_s, TimeoutError()):  # of it all; the socket's is of each of its bytes
            connection.request("GET", target.path + path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(2**20)
    except ssl.SSLError as error:
        raise InputError(f"cannot reach {target}: TLS failed: {error.reason or error} (--host)") from None
    except TimeoutError:
        raise InputError(f"cannot reach {target}: no answer within {timeout_s:g} s (--host)") from None
    except OSError as error:
        raise InputError(f"cannot reach {target}: {(error.strerror or str(error)).lower()} (--host)") from None
    except http.client.HTTPException as error:
        raise InputError(f"{target} does not speak HTTP: {type(error).__name__} (--host)") from None
    finally:
        connection.close()


def _models(body: bytes) -> dict[str, ServedModel] | None:
    try:
        entries = json.loads(body)["data"]
        models = {}
        for entry in entries:
            length = entry.get("max_model_len")
            models[str(entry["id"])] = ServedModel(str(entry["id"]), length if type(length) is int else None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return models


def _listed(models: dict[str, ServedModel]) -> str:
    names = [repr(name) for name in list(models)[:10]]
    return shorten(", ".join(names) + (", ..." if len(models) > 10 else "")) or "none"
