"""PEZ: gradient descent on a prompt that is projected to tokens before every forward pass.

With a weight on perplexity, the reference LM's log-perplexity is part of what descends (arXiv 2504.02144).
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from random import Random
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Adafactor

from soft2hard.compute import metering
from soft2hard.data_gen.tuning.slots import Deck, embedding_scale, encode_examples
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.discrete import Meter, Search, Searching, SearchJob, Vocabulary, perplexity_terms
from soft2hard.eval.methods.options import PezOptions, Roles
from soft2hard.lm.batching import EncodedExample, batches_by_length, positions
from soft2hard.lm.scoring import Targets
from soft2hard.lm.sequences import Query
from soft2hard.lm.subject import Subject

_BATCH_TOKENS = 16384
_LARGEST = 80.0  # nats a token; the exponential of more leaves the range of float32


@dataclass(eq=False, kw_only=True)
class _Job(SearchJob):
    start: Float[Tensor, "n d_model"]
    deck: Deck
    validation: list[EncodedExample]
    soft: Float[Tensor, "n_soft d_model"] | None
    """The soft prompt to match, all that stands before it included; None where the task's outputs are the target."""
    as_soft: dict[int, EncodedExample] = field(default_factory=dict)
    """Each example, by its id, as it stands after the soft prompt."""


class _Trial(NamedTuple):
    """A prompt with the examples to run under it."""

    prompt: Float[Tensor, "n d_model"]
    """Embeddings, BOS included; gradients flow to them."""
    examples: Sequence[EncodedExample]
    job: _Job


class _Search(Search[_Job]):
    def __init__(self, method: PezOptions, bench: Bench) -> None:
        super().__init__(method, bench)
        self.scale = embedding_scale(self.subject) if method.unit == "embedding" else 1.0
        self.fluency: StraightThroughFluency | None = None
        if method.perplexity_weight:
            reference = bench.reference if method.perplexity_lm == "reference" else None
            self.fluency = StraightThroughFluency(self.vocabulary, reference or self.subject, method.fluency_roles)
        self._sign = -1 if method.aim == "minimise" else 1
        self._bos = self.subject.lead_embeddings("hard")

    def prepare(self, case: Case) -> _Job:
        """Where the options match outputs, those that the soft prompt has written follow for all jobs at once."""
        train, validation = (encode_examples(self.subject, case.task, part, "hard") for part in ("train", "validation"))
        rng = Random(f"{self.bench.seed}/{case.task.name}")
        n = case.soft_prompt.n_tokens if self.method.n_tokens == "soft_prompt" else self.method.n_tokens
        if self.method.init == "soft_prompt":
            start = self.subject.prompt_embeddings(case.soft_prompt)[-case.soft_prompt.n_tokens :].float()
        else:
            ids = torch.tensor(self.vocabulary.random(n, rng), device=self.subject.device)
            start = self.subject.embed_ids(ids).float()
        self.vocabulary.check_room(case.task.name, len(start), train + validation)
        return _Job(
            case=case,
            meter=Meter(self.bench.max_model_calls),
            start=start,
            deck=Deck(train, rng),
            validation=validation,
            soft=self.subject.prompt_embeddings(case.soft_prompt) if self.method.objective == "match" else None,
        )

    def _write_outputs(self, jobs: Sequence[_Job]) -> None:
        """Put the soft prompt's outputs in the place of the task's."""
        for part in ("train", "validation"):
            inputs = [[example.input for example in getattr(job.case.task, part)] for job in jobs]
            queries = [Query(job.case.soft_prompt, x) for job, some in zip(jobs, inputs, strict=True) for x in some]
            most = self.method.max_new_tokens
            rows = iter(self.subject.generate_ids(queries, max_new_tokens=most))
            for job, some in zip(jobs, inputs, strict=True):
                # As they were written: the same text tokenised again may be tokens that the soft prompt never writes.
                written = (next(rows) for _ in some)
                outputs = [self.subject.closed(row) if len(row) < most else row for row in written]
                examples, soft = (
                    [self.subject.encode_input(x, kind, y) for x, y in zip(some, outputs, strict=True)]
                    for kind in ("hard", "soft")
                )
                job.as_soft |= zip(map(id, examples), soft, strict=True)
                job.meter.count(len(job.soft), examples)
                if part == "train":
                    job.deck.examples = examples
                else:
                    job.validation = examples

    def search(self, jobs: list[_Job]) -> None:
        """Take steps on the continuous copies of all jobs."""
        options = self.method
        if options.objective == "match":
            self._write_outputs(jobs)
        copies = [(job.start / self.scale).requires_grad_() for job in jobs]
        optimizer = _optimizer(copies, options)
        active = list(range(len(jobs)))
        for step in range(options.steps + 1):
            padded = pad_sequence([copy.detach() for copy in copies], batch_first=True)
            ids = self.vocabulary.nearest(padded)
            staying = [i for i in active if step < options.steps and self._affords_step(jobs[i])]
            if self.is_over:
                staying = []
            ended = set(active) - set(staying)
            due = active if step % options.eval_every == 0 else [i for i in active if i in ended]
            self._look([(jobs[i], ids[i, : len(jobs[i].start)].tolist()) for i in due], step)
            active = staying
            if not active:
                return
            gradients = self._gradients([jobs[i] for i in active], ids[active], padded[active] * self.scale)
            self._step(optimizer, [copies[i] for i in active], gradients)

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        copies: Sequence[Tensor],
        gradients: Iterable[Float[Tensor, "n d_model"]],
    ) -> None:
        """Step on these copies alone; each gradient is padded below, and clipped by itself."""
        optimizer.zero_grad()
        *_, clip = self.method.stepping
        for copy, gradient in zip(copies, gradients, strict=True):
            copy.grad = gradient[: len(copy)].clone()
            if clip is not None:
                torch.nn.utils.clip_grad_norm_([copy], clip)
        optimizer.step()

    def _affords_step(self, job: _Job) -> bool:
        """True if the look now due, a step, and the look that has to follow it are within the budget."""
        passes = 1 + (job.soft is not None)
        n_judged = 3 if self.fluency is not None else 0  # by the reference LM, in the step and in both looks
        return job.meter.affords(passes * (self.method.batch_size + 2 * len(job.validation)) + n_judged)

    def _gradients(
        self, jobs: Sequence[_Job], ids: Int[Tensor, "jobs n"], copies: Float[Tensor, "jobs n d_model"]
    ) -> Float[Tensor, "jobs n d_model"]:
        """The objective's gradient, in units of the learning rate's scale: at the projected points `ids`, and that of
        fluency there or at the continuous copies, as the options say."""
        points = self.subject.embed_ids(ids).float().requires_grad_()
        n, bos = self.method.batch_size, self._bos.dtype
        trials = [self._trial(job, points[i, : len(job.start)].to(bos), job.deck.deal(n)) for i, job in enumerate(jobs)]
        gradient = torch.zeros_like(points)
        for _, losses in self._losses(trials):
            # A sum, so that a case's gradient is that of its own loss whatever the others hold.
            gradient += self._sign * torch.autograd.grad(losses.sum(), points)[0]
        if self.fluency is not None:
            lengths = torch.tensor([len(job.start) for job in jobs], device=ids.device)
            real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            at = copies.clone().requires_grad_() if self.method.fluency_at == "copy" else points
            fluency = self.method.perplexity_weight * self._term(self.fluency(at, ids, real))
            gradient += torch.autograd.grad(fluency.sum(), at)[0]
            for job in jobs:
                self._count_judged(job, len(job.start))
        return gradient * self.scale

    def _term(self, log_perplexity: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """What the weight on perplexity multiplies."""
        return log_perplexity.clamp(max=_LARGEST).exp() if self.method.fluency == "perplexity" else log_perplexity

    @torch.no_grad()
    def _look(self, due: Sequence[tuple[_Job, list[int]]], step: int) -> None:
        """Score the texts of these cases on their validation examples."""
        texts = [self.vocabulary.text(ids) for _, ids in due]
        rows = [self.vocabulary.ids(text) for text in texts]
        prompts = [self.subject.embed_ids(torch.tensor(row, dtype=torch.long, device=self._bos.device)) for row in rows]
        trials = [self._trial(job, prompt, job.validation) for (job, _), prompt in zip(due, prompts, strict=True)]
        found: dict[int, float] = {}
        for batch, losses in self._losses(trials):
            found |= dict(zip(batch, losses.tolist(), strict=True))
        log_perplexity = perplexity_terms(self.fluency.reference, texts) if self.fluency else []
        for i, (job, _) in enumerate(due):
            point, score = {"step": step, "loss": found[i], "prompt": texts[i]}, -self._sign * found[i]
            if self.fluency:
                self._count_judged(job, len(rows[i]))
                point["log_perplexity"] = log_perplexity[i]
                score -= self.method.perplexity_weight * float(self._term(torch.tensor(log_perplexity[i])))
            job.curve.append(point)
            job.offer(step, texts[i], score)

    def _count_judged(self, job: _Job, n: int) -> None:
        """The reference LM reads a prompt of `n` tokens for its log-perplexity; an empty one it need not read."""
        if n:
            job.meter.add(1, self.fluency.n_read(n))

    def _trial(self, job: _Job, prompt: Float[Tensor, "n d"], examples: Sequence[EncodedExample]) -> _Trial:
        """Examples to run under a prompt without BOS, counted."""
        prompt = torch.cat([self._bos, prompt])
        job.meter.count(len(prompt), examples)
        if job.soft is not None:
            job.meter.count(len(job.soft), examples)
        return _Trial(prompt, examples, job)

    def _losses(self, trials: Sequence[_Trial]) -> Iterator[tuple[list[int], Float[Tensor, "_n"]]]:
        """Batches of trials, by number, with the loss of each, mean over its output positions, nats a token.

        Cross-entropy of the outputs, or where there are soft prompts KL(soft || prompt) between next-token
        distributions (the output differential of arXiv 2504.02144, section 4, on distributions).
        """
        lengths = [len(trial.prompt) + sum(e.n_read for e in trial.examples) for trial in trials]
        for batch in batches_by_length(lengths, _BATCH_TOKENS):
            chosen = [trials[i] for i in batch]
            examples = [trial.examples for trial in chosen]
            targets = self.subject.scorer.run([trial.prompt for trial in chosen], examples)
            if any(trial.job.soft is None for trial in chosen):
                values = F.nll_loss(self._log_probs(targets), targets.ids, reduction="none")
            else:
                log_probs = self._log_probs(targets)
                with torch.no_grad():
                    as_soft = [[trial.job.as_soft[id(e)] for e in trial.examples] for trial in chosen]
                    wanted = self._log_probs(self.subject.scorer.run([trial.job.soft for trial in chosen], as_soft))
                values = F.kl_div(log_probs, wanted, log_target=True, reduction="none").sum(-1)
            total = torch.zeros(len(chosen), device=values.device).index_add(0, targets.prompt, values)
            yield batch, total / torch.bincount(targets.prompt, minlength=len(chosen))

    def _log_probs(self, targets: Targets) -> Float[Tensor, "n_targets vocab"]:
        return self.subject.scorer.log_probs(targets.hidden)


def _optimizer(copies: Sequence[Tensor], options: PezOptions) -> torch.optim.Optimizer:
    """Each copy is a parameter of its own: Adafactor scales a step by all of a parameter's entries, and cases are to
    leave each other alone."""
    lr, weight_decay, _ = options.stepping
    if options.optimizer == "adamw":
        return torch.optim.AdamW(copies, lr=lr, weight_decay=weight_decay)
    fixed = {"relative_step": False, "scale_parameter": False, "warmup_init": False}
    return Adafactor(copies, lr=lr, weight_decay=weight_decay, **fixed)


class Pez(Searching, PezOptions):
    """The continuous copy of a prompt is projected to writable tokens, the objective's gradient is taken there, and
    the optimizer applies it to the copy. Projection is by cosine, as in the published code. The text with the best
    objective on the task's validation examples is returned; it is judged as the subject reads it, tokenised again.
    """

    searches: ClassVar = _Search


class StraightThroughFluency:
    """Log-perplexity whose gradient reaches the continuous copy of a prompt.

    At the points where the projected tokens lie in the subject's embedding space, its value is that of these tokens.
    From there it is continued in both of a token's roles, or in one: as what later tokens are predicted from ('read'),
    through the reference itself, and as what is itself 'predicted', as a linear function. A quantity that is only
    defined token by token (the reference's embedding, where it is another model; the log-probability) is continued to
    other points by least squares over the writable tokens. For the subject itself as reference the first role's
    continuation is exact, and where its output layer is tied the second's is nearly so.

    Raises UserError for a reference with another vocabulary, or an encoder-decoder model.
    """

    def __init__(self, vocabulary: Vocabulary, reference: Subject, roles: Roles = "both"):
        vocabulary.check_serves(reference, "reference LM")
        self.vocabulary, self.reference, self.roles = vocabulary, reference, roles
        self._start = reference.leading_embeddings

    def n_read(self, n: int) -> int:
        """Tokens that the reference reads to judge a row of `n`: its BOS, where it has one, and the row; 0 for 0."""
        return n + len(self._start) if n else 0

    def __call__(
        self,
        points: Float[Tensor, "batch n d_model"],
        ids: Int[Tensor, "batch n"],
        real: Bool[Tensor, "batch n"],
    ) -> Float[Tensor, "batch"]:
        """Nats a token of each prompt at `points`, in the subject's embedding space, where the tokens `ids` lie or near
        them; padded on the right as `real` says."""
        reference = self.reference
        metering.count(len(ids), sum(map(self.n_read, real.sum(1).tolist())))
        # Zero where the points are those of the tokens, but always with the points' gradient.
        away = points - self.vocabulary.subject.embed_ids(ids).float()
        read = reference.embed_ids(ids)
        if self.roles != "predicted":
            read = read + (away if self._same_embeddings else away @ self._carry).to(read.dtype)
        start = self._start.to(read.dtype).expand(len(ids), -1, -1)
        mask = torch.cat([real.new_ones(start.shape[:2]), real], 1)
        hidden = reference.backbone(torch.cat([start, read], 1), mask, positions(mask))[:, :-1]
        first = 1 - min(1, start.shape[1])  # the first token that is predicted
        log_probs, predicted = reference.head(hidden).float().log_softmax(-1), real[:, first:]
        own = log_probs.gather(-1, ids[:, first:, None])[..., 0]
        if self.roles != "read":
            slopes = log_probs.detach()[..., self.vocabulary.writable] @ self._inverse.T
            own = own + (away[:, first:] * slopes).sum(dim=-1)
        return -(own * predicted).sum(1) / predicted.sum(1).clamp(min=1)

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
