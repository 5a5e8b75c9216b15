"""The simulated server: routes, and the one loop that steps the engine and hands its tokens to the answers."""

import asyncio
import gc
import hmac
import math
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from fineserve_shapes.errors import InputError
from fineserve_shapes.simulator import metrics as prometheus
from fineserve_shapes.simulator.answers import Answer, StreamAnswer, WholeAnswer
from fineserve_shapes.simulator.connection import ConnectionLimits, HttpRequest, ServedConnection
from fineserve_shapes.simulator.engine import Sequence
from fineserve_shapes.simulator.faults import (
    BENT,
    DOWN,
    HEADER,
    HTTP_FAULTS,
    FaultDraw,
    FaultShares,
    FaultWindow,
    HttpFault,
)
from fineserve_shapes.simulator.hosting import HostedModel, Hosting
from fineserve_shapes.simulator.idleness import Idleness
from fineserve_shapes.simulator.metrics import Gauged
from fineserve_shapes.simulator.pacer import Pacer
from fineserve_shapes.simulator.rendering import VLLM_VERSION, TransformersRenderer, VllmRenderer, model_list, tokenized
from fineserve_shapes.simulator.requests import (
    Generation,
    Refusal,
    load_object,
    message_texts,
    parse_transformers,
    parse_vllm,
    vllm_error,
)
from fineserve_shapes.simulator.streamfaults import CloseDelimited
from fineserve_shapes.simulator.truth import TruthLog
from fineserve_shapes.simulator.vocabulary import Vocabulary, chat_tokens, words
from fineserve_shapes.simulator.waiting import PacedSelector

LONGEST_REQUEST_ID = 256
MANY_ALLOCATIONS = 1_000_000
LOOK_EVERY_S = 0.02
"""How exactly a restart keeps its time."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What the server is, apart from its engine."""

    transformers: bool
    vocabulary: Vocabulary
    limits: ConnectionLimits
    faults: FaultShares
    fault_windows: tuple[FaultWindow, ...]
    loading_s: float
    seed: int
    eos_probability: float
    stream_interval: int
    per_request_metrics: bool
    prompt_tokens_details: bool
    api_key: str | None


class Simulator:
    """Serves connections with the tokens of an engine. Lives in one asyncio loop, on one core."""

    def __init__(self, settings: ServerSettings, hosting: Hosting, truth: TruthLog | None, loop_fd: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.vocabulary = settings.vocabulary
        self.prompt_tokens_details = settings.prompt_tokens_details
        self.per_request_metrics = settings.per_request_metrics
        self.stream_interval = settings.stream_interval
        self._settings = settings
        self._hosting = hosting
        self._engines = hosting.engines
        self._truth = truth
        self._pacer = Pacer(loop_fd, hosting.engines)
        self._answers: set[Answer] = set()  # those that wait for tokens
        self._connections: set[ServedConnection] = set()
        self._idleness = Idleness(self.loop, settings.limits.keep_alive_s)
        self._faults = FaultDraw(settings.faults, settings.fault_windows, settings.seed)
        self._draws = bool(settings.faults.shares or settings.fault_windows) or settings.eos_probability > 0.0
        self._began_s = time.perf_counter()
        self._ready_s = self._began_s + settings.loading_s
        self._ids = random.Random(f"{settings.seed}/ids")
        self._started = int(time.time())
        self._routes: dict[tuple[str, str], Callable[[ServedConnection, HttpRequest], None]] = {
            ("POST", "/v1/completions"): self._completion,
            ("POST", "/v1/chat/completions"): self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/health"): self._health,
            ("GET", "/ping"): self._health,
        }
        if not settings.transformers:
            self._routes |= {
                ("GET", "/metrics"): self._metrics,
                ("GET", "/version"): self._version,
                ("GET", "/load"): self._load,
                ("POST", "/tokenize"): self._tokenize,
            }

    def wait(self, until_s: float) -> None:
        """What the loop does while it waits."""
        try:
            self._pacer.wait(until_s)
        except Exception as error:  # as asyncio does with all that it calls: other answers go on
            self.loop.call_exception_handler({"message": "Exception while handing out tokens", "exception": error})

    def connect(self) -> ServedConnection:
        """The protocol of a new connection."""
        self._pacer.write()
        return ServedConnection(self.loop, self.handle, self._connections, self._idleness, self._settings.limits)

    @property
    def down(self) -> bool:
        """Whether there should be no server at this moment."""
        now_s = time.perf_counter() - self._began_s
        windows = self._settings.fault_windows
        return any(window.kind == DOWN and window.start_s <= now_s < window.end_s for window in windows)

    def restart(self) -> None:
        """Lose all that a process loses that is killed: answers, connections and caches. It loads its models anew."""
        for connection in list(self._connections):
            connection.reset()
        for engine in self._engines:
            engine.forget()
        self._ready_s = math.inf

    def restarted(self) -> None:
        """It listens again."""
        self._ready_s = time.perf_counter() + self._settings.loading_s

    def close(self) -> None:
        """Drop all connections; their answers count as aborted."""
        for connection in list(self._connections):
            connection.drop()
        self._idleness.close()

    def collect_garbage(self) -> None:
        """Look for cycles while no answer is in progress, or if there is much to look at after all.

        Requests leave none behind, so there is little to find.
        """
        allocations = gc.get_count()[0]
        if allocations > MANY_ALLOCATIONS or (allocations > 0 and not self._answers):
            gc.collect()

    # what answers need (answers.Service)

    def resume(self, answer: Answer) -> None:
        """Let the engine generate as many tokens again, without a prompt."""
        self._forget(answer)
        answer.sequence = Sequence(1, answer.sequence.output_tokens)
        # later: this comes from the midst of handing out tokens, and submitting hands out more
        self.loop.call_soon(self._submit, answer)

    def release(self, answer: Answer) -> None:
        if self._forget(answer):
            self._pacer.withdraw(answer)

    def _forget(self, answer: Answer) -> bool:
        known = answer.sequence.answer is answer
        answer.sequence.answer = None
        self._answers.discard(answer)
        return known

    def ended(self, answer: Answer) -> None:
        ended_s = time.perf_counter()
        self._pacer.write()
        answer.count_end(ended_s)
        if self._truth is not None:
            self._truth.add(answer.truth())

    def _submit(self, answer: Answer, received_s: float | None = None) -> None:
        if answer.open:
            self._answers.add(answer)
            self._pacer.submit(answer, received_s)

    # requests

    def handle(self, connection: ServedConnection, request: HttpRequest) -> None:
        """Answer a request, or begin to."""
        self._pacer.write()
        key = self._settings.api_key
        if key is not None and request.path.startswith("/v1"):
            sent = request.headers.get("authorization", "").encode("latin-1")
            if not hmac.compare_digest(sent, f"Bearer {key}".encode()):
                self._json(connection, {"error": "Unauthorized"}, 401)
                return
        route = self._routes.get((request.method, request.path))
        if route is not None:
            route(connection, request)
        elif any(path == request.path for _, path in self._routes):
            self._json(connection, {"detail": "Method Not Allowed"}, 405)
        else:
            self._json(connection, {"detail": "Not Found"}, 404)

    def _completion(self, connection: ServedConnection, request: HttpRequest) -> None:
        self._generate(connection, request, chat=False)

    def _chat(self, connection: ServedConnection, request: HttpRequest) -> None:
        self._generate(connection, request, chat=True)

    def _generate(self, connection: ServedConnection, request: HttpRequest, *, chat: bool) -> None:
        settings = self._settings
        request_id = (
            request.headers.get("x-request-id", "")[:LONGEST_REQUEST_ID] or f"{self._ids.getrandbits(128):032x}"
        )
        parse = parse_transformers if settings.transformers else parse_vllm
        try:
            generation = parse(request.body, chat=chat, hosting=self._hosting)
        except Refusal as refusal:
            self._refuse(connection, request, request_id, refusal, None)
            return
        if request.received_s < self._ready_s:
            loading = vllm_error(503, "ServiceUnavailableError", "Loading model")
            self._refuse(connection, request, request_id, loading, None)
            return
        kind, rng = None, None
        asked = request.headers.get(HEADER)
        if self._draws or asked is not None:
            kind, rng = self._faults.draw(request_id, request.received_s - self._began_s, asked)
        if kind is not None and kind in HTTP_FAULTS:
            fault = HTTP_FAULTS[kind]
            told = vllm_error(fault.status, fault.name, "The simulator was asked to refuse this request.")
            self._refuse(connection, request, request_id, told, kind, fault)
            return
        if not generation.stream:
            answer_class: type[Answer] = WholeAnswer
        elif kind is not None:
            answer_class = BENT[kind]
        else:
            answer_class = CloseDelimited if request.http_1_0 else StreamAnswer
        render = TransformersRenderer if settings.transformers else VllmRenderer
        renderer = render(generation, request_id, int(time.time()))
        answer = answer_class(self, connection, renderer, generation, request_id, request.received_s)
        if rng is not None:
            self._draw_details(answer, generation, rng)
        connection.on_abort = answer.abort
        answer.begin()
        self._submit(answer, request.received_s)

    def _draw_details(self, answer: Answer, generation: Generation, rng: random.Random) -> None:
        probability = self._settings.eos_probability
        if probability > 0.0 and not generation.ignore_eos:
            # the first success of a row of draws: geometric, from 1
            tokens = 1 + int(math.log(1.0 - rng.random()) / math.log1p(-probability)) if probability < 1.0 else 1
            tokens = max(tokens, generation.min_tokens, 1)
            if tokens < generation.max_tokens:
                answer.ends_after(tokens, "stop")
        answer.draw(rng)

    def _refuse(
        self,
        connection: ServedConnection,
        request: HttpRequest,
        request_id: str,
        refusal: Refusal,
        kind: str | None,
        fault: HttpFault | None = None,
    ) -> None:
        if refusal.in_stream:
            body = b"data: " + orjson.dumps(refusal.body) + b"\n\n"
            connection.respond(200, body, "text/event-stream; charset=utf-8", {"x-request-id": request_id})
        elif fault is not None and fault.body is not None:
            fields = {"x-request-id": request_id, **fault.headers}
            connection.respond(fault.status, fault.body, fault.content_type, fields)
        else:
            fields = {"x-request-id": request_id, **(fault.headers if fault is not None else {})}
            connection.respond(refusal.status, orjson.dumps(refusal.body), headers=fields)
        if self._truth is not None:
            line = {"request_id": request_id, "received_s": request.received_s, "prompt_tokens": None}
            line |= {"max_tokens": None, "output_tokens": 0, "chunk_due_s": [], "chunk_written_s": []}
            line |= {"status": refusal.status, "finish_reason": None, "aborted": False, "fault": kind}
            self._truth.add(line)
        connection.done()

    def _models(self, connection: ServedConnection, _: HttpRequest) -> None:
        self._json(connection, model_list(self._hosting, self._started))

    def _health(self, connection: ServedConnection, _: HttpRequest) -> None:
        connection.respond(200 if time.perf_counter() >= self._ready_s else 503, b"")
        connection.done()

    def _metrics(self, connection: ServedConnection, _: HttpRequest) -> None:
        text = prometheus.render([self._gauged(model) for model in self._hosting])
        connection.respond(200, text.encode(), prometheus.CONTENT_TYPE)
        connection.done()

    def _gauged(self, model: HostedModel) -> Gauged:
        answers = [answer for answer in self._answers if answer.request.model is model]
        for answer in answers:
            answer.count()
        running = sum(answer.sequence.running for answer in answers)
        engine = model.engine
        return Gauged(model.name, model.metrics, engine.counters, running, len(answers) - running, engine.kv_usage)

    def _version(self, connection: ServedConnection, _: HttpRequest) -> None:
        self._json(connection, {"version": VLLM_VERSION})

    def _load(self, connection: ServedConnection, _: HttpRequest) -> None:
        self._json(connection, {"server_load": len(self._answers)})

    def _tokenize(self, connection: ServedConnection, request: HttpRequest) -> None:
        try:
            fields = load_object(request.body, transformers=False)
            model = self._hosting.find(fields.get("model")) or self._hosting.first
            if "messages" in fields:
                prompt = chat_tokens(message_texts(fields["messages"]))
            elif isinstance(fields.get("prompt"), str):
                prompt = list(words(fields["prompt"]))
            else:
                raise vllm_error(400, "Bad Request", "1 validation error:\n  prompt must be a string", "body.prompt")
        except Refusal as refusal:
            self._json(connection, refusal.body, refusal.status)
            return
        self._json(connection, tokenized(prompt, model.max_model_len))

    def _json(self, connection: ServedConnection, value: object, status: int = 200) -> None:
        connection.respond(status, orjson.dumps(value))
        connection.done()


async def serve(
    settings: ServerSettings,
    hosting: Hosting,
    truth: TruthLog | None,
    host: str,
    port: int,
    parent_gone: Callable[[], bool],
    selector: PacedSelector,
) -> None:
    """Listen, say so on standard output, and serve until SIGTERM, SIGINT or the end of the parent."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    simulator = Simulator(settings, hosting, truth, selector.fileno())
    selector.wait = simulator.wait
    try:
        server = await loop.create_server(simulator.connect, host, port, backlog=4096)
    except OSError as error:
        simulator.close()
        raise InputError(f"cannot listen on {host}:{port}: {error.strerror} (--host, --port)") from None
    address = server.sockets[0].getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    # the collector stops the world for milliseconds: what exists now is left alone for good, the rest see collect_garbage
    gc.collect()
    gc.freeze()
    gc.disable()
    print(f"listening on http://{shown}:{address[1]} (model {hosting.first.name})", flush=True)
    restarts = bool(settings.fault_windows)
    while not stopped.is_set() and not parent_gone():
        try:
            async with asyncio.timeout(LOOK_EVERY_S if restarts else 0.25):
                await stopped.wait()
        except TimeoutError:
            simulator.collect_garbage()
        if simulator.down and server.is_serving():
            server.close()
            simulator.restart()
        elif not simulator.down and not server.is_serving():
            server = await loop.create_server(simulator.connect, host, address[1], backlog=4096, reuse_address=True)
            simulator.restarted()
    server.close()
    simulator.close()
    # one turn of the loop, so that connections close before it does
    await asyncio.sleep(0)
