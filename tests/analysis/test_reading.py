"""Reading times: the challenge's figures, what is counted in them, and files that are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.benchmarks import Answer, Benchmark, from_facts
from analysis.benchmarks.facts import item_facts
from analysis.benchmarks.reading import MEASURES, READING, read_reading

EYE = [measure for measure, group in MEASURES.items() if group == "eye_tracking"]
SELF_PACED = "self_paced_reading_time"
NUMBERS = (*MEASURES, "Subtlex_log10", "length", "context_length", "prev_length")


def made_up(sentences: int = 30, words: int = 6, seed: int = 0) -> pd.DataFrame:
    """A table of the challenge's columns, with first words left out as there."""
    chance = np.random.default_rng(seed)
    rows = []
    for sentence in range(sentences):
        text = [f"w{sentence}x{n}" for n in range(words)]
        for n in range(1, words):
            before = {"prev_item": " ".join(text[: n - 1]), "prev_word": text[n - 1]}
            texts = {"item": " ".join(text[:n]), "word": text[n]}
            texts |= before if n > 1 else dict.fromkeys(before, "")
            rows.append({**texts, "n": n})
    table = pd.DataFrame(rows)
    table[[*NUMBERS]] = chance.normal(5, 2, (len(table), len(NUMBERS)))
    table["context_length"] = table.pop("n")
    return table.assign(prev_length=table["prev_length"].where(table["prev_word"] != ""))


def read(table: pd.DataFrame, folder: Path) -> Benchmark:
    folder.mkdir(exist_ok=True)
    table.to_csv(folder / "reading_data.csv", index=False)
    return Benchmark("reading", read_reading(folder))


def answers(benchmark: Benchmark, surprisal: Callable[[str], float]) -> list[Answer]:
    """Of a model with these surprisals of words after their contexts."""
    texts = [context + word for item in benchmark.items for context, word in item.texts]
    return benchmark.grade([np.array([-surprisal(text)]) for text in texts])


def figures(benchmark: Benchmark, given: list[Answer]) -> dict[str, float]:
    """By measure."""
    values: dict[str, list[float]] = {}
    for item, answer in zip(benchmark.items, given, strict=True):
        values.setdefault(item.task, []).append(answer.value)
    return {measure: 100 * float(np.mean(each)) for measure, each in values.items()}


def r_squared(table: pd.DataFrame, measure: str, mains: list[str], *more: str) -> float:
    """Of the least squares of `measure ~ mains + their products by twos + more`."""
    columns = [np.ones(len(table)), *(table[name] for name in mains)]
    columns += [table[a] * table[b] for i, a in enumerate(mains) for b in mains[i + 1 :]]
    design = np.column_stack([*columns, *(table[name] for name in more)])
    times = table[measure].to_numpy()
    residuals = times - design @ np.linalg.lstsq(design, times, rcond=None)[0]
    return float(1 - residuals @ residuals / ((times - times.mean()) ** 2).sum())


def official(table: pd.DataFrame, measure: str) -> float:
    """The formula of the BabyLM challenge's scorer (babylm-eval, strict/evaluation_pipeline,
    `_calculate_reading_results`), with `pred` and `prev_pred` in the table."""
    mains = ["Subtlex_log10", "length", "context_length"]
    if measure == SELF_PACED:
        mains += ["prev_length", "prev_pred"]
    baseline = r_squared(table[[measure, *mains]].dropna(), measure, mains)
    model = r_squared(table[[measure, *mains, "pred"]].dropna(), measure, mains, "pred")
    return 100 * (model - baseline) / (1 - baseline)


def surprisals(table: pd.DataFrame, seed: int = 1) -> dict[str, float]:
    """Made-up ones that have to do with the times, of all words."""
    chance = np.random.default_rng(seed)
    texts = table["item"] + " " + table["word"]
    found = 8 + 0.3 * table["RTgopast"].fillna(5) + chance.normal(0, 1, len(table))
    before = table["prev_item"] + " " + table["prev_word"]
    return {text: float(chance.random()) for text in before} | dict(zip(texts, found, strict=True))


def with_surprisals(table: pd.DataFrame, by_text: dict[str, float]) -> pd.DataFrame:
    before = (table["prev_item"] + " " + table["prev_word"]).map(by_text)
    return table.assign(
        pred=(table["item"] + " " + table["word"]).map(by_text),
        prev_pred=before.where(table["prev_word"] != ""),
    )


def test_figures_are_those_of_the_challenge(tmp_path: Path) -> None:
    """Of every measure, to 1e-9, also where values are missing; so are the two that it prints."""
    table = made_up()
    table.loc[3, "RTfirstfix"] = math.nan
    table.loc[[8, 9], ["length", SELF_PACED]] = math.nan
    by_text = surprisals(table)
    benchmark = read(table, tmp_path / "reading")
    given = answers(benchmark, by_text.__getitem__)
    expected = {measure: official(with_surprisals(table, by_text), measure) for measure in MEASURES}
    assert figures(benchmark, given) == pytest.approx(expected, abs=1e-9, rel=0)
    eye = np.mean([expected[measure] for measure in EYE])
    assert benchmark.figure([answer.value for answer in given]) == pytest.approx(
        (eye + expected[SELF_PACED]) / 2, abs=1e-9
    )
    assert expected["RTgopast"] > 5


def test_predictions_are_each_words_surprisals(tmp_path: Path) -> None:
    """One for each row in the file's order, of a word without any time too (which nobody counts),
    and of a word that stands there twice; the scorer's formula on them gives the figures."""
    table = made_up()
    table.loc[[7, len(table) - 1], list(MEASURES)] = math.nan
    twice = table.loc[[22, 22]].copy()
    twice.iloc[0, [*map(twice.columns.get_loc, EYE)]] = math.nan
    twice.iloc[1, twice.columns.get_loc(SELF_PACED)] = math.nan
    table = pd.concat([table.loc[:21], twice, table.loc[23:]], ignore_index=True)
    by_text = surprisals(table)
    benchmark = read(table, tmp_path / "reading")
    given = answers(benchmark, by_text.__getitem__)
    assert READING.submitted is not None
    rows = READING.submitted(benchmark.items, given)["reading"]
    assert [row["id"] for row in rows] == list(range(len(table)))
    predicted = table.assign(
        pred=[row["pred"] for row in rows], prev_pred=[row["prev_pred"] for row in rows]
    )
    expected = with_surprisals(table, by_text)
    untimed = [7, len(table) - 1]
    expected.loc[untimed, ["pred", "prev_pred"]] = math.nan
    pd.testing.assert_frame_equal(predicted, expected)
    assert {item.covariates[0] for item in benchmark.items} == {*range(len(table))} - {*untimed}
    assert figures(benchmark, given) == pytest.approx(
        {measure: official(predicted, measure) for measure in MEASURES}, abs=1e-9
    )


def test_a_word_is_scored_with_a_space_before_it(tmp_path: Path) -> None:
    """Whether the file has one there or not; "None" and "NA" are words like others, and where the
    first was lost on the way it is put back."""
    table = made_up()
    table.loc[0, ["item", "word"]] = ["", " of"]
    table.loc[1, ["prev_item", "prev_word"]] = ["NA", "null"]
    table["RTgopast"] = table["RTgopast"].astype(object)
    table.loc[[2, 3, 4], "RTgopast"] = ["N/A", "NULL", "None"]
    items = read(table, tmp_path / "reading").items
    assert items[0].texts == [("None", " of")]
    assert items[len(EYE)].texts[1] == ("NA", " null")
    assert not {item.covariates[0] for item in items if item.task == "RTgopast"} & {2, 3, 4}


def test_words_of_a_sentence_are_one_cluster(tmp_path: Path) -> None:
    """Whatever the order of the rows, and where sentences begin alike."""
    table = made_up(sentences=30, words=4)
    table["item"] = table["item"].str.replace(r"^w\d+x0", "He", regex=True)
    table = table.sample(frac=1, random_state=0)
    clusters: dict[str, set[str]] = {}
    for item in read(table, tmp_path / "reading").items:
        sentence = item.options[0].split("x")[0]
        clusters.setdefault(sentence, set()).add(item.cluster)
    assert all(len(each) == 1 for each in clusters.values())
    assert len({next(iter(each)) for each in clusters.values()}) == 30


def test_items_of_a_sentence_are_all_held_out_or_none(tmp_path: Path) -> None:
    """Whatever the measure: what chooses has seen nothing of what is reported. Also of stored
    facts, which hold no text."""
    benchmark = read(made_up(), tmp_path / "reading")
    stored, stored_selection = from_facts("reading", item_facts(benchmark))
    for items, chosen in (
        (benchmark.items, benchmark.in_selection),
        (stored.items, stored_selection),
    ):
        by_sentence: dict[str, set[bool]] = {}
        for item, is_chosen in zip(items, chosen, strict=True):
            by_sentence.setdefault(item.cluster, set()).add(is_chosen)
        assert len(by_sentence) == 30
        assert all(len(each) == 1 for each in by_sentence.values())
        assert sum(each == {True} for each in by_sentence.values()) == 6


def test_a_model_that_knows_nothing_explains_what_chance_says(tmp_path: Path) -> None:
    """Surprisals that are noise: mean and spread of the figure over 150 models."""
    benchmark = read(made_up(), tmp_path / "reading")
    texts = [context + word for item in benchmark.items for context, word in item.texts]
    names, of_text = np.unique(texts, return_inverse=True)
    chance = np.random.default_rng(3)
    found = []
    for _ in range(150):
        given = benchmark.grade(list(chance.random(len(names))[of_text][:, None]))
        found.append(benchmark.figure([answer.value for answer in given]))
    assert np.mean(found) == pytest.approx(benchmark.chance, rel=0.15)
    assert np.std(found) < benchmark.chance_error
    assert np.std(found) > 0.4 * benchmark.chance_error


def test_the_standard_error_is_the_spread_over_other_sentences(tmp_path: Path) -> None:
    """Also where the measures of a word, and the words of a sentence, vary together."""
    found, errors = [], []
    for seed in range(40):
        table, chance = made_up(sentences=50, seed=seed), np.random.default_rng(1000 + seed)
        sentence = np.repeat(chance.normal(size=50), 5)
        surprisal = chance.normal(size=len(table)) + 5
        times = 100 + 5 * surprisal + 8 * sentence + chance.normal(0, 8, len(table))
        table = table.assign(**{name: times + chance.normal(0, 4, len(table)) for name in MEASURES})
        by_text = surprisals(table)
        by_text |= dict(zip(table["item"] + " " + table["word"], surprisal, strict=True))
        benchmark = read(table, tmp_path / "reading")
        values = [answer.value for answer in answers(benchmark, by_text.__getitem__)]
        found.append(benchmark.figure(values))
        errors.append(benchmark.error(values))
    assert np.mean(errors) == pytest.approx(np.std(found), rel=0.3)


@pytest.mark.parametrize("surprisal", [math.nan, math.inf])
def test_a_broken_model_explains_nothing(surprisal: float, tmp_path: Path) -> None:
    """What is not finite is counted as such, and its measures are not explained."""
    table = made_up()
    by_text = surprisals(table) | {f"{table['item'][9]} {table['word'][9]}": surprisal}
    given = answers(read(table, tmp_path / "reading"), by_text.__getitem__)
    assert sum(not answer.finite for answer in given) >= len(MEASURES)
    assert all(answer.value == 0 for answer in given)


def test_times_that_the_baseline_knows_leave_nothing_to_explain(tmp_path: Path) -> None:
    """No division by a variance of zero; a model of one surprisal for all explains nothing."""
    table = made_up().assign(RTfirstfix=0.0)
    benchmark = read(table, tmp_path / "reading")
    found = figures(benchmark, answers(benchmark, surprisals(table).__getitem__))
    assert found["RTfirstfix"] == 0
    constant = figures(benchmark, answers(benchmark, lambda text: 3.0))
    assert constant == pytest.approx(dict.fromkeys(MEASURES, 0.0), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"drop": "prev_word"}, "lacks the column 'prev_word': expected item, word"),
        ({"at": ("word", " ")}, "row 4: 'word' is empty"),
        ({"at": ("length", "long")}, "row 4: 'length' is no number, but 'long'"),
        ({"at": ("RTgopast", "1e999")}, "row 4: 'RTgopast' is no number, but '1e999'"),
        ({"rows": 20}, "has 16 values of self_paced_reading_time with all that its .* 17 param"),
        ({"rows": 8}, "has 8 values of RTfirstfix with all that its .* too few for 8 parameters"),
        ({"rows": 0}, "has 0 values of RTfirstfix"),
    ],
)
def test_bad_tables_are_named(change: dict, message: str, tmp_path: Path) -> None:
    """File, row and column stand in the error."""
    table = made_up().astype(object)
    if "drop" in change:
        table = table.drop(columns=change["drop"])
    if "at" in change:
        column, value = change["at"]
        table.loc[2, column] = value
    if "rows" in change:
        table = table.head(change["rows"])
    with pytest.raises(ValueError, match=rf"reading_data.csv.*({message})"):
        read(table, tmp_path / "reading")


def test_folders_without_one_table_are_refused(tmp_path: Path) -> None:
    """None, or several: which of them?"""
    read(made_up(), tmp_path / "reading")
    (tmp_path / "reading/other.CSV").write_text("a,b\n")
    with pytest.raises(ValueError, match="holds 2 "):
        read_reading(tmp_path / "reading")
    (tmp_path / "reading/other.CSV").unlink()
    (tmp_path / "reading/reading_data.csv").write_bytes(b"\xff\xfe item")
    with pytest.raises(ValueError, match="is no table of comma-separated values"):
        read_reading(tmp_path / "reading")
