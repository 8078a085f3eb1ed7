"""Local search around good candidates: change one token, verify again.

The translator is often right but for one word (a label, a category). For each position of a candidate, the
words that the translator itself finds likely there, and those that stand in other candidates, are tried
in its place.
"""

from collections.abc import Sequence

import torch

from soft2hard.softprompt import SoftPrompt
from soft2hard.translator.decoding import tidy
from soft2hard.translator.model import Translator


@torch.no_grad()
def neighbours(
    translator: Translator, soft_prompt: SoftPrompt, texts: Sequence[str], n_per_text: int = 48
) -> list[str]:
    """Texts that differ from one of `texts` in one token, the translator's likeliest substitutions first."""
    tokenizer, model = translator.tokenizer, translator.model.eval()
    soft, mask = translator.encode_batch([soft_prompt])
    found: dict[str, None] = {}
    for text in texts:
        ids = tokenizer.encode(text, add_special_tokens=False)
        if not ids:
            continue
        labels = torch.tensor([[*ids, model.config.eos_token_id]], device=translator.device)
        log_probs = model(soft, mask, labels=labels).logits[0].float().log_softmax(-1)[: len(ids)]
        log_probs[:, [i for i in tokenizer.all_special_ids if i < log_probs.shape[1]]] = -torch.inf
        for position, token in _likeliest(log_probs, ids, n_per_text):
            changed = tidy(tokenizer.decode([*ids[:position], token, *ids[position + 1 :]], skip_special_tokens=True))
            found.setdefault(changed)
    return [text for text in found if text not in set(texts)]


def _likeliest(log_probs: torch.Tensor, ids: list[int], n: int) -> list[tuple[int, int]]:
    """The `n` most likely single substitutions as (position, token)."""
    scores = log_probs.clone()
    scores[torch.arange(len(ids)), torch.tensor(ids, device=scores.device)] = -torch.inf
    best = scores.flatten().topk(min(n, int(scores.isfinite().sum()))).indices.tolist()
    return [divmod(index, scores.shape[1]) for index in best]
