"""The template writes prompt, input and output as docs and design say."""

from dataclasses import dataclass

from soft2hard.prompts.template import Template


@dataclass(frozen=True)
class Pair:
    input: str
    output: str


def test_body_after_a_prompt_begins_with_the_separator() -> None:
    assert Template().body_text("cat", kind="soft") == "\nInput: cat\nOutput:"


def test_body_without_a_prompt_begins_with_the_input_prefix() -> None:
    assert Template().body_text("cat", kind="none") == "Input: cat\nOutput:"


def test_output_begins_with_its_lead() -> None:
    assert Template().output_text("chat") == " chat"


def test_braces_in_an_input_are_plain_text() -> None:
    assert Template().body_text("{input} {0}", kind="none") == "Input: {input} {0}\nOutput:"


def test_few_shot_text_is_the_instruction_and_the_solved_examples() -> None:
    text = Template().few_shot_text([Pair("a", "b"), Pair("c", "d")], instruction="Say the next letter.")
    assert text == "Say the next letter.\nInput: a\nOutput: b\nInput: c\nOutput: d"


def test_few_shot_text_without_an_instruction_begins_with_the_first_example() -> None:
    assert Template().few_shot_text([Pair("a", "b")]) == "Input: a\nOutput: b"


def test_few_shot_text_and_body_continue_the_same_pattern() -> None:
    template = Template(separator=" | ", input_prefix="Q: ", output_prefix=" A:", output_lead=" ")
    prompt = template.few_shot_text([Pair("1", "one"), Pair("2", "two")])
    assert prompt + template.body_text("3", kind="soft") == "Q: 1 A: one | Q: 2 A: two | Q: 3 A:"


def test_every_piece_of_a_template_can_be_replaced() -> None:
    template = Template(separator="\n\n", input_prefix="<", output_prefix=">", output_lead="=")
    assert template.body_text("x", kind="soft") + template.output_text("y") == "\n\n<x>=y"
