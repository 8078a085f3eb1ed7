"""Candidate instructions for soft prompts, decoded many prompts at a time."""

from collections.abc import Sequence
from hashlib import sha256

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, TemperatureLogitsWarper, TopPLogitsWarper

from soft2hard.compute import metering
from soft2hard.compute.memory import Halving
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.translator.model import Translator
from soft2hard.translator.reading import tidy

_ROWS_AT_ONCE = 1024


@torch.no_grad()
def propose(
    translator: Translator,
    soft_prompts: Sequence[SoftPrompt],
    n_candidates: int = 64,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    top_p: float = 0.98,
) -> list[list[str]]:
    """Distinct candidates for each soft prompt, the greedy one first, then beams, then samples.

    A quarter of the candidates are asked of beam search and the rest drawn by nucleus sampling; fewer
    than `n_candidates` come back where some coincide. With one candidate only greedy decoding runs.
    What is drawn for a soft prompt hangs on the seed and on itself, whatever the others are.
    """
    numbered = list(enumerate(soft_prompts))
    at_once = max(1, _ROWS_AT_ONCE // n_candidates)
    chunks = [numbered[start : start + at_once] for start in range(0, len(numbered), at_once)]

    def work(chunk: Sequence[tuple[int, SoftPrompt]]) -> list[list[str]]:
        decoding = _Decoding(translator, [prompt for _, prompt in chunk], first_number=chunk[0][0])
        return decoding.candidates(n_candidates, seed, temperature, top_p)

    halving = Halving("Ask for fewer candidates, or translate on a GPU with more memory.")
    return [texts for _, found in halving.run(chunks, work) for texts in found]


def own_uniforms(n_rows: int, n_steps: int, seed: int, *prompts: Prompt) -> Float[Tensor, "n_rows n_steps"]:
    """Random numbers in [0, 1) that hang on the seed and on what these prompts say; float64, on the CPU."""
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


class _Drawing(LogitsProcessor):
    """Leaves each row the one token that its own random numbers draw, so that greedy search samples."""

    def __init__(self, uniforms: Float[Tensor, "rows n_steps"], n_start: int):
        self.uniforms, self.n_start = uniforms, n_start

    def __call__(self, input_ids: Int[Tensor, "rows n_read"], scores: Float[Tensor, "rows vocab"]) -> Tensor:
        chosen = drawn(scores, self.uniforms[:, input_ids.shape[1] - self.n_start])
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen[:, None], 0.0)


class _Decoding:
    """A few soft prompts that the translator has read, and all that it writes for them."""

    def __init__(self, translator: Translator, soft_prompts: Sequence[SoftPrompt], first_number: int):
        self.translator, self.soft_prompts, self.first_number = translator, soft_prompts, first_number
        self.model = translator.model.eval()
        self.memory = self.model.encode(*translator.encode_batch(soft_prompts))
        self._count([(0, translator.n_read(soft_prompt)) for soft_prompt in soft_prompts])

    def candidates(self, n: int, seed: int, temperature: float, top_p: float) -> list[list[str]]:
        """Up to `n` distinct texts for each soft prompt: greedy, beams, samples."""
        batches = [self.write(1)]
        n_beams = n // 4 if n >= 8 else 0
        if n_beams:
            batches.append(self.write(n_beams, num_beams=n_beams, num_return_sequences=n_beams))
        if n > 1 + n_beams:
            batches.append(self.sample(n - 1 - n_beams, seed, temperature, top_p))
        of_each = [[tidy(text) for batch in batches for text in batch[i]] for i in range(len(self.soft_prompts))]
        return [list(dict.fromkeys(text for text in texts if text)) for texts in of_each]

    def sample(self, n: int, seed: int, temperature: float, top_p: float) -> list[list[str]]:
        """`n` texts for each soft prompt, drawn from the nucleus `top_p`, each soft prompt by its own numbers."""
        n_steps = self.translator.card.instruction_tokens
        uniforms = [own_uniforms(n, n_steps, seed, soft_prompt) for soft_prompt in self.soft_prompts]
        drawing = _Drawing(torch.cat(uniforms).to(self.translator.device), self.model.n_start)
        processors = [TemperatureLogitsWarper(float(temperature)), TopPLogitsWarper(float(top_p)), drawing]
        return self.write(n, n_rows=n, logits_processor=LogitsProcessorList(processors))

    def write(self, n: int, n_rows: int = 1, **settings: object) -> list[list[str]]:
        """`n` texts for each soft prompt, which has `n_rows` rows in the batch; greedy unless `settings` say other."""
        settings = {"do_sample": False, "num_beams": 1} | settings
        most = self.translator.card.instruction_tokens
        ids = self.model.generate(self.memory.repeat(n_rows), max_new_tokens=most, **settings)
        n_read = self._n_read(ids)
        self._count([(n, sum(n_read[i : i + n])) for i in range(0, len(ids), n)])
        texts = self.translator.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [texts[i : i + n] for i in range(0, len(texts), n)]

    def _n_read(self, written: Int[Tensor, "rows length"]) -> list[int]:
        """Tokens that were read to write each row: a start and all written but the last, which may be the end."""
        is_end = written == self.model.eos_id
        return torch.where(is_end.any(1), is_end.int().argmax(1) + 1, written.shape[1]).tolist()

    def _count(self, of_each: Sequence[tuple[int, int]]) -> None:
        for number, (sequences, tokens) in enumerate(of_each, self.first_number):
            with metering.on_behalf_of(number):
                metering.count(sequences, tokens)
