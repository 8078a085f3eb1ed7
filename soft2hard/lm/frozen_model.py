"""A frozen Hugging Face language model taken apart: embedding, backbone, output head.

Causal, encoder-decoder and masked language models (BERT, RoBERTa) are known; a masked one fills in a token between
what stands on both sides of it, and writes nothing else.

Logits are only ever wanted at a few positions, and over a large vocabulary they cost more than the rest of a small
model, so the backbone is run first and the head is applied to the rows that are wanted. Special treatment around
heads is in `FrozenModel.head`, and is compared with the model's own logits whenever a model is taken up.
"""

import hashlib
import inspect
from collections.abc import Callable
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from soft2hard.compute.memory import affordable, is_out_of_memory
from soft2hard.errors import UserError, first_line
from soft2hard.lm.batching import pad_rows, positions

MOST_BATCH_TOKENS = 2**17
"""More in a batch makes nothing faster."""
_TRIAL_LENGTH = 128  # tokens of each sequence of the trial
_TRIAL_TOKENS, _SHORT_ROW = 8, 3  # vectors of the trial of an architecture: rows of 3 and 5
_MASKED_HEADS = (
    ("cls",),  # BERT, DeBERTa
    ("lm_head",),  # RoBERTa, XLM-RoBERTa
    ("predictions",),  # ALBERT
    ("vocab_transform", "activation", "vocab_layer_norm", "vocab_projector"),  # DistilBERT
    ("generator_predictions", "generator_lm_head"),  # ELECTRA
    ("head", "decoder"),  # ModernBERT
)
"""Modules of masked language models that make logits of hidden states, one after the other."""
_SCALED_IF_TIED = ("umt5", "switch_transformers")
"""T5's kin that scale what a tied head reads, as T5 does, and have no setting that says so."""
_LIMITS = ("max_position_embeddings", "max_encoder_position_embeddings", "max_seq_len")
"""What configurations call the most tokens of a sequence; the latter two are LED's and MPT's."""
_HASH_ROWS = 8192  # rows of the embedding table hashed at a time, to bound the float32 copy


def is_masked_class(name: str) -> bool:
    """Whether a class of transformers of this name is a masked language model."""
    return name.endswith("ForMaskedLM")


class FrozenModel:
    """A causal, encoder-decoder or masked language model in evaluation mode; its parameters take no gradient.

    Raises UserError for an architecture whose logits `backbone` and `head` do not reproduce.
    """

    def __init__(self, model: PreTrainedModel, mask_id: int | None = None) -> None:
        """`mask_id`: the token that a masked LM reads in the place of an output's."""
        self.model = model.eval().requires_grad_(False)
        self.config = model.config.get_text_config()
        self.is_encoder_decoder: bool = bool(model.config.is_encoder_decoder)
        self.is_masked: bool = not self.is_encoder_decoder and is_masked_class(type(model).__name__)
        self.mask_id = mask_id
        self._refuse_unknown_architecture()

    @property
    def device(self) -> torch.device:
        return self._table.device

    @property
    def dtype(self) -> torch.dtype:
        return self._table.dtype

    @property
    def continues_text(self) -> bool:
        """Whether it writes on after what it has read, token by token: a causal language model."""
        return not (self.is_encoder_decoder or self.is_masked)

    @cached_property
    def stack(self) -> torch.nn.Module:
        """The layers of a decoder-only model, without its head."""
        base = self.model.base_model
        return base if base is not self.model else getattr(self.model, "model", base)

    @property
    def _table(self) -> Float[Tensor, "vocab d_model"]:
        return self.model.get_input_embeddings().weight

    @property
    def embedding(self) -> Float[Tensor, "vocab d_model"]:
        """The vectors the backbone reads for each token.

        Gemma and some BART models scale their table when they look a token up; the scale is part of these vectors.
        """
        return self._table if self.scale == 1.0 else self._table * self.scale

    @property
    def scale_has_moved(self) -> bool:
        """True where the scale was no part of what the backbone read before transformers 5.4: Gemma 1 and 2."""
        return self.config.model_type in ("gemma", "gemma2")

    @property
    def scale(self) -> float:
        """The factor between the table's rows and the vectors that the backbone reads."""
        return float(getattr(self.model.get_input_embeddings(), "embed_scale", 1.0))

    @property
    def d_model(self) -> int:
        return self._table.shape[1]

    @property
    def vocab_size(self) -> int:
        return self._table.shape[0]

    @property
    def context_length(self) -> int | None:
        """The most tokens a sequence may have; None where the architecture sets no limit (BLOOM, T5)."""
        limit = next((limit for name in _LIMITS if (limit := getattr(self.config, name, None))), None)
        # RoBERTa counts positions from the one behind that of the padding.
        embeddings = getattr(self.stack, "embeddings", None) if self.is_masked else None
        padding = getattr(getattr(embeddings, "position_embeddings", None), "padding_idx", None)
        return limit if padding is None or limit is None else limit - padding - 1

    @property
    def attention_window(self) -> int | None:
        """Length up to which every token of a sequence is seen by all that follow it; None where there is no limit.

        Mistral and Gemma 2 and 3 look back over a window, Llama 4 within a chunk, in some layers or in all.
        """
        slides = getattr(self.config, "use_sliding_window", True)  # Qwen 2 and 3 name a window and leave it unused
        sliding = getattr(self.config, "sliding_window", None) if slides else None
        limits = (sliding, getattr(self.config, "attention_chunk_size", None))
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def rope_boundary(self) -> int | None:
        """Length beyond which a whole batch is encoded otherwise (LongRoPE, arXiv 2402.13753: Phi-3), or None.

        A sequence up to it never shares a batch with a longer one, or it would be read as if it were long itself.
        """
        rope = getattr(self.config, "rope_parameters", None) or {}
        if rope.get("rope_type") != "longrope":
            return None
        return rope.get("original_max_position_embeddings") or self.config.original_max_position_embeddings

    @cached_property
    def table_digest(self) -> str:
        """SHA-256 of the input-embedding table as float32 bytes and of the model type, in hexadecimal."""
        digest = hashlib.sha256()
        for rows in self._table.split(_HASH_ROWS):
            digest.update(rows.to("cpu", torch.float32).contiguous().numpy().tobytes())
        digest.update(self.config.model_type.encode())
        return digest.hexdigest()

    @cached_property
    def decoder_start_id(self) -> int:
        """The token an encoder-decoder model's decoder reads first."""
        for config in (self.model.generation_config, self.model.config):
            start = getattr(config, "decoder_start_token_id", None)
            if start is not None:
                return start
        raise UserError(
            "The encoder-decoder subject does not say which token its decoder starts with.",
            "Set decoder_start_token_id in its config.json.",
        )

    def embed(self, ids: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape d_model"]:
        """The vectors the backbone reads for these tokens."""
        return self.model.get_input_embeddings()(ids)

    def head(self, hidden: Float[Tensor, "*rows d_out"]) -> Float[Tensor, "*rows vocab"]:
        """Logits from the backbone's last hidden states, exactly as the model itself computes them."""
        is_tied = self.config.model_type in _SCALED_IF_TIED and self.config.tie_word_embeddings
        if is_tied or getattr(self.config, "scale_decoder_outputs", False):  # T5 with tied embeddings
            hidden = hidden * self.config.d_model**-0.5
        logits = self._masked_logits(hidden) if self.is_masked else self.model.get_output_embeddings()(hidden)
        if (bias := getattr(self.model, "final_logits_bias", None)) is not None:  # BART family
            logits = logits + bias[0]
        if (factor := getattr(self.config, "logit_scale", None)) is not None:  # Cohere
            logits = logits * factor
        if (divisor := getattr(self.config, "logits_scaling", None)) is not None:  # Granite
            logits = logits / divisor
        if (cap := getattr(self.config, "final_logit_softcapping", None)) is not None:  # Gemma 2 and later
            logits = torch.tanh(logits / cap) * cap
        return logits

    def backbone(
        self,
        inputs_embeds: Float[Tensor, "batch length d_model"],
        attention_mask: Bool[Tensor, "batch length"] | None = None,
        position_ids: Int[Tensor, "batch length"] | None = None,
        decoder_input_ids: Int[Tensor, "batch n_target"] | None = None,
    ) -> Float[Tensor, "batch length_out d_out"]:
        """Last hidden states, ready for the head; gradients flow to `inputs_embeds`.

        The mask is True at real tokens. `decoder_input_ids` is for encoder-decoder models, which need it (start token
        and output but its last token; pad on the right): their hidden states are the decoder's. Other models return
        those of `inputs_embeds`; masked ones read what is padded on the right.
        """
        if self.is_masked:  # they count positions themselves, from the left
            mask = None if attention_mask is None else attention_mask.long()
            return self.stack(inputs_embeds=inputs_embeds, attention_mask=mask).last_hidden_state
        if not self.is_encoder_decoder:
            return self.decode(inputs_embeds, attention_mask, position_ids)[0]
        encoded = self.encode(inputs_embeds, attention_mask)
        return self.cross_decode(self.embed(decoder_input_ids), encoded, attention_mask)[0]

    def decode(
        self,
        inputs_embeds: Float[Tensor, "batch length d_model"],
        attention_mask: Bool[Tensor, "batch seen"] | None,
        position_ids: Int[Tensor, "batch length"] | None,
        cache: Cache | None = None,
        use_cache: bool = False,
    ) -> tuple[Float[Tensor, "batch length d_out"], Cache | None]:
        """Hidden states of a decoder-only model, and its key-value cache if wanted.

        `seen` counts the tokens in the cache and those in `inputs_embeds`.
        """
        position = {"position_ids": position_ids} if position_ids is not None and self._takes_position_ids else {}
        output = self.stack(
            inputs_embeds=inputs_embeds,
            attention_mask=None if attention_mask is None else attention_mask.long(),
            past_key_values=cache,
            use_cache=use_cache,
            **position,
        )
        return output.last_hidden_state, output.past_key_values if use_cache else None

    def encode(
        self, inputs_embeds: Float[Tensor, "batch length d_model"], attention_mask: Bool[Tensor, "batch length"] | None
    ) -> Float[Tensor, "batch length d_out"]:
        """Hidden states of an encoder-decoder model's encoder; pad on the right."""
        mask = None if attention_mask is None else attention_mask.long()
        return self.model.get_encoder()(inputs_embeds=inputs_embeds, attention_mask=mask).last_hidden_state

    def cross_decode(
        self,
        inputs_embeds: Float[Tensor, "batch n_target d_model"],
        encoded: Float[Tensor, "batch length d_out"],
        encoder_mask: Bool[Tensor, "batch length"] | None,
        cache: Cache | None = None,
        use_cache: bool = False,
    ) -> tuple[Float[Tensor, "batch n_target d_out"], Cache | None]:
        """Hidden states of an encoder-decoder model's decoder, and its key-value cache if wanted."""
        output = self.model.get_decoder()(
            inputs_embeds=inputs_embeds,
            encoder_hidden_states=encoded,
            encoder_attention_mask=None if encoder_mask is None else encoder_mask.long(),
            past_key_values=cache,
            use_cache=use_cache,
        )
        return output.last_hidden_state, output.past_key_values if use_cache else None

    @torch.no_grad()
    def affordable_tokens(self) -> int:
        """Tokens, padding included, that a batch of scoring or generation may have on this machine, by a trial.

        The trial reads sequences as generation does, keys and values kept, and takes the output head of a row each.
        """
        length = min(_TRIAL_LENGTH, self.context_length or _TRIAL_LENGTH)

        def read(n_tokens: int) -> None:
            shape = (n_tokens // length, length)
            ids = torch.zeros(shape, dtype=torch.long, device=self.device)
            mask = torch.ones(shape, dtype=torch.bool, device=self.device)
            embeddings = self.embed(ids)
            if self.is_masked:
                hidden = self.backbone(embeddings, mask)
            elif self.is_encoder_decoder:
                hidden, _ = self.cross_decode(embeddings[:, :1], self.encode(embeddings, mask), mask, use_cache=True)
            else:
                hidden, _ = self.decode(embeddings, mask, None, use_cache=True)
            self.head(hidden[:, -1]).float().log_softmax(-1)

        return affordable(read, self.device, at_most=MOST_BATCH_TOKENS, unit=length)

    def _masked_logits(self, hidden: Float[Tensor, "*rows d_out"]) -> Float[Tensor, "*rows vocab"]:
        for module in self._masked_head:
            hidden = module(hidden)
        return hidden

    @cached_property
    def _masked_head(self) -> list[Callable[[Tensor], Tensor]]:
        """What makes logits of a masked LM's hidden states, one after the other."""
        for names in _MASKED_HEADS:
            if all(hasattr(self.model, name) for name in names):
                return [getattr(self.model, name) for name in names]
        raise UserError(
            f"The output head of masked subjects of type '{self.config.model_type}' is not known.",
            "Choose a subject such as BERT, RoBERTa, ALBERT, DistilBERT, ELECTRA or ModernBERT.",
        )

    @cached_property
    def _takes_position_ids(self) -> bool:
        return "position_ids" in inspect.signature(self.stack.forward).parameters

    @torch.no_grad()
    def _refuse_unknown_architecture(self) -> None:
        """Compare what later runs rely on with the model's own logits, on vectors that are no token's.

        A scale or a bias that is not known here, a cache that works otherwise, or padding that leaks into a row would
        change scores without a sign; so would text that is read otherwise than the vectors of its tokens.
        """
        try:
            if self.is_masked:
                problem = self._masked_problem()
            else:
                problem = self._encoder_decoder_problem() if self.is_encoder_decoder else self._causal_problem()
            if problem is None and self._reads_ids_otherwise():
                problem = "read text otherwise than the vectors of its tokens"
        except UserError:
            raise
        except Exception as error:  # whatever an architecture raises, it cannot be run here
            if is_out_of_memory(error):
                raise
            problem = f"fail when they are run on vectors ({first_line(error)})"
        if problem is not None:
            raise UserError(
                f"Subjects of type '{self.config.model_type}' {problem}, which is not supported.",
                "Choose a subject of another architecture, such as Llama, Qwen, Mistral, Gemma, GPT-2, OPT, BLOOM, T5, "
                "RoBERTa.",
            )

    def _reads_ids_otherwise(self) -> bool:
        """As Marian and Pegasus do, which scale what they look up outside of their table, and Gemma 3n, which reads
        more of each token than one vector: candidates in words would be run on another model than the user's."""
        ids = self._trial_ids()[None]
        decoder = {"decoder_input_ids": self._started(ids)} if self.is_encoder_decoder else {}
        as_ids = self.model(input_ids=ids, **decoder).logits.float()
        as_vectors = self.model(inputs_embeds=self.embed(ids), **decoder).logits.float()
        return not self._same(as_vectors, as_ids)

    def _trial_ids(self) -> Int[Tensor, "n"]:
        """Words of the middle of the vocabulary: padding, which may stand at either end, is counted otherwise."""
        return torch.arange(_SHORT_ROW, device=self.device) + self.vocab_size // 2

    def _started(self, ids: Int[Tensor, "batch n"]) -> Int[Tensor, "batch n_1"]:
        return torch.cat([ids.new_full((len(ids), 1), self.decoder_start_id), ids], 1)

    def _causal_problem(self) -> str | None:
        rows = self._trial_rows()
        alone = [self.model(inputs_embeds=row[None]).logits[0].float() for row in rows]
        if not self._same(self.head(self.backbone(rows[0][None]))[0], alone[0]):
            return "compute their logits in a way of their own"
        embeddings, mask = pad_rows(rows, "left")
        place = positions(mask)
        hidden, cache = self.decode(embeddings[:, :-1], mask[:, :-1], place[:, :-1], use_cache=True)
        for row, kept, expected in zip(self.head(hidden), mask[:, :-1], alone, strict=True):
            if not self._same(row[kept], expected[:-1]):
                return "give other answers in a batch than alone"
        kept = torch.tensor([1], device=self.device)  # generation drops rows that have ended
        cache.reorder_cache(kept)
        last, _ = self.decode(embeddings[kept, -1:], mask[kept], place[kept, -1:], cache, use_cache=True)
        if not self._same(self.head(last)[0], alone[1][-1:]):
            return "give other answers step by step than in one pass"
        return None

    def _encoder_decoder_problem(self) -> str | None:
        rows = self._trial_rows()
        ids = self._started(self._trial_ids()[None])
        alone = [self.model(inputs_embeds=row[None], decoder_input_ids=ids).logits[0].float() for row in rows]
        embeddings, mask = pad_rows(rows, "right")
        encoded = self.encode(embeddings, mask)
        read = self.embed(ids.expand(len(rows), -1))
        hidden, cache = self.cross_decode(read[:, :-1], encoded, mask, use_cache=True)
        for row, expected in zip(self.head(hidden), alone, strict=True):
            if not self._same(row, expected[:-1]):
                return "compute their logits in a way of their own, or give other answers in a batch than alone"
        kept = torch.tensor([1], device=self.device)  # generation drops rows that have ended
        cache.reorder_cache(kept)
        last, _ = self.cross_decode(read[kept, -1:], encoded[kept], mask[kept], cache, use_cache=True)
        if not self._same(self.head(last)[0], alone[1][-1:]):
            return "give other answers step by step than in one pass"
        return None

    def _masked_problem(self) -> str | None:
        rows = self._trial_rows()
        alone = [self.model(inputs_embeds=row[None]).logits[0].float() for row in rows]
        embeddings, mask = pad_rows(rows, "right")
        for row, kept, expected in zip(self.head(self.backbone(embeddings, mask)), mask, alone, strict=True):
            if not self._same(row[kept], expected):
                return "compute their logits in a way of their own, or give other answers in a batch than alone"
        return None

    def _trial_rows(self) -> list[Float[Tensor, "_length d_model"]]:
        """Two sequences of unlike length, between the vectors of tokens."""
        table = self.embedding[: min(64, self.vocab_size)].float()
        generator = torch.Generator().manual_seed(0)
        weights = torch.rand(_TRIAL_TOKENS, len(table), generator=generator).to(table.device)
        vectors = ((weights / weights.norm(dim=1, keepdim=True)) @ table).to(self.dtype)
        return [vectors[:_SHORT_ROW], vectors[_SHORT_ROW:]]

    def _same(self, found: Float[Tensor, "*rows vocab"], expected: Float[Tensor, "*rows vocab"]) -> bool:
        tolerance = (1e-4 if self.dtype == torch.float32 else 2e-2) * expected.abs().max()
        return found.shape == expected.shape and bool((found.float() - expected).abs().max() <= tolerance)
