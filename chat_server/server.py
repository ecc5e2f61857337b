"""The life of the process: listen, load, serve, drain, end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import uvicorn

from chat_server.admission import Admission
from chat_server.app import make_app
from chat_server.engine import LocalEngine
from chat_server.errors import Unavailable
from chat_server.gate import Gate, Hosts, Keys
from chat_server.protocol import BoundedProtocol
from chat_server.scheduler import Scheduler
from chat_server.service import ChatService
from chat_server.settings import Settings
from chat_server.state import ServerState
from chat_server.store import Store
from lm_core import blas
from lm_core.chat_template import FALLBACKS, ChatTemplate
from lm_core.errors import LanguageModelError
from lm_core.language_model import LanguageModel
from lm_core.memory import give_back

WORKERS = 8
"""Threads for the store: what must not stop the event loop."""
CHECKERS = 2
"""Threads for the checks of turns, which are mostly Python: more of them would only take Python's lock from
the event loop in turn, and none would be done sooner."""
BACKLOG = 1024
KEEP_ALIVE_SECONDS = 60
FAREWELL_SECONDS = 5
"""How long connections may take to close once all is said."""

logger = logging.getLogger(__name__)


class ListenError(LanguageModelError):
    """The address cannot be listened on."""


class _Uvicorn(uvicorn.Server):
    """uvicorn, with its signal handling left to :class:`ChatServer`."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


class ChatServer:
    """One server, from start to end."""

    def __init__(self, settings: Settings, model_folder: Path) -> None:
        self._settings = settings
        self._model_folder = model_folder
        self._state = ServerState(threads=blas.describe().threads)
        self._executor = ThreadPoolExecutor(WORKERS, thread_name_prefix="worker")
        self._checkers = ThreadPoolExecutor(CHECKERS, thread_name_prefix="checker")
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def run(self) -> None:
        """Serve until a signal ends it.

        Raises:
            LanguageModelError: the address, the model or the store cannot be used.
        """
        listener = listen(self._settings.host, self._settings.port)
        try:
            asyncio.run(self._serve(listener))
        finally:
            listener.close()

    async def _serve(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        gate = self._gate()
        server = _Uvicorn(self._uvicorn_config(gate))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            await self._load_and_work(_url(listener))
        finally:
            gate.end()
            server.should_exit = True
            late = loop.call_later(FAREWELL_SECONDS - 1, _cut_off, server)
            await serving
            late.cancel()
            self._executor.shutdown()
            self._checkers.shutdown()
            self._state.bodies.close()
            self._state.texts.close()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
                # Nothing is left to be ended: who asks once more gets the same exit code.
                signal.signal(number, signal.SIG_IGN)

    async def _load_and_work(self, url: str) -> None:
        """Between the moment when the port answers and the one when it no longer does."""
        loop = asyncio.get_running_loop()
        # The store first: what is wrong with it is known sooner.
        store = await loop.run_in_executor(self._executor, Store.open, self._settings.database)
        try:
            language_model = await loop.run_in_executor(self._executor, self._load_model)
            logger.info("Model loaded from %s", self._model_folder)
            if language_model.template is None:
                logger.warning("the model has no chat template: only token ids work, see --chat-template")
            logger.info("Sessions are kept in %s", store.location)
            scheduler = Scheduler(self._settings.max_running, self._settings.kv_budget)
            engine = LocalEngine(
                language_model, scheduler, loop.call_soon_threadsafe, speculate=self._settings.speculate
            )
            engine.start()
            try:
                service = self._start_service(language_model, engine, store)
                # What is there by now stays: looking through it for garbage would stop all for 0.1 s.
                gc.freeze()
                gc.enable()
                logger.info("Listening on %s", url)
                number = await self._signals.get()
                logger.info("Received %s, shutting down gracefully", number.name)
                await self._drain(service)
            finally:
                await loop.run_in_executor(None, engine.stop)
        finally:
            await loop.run_in_executor(None, store.close)
        logger.info("Graceful shutdown completed")

    def _load_model(self) -> LanguageModel:
        template = None if self._settings.template is None else chosen_template(self._settings.template)
        language_model = LanguageModel.from_pretrained(self._model_folder, self._settings.dtype, template)
        # Reading a tokenizer takes more than it is; and this thread's share of memory is no other's.
        give_back()
        return language_model

    def _start_service(self, language_model: LanguageModel, engine: LocalEngine, store: Store) -> ChatService:
        settings = self._settings
        longest = language_model.llama.config.context_length
        if settings.context_length is not None and settings.context_length > longest:
            logger.warning("--context-length has no effect: the model's context is %d tokens", longest)
        service = ChatService(
            language_model,
            engine,
            store,
            Admission(settings.max_running, settings.max_queue),
            settings.defaults,
            min(longest, settings.context_length or longest),
            self._executor,
            self._checkers,
            self._state.texts,
            self._state.metrics,
        )
        self._state.metrics.watch(lambda: engine.status, lambda: service.queued)
        self._state.service = service
        return service

    async def _drain(self, service: ChatService) -> None:
        """Take nothing on, and let what runs finish: for the grace period, or until a second signal."""
        service.admission.draining = True
        again = asyncio.create_task(self._signals.get())
        finished = asyncio.create_task(service.idle())
        await asyncio.wait(
            (again, finished), timeout=self._settings.grace, return_when=asyncio.FIRST_COMPLETED
        )
        again.cancel()
        if not finished.done():
            count = service.turns_in_progress
            logger.warning("%d turns did not finish in time and are given up", count)
            service.cancel_all(
                Unavailable(
                    "draining", "the server was shut down before the turn was complete; send it again"
                )
            )
            await finished

    def _gate(self) -> Gate:
        settings = self._settings
        return Gate(
            make_app(self._state, with_keys=bool(settings.api_keys)),
            Keys(settings.api_keys),
            Hosts(settings.host, settings.allowed_hosts),
            settings.request_timeout,
            self._state.metrics.request,
            self._state.refuse_turn,
            self._state.bodies,
        )

    def _uvicorn_config(self, gate: Gate) -> uvicorn.Config:
        settings = self._settings
        protocol = partial(
            BoundedProtocol,
            request_timeout=settings.request_timeout,
            max_connections=settings.max_connections,
        )
        return uvicorn.Config(
            gate,
            http=protocol,  # type: ignore[arg-type]
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            backlog=BACKLOG,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=FAREWELL_SECONDS,
        )


def _cut_off(server: uvicorn.Server) -> None:
    """End the connections of clients that do not read what they were sent."""
    for connection in list(server.server_state.connections):
        connection.transport.abort()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        ListenError: the address is taken, or not one of this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ListenError(
            f"cannot listen on {host}:{port}: {reason}; choose another --host or --port"
        ) from error
    listener.setblocking(False)
    return listener


def chosen_template(choice: str) -> ChatTemplate:
    """The fallback template of that name, or the one in that file.

    Raises:
        LanguageModelError: there is neither, or it is not valid.
    """
    if choice in FALLBACKS:
        return ChatTemplate.fallback(choice)
    file = Path(choice)
    try:
        return ChatTemplate(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LanguageModelError(
            f"--chat-template {choice!r} is not one of {', '.join(FALLBACKS)}, nor a file that can be read"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
