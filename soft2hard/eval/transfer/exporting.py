"""Prompts in the forms in which other programs read them.

`text` and `openai` are what was measured, word for word, and so is what promptfoo sends; Inspect sends the same message
to any chat model. DSPy and GEPA's default adapter lay a prompt out themselves: they take instruction, demonstrations or
the text before an input apart. Inspect and promptfoo score by exact match.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from keyword import iskeyword
from pathlib import Path
from typing import Any, Literal

import yaml

from soft2hard.api.requests import ApiModel, text_request
from soft2hard.data_gen.tables import read_text
from soft2hard.data_gen.tasks import Task
from soft2hard.errors import UserError
from soft2hard.eval.transfer.candidates import name_of_prompt
from soft2hard.eval.transfer.optimized import Optimization
from soft2hard.prompts.template import Template, read_template
from soft2hard.storage.files import atomic_folder, write_text

Form = Literal["text", "openai", "dspy", "gepa", "inspect", "promptfoo"]
_PLACE = "{input}"
_SOME_MODEL = "gpt-4.1-mini"
"""Named where a prompt was chosen on no API model."""


@dataclass(frozen=True)
class Prompt:
    """A prompt to be exported."""

    name: str
    """Of its task or soft prompt."""
    text: str
    """The instruction."""
    shown: tuple[tuple[str, str], ...] = ()
    """Its demonstrations."""
    prompt: str = ""
    """All that stands before an input, demonstrations among it."""
    template: Template = Template()
    model: ApiModel | None = None
    """The model that it was chosen on."""
    sent: Mapping[str, Any] = field(default_factory=dict)
    """What it was asked with, such as temperature, max_tokens, stop and seed; empty where it never was."""

    @property
    def settings(self) -> dict[str, Any]:
        """What it is to be asked with: greedy decoding, and for plain completions the template's ends, if nothing
        else is known."""
        is_plain = self.model is not None and self.model.layout == "completion"
        return dict(self.sent) or {"temperature": 0} | ({"stop": list(self.template.stops)} if is_plain else {})

    @property
    def whole(self) -> str:
        """What stands before an input."""
        return self.prompt or self.text

    def message(self, input: str) -> str:
        """The user message for an input."""
        return self.template.query_text(self.whole, input)


def read_exported(path: Path) -> list[Prompt]:
    """The prompts in what `optimize` or `translate --json -o` wrote. Raises UserError where it is neither."""
    remedy = "Give what soft2hard optimize, or soft2hard translate --json -o, wrote."
    try:
        value = json.loads(read_text(path))
        if "translations" in value:
            made_under = _template(value.get("template"))
            return [_of_translation(one, made_under) for one in value["translations"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} holds no prompts.", remedy) from error
    if not (isinstance(value, dict) and "tasks" in value):
        raise UserError(f"{path} holds no prompts.", remedy)
    found = Optimization.load(path)
    template = _template(found.template)
    return [Prompt(t.task, t.text, t.shown, t.prompt, template, found.model, t.sent) for t in found.tasks]


def _template(name: str | None) -> Template:
    """A chat turn is the API's own: the plain text stands in it."""
    return read_template(name or "plain").template or Template()


def _of_translation(translation: dict[str, Any], template: Template) -> Prompt:
    name, text = name_of_prompt(translation), str(translation["text"])
    whole = str(demonstrated["text"]) if (demonstrated := translation.get("demonstrated")) else ""
    return Prompt(name, text, prompt=whole, template=template)


# --- forms --------------------------------------------------------------------------------------


def _text(prompt: Prompt, task: Task | None) -> str:
    return prompt.message(_PLACE) + "\n"


def _openai(prompt: Prompt, task: Task | None) -> str:
    """The body of a request, a chat completion where no model says otherwise; {input} stands for the input."""
    if prompt.model is None:
        return _json({"messages": [{"role": "user", "content": prompt.message(_PLACE)}], **prompt.settings})
    return _json(text_request(prompt.model, prompt.message(_PLACE), prompt.settings).body)


def _dspy(prompt: Prompt, task: Task | None) -> str:
    """The state of `dspy.Predict("input -> output")`, for its `load`. DSPy lays instruction and examples out itself."""
    if prompt.prompt and not prompt.shown and prompt.prompt != prompt.text:
        raise UserError(
            f"The demonstrations of '{prompt.name}' are known as text alone, which a DSPy program cannot hold.",
            "Export what soft2hard optimize wrote, or a translation without demonstrations.",
        )
    fields = [{"prefix": f"{name.title()}:", "description": f"${{{name}}}"} for name in ("input", "output")]
    demos = [{"input": input, "output": output} for input, output in prompt.shown]
    signature = {"instructions": prompt.text, "fields": fields}
    return _json(
        {
            "traces": [],
            "train": [],
            "demos": demos,
            "signature": signature,
            "lm": None,
            "metadata": {"dependency_versions": {}},
        }
    )


def _gepa(prompt: Prompt, task: Task | None) -> str:
    """A seed candidate of `gepa.optimize` with its default adapter, whose one component is the system prompt."""
    return _json({"system_prompt": prompt.whole})


def _promptfoo(prompt: Prompt, task: Task | None) -> str:
    """A configuration with the task's test examples, as far as they are known."""
    # Braces of the prompt are no placeholders of promptfoo's.
    before, _, after = (
        f"{{% raw %}}{part}{{% endraw %}}" if "{" in part else part for part in prompt.message("\0").partition("\0")
    )
    tests = [
        {"vars": {"input": e.input}, "assert": [{"type": "equals", "value": e.output, "transform": "output.trim()"}]}
        for e in (task.test if task else ())
    ]
    model = prompt.model or ApiModel(_SOME_MODEL)
    config = dict(prompt.settings)
    if model.base_url != ApiModel.base_url:
        config |= {"apiBaseUrl": model.base_url, "apiKeyEnvar": model.key_env}
    found = {
        "description": f"{prompt.name}, exported by soft2hard",
        "prompts": [f"{before}{{{{input}}}}{after}"],
        "providers": [{"id": f"openai:{model.layout}:{model.name}", "config": config}],
        "tests": tests or [{"vars": {"input": "an input"}}],
    }
    return yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=1000)


_OF_INSPECT = {
    "temperature": "temperature", "top_p": "top_p", "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens",
    "stop": "stop_seqs", "seed": "seed",
}  # fmt: skip
"""Inspect's names of settings."""
_INSPECT = '''"""{doc}

{command}
"""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import exact
from inspect_ai.solver import generate

PROMPT = {prompt}
AFTER = {after}
EXAMPLES = {examples}


@task
def {name}() -> Task:
    samples = [Sample(input=PROMPT + input + AFTER, target=output) for input, output in EXAMPLES]
    return Task(dataset=MemoryDataset(samples), solver=generate({settings}), scorer=exact())
'''


def _inspect(prompt: Prompt, task: Task | None) -> str:
    """A file with a task of the Inspect framework."""
    if prompt.model is not None and prompt.model.layout == "completion":
        raise UserError(
            f"'{prompt.name}' was chosen on plain completions, which Inspect does not ask for.",
            "Export to promptfoo or openai, or optimise with --layout chat.",
        )
    if task is None:
        raise UserError(
            f"An Inspect task of '{prompt.name}' needs examples to be scored on.", "Give its task file with --tasks."
        )
    before, _, after = prompt.message("\0").partition("\0")
    settings = {_OF_INSPECT[name]: value for name, value in prompt.settings.items() if name in _OF_INSPECT}
    model = prompt.model or ApiModel(_SOME_MODEL)
    command = f"inspect eval {file_name(prompt.name)}.py --model openai/{model.name}"
    if model.base_url != ApiModel.base_url:
        command += f" --model-base-url {model.base_url}"
    examples = [(example.input, example.output) for example in task.test]
    return _INSPECT.format(
        doc=f"The task {prompt.name!r} with the prompt that soft2hard found.".replace('"""', "'''"),
        command=command,
        settings=", ".join(f"{name}={value!r}" for name, value in settings.items()),
        name=_function_name(prompt.name),
        prompt=repr(before),
        after=repr(after),
        examples=repr(examples),
    )


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


_FORMS: dict[Form, tuple[str, Callable[[Prompt, Task | None], str]]] = {
    "text": (".txt", _text),
    "openai": (".json", _openai),
    "dspy": (".json", _dspy),
    "gepa": (".json", _gepa),
    "inspect": (".py", _inspect),
    "promptfoo": (".yaml", _promptfoo),
}
"""The ending of a file of each form, and what writes it."""


def file_name(name: str) -> str:
    """The name of a task as that of a file."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "_" for c in name) or "prompt"
    return safe if safe[0].isalpha() else f"task_{safe}"


def _function_name(name: str) -> str:
    """Of an Inspect task: no keyword, and none of the names that its file uses."""
    safe = file_name(name).replace("-", "_")
    taken = {"Task", "task", "MemoryDataset", "Sample", "exact", "generate", "PROMPT", "AFTER", "EXAMPLES"}
    return f"task_{safe}" if iskeyword(safe) or safe in taken else safe


def export(prompts: Sequence[Prompt], form: Form, output: Path, tasks: Sequence[Task] = ()) -> list[Path]:
    """Write prompts in a form: one into the file `output`, several into files in the folder `output`.

    Raises UserError where a form cannot hold a prompt, and for two prompts of one name.
    """
    ending, write = _FORMS[form]
    by_name = {task.name: task for task in tasks}
    only = tasks[0] if len(tasks) == len(prompts) == 1 else None
    texts = {file_name(prompt.name): write(prompt, by_name.get(prompt.name, only)) for prompt in prompts}
    if len(texts) < len(prompts):
        raise UserError("Two prompts have one name.", "Name their soft prompts or tasks otherwise.")
    if len(texts) == 1:
        write_text(output, next(iter(texts.values())))
        return [output]
    with atomic_folder(output) as part:
        for name, text in texts.items():
            (part / f"{name}{ending}").write_text(text, encoding="utf-8")
    return [output / f"{name}{ending}" for name in texts]
