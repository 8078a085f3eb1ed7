"""Small tokenizers of the kinds that real architectures come with, trained in memory in a moment.

Byte-level BPE reads every text and has no BOS (GPT-2, BLOOM, Qwen, Phi) or uses EOS for it (OPT); Unigram with ▁ for
spaces puts one before every piece (T5, Llama, Mistral) or not (Gemma), folds line ends (T5), and adds BOS or EOS.
"""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast

BYTE_LEVEL = ("gpt2", "opt", "bloom", "phi", "qwen3")
_BOS = {"llama": "<s>", "mistral": "<s>", "gemma": "<s>", "gemma2": "<s>", "gemma3": "<s>", "opt": "</s>"}
_EOS_AROUND = {"t5": "</s>"}
_WITHOUT_PAD = ("gpt2", "llama", "mistral")


def tokenizer(architecture: str, texts: Iterable[str], vocab_size: int = 400) -> PreTrainedTokenizerFast:
    """One of the architecture's kind for these texts; ids 0 to 3 are pad, BOS, EOS and unknown.

    `vocab_size` is of byte-level BPE.
    """
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    if architecture in BYTE_LEVEL:
        made = Tokenizer(BPE())
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = BpeTrainer(
            vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        scheme = "never" if architecture.startswith("gemma") else "always"
        made = Tokenizer(Unigram())
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        made.decoder = decoders.Metaspace(prepend_scheme=scheme)
        if architecture == "t5":
            made.normalizer = normalizers.Replace("\n", " ")
        trainer = UnigramTrainer(vocab_size=200, special_tokens=special, unk_token="<unk>", show_progress=False)
    made.train_from_iterator(list(texts), trainer)
    bos, eos = _BOS.get(architecture, ""), _EOS_AROUND.get(architecture, "")
    made.post_processor = processors.TemplateProcessing(
        single=" ".join(filter(None, [bos, "$A", eos])), special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    names = {"bos_token": bos or None, "eos_token": "</s>", "unk_token": "<unk>"}
    pad = None if architecture in _WITHOUT_PAD else "<pad>"
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token=pad, **names)
