"""The packages are found from any working directory."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.contracts.import_graph import ROOT


@pytest.mark.parametrize("package", ["models", "trainables", "analysis", "sweeps"])
def test_an_empty_folder_does_not_hide_a_package(package: str, tmp_path: Path) -> None:
    """An editable install puts the project's folder on the path, after the working directory.

    Python prefers a package there to a folder without Python files before it. Without the setting
    setuptools would install a finder, which Python asks after such folders.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert settings["tool"]["setuptools"]["package-dir"] == {"": "."}
    (tmp_path / package / "of_mine").mkdir(parents=True)
    code = f"import sys; sys.path[:0] = ['', {str(ROOT)!r}]; import importlib.util as u; "
    code += f"print(u.find_spec({package!r}).origin)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(ROOT / package / "__init__.py")
