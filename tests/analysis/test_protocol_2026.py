"""The protocol of BabyLM 2026: what it asks, what it averages, and how sure its macro is."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest

from analysis.benchmarks import Benchmark, Item, Suite, load_suite, macro_of
from analysis.benchmarks.glue import PROTOCOL_TASKS, settings
from analysis.benchmarks.kinds import macro_in_words, macro_weights
from analysis.benchmarks.predictions import check_submission, write_submission
from analysis.inference import difference, estimate
from analysis.samples import chance, sample
from sweeps.findings.evaluate import _of_overall, means_with_glue
from tests.analysis.test_reading import MEASURES, answers, made_up, read, surprisals
from trainables.milestones import milestone_report

FIGURES = {
    **{"blimp": 71.3, "supplement": 60.2, "ewok": 51.7, "entity_tracking": 19.4, "comps": 52.9},
    **{"global_piqa_parallel": 27.1, "global_piqa_nonparallel": 53.0, "reading": 6.2},
}


def write(folder: Path, file: str, rows: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def items_of(folder: Path, protocol: str) -> tuple[Item, ...]:
    (benchmark,) = load_suite(folder, protocol).benchmarks
    return benchmark.items


def overall(figures: dict[str, float], glue: float, acquisition: float) -> float:
    """The leaderboard's formula (huggingface.co/spaces/BabyLM-community/BabyLM-Leaderboard-2026,
    src/leaderboard/read_evals.py, `to_dict`): nine figures, both sets of GlobalPIQA in one."""
    piqa = (figures["global_piqa_parallel"] + figures["global_piqa_nonparallel"]) / 2
    names = ("blimp", "supplement", "ewok", "entity_tracking", "comps")
    nlp = [figures[name] for name in names] + [glue, piqa]
    human = [figures["reading"], acquisition]
    return sum(nlp + human) / 9


def test_the_macro_is_the_leaderboards_overall_but_for_glue_and_acquisition() -> None:
    """With GLUE and the age of acquisition put back in, it is the published one to 1e-9; other
    benchmarks (WUG, BEAR) do not enter it."""
    macro = macro_of({**FIGURES, "wug": 90.0, "bear": 5.0}, "2026")
    assert macro is not None
    assert (7 * macro + 67.5 - 11.6) / 9 == pytest.approx(overall(FIGURES, 67.5, -11.6), abs=1e-9)
    scores = dict(zip(PROTOCOL_TASKS["2026"], (60, 75, 64, 71, 66, 72.5, 64), strict=True))
    assert fmean(scores.values()) == 67.5
    glue = {task: {"score": score} for task, score in scores.items()}
    results = {"protocol": "2026", "zero_shot": {"benchmarks": FIGURES}, "glue": glue}
    with_glue = means_with_glue(results)["macro_with_glue"]
    expected = overall(FIGURES, 67.5, -11.6)
    assert (8 * with_glue - 11.6) / 9 == pytest.approx(expected, abs=1e-9)


def test_without_all_of_it_none_with_glue_is_told() -> None:
    """The mean with GLUE is the leaderboard's or it is left out: without reading times there is
    that of 2024, and with one of GLUE's tasks none."""
    lacking = {name: figure for name, figure in FIGURES.items() if name != "reading"}
    results = {"zero_shot": {"benchmarks": lacking}}
    glue = {task: {"score": 60.0} for task in PROTOCOL_TASKS["2024"]}
    assert means_with_glue({**results, "glue": glue, "protocol": "2026"}) == {"glue": 60.0}
    of_2024 = means_with_glue({**results, "glue": glue, "protocol": "2024"})["macro_with_glue"]
    assert of_2024 == pytest.approx((71.3 + 60.2 + 51.7 + 60.0) / 4, abs=1e-9)
    glue["rte"] = {"score": None}
    assert means_with_glue({**results, "glue": glue, "protocol": "2024"}) == {"glue": 60.0}


@pytest.mark.parametrize(
    ("gone", "lacks"),
    [({"reading"}, "reading"), ({"rte"}, "glue"), ({"comps", "rte"}, "comps, glue"), (set(), "")],
)
def test_what_the_overall_score_lacks_is_named(gone: set[str], lacks: str) -> None:
    """GLUE only where a task of it has no score. The score is of the full sets, it is said: no
    figure of smaller ones passes for it."""
    zero_shot = {"benchmarks": {name: FIGURES[name] for name in FIGURES if name not in gone}}
    glue = {task: {"score": 60.0} for task in PROTOCOL_TASKS["2026"] if task not in gone}
    results: dict[str, Any] = {"protocol": "2026", "zero_shot": zero_shot, "glue": glue}
    results["means"] = means_with_glue(results)
    said = _of_overall(results)
    assert "the full sets" in said
    assert (f"also of {lacks} (--tasks all glue)" if lacks else "With GLUE ") in said


@pytest.mark.parametrize("protocol", ["2024", "2025"])
def test_the_macro_of_earlier_protocols_stays(protocol: str) -> None:
    """BLiMP, its supplement and EWoK alike, bit by bit, also with some of them only."""
    three = [FIGURES[name] for name in ("blimp", "supplement", "ewok")]
    assert macro_of(FIGURES, protocol) == fmean(three)
    assert macro_of({"ewok": 51.7, "comps": 3.0}, protocol) == 51.7
    assert macro_of({"comps": 3.0}, protocol) is None


def test_words_for_what_a_macro_averages() -> None:
    """Those that count alike, and those that count by half."""
    assert macro_in_words(macro_weights("2024", FIGURES)) == "blimp, supplement, ewok"
    assert macro_in_words(macro_weights("2026", FIGURES)) == (
        "blimp, supplement, ewok, entity_tracking, comps, reading, and of global_piqa_parallel and "
        "global_piqa_nonparallel by half"
    )


def test_ewok_asks_which_context_fits_the_target(tmp_path: Path) -> None:
    """Target 1 after context 1 against the same after context 2 (babylm-eval,
    sentence_zero_shot/read_files.py, `decode_ewok`); before, target 1 against target 2."""
    row = {
        "Context1": "It is up.",
        "Context2": "It is down.",
        "Target1": "High.",
        "Target2": "Low.",
    }
    folder = write(tmp_path / "ewok_small", "space.jsonl", [row])
    (new,), (old,) = items_of(folder, "2026"), items_of(folder, "2025")
    assert new.texts == [("It is up.", " High."), ("It is down.", " High.")]
    assert old.texts == [("It is up.", " High."), ("It is up.", " Low.")]
    assert (new.right, new.cluster) == (0, old.cluster)


def test_entity_tracking_leaves_out_what_may_be_nothing(tmp_path: Path) -> None:
    """An item with the word in any option (read_files.py, `decode_entity_tracking`), in 2026 only;
    where none is left, what to do is said."""
    rows = [
        {"input_prefix": f"Box {n} has", "options": [" the ball.", other], "numops": 0}
        for n, other in enumerate((" the cup.", " nothing."))
    ]
    folder = write(tmp_path / "entity_tracking", "regular.jsonl", rows)
    assert [item.context for item in items_of(folder, "2026")] == ["Box 0 has"]
    assert len(items_of(folder, "2025")) == 2
    write(folder, "regular.jsonl", rows[1:])
    with pytest.raises(ValueError, match="'nothing', which the protocol of 2026 leaves out"):
        items_of(folder, "2026")


def test_global_piqa_compares_means_over_tokens(tmp_path: Path) -> None:
    """The right solution has the greater mean and the lesser sum of its tokens' log-probabilities
    (compute_results.py: the sum over the mask, divided by the mask's sum); ties count one half."""
    row = {"prompt": "To sit:", "solution0": "fall", "solution1": "bend your knees", "label": 1}
    rows = [{**row, "solution2": None, "prompt": f"To sit {n}:"} for n in range(3)]
    folder = write(tmp_path / "global_piqa_nonparallel", "eng_latn.jsonl", rows)
    benchmark = Benchmark("global_piqa_nonparallel", items_of(folder, "2026"))
    assert benchmark.items[0].texts[1] == ("To sit 0:", " bend your knees")
    options = [([-3.0], [-2.0, -2.5, -1.5]), ([-1.0], [-2.0, -2.5, -1.5]), ([-2.0], [-3.0, -1.0])]
    given = benchmark.grade([np.array(each) for pair in options for each in pair])
    means = [[sum(each) / max(len(each), 1) for each in pair] for pair in options]
    assert [answer.log_probs for answer in given] == [pytest.approx(pair) for pair in means]
    assert [answer.value for answer in given] == [1.0, 0.0, 0.5]
    assert benchmark.figure([answer.value for answer in given]) == pytest.approx(50)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 2}, "'label' is the number of a solution, 0 to 1, not 2"),
        ({"solution1": None}, "'solution0' and 'solution1' are not both there"),
    ],
)
def test_bad_rows_of_global_piqa_are_named(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """File and line, and what was expected."""
    row = {"prompt": "To sit:", "solution0": "fall", "solution1": "bend", "label": 1, **change}
    folder = write(tmp_path / "global_piqa_parallel", "eng_latn.jsonl", [row])
    with pytest.raises(ValueError, match=message):
        items_of(folder, "2026")


def solved(folder: Path, *rows: dict[str, Any]) -> Suite:
    """A suite of such rows of GlobalPIQA."""
    row = {"prompt": "To sit:", "solution0": "fall", "solution1": "bend", "label": 1}
    write(folder / "global_piqa_parallel", "eng_latn.jsonl", [{**row, **each} for each in rows])
    return load_suite(folder, "2026")


def test_predictions_of_global_piqa_are_filed_under_the_examples_id(tmp_path: Path) -> None:
    """One for each example: the solution with its space (babylm-eval, collate_preds.py,
    `_check_size_global_piqa` and `_calculate_global_piqa_results`)."""
    suite = solved(tmp_path / "data", {"example_id": "a 7"}, {"example_id": "b"})
    log_probs = map(np.array, ([-3.0], [-2.0, -2.5], [-1.0], [-2.0, -2.5]))
    (file,) = write_submission(suite, suite.grade(list(log_probs)), tmp_path)
    place = "zero_shot/causal/global_piqa_parallel/global_piqa_parallel/predictions.json"
    assert file == tmp_path / place
    assert json.loads(file.read_text()) == {
        "a 7": {"predictions": [{"id": "a 7_0", "pred": " bend"}]},
        "b": {"predictions": [{"id": "b_0", "pred": " fall"}]},
    }


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (({}, {"example_id": "a"}), "1 row has no 'example_id'"),
        (({"example_id": "a"},) * 2, "1 example_id of several rows, such as 'a'"),
    ],
)
def test_predictions_without_an_id_of_their_own_are_refused(
    ids: tuple[dict[str, Any], ...], message: str, tmp_path: Path
) -> None:
    """Before any scoring, with the folder's name; a protocol without GlobalPIQA has no need of
    them."""
    suite = solved(tmp_path, *ids)
    with pytest.raises(ValueError, match=f"global_piqa_parallel: {message}"):
        check_submission(suite)
    check_submission(Suite(suite.benchmarks, "2025"))


def test_equal_options_are_no_right_answers(tmp_path: Path) -> None:
    """Of equally probable ones the first was the prediction, in minimal pairs the right one; in
    2026 one of them is drawn (compute_results.py, `rank_and_evaluate`), here the same each time."""
    pairs = [{"sentence_good": f"a b {n}", "sentence_bad": f"b a {n}"} for n in range(200)]
    write(tmp_path / "blimp", "order.jsonl", pairs)
    right = {}
    for protocol in ("2025", "2026"):
        suite = load_suite(tmp_path, protocol)
        answers = suite.grade([np.array([-1.0])] * 400)
        (file,) = write_submission(suite, answers, tmp_path / protocol)
        chosen = json.loads(file.read_text())["order"]["predictions"]
        right[protocol] = sum(
            each["pred"] == pair["sentence_good"] for each, pair in zip(chosen, pairs, strict=True)
        )
        before = file.read_text()
        write_submission(suite, answers, tmp_path / protocol)
        assert file.read_text() == before
    assert right["2025"] == 200
    assert 70 < right["2026"] < 130


def test_by_default_the_macros_benchmarks_are_scored(tmp_path: Path) -> None:
    """Those of the protocol: GlobalPIQA is one in 2026."""
    write(tmp_path / "blimp", "a.jsonl", [{"sentence_good": "a b", "sentence_bad": "b a"}] * 2)
    row = {"prompt": "To sit:", "solution0": "fall", "solution1": "bend", "label": 1}
    write(tmp_path / "global_piqa_parallel", "eng_latn.jsonl", [row])
    names = {
        protocol: [benchmark.name for benchmark in load_suite(tmp_path, protocol).benchmarks]
        for protocol in ("2025", "2026")
    }
    assert names == {"2025": ["blimp"], "2026": ["blimp", "global_piqa_parallel"]}


def test_glue_is_that_of_2025() -> None:
    """Tasks and settings of strict/scripts/eval_finetuning.sh, which both years have alike."""
    assert PROTOCOL_TASKS["2026"] == PROTOCOL_TASKS["2025"]
    for task in PROTOCOL_TASKS["2026"]:
        assert settings("2026", task) == settings("2025", task)
    assert (settings("2026", "wsc").epochs, settings("2026", "multirc").batch_size) == (30, 16)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Two benchmarks of the macro of 2026: pairs in two tasks, and reading times."""
    pairs = [Item("ab"[n % 3 == 0], (f"a {n}", f"b {n}")) for n in range(150)]
    folder = tmp_path_factory.mktemp("made") / "reading"
    reading = read(made_up(sentences=80, words=7), folder)
    return Suite((Benchmark("blimp", tuple(pairs)), reading), "2026")


@pytest.fixture(scope="module")
def models(suite: Suite) -> list[dict[str, Any]]:
    """Stored scores of two models with much in common, through JSON."""
    table = made_up(sentences=80, words=7)
    shared, made = surprisals(table), np.random.default_rng(3)
    pairs, reading = suite.benchmarks
    ability = made.random(len(pairs))
    stored = []
    for bias in (0.75, 0.6):
        own = {text: value + made.normal(0, 1.5) for text, value in shared.items()}
        right = ability + made.normal(0, 0.2, len(pairs)) < bias
        by_pair = [np.array([-1.0 if yes else -9.0]) for yes in right]
        given = {
            "blimp": pairs.grade([x for p in by_pair for x in (p, np.array([-5.0]))]),
            "reading": answers(reading, own.__getitem__),
        }
        stored.append(json.loads(json.dumps(suite.summarize(given).to_dict())))
        stored[-1]["surprisals"] = own
    return stored


@pytest.mark.parametrize("name", ["macro", "reading"])
def test_samples_are_the_stored_figures_and_errors(
    suite: Suite, models: list[dict[str, Any]], name: str
) -> None:
    """Also of reading times, whose items are no answers: figure on every part to 1e-9, and its
    standard error on all items; chance is the weighted one."""
    scores = models[0]
    for part, stored in (("all", "benchmarks"), ("held_out", "held_out")):
        figures = scores[stored]
        expected = macro_of(figures, "2026") if name == "macro" else figures[name]
        assert sample([scores], name, part).figures[0] == pytest.approx(expected, abs=1e-9)
    error = scores["macro_error"] if name == "macro" else scores["errors"][name]
    found = estimate(sample([scores], name, "all"))
    assert found.standard_error == pytest.approx(error, rel=1e-9)
    levels = [scores["chance"][each] for each in ("blimp", "reading")]
    level = fmean(levels) if name == "macro" else levels[1]
    assert chance(scores, name, "all").level == pytest.approx(level)


def test_errors_of_reading_by_group_are_those_of_its_sentences(
    suite: Suite, models: list[dict[str, Any]]
) -> None:
    """A sentence is read in all measures: their errors are not those of independent ones."""
    (scores, _), reading = models, suite.benchmarks[1]
    scores = {name: value for name, value in scores.items() if name != "surprisals"}
    errors = milestone_report(2.0, 1.0, suite, scores).group_errors["reading"]["reading"]
    left = {task: iter(values) for task, values in scores["outcomes"]["reading"].items()}
    values = [next(left[item.task]) for item in reading.items]
    for group in ("eye_tracking", "self_paced"):
        mine = [i for i, item in enumerate(reading.items) if ("reading", group) in item.groups]
        expected = reading.part(mine).error([values[i] for i in mine])
        assert errors[group] == pytest.approx(expected, rel=1e-12)


def explained(times: np.ndarray, known: np.ndarray, pred: np.ndarray) -> float:
    """The scorer's share (babylm-eval, collate_preds.py, `_calculate_reading_results`): R^2 of the
    regression with the surprisal beyond that of the baseline, over what that leaves."""
    products = [known[:, a] * known[:, b] for a in range(known.shape[1]) for b in range(a)]
    baseline = np.column_stack([np.ones(len(known)), known, *products])
    left = []
    for design in (baseline, np.column_stack([baseline, pred])):
        residuals = times - design @ np.linalg.lstsq(design, times, rcond=None)[0]
        left.append(residuals @ residuals)
    return 100 * (1 - left[1] / left[0])


def test_the_error_of_a_paired_difference_is_a_bootstraps(
    suite: Suite, models: list[dict[str, Any]]
) -> None:
    """Sentences and pairs drawn anew with all regressions made again, 400 times: the standard
    deviation of the difference in macro is the standard error to 15 %, and so is reading's own,
    which is a tenth too small with so few sentences.

    McNemar's test is of answers: the macro has some, reading times have none."""
    pairs, reading = suite.benchmarks
    by_measure = {}
    for measure in MEASURES:
        items = [item for item in reading.items if item.task == measure]
        numbers = np.array([item.covariates[2:] for item in items])
        preds = [
            np.array([[of["surprisals"][c + w] for c, w in item.texts[:2]] for item in items])
            if measure == "self_paced_reading_time"
            else np.array([[of["surprisals"]["".join(item.texts[0])]] for item in items])
            for of in models
        ]
        by_measure[measure] = (numbers, preds, np.array([item.cluster for item in items]))
    sentences = np.array(sorted({item.cluster for item in reading.items}))
    tasks = [
        np.array([of["outcomes"]["blimp"][task] for of in models])
        for task in dict.fromkeys(item.task for item in pairs.items)
    ]
    made = np.random.default_rng(0)

    def draw() -> tuple[float, float]:
        drawn = made.choice(sentences, len(sentences))
        figures: dict[str, list[float]] = {"eye": [], "self_paced": []}
        for numbers, preds, clusters in by_measure.values():
            rows = np.concatenate([np.flatnonzero(clusters == one) for one in drawn])
            times, known = numbers[rows, 0], numbers[rows, 1:]
            shares = [
                explained(times, np.hstack([known, each[rows, 1:]]), each[rows, 0])
                for each in preds
            ]
            kind = "self_paced" if preds[0].shape[1] == 2 else "eye"
            figures[kind].append(shares[0] - shares[1])
        of_reading = fmean(fmean(each) for each in figures.values())
        of_pairs = [
            of[:, made.integers(of.shape[1], size=of.shape[1])].mean(axis=1) for of in tasks
        ]
        blimp = 100 * fmean(float(each[0] - each[1]) for each in of_pairs)
        return of_reading, (of_reading + blimp) / 2

    spread = np.std([draw() for _ in range(400)], axis=0, ddof=1)
    for name, expected in zip(("reading", "macro"), spread, strict=True):
        first, second = (sample([of], name, "all") for of in models)
        found = difference(first, second)
        assert found.standard_error == pytest.approx(expected, rel=0.15)
        assert np.isnan(found.mcnemar_p) == (name == "reading")
