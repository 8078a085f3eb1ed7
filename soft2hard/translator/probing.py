"""Probe inputs where the user gives none: the subject invents them under texts that the soft prompt may mean.

A soft prompt is tuned on outputs alone, and what the subject takes for an input under it is distorted; under a text it
is what the subject was trained on. Candidate texts that differ invite inputs on which they differ.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from soft2hard.compute import metering
from soft2hard.lm.batching import positions
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt

MAX_INPUT_TOKENS = 24
_TRIES = 3


def own_uniforms(n_rows: int, n_steps: int, seed: int, *prompts: Prompt) -> Float[Tensor, "n_rows n_steps"]:
    """Random numbers in [0, 1) that depend on the seed and on what these prompts say; float64, on the CPU."""
    digest = sha256(str(seed).encode())
    for prompt in prompts:
        is_soft = isinstance(prompt, SoftPrompt)
        digest.update(sha256(prompt.embeddings.numpy().tobytes() if is_soft else (prompt or "").encode()).digest())
    generator = torch.Generator().manual_seed(int.from_bytes(digest.digest()[:8], "big"))
    return torch.rand(n_rows, n_steps, dtype=torch.float64, generator=generator)


def drawn(logits: Float[Tensor, "rows vocab"], uniforms: Float[Tensor, "rows"]) -> Int[Tensor, "rows"]:
    """A token of each row's softmax: the first at which the cumulated probability exceeds the row's uniform number."""
    cumulated = logits.float().softmax(-1).double().cumsum(-1)
    # Of what the probabilities really sum to, so that a token without probability is never the one.
    threshold = uniforms.to(cumulated)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, threshold, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


@torch.no_grad()
def invented_inputs(
    subject: Subject, prompts: Sequence[Sequence[Prompt]], n_probes: int, seed: int = 0
) -> list[list[str]]:
    """Up to `n_probes` distinct inputs for each list of prompts, which take turns, sampled from the subject itself.

    The subject reads a prompt and the template up to where an input stands, and writes until the template's next
    part begins. Encoder-decoder subjects do not continue their input, so they give none; neither does a subject
    that never closes its input. What is drawn for a list depends on the seed and on its prompts alone.
    """
    if subject.is_encoder_decoder:
        return [[] for _ in prompts]
    found: list[dict[str, None]] = [{} for _ in prompts]
    numbers = [own_uniforms(_TRIES * n_probes, MAX_INPUT_TOKENS, seed, *of_list) for of_list in prompts]
    for start in range(0, _TRIES * n_probes, n_probes):
        short = [i for i, inputs in enumerate(found) if len(inputs) < n_probes]
        if not short:
            break
        rows = [(i, prompts[i][turn % len(prompts[i])]) for i in short for turn in range(n_probes)]
        uniforms = torch.cat([numbers[i][start : start + n_probes] for i in short]).to(subject.device)
        texts = _sample(subject, [prompt for _, prompt in rows], uniforms)
        for (i, _), text in zip(rows, texts, strict=True):
            if text and len(found[i]) < n_probes:
                found[i][text] = None
    return [list(inputs) for inputs in found]


def _sample(subject: Subject, prompts: list[Prompt], uniforms: Float[Tensor, "rows n_steps"]) -> list[str | None]:
    """One input a row, or None where the template's next part did not come."""
    template, tokenizer = subject.template, subject.tokenizer
    # Some tokenizers do not give back the very same text: "Output:" may become "Output :".
    next_ids = tokenizer.encode(template.output_prefix.strip(), add_special_tokens=False)
    next_part = tokenizer.decode(next_ids, skip_special_tokens=True).strip()

    def has_ended(ids: list[int]) -> bool:
        return ids[-1] == next_ids[-1] and next_part in tokenizer.decode(ids, skip_special_tokens=True)

    body = subject.embed_text(template.separator + template.input_prefix.rstrip())
    embedded = {id(p): torch.cat([subject.prompt_embeddings(p), body]) for p in prompts}
    written = _continue(subject, [embedded[id(p)] for p in prompts], uniforms, has_ended)
    parts = [tokenizer.decode(ids, skip_special_tokens=True).partition(next_part) for ids in written]
    return [text.strip() if found else None for text, found, _ in parts]


def _continue(
    subject: Subject,
    rows: list[Tensor],
    uniforms: Float[Tensor, "rows n_steps"],
    has_ended: Callable[[list[int]], bool],
) -> list[list[int]]:
    """The tokens sampled after each row, at temperature 1, the whole batch at once, until all have ended."""
    embeddings = pad_sequence(rows, batch_first=True, padding_side="left")
    lengths = torch.tensor([[len(row)] for row in rows], device=embeddings.device)
    mask = torch.arange(embeddings.shape[1], device=embeddings.device) >= embeddings.shape[1] - lengths
    written: list[list[int]] = [[] for _ in rows]
    is_open = [True] * len(rows)
    metering.count(len(rows), 0)
    for step in range(uniforms.shape[1]):
        # All that stands before is read again; a row that has ended only waits for the others.
        metering.count(0, sum(len(row) + step for row, going in zip(rows, is_open, strict=True) if going))
        hidden = subject.backbone(embeddings, mask, positions(mask))[:, -1]
        new = drawn(subject.head(hidden), uniforms[:, step])
        for i, token in enumerate(new.tolist()):
            written[i].append(token)
            is_open[i] = is_open[i] and not has_ended(written[i])
        if not any(is_open):
            break
        embeddings = torch.cat([embeddings, subject.embed_ids(new[:, None])], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    return written
