"""The models behind an API, what is sent to them word for word, and the key by which an answer is found again."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from soft2hard.errors import UserError
from soft2hard.prompts.template import Template, before_first
from soft2hard.storage.yaml_files import read_yaml

Layout = Literal["chat", "completion"]
"""'chat': one user message; 'completion': plain text that the model continues."""

PATHS: dict[Layout, str] = {"chat": "/chat/completions", "completion": "/completions"}
"""Where each layout is posted to, below the base URL."""
RESERVED = ("model", "messages", "prompt", "stream", "n")
"""Fields that a user's parameters may not set: repeats are requests of their own, and answers come whole."""
OUTPUT_LIMITS = ("max_completion_tokens", "max_tokens")
"""Parameters that bound the tokens of an answer; the first is the newer name."""


@checked_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class ApiModel:
    """A model behind an OpenAI-compatible endpoint."""

    name: str = Field(min_length=1)
    """Sent as `model`."""
    base_url: str = "https://api.openai.com/v1"
    layout: Layout = "chat"
    key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key; the key itself is in no record."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent with every request, over the defaults of the run; a value of None takes a parameter out."""
    label: str | None = None
    """What tables call the model; None: its name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "base_url", self.base_url.rstrip("/"))
        taken = sorted(set(self.parameters) & set(RESERVED))
        if taken:
            raise UserError(f"The parameter '{taken[0]}' is not free to set.", f"Leave out {', '.join(RESERVED)}.")
        if "@" in self.base_url.split("://", 1)[-1].split("/")[0] or "?" in self.base_url:
            raise UserError(
                f"The base URL of the model '{self.name}' holds a user name, password or query.",
                f"Give the bare address, and the key in the environment variable {self.key_env}.",
            )
        if not self.base_url.startswith(("http://", "https://")):
            raise UserError(f"'{self.base_url}' is no base URL.", "Give one such as https://api.openai.com/v1.")

    @property
    def title(self) -> str:
        return self.label or self.name


def read_models(path: Path) -> list[ApiModel]:
    """The models in a YAML file: a list of mappings with the fields of `ApiModel`.

    Raises UserError where it cannot be read, or a field is missing, unknown or of the wrong kind.
    """
    remedy = "Write a list of models, each with a name; keys go in the environment."
    try:
        models = TypeAdapter(list[ApiModel]).validate_python(read_yaml(path, "a list of models"))
    except ValidationError as error:  # without the values: somebody may have put a key there
        raise UserError(f"{path}: {problems(error)}.", remedy) from None
    if not models:
        raise UserError(f"{path} has no models.", remedy)
    return models


def problems(error: ValidationError) -> str:
    """All that is wrong with a file, in one line and without its values."""
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'the file'}: {e['msg']}" for e in error.errors())


@dataclass(frozen=True)
class Request:
    """One question to one model. The body is sent exactly as it stands here: nothing is added, nothing left out."""

    base_url: str
    layout: Layout
    body: dict[str, Any]
    repeat: int = 0
    """Which of several askings of the same body this is."""

    @cached_property
    def canonical(self) -> str:
        """The body as JSON with sorted names: what is hashed and what the ledger keeps."""
        return json.dumps(self.body, sort_keys=True, ensure_ascii=False, separators=(",", ":"))

    @cached_property
    def key(self) -> str:
        """SHA-256, in hexadecimal, of endpoint, model, parameters, messages or prompt, and repeat.

        The endpoint counts because the same name on two servers may be two models.
        """
        parts = json.dumps([self.base_url, self.layout, self.canonical, self.repeat], ensure_ascii=False)
        return hashlib.sha256(parts.encode()).hexdigest()

    @property
    def model(self) -> str:
        return self.body["model"]

    @property
    def content(self) -> str:
        """All text that the model is given."""
        if self.layout == "completion":
            return self.body["prompt"]
        return "\n".join(message["content"] for message in self.body["messages"])

    def cut(self, text: str) -> str:
        """An answer up to the first of the request's stops: some servers write past them."""
        stops = self.body.get("stop") or []
        return before_first([stops] if isinstance(stops, str) else stops, text)

    @property
    def most_input_tokens(self) -> int:
        """An upper bound: no tokenizer in use makes a token of less than a byte, and a chat template adds a few."""
        return len(self.content.encode()) + 32

    @property
    def about_input_tokens(self) -> int:
        """An estimate: four bytes of English text to a token."""
        return -(-len(self.content.encode()) // 4)

    @property
    def most_output_tokens(self) -> int | None:
        """What the parameters allow; None where they set no limit."""
        return next((self.body[name] for name in OUTPUT_LIMITS if isinstance(self.body.get(name), int)), None)


def make_request(
    model: ApiModel,
    prompt: str | None,
    input: str,
    parameters: Mapping[str, Any],
    *,
    repeat: int = 0,
    seed: int = 0,
    template: Template = Template(),
) -> Request:
    """One input under one prompt, laid out by the same template as on the subject.

    The text is `prompt`, then the body (`"\\nInput: ...\\nOutput:"`), or the input first where the template has it so,
    as one user message or as a plain prompt; there is no system message. Repeats differ by `seed + repeat`, unless the
    parameters take the seed out (a value of None).
    """
    text = template.query_text(prompt, input)
    return text_request(model, text, {"seed": seed + repeat, **parameters}, repeat)


def text_request(model: ApiModel, text: str, parameters: Mapping[str, Any], repeat: int = 0) -> Request:
    """A text and nothing besides, as one user message or a plain prompt; the model's own parameters go over these."""
    sent: dict[str, Any] = {"model": model.name}
    sent |= {"messages": [{"role": "user", "content": text}]} if model.layout == "chat" else {"prompt": text}
    settings = {**parameters, **model.parameters}
    sent |= {name: value for name, value in settings.items() if value is not None}
    return Request(model.base_url, model.layout, sent, repeat)
