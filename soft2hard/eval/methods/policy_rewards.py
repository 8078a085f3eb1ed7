"""How good a hard prompt is for a task: the rewards of RLPrompt and PIN."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import exp
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.eval.methods.discrete_budget import Meter
from soft2hard.eval.methods.discrete_fluency import log_perplexities
from soft2hard.lm.batching import batches_by_length
from soft2hard.lm.shared_prefix import EncodedExample, Runner, Targets, encode_example
from soft2hard.lm.subject import Subject

Kind = Literal["auto", "labels", "outputs"]

_BATCH_TOKENS = 16384
_LOGITS_AT_ONCE = 2**26


def uses_labels(kind: str, task: Task) -> bool:
    """Whether a task is rewarded by its label words: 'auto' asks that it has some and is not scored by exact match."""
    return kind == "labels" or (kind == "auto" and bool(task.labels) and task.metric != "exact_match")


@dataclass
class Trials:
    """A task's examples as prompts are tried on them, and the rewards so far."""

    examples: list[EncodedExample]
    """With label words: one for each example and label, the example's own label first."""
    n_labels: int
    """0: rewarded by outputs."""
    meter: Meter
    rewards: dict[str, float] = field(default_factory=dict)
    """Of each text tried; none is run twice."""

    @classmethod
    def of(cls, subject: Subject, examples: Sequence[Example], labels: Sequence[str], meter: Meter) -> "Trials":
        """`labels` are all label words, or none for a reward by outputs."""
        rows = []
        for example in examples:
            others = [label for label in labels if label != example.output]
            rows += [encode_example(subject, example.input, output) for output in (example.output, *others)]
        return cls(rows, len(labels), meter)


@dataclass(frozen=True)
class Rewards:
    """Piecewise gap rewards (arXiv 2205.12548, section 3.1), and what perplexity takes from them.

    By labels: for each example, the gap between the probability of its label and that of the likeliest other label,
    times `right` where it is positive and `wrong` where not; the mean over examples. Labels' probabilities are those
    of their whole outputs, EOS included, made to sum to 1.

    By outputs, for tasks without labels: every token of an output is a classification over the vocabulary, so the gap
    is that between its probability and the likeliest other token's, and it is positive throughout exactly where
    greedy search writes the output. The mean is over an output's tokens, EOS included, then over examples.

    With `perplexity_weight` (alpha of arXiv 2504.02144) the prompt's perplexity under the reference LM times this
    weight is taken off. Perplexities above the size of the vocabulary, worse than a uniform guess, count as that size:
    the worst prompts would otherwise decide the z-scores alone.
    """

    runner: Runner
    reference: Subject
    right: float
    wrong: float
    perplexity_weight: float

    def score(self, wanted: Sequence[tuple[Trials, str]]) -> None:
        """See to it that every text has its reward in its trials, all in shared batches."""
        wanted = list({(id(t), text): (t, text) for t, text in wanted if text not in t.rewards}.values())
        prompts = [self.runner.subject.prompt_embeddings(text) for _, text in wanted]
        for (trials, _), prompt in zip(wanted, prompts, strict=True):
            trials.meter.count(len(prompt), trials.examples)
        lengths = [
            len(p) + sum(e.n_read for e in trials.examples) for p, (trials, _) in zip(prompts, wanted, strict=True)
        ]
        for batch in batches_by_length(lengths, _BATCH_TOKENS):
            rewards = self._rewards([prompts[i] for i in batch], [wanted[i][0] for i in batch])
            for i, reward in zip(batch, rewards, strict=True):
                wanted[i][0].rewards[wanted[i][1]] = reward
        if self.perplexity_weight:
            self._charge(wanted)

    def _charge(self, wanted: Sequence[tuple[Trials, str]]) -> None:
        tokenizer, n = self.reference.tokenizer, len(self.reference.embedding)
        rows = [list(tokenizer(text, add_special_tokens=False)["input_ids"]) for _, text in wanted]
        for (trials, text), row, value in zip(wanted, rows, log_perplexities(self.reference, rows), strict=True):
            trials.meter.calls += 1
            trials.meter.tokens += len(row)
            trials.rewards[text] -= self.perplexity_weight * min(exp(min(value, 80.0)), n)

    @torch.no_grad()
    def _rewards(self, prompts: Sequence[Float[Tensor, "_n d_model"]], trials: Sequence[Trials]) -> list[float]:
        targets = self.runner.run(prompts, [t.examples for t in trials])
        log_probs, gaps = self._of_tokens(targets)
        sizes = torch.bincount(targets.prompt, minlength=len(trials)).tolist()
        parts = zip(trials, log_probs.split(sizes), gaps.split(sizes), targets.example.cpu().split(sizes), strict=True)
        found = []
        for of_prompt, own, gap, example in parts:
            n = len(of_prompt.examples)
            if of_prompt.n_labels:
                sums = torch.zeros(n).index_add(0, example, own)
                per_example = self._weighted(_label_gaps(sums.view(-1, of_prompt.n_labels)))
            else:
                sums = torch.zeros(n).index_add(0, example, self._weighted(gap))
                per_example = sums / torch.bincount(example, minlength=n)
            found.append(per_example.mean().item())
        return found

    def _weighted(self, gaps: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return gaps * torch.where(gaps > 0, self.right, self.wrong)

    def _of_tokens(self, targets: Targets) -> tuple[Float[Tensor, "n_targets"], Float[Tensor, "n_targets"]]:
        """Log-probability of each token, and its probability less the likeliest other one's; on the CPU."""
        subject = self.runner.subject
        step = max(1, _LOGITS_AT_ONCE // len(subject.embedding))
        own, gaps = [], []
        for hidden, ids in zip(targets.hidden.split(step), targets.ids.split(step), strict=True):
            log_probs = subject.head(hidden).float().log_softmax(-1)
            first, second = log_probs.topk(2, dim=-1).values.unbind(-1)
            chosen = log_probs.gather(-1, ids[:, None])[:, 0]
            is_first = log_probs.argmax(-1) == ids
            own.append(chosen)
            gaps.append(chosen.exp() - torch.where(is_first, second, first).exp())
        return torch.cat(own).cpu(), torch.cat(gaps).cpu()


def _label_gaps(log_likelihoods: Float[Tensor, "examples labels"]) -> Float[Tensor, "examples"]:
    """Probability of the first label less the highest of the others."""
    probabilities = log_likelihoods.softmax(dim=-1)
    return probabilities[:, 0] - probabilities[:, 1:].amax(dim=-1)
