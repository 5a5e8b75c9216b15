"""Preflight: a look at the server before time 0, so that what is wrong is one clear line and no failed run.

The list of models comes first. It leaves no doubt where it has the model and its context's length, as vLLM's has. Any
other list may be refused, or be one of patterns (`openai/*`), of tags (`llama3:latest`) or of what lies on a disk, and
the server may refuse what a run sends: then one real request decides.
"""

from __future__ import annotations

import http.client
import json
import logging
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import orjson

from fineserve_shapes.client.oneshot import oneshot
from fineserve_shapes.client.target import Endpoints, Target
from fineserve_shapes.errors import InputError
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.openai import http_error_text
from fineserve_shapes.text import shorten

logger = logging.getLogger(__name__)

_MAX_BYTES = 2**20
_MAX_SAID = 160  # characters of the server's own words: the way out is to stand in the same line
_KEY = "the key is read from OPENAI_API_KEY"
_SKIP = "--skip-preflight starts without this look"
_REFUSED = re.compile(
    r"unsupported|not supported|unrecogni|unknown|unexpected|not permitted|not allowed", re.IGNORECASE
)
_MENDS = {
    "max_tokens": "--max-tokens-field max_completion_tokens",
    "max_completion_tokens": "--max-tokens-field max_tokens",
    "ignore_eos": "--backend openai",
    "stream_options": """--extra-request-body '{"stream_options": null}'""",
}
"""Fields that some servers refuse, and the option that keeps each out of the body."""


@dataclass(frozen=True, slots=True)
class Server:
    """The server under test, as it is asked before the run. context: of TLS. headers: those of the run's requests."""

    endpoints: Endpoints
    context: ssl.SSLContext | None
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model that a run asks for.

    max_model_len: its context in tokens, where the server tells. listed: what the list of models is, where it does not
    have this one.
    """

    name: str
    max_model_len: int | None = None
    listed: str | None = None

    @property
    def certain(self) -> bool:
        """Whether the list leaves no doubt that the server answers what a run asks."""
        return self.max_model_len is not None


def find_model(server: Server, wanted: str | None, timeout_s: float) -> ServedModel:
    """Ask the server for its models and choose.

    Raises InputError if the server cannot be reached, or if no model is asked for and the list does not hold just one.
    """
    target = server.endpoints.target
    # there is no body, and no stream is wanted; any other header may be what opens the door
    headers = {name: value for name, value in server.headers.items() if name.lower() not in ("content-type", "accept")}
    headers["Accept"] = "application/json"
    with (
        _reaching(target, timeout_s, "--host"),
        oneshot(target, server.context, server.endpoints.models, headers=headers, timeout_s=timeout_s) as response,
    ):
        status, body = response.status, response.read(_MAX_BYTES)
    models = _models(body) if status == 200 else None
    if not models:  # `transformers serve` lists what lies in its cache, which need not be what it serves
        said = "HTTP 200" if status == 200 else shorten(http_error_text(status, body), _MAX_SAID) + _location(response)
        if wanted is None:
            key = f"; {_KEY}" if status in (401, 403) else ""
            raise InputError(f"{target} gives no list of models ({said}): name the model (--model{key})")
        return ServedModel(wanted, listed=f"it gives no list of models ({said})")
    if wanted is None:
        wanted = next(iter(models))
        if len(models) > 1 or "*" in wanted:
            raise InputError(f"{target} serves {len(models)} models, {_names(models)}: choose one (--model)")
    return models.get(wanted) or ServedModel(wanted, listed=f"its list of models has {_names(models)}")


def ask(
    server: Server, path: str, body: bytes, reader: AnswerReader, model: ServedModel, timeout_s: float,
    headers: Mapping[str, str],
) -> None:  # fmt: skip
    """Send one real request, and be content with the first token of its answer.

    path, body and headers are a request's of the run; reader: a fresh one. timeout_s: of it all. Raises InputError with
    what the server says, and the option that may mend it, where there is no proper answer.
    """
    target = server.endpoints.target
    url = target.origin + path.partition("?")[0]
    logger.info("asking %s for one token of %s before the run (--skip-preflight)", url, model.name)
    words, whole = b"", True
    sent_s = time.perf_counter()
    with (
        _reaching(target, timeout_s, _SKIP),
        oneshot(target, server.context, path, headers={**server.headers, **headers}, body=body, timeout_s=timeout_s)
        as response,
    ):  # fmt: skip
        reader.headers(response.status)
        try:
            while not (reader.complete or reader.hopeless) and (data := response.read1(_MAX_BYTES)):
                words += data[: _MAX_BYTES - len(words)]
                reader.feed(data, time.perf_counter())
                if reader.tokens:  # it generates: that is all there is to know
                    return
        except http.client.IncompleteRead:
            whole = False
    result = reader.finish(sent_s, time.perf_counter(), whole=whole)
    if result.outcome == Outcome.OK:
        return
    said = shorten(result.error or result.outcome, _MAX_SAID) + _location(response)
    listed = "" if model.listed is None else f"; {model.listed}"
    ways = [*_ways_out(response.status, model, words.decode("utf-8", "replace"), body), _SKIP]
    raise InputError(f"{url} does not answer for model {model.name!r}: {said}{listed} ({'; '.join(ways)})")


def _ways_out(status: int, model: ServedModel, words: str, body: bytes) -> Iterator[str]:
    """What the user may change, by what the server said of a body."""
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError:
        asked = None
    if not isinstance(asked, dict):  # of a locustfile's own making
        asked = {}
    if _REFUSED.search(words):
        refused = (name for name in _MENDS if name in asked and re.search(rf"\b{name}\b", words))
        if (name := next(refused, None)) is not None:
            yield _MENDS[name]
            return
    if status in (401, 403):
        yield _KEY
    elif 300 <= status < 400:
        yield "--host"
    elif status in (400, 422) and isinstance(asked.get("prompt"), list) and "prompt" in words:
        yield "--prompt-form text"
    elif model.listed is not None and status in (400, 404):
        yield "--model"
    elif status in (404, 405):
        yield "--host or --endpoint"


@contextmanager
def _reaching(target: Target, timeout_s: float, flag: str) -> Iterator[None]:
    """What goes wrong on the way to the server becomes an InputError."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        text = f"cannot reach {target}: its certificate is not valid: {error.verify_message}"
        raise InputError(f"{text} (--ca-file FILE to trust it, --insecure to trust anyone)") from None
    except ssl.SSLError as error:
        raise InputError(f"cannot reach {target}: TLS failed: {error.reason or error} (--host)") from None
    except TimeoutError:
        raise InputError(f"cannot reach {target}: no answer within {timeout_s:g} s ({flag})") from None
    except OSError as error:
        raise InputError(f"cannot reach {target}: {(error.strerror or str(error)).lower()} ({flag})") from None
    except http.client.HTTPException as error:
        raise InputError(f"{target} does not speak HTTP: {type(error).__name__} ({flag})") from None


def _location(response: http.client.HTTPResponse) -> str:
    location = response.getheader("Location") if 300 <= response.status < 400 else None
    return "" if location is None else f", to {shorten(location, _MAX_SAID)}"


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


def _names(models: Mapping[str, ServedModel]) -> str:
    names = [repr(name) for name in list(models)[:10]]
    return shorten(", ".join(names) + (", ..." if len(models) > 10 else ""), _MAX_SAID)
