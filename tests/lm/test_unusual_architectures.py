"""Architectures that work otherwise than Llama: supported with the model's own numbers, or refused in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers as tf
from transformers import AutoTokenizer, PreTrainedModel

from soft2hard.errors import UserError
from soft2hard.lm.frozen_model import FrozenModel
from soft2hard.lm.subject import Query, Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from tests import tiny_models
from tests.tiny_models import VOCAB_SIZE as V

SIZES = {"vocab_size": V, "hidden_size": 16, "num_hidden_layers": 2}
HEADS = {"intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}
ENCODER_DECODER = {
    "d_model": 16,
    **{f"{part}_{what}": n for part in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 2))},
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
}


def gemma4() -> PreTrainedModel:
    further = {"global_head_dim": 8, "hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": V}
    layers = {"layer_types": ["sliding_attention", "full_attention"], "num_kv_shared_layers": 0}
    return tf.Gemma4ForCausalLM(tf.Gemma4TextConfig(**SIZES, **HEADS, **further, **layers))


def llama4() -> PreTrainedModel:
    return tf.Llama4ForCausalLM(tf.Llama4TextConfig(**SIZES, **HEADS, intermediate_size_mlp=24, num_local_experts=2))


def minimax() -> PreTrainedModel:
    return tf.MiniMaxForCausalLM(tf.MiniMaxConfig(**SIZES, **HEADS, num_local_experts=2, num_experts_per_tok=1))


def openai_gpt() -> PreTrainedModel:
    return tf.OpenAIGPTLMHeadModel(tf.OpenAIGPTConfig(vocab_size=V, n_embd=16, n_layer=2, n_head=2, n_positions=64))


def rwkv() -> PreTrainedModel:
    return tf.RwkvForCausalLM(tf.RwkvConfig(**SIZES, attention_hidden_size=16, intermediate_size=24))


def fsmt() -> PreTrainedModel:
    vocabulary = {"src_vocab_size": V, "tgt_vocab_size": V, "langs": ["en", "de"]}
    return tf.FSMTForConditionalGeneration(tf.FSMTConfig(**vocabulary, **ENCODER_DECODER))


def phi3() -> PreTrainedModel:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
    lengths = {"max_position_embeddings": 64, "original_max_position_embeddings": 12}
    config = tf.Phi3Config(
        **SIZES, **HEADS, **lengths, pad_token_id=0, rope_parameters=rope | {"original_max_position_embeddings": 12}
    )
    return tf.Phi3ForCausalLM(config)


def glm() -> PreTrainedModel:
    return tf.GlmForCausalLM(tf.GlmConfig(**SIZES, **HEADS, pad_token_id=0))


def xglm() -> PreTrainedModel:
    return tf.XGLMForCausalLM(tf.XGLMConfig(vocab_size=V, d_model=16, ffn_dim=24, num_layers=2, attention_heads=2))


def biogpt() -> PreTrainedModel:
    return tf.BioGptForCausalLM(tf.BioGptConfig(**SIZES, intermediate_size=24, num_attention_heads=2))


def mbart() -> PreTrainedModel:
    ids = {"vocab_size": V, "decoder_start_token_id": 2}
    return tf.MBartForConditionalGeneration(tf.MBartConfig(**ids, **ENCODER_DECODER))


def m2m() -> PreTrainedModel:
    ids = {"vocab_size": V, "decoder_start_token_id": 2, "pad_token_id": 1}
    return tf.M2M100ForConditionalGeneration(tf.M2M100Config(**ids, **ENCODER_DECODER))


def marian() -> PreTrainedModel:
    ids = {"vocab_size": V, "decoder_start_token_id": 2, "pad_token_id": 0, "scale_embedding": True, "init_std": 1.0}
    return tf.MarianMTModel(tf.MarianConfig(**ids, **ENCODER_DECODER))


def llava() -> PreTrainedModel:
    text = tf.LlamaConfig(**SIZES, **HEADS)
    sees = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    images = tf.CLIPVisionConfig(**sees, image_size=28, patch_size=14, projection_dim=16)
    return tf.LlavaForConditionalGeneration(tf.LlavaConfig(text_config=text, vision_config=images, image_token_index=3))


def mpt() -> PreTrainedModel:
    return tf.MptForCausalLM(tf.MptConfig(vocab_size=V, d_model=16, n_layers=2, n_heads=2, max_seq_len=32))


def umt5() -> PreTrainedModel:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2}
    ids = {"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 2}
    config = tf.UMT5Config(vocab_size=V, tie_word_embeddings=True, **sizes, **ids)
    return tf.UMT5ForConditionalGeneration(config)


def made(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    torch.manual_seed(0)
    return make().eval()


@pytest.mark.parametrize("make", [gemma4, minimax, openai_gpt, rwkv, fsmt, marian])
def test_an_architecture_that_cannot_be_run_on_vectors_in_batches_is_refused_in_one_line(make) -> None:
    with pytest.raises(UserError, match="Subjects of type .* not supported.*Llama, Qwen"):
        FrozenModel(made(make))


@pytest.mark.parametrize("make", [llama4, phi3, glm, xglm, biogpt, mpt, llava, mbart, m2m, umt5])
def test_an_unusual_architecture_writes_in_batches_what_the_model_writes_by_itself(make) -> None:
    model = made(make)
    architecture = "bart" if model.config.is_encoder_decoder else "llama"
    subject = Subject(model, tiny_models.tokenizer(architecture), name="tiny")
    prompts = [SoftPrompt(torch.randn(n, 16, generator=torch.Generator().manual_seed(n)) * 0.1) for n in (1, 6)]
    queries = [Query(p, text) for p in (*prompts, None, "red") for text in ("cat", "one two three four", "up down up")]
    together = subject.generate_ids(queries, max_new_tokens=6)
    for query, found in zip(queries, together, strict=True):
        before = subject.prompt_embeddings(query.prompt)
        kind = "none" if query.prompt is None else "hard" if isinstance(query.prompt, str) else "soft"
        body = subject.embed_ids(torch.tensor(subject.encode_input(query.input, kind).body))
        rows = torch.cat([before, body])[None]
        mask = torch.ones(rows.shape[:2], dtype=torch.long)
        if model.config.is_encoder_decoder:
            written = model.generate(inputs_embeds=rows, attention_mask=mask, max_new_tokens=6, do_sample=False)[0, 1:]
        else:
            written = model.generate(inputs_embeds=rows, attention_mask=mask, max_new_tokens=6, do_sample=False)[0]
        ids = written.tolist()
        assert found == (ids[: ids.index(2)] if 2 in ids else ids[:6])


def test_long_rope_sequences_share_no_batch_across_their_original_length() -> None:
    subject = Subject(made(phi3), tiny_models.tokenizer("llama"), name="phi")
    queries = [Query(None, " ".join(["cat"] * n), "dog") for n in (1, 3, 20, 2, 15)]
    together = [s.log_likelihood for s in subject.target_scores(queries)]
    alone = [subject.target_scores([query])[0].log_likelihood for query in queries]
    assert together == pytest.approx(alone, abs=1e-5)
    assert subject.scorer.model.rope_boundary == 12


def test_text_that_is_read_otherwise_than_the_vectors_of_its_tokens_is_refused() -> None:
    """Marian scales what it looks up outside of its table, so that candidates in words would run on another model."""
    model = made(marian)
    ids = torch.tensor([[5, 6, 7]])
    by_ids = model(input_ids=ids, decoder_input_ids=ids).logits
    by_vectors = model(inputs_embeds=model.get_input_embeddings()(ids), decoder_input_ids=ids).logits
    assert not torch.allclose(by_ids, by_vectors, rtol=0.05)
    with pytest.raises(UserError, match="'marian' read text otherwise than the vectors of its tokens"):
        FrozenModel(model)


def test_a_model_that_also_reads_images_is_loaded_for_its_words(tmp_path: Path) -> None:
    made(llava).save_pretrained(tmp_path)
    tiny_models.tokenizer("llama").save_pretrained(tmp_path)
    subject = Subject.from_pretrained(tmp_path)
    assert type(subject.model).__name__ == "LlavaForConditionalGeneration"
    query = Query(None, "one two", "cat")
    ids = [*subject.encode_input("one two", "none").body, *subject.encode_output("cat")]
    ids = [*subject.leading_ids, *ids]
    expected = subject.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    n = len(subject.encode_output("cat"))
    by_ids = sum(expected[i - 1, ids[i]].item() for i in range(len(ids) - n, len(ids) - 1))
    rows = subject.target_distributions([query])[0]
    assert sum(rows[i, ids[len(ids) - n + i]].item() for i in range(n - 1)) == pytest.approx(by_ids, abs=1e-4)


def test_the_most_tokens_of_a_sequence_are_known_by_whatever_name() -> None:
    subject = Subject(made(mpt), tiny_models.tokenizer("llama"), name="mpt")
    assert subject.context_length == 32
    with pytest.raises(UserError, match="has room for 32"):
        subject.target_scores([Query(None, " ".join(["cat"] * 40), "dog")])


def test_a_word_is_never_taken_for_the_end_of_outputs(tmp_path: Path) -> None:
    """Configurations name an id by default, which may be any word of a tokenizer that has no special tokens."""
    model, tokenizer = made(glm), tiny_models.tokenizer("llama")
    model.generation_config.eos_token_id = tokenizer.convert_tokens_to_ids("cat")
    tokenizer.eos_token = None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="no end-of-sequence token"):
        Subject.from_pretrained(tmp_path)


def test_a_tokenizer_that_names_no_end_takes_that_of_the_configuration(tmp_path: Path) -> None:
    model, tokenizer = made(glm), tiny_models.tokenizer("llama")
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    end, tokenizer.eos_token = tokenizer.eos_token_id, None
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token_id is None
    assert Subject.from_pretrained(tmp_path).encode_output("cat")[-1] == end
