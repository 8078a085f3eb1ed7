"""Subject: a frozen language model that runs batches of queries, each under its own prompt.

Batch-mates and padding change nothing beyond rounding: every sequence is masked and counts its own positions.
"""

import os
from collections.abc import Callable
from collections.abc import Sequence as Rows
from dataclasses import replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from soft2hard.compute import metering
from soft2hard.compute.memory import Halving
from soft2hard.errors import UserError
from soft2hard.lm import targets
from soft2hard.lm.batching import batches_by_length
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.generation import generate_greedily
from soft2hard.lm.loading import Loading, load_model, load_tokenizer, no_room, on_cpu, would_round
from soft2hard.lm.queries import Query, TargetScore
from soft2hard.lm.sequences import SequenceEncoder, TokenSequence, embed_sequences
from soft2hard.lm.template import Template
from soft2hard.lm.trial import affordable_tokens
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.storage.names import folder_of, located

__all__ = ["Query", "Subject", "TargetScore"]

BATCH_TOKENS = Loading.batch_tokens
"""Default number of tokens, padding included, in one batch."""

_REMEDY = "Load the subject with --dtype bfloat16 or --quantization 4bit, shorten the inputs, or use a larger GPU."


class Subject:
    """A frozen causal or encoder-decoder language model with its tokenizer.

    Parameters take no gradient and the model stays in evaluation mode. Raises UserError for an architecture whose
    logits are computed in a way that is not supported, and for a tokenizer without EOS, or without BOS where the
    template asks for it.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        template: Template = Template(),
        loading: Loading = Loading(),
    ) -> None:
        self._lm = FrozenModel(model)
        self._encoder = SequenceEncoder(tokenizer, template, self._lm.is_encoder_decoder)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.template = template
        self.loading = loading

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        template: Template = Template(),
        loading: Loading = Loading(),
    ) -> "Subject":
        """Read a subject: 'embedded', a folder, or a name in the local cache or on the hub. Safetensors only, no code.

        `device` and `dtype` are short for those of `loading`. Raises UserError where model or tokenizer is missing,
        damaged or of a kind that is not supported, and where this machine lacks what `loading` asks for.
        """
        if device is not None:
            loading = replace(loading, device=str(device))
        if dtype is not None:
            loading = replace(loading, dtype=str(dtype).removeprefix("torch."))
        name_or_path = located(name_or_path, "subject")
        folder = str(folder_of(name_or_path, "subject"))
        rounds = would_round(folder, loading)
        # FlashAttention is for GPUs alone, so it is set once the weights are there.
        as_saved = replace(loading, dtype="saved", device="cpu", attention=on_cpu(loading))
        model = load_model(folder, as_saved if rounds else loading)
        tokenizer = load_tokenizer(folder)
        subject = cls(model, tokenizer, name=str(name_or_path), template=template, loading=loading)
        if rounds:
            # Rounded weights would make it another subject; it is known by those that were saved.
            _ = subject.fingerprint
            try:
                model.to(loading.torch_device, loading.torch_dtype)
            except torch.OutOfMemoryError as error:
                raise no_room(folder) from error
            if as_saved.attention != loading.attention:
                model.set_attn_implementation(loading.attention)
        return subject

    @property
    def is_encoder_decoder(self) -> bool:
        return self._lm.is_encoder_decoder

    @property
    def device(self) -> torch.device:
        return self._lm.device

    @property
    def embedding(self) -> Float[Tensor, "vocab d_model"]:
        """What the model reads for each token: the space in which soft prompts lie."""
        return self._lm.embedding

    @property
    def d_model(self) -> int:
        """Width of the input embeddings, and so of soft prompts."""
        return self._lm.d_model

    @property
    def context_length(self) -> int | None:
        """The most tokens a sequence may have; None if there is no limit."""
        return self._lm.context_length

    @property
    def attention_window(self) -> int | None:
        """Length up to which every token of a sequence is seen by all that follow it; None if there is no limit."""
        return self._lm.attention_window

    @property
    def fingerprint(self) -> str:
        """SHA-256, in hexadecimal, of the input-embedding table, as saved, as float32 bytes and of the model type."""
        return self._lm.fingerprint

    @property
    def eos_ids(self) -> list[int]:
        """Tokens that end an output: the tokenizer's EOS first, then any other the generation config names."""
        other = getattr(self.model.generation_config, "eos_token_id", None)
        others = other if isinstance(other, list) else [] if other is None else [other]
        return list(dict.fromkeys([self._encoder.eos_id, *others]))

    def encode_body(self, input: str, has_prompt: bool) -> list[int]:
        """Token ids of the body around one input, the same whatever the prompt."""
        return self._encoder.body(input, has_prompt)

    def encode_output(self, output: str) -> list[int]:
        """Token ids of one output, EOS included."""
        return self._encoder.output(output)

    def embed_ids(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """What the model reads for these tokens."""
        return self._lm.embed(ids)

    def embed_text(self, text: str) -> Float[Tensor, "n d_model"]:
        """What the model reads for a text, without special tokens."""
        return self._embed_list(self._encoder.text(text))

    def prompt_embeddings(self, prompt: Prompt) -> Float[Tensor, "n d_model"]:
        """All that comes before the body: BOS if sequences begin with one, then the prompt.

        Raises UserError for a soft prompt of another subject.
        """
        bos = self._embed_list(self._encoder.bos)
        if isinstance(prompt, SoftPrompt):
            self.check(prompt)
            return torch.cat([bos, prompt.embeddings.to(bos)])
        return torch.cat([bos, self.embed_text(prompt or "")])

    def head(self, hidden: Float[Tensor, "*rows d_out"]) -> Float[Tensor, "*rows vocab"]:
        """Logits from the backbone's hidden states, as the model itself computes them."""
        return self._lm.head(hidden)

    def backbone(
        self,
        inputs_embeds: Float[Tensor, "batch length d_model"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        position_ids: Int[Tensor, "batch length"] | None = None,
        decoder_input_ids: Int[Tensor, "batch n_target"] | None = None,
    ) -> Float[Tensor, "batch length_out d_out"]:
        """Last hidden states, ready for the head; gradients flow to `inputs_embeds`.

        The mask is True at real tokens; `position_ids` reach only architectures that take them. Encoder-decoder
        subjects need `decoder_input_ids` (see `decoder_inputs`), and return their decoder's hidden states.
        """
        return self._lm.backbone(inputs_embeds, attention_mask, position_ids, decoder_input_ids)

    def decoder_inputs(self, of: Rows[list[int]]) -> Int[Tensor, "batch n_target"]:
        """What an encoder-decoder subject's decoder reads to predict these tokens: shifted by one, padded right."""
        return targets.decoder_inputs(self._lm, of)

    def check(self, soft_prompt: SoftPrompt) -> None:
        """Raise UserError if the soft prompt is not as wide as this subject, or is known to belong to another."""
        if soft_prompt.d_model != self.d_model:
            raise UserError(
                f"The soft prompt is {soft_prompt.d_model} wide, but the subject '{self.name}' is {self.d_model} wide.",
                f"Use the subject it was tuned on{_named(soft_prompt)}.",
            )
        if soft_prompt.fingerprint is not None and soft_prompt.fingerprint != self.fingerprint:
            raise UserError(
                f"The soft prompt was tuned on another model than '{self.name}': their embeddings differ.",
                f"Use the subject it was tuned on{_named(soft_prompt)}.",
            )

    @cached_property
    def batch_tokens(self) -> int:
        """Tokens, padding included, in one batch: as `loading` says, or as many as a trial finds room for."""
        return self.loading.batch_tokens or affordable_tokens(self._lm)

    @torch.no_grad()
    def target_scores(self, queries: Rows[Query], batch_tokens: int | None = None) -> list[TargetScore]:
        """How likely each query's output is, EOS included.

        Raises UserError for a query without output, longer than the context, or with another subject's soft prompt,
        and where one query alone does not fit the memory.
        """
        sequences = self._sequences(queries, with_output=True)

        def score(indices: Rows[int]) -> list[TargetScore]:
            batch = [sequences[index] for index in indices]
            hidden = targets.target_hidden(self._lm, batch)
            flat = torch.tensor([token for sequence in batch for token in sequence.target], device=self.device)
            chosen, greedy = targets.score_rows(self._lm, hidden, flat)
            sizes = [len(sequence.target) for sequence in batch]
            rows = zip(chosen.split(sizes), greedy.split(sizes), strict=True)
            return [TargetScore(float(logs.sum()), len(logs), bool(matches.all())) for logs, matches in rows]

        return self._in_batches(sequences, [len(s.ids) + len(s.target) for s in sequences], batch_tokens, score)

    @torch.no_grad()
    def target_distributions(
        self, queries: Rows[Query], batch_tokens: int | None = None
    ) -> list[Float[Tensor, "n_target vocab"]]:
        """Log-probabilities, in nats and float32, over the vocabulary where each token of an output is predicted.

        The last row is where EOS is. Raises UserError as `target_scores` does.
        """
        sequences = self._sequences(queries, with_output=True)

        def distributions(indices: Rows[int]) -> list[Tensor]:
            batch = [sequences[index] for index in indices]
            hidden = targets.target_hidden(self._lm, batch)
            parts = hidden.split([len(sequence.target) for sequence in batch])
            return [self.head(rows).float().log_softmax(dim=-1) for rows in parts]

        return self._in_batches(sequences, [len(s.ids) + len(s.target) for s in sequences], batch_tokens, distributions)

    def generate_ids(
        self, queries: Rows[Query], max_new_tokens: int = 16, batch_tokens: int | None = None
    ) -> list[list[int]]:
        """Tokens that greedy search writes for each query, up to EOS (left out) or `max_new_tokens`.

        Raises UserError where a query and the new tokens do not fit the context, or a soft prompt is another
        subject's, and where one query alone does not fit the memory.
        """
        if max_new_tokens < 1:
            raise UserError(f"Cannot generate {max_new_tokens} tokens.", "Ask for at least one.")
        sequences = self._sequences(queries, with_output=False, n_new=max_new_tokens)
        side = "right" if self.is_encoder_decoder else "left"

        def write(indices: Rows[int]) -> list[list[int]]:
            batch = [sequences[index] for index in indices]
            with torch.no_grad():
                embeddings, mask = embed_sequences(self._lm, [sequence.ids for sequence in batch], batch, side)
            rows = generate_greedily(self._lm, embeddings, mask, self.eos_ids, max_new_tokens)
            # The last token allowed is written and not read; a decoder of its own reads a start token.
            n_read = [len(row) if len(row) < max_new_tokens else len(row) - 1 for row in rows]
            n_started = len(rows) if self.is_encoder_decoder else 0
            metering.count(len(rows), sum(len(sequence.ids) for sequence in batch) + sum(n_read) + n_started)
            return rows

        return self._in_batches(sequences, [len(s.ids) for s in sequences], batch_tokens, write, max_new_tokens)

    def generate(self, queries: Rows[Query], max_new_tokens: int = 16, batch_tokens: int | None = None) -> list[str]:
        """The text that greedy search writes for each query, stripped of white space at its ends.

        Raises UserError as `generate_ids` does.
        """
        rows = self.generate_ids(queries, max_new_tokens, batch_tokens)
        return [self.tokenizer.decode(row, skip_special_tokens=True).strip() for row in rows]

    def _in_batches(
        self,
        sequences: Rows[TokenSequence],
        lengths: Rows[int],
        batch_tokens: int | None,
        work: Callable[[Rows[int]], list],
        n_new: int = 0,
    ) -> list:
        """What `work` makes of each sequence, called with the indices of one batch after another."""
        found: list = [None] * len(sequences)
        batches = batches_by_length(lengths, batch_tokens or self.batch_tokens, n_new) if sequences else []
        for indices, results in Halving(_REMEDY).run(batches, work):
            for index, result in zip(indices, results, strict=True):
                found[index] = result
        return found

    def _embed_list(self, ids: list[int]) -> Float[Tensor, "n d_model"]:
        return self._lm.embed(torch.tensor(ids, dtype=torch.long, device=self.device))

    def _sequences(self, queries: Rows[Query], with_output: bool, n_new: int = 0) -> list[TokenSequence]:
        for prompt in {id(query.prompt): query.prompt for query in queries}.values():
            if isinstance(prompt, SoftPrompt):
                self.check(prompt)
        sequences = self._encoder.queries(queries, with_output)
        for sequence in sequences:
            self._check_context(len(sequence.ids), len(sequence.target) + n_new)
        return sequences

    def _check_context(self, n_read: int, n_written: int) -> None:
        longest = max(n_read, n_written) if self.is_encoder_decoder else n_read + n_written
        if self.context_length is not None and longest > self.context_length:
            raise UserError(
                f"A query needs {longest} tokens, but the subject '{self.name}' has room for {self.context_length}.",
                "Shorten the prompt or the input, or generate fewer tokens.",
            )


def _named(soft_prompt: SoftPrompt) -> str:
    return f", '{soft_prompt.subject}'" if soft_prompt.subject else ""
