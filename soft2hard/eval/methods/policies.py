"""RLPrompt and PIN: a policy for each case, which writes prompts and learns from rewards; many are trained at once.

A prompt is a text between the models: the policy LM writes it in its tokens, the subject reads it in its own, and the
reference LM judges it in its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from soft2hard.data_gen.tasks import Example, Task
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case
from soft2hard.eval.methods.discrete import Meter, Search, Searching, SearchJob, Writing, perplexity_charges
from soft2hard.eval.methods.options import PinOptions, PolicyOptions, RLPromptOptions
from soft2hard.eval.methods.policy_training import Elites, PolicyTrainer, Rewarded
from soft2hard.eval.methods.q_learning import (
    Entropy,
    Policies,
    PolicyLM,
    Rollout,
    ShannonEntropy,
    TaskNetworks,
    TsallisEntropy,
    z_scores,
)
from soft2hard.eval.methods.style_rewards import StyleRewards, StyleTrials
from soft2hard.eval.metrics.task_score import WRITTEN
from soft2hard.lm.batching import EncodedExample, batches_by_length
from soft2hard.lm.scoring import Targets
from soft2hard.lm.subject import Subject

_BATCH_TOKENS = 16384
_LOGITS_AT_ONCE = 2**26


@dataclass(eq=False, kw_only=True)
class _Job(SearchJob):
    """A case whose policy is being trained.

    Its curve holds, by step, rewards on training examples (mean of the batch, best so far), the greedy prompt with its
    reward on validation examples, and how many tokens its policy might have written, mean over positions.
    """

    train: "Trials | StyleTrials"
    validation: "Trials | StyleTrials"
    generator: Generator
    pool: list[tuple[float, str]] = field(default_factory=list)
    """The sampled prompts with the highest rewards on training examples, best first, with these; where rewards of two
    steps cannot be compared, of the last step, with z-scores."""
    is_active: bool = True

    def take(self, found: Sequence[tuple[float, str]], keep: int) -> None:
        """The best `keep` of these and of those before."""
        best = {text: reward for reward, text in [*self.pool, *found]}
        self.pool = sorted(((reward, text) for text, reward in best.items()), reverse=True)[:keep]


class _Search(Search[_Job]):
    def __init__(self, method: PolicyOptions, bench: Bench) -> None:
        super().__init__(method, bench)
        policy = _policy_model(method.policy, bench)
        self.writing = Writing(policy, self.subject.tokenizer)
        self.lm = PolicyLM(policy, self.writing.tokens, method.start)
        reference = (bench.reference if method.perplexity_lm == "reference" else None) or bench.subject
        self.rewards: Rewards | StyleRewards = (
            StyleRewards(bench, reference, method)
            if method.reward == "style"
            else Rewards(self.subject, reference, method)
        )

    def prepare(self, case: Case) -> _Job:
        """Draw the examples that prompts are rewarded on."""
        task, method = case.task, self.method
        seed = f"{self.bench.seed}/{task.name}"
        meter = Meter(self.bench.max_model_calls)
        train, validation = self.rewards.trials(task, seed, meter)
        examples = train.examples + validation.examples
        self.vocabulary.check_room(task.name, method.n_tokens, examples, self.writing.longest)
        generator = Generator(device=self.lm.model.device).manual_seed(Random(f"policy {seed}").getrandbits(63))
        return _Job(case=case, meter=meter, train=train, validation=validation, generator=generator)

    def search(self, jobs: list[_Job]) -> None:
        """Train a policy for each job."""
        method, generators = self.method, [job.generator for job in jobs]
        networks = TaskNetworks(generators, self.lm.d_out, method.hidden, method.lr, method.clip)
        policies = Policies(self.lm, networks, method.n_allowed(self.lm.model.vocab_size))
        rngs = [Random(f"elites {self.bench.seed}/{job.case.task.name}") for job in jobs]
        elites = Elites(rngs, self.writing.tokens.tolist())
        trainer = PolicyTrainer(policies, method.entropy, method, generators, elites)
        for step in range(1, method.steps + 1):
            rewards = trainer.step(step, lambda rollout: self._rewarded(jobs, self._texts(rollout)))
            is_last = step == method.steps or self.is_over
            active = [job for job in jobs if job.is_active]
            ended = [job for job in active if is_last or not self._affords_step(job)]
            self._look(trainer, jobs, active if step % method.eval_every == 0 else ended, step, rewards)
            for job in ended:
                self._offer(job, step, [text for _, text in job.pool])
                job.is_active = False
            if len(ended) == len(active):
                return

    def _affords_step(self, job: _Job) -> bool:
        """True if another step and two looks at the validation examples are within the budget."""
        looks = 4 + self.method.keep - 1
        scored = self.method.batch * job.train.n_calls + looks * job.validation.n_calls
        scored *= self.method.accuracy_weight > 0
        perplexities = self.method.batch + looks if self.method.perplexity_weight else 0
        return job.meter.affords(self.method.batch + 2 + scored + perplexities)

    def _rewarded(self, jobs: Sequence[_Job], texts: Sequence[Sequence[str]]) -> Rewarded:
        """Rewards of sampled texts on training examples, and z-scores of these; 0 for all of a job that has ended."""
        going = [(row, job, texts[row]) for row, job in enumerate(jobs) if job.is_active]
        sampled = self.rewards.sampled([(job.train, of_task) for _, job, of_task in going])
        found, standardised = torch.zeros(2, len(jobs), self.method.batch, device=self.lm.model.device)
        for (row, job, of_task), (rewards, scores) in zip(going, sampled, strict=True):
            job.meter.add(len(of_task), len(of_task) * self._n_read)
            if self.rewards.are_comparable:
                job.take(list(zip(rewards, of_task, strict=True)), self.method.keep)
            else:
                job.pool = [max(zip(scores, of_task, strict=True))]
            found[row], standardised[row] = torch.tensor(rewards), torch.tensor(scores)
        return found, standardised

    def _look(
        self,
        trainer: PolicyTrainer,
        jobs: Sequence[_Job],
        due: Sequence[_Job],
        step: int,
        rewards: Float[Tensor, "tasks batch"],
    ) -> None:
        """Score the greedy prompt and the favourite of each job that is due on its validation examples."""
        if not due:
            return
        rollout = trainer.greedy()
        texts = [text for (text,) in self._texts(rollout)]
        with torch.no_grad():
            probabilities = self.method.entropy.policy(trainer.policies.q_values(rollout))
        support = (probabilities > 0).sum(-1).float().mean((1, 2))
        looks = [look for look in zip(jobs, texts, rewards, support.tolist(), strict=True) if look[0] in due]
        self.rewards.score([(job.validation, t) for job, text, *_ in looks for t in (text, job.pool[0][1])])
        for job, text, sampled, n_possible in looks:
            job.meter.add(1, self._n_read)
            self._offer(job, step, (text, job.pool[0][1]))
            point = {"step": step, "mean_reward": sampled.mean().item(), "best_reward": job.pool[0][0]}
            greedy_prompt = {"prompt": text, "greedy_reward": job.validation.rewards[text]}
            job.curve.append(point | greedy_prompt | {"support": n_possible})

    def _offer(self, job: _Job, step: int, texts: Sequence[str]) -> None:
        self.rewards.score([(job.validation, text) for text in texts])
        for text in texts:
            job.offer(step, text, job.validation.rewards[text])

    def _texts(self, rollout: Rollout) -> list[list[str]]:
        return [[self.writing.text(ids) for ids in of_task] for of_task in rollout.actions.tolist()]

    @property
    def _n_read(self) -> int:
        """Tokens the policy LM reads of a prompt: its start, and all but the last token."""
        return len(self.lm.start) + self.method.n_tokens - 1


def _policy_model(name: str | None, bench: Bench) -> Subject:
    if name is None:
        return bench.subject
    if name != "reference":
        return Subject.from_pretrained(name)
    if bench.reference is None:
        raise UserError("The policy LM is to be the reference LM, but there is none.", "Name a reference LM.")
    return bench.reference


def labels_rewarded(reward: str, task: Task) -> tuple[str, ...]:
    """The label words that a task is rewarded by; none where its outputs are.

    'auto' asks that the task has some and is not scored by exact match. Raises UserError where 'labels' are asked for
    and not every output is one of two or more.
    """
    labels = task.labels or ()
    if reward == "outputs" or (reward == "auto" and (not labels or task.metric in WRITTEN)):
        return ()
    if len(set(labels)) < 2 or not all(e.output in labels for e in (*task.train, *task.validation)):
        raise UserError(f"Task '{task.name}' has outputs that are no label of two or more.", "Reward its outputs.")
    return labels


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
            rows += [subject.encode_example(example.input, output, "hard") for output in (example.output, *others)]
        return cls(rows, len(labels), meter)

    @property
    def n_calls(self) -> int:
        """Sequences that it takes to try a prompt."""
        return len(self.examples)


class Rewards:
    """Piecewise gap rewards (arXiv 2205.12548, section 3.1), and what perplexity takes from them.

    By labels: for each example, the gap between the probability of its label and that of the likeliest other label,
    times `right` where it is positive and `wrong` where not; the mean over examples. Labels' probabilities are those
    of their whole outputs, EOS included, made to sum to 1. Where `reward_form` is cross_entropy, the mean logarithm of
    the label's probability is the reward.

    By outputs, for tasks without labels: every token of an output is a classification over the vocabulary, so the gap
    is that between its probability and the likeliest other token's, and it is positive throughout exactly where
    greedy search writes the output. The mean is over an output's tokens, EOS included, then over examples. Where
    `reward_form` is cross_entropy, it is the mean of the tokens' log-probabilities.

    Times `accuracy_weight`, with 0 of which nothing is run, it is added, or taken off where the aim is to minimise.
    With `perplexity_weight` (alpha of arXiv 2504.02144) the prompt's perplexity under the reference LM times this
    weight is taken off (`perplexity_charges`).
    """

    are_comparable: ClassVar = True
    """Those of two steps: they are on the same examples."""

    def __init__(self, subject: Subject, reference: Subject, options: PolicyOptions):
        self.subject, self.reference, self.options = subject, reference, options

    def trials(self, task: Task, seed: str, meter: Meter) -> tuple[Trials, Trials]:
        """The examples of a task that prompts are rewarded on, drawn by the seed, and those that choose among prompts.

        Raises UserError where there are none, and as `labels_rewarded` does.
        """
        labels = labels_rewarded(self.options.reward, task)
        if not task.train or not task.validation:
            raise UserError(f"Task '{task.name}' lacks training or validation examples.", "Give it some.")
        shown = Random(seed).sample(task.train, min(self.options.examples, len(task.train)))
        return tuple(Trials.of(self.subject, some, labels, meter) for some in (shown, task.validation))

    def sampled(self, batches: Sequence[tuple[Trials, Sequence[str]]]) -> list[tuple[list[float], list[float]]]:
        """For each task's prompts of a step their rewards, and the z-scores of these."""
        self.score([(trials, text) for trials, texts in batches for text in texts])
        rows = [[trials.rewards[text] for text in texts] for trials, texts in batches]
        return [(row, z_scores(torch.tensor([row]))[0].tolist()) for row in rows]

    def score(self, wanted: Sequence[tuple[Trials, str]]) -> None:
        """Put the rewards of these texts where they are missing; all tasks share batches."""
        wanted = list({(id(t), text): (t, text) for t, text in wanted if text not in t.rewards}.values())
        for trials, text in wanted:
            trials.rewards[text] = 0.0
        if self.options.accuracy_weight:
            self._try(wanted)
        if self.options.perplexity_weight:
            self._charge(wanted)

    def _try(self, wanted: Sequence[tuple[Trials, str]]) -> None:
        """Run these texts on their examples."""
        prompts = [self.subject.prompt_embeddings(text) for _, text in wanted]
        lengths = []
        for (trials, _), prompt in zip(wanted, prompts, strict=True):
            trials.meter.count(len(prompt), trials.examples)
            lengths.append(len(prompt) + sum(example.n_read for example in trials.examples))
        weight = self.options.accuracy_weight * (-1 if self.options.aim == "minimise" else 1)
        for batch in batches_by_length(lengths, _BATCH_TOKENS):
            rewards = self._rewards([prompts[i] for i in batch], [wanted[i][0] for i in batch])
            for i, reward in zip(batch, rewards, strict=True):
                wanted[i][0].rewards[wanted[i][1]] = weight * reward

    def _charge(self, wanted: Sequence[tuple[Trials, str]]) -> None:
        tokenizer, texts = self.reference.tokenizer, [text for _, text in wanted]
        charges = perplexity_charges(self.reference, texts)
        for (trials, text), charge in zip(wanted, charges, strict=True):
            trials.meter.add(1, len(tokenizer(text, add_special_tokens=False)["input_ids"]))
            trials.rewards[text] -= self.options.perplexity_weight * charge

    @torch.no_grad()
    def _rewards(self, prompts: Sequence[Float[Tensor, "_n d_model"]], trials: Sequence[Trials]) -> list[float]:
        targets = self.subject.scorer.run(prompts, [t.examples for t in trials])
        log_probs, gaps = self._of_tokens(targets)
        by_gap = self.options.reward_form == "gap"
        of_tokens = self._weighted(gaps) if by_gap else log_probs
        sizes = torch.bincount(targets.prompt, minlength=len(trials)).tolist()
        parts = (log_probs.split(sizes), of_tokens.split(sizes), targets.example.cpu().split(sizes))
        found = []
        for of_prompt, own, of_token, example in zip(trials, *parts, strict=True):
            n = len(of_prompt.examples)
            if of_prompt.n_labels:
                sums = torch.zeros(n).index_add(0, example, own).view(-1, of_prompt.n_labels)
                probabilities = sums.softmax(dim=-1)
                gap = probabilities[:, 0] - probabilities[:, 1:].amax(dim=-1)
                per_example = self._weighted(gap) if by_gap else sums.log_softmax(dim=-1)[:, 0]
            else:
                sums = torch.zeros(n).index_add(0, example, of_token)
                per_example = sums / torch.bincount(example, minlength=n)
            found.append(per_example.mean().item())
        return found

    def _weighted(self, gaps: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
        return gaps * torch.where(gaps > 0, self.options.right, self.options.wrong)

    def _of_tokens(self, targets: Targets) -> tuple[Float[Tensor, "n_targets"], Float[Tensor, "n_targets"]]:
        """Log-probability of each token, and its probability less the likeliest other one's; on the CPU."""
        step = max(1, _LOGITS_AT_ONCE // len(self.subject.embedding))
        own, gaps = [], []
        for hidden, ids in zip(targets.hidden.split(step), targets.ids.split(step), strict=True):
            log_probs = self.subject.scorer.log_probs(hidden)
            first, second = log_probs.topk(2, dim=-1).values.unbind(-1)
            chosen = log_probs.gather(-1, ids[:, None])[:, 0]
            is_first = log_probs.argmax(-1) == ids
            own.append(chosen)
            gaps.append(chosen.exp() - torch.where(is_first, second, first).exp())
        return torch.cat(own).cpu(), torch.cat(gaps).cpu()


class RLPrompt(Searching, RLPromptOptions):
    """Shannon entropy, with the softmax policy of the `top_k` likeliest tokens, and no filter.

    Of the greedy prompts and the best sampled ones, the text with the highest reward on the task's validation examples
    is returned.
    """

    searches: ClassVar = _Search

    @property
    def entropy(self) -> Entropy:
        return ShannonEntropy(self.top_k)


class Pin(Searching, PinOptions):
    """Tsallis entropy of index 2, with the sparsemax policy, over tokens that are not ignorable; else as RLPrompt."""

    searches: ClassVar = _Search
    entropy: ClassVar[Entropy] = TsallisEntropy()
