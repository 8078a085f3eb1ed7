"""Inputs to run texts on: which of the given ones choose and which judge, and where none are given, invented ones.

The subject invents them under texts that the soft prompt may mean. A soft prompt is tuned on outputs alone, and what
the subject takes for an input under it is distorted; under a text it is what the subject was trained on. Candidate
texts that differ invite inputs on which they differ.
"""

from collections.abc import Sequence
from hashlib import sha256
from random import Random

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.lm.generation import write_rows
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.translator.settings import MIN_PROBES, TranslateConfig

MAX_INPUT_TOKENS = 24
_CHOOSING, _JUDGING = 8, 16  # of few inputs, those that choose before any judge, and that judge before more choose
_TRIES = 3
_LOGITS_AT_ONCE = 2**24  # in drawing, each takes some 28 bytes


def in_random_order(inputs: Sequence[str], seed: int) -> list[str]:
    """Distinct inputs; files are often sorted, and those that judge should be like those that chose."""
    distinct = list(dict.fromkeys(inputs))
    return Random(f"inputs/{seed}").sample(distinct, len(distinct))


def used(inputs: Sequence[str], config: TranslateConfig) -> list[str]:
    """The inputs that choose and judge, in random order."""
    return in_random_order(inputs, config.seed)[: config.n_probes + config.n_checks]


def choosing(inputs: Sequence[str], config: TranslateConfig) -> list[str]:
    """Of the inputs that are used, those that choose."""
    some = used(inputs, config)
    return [some[i] for i in divided(len(some), config)[0]]


def divided(n: int, config: TranslateConfig) -> tuple[range, range]:
    """Which of `n` inputs choose, and which judge; none judge where there are too few for both."""
    beside_the_first = n - min(config.n_probes, _CHOOSING, (n + 1) // 2)
    n_checks = min(config.n_checks, max(min(_JUDGING, beside_the_first), n // 2, n - config.n_probes))
    if n_checks < MIN_PROBES:
        return range(min(n, config.n_probes)), range(0)
    n_probes = min(config.n_probes, n - n_checks)
    return range(n_probes), range(n_probes, n_probes + n_checks)


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
    part begins. Where the input comes first it reads no prompt, and none are invented where nothing stands before it.
    Encoder-decoder and masked subjects do not continue their input, so they give none; neither does a subject that
    never closes its input. What is drawn for a list depends on the seed and on its prompts alone.
    """
    reads_nothing = subject.template.input_first and not len(subject.begun_embeddings(None))
    if not subject.continues_text or reads_nothing:
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
    closing = Closing(subject)
    return [closing.input(row) for row in continued(subject, prompts, uniforms, closing)]


class Closing:
    """The end of an input: the text with which the template continues after it, or a special token that begins that.

    A template that has nothing after its input ends it as it ends an output.
    """

    def __init__(self, subject: Subject):
        self._tokenizer = subject.tokenizer
        template = subject.template
        after = template.separator.strip() if template.input_first else ""
        after = after or template.output_prefix.strip() or (template.stops[0] if template.stops else "")
        # Some tokenizers do not give back the very same text: "Output:" may become "Output :".
        ids = subject.tokenizer.encode(after, add_special_tokens=False) or subject.eos_ids[:1]
        self._special = ids[0] if ids[0] in subject.tokenizer.all_special_ids else None
        self._last_id = ids[-1]
        decoded = self._decode(ids)
        self._text = decoded.strip() or decoded

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def ends(self, ids: list[int]) -> bool:
        """True if these tokens have just reached it."""
        if self._special is not None:
            return ids[-1] == self._special
        return ids[-1] == self._last_id and self._text in self._decode(ids)

    def input(self, ids: list[int]) -> str | None:
        """The input in what was sampled; None where it did not end."""
        if self._special is not None:
            return self._decode(ids[: ids.index(self._special)]).strip() if self._special in ids else None
        text = self._decode(ids)
        return text.split(self._text)[0].strip() if self._text in text else None


@torch.no_grad()
def continued(
    subject: Subject, prompts: Sequence[Prompt], uniforms: Float[Tensor, "rows n_steps"], closing: Closing
) -> list[list[int]]:
    """The tokens sampled after each row's prompt at temperature 1, by its own numbers, until it has closed."""
    keys = [prompt if isinstance(prompt, str) else id(prompt) for prompt in prompts]
    distinct = dict(zip(keys, prompts, strict=True))
    begun = {key: subject.begun_embeddings(prompt) for key, prompt in distinct.items()}
    # Rows under one prompt stand together, so that few batches have to read it.
    number = {key: n for n, key in enumerate(distinct)}
    order = sorted(range(len(keys)), key=lambda row: number[keys[row]])

    def write(batch: Sequence[int]) -> list[list[int]]:
        rows = [order[i] for i in batch]
        return _write(subject, [begun[keys[row]] for row in rows], uniforms[rows], closing)

    lengths = [len(begun[keys[row]]) for row in order]
    written = dict(zip(order, subject.in_batches(lengths, uniforms.shape[1], write), strict=True))
    return [written[row] for row in range(len(keys))]


def _write(
    subject: Subject,
    rows: Sequence[Float[Tensor, "_length d_model"]],
    uniforms: Float[Tensor, "rows n_steps"],
    closing: Closing,
) -> list[list[int]]:
    """The same for one batch; rows that begin with the same object share what the subject has read of it."""
    distinct = {id(row): row for row in rows}
    number = {key: n for n, key in enumerate(distinct)}
    of_row = torch.tensor([number[id(row)] for row in rows], device=uniforms.device)
    decoding = subject.decoding(list(distinct.values()))
    begun = decoding.start()[of_row]
    decoding.keep(of_row)

    def has_ended(written: Int[Tensor, "rows n_written"]) -> Bool[Tensor, "rows"]:
        return torch.tensor([closing.ends(ids) for ids in written.tolist()], device=written.device)

    def choose(hidden: Float[Tensor, "rows d_out"], numbers: Int[Tensor, "rows"], step: int) -> Int[Tensor, "rows"]:
        return _tokens(subject, hidden, uniforms[numbers, step])

    written = write_rows(decoding, begun, choose, has_ended, uniforms.shape[1])
    # The last token of a row is written and not read.
    metering.count(len(rows), sum(map(len, distinct.values())) + sum(len(ids) - 1 for ids in written))
    return written


def _tokens(
    subject: Subject, hidden: Float[Tensor, "rows d_out"], uniforms: Float[Tensor, "rows"]
) -> Int[Tensor, "rows"]:
    """A drawn token for each row; of a large vocabulary, only some rows' logits are held at a time."""
    most = max(1, _LOGITS_AT_ONCE // subject.scorer.model.vocab_size)
    parts = zip(hidden.split(most), uniforms.split(most), strict=True)
    return torch.cat([drawn(subject.head(some), numbers) for some, numbers in parts])
