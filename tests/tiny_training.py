"""A tiny corpus and translators that learn it in a second."""

import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import datasets
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from soft2hard.data_gen.corpus.rows import corpus_features, soft_prompt_of
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.data import CorpusPairs, PairCollator
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import Design, TranslatorTraining
from soft2hard.translator.training import train_translator
from tests import tiny_models

NOUNS = ["cat", "dog", "bird", "fish"]
COLOURS = ["red", "green", "blue"]
N_TOKENS = 3
N_EXAMPLES = 4
INSTRUCTION_TOKENS = 16
"""Longest text that tiny translators write; those that never end would else write 64 tokens."""


def llama_subject(seed: int = 0, **changes: object) -> Subject:
    """A Llama in which each head has its own keys and values, as a warm start needs it; its head is not its table."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    ids = {"vocab_size": tiny_models.VOCAB_SIZE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**sizes | ids | {"max_position_embeddings": 64} | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.ndim == 1))
    return Subject(model, tiny_models.tokenizer("llama"), name=f"llama-{seed}")


def corpus(subject: Subject, nouns: list[str], seed: int = 0, copies: int = 2) -> datasets.Dataset:
    """Soft prompts that say their task by the embeddings of its words, with a little noise."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for noun in nouns:
        for colour in COLOURS:
            words = subject.embed_text(f"{noun} {colour} {noun}")
            for step in range(copies):
                noise = 0.1 * torch.randn(words.shape, generator=generator)
                rows.append(
                    {
                        "task": f"{noun}/{colour}",
                        "family": "tiny",
                        "instruction": f"{colour} {noun}",
                        "paraphrases": [f"one {colour} {noun}", f"{noun} {colour}"],
                        "inputs": [f"{colour} thing {i}" for i in range(N_EXAMPLES)],
                        "outputs": [noun] * N_EXAMPLES,
                        "step": step,
                        "is_best": step == 0,
                        "validation_loss": 0.0,
                        "initial_loss": 1.0,
                        "embeddings": (words + noise).numpy(),
                    }
                )
    features = corpus_features(N_TOKENS, subject.d_model)
    return datasets.Dataset.from_dict({name: [row[name] for row in rows] for name in features}, features=features)


def corpora(subject: Subject) -> tuple[datasets.Dataset, datasets.Dataset]:
    """One to train on and one of other tasks."""
    return corpus(subject, NOUNS[:3]), corpus(subject, NOUNS[3:])


def soft_prompts(of: datasets.Dataset) -> list[SoftPrompt]:
    return [soft_prompt_of(row) for row in of.with_format("numpy")]


def config(**changes: object) -> TranslatorTraining:
    """Few, short epochs in float32."""
    settings = {"epochs": 3, "batch_size": 8, "lr": 5e-3, "warmup_steps": 2, "bf16": False} | changes
    return TranslatorTraining(**settings | {"epochs": float(settings["epochs"])})


def translator(subject: Subject, seed: int = 0, dropout: float = 0.1) -> Translator:
    """Untrained, the same for the same seed."""
    torch.manual_seed(seed)
    return Translator.for_subject(
        subject, Design("encoder-decoder", dropout=dropout, instruction_tokens=INSTRUCTION_TOKENS)
    )


def stirred(of: Translator, seed: int = 2) -> Translator:
    """As if trained: all that learns has moved. An untrained encoder-decoder writes the same whatever it reads."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in of.model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    of.model.eval()
    return of


@cache
def trained() -> Translator:
    """A translator that reads its soft prompts; shared, so not to be changed."""
    subject = llama_subject()
    with TemporaryDirectory() as folder:
        made = translator(subject, dropout=0.0)
        train_translator(made, *corpora(subject), config(epochs=12, lr=0.02, patience=12), folder)
    return made


@cache
def fitted() -> Translator:
    """A translator that writes what it was trained on, on every machine; shared, so not to be changed.

    `trained` keeps its best step on other tasks, where it has hardly begun and small differences of rounding decide
    what it writes. This one keeps its best step on the tasks that it learns.
    """
    known = corpora(llama_subject())[0]
    again = known.map(lambda row: {"task": f"{row['task']} again"})
    with TemporaryDirectory() as folder:
        made = translator(llama_subject(), dropout=0.0)
        train_translator(made, known, again, config(epochs=20, lr=0.02, patience=20), folder)
    return made


@torch.no_grad()
def loss(of: Translator, on: datasets.Dataset) -> float:
    """Mean cross-entropy of the reference instructions over all their tokens, nats a token."""
    batch = PairCollator(of.encode_instruction)([pair for pair in CorpusPairs(on)])
    logits = of.model.eval()(**batch).logits.log_softmax(-1)
    real = batch["labels"] >= 0
    return -float(logits[real].gather(1, batch["labels"][real][:, None]).mean())


def logged(folder: Path, name: str) -> dict[int, float]:
    """What the log last said under this name at each step."""
    lines = (json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines())
    return {line["step"]: line[name] for line in lines if name in line}


def save_models(folder: Path) -> Path:
    """A tiny subject and its translator on disk, as `subject` and `translator` in the folder."""
    subject = llama_subject()
    subject.model.save_pretrained(folder / "subject")
    subject.tokenizer.save_pretrained(folder / "subject")
    trained().save_pretrained(folder / "translator")
    return folder


def write_task(path: Path, outputs: str) -> Path:
    """A task file of 30 inputs over the tiny subject's words, whose outputs take turns."""
    words = outputs.split()
    inputs = [f"{a} {b}" for a in tiny_models.WORDS[3:9] for b in tiny_models.WORDS[9:14]]
    lines = [{"instruction": "red cat"}]
    lines += [{"input": text, "output": words[i % len(words)]} for i, text in enumerate(inputs)]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path
