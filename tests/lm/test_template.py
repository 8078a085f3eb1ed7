"""The template writes prompt, input and output as docs and design say."""

from dataclasses import dataclass, replace

import pytest

from soft2hard.errors import UserError
from soft2hard.lm.templates import chat_template, is_chat
from soft2hard.prompts.template import Template, read_template
from tests import tiny_models


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


def test_line_breaks_before_an_output_are_read_and_not_written() -> None:
    template = read_template("Q: {input}\\nA:\\n {output}").template
    assert (template.output_prefix, template.output_lead) == ("\nA:\n", " ")


def test_a_string_that_says_where_the_prompt_stands_is_taken_at_its_word() -> None:
    assert read_template("Classify: {prompt}{input}").place == "after"
    assert read_template("{prompt}{bos}{input}").place == "first"
    assert read_template("{prompt}{input}").place is None


@pytest.mark.parametrize("text", ["x" * 300, "no\0file"])
def test_what_can_be_no_file_is_no_template(text: str) -> None:
    with pytest.raises(UserError, match="There is no template"):
        read_template(text)


def test_an_empty_ending_is_refused() -> None:
    with pytest.raises(UserError, match="empty ending"):
        Template(stops=("",))


TURNS = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def test_examples_under_a_chat_template_are_turns_of_it() -> None:
    tokenizer = tiny_models.tokenizer("qwen3")
    tokenizer.chat_template = TURNS
    template = chat_template(tokenizer)
    prompt = template.few_shot_text([Pair("1", "one"), Pair("2", "two")])
    # The query begins behind a line break, as it does behind every hard prompt.
    turns = [("user", "1"), ("assistant", "one"), ("user", "2"), ("assistant", "two"), ("user", "\n3")]
    expected = tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in turns], tokenize=False, add_generation_prompt=True
    )
    assert template.opening + prompt + template.body_text("3", kind="hard") == expected


def test_a_turn_of_the_chat_template_is_known_again_and_no_other_template_is() -> None:
    tokenizer = tiny_models.tokenizer("qwen3")
    assert not is_chat(Template(), tokenizer)  # it has no chat template
    tokenizer.chat_template = TURNS
    assert is_chat(replace(chat_template(tokenizer), stops=("\n",)), tokenizer)
    assert not is_chat(Template(), tokenizer)


def test_a_chat_template_that_fails_is_one_line() -> None:
    tokenizer = tiny_models.tokenizer("qwen3")
    tokenizer.chat_template = "{{ raise_exception('no users here') }}"
    with pytest.raises(UserError, match="cannot be used.*no users here.*--template plain"):
        chat_template(tokenizer)
