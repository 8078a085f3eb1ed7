"""A local model behind a real OpenAI-compatible server (`transformers serve`), to try a transfer offline."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

from soft2hard.api.requests import ApiModel
from soft2hard.errors import UserError

CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
"""The text of the one message and nothing else, so that chat and completion ask the same."""
_CACHE = {"--cb-block-size": 32, "--cb-num-blocks": 512, "--cb-max-batch-tokens": 1024}
"""Room for 16,384 tokens of all requests at a time, of which 1,024 are read in a step.

Left to itself the server plans with more than half of this machine's memory (7 GB for 3 million parameters) and fills
it before its first answer, which then takes a minute. Given a share of the memory instead, none is left for the cache
once the attention masks of 8,192 tokens a step are paid for.
"""


def can_serve() -> bool:
    """True if the extra `serving` is installed."""
    return all(find_spec(name) for name in ("fastapi", "uvicorn"))


@contextmanager
def served(
    model: Path, port: int | None = None, folder: Path | None = None, n_threads: int = 1, patience: float = 240.0
) -> Iterator[ApiModel]:
    """Serve a copy of a model folder on this machine until the block ends; its name is the path that is served.

    A ledger knows a model by its address and name, that is, the path that is served: for answers that are to be found
    again, give a `port` and a `folder` for the copy. Without them a free port and a temporary folder do.

    The copy is given `CHAT_TEMPLATE` where it has no chat template. Raises UserError where the extra is missing, or the
    server has ended or is not ready after `patience` seconds.
    """
    if not can_serve():
        raise UserError("There is no server: FastAPI or uvicorn is missing.", "pip install 'soft2hard[serving]'.")
    with TemporaryDirectory() as temporary:
        copy = (folder or Path(temporary) / model.name).resolve()
        shutil.copytree(model, copy, dirs_exist_ok=True)
        config = copy / "tokenizer_config.json"
        settings = {"chat_template": CHAT_TEMPLATE} | json.loads(config.read_text(encoding="utf-8"))
        config.write_text(json.dumps(settings), encoding="utf-8")
        port = port or _free_port()
        log = Path(temporary) / "log"
        with _process(copy, port, log, n_threads) as process:
            _wait_until_ready(f"http://127.0.0.1:{port}/health", process, log, patience)
            yield ApiModel(str(copy), f"http://127.0.0.1:{port}/v1")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def _process(folder: Path, port: int, log: Path, n_threads: int) -> Iterator[subprocess.Popen]:
    command = [Path(sys.executable).with_name("transformers"), "serve", folder, "--host", "127.0.0.1"]
    command += ["--port", port, "--device", "cpu", "--continuous-batching", *chain.from_iterable(_CACHE.items())]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(n_threads)}
    with open(log, "w") as file:
        process = subprocess.Popen(list(map(str, command)), env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(url: str, process: subprocess.Popen, log: Path, patience: float) -> None:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(f"The server has ended: {_last_line(log)}", "See transformers serve --help.")
        try:
            with urllib.request.urlopen(url, timeout=2) as reply:
                if reply.status == 200:
                    return
        except OSError:
            time.sleep(0.2)
    raise UserError(f"The server is not ready after {patience:.0f} s.", "Try again on a machine with less to do.")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing.")
