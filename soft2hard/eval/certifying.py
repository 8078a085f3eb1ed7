"""Does a translator read the vectors, or does it guess from what tasks usually are, or from the examples?

Describers of activations can pass benchmarks without looking at the activations (arXiv 2509.13316). So a translator is
given other things in the place of each soft prompt, and rivals that were trained alike on other things are given those:
what it writes for the soft prompt itself must be nearer to the task than all of these, on the same tasks.

Two figures need no decoding and no subject: the negative log-likelihood of the task's reference instruction, and of
its phrasings. The others are of texts: what is written, greedily and with verification, and how the subject acts on it.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random
from statistics import fmean

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from soft2hard.data_gen.dods.real_tasks import group_of
from soft2hard.data_gen.settings import Tuning
from soft2hard.data_gen.tasks import Task
from soft2hard.data_gen.tuning.tuner import Tuner
from soft2hard.errors import UserError
from soft2hard.eval.certificate import (
    ACTS_ALONE,
    LABELS_ALONE,
    LABELS_BESIDE,
    MATCHED,
    NOISE,
    OTHER,
    RIVALS,
    SAME_FAMILY,
    SHUFFLED,
    VECTORS_ALONE,
    VERIFIED,
    Certificate,
    CertificateSettings,
    TaskReading,
    WaywardReading,
    save,
)
from soft2hard.eval.config import parse_config
from soft2hard.eval.harness import Harness
from soft2hard.eval.methods.base import Case
from soft2hard.eval.metrics.measurement import Comparison, measure
from soft2hard.eval.metrics.text import rouge
from soft2hard.eval.report.reading import load_run
from soft2hard.lm.nearest import nearest_rows
from soft2hard.lm.subject import Subject
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.files import write_text
from soft2hard.storage.run_folders import Kind, claim, made_with
from soft2hard.translator.candidates import propose
from soft2hard.translator.data import IGNORE, View, runs_of_like_length
from soft2hard.translator.demonstrations import acting
from soft2hard.translator.model import Translator, translator_fingerprint, weighing_fingerprint
from soft2hard.translator.settings import TranslateConfig
from soft2hard.translator.translate import Helpers, translate

_AT_ONCE, _ROWS_OF_A_RUN = 16, 16  # prompts read together; texts that share a batch, at least

_KIND = Kind(
    "a certificate",
    "settings.json",
    lambda record: record["settings"] | {"inputs": record["inputs"]},
    alone=False,
    remedy="Remove that folder to begin anew, or ask for what it holds.",
)
_CHANGE_NOTHING = ("wayward", "pull")
"""Settings that no kept reading depends on."""
_Prompts = Callable[[], Sequence[SoftPrompt | None]]
"""Works out what is read of each case; None where there is nothing to read."""


def certify(
    run: Path,
    asked: CertificateSettings = CertificateSettings(),
    translator: str | None = None,
    rivals: Sequence[Path | str] = (),
    log: Callable[[str], None] = lambda line: None,
) -> Certificate:
    """Certify a translator on the tasks and soft prompts of a finished evaluation, and save it in that run's folder.

    Args:
        run: The evaluation's folder. What has been read is kept in its folder `certificate`, and not read again.
        asked: How much is read.
        translator: The one that is certified; None: the evaluation's.
        rivals: Translators that were trained on the same corpus to read other things.
        log: Hears what has been read.

    Raises:
        UserError: there is no finished run or no translator, a translator is of another subject, it does not read soft
            prompts, or a rival does.
    """
    record = load_run(run).record
    evaluation = parse_config(record.config, str(run / "run.json"))
    named = translator or evaluation.translator
    if named is None:
        raise UserError(f"The evaluation in {run} has no translator.", "Give one with --translator.")
    harness = Harness(evaluation, run, log=log)
    main, *others = (Translator.from_pretrained(one, subject=harness.subject) for one in (named, *rivals))
    for rival in others:  # all are verified alike
        rival.card = replace(rival.card, evidence=main.card.evidence)
        rival.follow_with(main.follower_adapters, harness.subject)
    certifier = Certifier(main, harness.subject, others, asked, run / "certificate", log)
    decisive = {name: value for name, value in vars(asked).items() if name not in _CHANGE_NOTHING}
    if asked.score:  # as certificates were recorded before it could be left out
        del decisive["score"]
    claim(run / "certificate", _KIND, {"settings": decisive, "inputs": record.inputs} | made_with())
    cases = {seed: [c for c in harness.cases(seed, "test") if c.task.instruction] for seed in evaluation.seeds}
    readings = [reading for seed, of_seed in cases.items() for reading in certifier.readings(of_seed, seed)]
    soft_scores = {
        name: s for seed, of_seed in cases.items() for name, s in certifier.soft_scores(of_seed, seed).items()
    }
    first = evaluation.seeds[0]
    strayed = certifier.wayward(cases[first][: asked.wayward], evaluation.tuning_of(first), first)
    names = {one.card.reads: one.name for one in others}
    found = Certificate(named, names, asked, tuple(readings), soft_scores, tuple(strayed), made_with())
    save(found, run)
    return found


def check_poolable(runs: Sequence[Path], translator: str | None) -> None:
    """Raise UserError where certificates of these runs could not stand for all their tasks together."""
    loaded = [load_run(run) for run in runs]
    tasks = Counter(task.name for one in loaded for task in one.tasks)
    if twice := next((task for task, n in tasks.items() if n > 1), None):
        raise UserError(
            f"The task '{twice}' stands in several of the runs and would count twice.", "Certify them apart."
        )
    if translator is None and len({one.record.config.get("translator") for one in loaded}) > 1:
        raise UserError("The runs were made with several translators.", "Name one with --translator.")


# --- what is read -------------------------------------------------------------------------------


def spoiled(cases: Sequence[Case], seed: int) -> dict[str, list[SoftPrompt | None]]:
    """For each way to spoil them, what is read in the place of each case's soft prompt; None where there is nothing."""
    rng = Random(f"certificate/{seed}")
    return {
        OTHER: _prompts(_others(cases, rng)),
        SAME_FAMILY: _prompts(_others(cases, rng, lambda a, b: a.family == b.family)),
        SHUFFLED: [_with_rows(case.soft_prompt, _shuffled(case.soft_prompt.embeddings, rng)) for case in cases],
        NOISE: [_with_rows(case.soft_prompt, _noise(case.soft_prompt.embeddings, rng)) for case in cases],
    }


def _prompts(cases: Sequence[Case | None]) -> list[SoftPrompt | None]:
    return [None if case is None else case.soft_prompt for case in cases]


def _others(
    cases: Sequence[Case], rng: Random, fits: Callable[[Task, Task], bool] = lambda task, other: True
) -> list[Case | None]:
    """For each case one of another task that is not like its own."""
    found: list[Case | None] = []
    for case in cases:
        own = group_of(case.task.name)
        others = [
            other
            for other in cases
            if other.task.instruction != case.task.instruction
            and group_of(other.task.name) != own
            and fits(case.task, other.task)
        ]
        found.append(rng.choice(others) if others else None)
    return found


def _shuffled(rows: Float[Tensor, "n d"], rng: Random) -> Float[Tensor, "n d"]:
    order = list(range(len(rows)))
    while len(rows) > 1 and order == sorted(order):
        rng.shuffle(order)
    return rows[order]


def _noise(rows: Float[Tensor, "n d"], rng: Random) -> Float[Tensor, "n d"]:
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    noise = torch.randn(rows.shape, generator=generator)
    return noise / noise.norm(dim=1, keepdim=True) * rows.norm(dim=1, keepdim=True)


def _with_rows(soft_prompt: SoftPrompt, rows: Float[Tensor, "n d"]) -> SoftPrompt:
    return replace(soft_prompt, embeddings=rows.contiguous())


# --- reading it ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certifier:
    """Makes the readings of a translator on one subject.

    One that also reads what soft prompts do is given what each thing in their place does on the task's inputs. Raises
    UserError where it does not read soft prompts, or a rival reads them alone.
    """

    translator: Translator
    subject: Subject
    rivals: Sequence[Translator] = ()
    asked: CertificateSettings = CertificateSettings()
    folder: Path | None = None
    """Where readings are kept as they are made, a file for each thing that is read and seed."""
    log: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        if self.translator.card.reads not in ("vectors", "both"):
            raise UserError(
                f"The translator '{self.translator.name}' was trained to read {self.translator.card.reads}.",
                "Certify one that reads soft prompts, and give this one with --rival.",
            )
        kinds = [rival.card.reads for rival in self.rivals]
        if twice := next((kind for kind in kinds if kinds.count(kind) > 1), None):
            raise UserError(f"Two rivals read {twice}.", "Give one of each kind.")
        for rival in self.rivals:
            if rival.card.reads == self.translator.card.reads:
                raise UserError(
                    f"The translator '{rival.name}' reads {rival.card.reads}, as the one that is certified does.",
                    "Give one trained with --reads " + ", ".join(r for r in RIVALS if r != rival.card.reads) + ".",
                )

    def readings(self, cases: Sequence[Case], seed: int) -> list[TaskReading]:
        """All readings of the cases of one seed."""
        found: list[TaskReading] = []
        for read, prompts in self._in_its_place(cases, seed).items():
            found += self._kept(read, self.translator, cases, prompts, seed)
        for rival in self.rivals:
            prompts = partial(self._of_examples, rival.view(self.subject), cases, seed)
            found += self._kept(RIVALS[rival.card.reads], rival, cases, prompts, seed)
        return found

    def _in_its_place(self, cases: Sequence[Case], seed: int) -> dict[str, _Prompts]:
        """All that the certified translator reads, as it is given it; what that is may take long to work out, since the
        subject acts on inputs under it, so it is worked out where it is read."""
        own, others = [case.soft_prompt for case in cases], spoiled(cases, seed)
        given = {MATCHED: own} | others
        if self.translator.card.reads == "vectors":
            return {read: partial(list, prompts) for read, prompts in given.items()}
        act = cache(lambda read: self._acting(cases, given[read], seed))

        def noise_that_acts_like_it() -> list[SoftPrompt | None]:
            return [
                _with_rows(whole, torch.cat([noise.embeddings, whole.embeddings[noise.n_tokens :]]))
                for noise, whole in zip(others[NOISE], act(MATCHED), strict=True)
            ]

        seen = {read: partial(act, read) for read in given}
        parts = {VECTORS_ALONE: partial(list, own), ACTS_ALONE: noise_that_acts_like_it}
        view = self.translator.view(self.subject)
        if view.reads_examples:
            shown = {LABELS_BESIDE: view, LABELS_ALONE: replace(view, reads="examples")}
            parts |= {read: partial(self._of_examples, one, cases, seed) for read, one in shown.items()}
        return seen | parts

    @staticmethod
    def _of_examples(view: View, cases: Sequence[Case], seed: int) -> list[SoftPrompt]:
        return [view.of(case.soft_prompt, case.task, seed) for case in cases]

    def _acting(
        self, cases: Sequence[Case], prompts: Sequence[SoftPrompt | None], seed: int
    ) -> list[SoftPrompt | None]:
        """These soft prompts as the certified translator is given them, some with what they do on the cases' inputs."""
        there = [i for i, prompt in enumerate(prompts) if prompt is not None]
        inputs = [[example.input for example in cases[i].task.train] for i in there]
        seen = acting(self.translator, self.subject, [prompts[i] for i in there], inputs, seed)
        return [dict(zip(there, seen, strict=True)).get(i) for i in range(len(prompts))]

    def soft_scores(self, cases: Sequence[Case], seed: int) -> dict[str, float]:
        """Of the soft prompts themselves; none where nothing is scored."""
        if not self.asked.score:
            return {}
        measured = measure(self.subject, [Comparison(case.task, (case.soft_prompt,)) for case in cases])
        return {f"{seed}/{case.task.name}": one.score for case, [one] in zip(cases, measured, strict=True) if one}

    def _kept(
        self,
        read: str,
        translator: Translator,
        cases: Sequence[Case],
        prompts: _Prompts,
        seed: int,
    ) -> list[TaskReading]:
        """Readings that an earlier call has made, or those made now."""
        name = "".join(c if c.isalnum() else "-" for c in read)
        weighing = weighing_fingerprint(translator)[:4]  # verified texts depend on it
        name = f"{seed}-{name}-{translator_fingerprint(translator)[:8]}-{weighing}.json"
        path = None if self.folder is None else self.folder / name
        if path is not None and path.exists():
            return [TaskReading(**one) for one in json.loads(path.read_text(encoding="utf-8"))]
        there = [(case, prompt) for case, prompt in zip(cases, prompts(), strict=True) if prompt is not None]
        found = self._read(read, translator, there, seed) if there else []
        if path is not None:
            write_text(path, json.dumps([asdict(one) for one in found]))
        self.log(f"seed {seed}: read {read}, {len(found)} tasks")
        return found

    def _read(
        self, read: str, translator: Translator, pairs: Sequence[tuple[Case, SoftPrompt]], seed: int
    ) -> list[TaskReading]:
        cases, prompts = [case for case, _ in pairs], [prompt for _, prompt in pairs]
        texts = [found[0] if found else "" for found in propose(translator, prompts, 1)]
        verified: list[str | None] = [None] * len(cases)
        if self.asked.verify and read in VERIFIED:
            inputs = [[example.input for example in (*c.task.validation, *c.task.train)] for c in cases]
            config = TranslateConfig(
                self.asked.candidates, self.asked.probes, 0, refine_rounds=0, seed=seed, propose=("translator",)
            )
            own = [case.soft_prompt for case in cases]
            found = translate(own, translator, self.subject, config, inputs=inputs, helpers=Helpers(read=prompts))
            verified = [translation.text for translation in found]
        return [
            TaskReading(
                read=read,
                task=case.task.name,
                seed=seed,
                nll=nll,
                text=text,
                rougeL=rouge(text, case.task.phrasings).rougeL,
                score=scores[0],
                verified_text=best,
                verified_rougeL=None if best is None else rouge(best, case.task.phrasings).rougeL,
                verified_score=None if best is None else scores[1],
            )
            for case, nll, text, best, scores in zip(
                cases,
                nlls(translator, prompts, [case.task.phrasings for case in cases]),
                texts,
                verified,
                self._scores(cases, texts, verified),
                strict=True,
            )
        ]

    def _scores(
        self, cases: Sequence[Case], texts: Sequence[str], verified: Sequence[str | None]
    ) -> Iterator[list[float | None]]:
        if not self.asked.score:
            yield from ([None, None] for _ in cases)
            return
        prompts = [(text or None, best or None) for text, best in zip(texts, verified, strict=True)]
        comparisons = [Comparison(case.task, of_case) for case, of_case in zip(cases, prompts, strict=True)]
        for of_case in measure(self.subject, comparisons):
            yield [None if one is None else one.score for one in of_case]

    # --- wayward prompts ----------------------------------------------------------------------------

    def wayward(self, cases: Sequence[Case], tuning: Tuning, seed: int) -> list[WaywardReading]:
        """Each case's task tuned again, from another task's instruction and with a pull towards it.

        Its tokens fill the soft prompt, cut or repeated to its length.
        """
        found = zip(cases, _others(cases, Random(f"wayward/{seed}")), strict=True)
        towards = {case.task.name: other.task for case, other in found if other is not None}
        cases = [case for case in cases if case.task.name in towards]
        if not cases:
            return []
        tasks = [replace(case.task, instruction=towards[case.task.name].instruction) for case in cases]
        how = replace(tuning, init="instruction", pull=self.asked.pull)
        tuned = {one.task.name: one.soft_prompt for one in Tuner(self.subject, how).tune(tasks)}
        prompts = [tuned[case.task.name] for case in cases]
        measured = measure(self.subject, [Comparison(c.task, (p,)) for c, p in zip(cases, prompts, strict=True)])
        near = self._still_near(prompts, [towards[case.task.name].instruction for case in cases])
        seen = self._acting(cases, prompts, seed)
        texts = [found[0] if found else "" for found in propose(self.translator, seen, 1)]
        of_own = nlls(self.translator, seen, [case.task.phrasings for case in cases])
        of_other = nlls(self.translator, seen, [towards[case.task.name].phrasings for case in cases])
        found = []
        for case, [score], text, share, *both in zip(cases, measured, texts, near, of_own, of_other, strict=True):
            other = towards[case.task.name]
            own_rouge, other_rouge = (rouge(text, task.phrasings).rougeL for task in (case.task, other))
            found.append(
                WaywardReading(
                    case.task.name,
                    other.name,
                    self.asked.pull,
                    share,
                    score.score if score else None,
                    *both,
                    text,
                    own_rouge > other_rouge,
                )
            )
        return found

    def _still_near(self, prompts: Sequence[SoftPrompt], texts: Sequence[str]) -> Iterator[float]:
        table = self.subject.embedding[: len(self.subject.tokenizer)]
        for prompt, text, (rows, _) in zip(
            prompts, texts, nearest_rows([p.embeddings for p in prompts], table, 1), strict=True
        ):
            ids = self.subject.tokenizer.encode(text, add_special_tokens=False)
            wanted = (ids * prompt.n_tokens)[: prompt.n_tokens]
            yield fmean(float(a == b) for a, b in zip(rows[:, 0].tolist(), wanted, strict=True))


@torch.no_grad()
def nlls(translator: Translator, prompts: Sequence[SoftPrompt], texts: Sequence[Sequence[str]]) -> list[float]:
    """-log p(text | what is read), nats a token with the end, mean over each one's texts; many to a batch."""
    model, found = translator.model.eval(), []
    for start in range(0, len(prompts), _AT_ONCE):
        memory = model.encode(*translator.encode_batch(prompts[start : start + _AT_ONCE]))
        some = texts[start : start + _AT_ONCE]
        rows = [(i, translator.encode_instruction(text)) for i, of_one in enumerate(some) for text in of_one]
        values: list[list[float]] = [[] for _ in some]
        n_runs = max(1, len(rows) // _ROWS_OF_A_RUN)
        for run in runs_of_like_length([len(ids) for _, ids in rows], n_runs):
            labels = pad_sequence([torch.tensor(rows[j][1]) for j in run], batch_first=True, padding_value=IGNORE)
            labels = labels.to(translator.device)
            logits = model.logits(memory.select([rows[j][0] for j in run]), labels).float()
            losses = cross_entropy(logits.transpose(1, 2), labels, ignore_index=IGNORE, reduction="none").sum(1)
            for j, loss in zip(run, losses.tolist(), strict=True):
                values[rows[j][0]].append(loss / len(rows[j][1]))
        found += map(fmean, values)
    return found
