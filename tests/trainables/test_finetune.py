"""Fine-tuning: what the head sees, what is learned, what survives an interruption."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, PreTrainedConfig

import models
import trainables.finetune as finetune_module
from analysis.benchmarks import glue
from analysis.benchmarks.classification import Example, TaskData
from analysis.benchmarks.glue import FinetuneSettings
from trainables.classifier import Classifier, batches, encode, predict, split
from trainables.corpus.tokenizer import train_tokenizer
from trainables.digests import write_digests
from trainables.finetune import finetune, learning_rate, out_of_patience, remove_leftovers
from trainables.finetune_spec import FinetuneSpec, model_hash, read_outcome

WORDS = ["cat", "dog", "good", "bad", "sees", "likes", "runs", "sleeps", "here", "now"]
CONTEXT = 32
VOCAB = 295  # each word is one token
CPU = torch.device("cpu")
# A head with dropout, so that an interrupted run has to draw the same masks.
SETTINGS = dataclasses.replace(
    glue.settings("2025", "sst2"), lr=3e-3, batch_size=8, epochs=3, max_length=64, head_dropout=0.3
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    chance = random.Random(0)
    lines = [" ".join(chance.choices(WORDS, k=6)) for _ in range(100)]
    return train_tokenizer(lines, VOCAB)


@pytest.fixture(scope="module")
def model_folder(tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new mini transformer and its tokenizer."""
    folder = tmp_path_factory.mktemp("model")
    new_model("transformer").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def spec(model_folder: Path) -> FinetuneSpec:
    return FinetuneSpec(model_hash(model_folder), "sst2", toy_data().hash, "2025", SETTINGS)


@pytest.fixture
def run(model_folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Fine-tune on the toy task in a storage of the test's own."""

    def fine_tune(spec: FinetuneSpec, storage: str = "storage", **options: Any) -> Any:
        return finetune(spec, model_folder, toy_data(), tmp_path / storage, **options)

    return fine_tune


def new_model(arch: str) -> Any:
    torch.manual_seed(0)
    return models.build_model(models.build_config(arch, "mini", vocab_size=VOCAB, context=CONTEXT))


def toy_data() -> TaskData:
    """Is there a "good" or a "bad" in a sentence? Most are "good"."""
    chance = random.Random(0)

    def example() -> Example:
        words = chance.choices(["cat", "dog", "sees", "runs"], k=chance.randint(2, 8))
        label = int(chance.random() < 0.6)
        words[chance.randrange(len(words))] = ("bad", "good")[label]
        return Example((" ".join(words),), label)

    train, valid = (tuple(example() for _ in range(count)) for count in (96, 40))
    return TaskData(glue.find_task("sst2"), train, valid)


def test_labels_of_a_file_are_learned(model_folder: Path, tmp_path: Path) -> None:
    """A set of the multilingual track with three labels, from its files to its outcome."""
    labels = {"cat": "dier", "here": "plaats", "now": "tijd"}
    rows = [{"sentence": f"sees {word} {word}", "label": label} for word, label in labels.items()]
    folder = tmp_path / "nl" / "sib200"
    folder.mkdir(parents=True)
    for part, times in (("train", 16), ("valid", 2)):
        lines = "".join(json.dumps(row) + "\n" for row in rows * times)
        (folder / f"sib200_nl.{part}.jsonl").write_text(lines)
    data = glue.read_task(tmp_path, "sib200_nl")
    assert isinstance(data, TaskData)
    settings = glue.settings("2025", "sib200_nl", {"lr": 1e-2, "batch_size": 8, "epochs": 4})
    spec = FinetuneSpec(model_hash(model_folder), "sib200_nl", data.hash, "2025", settings)
    outcome = finetune(spec, model_folder, data, tmp_path / "storage")
    assert (outcome.task, outcome.metric, outcome.baseline) == (
        *("sib200_nl", "accuracy"),
        pytest.approx(100 / 3),
    )
    assert outcome.predictions == (0, 1, 2) * 2
    assert (outcome.score, outcome.error) == (100.0, 0.0)


def with_settings(spec: FinetuneSpec, **changes: Any) -> FinetuneSpec:
    return dataclasses.replace(spec, settings=dataclasses.replace(spec.settings, **changes))


def killed_after(last_epoch: int, run: Callable[..., Any], spec: FinetuneSpec) -> None:
    """Fine-tune to the end of this epoch."""

    def die(epoch: Any) -> None:
        if epoch.epoch == last_epoch:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(spec, report=die)


@pytest.mark.parametrize("arch", models.architectures())
def test_the_last_real_token_is_pooled_whatever_the_padding(arch: str) -> None:
    """Logits of a text alone, and padded beside a longer one with any id, are equal to 1e-5; they
    are the head's answer to the hidden state behind the last token."""
    model = Classifier(new_model(arch), 3, SETTINGS).eval()
    text = torch.randint(2, VOCAB, (1, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        alone = model(text, torch.tensor([7]))
        last = model.body(input_ids=text, use_cache=False).last_hidden_state[:, -1]
        torch.testing.assert_close(model.head(last), alone, rtol=0, atol=1e-5)
        for padding in (0, 1, VOCAB - 1):
            padded = torch.cat([text, torch.full((1, 13), padding)], 1)
            both = model(torch.cat([padded, padded.flip(1)]), torch.tensor([7, 20]))
            torch.testing.assert_close(both[:1], alone, rtol=0, atol=1e-5)
            assert not torch.allclose(both[1:], alone, atol=1e-3)


def test_predictions_do_not_depend_on_the_order(tokenizer: Any) -> None:
    """Each example gets its own prediction, though they are batched by length."""
    model = Classifier(new_model("lstm"), 2, dataclasses.replace(SETTINGS, head="linear"))
    examples = toy_data().train
    forward = predict(model, encode(tokenizer, examples, 64), CPU)
    backward = predict(model, encode(tokenizer, examples[::-1], 64), CPU)
    assert forward is not None
    assert backward is not None
    assert len(set(forward)) == 2
    assert forward == backward[::-1]


def test_the_longer_text_is_cut_first(tokenizer: Any) -> None:
    """Of ten and two words, eight tokens keep the whole second text; what fits is not touched."""
    long, short = ["cat"] * 10, ["dog", "runs"]
    pair, fits = (Example((" ".join(words), "dog runs"), 0) for words in (long, short))
    encoded = encode(tokenizer, [pair, fits], 8)
    cat, dog, runs = (tokenizer(word)["input_ids"] for word in ("cat", "dog", "runs"))
    assert (len(cat), len(dog), len(runs)) == (1, 1, 1)
    assert encoded.ids[0].tolist() == cat * 6 + dog + runs
    assert encoded.ids[1].tolist() == (dog + runs) * 2
    assert encoded.truncated == 1


@pytest.mark.parametrize("number", [1, 2])
def test_texts_are_cut_at_their_end_by_any_tokenizer(tokenizer: Any, number: int) -> None:
    """One that cuts the beginning by itself gives the same ids, and cuts as before afterwards."""
    texts = ("the cat sees the dog . the dog runs .", "the dog sleeps .")[:number]
    expected = encode(tokenizer, [Example(texts, 0)], 8)
    other = copy.deepcopy(tokenizer)
    other.truncation_side = "left"
    found = encode(other, [Example(texts, 0)], 8)
    assert found.ids[0].tolist() == expected.ids[0].tolist()
    assert found.ids[0][0] == tokenizer(texts[0])["input_ids"][0]
    assert other.truncation_side == "left"


def test_an_example_without_a_token_is_named(tokenizer: Any) -> None:
    """One of two texts may be empty; if all are, the error tells the row and not the texts."""
    half, none = Example(("", "cat"), 0), Example(("", " "), 0)
    assert encode(tokenizer, [half], 8).ids[0].tolist() == tokenizer("cat")["input_ids"]
    with pytest.raises(ValueError, match=r"^qqp\.train, row 2: the tokenizer finds no token"):
        encode(tokenizer, [half, Example(("", ""), 0), none], 8, "qqp.train")


def test_batches_hold_every_example_once(tokenizer: Any) -> None:
    """An epoch is a shuffle in batches of equal size, the same for the same seed and epoch."""
    encoded = encode(tokenizer, toy_data().train, 64)
    first, again, other = (list(batches(encoded, 7, 0, epoch)) for epoch in (0, 0, 1))
    assert sorted(np.concatenate(first).tolist()) == list(range(96))
    assert sorted(map(len, first)) == [96 % 7, *[7] * (96 // 7)]
    assert [b.tolist() for b in first] == [b.tolist() for b in again]
    assert [b.tolist() for b in first] != [b.tolist() for b in other]


def test_split_keeps_the_shares_of_the_labels() -> None:
    """A tenth of 60, 30 and 10 examples is 6, 3 and 1, and the rest is the other part."""
    labels = np.repeat([0, 1, 2], [60, 30, 10])
    train, held_out = split(labels, 10, seed=0)
    assert np.bincount(labels[held_out]).tolist() == [6, 3, 1]
    assert sorted([*train, *held_out]) == list(range(100))
    assert split(labels, 10, seed=1)[1].tolist() != held_out.tolist()


def test_split_needs_two_of_a_label() -> None:
    """One example of each label cannot be both trained on and held out."""
    with pytest.raises(ValueError, match="2 training examples are too few"):
        split(np.array([0, 1]), 1, seed=0)


@pytest.mark.parametrize(
    ("scores", "is_over"),
    [
        ([50.0, 49.0, 49.0], False),
        ([50.0, 49.0, 49.0, 49.0], True),
        ([50.0, 49.0, 49.0, 50.2], False),
        ([50.0, 50.05, 50.1, 50.15], True),
        ([50.0, 49.0, 50.2, 49.0, 49.0], False),
    ],
)
def test_patience_waits_for_a_gain(scores: list[float], is_over: bool) -> None:
    """Three epochs in a row that gain 0.1 points or less on the best before end the training."""
    assert out_of_patience(scores, patience=3, min_delta=0.1) is is_over
    assert not out_of_patience(scores, patience=None, min_delta=0.1)


def test_learning_rate_of_both_protocols() -> None:
    """2024 falls in a line from the peak to zero; 2025 warms up, and falls to a tenth of it."""
    old, new = glue.settings("2024", "rte"), glue.settings("2025", "rte")
    assert learning_rate(old, 0, 100) == old.lr
    assert learning_rate(old, 75, 100) == pytest.approx(old.lr / 4)
    assert learning_rate(new, 2, 100) == pytest.approx(new.lr / 2)
    assert learning_rate(new, 6, 100) == new.lr
    assert learning_rate(new, 53, 100) == pytest.approx(0.55 * new.lr)
    assert learning_rate(new, 100, 100) == pytest.approx(0.1 * new.lr)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_separable_task_is_learned(
    precision: str, spec: FinetuneSpec, run: Callable[..., Any], tmp_path: Path
) -> None:
    """Nearly all sentences get their right label, far more than a constant answer gives; only the
    outcome is left, and it is not computed again."""
    spec = dataclasses.replace(spec, precision=precision)
    outcome = run(spec)
    assert (outcome.kind, outcome.precision) == ("finished", precision)
    assert outcome.score >= 95
    assert outcome.baseline < 75
    labels = [example.label for example in toy_data().valid]
    right = sum(a == b for a, b in zip(labels, outcome.predictions, strict=True))
    assert outcome.score == 100 * right / len(labels)
    folder = tmp_path / "storage" / spec.hash
    assert {file.name for file in folder.iterdir()} == {".lock", "spec.json", "outcome.json"}
    written = (folder / "outcome.json").stat().st_mtime_ns
    epochs: list[int] = []
    assert run(spec, report=lambda epoch: epochs.append(epoch.epoch)) == outcome
    assert epochs == [1, 2, 3]
    assert (folder / "outcome.json").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    "last_epoch",
    [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)],
)
def test_an_interrupted_run_ends_the_same(
    last_epoch: int, spec: FinetuneSpec, run: Callable[..., Any], tmp_path: Path
) -> None:
    """A run that dies behind an epoch, half way through writing another, continues to exactly the
    history and the predictions of one that did not."""
    killed_after(last_epoch, run, spec)
    half = tmp_path / "storage" / spec.hash / ".partial-1"
    half.mkdir()
    (half / "model.safetensors").write_text("half")
    trained: list[int] = []
    outcome = run(spec, report=lambda epoch: trained.append(epoch.epoch))
    assert trained == [1, 2, 3]
    assert outcome == run(spec, "elsewhere")
    assert not half.exists()


def test_an_epoch_of_an_earlier_version_is_continued(
    spec: FinetuneSpec, run: Callable[..., Any], tmp_path: Path
) -> None:
    """It kept the optimizer's state by the parameter's index; the end is the same to the bit."""
    killed_after(2, run, spec)
    epoch = tmp_path / "storage" / spec.hash / "epoch-002"
    file = epoch / "optimizer.safetensors"
    model = Classifier(new_model("transformer"), 2, SETTINGS)
    index = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    earlier = {}
    for key, value in load_file(file).items():
        moment, _, name = key.partition("/")
        earlier[f"{index[name]}/{moment}"] = value
    assert {"0/step", "0/exp_avg", "0/exp_avg_sq"} <= earlier.keys()
    save_file(earlier, file)
    write_digests(epoch, marked="progress.json")
    assert run(spec) == run(spec, "elsewhere")


@pytest.mark.parametrize("left", [pytest.param(None, marks=pytest.mark.slow), "{}"])
def test_an_epoch_that_lost_its_digests_is_damaged(
    left: str | None, spec: FinetuneSpec, run: Callable[..., Any], tmp_path: Path
) -> None:
    """It says itself that it had some: its parameters, of which a bit has flipped, are not used."""
    killed_after(2, run, spec)
    epoch = tmp_path / "storage" / spec.hash / "epoch-002"
    (epoch / "digests.json").unlink()
    if left is not None:
        (epoch / "digests.json").write_text(left)
    model = bytearray((epoch / "model.safetensors").read_bytes())
    model[-2] ^= 64
    (epoch / "model.safetensors").write_bytes(model)
    assert run(spec) == run(spec, "elsewhere")


@pytest.mark.parametrize(
    "damage",
    [
        {"score": "x"},
        pytest.param({"loss": math.nan}, marks=pytest.mark.slow),
        pytest.param({"epoch": 0}, marks=pytest.mark.slow),
    ],
)
def test_an_epoch_of_wrong_figures_is_damaged(
    damage: dict[str, Any],
    spec: FinetuneSpec,
    run: Callable[..., Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever its digests say; so is an outcome that has them. What they were of is done again."""
    killed_after(2, run, spec)
    epoch = tmp_path / "storage" / spec.hash / "epoch-002"
    content = json.loads((epoch / "progress.json").read_text())
    content["history"][0] |= damage
    (epoch / "progress.json").write_text(json.dumps(content))
    (epoch / "digests.json").unlink()
    write_digests(epoch, marked="progress.json")
    whole = run(spec)
    assert whole == run(spec, "elsewhere")
    assert f"{epoch} is damaged" in caplog.text
    outcome = tmp_path / "storage" / spec.hash / "outcome.json"
    outcome.write_text(json.dumps(dataclasses.asdict(whole) | damage))
    assert read_outcome(tmp_path / "storage", spec) is None
    assert f"{outcome} is damaged" in caplog.text


def test_what_begins_anew_is_saved_anew(
    spec: FinetuneSpec, run: Callable[..., Any], tmp_path: Path
) -> None:
    """Where the newest epoch is damaged and the best one is not, the best one's folder is written
    again: a second kill costs no more than the first."""
    killed_after(2, run, with_settings(spec, lr=1e-12))  # the first epoch is the best
    folder = tmp_path / "storage" / with_settings(spec, lr=1e-12).hash
    (folder / "epoch-002" / "model.safetensors").write_text("half")
    assert not (folder / "epoch-001" / "optimizer.safetensors").exists()
    killed_after(1, run, with_settings(spec, lr=1e-12))
    assert (folder / "epoch-001" / "optimizer.safetensors").exists()


def test_leftovers_of_a_kill_are_removed(
    spec: FinetuneSpec, run: Callable[..., Any], tmp_path: Path
) -> None:
    """Epochs that a kill left beside an outcome go, and nothing else does."""
    run(with_settings(spec, epochs=1))
    folder = tmp_path / "storage" / with_settings(spec, epochs=1).hash
    before = {file.name for file in folder.iterdir()}
    (folder / "epoch-001").mkdir()
    (folder / "epoch-001" / "model.safetensors").write_text("weights")
    remove_leftovers(tmp_path / "storage", with_settings(spec, epochs=1))
    assert {file.name for file in folder.iterdir()} == before


def test_a_resumed_run_does_not_repeat_epochs(
    spec: FinetuneSpec, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was saved is not trained again: three epochs' steps are taken over both processes."""
    steps: list[int] = []
    rate = finetune_module.learning_rate

    def counted(settings: FinetuneSettings, step: int, total: int) -> float:
        steps.append(step)
        return rate(settings, step, total)

    monkeypatch.setattr(finetune_module, "learning_rate", counted)
    killed_after(2, run, spec)
    outcome = run(spec)
    assert steps == list(range(3 * -(-outcome.num_train // SETTINGS.batch_size)))


def test_selection_is_labelled_and_counts(spec: FinetuneSpec, run: Callable[..., Any]) -> None:
    """By default a tenth of the training examples chooses the epoch; chosen on the reported ones,
    the outcome says so, trains on all, and reports its best try."""
    harder = with_settings(spec, lr=2e-4, epochs=4)
    split_off = run(harder)
    assert split_off.selection == "split"
    assert (split_off.num_train, split_off.num_selection) == (88, 8)
    reported = run(dataclasses.replace(harder, selection="reported"))
    assert reported.selection == "reported"
    assert (reported.num_train, reported.num_selection, reported.num_reported) == (96, 40, 40)
    assert reported.score == max(epoch.score for epoch in reported.history)
    for outcome in (split_off, reported):
        best = outcome.history[outcome.epoch - 1].score
        assert all(epoch.score < best for epoch in outcome.history[: outcome.epoch - 1])
        assert all(epoch.score <= best for epoch in outcome.history)


def test_the_chosen_epoch_is_reported(
    spec: FinetuneSpec, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the last epoch ruins the model, the score is still that of the best epoch's weights."""
    rate = finetune_module.learning_rate

    def ruinous(settings: FinetuneSettings, step: int, total: int) -> float:
        return 0.5 if step >= total * 2 / 3 else rate(settings, step, total)

    monkeypatch.setattr(finetune_module, "learning_rate", ruinous)
    outcome = run(dataclasses.replace(spec, selection="reported"))
    assert outcome.epoch < 3
    assert outcome.score == outcome.history[outcome.epoch - 1].score
    assert outcome.score > outcome.history[-1].score + 10


def test_divergence_is_an_outcome(
    spec: FinetuneSpec, run: Callable[..., Any], tmp_path: Path
) -> None:
    """A learning rate that no model survives gives a result without a score, and a reason."""
    wild = with_settings(spec, lr=1e30)
    outcome = run(wild)
    assert (outcome.kind, outcome.score, outcome.predictions) == ("diverged", None, ())
    assert "finite" in outcome.reason or "nan" in outcome.reason
    assert read_outcome(tmp_path / "storage", wild) == outcome


def test_patience_ends_the_training(spec: FinetuneSpec, run: Callable[..., Any]) -> None:
    """A model that cannot learn, because its rate is next to nothing, stops after 1 + 2 epochs."""
    outcome = run(with_settings(spec, lr=1e-12, epochs=9, patience=2))
    assert len(outcome.history) == 3
    assert outcome.epoch == 1


def test_texts_are_cut_to_the_context(spec: FinetuneSpec, run: Callable[..., Any]) -> None:
    """A model that reads 32 tokens gets no more of a text, and the outcome says what it got."""
    assert spec.settings.max_length > CONTEXT
    outcome = run(with_settings(spec, epochs=1))
    assert (outcome.max_length, outcome.truncated) == (CONTEXT, 0)
    short = run(with_settings(spec, epochs=1, max_length=3))
    data = toy_data()
    longer = [e for e in (*data.train, *data.valid) if len(e.texts[0].split()) > 3]
    assert (short.max_length, short.truncated) == (3, len(longer))


def test_changed_data_are_refused(spec: FinetuneSpec, run: Callable[..., Any]) -> None:
    """A spec that was made for other examples does not run on these."""
    with pytest.raises(ValueError, match="changed since the fine-tuning was planned"):
        run(dataclasses.replace(spec, data_hash="other"))


def test_identity_of_a_fine_tuning(spec: FinetuneSpec) -> None:
    """Every field is part of the hash, and a spec survives its trip through JSON."""
    assert FinetuneSpec.from_dict(spec.to_dict()) == spec
    others = [
        with_settings(spec, seed=1),
        dataclasses.replace(spec, selection="reported"),
        dataclasses.replace(spec, precision="bf16"),
        dataclasses.replace(spec, model_hash="other"),
    ]
    assert len({spec.hash, *(other.hash for other in others)}) == 5
    with pytest.raises(ValueError, match="selection must be one of split, reported"):
        dataclasses.replace(spec, selection="best")


@pytest.mark.parametrize(
    "name", ["min_delta", "warmup", "final_lr", "weight_decay", "grad_clip", "head_dropout"]
)
def test_zero_has_no_sign(spec: FinetuneSpec, name: str) -> None:
    """-0.0 is the fine-tuning of 0.0."""
    assert with_settings(spec, **{name: -0.0}).hash == with_settings(spec, **{name: 0.0}).hash


def test_model_hash_is_of_weights_and_tokenizer(model_folder: Path, tmp_path: Path) -> None:
    """A copy hashes alike; another tokenizer makes another model; an empty folder is none."""
    copy = tmp_path / "copy"
    shutil.copytree(model_folder, copy)
    assert model_hash(copy) == model_hash(model_folder)
    text = (copy / "tokenizer.json").read_text()
    (copy / "tokenizer.json").write_text(text.replace("cat", "tac"))
    assert model_hash(copy) != model_hash(model_folder)
    with pytest.raises(ValueError, match=r"no model in .*config\.json"):
        model_hash(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            BertConfig(
                vocab_size=VOCAB, hidden_size=16, num_hidden_layers=1, num_attention_heads=2
            ),
            "sees later tokens",
        ),
        (
            GPT2Config(vocab_size=VOCAB - 10, n_embd=16, n_layer=1, n_head=2),
            "the tokenizer gives token 29",
        ),
    ],
)
def test_models_that_cannot_be_classified_are_refused(
    model_folder: Path, tmp_path: Path, config: PreTrainedConfig, message: str, dtype: torch.dtype
) -> None:
    """Padding would reach the last token of one; the other does not know the tokenizer's tokens."""
    folder = tmp_path / "other"
    shutil.copytree(model_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    AutoModelForCausalLM.from_config(config).to(dtype).save_pretrained(folder)
    spec = FinetuneSpec(model_hash(folder), "sst2", toy_data().hash, "2025", SETTINGS)
    with pytest.raises(ValueError, match=message):
        finetune(spec, folder, toy_data(), tmp_path / "storage")
