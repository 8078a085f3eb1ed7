"""Log-perplexity of discrete prompts under a reference LM, and its straight-through gradient (arXiv 2504.02144)."""

from collections.abc import Sequence
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from soft2hard.compute import metering
from soft2hard.eval.methods.discrete_vocabulary import Vocabulary, check_decoder_only, check_same_vocabulary
from soft2hard.lm.batching import batches_by_length, pad, positions
from soft2hard.lm.subject import Subject

_BATCH_TOKENS = 4096


def n_tokens_read(reference: Subject, n: int) -> int:
    """Tokens that the reference reads to judge a row of `n`: its BOS, where it has one, and the row; none of none."""
    return n + len(reference.prompt_embeddings(None)) if n else 0


@torch.no_grad()
def log_perplexities(reference: Subject, rows: Sequence[Sequence[int]]) -> list[float]:
    """Mean negative log-likelihood of the tokens of each row, nats a token.

    The first token counts where the reference begins with BOS, otherwise it is read only. A row without a token to
    predict has 0.
    """
    found = [0.0] * len(rows)
    occupied = [i for i, row in enumerate(rows) if row]
    for batch in batches_by_length([len(rows[i]) for i in occupied], _BATCH_TOKENS):
        ids, real = pad([rows[occupied[i]] for i in batch], "right", reference.device)
        metering.count(len(batch), sum(n_tokens_read(reference, len(rows[occupied[i]])) for i in batch))
        _, own, predicted = _log_probs(reference, reference.embed_ids(ids), ids, real)
        values = _mean_nll(own, predicted)
        for i, value in zip(batch, values.tolist(), strict=True):
            found[occupied[i]] = value
    return found


class StraightThroughFluency:
    """Log-perplexity whose gradient reaches the continuous copy of a prompt.

    Forwards, the reference reads and predicts the projected tokens. Backwards, its value counts as a linear function
    of the points where these tokens lie in the subject's embedding space, in both of a token's roles: as what later
    tokens are predicted from, and as what is itself predicted. A quantity that is only defined token by token (the
    reference's embedding, where it is another model; the log-probability) is continued to other points by least
    squares over the writable tokens. For the subject itself as reference the first role's continuation is exact, and
    where its output layer is tied the second's is nearly so.

    Raises UserError for a reference with another vocabulary, or an encoder-decoder model.
    """

    def __init__(self, vocabulary: Vocabulary, reference: Subject):
        check_decoder_only(reference, "reference LM")
        check_same_vocabulary(vocabulary.subject, reference, "reference LM")
        self.vocabulary, self.reference = vocabulary, reference

    def __call__(
        self,
        points: Float[Tensor, "batch n d_model"],
        ids: Int[Tensor, "batch n"],
        real: Bool[Tensor, "batch n"],
    ) -> Float[Tensor, "batch"]:
        """Nats a token of each prompt; `points` are the embeddings of `ids`, padded on the right as `real` says."""
        reference = self.reference
        metering.count(len(ids), sum(n_tokens_read(reference, n) for n in real.sum(1).tolist()))
        nothing = points - points.detach()  # zero, with the gradient of the points
        read = reference.embed_ids(ids)
        read = read + (nothing if self._same_embeddings else nothing @ self._carry).to(read.dtype)
        log_probs, own, predicted = _log_probs(reference, read, ids, real)
        slopes = log_probs.detach()[..., self.vocabulary.writable] @ self._inverse.T
        own = own + (nothing[:, points.shape[1] - own.shape[1] :] * slopes).sum(dim=-1)
        return _mean_nll(own, predicted)

    @cached_property
    def _same_embeddings(self) -> bool:
        return self.reference.fingerprint == self.vocabulary.subject.fingerprint

    @cached_property
    def _inverse(self) -> Float[Tensor, "d_model n_writable"]:
        """Takes a value for each writable token to the slope of its least-squares linear continuation."""
        table = self.vocabulary.subject.embedding[self.vocabulary.writable].float()
        centred = table - table.mean(dim=0)
        return torch.linalg.pinv(centred.T @ centred, hermitian=True) @ centred.T

    @cached_property
    def _carry(self) -> Float[Tensor, "d_model d_reference"]:
        """From steps in the subject's embedding space to steps in the reference's."""
        return self._inverse @ self.reference.embedding[self.vocabulary.writable].float()


def _log_probs(
    reference: Subject,
    embeddings: Float[Tensor, "batch n d"],
    ids: Int[Tensor, "batch n"],
    real: Bool[Tensor, "batch n"],
) -> tuple[Float[Tensor, "batch m vocab"], Float[Tensor, "batch m"], Bool[Tensor, "batch m"]]:
    """All log-probabilities where the last `m` tokens are predicted, those of the tokens, and which tokens are real."""
    start = reference.prompt_embeddings(None).to(embeddings.dtype).expand(len(ids), -1, -1)
    n_start = start.shape[1]
    mask = torch.cat([real.new_ones(len(ids), n_start), real], 1)
    hidden = reference.backbone(torch.cat([start, embeddings], 1), mask, positions(mask))[:, :-1]
    first = 1 - min(1, n_start)  # the first token that is predicted
    log_probs = reference.head(hidden).float().log_softmax(-1)
    own = log_probs.gather(-1, ids[:, first:, None])[..., 0]
    return log_probs, own, real[:, first:]


def _mean_nll(own: Float[Tensor, "batch m"], predicted: Bool[Tensor, "batch m"]) -> Float[Tensor, "batch"]:
    return -(own * predicted).sum(1) / predicted.sum(1).clamp(min=1)
