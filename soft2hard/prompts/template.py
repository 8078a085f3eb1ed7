"""The one place that says how prompt, input and output become a sequence, and where an output ends."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from soft2hard.errors import UserError
from soft2hard.settings import checked, settings
from soft2hard.storage.yaml_files import read_yaml

Place = Literal["after", "first"]
"""Place of the virtual tokens: after the tokenizer's leading tokens (BOS) and the opening, or before all of them."""
Kind = Literal["none", "soft", "hard"]
"""Kind of prompt that stands before a body."""

PRESETS = ("plain", "chat")
_THINKING = re.compile(r"\A(?:\s*<think>.*?(?:</think>\s*|\Z)|(?:(?!<think>).)*</think>\s*)", re.DOTALL)
"""Its end may be missing, where the answer was cut off, or its beginning, where the model's template holds it."""
_REMEDY = (
    f"Give {', '.join(PRESETS)}, a file, or a string such as 'Tweet text : {{input}} Label : ', at most of the form "
    "'{bos}... {prompt} ... {input} ... {output}...' or '{prompt}{bos}... {input} ... {output}...', with "
    "{prompt} between {input} and {output} if it stands there (docs/templates.md)."
)


@runtime_checkable
class InputOutput(Protocol):
    """Anything with an input text and an output text, such as an example of a task."""

    @property
    def input(self) -> str: ...

    @property
    def output(self) -> str: ...


@settings
class Template:
    r"""How a query is written down, and where the virtual tokens of a soft prompt stand in it.

    A decoder-only subject reads ``[leading] opening [prompt] body output``, where the leading tokens are those that
    its tokenizer puts before a text (BOS), the body is ``"\nInput: {input}\nOutput:"`` and the output ``" {output}"``.
    Without a prompt the body begins at ``"Input: "``. Where the virtual tokens come first (PEFT has them so), a soft
    prompt is read as ``[prompt] [leading] opening body output``; hard prompts stand where they always do. Where the
    input comes first (arXiv 2205.12548 and 2407.14733 have it so), a subject reads ``[leading] opening "Input: {input}"
    separator [prompt] "\nOutput:" output``. Spaces before a hard prompt, or before a body without one, are part of its
    first token, as in a text that is tokenised whole.
    An encoder-decoder subject reads all but the output in its encoder and writes the output with its decoder. A masked
    one reads a mask in the place of the output, and ``output_suffix`` behind it.

    Prompt, body and output are tokenised one by one and their token ids joined, so that the ids of an output never
    depend on the prompt, and those of a body on its kind alone.
    """

    separator: str = "\n"
    """Between a hard prompt and the body."""
    input_prefix: str = "Input: "
    """Before the input."""
    output_prefix: str = "\nOutput:"
    """After the input; the last text the subject reads."""
    output_lead: str = " "
    """Before the output, as part of what the subject has to write."""
    opening: str = ""
    """Before prompt and body, after the leading tokens: the beginning of a chat turn."""
    soft_separator: str | None = None
    """Between virtual tokens and the body; None: as `separator`, or nothing where virtual tokens come first."""
    block_separator: str | None = None
    """Between the blocks of a few-shot prompt; None: as `separator`."""
    stops: tuple[str, ...] = ("\n",)
    """Texts that end an output, as EOS does: the beginning of what would come next. All endings are one event."""
    bos: bool | None = None
    """Whether sequences begin with the tokenizer's leading tokens; None: as the tokenizer does it; True also puts a
    BOS where the tokenizer has one and does not write it."""
    place: Place = "after"
    """Place of the virtual tokens of a soft prompt."""
    input_first: bool = False
    """Whether a prompt, soft or hard, stands between input and output instead of before the input."""
    output_suffix: str = ""
    """What a masked LM, which sees both sides, reads behind the output."""

    def __post_init__(self) -> None:
        if self.input_first and self.place == "first":
            raise UserError(
                "Virtual tokens cannot stand before everything where the template has them behind the input.",
                "Leave ':first' or {bos} out.",
            )
        if "" in self.stops:
            raise UserError("The template has an empty ending, which would end every output.", "Leave it out of stops.")

    def body_text(self, input: str, kind: Kind) -> str:
        """The text around one input, beginning with what separates it from a prompt of this kind."""
        return f"{self.lead_of(kind)}{self.input_prefix}{input}{self.output_prefix}"

    def query_text(self, prompt: str | None, input: str) -> str:
        """A hard prompt or none, and one input, as one text: what is read but for leading tokens and opening."""
        if not self.input_first:
            return (prompt or "") + self.body_text(input, "hard" if prompt else "none")
        return f"{self.input_prefix}{input}{self.separator if prompt else ''}{prompt or ''}{self.output_prefix}"

    def lead_of(self, kind: Kind) -> str:
        """The text between a prompt of this kind and the body."""
        if kind == "soft" and (self.soft_separator is not None or self.place == "first"):
            return self.soft_separator or ""
        return "" if kind == "none" else self.separator

    def before_text(self, input: str, kind: Kind) -> str:
        """All that stands before a prompt of this kind, leading tokens apart, where the input comes first."""
        separator = "" if kind == "none" else self.separator.rstrip(" ")
        return f"{self.opening}{self.input_prefix}{input}{separator}"

    def hard_text(self, prompt: str) -> str:
        """A hard prompt as it is tokenised: with the spaces that part it from the text before it."""
        if not prompt or (self.input_first and prompt[0].isspace()):
            return prompt
        return _last_spaces(self.separator if self.input_first else self.opening) + prompt

    def opening_before(self, kind: Kind) -> str:
        """The opening as it is tokenised before a prompt of this kind, or before a body without one: spaces at its end
        belong to the text that follows, if one does."""
        return self.opening if kind == "soft" else self.opening.rstrip(" ")

    def spaces_before_body(self, kind: Kind) -> str:
        """The spaces at the end of the opening, where a body without a prompt follows it."""
        return _last_spaces(self.opening) if kind == "none" else ""

    def output_text(self, output: str) -> str:
        """The text the subject has to write, its end apart."""
        return f"{self.output_lead}{output}" if output else ""

    def few_shot_text(self, examples: Iterable[InputOutput], instruction: str | None = None) -> str:
        """Solved examples, after an instruction if there is one, as the text of a hard prompt.

        Each example is written exactly as a query without a prompt and its output would be. The separator that will
        stand behind the prompt, where it ends a block separator (a chat turn's opening), is left to the query.
        """
        self.check_shows()
        blocks = [self.body_text(example.input, "none") + self.output_text(example.output) for example in examples]
        between = self.separator if self.block_separator is None else self.block_separator
        shown = between.join(blocks)
        if blocks and self.block_separator is not None:
            shown += between.removesuffix(self.separator)
        return self.separator.join([instruction, shown] if instruction else [shown])

    def check_shows(self) -> None:
        """Raise UserError where solved examples have no place in a prompt."""
        if self.input_first:
            raise UserError(
                "Solved examples stand before the input, and this template has the prompt behind it.",
                "Leave out what shows examples (--demonstrations, few-shot), or tune under one with {prompt} first.",
            )

    def prompt_text(self, instruction: str, examples: Sequence[InputOutput] = ()) -> str:
        """An instruction as a hard prompt: alone, or with solved examples behind it."""
        return self.few_shot_text(examples, instruction) if examples else instruction

    @property
    def words(self) -> tuple[str, ...]:
        """What it writes before an input and an output, such as "Input:"; no prompt holds these."""
        return tuple(word for word in (self.input_prefix.strip(), self.output_prefix.strip()) if word)

    def for_outputs(self, outputs: Iterable[str]) -> "Template":
        """This template, with the next block as its ending where one of the outputs holds the present ending."""
        texts = [self.output_text(output) for output in outputs]
        inside = [stop for stop in self.stops if any(stop in text for text in texts)]
        if not inside:
            return self
        between = "\n" if self.input_first else self.separator
        following = f"{between}{self.input_prefix}".rstrip()
        ends = [stop for stop in (*self.stops, following) if stop and not any(stop in text for text in texts)]
        return replace(self, stops=tuple(dict.fromkeys(ends)))

    def frames_alike(self, other: "Template", has_leading: bool) -> bool:
        """True if virtual tokens stand between the same tokens under both templates.

        `has_leading`: whether the tokenizer puts tokens before a text; without them and an opening, places are one.
        """
        one, two = (
            (
                t.opening,
                t.lead_of("soft"),
                t.input_prefix,
                t.output_prefix,
                t.output_lead,
                t.input_first and t.separator,
            )
            for t in (self, other)
        )
        matters = has_leading or self.opening
        return one == two and (not matters or (self.place, self.bos) == (other.place, other.bos))

    def cut(self, text: str) -> str:
        """An output up to its ending, without white space around it."""
        return before_first(self.stops, text).strip()

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def without_thinking(text: str) -> str:
    """An answer without the `<think>...</think>` that reasoning models put before it, and the space after."""
    return _THINKING.sub("", text)


def _last_spaces(text: str) -> str:
    return text[len(text.rstrip(" ")) :]


def before_first(stops: Iterable[str], text: str) -> str:
    """A text up to the first of these stops in it."""
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return text[: min(ends, default=len(text))]


@dataclass(frozen=True)
class TemplateChoice:
    """A template as a user names it, before the subject's tokenizer is known."""

    template: Template | None
    """None: the subject's chat template."""
    place: Place | None = None
    """Place of the virtual tokens where the user says it; else it is the soft prompt's own."""


def template_text(template: Template, place: Place | None = None) -> str:
    """A text that `read_template` reads as the same template: 'plain', or its fields as JSON; the place of virtual
    tokens among them where it is given."""
    default = asdict(Template())
    fields = {name: value for name, value in asdict(template).items() if name != "place" and value != default[name]}
    fields |= {"place": place} if place else {}
    return json.dumps(fields, ensure_ascii=False) if fields else "plain"


def read_template(text: str) -> TemplateChoice:
    r"""The template of a preset, a file (YAML or JSON with the fields of `Template`), a string, or a JSON object of
    these fields.

    A preset may say where the virtual tokens stand: 'plain:first', 'chat:after'. A string has the placeholder
    {input}, and may have {prompt} (where the prompt stands; else at the beginning), {bos} (the tokenizer's leading
    tokens; with {prompt} before {input} it says which come first) and {output}: white space before it belongs to the
    output, and text after it is an ending.

    Raises UserError for anything else.
    """
    name, _, place = text.partition(":")
    if name in PRESETS and place in ("", "first", "after"):
        return TemplateChoice(Template() if name == "plain" else None, place or None)
    if is_fields(text):
        fields = _json_fields(text)
        return TemplateChoice(checked(Template, fields, "the template", _REMEDY), fields.get("place"))
    if "{" in text:
        return _of_string(text)
    if not _is_file(text):
        raise UserError(f"There is no template '{text}'.", _REMEDY)
    values = read_yaml(Path(text), "a template")
    if not isinstance(values, dict):
        raise UserError(f"{text} is no template: it does not hold fields.", _REMEDY)
    return TemplateChoice(checked(Template, values, text, _REMEDY), values.get("place"))


def is_fields(text: str) -> bool:
    """Whether a template is given as a JSON object of its fields."""
    return text.startswith('{"')


def _json_fields(text: str) -> dict:
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"The template '{text}' is no JSON object.", _REMEDY) from error


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than names of files may be, or with characters that they cannot have
        return False


_STRING = re.compile(
    r"(?:(?P<first>\{prompt\}\{bos\})|(?P<bos>\{bos\}))?"
    r"(?:(?P<opening>[^{}]*)(?P<prompt>\{prompt\}))?"
    r"(?P<prefix>[^{}]*)\{input\}(?:(?P<between>[^{}]*)(?P<behind>\{prompt\}))?(?P<suffix>[^{}]*)(?:(?P<output>\{output\})(?P<ending>[^{}]*))?"
)


def _of_string(text: str) -> TemplateChoice:
    found = _STRING.fullmatch(text.replace("\\n", "\n").replace("\\t", "\t"))
    if found is None or sum(found[name] is not None for name in ("first", "prompt", "behind")) > 1:
        problem = "has placeholders that are unknown or out of order"
        if "{input}" not in text:
            problem = "has no {input}"
        elif text.count("{prompt}") > 1:
            problem = "has {prompt} twice"
        raise UserError(f"The template '{text}' {problem}.", _REMEDY)
    suffix, prefix = found["suffix"], found["prefix"]
    # White space before the output is written with it, but for line breaks, which may end an output.
    lead = suffix[len(suffix.rstrip()) :].rpartition("\n")[2] if found["output"] else ""
    is_behind = found["behind"] is not None
    template = Template(
        separator=found["between"] if is_behind else "" if prefix[:1].isspace() else "\n",
        input_prefix=prefix,
        output_prefix=suffix[: len(suffix) - len(lead)],
        output_lead=lead,
        opening=found["opening"] or "",
        soft_separator="",
        stops=(found["ending"] or "\n",),
        input_first=is_behind,
        output_suffix=found["ending"] or "",
    )
    begun = is_behind or (found["prompt"] and (found["bos"] or found["opening"]))
    place: Place | None = "first" if found["first"] else "after" if begun else None
    return TemplateChoice(template, place)
