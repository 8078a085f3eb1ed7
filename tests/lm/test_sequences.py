"""Pieces that are tokenised one by one and joined are the tokens of the text that they make, whatever the tokenizer."""

import pytest
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from soft2hard.lm.sequences import Reader, SequenceEncoder
from soft2hard.prompts.template import Template, read_template
from tests import tiny_tokenizers

PROMPT, INPUT, OUTPUT = "Say yes for a cat.", "a dog", "no"
TEXTS = ["Input: a dog\nOutput: no", "Say yes for a cat.", "USER: Say yes ASSISTANT: no", "[INST] Say yes [/INST] no"]


def of_characters(begins: str) -> PreTrainedTokenizerFast:
    """Every character a token, bytes for what is unknown; a text gets a space at its beginning, as Llama 2 and Mistral
    have it: by its normalizer or by Metaspace."""
    characters = sorted({"▁", *"".join(TEXTS)} - {" ", "\n"})
    vocabulary = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *characters]
    made = Tokenizer(BPE({token: i for i, token in enumerate(vocabulary)}, [], unk_token="<unk>", byte_fallback=True))
    if begins == "normalizer":
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=begins, split=False)
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    found = PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    found.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|answer|>"]})
    return found


TOKENIZERS = {
    "bytes": lambda: tiny_tokenizers.tokenizer("gpt2", TEXTS * 9),
    "normalizer": lambda: of_characters("normalizer"),
    "first": lambda: of_characters("first"),
    "never": lambda: of_characters("never"),
}
TEMPLATES = {
    "plain": Template(),
    "a turn": read_template("{bos}USER: {prompt} {input} ASSISTANT: {output}").template,
    "a turn before a line": read_template("{bos}[INST] {prompt}\n{input} [/INST]{output}").template,
    "special tokens": read_template("{bos}<|user|>{prompt}\n{input}<|answer|>{output}").template,
    "behind": read_template("{input} {prompt} is{output}").template,
    "behind a line": read_template("{input}\n{prompt}\nis{output}").template,
}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
@pytest.mark.parametrize("of", TOKENIZERS)
@pytest.mark.parametrize("prompt", [PROMPT, f"\n{PROMPT}", None], ids=["hard", "hard, after a line break", "none"])
def test_a_query_in_text_is_read_as_its_whole_text_would_be(of: str, template: Template, prompt: str | None) -> None:
    tokenizer, kind = TOKENIZERS[of](), "hard" if prompt else "none"
    encoder = SequenceEncoder(tokenizer, template, "causal", len(tokenizer))
    example = encoder.example(INPUT, encoder.output(OUTPUT), kind)
    read = [*example.before, *encoder.lead(kind), *encoder.prompt(prompt or ""), *example.body, *example.output]
    text = template.opening + template.query_text(prompt, INPUT) + template.output_text(OUTPUT)
    if template.input_first and prompt and prompt[0] == "\n":
        pytest.skip("behind an input, a prompt's own white space stands in the place of the separator's")
    assert read == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]


def test_behind_virtual_tokens_a_text_begins_as_users_of_peft_have_it() -> None:
    tokenizer = of_characters("normalizer")
    first = read_template("{prompt}{bos}Tweet: {input} Label:{output}")
    template = Template(**{**vars(first.template), "place": "first"})
    encoder = SequenceEncoder(tokenizer, template, "causal", len(tokenizer))
    body = encoder.example(INPUT, [], "soft").body
    assert body == tokenizer(template.body_text(INPUT, "soft"))["input_ids"]


def test_tokens_that_end_an_output_never_begin_one() -> None:
    """OPT puts before a text what also ends one: it is read before the output, not written."""
    tokenizer = tiny_tokenizers.tokenizer("opt", TEXTS * 9)
    causal = SequenceEncoder(tokenizer, Template(), "causal", len(tokenizer))
    assert causal.own_beginnings == (("</s>", ""),)
    assert SequenceEncoder(tokenizer, Template(), "encoder-decoder", len(tokenizer)).own_beginnings == ()


@pytest.mark.parametrize("reader", ["causal", "encoder-decoder"])
@pytest.mark.parametrize("of", TOKENIZERS)
def test_behind_beginnings_of_their_own_outputs_have_the_tokens_that_they_have_as_texts_of_their_own(
    of: str, reader: Reader
) -> None:
    """As PEFT's examples tokenise labels: with the tokens before a text, or without them."""
    tokenizer = TOKENIZERS[of]()
    plain = SequenceEncoder(tokenizer, Template(output_prefix=" Label : ", output_lead=""), reader, len(tokenizer))
    own = [tokenizer(OUTPUT, add_special_tokens=special)["input_ids"] for special in (False, True)]
    behind = plain.output(OUTPUT)[:-1]
    found = []
    for read, lead in plain.own_beginnings:
        under = SequenceEncoder(
            tokenizer, Template(output_prefix=f" Label : {read}", output_lead=lead), reader, len(tokenizer)
        )
        before = tokenizer(read, add_special_tokens=False)["input_ids"]
        assert under.example(INPUT, [], "none").body[-len(before) :] == before or not read
        found.append([*before, *under.output(OUTPUT)[:-1]])
    assert sorted([behind, *found]) == sorted({tuple(ids): ids for ids in (behind, *own)}.values())
