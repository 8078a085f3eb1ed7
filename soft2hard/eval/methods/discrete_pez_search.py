"""The search that PEZ makes, for a group of cases at once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

import torch
from jaxtyping import Float, Int
from torch import Tensor

from soft2hard.data_gen.tuning.slots import Deck, embedding_scale, encode_examples
from soft2hard.eval.methods.base import Bench, Case, Outcome
from soft2hard.eval.methods.discrete_budget import Best, Clock, Group, Meter
from soft2hard.eval.methods.discrete_fluency import StraightThroughFluency, log_perplexities, n_tokens_read
from soft2hard.eval.methods.discrete_objective import Trial, losses, outputs_under
from soft2hard.eval.methods.discrete_pez_options import PezOptions
from soft2hard.eval.methods.discrete_vocabulary import Vocabulary, check_room
from soft2hard.lm.batching import batches_by_length
from soft2hard.lm.shared_prefix import EncodedExample, Runner

_BATCH_TOKENS = 16384


@dataclass
class _Job:
    """A case being searched."""

    case: Case
    start: Float[Tensor, "n d_model"]
    deck: Deck
    validation: list[EncodedExample]
    meter: Meter
    soft: Float[Tensor, "n_soft d_model"] | None
    """What is to be matched, BOS included; None where the task's own outputs are."""
    best: Best = field(default_factory=Best)
    curve: list[dict[str, float]] = field(default_factory=list)


class PezSearch:
    """Searches a group of cases; batches are shared, and nothing else."""

    def __init__(
        self,
        options: PezOptions,
        cases: Sequence[Case],
        bench: Bench,
        runner: Runner,
        vocabulary: Vocabulary,
        fluency: StraightThroughFluency | None,
        clock: Clock,
    ):
        self.options, self.cases, self.bench, self.clock = options, cases, bench, clock
        self.runner, self.vocabulary, self.fluency = runner, vocabulary, fluency
        self.subject = runner.subject
        self.scale = embedding_scale(self.subject) if options.unit == "embedding" else 1.0
        self._bos = self.subject.prompt_embeddings(None)

    def run(self) -> Iterator[Outcome]:
        """One outcome a case, in order."""
        group = Group(self.cases, self._job)
        if self.options.objective == "match":
            self._write_outputs(group.jobs)
        self._search(group.jobs)
        yield from group.outcomes(self.clock)

    # --- cases --------------------------------------------------------------------------------

    def _job(self, case: Case) -> _Job:
        train, validation = (encode_examples(self.subject, case.task, part) for part in ("train", "validation"))
        rng = Random(f"{self.bench.seed}/{case.task.name}")
        if self.options.init == "soft_prompt":
            start = self.subject.prompt_embeddings(case.soft_prompt)[len(self._bos) :].float()
        else:
            ids = torch.tensor(self.vocabulary.random(self.options.n_tokens, rng), device=self.subject.device)
            start = self.subject.embed_ids(ids).float()
        # A text may be split into more tokens than it was made of.
        check_room(self.subject, 2 * len(start), max(e.n_read for e in train + validation), case.task.name)
        soft = self.subject.prompt_embeddings(case.soft_prompt) if self.options.objective == "match" else None
        return _Job(case, start, Deck(train, rng), validation, Meter(self.bench.max_model_calls), soft)

    def _write_outputs(self, jobs: Sequence[_Job]) -> None:
        """Put the soft prompt's outputs in the place of the task's."""
        for part in ("train", "validation"):
            written = outputs_under(self.subject, [job.case for job in jobs], part, self.options.max_new_tokens)
            for job, examples in zip(jobs, written, strict=True):
                job.meter.count(len(job.soft), examples)
                if part == "train":
                    job.deck.examples = examples
                else:
                    job.validation = examples

    # --- steps --------------------------------------------------------------------------------

    def _search(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        options = self.options
        copies = torch.nn.utils.rnn.pad_sequence([job.start for job in jobs], batch_first=True) / self.scale
        copies = copies.requires_grad_()
        optimizer = torch.optim.AdamW([copies], lr=options.lr, weight_decay=options.weight_decay)
        active = list(range(len(jobs)))
        for step in range(options.steps + 1):
            ids = self.vocabulary.nearest(copies.detach())
            goes_on = [i for i in active if step < options.steps and self._affords_step(jobs[i])]
            if self.clock.is_over:
                goes_on = []
            ended = set(active) - set(goes_on)
            due = active if step % options.eval_every == 0 else [i for i in active if i in ended]
            self._look([(jobs[i], ids[i, : len(jobs[i].start)].tolist()) for i in due], step)
            active = goes_on
            if not active:
                return
            copies.grad = torch.zeros_like(copies)
            copies.grad[active] = self._gradients([jobs[i] for i in active], ids[active])
            optimizer.step()

    def _affords_step(self, job: _Job) -> bool:
        """Whether the look now due, a step, and the look that has to follow it are within the budget."""
        passes = 1 + (job.soft is not None)
        n_judged = 3 if self.fluency is not None else 0  # by the reference LM, in the step and in both looks
        return job.meter.affords(passes * (self.options.batch_size + 2 * len(job.validation)) + n_judged)

    def _gradients(self, jobs: Sequence[_Job], ids: Int[Tensor, "jobs n"]) -> Float[Tensor, "jobs n d_model"]:
        """The objective's gradient at the projected points, in units of the learning rate's scale."""
        points = self.subject.embed_ids(ids).float().requires_grad_()
        n, bos = self.options.batch_size, self._bos.dtype
        trials = [self._trial(job, points[i, : len(job.start)].to(bos), job.deck.deal(n)) for i, job in enumerate(jobs)]
        gradient = torch.zeros_like(points)
        for batch in batches_by_length([trial.n_tokens for trial in trials], _BATCH_TOKENS):
            # A sum, so that a case's gradient is that of its own loss whatever the others hold.
            total = losses(self.runner, [trials[i] for i in batch]).sum()
            gradient += torch.autograd.grad(total, points)[0]
        if self.fluency is not None:
            lengths = torch.tensor([len(job.start) for job in jobs], device=ids.device)
            real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
            fluency = self.options.perplexity_weight * self.fluency(points, ids, real)
            gradient += torch.autograd.grad(fluency.sum(), points)[0]
            for job in jobs:
                self._count_judged(job, len(job.start))
        return gradient * self.scale

    @torch.no_grad()
    def _look(self, due: Sequence[tuple[_Job, list[int]]], step: int) -> None:
        """Score the texts of these cases on their validation examples."""
        texts = [self.vocabulary.text(ids) for _, ids in due]
        rows = [self.vocabulary.ids(text) for text in texts]
        prompts = [self.subject.embed_ids(torch.tensor(row, dtype=torch.long, device=self._bos.device)) for row in rows]
        trials = [self._trial(job, prompt, job.validation) for (job, _), prompt in zip(due, prompts, strict=True)]
        found: dict[int, float] = {}
        for batch in batches_by_length([trial.n_tokens for trial in trials], _BATCH_TOKENS):
            found |= dict(zip(batch, losses(self.runner, [trials[i] for i in batch]).tolist(), strict=True))
        log_perplexity = log_perplexities(self.fluency.reference, rows) if self.fluency else []
        for i, (job, _) in enumerate(due):
            point, score = {"step": step, "loss": found[i]}, -found[i]
            if self.fluency:
                self._count_judged(job, len(rows[i]))
                point["log_perplexity"] = log_perplexity[i]
                score -= self.options.perplexity_weight * log_perplexity[i]
            job.curve.append(point)
            job.best.offer(step, texts[i], score)

    def _count_judged(self, job: _Job, n: int) -> None:
        """The reference LM reads a prompt of `n` tokens for its log-perplexity; an empty one it need not read."""
        if n:
            job.meter.calls += 1
            job.meter.tokens += n_tokens_read(self.fluency.reference, n)

    def _trial(self, job: _Job, prompt: Float[Tensor, "n d"], examples: Sequence[EncodedExample]) -> Trial:
        """Examples to run under a prompt without BOS, counted."""
        prompt = torch.cat([self._bos, prompt])
        job.meter.count(len(prompt), examples)
        if job.soft is not None:
            job.meter.count(len(job.soft), examples)
        return Trial(prompt, examples, job.soft)
