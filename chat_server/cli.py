"""The options of ``chat-server``, and one call."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import click

from lm_cli.options import (
    EXIT_CODES,
    debug_option,
    engine_options,
    max_tokens_option,
    sampling_options,
    speculate_option,
    version_option,
)

HELP = f"""Serve chat sessions over HTTP that revert, fork and survive crashes without one bit of difference.

\b
Examples:
  chat-server
  chat-server -m models/chat -r 1.176
  chat-server -m models/story --chat-template plain --port 8080
  chat-server --host 0.0.0.0 --api-key "$KEY"
  curl -d user0 -H 'Content-Type: text/plain' http://127.0.0.1:8000/createSession

The sampling options set what sessions and requests may override.  SIGTERM or Ctrl-C lets running
turns finish.  Every option can also be set as an environment variable, as in CHAT_SERVER_PORT=8080;
CHAT_SERVER_API_KEY takes several keys with commas between.
{EXIT_CODES}
"""


def _bytes(_context: click.Context, _option: click.Parameter, text: str | None) -> int | None:
    from chat_server.settings import parse_size

    try:
        return None if text is None else parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@click.command("chat-server", help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-m",
    "--model-dir",
    "model",
    default="models/chat",
    show_default=True,
    help="Model folder, the name of a known model, or a hub id; fetched where it is not there yet.",
)
@click.option("--no-pull", is_flag=True, help="Fail instead of fetching a model that is not there.")
@click.option(
    "--chat-template",
    metavar="NAME|FILE",
    help="For a model without a chat template: chatml, plain, or a file with one in Jinja.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="Port to listen on; 0 for any that is free, which the log names.",
)
@click.option(
    "--database",
    metavar="URL|FILE",
    help="Where sessions are kept: an SQLite file or a database URL.  [default: in the user's data folder]",
)
@click.option(
    "--api-key",
    "api_keys",
    multiple=True,
    envvar="CHAT_SERVER_API_KEY",
    help="Ask for this key; may be given several times.",
)
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without an API key.")
@click.option(
    "--allowed-host",
    "allowed_hosts",
    multiple=True,
    envvar="CHAT_SERVER_ALLOWED_HOST",
    help="Another name by which the server may be called; * for any.  May be given several times.",
)
@click.option(
    "--max-running",
    type=click.IntRange(1, 1024),
    default=16,
    show_default=True,
    help="Sessions that are computed at once.",
)
@click.option(
    "--max-queue",
    type=click.IntRange(0, 100_000),
    default=64,
    show_default=True,
    help="Turns that wait; the next is refused.",
)
@click.option(
    "--kv-budget",
    metavar="SIZE",
    callback=_bytes,
    help="Bytes (or 512M, 2G) for keys and values of all sessions.  [default: a quarter of the memory]",
)
@click.option("--context-length", type=click.IntRange(min=2), help="Use less than the model's context.")
@max_tokens_option(128, "New tokens of a turn, unless it says otherwise.")
@sampling_options(temperature=0.65, top_k=35, top_p=0.55)
@engine_options()
@speculate_option()
@click.option(
    "--grace",
    type=click.FloatRange(0, 86400),
    default=30.0,
    show_default=True,
    help="Seconds that running turns have to finish when the server is asked to end.",
)
@click.option(
    "--request-timeout",
    type=click.FloatRange(0.01, 86400),
    default=30.0,
    show_default=True,
    help="Seconds in which a request has to arrive.",
)
@click.option(
    "--max-connections",
    type=click.IntRange(1, 100_000),
    default=512,
    show_default=True,
    help="Connections at once.",
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="The least that is logged.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines of the log.",
)
@debug_option()
@version_option()
@click.pass_context
def chat_server(
    context: click.Context,
    model: str,
    no_pull: bool,
    chat_template: str | None,
    host: str,
    port: int,
    database: str | None,
    api_keys: tuple[str, ...],
    insecure: bool,
    allowed_hosts: tuple[str, ...],
    max_running: int,
    max_queue: int,
    kv_budget: int | None,
    context_length: int | None,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    seed: int | None,
    dtype: str,
    threads: int | None,
    speculate: bool,
    grace: float,
    request_timeout: float,
    max_connections: int,
    log_level: str,
    log_format: str,
    debug: bool,  # noqa: ARG001 - read by lm_cli.program.run
) -> None:
    if context.get_parameter_source("api_keys") is click.core.ParameterSource.ENVIRONMENT:
        api_keys = _split(api_keys)
    if not api_keys and not insecure and not _is_loopback(host):
        raise click.UsageError(
            f"--host {host} can be reached from other machines; set an --api-key (or --insecure)"
        )
    if not all(api_keys):
        raise click.UsageError("an API key is empty")
    # Imported here so that --help does not wait for NumPy.
    from chat_server.deferral import import_fastapi

    import_fastapi()
    from chat_server import logs
    from chat_server.defaults import Defaults
    from chat_server.server import ChatServer
    from chat_server.settings import Settings, quarter_of_memory
    from lm_core.blas import set_threads
    from lm_core.sampler import SamplingParams
    from lm_models.locate import model_folder
    from lm_models.progress import terminal_progress

    params = SamplingParams(temperature, top_k, top_p, min_p, repetition_penalty, seed)
    logs.configure(log_level, "json" if log_format == "json" else "text")
    set_threads(threads)
    settings = Settings(
        model=model,
        pull=not no_pull,
        dtype=dtype,
        threads=threads,
        speculate=speculate,
        template=chat_template,
        host=host,
        port=port,
        database=database,
        api_keys=api_keys,
        allowed_hosts=allowed_hosts,
        max_running=max_running,
        max_queue=max_queue,
        kv_budget=quarter_of_memory() if kv_budget is None else kv_budget,
        context_length=context_length,
        grace=grace,
        request_timeout=request_timeout,
        max_connections=max_connections,
        defaults=Defaults(params, max_tokens),
    )
    folder = model_folder(model, pull=not no_pull, progress=terminal_progress())
    ChatServer(settings, folder).run()


def _split(keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.strip() for key in keys for part in key.split(",") if part.strip())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
