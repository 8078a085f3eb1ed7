"""The template that a subject and its soft prompts are run under."""

from collections.abc import Iterable
from dataclasses import replace

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from soft2hard.errors import UserError, first_line
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.prompts.template import Template, TemplateChoice

_PLACE, _ANSWER = "\u2063prompt and input\u2063", "\u2063answer\u2063"
"""Stand in for what the user and the model say; made of characters that no chat template has."""


def chosen_template(choice: TemplateChoice | Template | None, tokenizer: PreTrainedTokenizerBase) -> Template:
    """The template of a choice; the plain one where there is none."""
    if isinstance(choice, Template):
        return choice
    if choice is None:
        return Template()
    found = choice.template or chat_template(tokenizer)
    return replace(found, place=choice.place) if choice.place else found


def chat_template(tokenizer: PreTrainedTokenizerBase, **settings: object) -> Template:
    """One turn of the user, with prompt and input, as the tokenizer's chat template writes it, up to the answer, under
    `settings` of its own, such as `enable_thinking`.

    The template's own special tokens are all that begins it, so the tokenizer adds none. The answer ends with EOS.
    Raises UserError where the tokenizer has no chat template, or one that does not keep the user's words as they are.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise UserError("The subject's tokenizer has no chat template.", "Use --template plain, or a string.")
    turn = {"role": "user", "content": _PLACE}
    text = _rendered(tokenizer, [turn], settings)
    if text.count(_PLACE) != 1:
        raise UserError(
            "The subject's chat template changes what the user says, so no prompt can be placed in it.",
            "Use --template plain, or write the turn as a string with {prompt} and {input}.",
        )
    opening, closing = text.split(_PLACE)
    return Template(
        opening=opening,
        input_prefix="",
        output_prefix=closing,
        output_lead="",
        separator="\n",
        soft_separator="",
        block_separator=_between_turns(tokenizer, turn, settings),
        stops=(),
        bos=False,
    )


def is_chat(template: Template, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a template is a turn of the tokenizer's chat template."""
    try:
        turn = chat_template(tokenizer)
    except UserError:
        return False
    return all(getattr(template, name) == getattr(turn, name) for name in ("opening", "input_prefix", "output_prefix"))


def _between_turns(tokenizer: PreTrainedTokenizerBase, turn: dict[str, str], settings: dict[str, object]) -> str | None:
    """The text between an answer and what the user says next; None where the chat template has but one turn."""
    try:
        text = _rendered(tokenizer, [turn, {"role": "assistant", "content": _ANSWER}, turn], settings)
    except UserError:
        return None
    after = text.partition(_ANSWER)[2]
    return after.partition(_PLACE)[0] if _PLACE in after else None


def _rendered(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], settings: dict[str, object]) -> str:
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, **settings)
    except (TemplateError, ValueError, TypeError) as error:
        raise UserError(
            f"The subject's chat template cannot be used ({first_line(error)}).", "Use --template plain, or a string."
        ) from error


def template_of_prompts(
    soft_prompts: Iterable[SoftPrompt],
    asked: TemplateChoice | Template | None,
    tokenizer: PreTrainedTokenizerBase,
    has_leading: bool,
) -> Template | None:
    """The template of soft prompts: the recorded one, else the one asked for, vectors where their file has them.

    None where there are no soft prompts. `has_leading`: whether the tokenizer puts tokens before a text. Raises
    UserError where the soft prompts differ in this, contradict what was asked for, or leave open where they stand.
    """
    found: Template | None = None
    for soft_prompt in soft_prompts:
        chosen = chosen_template(asked, tokenizer)
        if soft_prompt.template is not None:
            template = _recorded(soft_prompt.template, asked, chosen, has_leading)
        else:
            template = _implied(soft_prompt, asked, chosen, has_leading)
        if found and not (template.frames_alike(found, has_leading) and _end_alike(template, found)):
            raise UserError(
                "The soft prompts were tuned under different templates.", "Give those of one template at a time."
            )
        found = found or template
    return found


def _end_alike(one: Template, other: Template) -> bool:
    # Templates from before masked subjects were known record no suffix.
    suffixes = {one.output_suffix, other.output_suffix}
    return set(one.stops) == set(other.stops) and ("" in suffixes or len(suffixes) == 1)


def _recorded(own: Template, asked: TemplateChoice | Template | None, chosen: Template, has_leading: bool) -> Template:
    if asked is None:
        return own
    wanted = replace(chosen, place=asked.place or own.place, stops=own.stops, output_suffix=own.output_suffix)
    if not wanted.frames_alike(own, has_leading):
        raise UserError(
            "The soft prompt was tuned under another template than the one asked for.",
            "Leave --template out: the soft prompt's file records its own.",
        )
    return wanted


def _implied(
    soft_prompt: SoftPrompt, asked: TemplateChoice | Template | None, chosen: Template, has_leading: bool
) -> Template:
    place = (asked.place if asked else None) or soft_prompt.place
    if place is None and (has_leading or chosen.opening):
        raise UserError(
            f"{soft_prompt.origin} does not say where its vectors stand, and sequences begin with tokens of their own.",
            "Say it: --template plain:first (vectors before all of them, as PEFT has them), plain:after (after them), "
            "or a string such as '{prompt}{bos}{input}' (docs/templates.md).",
        )
    return replace(chosen, place=place or "after")
