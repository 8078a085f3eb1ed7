"""soft2hard translate: what a saved soft prompt says, in words."""

import functools
import json
import time
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from pydantic import NonNegativeFloat

from soft2hard.cli.common import (
    AtLeast0,
    AtLeast1,
    Output,
    RunLoading,
    RunLoadingFlags,
    SubjectName,
    check_output,
    flags_of,
    load_subject,
    progress_bar,
    quiet,
    result_stream,
    say,
    say_unknown,
    subject_of,
)
from soft2hard.cli.examples import (
    ExampleFile,
    Group,
    Understood,
    example_files,
    say_some,
    say_template,
    understand,
)
from soft2hard.errors import UserError
from soft2hard.settings import settings
from soft2hard.translator.settings import MIN_PROBES, ProposerName, TranslateConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from soft2hard.lm.subject import Subject
    from soft2hard.lm.text_generation import TextGenerator
    from soft2hard.prompts.soft_prompt import SoftPrompt
    from soft2hard.translator.model import Translator
    from soft2hard.translator.translate import Helpers, Translation

SCHEMA_VERSION = 2
"""Of the JSON document."""


@settings
class Helping:
    """Models that propose and compare beside subject and translator."""

    describer: str | None = None
    """The language model that is shown what the soft prompt does: 'subject', 'embedded' (the API-side model of the
    embedded world), a folder, a name on the hub such as organisation/name, or else the name of a model behind an API.
    By default the embedded world's for the embedded subject, else the subject. Without --propose, a describer or a
    prior asks for describe and search."""
    describer_url: str | None = None
    """Endpoint of a describer behind an API, compatible with OpenAI's; OpenAI's own if not given."""
    describer_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds its key."""
    ledger: Path = Path("runs/translate/ledger.sqlite")
    """Where every answer of a describer behind an API is kept; none is paid for twice."""
    max_cost: NonNegativeFloat | None = None
    """US dollars that the ledger's requests may cost in all."""
    prior: str | None = None
    """The language model that says how likely texts are as instructions, a folder or a name; of the subject's
    vocabulary. By default the subject."""
    encoder: str | None = None
    """A sentence-embedding model, a folder or a name, that tells whether long answers mean the same. By default their
    words are compared."""


_LITTLE = 0.2  # weight of the evidence
_JUDGING = 64  # of many inputs, those that judge: they cost one text's run, and make the bound sure
HelpingFlags = flags_of(Helping, "Models that help")
Translators = Annotated[
    str | None,
    Parameter(
        help="The translator: 'embedded', 'smollm2', a folder that train or finetune has written, or its name on the "
        "hub. By default the one that comes along and was trained for the subject, else see --propose. One that reads "
        "what soft prompts do (--reads both or examples) may be of another subject."
    ),
]
MoreThan0 = Annotated[float | None, Parameter(validator=Number(gt=0))]


def translate(
    paths: list[Path],
    /,
    *,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
    card: Path | None = None,
    examples: Path | None = None,
    propose: Annotated[list[ProposerName] | None, Parameter(consume_multiple=True, negative=())] = None,
    demonstrations: AtLeast0 = 0,
    candidates: AtLeast1 = 64,
    probes: AtLeast1 = 32,
    max_new_tokens: AtLeast1 | None = None,
    max_seconds: MoreThan0 = None,
    max_calls: AtLeast1 | None = None,
    subject: SubjectName | None = None,
    translator: Translators = None,
    verify: bool = True,
    seed: int = 0,
    output: Output | None = None,
    helping: HelpingFlags = Helping(),
    loading: RunLoadingFlags = RunLoading(),
) -> None:
    """Write soft prompts as text prompts, and verify that both do the same.

    **Examples:** `soft2hard translate adapter/`

    `soft2hard translate adapter/ --examples inputs.csv --demonstrations 8 --card card.html`

    Args:
        paths: Soft prompts: .safetensors, .npy, .npz, .pt, .pth or .bin files, PEFT prompt-tuning or p-tuning adapter
            folders, or folders of them.
        json_: Print JSON, with all scores and candidates.
        card: Also write an offline page about the soft prompt; of one alone.
        examples: Inputs of the soft prompt's task to see it at work on, and to verify on: .jsonl or .csv with a column
            input, or .txt with one a line. The closer to real use, the surer the verdict. Without them the subject
            makes up its own. Of a task file, the test examples are left out, which judge the text later. Outputs, if
            there are any, tell the template of a soft prompt that does not say its own. Of a folder, each soft prompt
            has the file of its own name.
        propose: Where texts come from: translator (one that reads the soft prompt), describe (a language model that is
            shown what the soft prompt does), elicit (the subject itself, asked by patching), search (swaps and new ends
            under the subject's own prior); several may follow. By default the translator where one fits, else that of
            SmolLM2, which reads what soft prompts of any model do (fetched once, 100 MB), and describe; describe and
            search where it cannot be fetched.
        demonstrations: Also give the text with so many pairs of input and output, written by the soft prompt.
        candidates: Texts of the translator to choose among by verification; more take longer and find better ones.
        probes: Inputs to choose among candidates on, at most; more tell finer differences, and take longer. Others,
            up to 64 of --examples or half as many that are invented, judge the chosen text.
        max_new_tokens: Longest output that is compared, in tokens; by default as long as those of --examples, or as
            the soft prompt makes them, up to 64.
        max_seconds: Time after which no further texts are proposed or run: the best so far is judged.
        max_calls: Sequences that texts may take beside each soft prompt until the search ends likewise.
        verify: Run candidates beside the soft prompt on the subject, choose by what is likely and the subject bears
            out, and give a verdict: faithful, doubtful or failed. Without, the translator's first guess is printed
            unverified, and no subject is needed.
        seed: Seed of all that is random; the same seed gives the same result.
        output: Write to this file instead of the terminal.
    """
    from soft2hard.prompts.files import find_soft_prompts
    from soft2hard.prompts.soft_prompt import SoftPrompt

    found = find_soft_prompts(paths)
    if card is not None and len(found) > 1:
        raise UserError(f"A card shows one soft prompt, and there are {len(found)}.", "Translate one, or leave --card.")
    _check(verify, card, demonstrations, propose, helping, examples, loading)
    soft_prompts = [SoftPrompt.from_pretrained(path) for path in found]
    files = None if examples is None else example_files(examples, found)
    read = [*found, *(file.path for file in files or ())]
    if card is not None:
        check_output(card, read)
    with result_stream(output, read) as write:
        quiet()
        from soft2hard.translator.fitting import without_translator

        name = subject_of(soft_prompts, subject, runs=verify)
        if subject is not None and not verify:  # no subject is loaded, whose name then tells which translator fits
            soft_prompts = [replace(prompt, subject=subject) for prompt in soft_prompts]
        describer = _describer_behind_api(helping)
        lm = load_subject(name, fast=True, loading=loading) if verify else None
        if propose is None and translator is None and lm is not None and (helping.describer or helping.prior):
            propose = without_translator(lm, helping.describer is not None, helping.prior is not None)
        everything = Group(list(range(len(found))), lm, max_new_tokens)
        known = Understood(soft_prompts, [everything] if found else [])
        if lm is not None and files:
            say_unknown(lm, {text for file in files for text in file.inputs})
            known = understand(lm, soft_prompts, files, loading.template, max_new_tokens)
            say_some(known.remarks.values())
        if loading.template is None:
            say_template(known)
        model = _translator(translator, lm, propose)
        helpers = _helpers(helping, describer, lm)
        n_checks = _JUDGING if files else max(MIN_PROBES, probes // 2)
        config = TranslateConfig(
            candidates, propose=tuple(propose or ()), n_probes=probes, n_checks=n_checks,
            max_new_tokens=max_new_tokens, demonstrations=demonstrations, max_seconds=max_seconds, max_calls=max_calls,
            seed=seed, verify=verify,
        )  # fmt: skip
        results = _translated(known, model, config, files, helpers)
        if results and not any(result.text for result in results):
            invents = lm is None or lm.continues_text
            few = "given or invented" if invents else "and this subject invents none"
            few += f"; {files[0].path} has {len(files[0].inputs)}" if files else ""
            raise UserError(
                f"No text could be run beside {found[0]}: {MIN_PROBES} inputs at least are needed, {few}.",
                "Give inputs of its task with --examples.",
            )
        results = [_named(*of_one, known.is_borne_out(i)) for i, of_one in enumerate(zip(results, found, strict=True))]
        if card is not None:
            _write_card(card, results[0], known.soft_prompts[0], lm, seed, loading.template)
        write(
            _as_json(results, known, _made_by(lm, config, helping), loading.template)
            if json_
            else "\n\n".join(map(_as_text, results))
        )
    if results:
        has_place = not any(one.template is not None and one.template.input_first for one in known.soft_prompts)
        # Once more, beside the verdict.
        say_some(remark for i, remark in known.remarks.items() if results[i].verdict == "failed")
        if not demonstrations and has_place and any(result.verdict == "failed" for result in results):
            say("Where no sentence does what a soft prompt does, pairs that it writes may: try --demonstrations 8.")


def _translated(
    known: Understood,
    translator: "Translator | None",
    config: TranslateConfig,
    files: "Sequence[ExampleFile] | None",
    helpers: "Helpers",
) -> "list[Translation]":
    """A translation of each soft prompt, in their order."""
    from soft2hard.translator.fitting import models_for
    from soft2hard.translator.translate import AssumedTemplate, translate

    found: dict[int, Translation] = {}
    began = time.monotonic()
    with progress_bar() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", AssumedTemplate)  # said before, in words of the command line
        bar = progress.add_task("Translating", total=len(known.soft_prompts))
        advance = functools.partial(progress.advance, bar)
        for group in known.groups:
            prompts = [known.soft_prompts[i] for i in group.places]
            if translator is None and len(known.groups) > 1:  # found once, and said once
                translator, _ = models_for(prompts, None, group.subject, config)
            of_group = replace(config, max_new_tokens=group.longest)
            if config.max_seconds is not None:
                of_group = replace(of_group, max_seconds=max(config.max_seconds - (time.monotonic() - began), 1e-3))
            inputs = files and [files[i].inputs for i in group.places]
            made = translate(
                prompts, translator, group.subject, of_group, inputs=inputs, helpers=helpers, progress=advance
            )
            found |= zip(group.places, made, strict=True)
    return [found[i] for i in range(len(known.soft_prompts))]


def _check(
    verify: bool,
    card: Path | None,
    demonstrations: int,
    propose: "Sequence[str] | None",
    helping: Helping,
    examples: Path | None,
    loading: RunLoading,
) -> None:
    """Refuse what goes together with nothing that is asked for, before anything is loaded or sent."""
    helpers = {"describer": helping.describer, "prior": helping.prior, "encoder": helping.encoder}
    asked = {"card": card, "demonstrations": demonstrations, "propose": propose, "examples": examples}
    asked |= {"template": loading.template, "embedding-scale": loading.embedding_scale, **helpers}
    if not verify and (useless := [f"--{name}" for name, value in asked.items() if value]):
        raise UserError(f"{useless[0]} needs texts to be run, and --no-verify runs none.", "Leave one of them out.")
    if propose and helping.describer and "describe" not in propose:
        raise UserError("--describer is given, and --propose does not name describe.", "Add describe to --propose.")
    if propose and helping.prior and set(propose) == {"translator"}:
        raise UserError("--prior is given, and only the translator proposes.", "Add search to --propose.")


def _translator(name: str | None, lm: "Subject | None", propose: "Sequence[str] | None") -> "Translator | None":
    """The translator that was asked for. None: `translate` finds whether one that comes along fits."""
    from soft2hard.translator.model import Translator

    if name is not None and propose and "translator" not in propose:
        raise UserError("--translator is given, and --propose does not name it.", "Add translator to --propose.")
    if name is None:
        return None
    return Translator.from_pretrained(name) if lm is None else Translator.beside(name, lm)


def _describer_behind_api(helping: Helping) -> "TextGenerator | None":
    """A describer that is no model of this machine, asked for a trial, so that a wrong key or address shows at once."""
    name = helping.describer
    is_local = name in ("subject", "embedded") or "/" in (name or "") or Path(name or "").exists()
    if name is None or (is_local and helping.describer_url is None):
        return None
    from soft2hard.api.asking import Asker
    from soft2hard.api.prices import estimate_table, read_prices
    from soft2hard.api.requests import ApiModel
    from soft2hard.api.text_generation import ApiGenerator

    url = {} if helping.describer_url is None else {"base_url": helping.describer_url}
    model = ApiModel(name, **url, key_env=helping.describer_key_env)
    asker = Asker(model, helping.ledger, read_prices(), max_cost=helping.max_cost)
    describer = ApiGenerator(asker, say, lambda estimate: say(estimate_table([estimate], "describer")))
    describer.check()
    return describer


def _helpers(helping: Helping, describer: "TextGenerator | None", lm: "Subject | None") -> "Helpers":
    from soft2hard.lm.sentences import sentence_encoder
    from soft2hard.lm.subject import Subject
    from soft2hard.lm.text_generation import LocalGenerator
    from soft2hard.storage.names import located
    from soft2hard.translator.translate import Helpers

    if describer is None and helping.describer is not None and lm is not None:
        name = helping.describer
        describer = LocalGenerator(
            lm if name == "subject" else Subject.from_pretrained(located(name, "api_model")), chat=True
        )
    prior = None if helping.prior is None else load_subject(helping.prior, fast=True)
    return Helpers(describer, prior, None if helping.encoder is None else sentence_encoder(helping.encoder))


def _named(translation: "Translation", path: Path, is_borne_out: bool) -> "Translation":
    assumed = translation.template_is_assumed and not is_borne_out
    return replace(translation, soft_prompt=str(path), template_is_assumed=assumed)


def _write_card(
    path: Path, translation: "Translation", soft_prompt: "SoftPrompt", lm: "Subject", seed: int, asked: str | None
) -> None:
    from soft2hard.eval.report.card import translation_card
    from soft2hard.storage.files import atomic_write

    page = translation_card(translation, soft_prompt, lm, seed=seed, template=_made_under(asked, soft_prompt, lm))
    with atomic_write(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _made_under(asked: str | None, soft_prompt: "SoftPrompt", lm: "Subject | None") -> str | None:
    """The template in the words of --template: the one asked for, or what the soft prompt records, or else what is
    assumed; None where nothing was run."""
    from soft2hard.lm.templates import is_chat
    from soft2hard.translator.layout import as_string

    recorded = soft_prompt.template
    if asked is not None or recorded is None:
        return asked or (None if lm is None else "plain")
    if lm is None or not is_chat(recorded, lm.tokenizer):
        return as_string(recorded, soft_prompt.place)
    return "chat:first" if recorded.place == "first" and soft_prompt.place is None else "chat"


def _made_by(lm: "Subject | None", config: TranslateConfig, helping: Helping) -> dict[str, Any]:
    """What the translations were made with, to make them again."""
    from soft2hard.storage.names import name_of
    from soft2hard.storage.run_folders import commit, versions

    made: dict[str, Any] = {"settings": asdict(config), "versions": versions(), "commit": commit()}
    if lm is None:
        return made
    precision = str(lm.model.dtype).removeprefix("torch.")  # what "auto" came to
    subject = {"name": name_of(lm.name), "fingerprint": lm.fingerprint, "precision": precision}
    helpers = {name: getattr(helping, name) for name in ("describer", "prior", "encoder")}
    return made | {"subject": subject, "loading": asdict(lm.loading), "helpers": helpers}


def _as_json(
    translations: list["Translation"], known: Understood, made_by: Mapping[str, Any], asked: str | None
) -> str:
    records: list[dict[str, Any]] = [one.to_json() for one in translations]
    for group in known.groups:
        for i in group.places:
            prompt = known.soft_prompts[i]
            place = prompt.template.place if prompt.template else prompt.place
            under = {"template": _made_under(asked, prompt, group.subject), "place": place}
            records[i] |= {**under, "max_new_tokens": group.longest}
    document = {"schema_version": SCHEMA_VERSION, **made_by, "translations": records}
    return json.dumps(document, indent=2, ensure_ascii=False)


def _as_text(translation: "Translation") -> str:
    from soft2hard.eval.report.verdict_text import judgement_text, partings_text, unnamed_text, verdict_text

    lines = [translation.soft_prompt, f"  {translation.text}", f"  {verdict_text(translation)}"]
    lines += [f"    {line}" for line in partings_text(translation.judgement)] if translation.judgement else []
    lines += [f"  {line}" for line in [unnamed_text(translation)] if line]
    if translation.by_proposer.keys() - {"translator"}:
        lines.append(f"  {_origins(translation)}")
    if translation.demonstrated is not None:
        shown = translation.demonstrated.text.replace("\n", "\n    ")
        told = judgement_text(translation.demonstrated, translation.probe_source)
        lines += [f"  with demonstrations, {told}", f"    {shown}"]
    if translation.stopped:
        lines.append("  (the budget ended the search; more time or calls may find a better text)")
    return "\n".join(lines)


def _origins(translation: "Translation") -> str:
    """Where the text comes from, and what the best of each proposer explains on the inputs that chose."""
    from soft2hard.eval.report.verdict_text import explained_share_text

    worth = [
        f"the best of {name} explains {explained_share_text(best.explained)}"
        for name, best in translation.by_proposer.items()
        if best.explained is not None
    ]
    chosen, others = translation.candidates[0], translation.by_proposer.values()
    if worth and chosen.weight < _LITTLE and any(best.divergence < chosen.divergence for best in others):
        worth.append("which counts for little, since no text explains much here")
    told = f" (on the inputs that chose it, {', '.join(worth)})" if worth else ""
    return f"found by {translation.proposer}{told}"
