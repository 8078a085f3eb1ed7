"""The default architecture: an encoder reads the soft prompt in both directions, a decoder writes."""

from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from soft2hard.lm.subject import Subject
from soft2hard.translator.architecture import Memory, TranslatorModel
from soft2hard.translator.reader import SoftPromptReader
from soft2hard.translator.warm_start import can_warm_start, seq2seq_from_causal


class EncoderDecoderTranslator(TranslatorModel):
    """Any encoder-decoder of transformers that takes input embeddings (T5, T5Gemma, BART and their kin)."""

    n_start = 1

    def __init__(self, seq2seq: PreTrainedModel, reader: SoftPromptReader):
        super().__init__(reader)
        self.seq2seq = seq2seq

    @property
    def lm(self) -> PreTrainedModel:
        return self.seq2seq

    @property
    def eos_id(self) -> int:
        eos = self.config.eos_token_id
        return eos[0] if isinstance(eos, list) else eos

    def encode(
        self,
        soft_prompts: Float[Tensor, "batch n d_subject"],
        attention_mask: Int[Tensor, "batch n"] | Bool[Tensor, "batch n"],
    ) -> Memory:
        mask = attention_mask.long()
        encoder = self.seq2seq.get_encoder()
        states = encoder(inputs_embeds=self.read(soft_prompts, mask), attention_mask=mask).last_hidden_state
        return Memory(states, mask)

    def logits(self, memory: Memory, labels: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        encoded = BaseModelOutput(last_hidden_state=memory.states)
        # With labels the model would compute a loss that nobody takes.
        shift = getattr(self.seq2seq, "prepare_decoder_input_ids_from_labels", None)
        given = {"decoder_input_ids": shift(labels=labels), "use_cache": False} if shift else {"labels": labels}
        return self.seq2seq(encoder_outputs=encoded, attention_mask=memory.mask, **given).logits

    def generate(self, memory: Memory, **settings: object) -> Int[Tensor, "rows length"]:
        # generate() changes the object it is given, so each call gets its own.
        encoded = BaseModelOutput(last_hidden_state=memory.states)
        written = self.seq2seq.generate(encoder_outputs=encoded, attention_mask=memory.mask, **settings)
        return written[:, self.n_start :]


def new_seq2seq(subject: Subject, base: str | None, dropout: float) -> PreTrainedModel:
    """The checkpoint `base`; without, one from the subject's weights where it can be, else a small random T5."""
    if base is not None:
        return AutoModelForSeq2SeqLM.from_pretrained(
            base, use_safetensors=True, trust_remote_code=False, dtype=torch.float32
        )
    return (
        seq2seq_from_causal(subject.model, dropout) if can_warm_start(subject.model) else _random_t5(subject, dropout)
    )


def load_seq2seq(folder: Path) -> PreTrainedModel:
    """The encoder-decoder saved in a folder, in float32. Raises ValueError where weights are missing."""
    seq2seq, loaded = AutoModelForSeq2SeqLM.from_pretrained(
        folder, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
    )
    if loaded["missing_keys"]:
        raise ValueError(f"weights are missing, such as {min(loaded['missing_keys'])}")
    return seq2seq


def _random_t5(subject: Subject, dropout: float) -> T5ForConditionalGeneration:
    """A small T5 with random weights that writes with the subject's tokenizer."""
    tokenizer = subject.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else subject.eos_ids[0]
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=256,
            d_kv=64,
            d_ff=704,
            num_layers=4,
            num_heads=4,
            feed_forward_proj="gated-silu",
            dropout_rate=dropout,
            pad_token_id=pad,
            eos_token_id=subject.eos_ids[0],
            decoder_start_token_id=pad,
        )
    )
