"""Loading: which benchmarks are found in a folder or on the hub, and which of them are taken."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest
from benchmark_files import write_blimp, write_supplement

from analysis.benchmarks import BenchmarkSource, Suite, load_suite

REAL_DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def names(suite: Suite) -> list[str]:
    return [benchmark.name for benchmark in suite.benchmarks]


def test_finds_folders_in_and_at_the_path(evaluation_data: Path) -> None:
    """Both benchmarks are found one level down; a benchmark folder itself works as path too."""
    suite = load_suite(evaluation_data, "2024")
    assert names(suite) == ["blimp", "supplement"]
    assert suite.num_items == 6
    assert names(load_suite(evaluation_data / "blimp_fast", "2024")) == ["blimp"]
    assert names(load_suite(str(evaluation_data / "supplement_filtered"), "2025")) == ["supplement"]


def test_a_blimp_supplement_folder_is_the_supplement(tmp_path: Path) -> None:
    """The name `blimp_supplement` does not make it BLiMP."""
    write_supplement(tmp_path / "blimp_supplement")
    assert names(load_suite(tmp_path, "2024")) == ["supplement"]


def test_fast_folder_is_preferred_and_names_override(evaluation_data: Path) -> None:
    """Of several folders the fast one counts, unless names says otherwise."""
    full = write_blimp(evaluation_data / "blimp_filtered")
    (full / "adverb.jsonl").unlink()
    assert load_suite(evaluation_data, "2024").num_items == 6
    chosen = load_suite(evaluation_data, "2024", ["blimp_filtered"])
    assert (names(chosen), chosen.num_items) == (["blimp"], 4)


def test_the_whole_set_is_taken_where_it_should_be(evaluation_data: Path) -> None:
    """Not in every epoch, but once at the end: the folder that is not `_fast`; it is named."""
    full = write_blimp(evaluation_data / "blimp_filtered")
    (full / "adverb.jsonl").unlink()
    (blimp,) = load_suite(
        BenchmarkSource(str(evaluation_data), ("blimp",), fast=False), "2024"
    ).benchmarks
    assert (blimp.dataset, len(blimp)) == ("blimp_filtered", 4)
    (blimp,) = load_suite(BenchmarkSource(str(evaluation_data), ("blimp",)), "2024").benchmarks
    assert (blimp.dataset, len(blimp)) == ("blimp_fast", 5)


def test_ambiguous_or_unknown_names_are_errors(evaluation_data: Path) -> None:
    """Two folders of one benchmark, or one that does not exist, are never chosen silently."""
    write_supplement(evaluation_data / "supplement_mine")
    with pytest.raises(
        ValueError, match=r"several supplement benchmarks \(supplement_filtered, sup"
    ):
        load_suite(evaluation_data, "2024")
    with pytest.raises(ValueError, match="are both supplement"):
        load_suite(evaluation_data, "2024", ["supplement_mine", "supplement_filtered"])
    with pytest.raises(ValueError, match="unknown task 'blimp_full'.*blimp_fast"):
        load_suite(evaluation_data, "2024", ["blimp_full"])


def test_nothing_found_says_what_was_looked_for(tmp_path: Path) -> None:
    """A wrong path names the layout that was expected."""
    with pytest.raises(
        ValueError, match=r"no benchmark folder at .*missing: expected one with blimp\*"
    ):
        load_suite(tmp_path / "missing", "2024")
    with pytest.raises(
        ValueError, match=r"looked at it and at what is in it for names that begin with blimp"
    ):
        load_suite(tmp_path, "2024")
    (tmp_path / "blimp_empty").mkdir()
    with pytest.raises(ValueError, match=r"blimp_empty is called like the benchmark blimp and"):
        load_suite(tmp_path, "2024")
    with pytest.raises(ValueError, match="unknown protocol '2030'"):
        load_suite(tmp_path, "2030")


def write_ewok(folder: Path) -> Path:
    folder.mkdir(parents=True)
    row = {"Domain": "space", "Context1": "a .", "Context2": "b .", "Target1": "c", "Target2": "d"}
    (folder / "space.jsonl").write_text(json.dumps(row) + "\n")
    return folder


def write_wug(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "wug.jsonl").write_text(json.dumps({"sentences": "a cat\tcat a", "ratio": 0.5}))
    return folder


def test_tasks_choose_kinds_folders_or_all(evaluation_data: Path) -> None:
    """By default the macro's benchmarks; kinds, folders and `all` choose others."""
    write_ewok(evaluation_data / "ewok_filtered")
    write_wug(evaluation_data / "wug_adj_nominalization")
    assert names(load_suite(evaluation_data, "2024")) == ["blimp", "ewok", "supplement"]
    everything = ["blimp", "ewok", "supplement", "wug"]
    assert names(load_suite(evaluation_data, "2024", ["all"])) == everything
    assert names(load_suite(evaluation_data, "2024", ["wug", "blimp_fast"])) == ["blimp", "wug"]
    with pytest.raises(ValueError, match="no bear benchmark in .*it has blimp_fast, ewok_filtered"):
        load_suite(evaluation_data, "2024", ["bear"])


def test_without_a_macro_benchmark_what_is_there_is_taken(tmp_path: Path) -> None:
    """A folder with nothing but a later task gives that task."""
    write_wug(tmp_path / "wug_adj_nominalization")
    assert names(load_suite(tmp_path, "2024")) == ["wug"]


def test_a_source_does_not_show_its_password() -> None:
    """The password of EWoK's zip is in no printed source."""
    assert "secret" not in repr(BenchmarkSource("somewhere", ewok_password="secret"))


def test_blimp_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every configuration of the hub's data set is a task; nothing else is downloaded."""
    row = {"sentence_good": "a", "sentence_bad": "b", "field": "syntax"}
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda hub_id: ["one", "two"])
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda hub_id, name, split: {"train": [{**row, "UID": f"{hub_id} {name}"}]},
    )
    (blimp,) = load_suite("hub", "2024").benchmarks
    assert [item.task for item in blimp.items] == ["nyu-mll/blimp one", "nyu-mll/blimp two"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no network"), r"ewok-core-1.0 cannot be read.*connect to the network"),
        (
            datasets.exceptions.DatasetNotFoundError("it is a gated dataset on the Hub"),
            r"asks for your consent. Accept its terms .* HF_TOKEN",
        ),
    ],
)
def test_hub_errors_say_what_to_do(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    """Without network, or without consent to a gated data set, the message gives the way out."""

    def refuse(hub_id: str) -> list[str]:
        raise error

    monkeypatch.setattr(datasets, "get_dataset_config_names", refuse)
    with pytest.raises(ValueError, match=message):
        load_suite("hub", "2024", ["ewok"])


def test_what_the_hub_does_not_have_is_an_error() -> None:
    """A benchmark without a home on the hub is refused by name."""
    with pytest.raises(ValueError, match="supplement cannot be taken from the hub, only blimp"):
        load_suite("hub", "2024", ["supplement"])


@pytest.mark.skipif(not (REAL_DATA / "blimp_fast").is_dir(), reason="no public benchmark files")
def test_public_files_load() -> None:
    """The public files are read whole: 67 BLiMP tasks of 200 pairs, 5 supplement tasks."""
    chosen = ["blimp_fast", "supplement_filtered"]
    blimp, supplement = load_suite(REAL_DATA, "2024", chosen).benchmarks
    assert len({item.task for item in blimp.items}) == 67
    assert len({group for item in blimp.items for group in item.groups}) == 13 + 4
    assert len(blimp) == 13_400
    assert len({item.task for item in supplement.items}) == 5
    assert len(supplement) == 5_218
