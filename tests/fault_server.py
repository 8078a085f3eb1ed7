"""An OpenAI-compatible server on loopback that answers by script: with answers, and with every fault there is.

Speaks chat, completions, files and batches. Each request takes the next fault of `script` ("ok" and an empty script
mean an answer), or, with `fault_rate`, a random one. Runs in a thread of its own, or as a program:

    python -m tests.fault_server --latency 0.5
"""

import argparse
import asyncio
import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

# Clients that are killed or give up make for tracebacks that nobody needs.
logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)
KEY = "sk-test-0123456789abcdef"
ERRORS: dict[str, tuple[int, dict[str, Any]]] = {
    "400": (400, {"message": "bad value", "type": "invalid_request_error", "code": None}),
    "401": (401, {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}),
    "404": (404, {"message": "The model does not exist", "code": "model_not_found"}),
    "408": (408, {"message": "request timeout"}),
    "409": (409, {"message": "conflict"}),
    "422": (422, {"message": "unknown field"}),
    "429": (429, {"message": "slow down", "code": "rate_limit_exceeded"}),
    "500": (500, {"message": "internal error", "type": "server_error"}),
    "502": (502, {"message": "bad gateway"}),
    "503": (503, {"message": "overloaded"}),
    "quota": (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}),
    "policy": (400, {"message": "flagged by policy", "code": "content_policy_violation"}),
    "too_long": (400, {"message": "maximum context length is 10 tokens", "code": "context_length_exceeded"}),
    "error_200": (200, {"message": "upstream failed"}),
    "quota_200": (200, {"message": "no quota", "code": "insufficient_quota"}),
}
BODIES = {
    "malformed": '{"choices": [{"message": {"content": "cut o',
    "empty": "",
    "html": "<html><body>Please log in</body></html>",
    "list": "[]",
    "no_choices": '{"id": "x", "object": "chat.completion", "choices": []}',
    "null_choices": '{"id": "x", "choices": null}',
    "no_message": '{"id": "x", "choices": [{"index": 0}]}',
}
TRANSIENT = (
    "408", "409", "429", "429_after", "500", "502", "503", "error_200", "malformed", "empty", "html", "list",
    "no_choices", "null_choices", "no_message", "reset", "drop",
)  # fmt: skip
"""Faults after which asking again helps; 'hang' is another, which takes the client's time limit."""
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "reasoned_to_the_limit": ("length", {"content": None, "reasoning_content": "let me think"}),
    "thinking_to_the_limit": ("length", {"content": "<think>Let me th"}),
    "reasoning_alone": ("stop", {"content": "", "reasoning_content": "it is this"}),
    "thinking_part_alone": ("stop", {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]}),
    "tool_call": ("tool_calls", {"content": None, "tool_calls": [{"function": {"name": "answer"}}]}),
    "refusal": ("stop", {"content": None, "refusal": "I cannot help with that."}),
}
"""Chat replies without an answer: why they end, and what is in the message."""


@dataclass
class BatchScript:
    """How one batch goes."""

    polls: int = 1
    """Looks at it before it has ended."""
    status: str = "completed"
    errors: list[dict] = field(default_factory=list)
    """Of a batch with the status 'failed'."""
    failing: dict[int, str] = field(default_factory=dict)
    """Faults of single requests, by their place in the file; 'silent' leaves a request out of all files."""
    answered: int | None = None
    """Requests that are answered before the batch expires; None: all."""
    lose_reply: bool = False
    """Whether the connection is dropped after the batch has been made."""


class FaultServer:
    """The server and what it has seen. Use it as a context; `url` is its base URL."""

    def __init__(
        self, script: list[str] | None = None, *, latency: float = 0.0, fault_rate: float = 0.0, seed: int = 0,
        answer: Callable[[str], str] = lambda text: " " + text.split("Input:")[-1].split()[0],
        headers: Callable[["FaultServer"], dict[str, str]] = lambda server: {},
        batches: list[BatchScript] | None = None, models: set[str] | None = None, key: str | None = None, port: int = 0,
        kinds: Sequence[str] = TRANSIENT, reject: Callable[[dict], str | None] = lambda body: None,
    ) -> None:  # fmt: skip
        """`reject` names the fault that a body meets whatever else holds; None for none."""
        self.script, self.latency, self.fault_rate = list(script or []), latency, fault_rate
        self.answer, self.headers, self.models, self.key, self.port = answer, headers, models, key, port
        self.kinds, self.reject = tuple(kinds), reject
        self.batch_scripts = list(batches or [])
        self.retry_after = "0.2"
        self.seen: list[dict[str, Any]] = []
        """Bodies of the chat and completion requests, as they came."""
        self.times: list[float] = []
        self.outcomes: list[str] = []
        self.paid: Counter[str] = Counter()
        """How often each body was answered, online or in a batch."""
        self.active = self.most_active = 0
        self.files: dict[str, str] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._random = random.Random(seed)
        self._polls: Counter[str] = Counter()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._stop: asyncio.Event | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> "FaultServer":
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._stop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        app = web.Application(client_max_size=2**28)
        app.router.add_post("/v1/chat/completions", self._ask)
        app.router.add_post("/v1/completions", self._ask)
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._make_batch)
        app.router.add_get("/v1/batches", self._list_batches)
        app.router.add_get("/v1/batches/{id}", self._look_at_batch)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self.port, backlog=1024)
        await site.start()
        self.port = site._server.sockets[0].getsockname()[1]
        self._started.set()
        await self._stop.wait()
        await runner.cleanup()

    async def _ask(self, request: web.Request) -> web.StreamResponse:
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            body = await request.json()
            self.seen.append(body)
            self.times.append(time.monotonic())
            fault = self._fault(request, body)
            self.outcomes.append(fault)
            if self.latency:
                await asyncio.sleep(self.latency)
            return await self._reply(request, body, fault)
        finally:
            self.active -= 1

    def _fault(self, request: web.Request, body: dict) -> str:
        if self.key is not None and request.headers.get("Authorization") != f"Bearer {self.key}":
            return "401"
        if self.models is not None and body["model"] not in self.models:
            return "404"
        if (fault := self.reject(body)) is not None:
            return fault
        if self.script:
            return self.script.pop(0)
        return self._random.choice(self.kinds) if self._random.random() < self.fault_rate else "ok"

    async def _reply(self, request: web.Request, body: dict, fault: str) -> web.StreamResponse:
        if fault == "429_after":
            return web.json_response({"error": ERRORS["429"][1]}, status=429, headers={"Retry-After": self.retry_after})
        if fault in ERRORS:
            status, error = ERRORS[fault]
            return web.json_response({"error": error}, status=status)
        if fault in BODIES:
            kind = "text/html" if fault == "html" else "application/json"
            return web.Response(text=BODIES[fault], content_type=kind)
        if fault == "hang":
            await self._until_stopped()
        if fault == "drop":
            request.transport.close()
        if fault in ("reset", "trickle"):
            response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "500"})
            await response.prepare(request)
            await response.write(b'{"choices": [')
            while fault == "trickle" and self._stop is not None and not self._stop.is_set():
                await asyncio.sleep(0.05)
                await response.write(b" ")
            request.transport.close()
            return response
        self.paid[json.dumps(body, sort_keys=True)] += 1
        return web.json_response(self.completion(request.path, body, fault), headers=self.headers(self))

    async def _until_stopped(self) -> None:
        assert self._stop is not None
        await self._stop.wait()

    def completion(self, path: str, body: dict, fault: str = "ok") -> dict[str, Any]:
        """A reply with an answer, or with what `fault` makes of one."""
        is_chat = path.endswith("/chat/completions")
        asked = body["messages"][-1]["content"] if is_chat else body["prompt"]
        text = self.answer(asked)
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        choice |= {"message": {"role": "assistant", "content": text}} if is_chat else {"text": text}
        if fault in ODD:
            choice["finish_reason"] = ODD[fault][0]
            choice["message"] |= ODD[fault][1]
        if fault == "choice_error":
            choice |= {"finish_reason": "error", "error": {"code": 502, "message": "Provider returned error"}}
        if fault == "filtered":
            choice |= {"finish_reason": "content_filter"}
        reply: dict[str, Any] = {"id": "x", "object": "chat.completion", "model": body["model"], "choices": [choice]}
        if fault != "no_usage":
            reply["usage"] = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        return reply

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        assert form["purpose"] == "batch"
        id = f"file-{len(self.files)}"
        self.files[id] = form["file"].file.read().decode()
        return web.json_response({"id": id, "object": "file"})

    async def _content(self, request: web.Request) -> web.StreamResponse:
        fault = self.script.pop(0) if self.script else "ok"
        text = self.files[request.match_info["id"]]
        return web.Response(text=text[:-20] if fault == "malformed" else text)

    async def _make_batch(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        script = self.batch_scripts.pop(0) if self.batch_scripts else BatchScript()
        id = f"batch-{len(self.batches)}"
        self.batches[id] = body | {"id": id, "status": "validating", "created_at": int(time.time()), "_script": script}
        if script.lose_reply:
            request.transport.close()
        return web.json_response(self._shown(id))

    async def _list_batches(self, request: web.Request) -> web.StreamResponse:
        ids = list(self.batches)[::-1]
        after = request.query.get("after")
        ids = ids[ids.index(after) + 1 :] if after else ids
        page = ids[:2]
        return web.json_response({"data": [self._shown(id) for id in page], "has_more": len(ids) > len(page)})

    async def _look_at_batch(self, request: web.Request) -> web.StreamResponse:
        id = request.match_info["id"]
        self._polls[id] += 1
        batch = self.batches[id]
        if self._polls[id] > batch["_script"].polls and batch["status"] not in ("completed", "failed", "expired"):
            self._end(batch)
        elif batch["status"] == "validating":
            batch["status"] = "in_progress"
        return web.json_response(self._shown(id))

    def _shown(self, id: str) -> dict[str, Any]:
        return {name: value for name, value in self.batches[id].items() if not name.startswith("_")}

    def _end(self, batch: dict[str, Any]) -> None:
        script: BatchScript = batch["_script"]
        batch["status"] = script.status
        if script.status == "failed":
            batch["errors"] = {"data": script.errors}
            return
        lines = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        output, errors = [], []
        for i, line in enumerate(lines):
            fault = script.failing.get(i, "ok")
            if script.answered is not None and i >= script.answered:
                error = {"code": "batch_expired", "message": "expired"}
                errors.append({"custom_id": line["custom_id"], "response": None, "error": error})
            elif fault in ERRORS:
                status, error = ERRORS[fault]
                response = {"status_code": status, "body": {"error": error}}
                errors.append({"custom_id": line["custom_id"], "response": response, "error": None})
            elif fault != "silent":
                self.paid[json.dumps(line["body"], sort_keys=True)] += 1
                response = {"status_code": 200, "body": self.completion(line["url"], line["body"])}
                output.append({"custom_id": line["custom_id"], "response": response, "error": None})
        self._random.shuffle(output)
        for name, part in (("output_file_id", output), ("error_file_id", errors)):
            if part:
                batch[name] = f"file-{len(self.files)}"
                self.files[batch[name]] = "".join(json.dumps(line) + "\n" for line in part)


def main() -> None:
    """Serve until killed, printing the base URL first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="Seconds before each answer.")
    parser.add_argument("--fault-rate", type=float, default=0.0, help="Share of requests that meet a fault.")
    parser.add_argument("--seed", type=int, default=0, help="Of the faults.")
    options = parser.parse_args()
    with FaultServer(latency=options.latency, fault_rate=options.fault_rate, seed=options.seed) as server:
        print(server.url, flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main()
