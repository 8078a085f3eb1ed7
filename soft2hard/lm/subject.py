"""Subject: a frozen language model that runs batches of queries, each under its own prompt.

Batch-mates and padding change nothing beyond rounding: every sequence is masked and counts its own positions.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Collection, Iterable
from collections.abc import Sequence as Rows
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from typing_extensions import Unpack

from soft2hard.compute import metering
from soft2hard.compute.memory import Halving
from soft2hard.errors import UserError
from soft2hard.lm.batching import EncodedExample, Side, batches_by_length, pad_rows, positions
from soft2hard.lm.endings import Endings
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.generation import CausalDecoding, TopKSampling, generate_greedily, generate_samples
from soft2hard.lm.loading import (
    Loading,
    LoadingNames,
    load_model,
    load_tokenizer,
    loading_of,
    no_room,
    on_cpu,
    round_weights,
    with_end,
    would_round,
)
from soft2hard.lm.scoring import REMEDY, Scorer
from soft2hard.lm.sequences import Query, Reader, SequenceEncoder, kind_of
from soft2hard.lm.smollm2 import fetched_smollm2
from soft2hard.lm.templates import chosen_template, template_of_prompts
from soft2hard.prompts.soft_prompt import Prompt, SoftPrompt
from soft2hard.prompts.template import Kind, Template, TemplateChoice, read_template
from soft2hard.storage.names import SMOLLM2, folder_of, located, name_of

__all__ = ["Query", "Subject", "TargetScore"]

_R = TypeVar("_R")

BATCH_TOKENS = Loading.batch_tokens
"""Default number of tokens, padding included, in one batch."""


@dataclass(frozen=True)
class TargetScore:
    """How likely a subject finds the output of a query, EOS included; a masked LM has no EOS to find."""

    log_likelihood: float
    """Sum over the output's tokens of log p(token | everything before it), in nats."""
    n_tokens: int
    """How many tokens the output has, EOS counted."""
    greedy_match: bool
    """Whether every token, EOS too, is the most likely one: greedy generation would write this output."""


class Subject:
    """A frozen causal, encoder-decoder or masked language model with its tokenizer.

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
        template: Template | TemplateChoice | str | None = None,
        loading: Loading = Loading(),
    ) -> None:
        self._lm = FrozenModel(model, tokenizer.mask_token_id)
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        self.loading = loading
        template = template or loading.template
        self.asked_template = read_template(template) if isinstance(template, str) else template
        """The template as it was asked for; None: that of the soft prompts, or the plain one."""
        self._set_template(self._with_stops(chosen_template(self.asked_template, tokenizer)))

    def _with_stops(self, template: Template) -> Template:
        """A template with the endings that the user names besides."""
        return replace(template, stops=tuple(dict.fromkeys([*template.stops, *self.loading.stop])))

    def _set_template(self, template: Template) -> None:
        reader: Reader = "encoder-decoder" if self.is_encoder_decoder else "masked" if self.is_masked else "causal"
        self._encoder = SequenceEncoder(self.tokenizer, template, reader, self._lm.vocab_size)
        self.template = template
        # A masked LM fills in a token and ends there: no ending is likely or not.
        stops = () if self.is_masked else template.stops
        self.endings = Endings(self.tokenizer, self._eos_ids(), stops, self._lm.vocab_size)
        self.scorer = Scorer(self._lm, self.endings)
        """The engine that runs examples under prompts on this subject."""

    def with_template(self, template: Template) -> "Subject":
        """This subject under another template; the model is shared."""
        other = copy(self)
        other._set_template(template)
        if "shares_prefixes" in vars(self.scorer):
            other.scorer.shares_prefixes = self.scorer.shares_prefixes
        return other

    def for_prompts(self, soft_prompts: Iterable[SoftPrompt]) -> "Subject":
        """This subject under the template of these soft prompts (see `template_of_prompts`). Those that record none end
        their outputs as this subject does, also after `for_outputs`."""
        soft_prompts = list(soft_prompts)
        found = template_of_prompts(soft_prompts, self.asked_template, self.tokenizer, bool(self.leading_ids))
        if found is None:
            return self
        own = replace(self.template, place=found.place, stops=found.stops)
        if own == found and not any(prompt.template for prompt in soft_prompts):
            found = replace(found, stops=self.template.stops)
        return self.with_template(self._with_stops(found))

    def for_outputs(self, outputs: Iterable[str]) -> "Subject":
        """This subject with endings that none of these outputs holds within (see `Template.for_outputs`).

        Raises UserError where an output holds an ending that the user names (`Loading.stop`).
        """
        outputs = list(outputs)
        for stop in self.loading.stop:
            if any(stop in output for output in outputs):
                raise UserError(f"An output of the tasks holds the stop {stop!r}.", "Leave this --stop out.")
        found = self.template.for_outputs(outputs)
        return self if found == self.template else self.with_template(found)

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str],
        *,
        template: Template | TemplateChoice | str | None = None,
        loading: Loading = Loading(),
        **asked: Unpack[LoadingNames],
    ) -> "Subject":
        """Read a subject: 'embedded', a folder, or a name in the local cache or on the hub. Safetensors only, no code.

        Parts of `loading` may be given by transformers' names for them (`LoadingNames`). Raises UserError where model
        or tokenizer is missing, damaged or of a kind that is not supported, and where this machine lacks what
        `loading` asks for.
        """
        loading, quantization = loading_of(loading, asked), asked.get("quantization_config")
        name_or_path = located(name_or_path, "subject")
        is_fetched = str(name_or_path) == SMOLLM2
        folder = str(fetched_smollm2() if is_fetched else folder_of(name_or_path, "subject"))
        rounds = quantization is None and would_round(folder, loading)
        # FlashAttention is for GPUs alone, so it is set once the weights are there.
        as_saved = replace(loading, dtype="saved", device="cpu", attention=on_cpu(loading))
        model = load_model(folder, as_saved if rounds else loading, quantization)
        tokenizer = with_end(load_tokenizer(folder), model)
        subject = cls(model, tokenizer, name=str(name_or_path), template=template, loading=loading)
        if rounds:
            # Rounded weights would make it another subject; it is known by those that were saved.
            _ = subject.fingerprint
            try:
                round_weights(model, loading.torch_dtype)
                model.to(loading.torch_device)
            except torch.OutOfMemoryError as error:
                raise no_room(folder) from error
            if as_saved.attention != loading.attention:
                model.set_attn_implementation(loading.attention)
        return subject

    @property
    def is_encoder_decoder(self) -> bool:
        return self._lm.is_encoder_decoder

    @property
    def is_masked(self) -> bool:
        """Whether it fills in one token, as BERT and RoBERTa do, instead of writing on."""
        return self._lm.is_masked

    @property
    def continues_text(self) -> bool:
        """Whether it writes on after what it has read, token by token: a causal language model."""
        return self._lm.continues_text

    @property
    def generates_from_vectors(self) -> bool:
        """Whether transformers' `generate` takes vectors in place of tokens for it."""
        prepare = getattr(self.model, "prepare_inputs_for_generation", None)
        return self.continues_text and prepare is not None and "inputs_embeds" in inspect.signature(prepare).parameters

    @property
    def family(self) -> str:
        """What it is, for people."""
        if self.is_encoder_decoder:
            return "an encoder-decoder"
        return "a masked language model" if self.is_masked else "a causal language model"

    @property
    def device(self) -> torch.device:
        return self._lm.device

    @property
    def embedding(self) -> Float[Tensor, "vocab d_model"]:
        """The vectors the model reads for each token: the space in which soft prompts lie."""
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
        """SHA-256, in hexadecimal, of all that changes the effect of a vector.

        That is the input-embedding table, as saved, as float32 bytes, and the model type; where they are not 1 and
        none, that digest with the scale of the embeddings and the tokenizer's leading tokens, as JSON.
        """
        further: dict[str, float | list[int]] = {}
        if self.embedding_scale != 1.0:
            further["scale"] = round(self.embedding_scale, 6)
        if leading := self._encoder.around[0]:
            further["leading"] = leading
        if not further:
            return self._lm.table_digest
        return hashlib.sha256((self._lm.table_digest + json.dumps(further, sort_keys=True)).encode()).hexdigest()

    def _knew_earlier(self, soft_prompt: SoftPrompt) -> bool:
        """True for a soft prompt of this subject from versions whose fingerprint was the table's alone.

        These recorded no scale, and put BOS before a prompt or nothing: where this tokenizer puts other tokens, their
        soft prompts were tuned without them.
        """
        as_then = self.leading_ids in ([], [self.tokenizer.bos_token_id])
        return soft_prompt.scale is None and soft_prompt.fingerprint == self._lm.table_digest and as_then

    @property
    def embedding_scale(self) -> float:
        """The factor between rows of the model's table and the vectors it reads (Gemma: the root of the width)."""
        return self._lm.scale

    @property
    def eos_ids(self) -> list[int]:
        """End-of-sequence tokens: the tokenizer's first, then any other that the generation config names."""
        return self.endings.eos_ids

    def _eos_ids(self) -> list[int]:
        other = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        others = other if isinstance(other, list) else [] if other is None else [other]
        known = [token for token in others if token < self._lm.vocab_size]
        return list(dict.fromkeys([self._encoder.eos_id, *known]))

    def encode_input(self, input: str, kind: Kind, output: Rows[int] = ()) -> EncodedExample:
        """One input as it stands after a prompt of this kind, or around it, and the token ids of its output."""
        return self._encoder.example(input, output, kind)

    def encode_output(self, output: str) -> list[int]:
        """Token ids of one output, EOS included; of a masked LM's the one token.

        Raises UserError where it is not one token for a masked LM.
        """
        return self._encoder.output(output)

    def unknown_share(self, texts: Collection[str]) -> float:
        """Share of the tokens of these texts that are the tokenizer's 'unknown' token, 0 to 1.

        0 for tokenizers without one, which spell what they do not know.
        """
        unknown = self.tokenizer.unk_token_id
        if unknown is None or not texts:
            return 0.0
        encoded = self.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        n_tokens = sum(map(len, encoded))
        return sum(ids.count(unknown) for ids in encoded) / n_tokens if n_tokens else 0.0

    def closed(self, ids: Rows[int]) -> list[int]:
        """The tokens of an output that ended: with EOS, which a masked LM has no place for."""
        return self._encoder.closed(ids)

    def encode_example(self, input: str, output: str, kind: Kind) -> EncodedExample:
        """An example as it stands after a prompt of this kind, or around it. Raises UserError as `encode_output`."""
        return self.encode_input(input, kind, self.encode_output(output))

    def embed_ids(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """The vectors the model reads for these tokens."""
        return self._lm.embed(ids)

    def prompt_ids(self, text: str) -> list[int]:
        """Token ids of a hard prompt, as it stands in its place in the template."""
        return self._encoder.prompt(text)

    def embed_prompt(self, text: str) -> Float[Tensor, "n d_model"]:
        """The vectors the model reads for a hard prompt, as it stands in its place in the template."""
        return self._embed_list(self.prompt_ids(text))

    def embed_text(self, text: str) -> Float[Tensor, "n d_model"]:
        """The vectors the model reads for a text, without special tokens."""
        return self._embed_list(self._encoder.text(text))

    @property
    def leading_ids(self) -> list[int]:
        """Tokens that the tokenizer puts before a text, BOS for instance."""
        return self._encoder.leading

    @property
    def own_beginnings(self) -> tuple[tuple[str, str], ...]:
        """How outputs begin where they are tokenised as texts of their own, see `SequenceEncoder`."""
        return self._encoder.own_beginnings

    def n_tokens_alone(self, text: str) -> int:
        """Tokens of a text that nothing stands before, one at least."""
        return max(1, len(self._encoder.text(text)))

    @property
    def begins_with_tokens(self) -> bool:
        """True if anything stands before a prompt, so that the place of virtual tokens matters."""
        return bool(self._encoder.lead("hard"))

    @property
    def leading_embeddings(self) -> Float[Tensor, "n d_model"]:
        """The vectors of `leading_ids`."""
        return self._embed_list(self.leading_ids)

    def lead_embeddings(self, kind: Kind) -> Float[Tensor, "n d_model"]:
        """All that comes before a prompt of this kind whatever the input: leading tokens and the template's opening;
        nothing where the input comes first."""
        return self._embed_list(self._encoder.lead(kind))

    def prompt_embeddings(self, prompt: Prompt) -> Float[Tensor, "n d_model"]:
        """All that comes before the body: leading tokens and opening as the template has them, and the prompt. Where
        the input comes first, the prompt alone.

        Raises UserError for a soft prompt of another subject.
        """
        lead = self.lead_embeddings(kind_of(prompt))
        if isinstance(prompt, SoftPrompt):
            self.check(prompt)
            return torch.cat([lead, self.in_own_scale(prompt).embeddings.to(lead)])
        return torch.cat([lead, self.embed_prompt(prompt or "")])

    def prompts_first(self) -> "Subject":
        """This subject with prompts before inputs, so that what comes before a prompt or a text is what begins a
        sequence."""
        template = self.template
        return self.with_template(replace(template, input_first=False)) if template.input_first else self

    def begun_embeddings(self, prompt: Prompt) -> Float[Tensor, "n d_model"]:
        """All that comes before an input's own first word: `prompt_embeddings`, and the beginning of the body."""
        if self.template.input_first:
            return self._embed_list(self._encoder.begun("none"))
        return torch.cat([self.prompt_embeddings(prompt), self._embed_list(self._encoder.begun(kind_of(prompt)))])

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
        subjects need `decoder_input_ids` (start token first), and return their decoder's hidden states.
        """
        return self._lm.backbone(inputs_embeds, attention_mask, position_ids, decoder_input_ids)

    def check(self, soft_prompt: SoftPrompt) -> None:
        """Raise UserError if the soft prompt is not as wide as this subject, or is known to belong to another.

        Likewise where it does not say if its vectors include the scale of the subject's embeddings, and might not.
        """
        if soft_prompt.d_model != self.d_model:
            raise UserError(
                f"The soft prompt is {soft_prompt.d_model} wide, but the subject '{self.name}' is {self.d_model} wide.",
                "Its base model's name may be wrong: give the right one with --subject."
                if soft_prompt.subject and name_of(soft_prompt.subject) == name_of(self.name)
                else f"Use the subject it was tuned on{_named(soft_prompt)}.",
            )
        self._scale_of(soft_prompt)
        if soft_prompt.fingerprint not in (None, self.fingerprint) and not self._knew_earlier(soft_prompt):
            raise UserError(
                f"The soft prompt was tuned on another model than '{self.name}': their embeddings differ.",
                f"Use the subject it was tuned on{_named(soft_prompt)}.",
            )

    @property
    def scale_has_moved(self) -> bool:
        """True for Gemma 1 and 2, whose soft prompts from before transformers 5.4 lack the scale of the embeddings."""
        return self._lm.scale_has_moved

    def _scale_of(self, soft_prompt: SoftPrompt) -> float:
        """The factor of the embeddings that its vectors include. Raises UserError where nothing says so."""
        if not self.scale_has_moved:
            if self.loading.embedding_scale is not None:
                raise UserError(
                    f"Vectors for '{self.name}' never had another scale: only those for Gemma 1 and 2 had.",
                    "Leave --embedding-scale out.",
                )
            return self.embedding_scale
        said = {"included": self.embedding_scale, "left-out": 1.0, None: None}[self.loading.embedding_scale]
        scale = said if soft_prompt.scale is None else soft_prompt.scale
        if scale is None:
            raise UserError(
                f"{soft_prompt.origin} does not say if its vectors include the factor {self.embedding_scale:.2f} of "
                f"'{self.name}' (it multiplies its embeddings).",
                "Say --embedding-scale included (Loading.embedding_scale) for one of transformers 5.4 or later, "
                "left-out for one from before; soft2hard translate also finds it out from examples with outputs.",
            )
        return scale

    def in_own_scale(self, soft_prompt: SoftPrompt) -> SoftPrompt:
        """The soft prompt with vectors as this subject's layers read them.

        Raises UserError where it does not say if its vectors include the scale of the embeddings, and might not.
        """
        factor = self.embedding_scale / self._scale_of(soft_prompt)
        if factor == 1.0:
            return soft_prompt
        return replace(soft_prompt, embeddings=soft_prompt.embeddings * factor, scale=self.embedding_scale)

    @cached_property
    def batch_tokens(self) -> int:
        """Tokens, padding included, in one batch: as `loading` says, or as many as a trial finds room for."""
        return self.loading.batch_tokens or self._lm.affordable_tokens()

    @torch.no_grad()
    def target_scores(self, queries: Rows[Query], batch_tokens: int | None = None) -> list[TargetScore]:
        """How likely each query's output is, EOS included but for masked LMs.

        Raises UserError for a query without output, longer than the context, or with another subject's soft prompt,
        and where one query alone does not fit the memory.
        """

        def score(hidden: Tensor, examples: list[EncodedExample]) -> list[TargetScore]:
            ids = torch.tensor([token for example in examples for token in example.output], device=self.device)
            found = [part.cpu().split([len(e.output) for e in examples]) for part in self.scorer.score(hidden, ids)]
            return [TargetScore(float(logs.sum()), len(logs), bool(ok.all())) for logs, ok in zip(*found, strict=True)]

        return self._scored(queries, batch_tokens, score)

    @torch.no_grad()
    def target_distributions(
        self, queries: Rows[Query], batch_tokens: int | None = None
    ) -> list[Float[Tensor, "n_target vocab"]]:
        """Log-probabilities, in nats and float32, over the vocabulary where each token of an output is predicted.

        The last row is where EOS is, but for masked LMs, which have one row. Raises UserError as `target_scores` does.
        """

        def distributions(hidden: Tensor, examples: list[EncodedExample]) -> list[Tensor]:
            return list(self.scorer.log_probs(hidden).split([len(example.output) for example in examples]))

        return self._scored(queries, batch_tokens, distributions)

    def generate_ids(
        self, queries: Rows[Query], max_new_tokens: int = 16, batch_tokens: int | None = None
    ) -> list[list[int]]:
        """Tokens that greedy search writes for each query, up to EOS (left out) or `max_new_tokens`.

        Raises UserError where a query and the new tokens do not fit the context, or a soft prompt is another
        subject's, and where one query alone does not fit the memory.
        """
        if max_new_tokens < 1:
            raise UserError(f"Cannot generate {max_new_tokens} tokens.", "Ask for at least one.")
        prefixes, examples = self._encoded(queries, n_new=max_new_tokens)

        def write(indices: Rows[int]) -> list[list[int]]:
            read = [self._read(prefixes[i], examples[i]) for i in indices]
            embeddings, mask = pad_rows(read, self._padding_side)
            rows = generate_greedily(self._lm, embeddings, mask, self.endings, max_new_tokens)
            # The last token allowed is written and not read; a decoder of its own reads a start token.
            n_read = [len(row) if len(row) < max_new_tokens else len(row) - 1 for row in rows]
            n_started = len(rows) if self.is_encoder_decoder else 0
            metering.count(len(rows), int(mask.sum()) + sum(n_read) + n_started)
            return rows

        if self.is_masked:
            return self._fill_in(prefixes, examples, batch_tokens)
        lengths = [len(prefix) + example.n_input for prefix, example in zip(prefixes, examples, strict=True)]
        return self.in_batches(lengths, max_new_tokens, write, batch_tokens)

    def _fill_in(
        self, prefixes: Rows[Tensor], examples: Rows[EncodedExample], batch_tokens: int | None
    ) -> list[list[int]]:
        """The likeliest token of a masked LM for each query."""
        asked = [[replace(example, output=[self._lm.mask_id])] for example in examples]
        found: list[list[int]] = [[] for _ in asked]
        for i, hidden in self.scorer.hidden_states(prefixes, asked, batch_tokens or self.batch_tokens):
            found[i] = self.scorer.likeliest(hidden).tolist()
        return found

    def _read(self, prefix: Float[Tensor, "n_prompt d_model"], example: EncodedExample) -> Float[Tensor, "n d_model"]:
        """All that is read before an output."""
        return torch.cat([self._embed_list(example.before), prefix, self._embed_list(example.body)])

    def in_batches(
        self, lengths: Rows[int], n_new: int, work: Callable[[Rows[int]], Rows[_R]], batch_tokens: int | None = None
    ) -> list[_R]:
        """What `work` makes of each of these sequences, to which `n_new` tokens will be written.

        It is given the numbers of sequences of like length, in their order where lengths are the same, as many as
        `batch_tokens` and the memory have room for. Raises UserError where one alone does not fit the memory.
        """
        most, boundary = batch_tokens or self.batch_tokens, self._lm.rope_boundary
        batches = batches_by_length(lengths, most, n_new, boundary) if lengths else []
        made: dict[int, _R] = {}
        for indices, results in Halving(REMEDY).run(batches, work):
            made |= zip(indices, results, strict=True)
        return [made[index] for index in range(len(lengths))]

    def decoding(self, rows: Rows[Float[Tensor, "_length d_model"]]) -> CausalDecoding:
        """What it takes to write on after these sequences, token by token; decoder-only subjects alone."""
        embeddings, mask = pad_rows(rows, "left")
        return CausalDecoding(self._lm, embeddings, mask, positions(mask))

    def output_text(self, ids: list[int]) -> str:
        """The text of an output's tokens up to its ending, stripped of white space around it."""
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text.strip() if self.is_masked else self.template.cut(text)

    def generate(self, queries: Rows[Query], max_new_tokens: int = 16, batch_tokens: int | None = None) -> list[str]:
        """The text that greedy search writes for each query up to its ending, stripped of white space around it.

        Raises UserError as `generate_ids` does.
        """
        rows = self.generate_ids(queries, max_new_tokens, batch_tokens)
        return [self.output_text(row) for row in rows]

    def sample(self, queries: Rows[Query], seeds: Rows[Rows[str]], top_k: int, max_new_tokens: int) -> list[list[str]]:
        """Texts sampled for each query from the `top_k` likeliest tokens, one for each of its seeds, in order.

        Every query needs as many seeds. A sample depends on its seed and query alone, beyond rounding. Raises
        UserError as `generate_ids` does.
        """
        if not queries:
            return []
        if self.is_masked:
            raise UserError(f"'{self.name}' is {self.family}, which writes no texts.", "Take a causal language model.")
        n = len(seeds[0])
        prefixes, examples = self._encoded(queries, n_new=max_new_tokens)

        def write(indices: Rows[int]) -> list[list[list[int]]]:
            read = [self._read(prefixes[i], examples[i]) for i in indices]
            embeddings, mask = pad_rows(read, self._padding_side)
            choose = TopKSampling(self._lm, [seed for i in indices for seed in seeds[i]], top_k)
            rows = generate_samples(self._lm, embeddings, mask, self.endings, max_new_tokens, choose)
            metering.count(len(rows), int(mask.sum()) + sum(map(len, rows)))
            return [rows[i : i + n] for i in range(0, len(rows), n)]

        lengths = [len(prefix) + example.n_input for prefix, example in zip(prefixes, examples, strict=True)]
        # Each query is written on in n rows at once.
        found = self.in_batches(lengths, max_new_tokens, write, max(1, self.batch_tokens // n))
        return [[self.output_text(row) for row in rows] for rows in found]

    @property
    def _padding_side(self) -> Side:
        """Where a batch is padded to be continued."""
        return "right" if self.is_encoder_decoder else "left"

    def _scored(
        self,
        queries: Rows[Query],
        batch_tokens: int | None,
        work: Callable[[Tensor, list[EncodedExample]], list],
    ) -> list:
        """The results of `work` for each query; queries under one prompt share it."""
        if any(query.output is None for query in queries):
            raise UserError("A query without an output cannot be scored.", "Give every query an output.")
        prefixes, examples = self._encoded(queries)
        together: dict[int, list[int]] = {}
        for index, prefix in enumerate(prefixes):
            together.setdefault(id(prefix), []).append(index)
        groups = list(together.values())
        found: list = [None] * len(queries)
        rows = [[examples[i] for i in group] for group in groups]
        heads = [prefixes[group[0]] for group in groups]
        for number, hidden in self.scorer.hidden_states(heads, rows, batch_tokens or self.batch_tokens):
            for index, result in zip(groups[number], work(hidden, rows[number]), strict=True):
                found[index] = result
        return found

    def _embed_list(self, ids: list[int]) -> Float[Tensor, "n d_model"]:
        return self._lm.embed(torch.tensor(ids, dtype=torch.long, device=self.device))

    @torch.no_grad()
    def _encoded(self, queries: Rows[Query], n_new: int = 0) -> tuple[list[Tensor], list[EncodedExample]]:
        """All that stands before each query's body, the same object for the same prompt, and its body and output."""
        made: dict[object, Tensor] = {}
        for query in queries:
            key = query.prompt if isinstance(query.prompt, str) else id(query.prompt)
            if key not in made:
                made[key] = self.prompt_embeddings(query.prompt)
        prefixes = [made[q.prompt if isinstance(q.prompt, str) else id(q.prompt)] for q in queries]
        examples = self._encoder.examples(queries)
        for prefix, example in zip(prefixes, examples, strict=True):
            self._check_context(len(prefix) + example.n_input, len(example.output) + n_new)
        return prefixes, examples

    def that_fit(self, soft_prompt: SoftPrompt, inputs: Iterable[str], n_written: int) -> list[str]:
        """The inputs that the context holds under a soft prompt with an output of so many tokens."""
        inputs = list(inputs)
        if self.context_length is None or not inputs:
            return inputs
        n_before = len(self.prompt_embeddings(soft_prompt))
        n_around = n_before + self.encode_input("", "soft").n_input

        def fits(input: str) -> bool:
            # No token is less than a byte, so that short inputs need not be tokenised.
            n_most = n_around + len(input.encode(errors="surrogatepass"))
            if self._longest(n_most, n_written) <= self.context_length:
                return True
            n_read = n_before + self.encode_input(input, "soft").n_input
            return self._longest(n_read, n_written) <= self.context_length

        return list(filter(fits, inputs))

    def _longest(self, n_read: int, n_written: int) -> int:
        return max(n_read, n_written) if self.is_encoder_decoder else n_read + (1 if self.is_masked else n_written)

    def _check_context(self, n_read: int, n_written: int) -> None:
        if n_read == 0:
            raise UserError("A query has no token for the subject to read.", "Give it a prompt or an input.")
        longest = self._longest(n_read, n_written)
        if self.context_length is not None and longest > self.context_length:
            raise UserError(
                f"A query needs {longest} tokens, but the subject '{self.name}' has room for {self.context_length}.",
                "Shorten the prompt or the input, or generate fewer tokens.",
            )


def _named(soft_prompt: SoftPrompt) -> str:
    return f", '{soft_prompt.subject}'" if soft_prompt.subject else ""
