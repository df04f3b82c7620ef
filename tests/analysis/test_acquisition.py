"""Age of acquisition: the challenge's figure, its entries, and files that are refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import curve_fit
from scipy.stats import pearsonr

from analysis.benchmarks.acquisition import (
    WordInContext,
    correlation,
    read_words,
    results_of,
    spans_of,
)
from analysis.benchmarks.protocols import Encoder

SEEN = [*(n * 10**6 for n in range(1, 10)), *(n * 10**7 for n in range(1, 11))]


def curve(x, a, b, c, d):
    return a / (1 + np.exp(-b * (x - c))) + d


class Tokens:
    """A tokenizer of 2,000 tokens, one for each two letters that a word begins."""

    vocab_size = 2000

    def __call__(self, texts: list[str], **options: bool) -> dict[str, list[list[int]]]:
        assert not options["add_special_tokens"]
        pieces = [sum(-(-len(word) // 2) for word in text.split()) for text in texts]
        return {"input_ids": [[0] * number for number in pieces]}


def figure_of(results: list[dict], file: Path, protocol: str = "2025") -> tuple[float, int]:
    return correlation(results, file, protocol, Tokens())


def official(results: list[dict], human: pd.DataFrame, protocol: str) -> tuple[float, float]:
    """The formula of the BabyLM challenge's scorer (babylm-eval, strict/evaluation_pipeline/utils,
    `AoAEvaluator`), written out for data that every step of it accepts or not; and its p-value."""
    ages = np.arange(16, 31)
    of_model, of_children = [], []
    for word in dict.fromkeys(entry["target_word"] for entry in results):
        rows = human[human["word"] == word]
        if rows.empty:
            continue
        shares = rows[[str(age) for age in ages]].to_numpy()[0]
        known = ~np.isnan(shares)
        child = half(ages[known], shares[known])
        mine = [entry for entry in results if entry["target_word"] == word]
        steps = np.array([entry["word_count"] for entry in mine])
        model = LEARNED[protocol](word, steps, np.array([entry["surprisal"] for entry in mine]))
        if child is not None and model is not None:
            of_model.append(model)
            of_children.append(child)
    found = pearsonr(of_model, of_children)
    return float(found[0]), float(found[1])


def half(ages, shares):
    if len(ages) < 3:
        return None
    first, last = ages[0], ages[-1]
    limits = ([0, 0, first, -0.5], [2.0, 1.0, last, 0.5])
    try:
        found, _ = curve_fit(
            curve, ages, shares, p0=[1.0, 0.1, np.mean(ages), 0.0], bounds=limits, maxfev=1000
        )
    except RuntimeError:
        return None
    a, b, c, d = found
    if b <= 0 or a <= 0 or d >= 0.5 or a + d <= 0.5:
        return None
    age = c - np.log(a / (0.5 - d) - 1) / b
    return age if first <= age <= last else None


def learned(word, steps, surprisals):
    chance = np.log2(300_000)
    level = -(chance - 0.5 * (chance - surprisals.min()))
    y, x = -surprisals, np.log10(steps + 1)
    try:
        found, _ = curve_fit(
            curve, x, y, p0=[y.max() - y.min(), 1.0, np.mean(x), y.min()], maxfev=1000
        )
    except RuntimeError:
        return None
    a, b, c, d = found
    if b <= 0 or a <= 0 or level <= d or level >= a + d:
        return None
    at = c - np.log(a / (level - d) - 1) / b
    return at if steps[0] <= 10**at - 1 <= steps[-1] else None


def learned_2026(word, steps, surprisals):
    """With the mean over contexts, chance by the word's tokens, and limits of the curve."""
    chance = -(-len(word) // 2) * np.log(2000)
    seen = sorted(set(steps))
    y = -np.array([surprisals[steps == each].mean() for each in seen])
    x = np.log10(np.array(seen) + 1)
    level, span = -(chance - 0.5 * (chance + y.max())), y.max() - y.min()
    low = [0, 0, x[0] - 1, y.min() - 2 * span - 1]
    high = [10 * span + 1, 100, x[-1] + 1, y.max() + 1]
    try:
        found, _ = curve_fit(
            curve, x, y, p0=[span, 1.0, np.mean(x), y.min()], bounds=(low, high), maxfev=20000
        )
    except RuntimeError:
        return None
    a, b, c, d = found
    if b <= 1e-6 or a <= 1e-6 or level <= d or level >= a + d:
        return None
    at = c - np.log(a / (level - d) - 1) / b
    return at if seen[0] <= 10**at - 1 <= seen[-1] else None


LEARNED = {"2025": learned, "2026": learned_2026}


def made_up(words: int = 40, seed: int = 0) -> tuple[list[dict], pd.DataFrame]:
    """Words that models learn late, and children, too, by and large; with noise and gaps."""
    chance = np.random.default_rng(seed)
    late = chance.uniform(0, 1, words)
    results, rows = [], []
    for seen in SEEN:
        for word in range(words):
            for number in range(2):
                middle = 6.3 + 1.2 * late[word]
                surprisal = 18 - 15 / (1 + math.exp(-4 * (math.log10(seen) - middle)))
                entry = {"target_word": f"w{word}", "word_count": seen, "context_id": number}
                results.append({**entry, "surprisal": surprisal + chance.normal(0, 0.3)})
    for word in range(words - 2):
        middle = 18 + 9 * late[word] + chance.normal(0, 1)
        shares = [1 / (1 + math.exp(-0.6 * (age - middle))) for age in range(16, 31)]
        rows.append({"word": f"w{word}", **dict(zip(map(str, range(16, 31)), shares, strict=True))})
    human = pd.DataFrame([*rows, {"word": "w0", "16": 0.9}, {"word": "unknown", "16": 0.5}])
    human.loc[1, ["20", "21"]] = math.nan
    human.loc[2, [str(age) for age in range(18, 31)]] = math.nan
    return results, human


@pytest.mark.parametrize("protocol", ["2025", "2026"])
def test_the_figure_is_that_of_the_challenge(protocol: str, tmp_path: Path) -> None:
    """To 1e-9; words without a fit, or that children's table lacks, count for neither."""
    results, human = made_up()
    human.to_csv(tmp_path / "cdi_human.csv", index=False)
    figure, words = figure_of(results, tmp_path / "cdi_human.csv", protocol)
    assert figure == pytest.approx(official(results, human, protocol)[0], abs=1e-9)
    assert figure > 0.5
    assert 20 < words < 39


def test_what_may_be_chance_counts_as_nothing_in_2026(tmp_path: Path) -> None:
    """A correlation with a p-value above 0.1; in 2025 it counted as it is."""
    results, human = made_up(words=10)
    human["word"] = human["word"].replace({f"w{n}": f"w{(3 * n) % 8}" for n in range(8)})
    human.to_csv(tmp_path / "cdi_human.csv", index=False)
    expected, p_value = official(results, human, "2026")
    assert p_value > 0.1
    assert expected != 0
    figure, words = figure_of(results, tmp_path / "cdi_human.csv", "2026")
    assert figure == 0.0
    assert words > 3
    assert figure_of(results, tmp_path / "cdi_human.csv", "2025")[0] != 0


def test_scores_that_are_not_finite_are_no_points(tmp_path: Path) -> None:
    """And with fewer than three words there is no figure."""
    results, human = made_up()
    human.to_csv(tmp_path / "cdi_human.csv", index=False)
    broken = [{**entry, "surprisal": math.nan} for entry in results]
    assert figure_of(broken, tmp_path / "cdi_human.csv") == (0.0, 0)
    some = [*results, *({**entry, "surprisal": math.nan} for entry in results)]
    assert figure_of(some, tmp_path / "cdi_human.csv") == figure_of(
        results, tmp_path / "cdi_human.csv"
    )
    two = [entry for entry in results if entry["target_word"] in ("w3", "w4")]
    assert figure_of(two, tmp_path / "cdi_human.csv")[0] == 0.0


@pytest.mark.parametrize("points", [1, 2, 3])
def test_few_points_have_no_sigmoid(points: int, tmp_path: Path) -> None:
    """Fewer than its parameters, of models or of children: the word counts for neither."""
    results, human = made_up()
    human.loc[5, [str(age) for age in range(16 + points, 31)]] = math.nan
    human.to_csv(tmp_path / "cdi_human.csv", index=False)
    some = [e for e in results if e["target_word"] != "w6" or e["word_count"] <= SEEN[points - 1]]
    some = [e for e in some if e["target_word"] != "w6" or e["context_id"] == 0]
    figure, words = figure_of(some, tmp_path / "cdi_human.csv")
    assert math.isfinite(figure)
    assert words == figure_of(results, tmp_path / "cdi_human.csv")[1] - 1


def test_words_that_are_hardly_learned_end_nothing(tmp_path: Path) -> None:
    """A sigmoid may reach its middle after any number of words, beyond what a number holds."""
    _, human = made_up(words=400)
    human.to_csv(tmp_path / "cdi_human.csv", index=False)
    chance = np.random.default_rng(5)
    results = [
        {"target_word": f"w{word}", "word_count": seen, "surprisal": chance.uniform(15, 23)}
        for seen in SEEN
        for word in range(398)
        for _ in range(4)
    ]
    figure, words = figure_of(results, tmp_path / "cdi_human.csv")
    assert math.isfinite(figure)
    assert words < 300


def test_entries_are_the_challenges(tmp_path: Path, make_tokenizer) -> None:
    """Of a word with two contexts, after a space; letters alone are left out."""
    file = tmp_path / "cdi_childes.json"
    contexts = [{"context": "the red "}, {"context": "a"}]
    file.write_text(json.dumps({"ball": contexts, "x": contexts, "dog": contexts[:1]}))
    words = read_words(file)
    assert words[1] == WordInContext("ball", 1, "a")
    assert [each.word for each in words] == ["ball", "ball", "dog"]
    spans = spans_of(words, Encoder(make_tokenizer(), "2025"))
    assert [(len(span.ids), span.start) for span in spans] == [(3, 2), (2, 1), (3, 2)]
    entries = [*results_of(words, "chck_1M", 10**6, [-1.0, -2.5, -3.0])]
    assert entries[1] == {
        "step": "chck_1M",
        "word_count": 10**6,
        "target_word": "ball",
        "context_id": 1,
        "context": "a",
        "surprisal": 2.5,
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object, not list"),
        ('{"ball": {"context": "a"}}', "'ball': expected a list of contexts"),
        ('{"ball": ["a"]}', "'ball': expected objects with a context"),
        ('{"ball": [{"text": "a"}]}', "'ball': field 'context' is missing"),
        ('{"x": [{"context": "a"}], "ball": []}', "holds no word with a context"),
    ],
)
def test_bad_lists_of_words_are_named(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "words.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        read_words(file)
    assert "words.json" in str(error.value)


@pytest.mark.parametrize("content", ["", "word\nball\n", "16,17\n.1,.2\n"])
def test_bad_tables_of_children_are_named(content: str, tmp_path: Path) -> None:
    file = tmp_path / "human.csv"
    file.write_text(content)
    with pytest.raises(ValueError, match=r"human.csv (lacks the column|is no table)"):
        figure_of(made_up()[0], file)
