"""Many examples under each of many prompts, in one pass.

Tuning and verification both ask: how does the subject see these outputs, under this prompt, for these
inputs? The obvious batch repeats the prompt before every example. `SharedPrefixRunner` lays a prompt and
all its examples out as one row instead: each example attends to the prompt and to itself alone, and its
positions restart right after the prompt, so the numbers are those of separate sequences while the prompt
is computed once. `RepeatedPrefixRunner` is the obvious batch, for architectures that take no
four-dimensional mask (BLOOM) or read the prompt in an encoder (T5). `make_runner` picks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.lm.batching import batches_by_length, pad, positions, segment_mask
from soft2hard.lm.subject import Subject

_HIDDEN = -30000.0  # additive mask; finite in bfloat16, and exp() of it is zero


@dataclass(frozen=True)
class EncodedExample:
    """An example as token ids."""

    body: list[int]
    """Separator, input and output prefix, as they stand after a prompt."""
    output: list[int]
    """The output's tokens, EOS included."""

    @property
    def n_read(self) -> int:
        """Tokens the model has to read to be scored on the output (its last one is not among them)."""
        return len(self.body) + len(self.output) - 1


def encode_example(subject: Subject, input: str, output: str) -> EncodedExample:
    """Token ids of an example as it stands after a prompt."""
    return EncodedExample(subject.encode_body(input, has_prompt=True), subject.encode_output(output))


@dataclass(frozen=True)
class Targets:
    """Hidden states at the positions that predict output tokens."""

    hidden: Float[Tensor, "n_targets d_out"]
    ids: Int[Tensor, "n_targets"]
    """The token wanted at each position."""
    prompt: Int[Tensor, "n_targets"]
    """Which prompt of the batch a position belongs to."""
    example: Int[Tensor, "n_targets"]
    """Which example of that prompt."""


@runtime_checkable
class Runner(Protocol):
    """Runs examples under prompts."""

    subject: Subject

    def run(
        self, prompts: Sequence[Float[Tensor, "_n d_model"]], examples: Sequence[Sequence[EncodedExample]]
    ) -> Targets:
        """Hidden states for all examples of all prompts; gradients flow to the prompts.

        `examples[i]` are run under `prompts[i]`. Targets come in the order of prompts, then examples,
        then tokens.
        """
        ...


class SharedPrefixRunner:
    """One row a prompt, its examples side by side.

    A mask given in four dimensions takes the place of every layer's own, so where attention looks back over a window
    and a sequence is longer than that, the examples are run in rows of their own instead.
    """

    def __init__(self, subject: Subject):
        self.subject = subject

    def run(
        self, prompts: Sequence[Float[Tensor, "_n d_model"]], examples: Sequence[Sequence[EncodedExample]]
    ) -> Targets:
        if self._outgrows_the_window(prompts, examples):
            return RepeatedPrefixRunner(self.subject).run(prompts, examples)
        n_read = sum(example.n_read for of_prompt in examples for example in of_prompt)
        metering.count(sum(map(len, examples)), sum(map(len, prompts)) + n_read)
        layout = _SharedLayout([len(p) for p in prompts], examples)
        device, dtype = self.subject.device, self.subject.embedding.dtype
        tokens = self.subject.embed_ids(torch.from_numpy(layout.ids).to(device))
        width = layout.prompt_width
        prefix = torch.stack([torch.nn.functional.pad(p, (0, 0, width - len(p), 0)) for p in prompts])
        embeddings = torch.cat([prefix.to(device=device, dtype=dtype), tokens[:, width:]], 1)
        mask = torch.zeros(layout.allowed.shape, dtype=dtype).masked_fill_(~torch.from_numpy(layout.allowed), _HIDDEN)
        hidden = self.subject.model.base_model(
            inputs_embeds=embeddings,
            attention_mask=mask[:, None].to(device),
            position_ids=torch.from_numpy(layout.positions).to(device),
            use_cache=False,
        ).last_hidden_state
        at = [torch.from_numpy(x).to(device) for x in (layout.row, layout.column)]
        ids, row, example = (torch.from_numpy(x).to(device) for x in (layout.target_ids, layout.row, layout.example))
        return Targets(hidden[at[0], at[1]], ids, row, example)

    def _outgrows_the_window(
        self, prompts: Sequence[Float[Tensor, "_n d_model"]], examples: Sequence[Sequence[EncodedExample]]
    ) -> bool:
        window = self.subject.attention_window
        return window is not None and any(
            len(prompt) + max((example.n_read for example in of_prompt), default=0) > window
            for prompt, of_prompt in zip(prompts, examples, strict=True)
        )


class _SharedLayout:
    """Where everything stands when each prompt and its examples share a row."""

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


class RepeatedPrefixRunner:
    """One row an example, the prompt repeated before each; rows of like length run together."""

    def __init__(self, subject: Subject):
        self.subject = subject

    def run(
        self, prompts: Sequence[Float[Tensor, "_n d_model"]], examples: Sequence[Sequence[EncodedExample]]
    ) -> Targets:
        flat = [(p, e, example) for p, of_prompt in enumerate(examples) for e, example in enumerate(of_prompt)]
        sizes = [len(example.output) for _, _, example in flat]
        parts: dict[int, Tensor] = {}
        for batch in batches_by_length([len(prompts[p]) + example.n_read for p, _, example in flat]):
            hidden = self._hidden([prompts[flat[i][0]] for i in batch], [flat[i][2] for i in batch])
            parts |= zip(batch, hidden.split([sizes[i] for i in batch]), strict=True)
        hidden = torch.cat([parts[i] for i in range(len(flat))])
        counts = torch.tensor(sizes)
        index = torch.tensor([(p, e) for p, e, _ in flat]).repeat_interleave(counts, 0).to(hidden.device)
        ids = torch.tensor([token for _, _, example in flat for token in example.output], device=hidden.device)
        return Targets(hidden, ids, index[:, 0], index[:, 1])

    def _hidden(self, prompts: list[Tensor], examples: list[EncodedExample]) -> Float[Tensor, "n_targets d_out"]:
        if self.subject.is_encoder_decoder:
            return self._encoder_decoder(prompts, examples)
        metering.count(len(prompts), sum(map(len, prompts)) + sum(example.n_read for example in examples))
        texts = [self._embed(example.body + example.output[:-1]) for example in examples]
        embeddings, mask = self._padded(prompts, texts)
        hidden = self.subject.backbone(embeddings, mask, positions(mask))
        rows = []
        for row, (prompt, example) in enumerate(zip(prompts, examples, strict=True)):
            first = len(prompt) + len(example.body) - 1
            rows.append(hidden[row, first : first + len(example.output)])
        return torch.cat(rows)

    def _encoder_decoder(self, prompts: list[Tensor], examples: list[EncodedExample]) -> Tensor:
        embeddings, mask = self._padded(prompts, [self._embed(example.body) for example in examples])
        outputs = [example.output for example in examples]
        # The decoder reads a start token where the last one of an output is left out.
        metering.count(len(prompts), sum(map(len, prompts)) + sum(example.n_read + 1 for example in examples))
        _, real = pad(outputs, "right", self.subject.device)
        return self.subject.backbone(embeddings, mask, decoder_input_ids=self.subject.decoder_inputs(outputs))[real]

    def _embed(self, ids: list[int]) -> Tensor:
        return self.subject.embed_ids(torch.tensor(ids, device=self.subject.device))

    def _padded(self, prompts: list[Tensor], texts: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Prompt and text end to end, padded on the right, and where they are real."""
        device, dtype = self.subject.device, self.subject.embedding.dtype
        rows = [torch.cat([p.to(device=device, dtype=dtype), t]) for p, t in zip(prompts, texts, strict=True)]
        mask = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.bool, device=device)
        for i, row in enumerate(rows):
            mask[i, : len(row)] = True
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), mask


@torch.no_grad()
def shares_prefixes(subject: Subject) -> bool:
    """Whether one-row-a-prompt gives this subject's numbers, found by trying both ways."""
    if subject.loading.attention == "flash_attention_2":
        return False  # it takes no mask of four dimensions
    if subject.is_encoder_decoder or subject.model.config.model_type == "gpt_neo":
        return False  # GPT-Neo's window is counted along the row, over other examples too
    generator = torch.Generator().manual_seed(0)
    scale = subject.embedding.float().std().item()
    prompts = [torch.randn(n, subject.d_model, generator=generator) * scale for n in (2, 3)]
    vocabulary = len(subject.embedding)
    examples = [
        [EncodedExample([i % vocabulary, (i + 1) % vocabulary], [(i + 2) % vocabulary] * 2) for i in (3, 5, 9)]
    ] * 2
    expected = RepeatedPrefixRunner(subject).run(prompts, examples).hidden.float()
    try:
        hidden = SharedPrefixRunner(subject).run(prompts, examples).hidden.float()
    except (ValueError, RuntimeError, TypeError, AttributeError, IndexError):
        return False  # the architecture does not take a four-dimensional mask
    tolerance = 1e-3 if subject.embedding.dtype == torch.float32 else 5e-2
    return bool((hidden - expected).norm() <= tolerance * expected.norm())


def make_runner(subject: Subject) -> Runner:
    """The faster runner that is exact for this subject."""
    return SharedPrefixRunner(subject) if shares_prefixes(subject) else RepeatedPrefixRunner(subject)
