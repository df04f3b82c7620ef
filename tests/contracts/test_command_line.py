"""What every command's help, wrong words and files of flags must be like."""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from analysis.arguments import CompareArgs, ReportArgs
from analysis.command_line import PANELS, parse, to_type
from analysis.config_file import command_name, read_config, save_config
from analysis.errors import hide_secret_flags
from analysis.flag_values import checked
from analysis.signals import EXIT_UNREAD
from analysis.wording import quoted
from sweeps import cli
from sweeps.arguments import (
    DistillArgs,
    DoctorArgs,
    EpochStudyArgs,
    EvaluateArgs,
    ExportArgs,
    LrSweepArgs,
    PaperArgs,
    PromoteArgs,
    SubmitArgs,
)
from tests.processes import ROOT, environment

KINDS = {
    command_name(kind): kind
    for kind in (
        *(LrSweepArgs, EpochStudyArgs, PromoteArgs, DistillArgs, PaperArgs, EvaluateArgs),
        *(ExportArgs, SubmitArgs, DoctorArgs, ReportArgs, CompareArgs),
    )
}
HEAVY = ("torch", "ray", "mlflow", "transformers", "numpy", "pandas", "optuna", "yaml")
SWEEP = ["--arch", "lstm"]

HELP_IMPORTS = """
import sys
from sweeps.cli import main
try:
    main(sys.argv[1:])
finally:
    print(*sys.modules, file=sys.stderr)
"""


def sweep(*words: str) -> LrSweepArgs:
    return parse(LrSweepArgs, [*SWEEP, *words], None)


def refused(capsys: pytest.CaptureFixture[str], kind: type, *words: str) -> str:
    """What a command says of words that it refuses."""
    with pytest.raises(SystemExit) as ended:
        parse(kind, words, None)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """The help of every subcommand."""
    code = "import sys; from sweeps import cli; cli.main(sys.argv[1:])"
    return {
        name: subprocess.run(
            [sys.executable, "-c", code, name, "--help"],
            cwd=ROOT,
            env=environment() | {"COLUMNS": "100"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for name in cli.COMMANDS
    }


def panels(text: str) -> dict[str, list[str]]:
    """By title, the flags of each panel."""
    parts = re.split(r"^╭─ (.*?) ─+╮$", text, flags=re.MULTILINE)[1:]
    return {
        title: re.findall(r"^│ (--[a-z-]+)", body, re.MULTILINE)
        for title, body in zip(parts[::2], parts[1::2], strict=True)
    }


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_is_in_panels(command: str, helps: dict[str, str]) -> None:
    """Each with a known title, in one order, and few enough flags to be read; no default is
    `None` or nothing, and examples name the command as it was called."""
    found = panels(helps[command])
    titles = [title.removesuffix(" options") for title in found if title.endswith(" options")]
    assert titles == [name for name in PANELS if name in titles]
    assert all(len(flags) <= 15 for flags in found.values())
    assert "main" in titles
    assert not re.search(r"\(default: (None)?\)|{None", helps[command])
    assert f"babysweep {command}" in helps[command]
    assert "python sweeps/" not in helps[command]


def test_the_grid_comes_before_the_rest(helps: dict[str, str]) -> None:
    """`--lrs` is among the first flags of a sweep, beside what each preset has for it."""
    flags = [flag for group in panels(helps["lr-sweep"]).values() for flag in group]
    assert flags.index("--lrs") < 8
    assert "(default of preset mini: 3e-3 1e-2 3e-2 1e-1; small: 3e-4" in " ".join(
        helps["lr-sweep"].replace("│", " ").split()
    )


@pytest.mark.parametrize("words", [["--help"], ["--lsr", "1"], ["--epochs", "x"], ["0"]])
@pytest.mark.parametrize("command", ["lr-sweep", "evaluate"])
def test_an_answer_needs_no_heavy_import(command: str, words: list[str]) -> None:
    """To help, and to wrong flags and values, also to those out of a flag's range."""
    if words == ["0"]:
        words = {"lr-sweep": [*SWEEP, "--epochs=0"], "evaluate": ["--model=x", "--cpus=0"]}[command]
    done = subprocess.run(
        [sys.executable, "-c", HELP_IMPORTS, command, *words],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if words == ["--help"] else 2)
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert "sweeps" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("words", [["sweeps/lr_sweep.py", "--help"], ["sweeps/cli.py"]])
def test_who_has_read_enough_of_the_help_is_told_nothing(words: list[str], unbuffered: str) -> None:
    """As `| head -1` closes the pipe in the middle of it."""
    assert without_reader(*words, PYTHONUNBUFFERED=unbuffered) == (EXIT_UNREAD, "")


def without_reader(*words: str, **variables: str) -> tuple[int, str]:
    """The status of a Python whose stdout nobody reads, and what it says on stderr."""
    with subprocess.Popen(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment() | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read()
    return process.returncode, said


STARTED = """
import sys, types
from analysis import signals

def main():
    signals.say_loading()
    print("read this")
    {end}

sys.modules["made"] = types.ModuleType("made")
sys.modules["made"].main = main
signals.start("made")
"""


@pytest.mark.parametrize(
    ("end", "status"), [("return 3", 3), ("sys.exit(4)", 4), ("raise KeyboardInterrupt", 130)]
)
@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_command_without_an_output_has_its_status(end: str, status: int, closed: str) -> None:
    """As a service starts it."""
    command = quoted(sys.executable, "-c", STARTED.format(end=end))
    done = subprocess.run(["sh", "-c", f"{command} {closed}"], cwd=ROOT, env=environment())
    assert done.returncode == status


def test_a_fault_is_told_though_nobody_reads_the_output() -> None:
    """A broken pipe does not hide it."""
    code = STARTED.format(end="raise ValueError('the fault')")
    status, said = without_reader("-c", code, PYTHONUNBUFFERED="")
    assert status != 0
    assert "ValueError: the fault" in said


def test_a_typo_is_answered_at_once() -> None:
    """In the time of a process and its imports, with the flag that was meant, in one line."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "sweeps/lr_sweep.py", "--lsr", "1e-3"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2
    assert done.returncode == 2
    assert done.stderr == "error: there is no flag --lsr: did you mean --lrs? --help lists all\n"


@pytest.mark.parametrize(
    "words",
    ["1e-3,3e-3", "1e-3, 3e-3", "1e-3 ,3e-3", "1e-3 , 3e-3", "[1e-3, 3e-3]", "1e-3,3e-3,"],
)
def test_commas_between_values(words: str) -> None:
    """Are read as the spaces that they stand for, in all flags of several numbers or names."""
    assert sweep("--lrs", *words.split(" ")).lrs == (1e-3, 3e-3)
    assert sweep(f"--lrs={words}").lrs == (1e-3, 3e-3)
    numbers = words.replace("e-3", "")
    assert sweep("--batch-sizes", *numbers.split(" ")).batch_sizes == (1, 3)


def test_commas_elsewhere() -> None:
    assert sweep("--lr-range", "1e-4,1e-1").lr_range == (1e-4, 1e-1)
    assert sweep("--optimizers", "adamw,muon").optimizers == ("adamw", "muon")
    assert parse(LrSweepArgs, ["--arch", "lstm,mamba"], None).arch == ("lstm", "mamba")
    assert sweep("--tasks", "blimp, ewok my own,", "bear").tasks == ("blimp", "ewok my own", "bear")
    assert sweep("--final-tasks=rte,wsc").final_tasks == ("rte", "wsc")
    args = parse(EvaluateArgs, ["--model", "a,b", "--tasks", "blimp,bear"], None)
    assert (args.model, args.tasks) == ("a,b", ("blimp", "bear"))
    epochs = parse(EpochStudyArgs, ["--milestones", "1M,3M"], None)
    assert epochs.milestones == ("1M", "3M")
    args = parse(DistillArgs, ["--teacher", "runs/a,b", "c"], None)
    assert args.teacher == ("runs/a,b", "c")


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["--epochs", "1.5"], "--epochs: '1.5' is no whole number"),
        (["--epochs", "None"], "--epochs: 'None' is no whole number"),
        (["--vocab-size", "8,192"], "--vocab-size: '8,192' is no whole number; write 8192"),
        (["--batch-sizes", "1,024"], "--batch-sizes: '1,024' is no whole number; write 1024"),
        (["--lrs", "1e-3;3e-3"], "each is a word of its own, as in 1e-3 3e-3"),
        (["--lrs", "1e-3,x"], "--lrs: 'x' is no number"),
        (["--lrs", "0,001"], "'0,001' is no number; write 0.001 with a point, or two numbers as"),
        (["--lrs", "1,5e-3"], "'1,5e-3' is no number; write 1.5e-3 with a point"),
        (["--seeds", "0-2"], "'0-2' is no whole number; of several, each is a word of its own"),
        (["--seeds", "0..2"], "'0..2' is no whole number; of several, each is a word of its own"),
        (["--tasks", "blmp"], "xcopa_zh; did you mean blimp?"),
        (["--final-tasks", "multilingual_fr"], "'multilingual_fr' is none of blimp, "),
        (["--final-tasks", "glu"], "--final-tasks: 'glu' is none of blimp, "),
        (["--lr-range", "1", "2", "3"], "--lr-range: takes 2 values, not 3: 1 2 3"),
        (["--size", "bigg"], "--size: 'bigg' is none of mini, small, base, paper, large"),
        (["--arch", "lsmt"], "study, all; did you mean lstm?"),
        (["--micro-batch", "some"], "--micro-batch: must be INT|{auto}, not 'some'"),
        (["--epochs=2", "--weight-decy", "1"], "did you mean --weight-decay?"),
        (["--no-extnd"], "did you mean --no-extend?"),
        (["--no-lrs"], "there is no flag --no-lrs: did you mean --lrs?"),
        (["--LRS", "1"], "there is no flag --LRS: did you mean --lrs?"),
        (["-seeds", "1"], "there is no flag -seeds: did you mean --seeds?"),
        (["-h5"], "there is no flag -h5: "),
        (["--lrs", "1", "-inf"], "--lrs must be from 1e-15 to 1e+09, not -inf"),
        (
            ["--precision", "BF16"],
            "--precision: 'BF16' is none of auto, fp32, bf16; did you",
        ),
        (["--epochs", "--dry-run"], "--epochs needs a value"),
        (["--storage"], "--storage needs a value"),
    ],
)
def test_wrong_words(words: list[str], answer: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer names the flag, the value and what is valid, in one line."""
    said = refused(capsys, LrSweepArgs, *SWEEP, *words)
    assert answer in said
    assert said.count("\n") == 1


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_scripts_and_subcommands_are_the_same(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same function of the same words, so that there is no flag that one of them lacks."""
    module = importlib.import_module(cli.COMMANDS[command])
    assert module.__file__ == str(ROOT / f"{cli.COMMANDS[command].replace('.', '/')}.py")
    seen: list[Any] = []
    monkeypatch.setattr(module, "parse", lambda kind, *rest: seen.append(kind) or sys.exit(0))
    for call in (lambda: cli.main([command, "--x"]), lambda: module.main(["--x"])):
        with pytest.raises(SystemExit):
            call()
    assert seen == [KINDS[command]] * 2


def test_tasks_from_python_are_checked_as_typed_ones() -> None:
    """Also names of folders, in capitals too."""
    args = checked(EvaluateArgs(model="x", tasks=["BLiMP_filtered", "rte"]))
    assert args.tasks == ("BLiMP_filtered", "rte")
    with pytest.raises(ValueError, match="'blmp' is none of .*; did you mean blimp?"):
        checked(EvaluateArgs(model="x", tasks=["blmp"]))


def test_unknown_subcommands(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["lr_swep"]) == 2
    assert "there is no command 'lr_swep': did you mean lr-sweep?" in capsys.readouterr().err
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(f"  {name} " in said for name in cli.COMMANDS)


def test_the_entry_point_is_the_function() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    assert 'babysweep = "sweeps.cli:run"' in text
    assert callable(cli.run)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("/usr/bin/babysweep", "babysweep epoch-study --study 'my study'"),
        ("sweeps/lr_sweep.py", "python sweeps/epoch_study.py --study 'my study'"),
    ],
)
def test_the_next_command_is_typed_like_this_one(
    typed: str, shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [typed, "--arch", "lstm"])
    assert to_type("sweeps/epoch_study.py", "--study", "my study") == shown


def test_no_words_at_all() -> None:
    """Are the defaults of a command that needs none."""
    assert parse(PaperArgs, [], None) == PaperArgs()


# Files of flags


def written(folder: Path, text: str, name: str = "flags.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused_file(
    capsys: pytest.CaptureFixture[str], folder: Path, text: str, name: str = "flags.yaml"
) -> str:
    """What a sweep says of a file of flags that it refuses: one line, which names it."""
    path = written(folder, text, name)
    said = refused(capsys, LrSweepArgs, *SWEEP, "--config", str(path))
    assert str(path) in said
    assert said.count("\n") == 1
    return said


YAML = """
arch: [lstm, mamba]
lrs: [1e-3, 0.003, 1.0e-2]
seeds: [0, 1]
micro-batch: auto
weight_decay: 1
protocol: 2024
extend: false
study: "1e-3"
corpus: 2024-01-01
storage: some where
lr_range: null
"""


def test_a_file_of_flags(tmp_path: Path) -> None:
    """YAML and JSON of the same fields give the same; numbers are as on a command line."""
    path = written(tmp_path, YAML)
    args = parse(LrSweepArgs, ["--config", str(path)], None)
    assert args.arch == ("lstm", "mamba")
    assert args.lrs == (1e-3, 3e-3, 1e-2)
    assert (args.micro_batch, args.weight_decay, args.protocol) == ("auto", 1.0, "2024")
    assert (args.extend, args.study, args.corpus) == (False, "1e-3", "2024-01-01")
    assert args.storage == Path("some where")
    fields = {"arch": ["lstm", "mamba"], "lrs": [1e-3, 3e-3, 1e-2], "extend": False}
    text = "\ufeff" + json.dumps(fields, indent="\t")
    as_json = read_config(written(tmp_path, text, "flags.json"), LrSweepArgs)
    assert as_json == {name: getattr(args, name) for name in fields}


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    """Whichever comes first, and what is true or false as well."""
    path = written(tmp_path, YAML + "reverse: true".replace("reverse", "dry_run"))
    for words in (["--lrs", "1", f"--config={path}"], ["--config", str(path), "--lrs", "1"]):
        args = parse(LrSweepArgs, [*words, "--extend", "--no-dry-run", "--study", "other"], None)
        assert (args.lrs, args.extend, args.dry_run, args.study) == ((1.0,), True, False, "other")
        assert args.seeds == (0, 1)


def growing(first: str, several: str) -> str:
    """YAML of ten names, each of which stands for several of the one before."""
    lines = [f"x0: &x0 {first}"]
    for n in range(1, 10):
        lines.append(f"x{n}: &x{n} {several % ', '.join([f'*x{n - 1}'] * 9)}")
    return "\n".join(lines)


LAUGHS = f"lrs: [{{{', '.join(growing('[a]', '[%s]').splitlines())}}}]"
MERGES = growing("{a: b}", "{<<: [%s]}")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("lsr: [1]", "lsr is no flag of lr-sweep: did you mean lrs?"),
        ("alphas: [1]", "alphas is no flag of lr-sweep"),
        ("epochs: 1.5", "epochs: '1.5' is no whole number"),
        ("epochs: true", "epochs: must be INT, not true"),
        ("epochs: [1]", "epochs: must be INT, no list, not [1]"),
        ("lrs: 1e-3", "lrs: must be a list in brackets, not 0.001"),
        ("lrs: [a]", "lrs: 'a' is no number"),
        ("seeds: null", "seeds: must be a list in brackets, not null"),
        ("study: no", "study: must be TEXT, not false; a text that looks like something else"),
        ("study: 007", "study: must be TEXT, not 7; a text"),
        ("extend: 1", "extend: must be true or false, not 1"),
        ("size: huge", "size: 'huge' is none of mini, small"),
        ("lr_range: [1]", "lr_range: takes 2 values, not 1"),
        ("lrs: {a: 1}", "lrs: must be a list"),
        ('storage: ""', "storage: is empty: give a value"),
        ("- a", "must hold lines like `epochs: 3`"),
        ("a: [", "cannot be read: "),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read: "),
        ("epochs: " + "[" * 20_000, "cannot be read: nested too deeply: write lines like"),
        ("seeds: [0]\nepochs: !!int ''", "its look, says (line 2)"),
        ("dry_run: !!bool maybe", "its look, says (line 1)"),
        ("epochs: !!timestamp x", "its look, says (line 1)"),
        ("epochs: " + "1" * 5_000, "its look, says (line 1)"),
        ("epochs: 1\nstudy: *name", "found undefined alias that it has (line 2)"),
        ("epochs: 1\nstudy: x\x01", "special characters are not allowed (line 2)"),
        ("epochs: &a [*a]", "epochs: must be INT, no list, not [[["),
        ("lrs: {? !!timestamp 2001-01-01 : 1}", "lrs: must be a list in brackets, not {}"),
        ('"a\\nb\\n\\e": 1', "a?b?? is no flag of lr-sweep"),
        ('corpus: "a\\0b"', "corpus: has a character that cannot be printed: 'a\\x00b'"),
        (LAUGHS, "lrs: must be FLOAT ..., not "),
        (MERGES, "x0 is no flag of lr-sweep"),
    ],
)
def test_wrong_files(
    text: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer names file and field, in one line."""
    assert answer in refused_file(capsys, tmp_path, text)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("[" * 100_000, "cannot be read: nested too deeply: write"),
        ('{"epochs": ' + "[" * 100_000, "cannot be read: nested too deeply: write"),
        ('{"epochs": ' + "[" * 900 + "]" * 900 + "}", "epochs: must be INT, no list, not [[["),
        ('{"epochs": 3,\n}', "line 2 column 1"),
        ('{"epochs": ' + "1" * 5_000 + "}", "Exceeds the limit"),
    ],
)
def test_wrong_files_of_json(
    text: str, answer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer names the file, in one line."""
    assert answer in refused_file(capsys, tmp_path, text, "flags.json")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(
            ("flags.yaml", f"epochs: 1\newok_password: {value}\n")
            for value in (
                *("1234512345", "[S3CRET]", "{S3CRET: 1}", '"S3CRET', "[S3CRET", "S3CRET\x01"),
                *("*S3CRET", "!S3CRET x", "!S3CRET! x", "!!int S3CRET", "!!float S3CRET"),
                *("!!bool S3CRET", "!!timestamp S3CRET", "S3CRET: S3CRET", '"S3CRET\\q"'),
                *('"S3CRET\\x01"', "'S3CRET' S3CRET", "%S3CRET", "&S3CRET &S3CRET x", '""'),
            )
        ),
        ("flags.yaml", "ewok-password: 1234512345"),
        ("flags.json", '{"ewok_password": 1234512345}'),
        ("flags.json", '{"ewok_password": ["S3CRET"]}'),
        ("flags.json", '{"ewok_password": "S3CRET'),
        ("flags.json", '{"ewok_password": S3CRET}'),
    ],
)
def test_wrong_files_with_a_password(
    name: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answer names the file, and has nothing of the password."""
    said = refused_file(capsys, tmp_path, text, name)
    assert not re.search("s3cret|12345", said, re.IGNORECASE)


@pytest.mark.parametrize("flag", ["--ewok-password", "--ewok_password", "-ewok-password"])
@pytest.mark.parametrize(
    "values",
    [
        *(["S3CRET\x01"], ["--S3CRET"], ["S3CRET", "S3CRET"], ["S3CRET", "--S3CRET=S3CRET"]),
        *(["S3CRET", ""], ["S3CRET", "-S3CRET"], ["", "S3CRET"]),
    ],
)
def test_wrong_passwords_are_not_shown(
    flag: str, values: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither the flag's value nor what stands between it and the next flag; the flag is named."""
    first, *others = values
    for words in ([flag, *values], [f"{flag}={first}", *(others or ["S3CRET"])]):
        said = refused(capsys, LrSweepArgs, *SWEEP, *words, "--epochs", "1")
        assert flag in said
        assert said.count("\n") == 1
        assert "S3CRET" not in said


def test_a_typo_hides_no_password(capsys: pytest.CaptureFixture[str]) -> None:
    """The flag that is none is told before anything is said of its value."""
    said = refused(capsys, LrSweepArgs, *SWEEP, "--ewok-pasword", "S3CRET\x01")
    assert said == (
        "error: there is no flag --ewok-pasword: did you mean --ewok-password? --help lists all\n"
    )


def test_passwords_that_look_like_something_else() -> None:
    """One that begins with dashes is joined to its flag, and other flags are read behind it."""
    args = sweep("--ewok_password=--S3CRET", "--epochs", "2")
    assert (args.ewok_password, args.epochs) == ("--S3CRET", 2)


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (tmp_path, tmp_path / "none.yaml"):
        said = refused(capsys, LrSweepArgs, "--config", str(path))
        assert said == f"error: --config: there is no file {path}\n"


def test_secret_flags_leave_the_process_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program is started anew without its own secrets; words of another's are left alone."""
    started: list[Any] = []
    monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
    words = ["--model", "m", "--ewok_password=old", "--ewok-password", "a b", "--force"]
    monkeypatch.setattr(sys, "orig_argv", ["python", "-u", "x.py", "evaluate", *words])
    hide_secret_flags(words)
    ((program, own, variables),) = started
    assert program == sys.executable
    assert own == ["python", "-u", "x.py", "evaluate", "--model", "m", "--force"]
    assert variables == {**os.environ, "BABYSWEEP_EWOK_PASSWORD": "a b"}
    hide_secret_flags(words[:-1])
    hide_secret_flags([])
    hide_secret_flags(["--force", "--ewok-password"])
    monkeypatch.setattr(sys, "orig_argv", ["python", "x.py", "--force"])
    hide_secret_flags(["--force"])
    assert len(started) == 1


SECRET = "hunter2"
EXAMPLES = {
    "lr-sweep": "--arch lstm mamba --lrs 1e-3 3e-5 --no-extend --corpus ä --study 1e-3",
    "epoch-study": "--arch hgrn2 --milestones 1M 0x10 --lr 1e-7 --horizons 1 2",
    "promote": "--name no --alias 2024 --force",
    "distill": "--teacher models:/hgrn2@teacher ä --reverse-kl --no-control",
    "paper": "--final-tasks glue --sweep-seeds 9223372036854775807",
    "evaluate": "--model gpt2 --gpus 0.5 --submission --output ä",
    "export": "models:/hgrn2@teacher /exported --storage ä",
    "submit": "0123456789abcdef /results --benchmarks ä --track strict --no-glue --name mine",
    "doctor": "--storage ä --address 10.0.0.1:6379",
    "report": "--select macro --ui http://localhost:1",
    "compare": "1_000 2e5 --part all",
}


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_a_written_file_gives_the_flags_back(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for secrets, and with whole paths; the same flags are the same file."""
    monkeypatch.chdir(tmp_path)
    Path("ä").mkdir()
    kind = KINDS[command]
    words = EXAMPLES[command].split()
    if hasattr(kind, "ewok_password"):
        words = [*words, "--ewok-password", SECRET]
    args: Any = parse(kind, words, None)
    path = save_config(tmp_path / "study", args)
    assert path.parent == tmp_path / "study" / "commands"
    assert path.name.startswith(f"{command}-")
    text = path.read_text()
    assert SECRET not in text
    assert save_config(tmp_path / "study", args) == path
    monkeypatch.chdir("/")
    whole = {"ä": str(tmp_path / "ä")}

    def absolute(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(absolute, value))
        return type(value)(whole[str(value)]) if str(value) in whole else value

    wanted = {name: absolute(value) for name, value in vars(args).items()}
    wanted |= {"ewok_password": None} if "ewok_password" in wanted else {}
    given = words[:2] if command in ("compare", "export", "submit") else []
    again = parse(kind, ["--config", str(path), *given], None)
    assert vars(again) == wanted


def test_addresses_lose_their_passwords(tmp_path: Path) -> None:
    args = sweep("--address", f"ray://me:{SECRET}@host:1")
    assert "ray://host:1" in save_config(tmp_path, args).read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--dry-run=maybe"], "--dry-run takes no value: leave =maybe out"),
        (["mamba"], "'mamba' is no flag's value"),
        (["--size", "mini", "mamba"], "'mamba' behind --size is no flag's value"),
        (["--lrs=1e-3", "3e-3"], "'3e-3' behind --lrs is no flag's value"),
        (["--no-extend", "x"], "'x' behind --no-extend is no flag's value"),
        (["--arch", "lstm", "--lrs", "1e-3", " "], "--lrs: has an empty value"),
        (["--arch", "lstm", "--lrs", "[]"], "--lrs: has an empty value"),
    ],
)
def test_a_value_out_of_place_is_named(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In one line, whatever else is missing."""
    with pytest.raises(SystemExit):
        parse(LrSweepArgs, words, None)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
