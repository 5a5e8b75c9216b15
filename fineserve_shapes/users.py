"""Users: what one request of a plan is, for Locust.

A user class in a locustfile says how a request is sent; when it is sent is the plan's business. One instance serves all
requests of its process, many at once, so keep no state of one request on it.
"""

from __future__ import annotations

import logging
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import gevent
from locust import User

from fineserve_shapes import __version__, options
from fineserve_shapes.client.descriptors import allow_many
from fineserve_shapes.client.preflight import ServedModel, Server, ask, find_model
from fineserve_shapes.client.reactor import Reactor, borrow, give_back
from fineserve_shapes.client.retry import Retry429
from fineserve_shapes.client.routing import Route, Router
from fineserve_shapes.client.target import Endpoints, Target, unused_proxies
from fineserve_shapes.errors import InputError
from fineserve_shapes.measure.reads import Reads
from fineserve_shapes.outcome import Outcome
from fineserve_shapes.prompts.opening import Form, Prompt, PromptSource, open_prompts
from fineserve_shapes.prompts.tokenids import VOCAB_SIZE
from fineserve_shapes.protocol.answer import AnswerReader
from fineserve_shapes.protocol.request import Api, BodyTemplate, body_fields, candidates_asked, choices_asked, streams
from fineserve_shapes.protocol.result import Result
from fineserve_shapes.streams import Stream
from fineserve_shapes.text import shorten
from fineserve_shapes.values import Values

__all__ = ["ArrivalUser", "ChatUser", "CompletionUser", "OpenAIUser", "Outcome", "PlannedRequest", "Result", "Stream"]

logger = logging.getLogger(__name__)

API_KEY_VARIABLE = "OPENAI_API_KEY"
_PREFLIGHT_INDEX = 2**31  # of a prompt that no request of a plan has, nor any of the warm-up, which count from the end
_PREFLIGHT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of the plan.

    id: `<run>-<index>`, in a mix `<run>-<stream>-<position>`; the same in the server's log and the records. index: its
    place in the plan. position: its place in its stream, the same where there is one stream: what is drawn for a request
    is drawn by that, so that it does not depend on other streams. due_s: seconds from the start of the run.
    prepared: what the user's `prepare` made of it. prefix: the blocks that its prompt shares with others.
    """

    id: str
    index: int
    due_s: float
    input_tokens: int
    output_tokens: int
    stream: Stream
    position: int
    prepared: Any = None
    prefix: tuple[int, ...] = ()


class ArrivalUser(User):
    """Any Locust client, driven open loop by a plan: override `perform`, which gets the request.

    Locust starts one inert instance a process, so that a run has users; requests do not come from its tasks. With another
    of Locust's clients, which fires the request events itself:

        class Client(ArrivalUser, FastHttpUser):
            def perform(self, request):
                self.client.post("/generate", json={"max_tokens": request.output_tokens})
    """

    abstract = True
    tasks: ClassVar[list[Any]] = [lambda _user: None]  # never run; Locust wants one

    def open(self, stream: Stream) -> dict[str, Any]:  # noqa: ARG002
        """Get ready for the stream whose requests this instance sends, before time 0 of a run; `stream.values` has its
        options. Facts that come back are shown by the master; the entry `digest` is compared between workers. Raises
        InputError, which ends the run with its one line."""
        return {}

    def prepare(self, request: PlannedRequest) -> Any:  # noqa: ARG002
        """Make what the request needs, up to a second before it is due. The result is `request.prepared`."""
        return None

    def perform(self, request: PlannedRequest) -> Result | None:
        """Send the request and wait for its end.

        Return a Result to have it measured and shown under `name_of`; None where the client has fired Locust's
        request event itself. An exception is a failure.
        """
        raise NotImplementedError(f"{type(self).__name__}.perform sends a request: override it")

    def result(self, request: PlannedRequest, result: Result) -> None:
        """Called with every result: for what is to be done with answers beside measuring them."""

    def tokens_come(self) -> int | None:
        """Output tokens that have come so far, of answers that have not ended as well. None: not known."""
        return None

    def first_tokens(self) -> list[tuple[PlannedRequest, float, float]]:
        """Requests whose first token came since the last call, with when they were sent and when it came (perf_counter);
        of answers that have not ended. Empty: not known."""
        return []

    def take_reads(self) -> Reads:
        """How late tokens were read since the last call. Empty: not known."""
        return Reads()

    def name_of(self, request: PlannedRequest) -> tuple[str, str]:  # noqa: ARG002
        """The type and name under which Locust shows the request. Few names: each is a row of its own, for ever."""
        return "OPEN", type(self).__name__

    def close(self) -> None:
        """The run is over."""

    @classmethod
    def options(cls) -> tuple[options.Option, ...]:
        """The options that the class reads."""
        return ()

    def run(self) -> None:
        """Locust's part: nothing, until the user is stopped."""
        while True:
            gevent.sleep(3600)


class OpenAIUser(ArrivalUser):
    """What completions and chats have in common: the client, the prompts, the reading of answers.

    Override `headers`, `body`, `prepare`, `name_of` or `result` of one of the two below it:

        class Tenant(ChatUser):
            def headers(self):
                return super().headers() | {"X-Team": "search"}
    """

    abstract = True
    api: Api
    stream: Stream
    """Whose requests this instance sends; from `open` on."""

    _reactor: Reactor | None = None
    _context_tokens: int | None = None
    _router: Router
    _retry: Retry429
    _template: BodyTemplate
    _prompts: PromptSource

    def open(self, stream: Stream) -> dict[str, Any]:
        """Make the client, look at the server, and get the prompts ready."""
        self.stream, values = stream, stream.values
        hosts = options.hosts(options.host(stream.own, self.environment.host, self.host))
        if not hosts:
            raise InputError("no server to send to (--host)")
        deadlines = options.deadlines(values)
        self._retry = Retry429(values.count("--rate-limit-retries") or 0, deadlines.request_s)
        extra = values.json_object("--extra-request-body")
        self._streams = streams({"stream": not values.switch("--disable-stream")} | extra)
        routes = [self._route(host, values) for host in hosts]
        model = self._model(values, extra, routes[0].server, deadlines.connect_s)
        others = [
            self._model(values, {**extra, "model": model.name}, route.server, deadlines.connect_s)
            for route in routes[1:]
        ]
        contexts = [found.max_model_len for found in (model, *others) if found.max_model_len is not None]
        self._context_tokens = min(contexts, default=None)
        backend = values.text("--backend") or "vllm"
        fields = body_fields(
            model.name,
            backend=backend,
            stream=self._streams,
            ignore_eos=not values.switch("--disable-ignore-eos"),
            extra=extra,
        )
        self._choices = choices_asked(fields), candidates_asked(fields)
        self._template = BodyTemplate(self.api, fields, values.text("--max-tokens-field") or "max_tokens")
        self._prompts = open_prompts(
            self._form(values.text("--prompt-form") or "auto", backend),
            seed=options.seed(values),
            tokenizer=values.text("--tokenizer"),
            dataset_path=values.path("--dataset-path"),
            prompt_suffix=values.text("--prompt-suffix") or "",
            vocab_size=values.count("--vocab-size") or VOCAB_SIZE,
            apply_chat_template=values.switch("--apply-chat-template"),
        )
        # text that is checked against a tokenizer takes milliseconds, in which the interpreter's lock is free
        self._slow_prompts = values.text("--tokenizer") is not None and self._prompts.form != "token_ids"
        if not model.certain and not values.switch("--skip-preflight"):
            for route in routes:
                self._ask(route, model, min(deadlines.progress_s, deadlines.request_s))
        allow_many()
        reactor = borrow(time.perf_counter)
        try:
            by_prefix = values.text("--routing") == "prefix"
            self._router = Router(routes, reactor, deadlines, by_prefix=by_prefix)
        except BaseException:
            give_back(reactor)
            raise
        self._reactor = reactor
        reactor.leisurely = values.count("--max-concurrency") is None
        self._readers: set[AnswerReader] = set()  # of answers that have not ended
        self._awaited: dict[
            AnswerReader, PlannedRequest
        ] = {}  # of those whose first token has not come, or is not told
        self._tokens_read = 0  # of those that have
        return {
            "model": model.name,
            "max_model_len": model.max_model_len,
            "digest": self._prompts.digest,
            "prompt_form": self._prompts.form,
            "token_times": "received" if reactor.stamps else "read",
            "inexact": self._prompts.inexact,
            "tls_verified": not values.switch("--insecure") if any(route.target.tls for route in routes) else None,
        }

    def headers(self) -> dict[str, str]:
        """Headers of every request."""
        headers = {
            "Content-Type": "application/json",
            "Accept": "text/event-stream" if self._streams else "application/json",
            "User-Agent": f"fineserve-shapes/{__version__}",
        }
        return headers | _authorization(self.stream.values.text("--api-key-env") or API_KEY_VARIABLE)

    def prepare(self, request: PlannedRequest) -> Prompt:
        """The prompt, of the asked length."""
        asked = request.position, request.input_tokens, request.prefix
        if self._slow_prompts:
            return gevent.get_hub().threadpool.apply(self._prompts.prompt, asked)
        return self._prompts.prompt(*asked)

    def body(self, request: PlannedRequest) -> bytes:
        """The JSON body of a request."""
        return self._template.body(request.prepared.json, request.output_tokens)

    def perform(self, request: PlannedRequest) -> Result:
        """POST the request and read the answer."""
        asked_tokens = request.input_tokens + request.output_tokens
        if self._context_tokens is not None and asked_tokens > self._context_tokens:
            self._tell_of_the_context(request, self._context_tokens)
        body = self.body(request)
        client, path = self._router.way(request.position, request.prefix)
        attempts = 0

        def attempt() -> Result:
            nonlocal attempts
            reader = self._reader(request)
            self._readers.add(reader)
            attempts += 1
            if attempts == 1:  # a later one counts from when the first was sent, which its end tells
                self._awaited[reader] = request
            try:
                return client.post(path, body, reader, {"X-Request-Id": request.id})
            finally:
                self._readers.discard(reader)
                self._awaited.pop(reader, None)
                self._tokens_read += reader.tokens

        return self._retry.perform(attempt)

    def tokens_come(self) -> int | None:
        """By the server's usage where every chunk has it, else counted."""
        return self._tokens_read + sum(reader.tokens for reader in self._readers)

    def first_tokens(self) -> list[tuple[PlannedRequest, float, float]]:
        """As their readers have them."""
        found = [(reader, request) for reader, request in self._awaited.items() if reader.first_token_s is not None]
        told = []
        for reader, request in found:
            del self._awaited[reader]
            if reader.sent_s is not None and reader.first_token_s is not None:
                told.append((request, reader.sent_s, reader.first_token_s))
        return told

    def take_reads(self) -> Reads:
        """By the kernel's stamps, where there are some."""
        reactor = self._reactor
        return Reads() if reactor is None or not reactor.stamps else reactor.reads.take()

    def name_of(self, request: PlannedRequest) -> tuple[str, str]:  # noqa: ARG002
        """POST and the common path of the API, whatever the server's own is."""
        return "POST", str(self.api)

    def close(self) -> None:
        """Close connections."""
        if self._reactor is not None:
            self._router.close()
            give_back(self._reactor)
            self._reactor = None

    @classmethod
    def options(cls) -> tuple[options.Option, ...]:
        """Server and prompts."""
        return options.SERVER + options.PROMPTS

    def _reader(self, request: PlannedRequest) -> AnswerReader:
        return AnswerReader(self._template.output_tokens(request.output_tokens), *self._choices)

    def _model(self, values: Values, extra: Mapping[str, object], server: Server, timeout_s: float) -> ServedModel:
        named = extra.get("model")
        wanted = named if isinstance(named, str) else values.text("--model")
        if values.switch("--skip-preflight"):
            if wanted is None:
                raise InputError("without a look at the server its model is not known: name it (--model)")
            return ServedModel(wanted)
        return find_model(server, wanted, timeout_s)

    def _route(self, host: str, values: Values) -> Route:
        target = Target(host)
        endpoints = Endpoints(target, values.text("--endpoint"))
        context = options.tls(values) if target.tls or values.text("--ca-file") is not None else None
        self._tell_of_the_way(target, insecure=values.switch("--insecure"))
        return Route(target, endpoints.request(self.api), context, Server(endpoints, context, self.headers()))

    def _ask(self, route: Route, model: ServedModel, timeout_s: float) -> None:
        """Send what the run would send, for one token."""
        request = PlannedRequest(
            f"preflight-{uuid.uuid4().hex[:12]}", _PREFLIGHT_INDEX, 0.0, _PREFLIGHT_TOKENS, 1, self.stream,
            _PREFLIGHT_INDEX,
        )  # fmt: skip
        try:
            body = self.body(replace(request, prepared=self.prepare(request)))
        except InputError:
            raise
        except Exception as error:  # a locustfile's own methods may know the plan's rows alone
            logger.warning("no request to try the server with: %s: %s", type(error).__name__, shorten(str(error)))
            return
        ask(route.server, route.path, body, self._reader(request), model, timeout_s, {"X-Request-Id": request.id})

    def _tell_of_the_way(self, target: Target, *, insecure: bool) -> None:
        """Say what of a way to the server is not as one may think."""
        proxies = unused_proxies(target)
        if proxies:
            logger.warning("%s is not used: requests go straight to %s", " or ".join(proxies), target.authority)
        if insecure and target.tls:
            logger.warning("the certificate of %s is not verified (--insecure)", target.authority)

    def _tell_of_the_context(self, request: PlannedRequest, context_tokens: int) -> None:
        """Say once that the plan has requests which the model cannot hold."""
        self._context_tokens = None
        logger.warning(
            "request %s asks for %d tokens and has a prompt of %d: together more than the model's context of %d, so that"
            " the server may refuse it and others like it (--max-model-len %d cuts them)",
            request.id, request.output_tokens, request.input_tokens, context_tokens, context_tokens,
        )  # fmt: skip

    def _form(self, asked: str, backend: str) -> Form:
        if self.api is Api.CHAT:
            if asked == "tokens":
                raise InputError("chats take no token ids: --prompt-form tokens is for completions")
            return "chat"
        return "token_ids" if asked == "tokens" or (asked == "auto" and backend == "vllm") else "text"


class CompletionUser(OpenAIUser):
    """`/v1/completions`: the recorded number of tokens in, the recorded number out.

    class Completions(CompletionUser):
        pass
    """

    abstract = True
    api = Api.COMPLETIONS


class ChatUser(OpenAIUser):
    """`/v1/chat/completions`: each prompt is one message of a user.

    class Chat(ChatUser):
        pass
    """

    abstract = True
    api = Api.CHAT


def failure(error: Exception, sent_s: float) -> Result:
    """The result of a `perform` that raised."""
    outcome = Outcome.STREAM_ERROR
    if isinstance(error, TimeoutError):
        outcome = Outcome.TIMEOUT
    elif isinstance(error, ConnectionError):
        outcome = Outcome.CONNECT_ERROR
    return Result(outcome, shorten(f"{type(error).__name__}: {error}"), sent_s, time.perf_counter())


def _authorization(variable: str) -> dict[str, str]:
    """The key, from the environment of this process and nowhere else."""
    key = os.environ.get(variable, "").strip()
    return {"Authorization": f"Bearer {key}"} if key else {}
