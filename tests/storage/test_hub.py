"""Translators, corpora, soft prompts and subjects by name: published, fetched, read offline, or refused in one line."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import constants
from huggingface_hub.errors import GatedRepoError, HTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

from soft2hard import SoftPrompt, Subject, Translator
from soft2hard.data_gen.corpus.folder import CorpusPlan
from soft2hard.data_gen.corpus.rows import content_hash, load_corpus
from soft2hard.data_gen.corpus.shards import CorpusBuilder
from soft2hard.data_gen.taskfiles import TaskFilesDoD, read_tasks
from soft2hard.data_gen.tuning import Tuning
from soft2hard.errors import UserError
from soft2hard.storage.hub import is_repository_name, local_file, local_folder
from tests import tiny_training
from tests.command_line import run
from tests.hub_server import Hub, running


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running() as held:
        monkeypatch.setattr(constants, "ENDPOINT", held.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", held.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield held


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_training.save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def corpus(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    outputs = {"a": "cat dog", "b": "one two", "c": "up down"}
    tasks = [tiny_training.write_task(folder / f"{name}.jsonl", words) for name, words in outputs.items()]
    subject, dod = Subject.from_pretrained(models / "subject"), TaskFilesDoD(tuple(read_tasks(tasks, 0)))
    tuning, n_tasks = Tuning(n_tokens=2, steps=2), len(list(dod.tasks("train")))
    plan = CorpusPlan(dod.name, "train", n_tasks, subject.fingerprint, tuning, shard_size=1, n_train=None)
    list(CorpusBuilder(folder / "corpus", plan, dod, subject).build())
    return folder / "corpus"


def header(card: bytes) -> dict:
    _, front, _ = card.decode().split("---\n", 2)
    return yaml.safe_load(front)


def soft_prompt(path: Path, seed: int = 0, **about: object) -> SoftPrompt:
    vectors = torch.randn(3, 16, generator=torch.Generator().manual_seed(seed))
    made = SoftPrompt(vectors, **{"subject": "org/base", "fingerprint": "f" * 64} | about)
    made.save(path)
    return made


# --- there and back ---------------------------------------------------------------------------


def test_a_translator_that_is_pushed_writes_the_same_when_loaded_by_name(hub: Hub, models: Path) -> None:
    result = run("push", "translator", models / "translator", "org/mine", "--licence", "apache-2.0")
    assert result.exit_code == 0, result.stderr
    assert hub.private == {"models/org/mine": True}
    kept, fetched = Translator.from_pretrained(models / "translator"), Translator.from_pretrained("org/mine")
    assert fetched.name == "org/mine" and fetched.card == kept.card
    for (name, a), (_, b) in zip(kept.model.state_dict().items(), fetched.model.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def test_the_card_says_the_licence_the_subject_and_how_to_load(hub: Hub, models: Path) -> None:
    run("push", "translator", models / "translator", "org/mine", "--licence", "apache-2.0")
    card = hub.repositories["models/org/mine"]["README.md"]
    about = Translator.from_pretrained(models / "translator").card
    assert header(card)["license"] == "apache-2.0"
    for part in (about.fingerprint, 'Translator.from_pretrained("org/mine")', '"train_pairs"'):
        assert part in card.decode()


def test_a_corpus_that_is_pushed_is_the_same_when_loaded_by_name_and_when_pulled(
    hub: Hub, corpus: Path, tmp_path: Path
) -> None:
    assert run("push", "corpus", corpus, "org/pairs", "--licence", "cc0-1.0", "--public").exit_code == 0
    assert hub.private == {"datasets/org/pairs": False}
    card = hub.repositories["datasets/org/pairs"]["README.md"]
    assert header(card)["license"] == "cc0-1.0" and f"{len(load_corpus(corpus))} soft prompts" in card.decode()
    assert content_hash(load_corpus("org/pairs")) == content_hash(load_corpus(corpus))
    result = run("pull", "corpus", "org/pairs", tmp_path / "pulled")
    assert result.stdout.strip() == str(tmp_path / "pulled")
    assert content_hash(load_corpus(tmp_path / "pulled")) == content_hash(load_corpus(corpus))
    assert not any(path.is_symlink() for path in (tmp_path / "pulled").rglob("*"))


def test_soft_prompts_of_every_format_come_back_bit_for_bit_by_name(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "all").mkdir()
    first = soft_prompt(tmp_path / "all" / "a.safetensors", 1, provenance={"task": "colours|`x`"})
    second = soft_prompt(tmp_path / "b.safetensors", 2)
    second.save_pretrained(tmp_path / "all" / "b", base_model="org/base")
    assert run("push", "soft-prompts", tmp_path / "all", "org/prompts", "--licence", "mit").exit_code == 0
    assert set(hub.repositories["models/org/prompts"]) == {"README.md", "a.safetensors", "b.safetensors"}
    card = hub.repositories["models/org/prompts"]["README.md"]
    assert header(card)["base_model"] == "org/base" and r"colours\|'x'" in card.decode()
    for name, prompt in (("a", first), ("b", second)):
        fetched = SoftPrompt.from_pretrained(f"org/prompts/{name}.safetensors")
        assert torch.equal(fetched.embeddings, prompt.embeddings) and fetched.fingerprint == prompt.fingerprint
    with pytest.raises(UserError, match="has 2 soft prompts.*org/prompts/a.safetensors"):
        SoftPrompt.from_pretrained("org/prompts")


def test_translate_takes_soft_prompts_translator_and_subject_by_name(hub: Hub, models: Path, tmp_path: Path) -> None:
    subject = Subject.from_pretrained(models / "subject")
    own = {"fingerprint": subject.fingerprint, "template": subject.template}
    SoftPrompt(subject.embed_text("red cat"), **own).save(tmp_path / "p.safetensors")
    run("push", "soft-prompts", tmp_path / "p.safetensors", "org/p", "--licence", "mit")
    run("push", "translator", models / "translator", "org/t", "--licence", "mit")
    files = {path.name: path.read_bytes() for path in (models / "subject").iterdir()}
    hub.repositories["models/org/s"] = files | {"modeling.py": b"raise SystemExit", "pytorch_model.bin": b"pickle"}
    (tmp_path / "inputs.txt").write_text("one\ntwo\n")
    common = ("--candidates", 2, "--examples", tmp_path / "inputs.txt")
    named = run("translate", "org/p", "--translator", "org/t", "--subject", "org/s", *common)
    local = run(
        "translate",
        tmp_path / "p.safetensors",
        "--translator",
        models / "translator",
        "--subject",
        models / "subject",
        *common,
    )
    assert named.exit_code == 0, named.stderr
    assert named.stdout.splitlines()[1:] == local.stdout.splitlines()[1:]
    assert not {"modeling.py", "pytorch_model.bin"} & set(hub.fetched)


# --- offline ----------------------------------------------------------------------------------


def test_what_was_fetched_before_is_read_offline_and_nothing_else(
    hub: Hub, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("push", "translator", models / "translator", "org/mine", "--licence", "mit")
    soft_prompt(tmp_path / "p.safetensors")
    run("push", "soft-prompts", tmp_path / "p.safetensors", "org/p", "--licence", "mit")
    hub.repositories["models/org/s"] = {path.name: path.read_bytes() for path in (models / "subject").iterdir()}
    for name, kind in (("org/mine", "translator"), ("org/p", "soft-prompts"), ("org/s", "subject")):
        local_folder(name, kind)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    hub.fetched.clear()
    translator = Translator.from_pretrained("org/mine")
    assert translator.card.fingerprint == Subject.from_pretrained("org/s").fingerprint
    assert SoftPrompt.from_pretrained("org/p").fingerprint == "f" * 64
    for load in (Translator.from_pretrained, Subject.from_pretrained, SoftPrompt.from_pretrained):
        with pytest.raises(UserError, match="org/other.*unset HF_HUB_OFFLINE"):
            load("org/other")
    assert not hub.fetched


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["translator", "corpus", "soft-prompts", "subject"])
def test_a_gated_repository_is_one_line_that_says_to_accept_the_licence(hub: Hub, kind: str) -> None:
    place = "datasets" if kind == "corpus" else "models"
    hub.gated.add(f"{place}/org/gated")
    address = f"{hub.url}/{'datasets/' if kind == 'corpus' else ''}org/gated"
    with pytest.raises(UserError, match=f"'org/gated' is gated. Accept its licence at {address}, then log in"):
        local_folder("org/gated", kind)


def test_a_repository_that_is_not_there_is_one_line(hub: Hub) -> None:
    for call in (Subject.from_pretrained, Translator.from_pretrained, SoftPrompt.from_pretrained, load_corpus):
        with pytest.raises(UserError, match="no folder and no .* on the hub named 'org/none'.*log in"):
            call("org/none")


def test_a_hub_that_cannot_be_reached_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="hub cannot be reached for 'org/mine'.*no folder of that name"):
        local_folder("org/mine", "translator")


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (GatedRepoError, "Accept its licence"),
        (RepositoryNotFoundError, "Check the name"),
        (LocalEntryNotFoundError, "See to the network"),
    ],
)
def test_errors_of_the_hub_are_told_apart(error: type, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    http = import_module(HTTPError.__module__.partition(".")[0])  # which library the hub's errors come from changes

    def fail(*args: object, **kwargs: object) -> None:
        response = (
            {}
            if error is LocalEntryNotFoundError
            else {"response": http.Response(403, request=http.Request("GET", "x:"))}
        )
        raise error("no", **response)

    monkeypatch.setattr("soft2hard.storage.hub.snapshot_download", fail)
    with pytest.raises(UserError, match=part):
        local_folder("org/name", "translator")


def test_a_revision_behind_the_name_is_what_is_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[tuple[str, str | None]] = []

    def fetch(name: str, *, revision: str | None, **_: object) -> str:
        asked.append((name, revision))
        return str(tmp_path)

    monkeypatch.setattr("soft2hard.storage.hub.snapshot_download", fetch)
    assert local_folder("org/name@v2", "subject") == local_folder("org/name", "subject") == tmp_path
    assert asked == [("org/name", "v2"), ("org/name", None)]


def test_a_file_that_a_repository_lacks_is_named(hub: Hub, tmp_path: Path) -> None:
    soft_prompt(tmp_path / "p.safetensors")
    run("push", "soft-prompts", tmp_path / "p.safetensors", "org/p", "--licence", "mit")
    with pytest.raises(UserError, match="'org/p' on the hub has no q.safetensors"):
        local_file("org/p/q.safetensors", "soft-prompts")


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("push", "translator", "{tmp}", "org/x", "--licence", "mit"), "is not a translator"),
        (("push", "corpus", "{tmp}", "org/x", "--licence", "mit"), "is not a corpus"),
        (("push", "soft-prompts", "{tmp}/none", "org/x", "--licence", "mit"), "No such file or folder"),
        (("pull", "translator", "no name at all", "{tmp}/out"), "no name of a repository"),
        (("pull", "translator", "org/p", "{tmp}/out"), "is not a translator"),
    ],
)
def test_what_cannot_be_pushed_or_pulled_is_one_line_and_leaves_nothing(
    hub: Hub, tmp_path: Path, arguments: tuple, part: str
) -> None:
    hub.repositories["models/org/p"] = {"config.json": b"{}"}
    result = run(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert result.exit_code == 2 and part in result.stderr and len(result.stderr.splitlines()) == 1
    assert set(hub.repositories) == {"models/org/p"} and not (tmp_path / "out").exists()


def test_soft_prompts_of_two_subjects_are_not_published_as_one_set(hub: Hub, tmp_path: Path) -> None:
    soft_prompt(tmp_path / "a.safetensors")
    soft_prompt(tmp_path / "b.safetensors", subject="org/other")
    result = run("push", "soft-prompts", tmp_path, "org/x", "--licence", "mit")
    assert result.exit_code == 2 and "several subjects (org/base, org/other)" in result.stderr


def test_paths_are_not_taken_for_names() -> None:
    for path in ("prompts/kinds.safetensors", "runs/tasks.csv", "./here", "../up", "/a/b", "a/b/c", "translator"):
        assert not is_repository_name(path, "translator"), path
    assert is_repository_name("organisation/name", "translator") and is_repository_name("gpt2", "subject")
