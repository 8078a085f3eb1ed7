"""A soft prompt that the translator has read once: how likely it finds texts, and how it would go on with them."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.translator.data import IGNORE, PairCollator
from soft2hard.translator.model import Translator

_ROWS_AT_ONCE = 256


def tidy(text: str) -> str:
    """One line, single spaces."""
    return " ".join(text.split())


class Reading:
    """The translator's view of one soft prompt; the soft prompt is read once for all that is asked."""

    @torch.no_grad()
    def __init__(self, translator: Translator, soft_prompt: SoftPrompt):
        self.translator = translator
        self.tokenizer, self.model = translator.tokenizer, translator.model.eval()
        self.eos_id = self.model.eos_id
        self._memory = self.model.encode(*translator.encode_batch([soft_prompt]))
        metering.count(0, translator.n_read(soft_prompt))  # sequences are what is written of it
        self._encode = PairCollator(self.tokenizer, self.eos_id, translator.card.instruction_tokens).encode

    def log_probs(self, texts: Sequence[str]) -> list[float]:
        """log p(text | soft prompt) of each text with its end, in nats."""
        return self.sequence_log_probs([self._encode(text) for text in texts])

    def sequence_log_probs(self, rows: Sequence[Sequence[int]]) -> list[float]:
        """The same of token ids, the end's among them."""
        found: list[float] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            batch = rows[start : start + _ROWS_AT_ONCE]
            labels = _padded(batch, IGNORE, self.translator.device)
            metering.count(len(batch), sum(map(len, batch)))
            log_probs = self._logits(labels).log_softmax(-1)
            of_token = log_probs.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            found += of_token.masked_fill(labels == IGNORE, 0).sum(-1).tolist()
        return found

    def next_log_probs(self, ids: Sequence[int]) -> Float[Tensor, "n_ids vocab"]:
        """Log-probabilities at each position of a text, given what stands before it; special tokens have none."""
        labels = torch.tensor([[*ids, self.eos_id]], device=self.translator.device)
        metering.count(1, len(ids) + 1)
        return self._only_words(self._logits(labels)[0, : len(ids)].log_softmax(-1))

    def complete(self, prefixes: Sequence[Sequence[int]]) -> list[list[int]]:
        """Each prefix with its most likely continuation, token by token, without the end's id.

        Rows are decoded anew at each step: their prefixes differ in length, and few steps are left to most.
        """
        rows = [list(prefix) for prefix in prefixes]
        metering.count(len(rows), 0)  # tokens at each step, as all are read anew
        open_rows = list(range(len(rows)))
        most = self.translator.card.instruction_tokens
        for _ in range(most):
            open_rows = [i for i in open_rows if len(rows[i]) < most]
            if not open_rows:
                break
            metering.count(0, sum(len(rows[i]) + 1 for i in open_rows))
            # What stands in the last place is not read: the logits there are for what comes next.
            labels = _padded([[*rows[i], self.eos_id] for i in open_rows], IGNORE, self.translator.device)
            last = torch.tensor([len(rows[i]) for i in open_rows], device=labels.device)
            logits = self._logits(labels)[torch.arange(len(open_rows), device=labels.device), last]
            chosen = self._only_words(logits, and_end=True).argmax(-1).tolist()
            for i, token in zip(open_rows, chosen, strict=True):
                if token != self.eos_id:
                    rows[i].append(token)
            open_rows = [i for i, token in zip(open_rows, chosen, strict=True) if token != self.eos_id]
        return rows

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids as one tidy line."""
        return tidy(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    @torch.no_grad()
    def _logits(self, labels: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocab"]:
        return self.model.logits(self._memory.repeat(len(labels)), labels).float()

    def _only_words(self, scores: Float[Tensor, "n vocab"], and_end: bool = False) -> Float[Tensor, "n vocab"]:
        special = [
            i for i in self.tokenizer.all_special_ids if i < scores.shape[1] and not (and_end and i == self.eos_id)
        ]
        scores[:, special] = -torch.inf
        return scores


def _padded(rows: Sequence[Sequence[int]], value: int, device: torch.device) -> Int[Tensor, "batch length"]:
    tensors = [torch.tensor(list(row)) for row in rows]
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value).to(device)
