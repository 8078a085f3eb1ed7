"""This project's own methods: the translator, greedy, and texts verified beside the soft prompt."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, fields, replace

from soft2hard.compute.metering import listening
from soft2hard.errors import UserError
from soft2hard.eval.methods.base import Bench, Case, Cost, Outcome, shares
from soft2hard.eval.methods.options import GreedyOptions, TranslatedOptions
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.names import folder_of, is_embedded_subject
from soft2hard.translator.candidates import propose
from soft2hard.translator.demonstrations import acting
from soft2hard.translator.model import Translator
from soft2hard.translator.settings import TranslateConfig, read_card
from soft2hard.translator.translate import Helpers, Translation, translate

_LEAST_SECONDS = 0.001  # a budget that is spent
_AT_ONCE = 16  # proposals of so many soft prompts are decoded together


class GreedyTranslation(GreedyOptions):
    """One pass of the translator over all cases."""

    def check(self, bench: Bench) -> None:
        """Raises UserError where a translator that reads no examples is to do without the vectors."""
        _check_vectors(self, bench)

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One text a soft prompt."""
        translator = _translator(self, bench)
        started = time.monotonic()
        with listening() as heard:
            texts = greedy_texts(translator, cases, bench, labelled=self.outputs == "task")
        together = Cost(time.monotonic() - started, heard.shared.sequences, heard.shared.tokens)
        costs = shares(together, len(cases), heard.own)
        yield from (_outcome(text, cost, {}) for text, cost in zip(texts, costs, strict=True))


def greedy_texts(translator: Translator, cases: Sequence[Case], bench: Bench, *, labelled: bool = False) -> list[str]:
    """What the translator writes first for each case, '' for nothing. Where it also reads what soft prompts do, they do
    it on the training inputs; or it is given `labelled` examples."""
    if labelled or translator.reads == "nothing":
        read = _labelled(translator, cases, bench)
    else:
        inputs = [[example.input for example in case.task.train] for case in cases]
        read = acting(translator, bench.subject, [case.soft_prompt for case in cases], inputs, bench.seed)
    return [found[0] if found else "" for found in propose(translator, read, 1)]


class VerifiedTranslation(TranslatedOptions):
    """Candidates of the translator or of others that need none, chosen among by the subject."""

    def check(self, bench: Bench) -> None:
        """Raises UserError as that of `GreedyTranslation`, and where no translator proposes."""
        if not self.vectors and "translator" not in self.propose:
            raise UserError("vectors: false is for translators, and none proposes.", "Leave it out.")
        _check_vectors(self, bench)

    def run(self, cases: Sequence[Case], bench: Bench) -> Iterator[Outcome]:
        """One verified text a soft prompt; the trace holds the other candidates."""
        own = {f.name for f in fields(TranslatedOptions)} & {f.name for f in fields(TranslateConfig)}
        options = {name: getattr(self, name) for name in own} | {"seed": bench.seed, "max_calls": bench.max_model_calls}
        until = None if bench.max_seconds is None else time.monotonic() + bench.max_seconds
        # The embedded world's describer knows its words, whatever the generator is.
        helpers = Helpers(None if is_embedded_subject(bench.subject.name) else bench.generator, encoder=bench.encoder)
        _ = bench.subject.scorer.shares_prefixes  # the trial behind it is no case's cost
        translator = _translator(self, bench)
        for start in range(0, len(cases), _AT_ONCE):
            chunk = cases[start : start + _AT_ONCE]
            started = time.monotonic()
            left = None if until is None else max(until - started, _LEAST_SECONDS)
            config = TranslateConfig(**options, max_seconds=left)
            inputs = [[e.input for e in (*case.task.validation, *case.task.train)] for case in chunk]
            with listening() as heard:
                read = None
                if translator and (self.outputs == "task" or translator.reads == "nothing"):
                    read = _labelled(translator, chunk, bench)
                translations = translate(
                    [case.soft_prompt for case in chunk],
                    translator,
                    bench.subject,
                    config,
                    inputs=inputs if self.inputs == "examples" else None,
                    helpers=replace(helpers, read=read),
                )
            together = Cost(time.monotonic() - started, heard.shared.sequences, heard.shared.tokens)
            for found, cost in zip(translations, shares(together, len(chunk), heard.own), strict=True):
                yield self._outcome(found, cost)

    def _outcome(self, found: Translation, cost: Cost) -> Outcome:
        """The text, with its demonstrations where they were asked for."""
        if not self.demonstrations:
            return _outcome(found.text, cost, _trace(found))
        if found.demonstrated is None:
            return Outcome(None, cost, _trace(found), "no demonstrations fit the subject's context beside an input")
        return _outcome(found.demonstrated.text, cost, _trace(found))


def _translator(options: GreedyOptions | TranslatedOptions, bench: Bench) -> Translator | None:
    """The one that is named, else the bench's; beside the subject, or as for the soft prompts of another one."""
    named = options.translator
    if not options.vectors and (named or bench.translator):
        return Translator.abroad(named or bench.translator.name, bench.subject.loading)
    return bench.translator if named is None else Translator.beside(named, bench.subject)


def _check_vectors(options: GreedyOptions | TranslatedOptions, bench: Bench) -> None:
    named = options.translator or (bench.translator and bench.translator.name)
    if options.vectors or named is None:
        return
    if not (card := read_card(folder_of(named, "translator"))).reads_examples:
        raise UserError(f"vectors: false leaves nothing to a translator that reads {card.reads}.", "Leave it out.")


def _labelled(translator: Translator, cases: Sequence[Case], bench: Bench) -> list[SoftPrompt]:
    """What a translator that was trained for comparison is given of each case: examples of its task, or nothing."""
    view = translator.view(bench.subject)
    return [view.of(case.soft_prompt, case.task, bench.seed) for case in cases]


def _trace(found: Translation) -> dict[str, object]:
    kept = {name: getattr(found, name) for name in ("verdict", "greedy", "n_probes", "n_checks", "proposer")}
    judged = found.demonstrated or found.judgement
    kept |= {"at_least": judged and judged.at_least, "explained": judged and judged.explained}
    by_proposer = {name: asdict(candidate) for name, candidate in found.by_proposer.items()}
    kept |= {"confidence": found.agreement, "candidates": [asdict(candidate) for candidate in found.candidates]}
    return kept | {"by_proposer": by_proposer}


def _outcome(text: str, cost: Cost, trace: dict[str, object]) -> Outcome:
    return Outcome(text or None, cost, trace, None if text else "nothing was proposed")
