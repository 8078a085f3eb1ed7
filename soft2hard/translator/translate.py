"""Translating soft prompts: propose, run beside the soft prompt, search on, judge."""

import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property

from soft2hard.compute import metering
from soft2hard.data_gen.tasks import Example
from soft2hard.errors import UserError
from soft2hard.lm.nearest import nearest_rows
from soft2hard.lm.sentences import Encoder
from soft2hard.lm.subject import Subject
from soft2hard.lm.text_generation import LocalGenerator, TextGenerator
from soft2hard.prompts.soft_prompt import SoftPrompt
from soft2hard.storage.names import embedded_path, name_of
from soft2hard.translator.candidates import Mixture, propose, proposed_under
from soft2hard.translator.data import Views
from soft2hard.translator.demonstrations import views_of, with_demonstrations
from soft2hard.translator.fitting import models_for, without_translator
from soft2hard.translator.model import Translator
from soft2hard.translator.probing import choosing, divided, invented_inputs, used
from soft2hard.translator.proposers.base import Observed, Proposer, distinct
from soft2hard.translator.proposers.describe import EMBEDDED_WORDINGS, Describe
from soft2hard.translator.proposers.elicit import Elicit
from soft2hard.translator.proposers.prior import InstructionPrior
from soft2hard.translator.proposers.read import ReadActs
from soft2hard.translator.search import Budget, Density, Effort, Search, free
from soft2hard.translator.settings import MIN_PROBES, Evidence, ProposerName, TranslateConfig, read_card
from soft2hard.translator.verdict import Judge, Judgement, Verdict
from soft2hard.translator.verification import SHORT_OUTPUT, Candidate, Ending, Probes, Verifier, surest

_KEPT_CANDIDATES = 10
_GUESSES = 4  # candidates under which inputs are invented: the greedy one and the best beams
_OTHERS = 16  # instructions under which inputs are invented where none was read
_INVENTED = "invented by the subject under the first guesses"
_BY_PROMPT = "invented by the subject under the soft prompt"
_SPARE = 3  # inputs that are invented then, for each that is used
_NUMBERS_AT_ONCE = 2**28  # of distributions over the vocabulary, for soft prompts that are seen together: 1 GB
_MOST_CLASSES, _MOSTLY = 16, 0.9  # different outputs of a classification; share of outputs that come again


@dataclass(frozen=True)
class Helpers:
    """Models beside subject and translator, and what else is read."""

    describer: TextGenerator | None = None
    """Is shown what soft prompts do, and asked for the instruction; None: the embedded world's API-side model for the
    embedded subject, the subject itself for others."""
    prior: Subject | None = None
    """Says how likely texts are as instructions; None: the subject."""
    encoder: Encoder | None = None
    """Tells whether open answers mean the same; None: by their words."""
    read: Sequence[SoftPrompt] | None = None
    """For comparisons, what the translator is given in the place of each soft prompt: another task's, or examples
    (`data.View`). Texts are verified beside the soft prompts all the same."""


TOO_FEW_INPUTS = "too few"
"""The source of inputs where there were not enough to run anything on."""


@dataclass(frozen=True)
class Translation:
    """A soft prompt in words."""

    soft_prompt: str
    """Where the soft prompt came from."""
    text: str
    """The candidate with the highest posterior, see `candidates` (the greedy one where nothing was verified)."""
    greedy: str
    """The first text that was proposed, without verification."""
    judgement: Judgement | None = None
    """How the text acts on further inputs, or on those that chose it where none were left (`n_checks` 0)."""
    proposer: ProposerName = "translator"
    """Where the text comes from."""
    chosen_on: tuple[Example, ...] = ()
    """Inputs that chose the text, each with what the soft prompt makes of it."""
    judged_on: tuple[Example, ...] = ()
    """Other inputs, which it was judged on, likewise."""
    translator: str | None = None
    """The translator that proposed and weighed texts; None without one."""
    probe_source: str = "none"
    """'examples', how the subject invented them, `TOO_FEW_INPUTS`, or 'none' where none were wanted."""
    ending: Ending | None = None
    """Whether outputs end under the soft prompt; None where nothing was run."""
    candidates: tuple[Candidate, ...] = ()
    """The best candidates by their posterior, with their faithfulness on the probe inputs."""
    stopped: bool = False
    """Whether a budget ended the search."""
    by_proposer: Mapping[ProposerName, Candidate] = field(default_factory=dict)
    """The best candidate of each proposer."""
    demonstrated: Judgement | None = None
    """The text with demonstrations, if asked for, on the same inputs."""
    unnamed: tuple[str, ...] = ()
    """Of a few outputs that the soft prompt writes again and again, those that the text does not name, where it names
    others."""
    template_is_assumed: bool = False
    """Whether neither the soft prompt's file nor who asked says what text stood around its inputs when it was tuned. Of
    one that was tuned under another, nothing here is true."""
    explained_by_gold: float | None = None
    """About as much as any text explains of soft prompts on this subject, see `Evidence`; None where the translator
    does not say, or none was asked."""

    @property
    def n_probes(self) -> int:
        """Inputs that chose the text."""
        return len(self.chosen_on)

    @property
    def n_checks(self) -> int:
        """Other inputs that it was judged on."""
        return len(self.judged_on)

    @property
    def verdict(self) -> Verdict:
        return "unverified" if self.judgement is None else self.judgement.verdict

    @property
    def agreement(self) -> float | None:
        """Share of inputs on which text and soft prompt make the subject write the like."""
        return None if self.judgement is None else self.judgement.agreement

    @property
    def divergence(self) -> float | None:
        """Mean KL(soft || text) over output positions of the same inputs, nats."""
        return None if self.judgement is None else self.judgement.divergence

    def to_json(self) -> dict:
        """As plain JSON values, verdict and agreement among them."""
        worked_out = ("verdict", "agreement", "divergence", "n_probes", "n_checks")
        return asdict(self) | {name: getattr(self, name) for name in worked_out}


def translate(
    prompts: SoftPrompt | Sequence[SoftPrompt],
    translator: Translator | None = None,
    subject: Subject | None = None,
    config: TranslateConfig = TranslateConfig(),
    *,
    inputs: Sequence[str] | Sequence[Sequence[str]] | None = None,
    helpers: Helpers = Helpers(),
    progress: Callable[[], None] | None = None,
) -> Translation | list[Translation]:
    """Put a soft prompt, or a list of them, into words; one translation for one, a list for a list.

    Args:
        prompts: Of one subject. A translation is the same whatever else is translated with it, but for a budget of
            seconds. What goes through the models is counted on behalf of each soft prompt, by its place, but for what
            they make of their inputs together.
        translator: If not given, the one that comes with the package and was trained for the prompts' subject, unless
            `config.propose` leaves it out. One that was trained to read examples reads what the soft prompts write for
            some of the inputs. Where none fits, that of SmolLM2, which is fetched once, reads only what they write
            (`Translator.abroad`).
        subject: Runs candidates beside the soft prompts; if not given, the one that the translator was trained for or
            that the prompts name is loaded, unless `config.verify` is off.
        config: How much is tried and verified.
        inputs: Inputs of the task to verify on, one list for all soft prompts or one list each. If not given, the
            subject makes them up, under the translator's first candidates or the soft prompts themselves.
        helpers: Other models that propose and compare.
        progress: Called after each translation.

    Raises:
        UserError: soft prompts, translator and subject do not belong together; a translator has nothing to read; a
            proposer cannot work with them; no soft prompt's demonstrations fit the subject's context.
    """
    if not isinstance(prompts, SoftPrompt | Sequence) or isinstance(prompts, str):
        raise UserError(
            f"{prompts!r} is no soft prompt, nor a list of them.", "Read it with SoftPrompt.from_pretrained(path)."
        )
    many = [prompts] if isinstance(prompts, SoftPrompt) else list(prompts)
    found = _translated(many, translator, subject, config, inputs, helpers, progress)
    return found[0] if isinstance(prompts, SoftPrompt) else found


def _translated(
    prompts: list[SoftPrompt],
    translator: Translator | None,
    subject: Subject | None,
    config: TranslateConfig,
    inputs: Sequence[str] | Sequence[Sequence[str]] | None,
    helpers: Helpers,
    progress: Callable[[], None] | None,
) -> list[Translation]:
    translator, subject = models_for(prompts, translator, subject, config)
    if subject is not None:
        if translator is not None:
            translator.bind(subject)
        assumed = [prompt.template is None and subject.asked_template is None for prompt in prompts]
        _warn_of_template(prompts, assumed)
        subject = subject.for_prompts(prompts)
        if config.demonstrations:
            subject.template.check_shows()
        for prompt in prompts:
            subject.check(prompt)
        prompts = [subject.in_own_scale(prompt) for prompt in prompts]
        if inputs is not None:
            inputs = _with_room(prompts, subject, _for_each(prompts, inputs), config)
    source, views = None, [Views((one,)) for one in helpers.read or prompts]
    if translator is not None and translator.home is None and translator.reads != "vectors" and helpers.read is None:
        were_given = inputs is not None
        inputs, views = _behaviour(translator, prompts, subject, inputs, config)
        source = None if were_given or inputs is None else _BY_PROMPT
    labels = [p.provenance.get("source", f"soft prompt {i + 1}") for i, p in enumerate(prompts)]
    if subject is None or not config.verify:
        if translator is None:
            raise UserError(
                "No translator fits the soft prompt, and without verification there is nothing to choose a text by.",
                "Give a translator for its subject, or leave verification on.",
            )
        texts = propose(translator, [of_one.shown[0] for of_one in views], 1)
        found = [_unverified(label, of_one) for label, of_one in zip(labels, texts, strict=True)]
        return [replace(one, translator=name_of(translator.name, "translator")) for one in found]
    work = _Translating(prompts, labels, translator, subject, config, helpers)
    work.views = views
    found = [replace(one, template_is_assumed=on) for one, on in zip(work.all(inputs, progress), assumed, strict=True)]
    if translator is not None:
        found = [replace(one, translator=name_of(translator.name, "translator")) for one in found]
    if source:
        found = [replace(one, probe_source=source) if one.probe_source == "examples" else one for one in found]
    if config.demonstrations and any(t.judgement for t in found) and not any(t.demonstrated for t in found):
        raise UserError(
            f"The subject's context has no room for {config.demonstrations} demonstrations beside an input.",
            "Ask for fewer with --demonstrations.",
        )
    return found


class AssumedTemplate(UserWarning):
    """A soft prompt does not say under which template it was tuned, and none was named."""


def _warn_of_template(prompts: Sequence[SoftPrompt], assumed: Sequence[bool]) -> None:
    if any(assumed):
        warnings.warn(
            f"{prompts[assumed.index(True)].origin} does not say what text stood around its inputs when it was tuned: "
            "the plain template is assumed, and under another it writes nonsense. Give the subject yours "
            "(Subject.from_pretrained(name, template='Tweet text : {input} Label : ')), or look for it "
            "(soft2hard.translator.layout.better_layout).",
            AssumedTemplate,
            stacklevel=4,  # whoever called `translate`
        )


class _Translating:
    """Soft prompts of one subject on their way into words."""

    def __init__(
        self,
        prompts: Sequence[SoftPrompt],
        labels: Sequence[str],
        translator: Translator | None,
        subject: Subject,
        config: TranslateConfig,
        helpers: Helpers,
    ):
        self.prompts, self.labels, self.subject = prompts, labels, subject
        self.config, self.helpers = config, helpers
        is_abroad = translator is not None and translator.home is not None and helpers.read is None
        self.translator = None if is_abroad else translator
        """It reads `views`."""
        self.reader = ReadActs(translator, config.n_candidates) if is_abroad else None
        """A translator of another subject, which reads what soft prompts are seen to do."""
        self.views: Sequence[Views] = [Views((prompt,)) for prompt in prompts]
        """What the translator reads of each soft prompt."""
        self.names = config.propose or self._usual()
        self.verifier = Verifier(subject, config.max_new_tokens)
        self.budget = Budget(config.max_seconds, config.max_calls)
        self.prior = self._prior()
        self.proposers = self._proposers()

    def _usual(self) -> tuple[ProposerName, ...]:
        """A translator alone; beside one that was trained for another subject also a describer, which may know what it
        never met; without any, all that can. Raises UserError where nothing does.
        """
        if self.translator is not None:
            return ("translator",)
        names = without_translator(self.subject, self.helpers.describer is not None, self.helpers.prior is not None)
        if self.reader is not None:
            return ("translator", *(name for name in names if name == "describe"))
        if not names:
            raise UserError(
                f"'{self.subject.name}' is {self.subject.family}, which writes no texts: no candidates come from it.",
                "Name a model that describes what the soft prompt does with --describer, such as embedded, or give a "
                "translator for it.",
            )
        return names

    def _prior(self) -> InstructionPrior | None:
        """What texts without a translator are weighed by; a subject that continues no text has none to offer."""
        if set(self.names) <= {"translator"}:
            return None
        lm = self.helpers.prior or self.subject
        if not lm.continues_text and self.helpers.prior is None and "search" not in self.names:
            return None
        if lm is not self.subject and lm.tokenizer.get_vocab() != self.subject.tokenizer.get_vocab():
            raise UserError(
                f"The prior '{lm.name}' has another vocabulary than the subject '{self.subject.name}'.",
                "Give one of the same model family, or leave --prior out: the subject is its own prior.",
            )
        return InstructionPrior(lm)

    def _proposers(self) -> list[Proposer]:
        found: list[Proposer] = [] if self.reader is None else [self.reader]
        if "describe" in self.names:
            found.append(self._describe())
        if "elicit" in self.names:
            found.append(Elicit(self.subject, self.config.n_layers))
        return found

    def _describe(self) -> Describe:
        describer, n, of_the_world = self.helpers.describer, self.config.n_descriptions, str(embedded_path("api_model"))
        if describer is None and self._is_embedded():
            describer = LocalGenerator(Subject.from_pretrained(of_the_world))
        if isinstance(describer, LocalGenerator) and describer.lm.name == of_the_world:
            return Describe(describer, n, EMBEDDED_WORDINGS, n_shown=10)
        return Describe(describer or LocalGenerator(self.subject, chat=True), n)

    def _is_embedded(self) -> bool:
        return self.subject.fingerprint == read_card(embedded_path("translator")).fingerprint

    def all(
        self, inputs: Sequence[str] | Sequence[Sequence[str]] | None, progress: Callable[[], None] | None
    ) -> list[Translation]:
        """All of them, in order; as many at a time as the memory has room for what is seen of them."""
        given, n = self._given(inputs), len(self.prompts)
        read: list[list[str]] = [[] for _ in self.prompts]
        if self.translator is not None:
            read = proposed_under(self.translator, self.views, self.config.n_candidates, seed=self.config.seed)
        n_inputs = (self.config.n_probes + self.config.n_checks) * (1 if given or self.translator else _SPARE)
        at_once = max(
            1,
            _NUMBERS_AT_ONCE // (n_inputs * (self.config.max_new_tokens or SHORT_OUTPUT) * len(self.subject.embedding)),
        )
        found: list[Translation] = []
        for start in range(0, n, at_once):
            numbers = range(start, min(start + at_once, n))
            for translation in self._some(numbers, read, given):
                found.append(translation)
                if progress:
                    progress()
        return found

    def _some(
        self, numbers: Sequence[int], read: Sequence[Sequence[str]], given: Sequence[list[str]] | None
    ) -> Iterator[Translation]:
        seen = self._invented(numbers, read) if given is None else self._probes({i: given[i] for i in numbers})
        parts = {i: divided(len(of_prompt.inputs), self.config) for i, of_prompt in seen.items()}
        probes = {i: self.verifier.some(seen[i], choosing) for i, (choosing, _) in parts.items()}
        checks = {i: self.verifier.some(seen[i], checking) for i, (_, checking) in parts.items() if checking}
        for i, texts in self._proposals(numbers, read, probes).items():
            one = _unverified(self.labels[i], read[i] or texts.get("translator", ()))
            if i not in probes:
                one = replace(one, probe_source=TOO_FEW_INPUTS)
            else:
                with metering.on_behalf_of(i), self.budget.of_one():
                    one = self._translated(i, one, texts, probes[i], checks.get(i))
                one = replace(one, probe_source=self._source(given))
            yield one

    def _translated(
        self,
        i: int,
        unverified: Translation,
        proposals: Mapping[ProposerName, Sequence[str]],
        probes: Probes,
        checks: Probes | None,
    ) -> Translation:
        densities: list[Density] = []
        if self.prior is not None:
            self.prior.forget()
            densities.append(self.prior)
        if (reading := self._reading(i, probes)) is not None:
            densities.append(reading)
        if "search" in self.names:
            densities.reverse()  # the last is that which is searched under
        reads = self.reader.translator if self.reader else self.translator
        evidence = reads.evidence if reads else Evidence()
        followed = None if reading is None else reading.followed
        search = Search(densities, self.verifier, probes, self.budget, evidence, followed)
        effort = Effort(self.config.refine_rounds)
        if "search" in self.names:
            effort = free(self.config.search_rounds, self.config.search_texts)
        elif reading is None:
            effort = replace(effort, rounds=0)
        ranked = search.best(proposals, effort)
        if not ranked:
            return unverified
        best = ranked[0]
        judge, k = Judge(self.verifier, probes, checks, self.helpers.encoder), self.config.demonstrations
        shown, rest = None, probes
        if k:
            shown, rest = with_demonstrations(best.text, k, self.verifier, probes, self.config.seed)
        # Without other inputs it is judged on those that lent it no pair.
        judge_shown = judge if checks else Judge(self.verifier, rest, None, self.helpers.encoder)
        return replace(
            unverified,
            text=best.text,
            judgement=judge(best.text),
            proposer=best.proposer,
            chosen_on=probes.pairs,
            judged_on=checks.pairs if checks else (),
            ending=probes.ending,
            candidates=tuple(ranked[:_KEPT_CANDIDATES]),
            stopped=self.budget.is_spent,
            by_proposer={candidate.proposer: candidate for candidate in reversed(ranked)},
            demonstrated=judge_shown(shown) if shown else None,
            unnamed=unnamed(best.text, [*probes.outputs, *(checks.outputs if checks else ())]),
            explained_by_gold=evidence.explained_by_gold,
        )

    def _reading(self, i: int, probes: Probes) -> Mixture | None:
        """What a translator makes of a soft prompt; None without one."""
        if self.reader is not None:
            return Mixture(self.reader.translator, self.reader.views(self._observed(i, probes), self.config.seed))
        if self.translator is None:
            return None
        views = self.views[i]
        if self.helpers.read is not None:  # the follower, too, weighs texts by what the soft prompt itself does
            views = replace(views, pairs=tuple(pair for pair in probes.pairs if pair.output))
        return Mixture(self.translator, views)

    def _proposals(
        self, numbers: Sequence[int], read: Sequence[Sequence[str]], probes: Mapping[int, Probes]
    ) -> dict[int, dict[ProposerName, Sequence[str]]]:
        """Texts for each soft prompt, by where they come from; the prior's are the same for all."""
        found: dict[int, dict[ProposerName, Sequence[str]]] = {
            i: {"translator": read[i]} if self.translator is not None else {} for i in numbers
        }
        observed = self._all_observed(probes) if self.proposers and probes else []
        for number, proposer in enumerate(self.proposers if observed else []):
            if self.budget.is_spent and (number or self.translator or "search" in self.names):
                break
            for i, texts in zip(probes, proposer.propose(observed, self.config.seed), strict=True):
                found[i][proposer.name] = texts
        if "search" in self.names and self.prior is not None:
            for i, of_one in found.items():
                of_one["search"] = [*self._read_off[i], *self._drawn]
        return found

    @cached_property
    def _read_off(self) -> list[list[str]]:
        """The nearest tokens of each as a text: a prompt that was tuned little still spells what it was tuned from."""
        tokenizer, table = self.subject.tokenizer, self.subject.embedding[: len(self.subject.tokenizer)]
        found = nearest_rows([prompt.embeddings for prompt in self.prompts], table, 1)
        return [distinct([tokenizer.decode(rows[:, 0].tolist(), skip_special_tokens=True)]) for rows, _ in found]

    @cached_property
    def _drawn(self) -> list[str]:
        return self.prior.sample(self.config.n_samples, self.config.seed)

    def _all_observed(self, probes: Mapping[int, Probes]) -> list[Observed]:
        """What each soft prompt does, and for a describer what the subject does by itself."""
        observed = [self._observed(i, found) for i, found in probes.items()]
        if "describe" not in self.names:
            return observed
        return [
            replace(one, plain=tuple(self.verifier.outputs(None, found)))
            for one, found in zip(observed, probes.values(), strict=True)
        ]

    def _observed(self, i: int, probes: Probes) -> Observed:
        return Observed(self.prompts[i], probes.inputs, probes.outputs, number=i)

    def _source(self, given: object) -> str:
        if given is not None:
            return "examples"
        if self.translator is not None:
            return _INVENTED
        if self.prior is None:
            return _BY_PROMPT
        return "invented by the subject, the surest of the soft prompt's"

    def _given(self, inputs: Sequence[str] | Sequence[Sequence[str]] | None) -> list[list[str]] | None:
        """The inputs of each soft prompt; None where they are to be invented."""
        if inputs is None:
            return None
        return [used(of_prompt, self.config) for of_prompt in _for_each(self.prompts, inputs)]

    def _invented(self, numbers: Sequence[int], read: Sequence[Sequence[str]]) -> dict[int, Probes]:
        """Inputs that texts which a translator read invite tell these texts apart. Without any, those that other
        instructions and the soft prompt itself invite, of which the soft prompt is the surest of its answers."""
        n, seed = self.config.n_probes + self.config.n_checks, self.config.seed
        if self.translator is not None or self.prior is None:
            guesses = [read[i][:_GUESSES] or [self.prompts[i]] for i in numbers]
            invented = invented_inputs(self.subject, guesses, n, seed)
            return self._probes(dict(zip(numbers, invented, strict=True)))
        guesses = [[self.prompts[i], *self._others] for i in numbers]
        invented = invented_inputs(self.subject, guesses, _SPARE * n, seed)
        found = self._probes(dict(zip(numbers, invented, strict=True)))
        return {i: self.verifier.some(probes, surest(probes, n)) for i, probes in found.items()}

    @cached_property
    def _others(self) -> list[str]:
        return self.prior.sample(_OTHERS, self.config.seed)

    def _probes(self, inputs: Mapping[int, list[str]]) -> dict[int, Probes]:
        """What soft prompts with enough inputs make of them, by number, all in shared batches."""
        fewest = min(MIN_PROBES, self.config.n_probes)
        enough = {i: some for i, some in inputs.items() if len(some) >= fewest}
        found = self.verifier.probe([self.prompts[i] for i in enough], list(enough.values())) if enough else []
        return dict(zip(enough, found, strict=True))


def unnamed(text: str, outputs: Sequence[str]) -> tuple[str, ...]:
    """See `Translation.unnamed`; the commonest first."""
    counts = Counter(output.strip().casefold() for output in outputs)
    again = [output for output, n in counts.most_common() if n > 1 and output]
    if len(counts) > _MOST_CLASSES or sum(counts[output] for output in again) < _MOSTLY * len(outputs):
        return ()
    is_named = {o: re.search(rf"\b{re.escape(o)}(e?s)?\b", text.casefold()) is not None for o in again}
    return tuple(o for o in again if not is_named[o]) if any(is_named.values()) else ()


def _behaviour(
    translator: Translator,
    prompts: Sequence[SoftPrompt],
    subject: Subject | None,
    inputs: Sequence[str] | Sequence[Sequence[str]] | None,
    config: TranslateConfig,
) -> tuple[Sequence[Sequence[str]] | None, list[Views]]:
    """Inputs, and what a translator of examples reads of soft prompts: what they do on some of these inputs. Only
    inputs that choose texts are shown, so that the others can judge.

    Without a subject or inputs a translator of both reads the vectors alone: what a soft prompt does on inputs that
    others had to invent misleads more than it tells. One of examples reads what soft prompts do on those that they
    invite themselves. Raises UserError where it has neither these nor a subject, and for a translator that reads
    nothing.
    """
    if translator.reads == "both" and (subject is None or inputs is None):
        return inputs, [Views((prompt,)) for prompt in prompts]
    if translator.reads == "nothing" or subject is None:
        remedy = "Give one that reads soft prompts."
        if translator.reads != "nothing":
            remedy = "Leave verification on, so that the subject shows what the soft prompt does."
        raise UserError(f"The translator '{translator.name}' was trained to read {translator.reads}.", remedy)
    if inputs is None:
        n = config.n_probes + config.n_checks
        inputs = invented_inputs(subject, [[prompt] for prompt in prompts], n, config.seed)
    each = [choosing(of_prompt, config) for of_prompt in _for_each(prompts, inputs)]
    return inputs, views_of(translator, subject, prompts, each, config.seed, config.max_new_tokens)


def _with_room(
    prompts: Sequence[SoftPrompt], subject: Subject, inputs: Sequence[Sequence[str]], config: TranslateConfig
) -> list[list[str]]:
    """The inputs of each soft prompt that the subject's context holds with an output; what is left out is said on
    standard error. Raises UserError where none of a soft prompt's has room."""
    longest, found = config.max_new_tokens or SHORT_OUTPUT, []
    for prompt, of_prompt in zip(prompts, inputs, strict=True):
        fits = subject.that_fit(prompt, of_prompt, longest)
        n, long = len(of_prompt), f"too long for '{name_of(subject.name)}', which reads {subject.context_length} tokens"
        if n and not fits:
            raise UserError(f"All {n} inputs of {prompt.origin} are {long}.", "Give shorter ones.")
        if len(fits) < n:
            print(f"{n - len(fits)} of {n} inputs of {prompt.origin} are left out: {long}.", file=sys.stderr)
        found.append(fits)
    return found


def _for_each(
    prompts: Sequence[SoftPrompt], inputs: Sequence[str] | Sequence[Sequence[str]]
) -> Sequence[Sequence[str]]:
    """The inputs of each soft prompt, where one list is for all. Raises UserError for another number of lists."""
    if inputs and isinstance(inputs[0], str):
        return [inputs] * len(prompts)
    if len(inputs) != len(prompts):
        raise UserError(f"{len(inputs)} lists of inputs for {len(prompts)} soft prompts.", "Give one list each.")
    return inputs


def _unverified(label: str, texts: Sequence[str]) -> Translation:
    greedy = texts[0] if texts else ""
    return Translation(label, greedy, greedy)
