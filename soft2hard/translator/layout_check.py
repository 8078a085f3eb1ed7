"""Whether a soft prompt from elsewhere is read as it was tuned, in layout and scale: labelled examples tell."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError
from soft2hard.lm.sequences import Prompt, Query
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template

_EXAMPLES = 32
_MOSTLY, _SHORT = 0.9, 16  # share of outputs; tokens of outputs that may be the very same
_CLEARLY, _POOR = 0.2, 2.0  # nats a token; answers that a soft prompt was tuned to give are seldom less likely


@dataclass(frozen=True)
class LayoutCheck:
    """Mean negative log-likelihoods of the examples' outputs, nats a token, endings included."""

    soft: float
    """Under the soft prompt, in the template that was asked for or assumed."""
    without: float | None
    """Without any prompt; None where the subject then has nothing to read."""
    other: float | None
    """As `soft`, where the white space before an output belongs to the other side; None where there is none."""
    n: int = 0
    """How many examples were answered; none where outputs are long, of which hardly any two are the same."""
    n_right: int = 0
    """Those of whose inputs the soft prompt writes the very output, but for case and white space around it."""

    @property
    def fits_badly(self) -> bool:
        """Whether outputs are unlikely, or no likelier than without the soft prompt: it was hardly tuned like this."""
        return self.soft > _POOR or (self.without is not None and self.soft > self.without - _CLEARLY)

    @property
    def is_often_wrong(self) -> bool:
        return self.n_right < _MOSTLY * self.n

    @property
    def space_is_elsewhere(self) -> bool:
        return self.other is not None and self.other < self.soft - _CLEARLY


def check_layout(subject: Subject, soft_prompt: SoftPrompt, examples: Sequence[Example]) -> LayoutCheck | None:
    """How likely outputs are under a soft prompt, beside what would be so in other layouts; None where an example does
    not fit the subject."""
    subject = subject.for_prompts([soft_prompt])
    examples = examples[:_EXAMPLES]
    swapped = with_space_elsewhere(subject.template)
    elsewhere = None if swapped is None else subject.with_template(swapped)
    try:
        soft = _nll(subject, soft_prompt, examples)
        other = None if elsewhere is None else _nll(elsewhere, replace(soft_prompt, template=swapped), examples)
    except UserError:
        return None
    try:
        without = _nll(subject, None, examples)
    except UserError:
        without = None
    longest = max(len(subject.encode_output(example.output)) for example in examples)
    if longest > _SHORT:
        return LayoutCheck(soft, without, other)
    try:
        written = subject.generate([Query(soft_prompt, example.input) for example in examples], longest)
    except UserError:
        return LayoutCheck(soft, without, other)
    pairs = zip(written, examples, strict=True)
    n_right = sum(text.strip().casefold() == example.output.strip().casefold() for text, example in pairs)
    return LayoutCheck(soft, without, other, len(examples), n_right)


def likelier_scale(
    subject: Subject, soft_prompt: SoftPrompt, examples: Sequence[Example]
) -> Literal["included", "left-out"] | None:
    """Whether the vectors of a soft prompt that does not say it include the scale of the subject's embeddings: as what
    the examples' outputs are likelier. None where an example does not fit the subject."""
    subject, examples = subject.for_prompts([soft_prompt]), examples[:_EXAMPLES]
    try:
        included = _nll(subject, replace(soft_prompt, scale=subject.embedding_scale), examples)
        left_out = _nll(subject, replace(soft_prompt, scale=1.0), examples)
    except UserError:
        return None
    return "included" if included <= left_out else "left-out"


def _nll(subject: Subject, prompt: Prompt, examples: Sequence[Example]) -> float:
    scores = subject.target_scores([Query(prompt, example.input, example.output) for example in examples])
    return -sum(score.log_likelihood for score in scores) / sum(score.n_tokens for score in scores)


def with_space_elsewhere(template: Template) -> Template | None:
    """The template with the white space before an output on the other side: written by the model, or read by it before.

    Tokenizers join a space to the word behind it, so that the two are read quite differently. None without a space.
    """
    if template.input_first:
        return None
    if template.output_lead:
        return replace(template, output_prefix=template.output_prefix + template.output_lead, output_lead="")
    bare = template.output_prefix.rstrip(" ")
    if bare == template.output_prefix:
        return None
    return replace(template, output_prefix=bare, output_lead=template.output_prefix[len(bare) :])
