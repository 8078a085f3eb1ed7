"""Files of the Batch API: requests as lines going in, replies as lines coming out in any order."""

import json
from collections.abc import Iterator, Mapping, Sequence

from soft2hard.api.answers import Answer, Fault, error_fault, read_reply
from soft2hard.api.requests import PATHS, Layout, Request

MOST_REQUESTS = 50_000
MOST_BYTES = 190_000_000
"""Of one input file; the API's own bounds are 50,000 requests and 200 MB."""
_UNDONE = {"batch_expired", "batch_cancelled"}


def endpoint_of(layout: Layout) -> str:
    """What the API calls the endpoint of a batch."""
    return f"/v1{PATHS[layout]}"


def input_line(request: Request) -> bytes:
    """A request as a line of an input file, told by its key."""
    line = {"custom_id": request.key, "method": "POST", "url": endpoint_of(request.layout), "body": request.body}
    return json.dumps(line, ensure_ascii=False).encode() + b"\n"


def parts(requests: Sequence[Request], most: int = MOST_REQUESTS) -> Iterator[list[Request]]:
    """The requests in runs of at most `most` that each fit one input file."""
    part: list[Request] = []
    size = 0
    for request in requests:
        length = len(input_line(request))
        if part and (len(part) == most or size + length > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(request)
        size += length
    if part:
        yield part


def read_lines(text: str) -> list[dict]:
    """The lines of an output or error file. Raises Fault where one is not an object with a custom_id."""
    lines = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict) or not isinstance(value.get("custom_id"), str):
            raise Fault("malformed", f"line {number} of a batch's results is damaged")
        lines.append(value)
    return lines


def read_results(requests: Mapping[str, Request], lines: Sequence[dict]) -> dict[str, Answer | Fault]:
    """What came of each request, by key. Lines of others are passed over; of two lines for one, an answer counts."""
    results: dict[str, Answer | Fault] = {}
    for line in lines:
        request = requests.get(line["custom_id"])
        if request is not None and not isinstance(results.get(request.key), Answer):
            results[request.key] = _read_line(request, line)
    return results


def _read_line(request: Request, line: dict) -> Answer | Fault:
    response, error = line.get("response"), line.get("error")
    if isinstance(response, dict):
        body = response.get("body")
        status = response.get("status_code")
        try:
            text = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)
            return read_reply(request.layout, status if isinstance(status, int) else 200, text, {})
        except Fault as fault:
            return fault
    code = error.get("code") if isinstance(error, dict) else None
    if code in _UNDONE:
        return Fault("expired", str(error.get("message") or code))
    return error_fault(500, error or "neither response nor error")
