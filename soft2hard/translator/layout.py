"""How a soft prompt from elsewhere was tuned, where its file does not say so: labelled examples tell layout and scale.

Vectors mean something only between the tokens that they were tuned between. An adapter records none of these, but the
outputs that it was tuned to give are likely under its own layout, and seldom under another.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import torch

from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError
from soft2hard.lm.batching import EncodedExample
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject
from soft2hard.lm.templates import chat_template, chosen_template
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.prompts.template import PRESETS, Place, Template, is_fields, read_template, template_text

_EXAMPLES, _FEWEST = 32, 8  # examples that are looked at, and without which no layout is looked for
_SCREENED, _SCREENED_TOKENS = 8, 512  # examples that layouts are screened on first; their tokens, about
_AT_ONCE = 16  # layouts that are run together: what is kept of each output takes memory
_MOSTLY, _ENOUGH = 0.9, 0.75  # share of outputs that a soft prompt writes under its own layout; under one to be kept
_SHORT = 16  # tokens of outputs that may be the very same
_CLEARLY, _LIKELY, _POOR = 0.2, 0.5, 2.0  # nats a token; tuned answers are seldom less likely than the last
_BEFORE = (
    "", "Input: ", "Question: ", "Q: ", "Text: ", "Sentence: ", "Tweet text : ", "Review: ", "Instruction: ", "User: ",
    "### Instruction:\n",
)  # fmt: skip
_BETWEEN = (
    " ", "\n", "\nOutput: ", " Output: ", "\nAnswer: ", " Answer: ", "\nA: ", " A: ", "\nLabel: ", " Label: ",
    " Label : ", "\nSentiment: ", " Sentiment: ", "\nResponse: ", "\nAssistant: ", "\n\n### Response:\n", " -> ",
    " = ", ": ",
)  # fmt: skip
_FIRST = ("", "Input: ")  # texts before the input, which all behind it are tried with first
_BEST, _FINALISTS = 3, 8  # pairs to go on from; layouts that all examples decide between


@dataclass(frozen=True)
class Layout:
    """What stands around input and output, and how well that fits."""

    text: str
    """As `--template` takes it."""
    template: Template
    nll: float
    """Mean negative log-likelihood of the examples' outputs under the soft prompt, nats a token, their ends apart."""


@dataclass(frozen=True)
class LayoutCheck:
    """How well labelled examples fit a soft prompt under one template."""

    soft: float
    """Mean negative log-likelihood of their outputs, nats a token, ends apart: what is tuned on bare labels never
    learns to end."""
    without: float | None
    """Without any prompt; None where the subject then has nothing to read."""
    n: int = 0
    """How many examples were answered; none where outputs are long, of which hardly any two are the same."""
    n_right: int = 0
    """Those of whose inputs the soft prompt first writes the very output, but for case and white space around it."""
    n_ended: int = 0
    """Those of them after which it ends."""

    @property
    def goes_on(self) -> bool:
        """Whether it writes on behind the outputs, as what was tuned on labels without an end does."""
        return self.n_right > 2 * self.n_ended

    @property
    def fits_badly(self) -> bool:
        """Whether outputs are unlikely, or not certain and no likelier than without the soft prompt: it was hardly
        tuned like this. Where they are certain, the subject may do the task by itself."""
        return self.soft > _POOR or (self.soft > _CLEARLY and self.is_idle)

    @property
    def is_idle(self) -> bool:
        """Whether outputs are hardly likelier than without the soft prompt: the subject does the task by itself, and
        what it writes tells nothing of the layout."""
        return self.without is not None and self.soft > self.without - _CLEARLY

    @property
    def is_often_wrong(self) -> bool:
        return self.n_right < _MOSTLY * self.n

    @property
    def is_certain(self) -> bool:
        """Whether no other is looked for: none could be clearly likelier. A soft prompt may do its task under another
        template than its own, too, and less like itself."""
        return self.fits_well and self.soft < _CLEARLY

    @property
    def fits_well(self) -> bool:
        """Whether it may well be the template: nearly all outputs are the wanted ones, or most, and they are likely;
        long ones are nearly certain."""
        if self.fits_badly or not self.n:
            return self.soft < _CLEARLY
        return not self.is_often_wrong or (self.n_right >= _ENOUGH * self.n and self.soft < _LIKELY)


_UNKNOWN = LayoutCheck(math.inf, None)


def as_string(template: Template, place: Place | None) -> str:
    """A template as `--template` takes it, with the place of the vectors where their file does not say it (`place`
    None)."""
    plain = Template(soft_separator="", separator=template.separator, place=template.place)
    kept = {name: getattr(template, name) for name in ("input_prefix", "output_prefix", "output_lead")}
    lead = template.output_lead
    is_plain = not lead or (lead.isspace() and not template.output_prefix.endswith(" "))
    if template != replace(plain, **kept) or not is_plain:  # more than a string says
        if template_text(template) in PRESETS:
            return "plain" if place is not None else f"plain:{template.place}"
        return template_text(template, None if place is not None else template.place)
    begin = "" if place is not None else "{prompt}{bos}" if template.place == "first" else "{bos}{prompt}"
    # Without a lead an output is not named: else the space before it were its own.
    output = f"{template.output_lead}{{output}}" if template.output_lead else ""
    return f"{begin}{template.input_prefix}{{input}}{template.output_prefix}{output}"


def check_layout(subject: Subject, soft_prompt: SoftPrompt, examples: Sequence[Example]) -> LayoutCheck | None:
    """How likely outputs are under a soft prompt in its template, the one asked for or the assumed one; None where no
    example fits the subject, or nothing says where the vectors stand."""
    examples = _usable(subject, soft_prompt, examples)
    try:
        subject = subject.for_prompts([soft_prompt])
    except UserError:
        return None
    if (soft := _nll(subject, soft_prompt, examples)) is None:
        return None
    without = _nll(subject, None, examples)
    longest = max(len(subject.encode_output(example.output)) for example in examples)
    if longest > _SHORT:
        return LayoutCheck(soft, without)
    try:
        written = subject.generate_ids([Query(soft_prompt, example.input) for example in examples], longest)
    except UserError:
        return LayoutCheck(soft, without)
    n_right = n_ended = 0
    for row, example in zip(written, examples, strict=True):
        n = len(subject.encode_output(example.output)) - (not subject.is_masked)
        is_right = subject.output_text(row[:n]).casefold() == example.output.strip().casefold()
        n_right, n_ended = n_right + is_right, n_ended + (is_right and len(row) <= n)
    return LayoutCheck(soft, without, len(examples), n_right, n_ended)


def better_layout(
    subject: Subject,
    soft_prompt: SoftPrompt,
    examples: Sequence[Example],
    log: Callable[[str], None] = lambda line: None,
    *,
    known: LayoutCheck | None = None,
) -> Layout | None:
    """A layout under which a soft prompt that does not record its own makes the outputs of `examples` clearly likelier
    than under that which was asked for or is assumed, and likely beside no prompt at all; None where there is none.

    Common ways of writing down a query are tried, the subject's chat template among them: each text behind the input
    with two before it, the best of these with each before it, and the best of those with each behind it again; the
    white space before an output on either side; outputs that are tokenised as texts of their own, where that differs;
    virtual tokens where the prompt's file has them, or in both places. A few examples screen, half of up to 32 choose,
    and the other half have to bear it out. Nothing is tried where outputs are nearly certain already, nor with fewer
    than eight examples that fit the subject's context; `log` hears when the search begins. `known` is what
    `check_layout` found, if it was asked.
    """
    fit = known or check_layout(subject, soft_prompt, examples) or _UNKNOWN
    if fit.is_certain:
        return None
    examples = _usable(subject, soft_prompt, examples)
    if len(examples) < _FEWEST:
        return None
    does = "is not sure of" if fit.fits_well else "does not write"
    log(f"{soft_prompt.origin} {does} the outputs of the examples under this template: others are tried.")
    choosing, judging = examples[::2], examples[1::2]
    found = _Layouts(subject, soft_prompt, _screened(subject, choosing), examples)
    found.try_all((before, between) for before in _FIRST for between in _BETWEEN)
    found.try_all((before, between) for _, between in found.best(_BEST) for before in _BEFORE)
    found.try_all((before, between) for before, _ in found.best(1) for between in _BETWEEN)
    finalists = {text: found.templates[text] for text in found.ranked()[:_FINALISTS]}
    try:
        under = subject.for_prompts([soft_prompt])
    except UserError:  # nothing says where the vectors stand
        own = None
    else:
        own = _nll(under, soft_prompt, judging)
        for other in _with_other_leads(under):
            finalists[as_string(other, soft_prompt.place)] = other
    nlls = _nlls(subject, soft_prompt, list(finalists.values()), choosing)
    scored = [(nll, text) for nll, text in zip(nlls, finalists, strict=True) if nll is not None]
    if not scored:
        return None
    _, best = min(scored, key=lambda one: (one[0], is_fields(one[1]), one[1]))  # of those alike the plainer
    template = finalists[best]
    nll, without = (_nll(subject.with_template(template), prompt, judging) for prompt in (soft_prompt, None))
    there = LayoutCheck(math.inf if nll is None else nll, without)
    is_no_better = own is not None and there.soft > own - _CLEARLY
    if there.fits_badly or is_no_better or (fit.fits_well and there.is_idle):
        log(f"None of some hundred makes them clearly likelier under {soft_prompt.origin}.")
        return None
    return Layout(best, template, there.soft)


def _usable(subject: Subject, soft_prompt: SoftPrompt, examples: Sequence[Example]) -> list[Example]:
    """Some of the examples in random order, since files are often sorted: those that fit the context, about."""
    place = soft_prompt.place or "first"
    mixed = Random("layout").sample(list(examples), len(examples))[: 2 * _EXAMPLES]
    plain = replace(Template(), place=place)
    return [one for one in mixed if _encoded(subject, soft_prompt, plain, [one]) is not None][:_EXAMPLES]


def _screened(subject: Subject, examples: Sequence[Example]) -> Sequence[Example]:
    """A few of them: fewer where they are long, two at least."""
    lengths = [len(subject.encode_input(one.input, "soft").body) for one in examples[:_SCREENED]]
    return examples[: max(2, min(_SCREENED, _SCREENED_TOKENS * len(lengths) // max(sum(lengths), 1)))]


def likelier_scale(
    subject: Subject, soft_prompt: SoftPrompt, examples: Sequence[Example]
) -> Literal["included", "left-out"] | None:
    """Whether the vectors of a soft prompt that does not say it include the scale of the subject's embeddings: as what
    the examples' outputs are likelier, in the template that is assumed or the best one that is found. None where no
    example fits the subject."""
    nlls = [_best_nll(subject, replace(soft_prompt, scale=one), examples) for one in (subject.embedding_scale, 1.0)]
    if None in nlls:
        return None
    return "included" if nlls[0] <= nlls[1] else "left-out"


def _best_nll(subject: Subject, soft_prompt: SoftPrompt, examples: Sequence[Example]) -> float | None:
    if soft_prompt.template is None and (found := better_layout(subject, soft_prompt, examples)) is not None:
        return found.nll
    try:
        under = subject.for_prompts([soft_prompt])
    except UserError:  # nothing says where the vectors stand, and no layout makes the outputs likely
        return math.inf
    return _nll(under, soft_prompt, _usable(subject, soft_prompt, examples))


Words = tuple[str, str]
"""Texts before an input and between it and its output."""


class _Layouts:
    """Layouts that were tried on a few examples."""

    def __init__(
        self, subject: Subject, soft_prompt: SoftPrompt, examples: Sequence[Example], all_examples: Sequence[Example]
    ):
        self.subject, self.soft_prompt, self.examples = subject, soft_prompt, examples
        self.outputs = [example.output for example in all_examples]
        unsaid = soft_prompt.place is None
        self.places: Sequence[Place | None] = ["first", "after"] if unsaid and subject.begins_with_tokens else [None]
        self.templates: dict[str, Template] = {}
        self.nlls: dict[str, float] = {}
        self.words: dict[str, Words] = {}
        presets = ["chat:first", "chat:after", "plain:first", "plain:after"] if unsaid else ["chat"]
        self._try({text: None for text in presets if self._is_possible(text)})
        self._try({text: None for text in self._turns_that_think()})

    def try_all(self, words: Iterable[Words]) -> None:
        """Those that were not tried yet, in shared batches."""
        self._try({text: one for one in words for place in self.places for text in self._written(place, one)})

    def ranked(self) -> list[str]:
        return sorted(self.nlls, key=self.nlls.__getitem__)

    def best(self, n: int) -> list[Words]:
        """The first `n` different ones."""
        return list(dict.fromkeys(self.words[text] for text in self.ranked() if text in self.words))[:n]

    def _try(self, texts: dict[str, Words | None]) -> None:
        new = {text: self._template(text) for text in texts if text not in self.templates}
        self.templates |= new
        self.words |= {text: words for text in new if (words := texts[text]) is not None}
        nlls = _nlls(self.subject, self.soft_prompt, list(new.values()), self.examples)
        self.nlls |= {text: nll for text, nll in zip(new, nlls, strict=True) if nll is not None}

    def _turns_that_think(self) -> list[str]:
        """Chat turns whose answer reasons first, and does not, where the chat template tells these apart (Qwen3)."""
        if not self._is_possible("chat"):
            return []
        of_its_own = self._template("chat")
        found = []
        for thinks in (False, True):
            with suppress(UserError):  # one that can only do the other
                found.append(chat_template(self.subject.tokenizer, enable_thinking=thinks))
        placed = [replace(turn, place=place or of_its_own.place) for turn in found for place in self.places]
        return [
            as_string(turn, self.soft_prompt.place)
            for turn in placed
            if (turn.opening, turn.output_prefix) != (of_its_own.opening, of_its_own.output_prefix)
        ]

    def _template(self, text: str) -> Template:
        choice = read_template(text)
        template = chosen_template(choice, self.subject.tokenizer)
        place = choice.place or self.soft_prompt.place or "after"
        return replace(template, place=place).for_outputs(self.outputs)

    def _is_possible(self, preset: str) -> bool:
        """Whether the subject has such a layout: a chat template that keeps the user's words as they are, or none."""
        try:
            self._template(preset)
        except UserError:
            return False
        return not (preset.startswith("chat") and self.subject.is_masked)

    def _written(self, place: Place | None, words: Words) -> list[str]:
        """As templates: the white space before the output read with what stands before it, and written with the output;
        and the output as a text of its own."""
        before, between = words
        begun = {"first": "{prompt}{bos}", "after": "{bos}{prompt}", None: ""}[place]
        read = f"{begun}{before}{{input}}{between}"
        template = self._template(read)
        own = _of_their_own(template, self.subject)
        texts = [as_string(one, self.soft_prompt.place) for one in own]
        return [read, *([f"{read}{{output}}"] if between.endswith(" ") else []), *texts]


def _with_other_leads(subject: Subject) -> list[Template]:
    """The subject's template with the white space before an output on the other side, written by the model or read by
    it before, and with the output as a text of its own.

    Tokenizers join a space to the word behind it, so that these are read quite differently.
    """
    template = subject.template
    if template.input_first:
        return []
    bare = template.output_prefix.rstrip(" ")
    read = template
    if template.output_lead.isspace():
        read = replace(template, output_prefix=template.output_prefix + template.output_lead, output_lead="")
    written = replace(template, output_prefix=bare, output_lead=template.output_prefix[len(bare) :])
    moved = read if template.output_lead else written
    return [one for one in (moved, *_of_their_own(read, subject)) if one != template]


def _of_their_own(template: Template, subject: Subject) -> list[Template]:
    """A template with outputs that are tokenised as texts of their own."""
    return [
        replace(template, output_prefix=template.output_prefix + read, output_lead=lead)
        for read, lead in subject.own_beginnings
    ]


def _nll(subject: Subject, prompt: Prompt, examples: Sequence[Example]) -> float | None:
    return _nlls(subject, prompt, [subject.template], examples)[0]


@torch.no_grad()
def _nlls(
    subject: Subject, prompt: Prompt, templates: Sequence[Template], examples: Sequence[Example]
) -> list[float | None]:
    """Negative log-likelihood of the outputs, ends apart, under one prompt in each template, for each token that they
    have as texts of their own, so that templates which split them otherwise are compared by the same number; None where
    an example does not fit the context, or there is nothing to read."""
    found: list[float | None] = [None] * len(templates)
    if len(templates) > _AT_ONCE:
        parts = [templates[start : start + _AT_ONCE] for start in range(0, len(templates), _AT_ONCE)]
        return [nll for part in parts for nll in _nlls(subject, prompt, part, examples)]
    if not examples:
        return found
    encoded = {i: rows for i, t in enumerate(templates) if (rows := _encoded(subject, prompt, t, examples))}
    heads, rows = [head for head, _ in encoded.values()], [some for _, some in encoded.values()]
    numbers, n_tokens = list(encoded), sum(subject.n_tokens_alone(one.output) for one in examples)
    for i, hidden in subject.scorer.hidden_states(heads, rows, subject.batch_tokens):
        wanted = torch.tensor([token for example in rows[i] for token in example.output], device=hidden.device)
        found[numbers[i]] = -subject.scorer.score(hidden, wanted)[0].sum().item() / n_tokens
    return found


def _encoded(
    subject: Subject, prompt: Prompt, template: Template, examples: Sequence[Example]
) -> tuple[torch.Tensor, list[EncodedExample]] | None:
    """All that stands before the examples, and they with their outputs' words alone."""
    under = subject.with_template(template)
    prompt = replace(prompt, template=template) if isinstance(prompt, SoftPrompt) else prompt
    head, kind = under.prompt_embeddings(prompt), "soft" if isinstance(prompt, SoftPrompt) else "none"
    try:
        rows = [under.encode_example(example.input, example.output, kind) for example in examples]
    except UserError:
        return None
    rows = rows if subject.is_masked else [replace(row, output=row.output[:-1]) for row in rows]
    longest = len(head) + max((row.n_read for row in rows), default=0)
    if subject.context_length is not None and longest > subject.context_length:
        return None
    return (head, rows) if all(len(head) + row.n_input and row.output for row in rows) else None
