"""Subjects whose next word depends on the last one alone, and on what was planted besides."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from soft2hard.lm.subject import Subject
from soft2hard.prompts.template import Template
from tests import tiny_models

WIDTH = 32
IDS = {word: i + len(tiny_models.SPECIAL) for i, word in enumerate(tiny_models.WORDS)}
EOS = tiny_models.SPECIAL.index("</s>")
CHAIN = [*(word for word in tiny_models.WORDS[3:] if word not in ("bird", "fish")), "Input", "Output"]
"""What `branching_subject` begins every output with: more than 16 words."""


def markov_subject(follows: dict[str, list[str]], template: Template = Template()) -> Subject:
    """A Llama that writes after each word one of those that follow it, at equal chances, whatever came before."""
    sizes = {"hidden_size": WIDTH, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 4}
    ids = {"vocab_size": tiny_models.VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **ids, max_position_embeddings=96))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0 if parameter.ndim == 1 else 0.0)  # layers add nothing
        model.model.embed_tokens.weight.copy_(torch.eye(tiny_models.VOCAB_SIZE, WIDTH))
        for word, next_words in follows.items():
            for next_word in next_words:
                model.lm_head.weight[IDS[next_word], IDS[word]] = 10.0  # times sqrt(32) after the norm
    return Subject(model, tiny_models.tokenizer("gpt2"), name="markov", template=template)


def remembering(subject: Subject, share: float = 3.0) -> Subject:
    """The same, in which attention adds the mean of all that was read, so that a prompt can be made to matter."""
    attention = subject.model.model.layers[0].self_attn
    attention.v_proj.weight.data.copy_(torch.eye(WIDTH))
    attention.o_proj.weight.data.copy_(share * torch.eye(WIDTH))
    return subject


def branching_subject() -> Subject:
    """Writes the words of `CHAIN`, then "bird" where the prompt has birds in it and "fish" elsewhere, and ends."""
    steps = zip([":", *CHAIN], CHAIN, strict=False)
    subject = remembering(markov_subject({word: [then] for word, then in steps} | {"Output": ["bird"]}), 0.1)
    head = subject.model.lm_head.weight.data
    head[IDS["fish"], IDS["Output"]] = 10.1
    head[IDS["bird"], IDS["bird"]], head[IDS["fish"], IDS["bird"]] = 10.0, -10.0
    head[EOS, IDS["bird"]] = head[EOS, IDS["fish"]] = 12.0
    return subject


def inventing_subject() -> Subject:
    """Closes the inputs that it invents, a few words each, and answers them "left" where the prompt has birds in it,
    "right" elsewhere."""
    words = ["cat", "dog", "red", "green", "blue", "one", "two", "three", "four"]
    follows = {":": words, **{word: [*words, "Output"] for word in words}, "Output": ["left"]}
    subject = remembering(markov_subject(follows, Template(output_prefix="\nOutput", stops=())), 0.1)
    head = subject.model.lm_head.weight.data
    head[IDS["right"], IDS["Output"]] = 10.1
    head[IDS["left"], IDS["bird"]], head[IDS["right"], IDS["bird"]] = 10.0, -10.0
    head[EOS, IDS["left"]] = head[EOS, IDS["right"]] = 14.0
    return subject
