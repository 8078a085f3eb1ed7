"""One engine for every score: how a model sees given outputs, under given prompts, for given inputs.

Tuning, verification, methods and metrics all ask this. The obvious batch repeats the prompt before every example;
where the architecture allows it, a prompt and its examples share one row instead: each example attends to the prompt
and to itself alone, and its positions restart right after the prompt, so the numbers are those of separate sequences
while the prompt is computed once. Architectures that take no four-dimensional mask (BLOOM), read the prompt in an
encoder (T5) or fill in masks (RoBERTa) get the obvious batch, and so do prompts that stand behind the input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.compute.memory import Halving
from soft2hard.lm.batching import EncodedExample, batches_by_length, pad, pad_rows, positions, segment_mask
from soft2hard.lm.endings import Endings
from soft2hard.lm.frozen_model import FrozenModel

Embedded = Float[Tensor, "_n d_model"]
"""All that stands before an example's body, as vectors: leading tokens and prompt."""

BATCH_TOKENS = 16384
"""Default number of tokens, padding included, in one batch."""
ROW_TOKENS = 512
"""Tokens of examples that share one row with their prompt: attention costs the square of a row's length."""
REMEDY = "Load the subject with --dtype bfloat16 or --quantization 4bit, shorten the inputs, or use a larger GPU."
_HIDDEN = -30000.0  # additive mask; finite in bfloat16, and exp() of it is zero
_LOGITS_AT_ONCE = 2**26  # 256 MB in float32


@dataclass(frozen=True)
class Targets:
    """Hidden states at the positions that predict output tokens."""

    hidden: Float[Tensor, "n_targets d_out"]
    ids: Int[Tensor, "n_targets"]
    """The token wanted at each position."""
    prompt: Int[Tensor, "n_targets"]
    """The prompt of the batch that a position belongs to, by its number."""
    example: Int[Tensor, "n_targets"]
    """The example of that prompt, by its number."""


class Scorer:
    """Runs examples under prompts on one model; all that ends an output is one event (see `Endings`)."""

    def __init__(self, model: FrozenModel, endings: Endings) -> None:
        self.model, self.endings = model, endings
        self._shared, self._repeated = SharedRows(model), RepeatedRows(model)

    @cached_property
    def shares_prefixes(self) -> bool:
        """True if one row a prompt gives this model's numbers, found by trying both layouts."""
        return _shares_prefixes(self.model)

    def run(self, prompts: Sequence[Embedded], examples: Sequence[Sequence[EncodedExample]]) -> Targets:
        """Hidden states for `examples[i]` under `prompts[i]`, for all i in one pass; gradients flow to the prompts.

        Targets come in the order of prompts, then examples, then tokens.
        """
        shared = self._may_share(examples) and not self._shared.outgrows(prompts, examples)
        metering.count(sum(map(len, examples)), self._n_read(prompts, examples, shared))
        return (self._shared if shared else self._repeated).run(prompts, examples)

    def _may_share(self, examples: Sequence[Sequence[EncodedExample]]) -> bool:
        """Whether examples may stand side by side behind a prompt: not behind inputs of their own."""
        return self.shares_prefixes and not any(example.before for some in examples for example in some)

    def _n_read(self, prompts: Sequence[Embedded], examples: Sequence[Sequence[EncodedExample]], shared: bool) -> int:
        # A decoder of its own reads a start token where the last token of an output is left out.
        own = int(self.model.is_encoder_decoder)
        return sum(
            len(prompt) * (1 if shared else len(some)) + sum(example.n_read + own for example in some)
            for prompt, some in zip(prompts, examples, strict=True)
        )

    @torch.no_grad()
    def hidden_states(
        self,
        prompts: Sequence[Embedded],
        examples: Sequence[Sequence[EncodedExample]],
        batch_tokens: int = BATCH_TOKENS,
        halving: Halving | None = None,
    ) -> Iterator[tuple[int, Float[Tensor, "_n_targets d_out"]]]:
        """For each prompt its number and the hidden states at all targets of its examples, in batches.

        Prompts come in the order in which their batches end; the head makes logits of what it gives, a prompt at a
        time, so that a large vocabulary is never held for more than one. Examples beyond `ROW_TOKENS` go to further
        rows. A batch that the memory has no room for is halved; `halving` remembers that between calls.

        Raises UserError where one row alone does not fit the memory.
        """
        rows = [(number, part) for number, some in enumerate(examples) for part in self._rows(some)]
        missing = [0] * len(prompts)
        for number, _ in rows:
            missing[number] += 1
        parts: list[dict[int, Tensor]] = [{} for _ in prompts]

        def work(batch: Sequence[int]) -> list[Tensor]:
            targets = self.run([prompts[rows[i][0]] for i in batch], [rows[i][1] for i in batch])
            sizes = torch.bincount(targets.prompt, minlength=len(batch)).tolist()
            return list(targets.hidden.split(sizes))

        lengths = [len(prompts[number]) + sum(e.n_read for e in part) for number, part in rows]
        batches = batches_by_length(lengths, batch_tokens) if rows else []
        for batch, found in (halving or Halving(REMEDY)).run(batches, work):
            for index, hidden in zip(batch, found, strict=True):
                number = rows[index][0]
                parts[number][index] = hidden
                if len(parts[number]) == missing[number]:
                    yield number, torch.cat([parts[number][i] for i in sorted(parts[number])])
                    parts[number] = {}

    def score(
        self, hidden: Float[Tensor, "n_targets d_out"], ids: Int[Tensor, " n_targets"]
    ) -> tuple[Float[Tensor, " n_targets"], Bool[Tensor, " n_targets"]]:
        """Log-probability of each wanted token, in nats, and whether it is the most likely one."""
        step = max(1, _LOGITS_AT_ONCE // self.model.vocab_size)
        logs, matches = [], []
        for rows, tokens in zip(hidden.split(step), ids.split(step), strict=True):
            logits = self.model.head(rows).float()
            logs.append(self.endings.log_likelihoods(logits, tokens))
            matches.append(self.endings.likeliest(logits) == tokens)
        return torch.cat(logs), torch.cat(matches)

    def losses(
        self, hidden: Float[Tensor, "n_targets d_out"], ids: Int[Tensor, " n_targets"]
    ) -> Float[Tensor, " n_targets"]:
        """Minus the log-probability of each wanted token, in nats; gradients flow to the hidden states."""
        return -self.endings.log_likelihoods(self.model.head(hidden).float(), ids)

    def log_probs(self, hidden: Float[Tensor, "n_targets d_out"]) -> Float[Tensor, "n_targets vocab"]:
        """Log-probabilities over the vocabulary, in nats and float32; EOS has that of all endings."""
        return self.endings.merged(self.model.head(hidden).float()).log_softmax(-1)

    def distributions(
        self, hidden: Float[Tensor, "n_targets d_out"]
    ) -> tuple[Float[Tensor, "n_targets vocab"], Int[Tensor, " n_targets"]]:
        """As `log_probs`, and as `likeliest`."""
        logits = self.model.head(hidden).float()
        return self.endings.merged(logits).log_softmax(-1), self.endings.likeliest(logits)

    def likeliest(self, hidden: Float[Tensor, "n_targets d_out"]) -> Int[Tensor, " n_targets"]:
        """The most likely token at each position; EOS for any ending."""
        return self.endings.likeliest(self.model.head(hidden))

    def _rows(self, examples: Sequence[EncodedExample]) -> Iterator[list[EncodedExample]]:
        """Examples in order, as many a row as may share one."""
        row: list[EncodedExample] = []
        shares = self._may_share([examples])
        for example in examples:
            full = row and sum(e.n_read for e in row) + example.n_read > ROW_TOKENS
            if full or (row and not shares):
                yield row
                row = []
            row.append(example)
        if row:
            yield row


class SharedRows:
    """One row a prompt, its examples side by side.

    A mask given in four dimensions takes the place of every layer's own, so where attention looks back over a window
    and a sequence is longer than that, the examples need rows of their own.
    """

    def __init__(self, model: FrozenModel) -> None:
        self.model = model

    def run(self, prompts: Sequence[Embedded], examples: Sequence[Sequence[EncodedExample]]) -> Targets:
        """As `Scorer.run`."""
        layout = _SharedLayout([len(p) for p in prompts], examples)
        device, dtype = self.model.device, self.model.dtype
        tokens = self.model.embed(torch.from_numpy(layout.ids).to(device))
        width = layout.prompt_width
        prefix = torch.stack([torch.nn.functional.pad(p, (0, 0, width - len(p), 0)) for p in prompts])
        embeddings = torch.cat([prefix.to(device=device, dtype=dtype), tokens[:, width:]], 1)
        mask = torch.zeros(layout.allowed.shape, dtype=dtype).masked_fill_(~torch.from_numpy(layout.allowed), _HIDDEN)
        hidden = self.model.stack(
            inputs_embeds=embeddings,
            attention_mask=mask[:, None].to(device),
            position_ids=torch.from_numpy(layout.positions).to(device),
            use_cache=False,
        ).last_hidden_state
        at = [torch.from_numpy(x).to(device) for x in (layout.row, layout.column)]
        ids, row, example = (torch.from_numpy(x).to(device) for x in (layout.target_ids, layout.row, layout.example))
        return Targets(hidden[at[0], at[1]], ids, row, example)

    def outgrows(self, prompts: Sequence[Embedded], examples: Sequence[Sequence[EncodedExample]]) -> bool:
        """True if some sequence is longer than the attention looks back, or than others may be in its batch."""
        limits = [limit for limit in (self.model.attention_window, self.model.rope_boundary) if limit is not None]
        return bool(limits) and any(
            len(prompt) + max((example.n_read for example in of_prompt), default=0) > min(limits)
            for prompt, of_prompt in zip(prompts, examples, strict=True)
        )


class _SharedLayout:
    """Places of all tokens when each prompt and its examples share a row."""

    def __init__(self, prompt_lengths: list[int], examples: Sequence[Sequence[EncodedExample]]):
        self.prompt_width = max(prompt_lengths)
        longest = max(sum(e.n_read for e in of_prompt) for of_prompt in examples)
        shape = (len(examples), self.prompt_width + longest)
        self.ids = np.zeros(shape, np.int64)
        self.positions = np.zeros(shape, np.int64)
        segment = np.full(shape, -1, np.int64)  # -1 padding, 0 prompt, then the examples
        targets: list[tuple[int, int, int, int]] = []
        for row, (n_prompt, of_prompt) in enumerate(zip(prompt_lengths, examples, strict=True)):
            segment[row, self.prompt_width - n_prompt : self.prompt_width] = 0
            self.positions[row, self.prompt_width - n_prompt : self.prompt_width] = range(n_prompt)
            at = self.prompt_width
            for number, example in enumerate(of_prompt):
                end = at + example.n_read
                self.ids[row, at:end] = example.body + example.output[:-1]
                self.positions[row, at:end] = range(n_prompt, n_prompt + example.n_read)
                segment[row, at:end] = number + 1
                first = at + len(example.body) - 1
                targets += [(row, first + i, token, number) for i, token in enumerate(example.output)]
                at = end
        self.row, self.column, self.target_ids, self.example = np.array(targets, np.int64).T.copy()
        self.allowed = segment_mask(segment)


class RepeatedRows:
    """One row an example, the prompt repeated before each; rows of like length run together."""

    def __init__(self, model: FrozenModel) -> None:
        self.model = model

    def run(self, prompts: Sequence[Embedded], examples: Sequence[Sequence[EncodedExample]]) -> Targets:
        """As `Scorer.run`."""
        flat = [(p, e, example) for p, of_prompt in enumerate(examples) for e, example in enumerate(of_prompt)]
        sizes = [len(example.output) for _, _, example in flat]
        parts: dict[int, Tensor] = {}
        lengths = [len(prompts[p]) + example.n_read for p, _, example in flat]
        for batch in batches_by_length(lengths, boundary=self.model.rope_boundary):
            hidden = self._hidden([prompts[flat[i][0]] for i in batch], [flat[i][2] for i in batch])
            parts |= zip(batch, hidden.split([sizes[i] for i in batch]), strict=True)
        hidden = torch.cat([parts[i] for i in range(len(flat))])
        counts = torch.tensor(sizes)
        index = torch.tensor([(p, e) for p, e, _ in flat]).repeat_interleave(counts, 0).to(hidden.device)
        ids = torch.tensor([token for _, _, example in flat for token in example.output], device=hidden.device)
        return Targets(hidden, ids, index[:, 0], index[:, 1])

    def _hidden(self, prompts: list[Tensor], examples: list[EncodedExample]) -> Float[Tensor, "n_targets d_out"]:
        if self.model.is_encoder_decoder:
            return self._encoder_decoder(prompts, examples)
        is_masked = self.model.is_masked
        read = self._masked if is_masked else lambda example: example.output[:-1]
        embeddings, mask = self._padded(prompts, examples, [example.body + read(example) for example in examples])
        hidden = self.model.backbone(embeddings, mask, positions(mask))
        rows = []
        for row, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
            # A masked LM predicts a token where its mask is, others where the token before it is.
            first = len(example.before) + len(prompt) + len(example.body) - (not is_masked)
            rows.append(hidden[row, first : first + len(example.output)])
        return torch.cat(rows)

    def _masked(self, example: EncodedExample) -> list[int]:
        return [self.model.mask_id] * len(example.output) + example.after

    def _encoder_decoder(
        self, prompts: list[Tensor], examples: list[EncodedExample]
    ) -> Float[Tensor, "n_targets d_out"]:
        embeddings, mask = self._padded(prompts, examples, [example.body for example in examples])
        outputs = [example.output for example in examples]
        device, start = self.model.device, self.model.decoder_start_id
        _, real = pad(outputs, "right", device)
        read, _ = pad([[start, *output[:-1]] for output in outputs], "right", device)
        return self.model.backbone(embeddings, mask, decoder_input_ids=read)[real]

    def _padded(
        self, prompts: list[Tensor], examples: list[EncodedExample], texts: list[list[int]]
    ) -> tuple[Tensor, Tensor]:
        """What stands before each prompt, the prompt and the text after it, end to end, padded on the right, and the
        mask of real tokens."""
        device, dtype = self.model.device, self.model.dtype
        rows = [
            torch.cat([self._embedded(example.before), prompt.to(device=device, dtype=dtype), self._embedded(text)])
            for prompt, example, text in zip(prompts, examples, texts, strict=True)
        ]
        return pad_rows(rows, "right")

    def _embedded(self, ids: list[int]) -> Float[Tensor, "n d_model"]:
        return self.model.embed(torch.tensor(ids, dtype=torch.long, device=self.model.device))


@torch.no_grad()
def _shares_prefixes(model: FrozenModel) -> bool:
    if model.model.config._attn_implementation == "flash_attention_2":
        return False  # it takes no mask of four dimensions
    if not model.continues_text or model.model.config.model_type == "gpt_neo":
        return False  # GPT-Neo's window is counted along the row, over other examples too
    generator = torch.Generator().manual_seed(0)
    scale = model.embedding.float().std().item()
    prompts = [torch.randn(n, model.d_model, generator=generator) * scale for n in (2, 3)]
    vocabulary = model.vocab_size
    examples = [
        [EncodedExample([i % vocabulary, (i + 1) % vocabulary], [(i + 2) % vocabulary] * 2) for i in (3, 5, 9)]
    ] * 2
    expected = RepeatedRows(model).run(prompts, examples).hidden.float()
    try:
        hidden = SharedRows(model).run(prompts, examples).hidden.float()
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError):
        return False  # the architecture does not take a four-dimensional mask
    tolerance = 1e-3 if model.dtype == torch.float32 else 5e-2
    return bool((hidden - expected).norm() <= tolerance * expected.norm())
