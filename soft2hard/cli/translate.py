"""soft2hard translate: what a saved soft prompt says, in words."""

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from soft2hard.cli.common import (
    AtLeast1,
    Output,
    RunLoading,
    RunLoadingFlags,
    SubjectName,
    TranslatorName,
    load_subject,
    progress_bar,
    quiet,
    result_stream,
    subject_of,
)
from soft2hard.translator.settings import MIN_PROBES, TranslateConfig

if TYPE_CHECKING:
    from soft2hard.translator.translate import Translation

SCHEMA_VERSION = 1
"""Of the JSON document."""
_SOURCES = {"examples": "from --examples"}


def translate(
    paths: list[Path],
    /,
    *,
    json_: Annotated[bool, Parameter(name="--json", negative=())] = False,
    examples: Path | None = None,
    candidates: AtLeast1 = 64,
    probes: AtLeast1 = 32,
    subject: SubjectName | None = None,
    translator: TranslatorName = "embedded",
    verify: bool = True,
    seed: int = 0,
    output: Output | None = None,
    loading: RunLoadingFlags = RunLoading(),
) -> None:
    """Write soft prompts as text prompts, and verify that both do the same.

    **Example:** `soft2hard translate adapter/ --subject model/ --translator translator/ --examples inputs.txt`

    Args:
        paths: Soft prompts: .safetensors, .npy, .npz, .pt, .pth or .bin files, PEFT prompt-tuning or p-tuning adapter
            folders, or folders of them.
        json_: Print JSON, with all scores and candidates.
        examples: Inputs of the soft prompt's task to verify on: .jsonl or .csv with a column input, or .txt with one a
            line. The closer to real use, the surer the verdict. Without them the subject makes up its own.
        candidates: Texts to choose among by verification; more take longer and find better ones.
        probes: Inputs to choose among candidates on, at most; more tell finer differences, and take longer. Half as
            many others, where there are any, are kept to judge the chosen text on.
        verify: Run candidates beside the soft prompt on the subject, choose by what the translator finds likely and
            the subject bears out, and give a verdict: faithful, doubtful or failed. Without, the translator's first
            guess is printed unverified, and no subject is needed.
        seed: Seed of all that is random; the same seed gives the same result.
        output: Write to this file instead of the terminal.
    """
    from soft2hard.data_gen.taskfiles import read_inputs
    from soft2hard.prompts.files import find_soft_prompts
    from soft2hard.prompts.soft_prompt import SoftPrompt

    found = find_soft_prompts(paths)
    soft_prompts = [SoftPrompt.from_pretrained(path) for path in found]
    inputs = None if examples is None else read_inputs(examples)
    with result_stream(output) as write:
        quiet()
        from soft2hard.translator.model import Translator
        from soft2hard.translator.translate import translate as translate_all

        name = subject_of(soft_prompts, subject)
        lm = load_subject(name, fast=True, loading=loading) if verify else None
        model = Translator.from_pretrained(translator, subject=lm)
        config = TranslateConfig(
            candidates, n_probes=probes, n_checks=max(MIN_PROBES, probes // 2), seed=seed, verify=verify
        )
        names = [str(path) for path in found]
        with progress_bar() as progress:
            bar = progress.add_task("Translating", total=len(found))
            advance = functools.partial(progress.advance, bar)
            results = translate_all(soft_prompts, model, lm, config, inputs=inputs, names=names, progress=advance)
        write(_as_json(results) if json_ else "\n\n".join(map(_as_text, results)))


def _as_json(translations: list["Translation"]) -> str:
    records = [t.to_json() for t in translations]
    return json.dumps({"schema_version": SCHEMA_VERSION, "translations": records}, indent=2, ensure_ascii=False)


def _as_text(translation: "Translation") -> str:
    lines = [translation.soft_prompt, f"  {translation.text}", f"  {_verdict(translation)}"]
    if translation.ending == "none":
        lines.append("  (outputs under the soft prompt do not end; how the text ends them is not held against it)")
    return "\n".join(lines)


def _verdict(translation: "Translation") -> str:
    if translation.agreement is None:
        return f"{translation.verdict}: not run beside the soft prompt, for want of inputs or by --no-verify"
    n = f"{translation.n_checks} other" if translation.n_checks else f"the {translation.n_probes} choosing"
    return (
        f"{translation.verdict}: the subject writes the same under both on {translation.agreement:.0%} of "
        f"{n} inputs ({_SOURCES.get(translation.probe_source, translation.probe_source)})"
    )
