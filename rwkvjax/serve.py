# SPDX-License-Identifier: Apache-2.0
"""Serves a model through the OpenAI interface (extra `serve`).

    python -m rwkvjax.serve --checkpoint=runs/quickstart --port=8000
    curl http://127.0.0.1:8000/v1/completions -H 'content-type: application/json' \\
        -d '{"model": "rwkv", "prompt": "def ", "max_tokens": 20}'

An API key is read from the environment variable RWKVJAX_API_KEY. Only this machine can connect
unless --host says otherwise; a key is then required. SIGTERM lets running requests finish.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
from typing import Any

from absl import flags

from core import cli
from rwkvjax import model_flags

_FLAGS = flags.FlagValues()
model_flags.define(_FLAGS, dtype=True)
flags.DEFINE_string("model", "rwkv", "Name of the model for clients.", flag_values=_FLAGS)
flags.DEFINE_string(
    "adapters", "", "Folder of adapter files, offered as MODEL@FILE.", flag_values=_FLAGS
)
flags.DEFINE_integer("max_adapters", 8, "Adapters kept in memory.", 1, flag_values=_FLAGS)
flags.DEFINE_string("host", "127.0.0.1", "Address to listen at.", flag_values=_FLAGS)
flags.DEFINE_integer("port", 8000, "0 takes a free one.", 0, 65535, flag_values=_FLAGS)
flags.DEFINE_integer("slots", 16, "Sequences in a batch.", 1, flag_values=_FLAGS)
flags.DEFINE_integer(
    "prefill_chunk", 256, "Tokens of a prompt fed at once (power of two).", 1, flag_values=_FLAGS
)
flags.DEFINE_float(
    "cache_mib", 256.0, "Budget of the prefix cache in MiB; 0: off.", 0.0, flag_values=_FLAGS
)
flags.DEFINE_bool(
    "warm_up_all",
    False,
    "Compile embeddings and echo at the start, too, not at their first use.",
    flag_values=_FLAGS,
)
flags.DEFINE_integer(
    "max_waiting", 256, "Sequences that may wait for a slot.", 0, flag_values=_FLAGS
)
flags.DEFINE_integer("max_prompt_tokens", 32768, "Longest prompt.", 1, flag_values=_FLAGS)
flags.DEFINE_integer("max_tokens", 4096, "Longest answer.", 1, flag_values=_FLAGS)
flags.DEFINE_float("timeout", 600.0, "Seconds a request may take.", 0.001, flag_values=_FLAGS)
flags.DEFINE_integer(
    "drain_seconds", 30, "Time for running requests after SIGTERM.", 0, flag_values=_FLAGS
)
flags.DEFINE_float("temperature", 1.0, "Of requests that name none.", 0.0, flag_values=_FLAGS)
flags.DEFINE_float("top_p", 0.85, "Of requests that name none.", 0.0, 1.0, flag_values=_FLAGS)
flags.DEFINE_string(
    "chat_stop",
    json.dumps(["\n\n"]),
    "JSON list of strings that end an answer in a chat.",
    flag_values=_FLAGS,
)

_IDLE_SECONDS = 30  # for the head of a request to arrive


def make(values: flags.FlagValues) -> tuple[Any, Any]:
    """(application, worker) of the flags; compiles the model's programs."""

    from rwkvjax.serving import Engine, FixedAdapters, FolderAdapters, Limits
    from rwkvjax.serving.api import make_app
    from rwkvjax.serving.metrics import Metrics
    from rwkvjax.serving.service import Options, Service
    from rwkvjax.serving.worker import Worker

    # Adapters change stacked parameters.
    cfg, params, tokenizer = model_flags.open_model(values, for_decoding=not values.adapters)
    limits = Limits(values.slots, values.prefill_chunk, int(values.cache_mib * 2**20))
    options = Options(
        model=values.model,
        max_prompt_tokens=values.max_prompt_tokens,
        max_tokens=values.max_tokens,
        timeout=values.timeout,
        temperature=values.temperature,
        top_p=values.top_p,
        chat_stop=_strings(values.chat_stop),
    )
    adapters: Any = FixedAdapters()
    if values.adapters:
        adapters = FolderAdapters(values.adapters, cfg, params, values.max_adapters)
    print(
        f"{values.checkpoint}: RWKV-{cfg.version}, {cfg.layers} layers of width {cfg.dim};"
        f" compiling for {values.slots} slots",
        file=sys.stderr,
        flush=True,
    )
    engine = Engine(params, cfg, tokenizer, limits)
    engine.warm_up(values.warm_up_all)
    metrics = Metrics()
    metrics.observe(engine)
    worker = Worker(engine, values.max_waiting, metrics.observe)
    service = Service(tokenizer, cfg.vocab_size, options, adapters)
    return make_app(service, worker, metrics, os.environ.get("RWKVJAX_API_KEY", "")), worker


def _require_port(host: str, port: int) -> None:
    """Raises OSError where the port is taken, before the model is loaded and compiled."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        trial.bind((host, port))


def _strings(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--chat_stop must be a JSON list of strings, got {text!r}") from error
    if not isinstance(found, list) or not all(isinstance(x, str) and x for x in found):
        raise ValueError(f"--chat_stop must be a JSON list of strings, got {text!r}")
    return tuple(found)


def main(values: flags.FlagValues) -> None:
    """Serves until SIGTERM or SIGINT."""
    model_flags.require_checkpoint(values)
    if "@" in values.model:
        raise flags.Error(f"--model={values.model} must not hold @, which adapters follow")
    local = values.host in ("127.0.0.1", "::1", "localhost")
    if not local and not os.environ.get("RWKVJAX_API_KEY"):
        raise flags.Error(f"--host={values.host} needs a key in RWKVJAX_API_KEY")
    with cli.explain():
        try:
            import uvicorn
        except ImportError as error:
            raise ImportError("serving needs its extra: pip install 'rwkvjax[serve]'") from error
        _require_port(values.host, values.port)
        app, worker = make(values)
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    from rwkvjax.serving.connections import punctual

    class Server(uvicorn.Server):
        """Says where it listens, refuses new work once it was told to stop, and ends with 0."""

        def handle_exit(self, sig: int, frame: Any) -> None:
            worker.draining = True
            if self.should_exit and sig == signal.SIGINT:
                self.force_exit = True
            self.should_exit = True

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            for server in getattr(self, "servers", []):
                for sock in server.sockets:
                    host, port = sock.getsockname()[:2]
                    shown = f"[{host}]" if ":" in host else host
                    print(f"serving {values.model!r} at http://{shown}:{port}/v1", flush=True)

    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # a client that leaves is no reason to end
    config = uvicorn.Config(
        app,
        host=values.host,
        port=values.port,
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=values.drain_seconds,
        timeout_keep_alive=_IDLE_SECONDS,
        http=punctual(AutoHTTPProtocol, _IDLE_SECONDS),
        limit_concurrency=2 * (values.slots + values.max_waiting) + 64,
    )
    Server(config).run()


if __name__ == "__main__":
    cli.program(main, _FLAGS, __doc__ or "")
