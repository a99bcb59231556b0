"""What README, tutorial and examples show runs, in their order, without a warning."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```python\n(.*?)```", re.S)


@pytest.mark.parametrize(
    "page", ["README.md", "docs/tutorial.md", "docs/models.md", "docs/archives.md", "docs/clusters.md"]
)
def test_code_blocks_run(page, tmp_path):
    blocks = BLOCK.findall((ROOT / page).read_text())
    assert blocks
    script = tmp_path / "page.py"
    script.write_text(
        "if __name__ == '__main__':\n" + "\n".join("    " + line for line in "\n".join(blocks).split("\n"))
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", script], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "command",
    ["quickstart", "time_series", "read_lazily", "train_decoder 150", "convert_folder", "ndvi", "resume"],
)
def test_examples_run(command, tmp_path):
    name, *arguments = command.split()
    if name == "train_decoder":
        pytest.importorskip("torch")
    script = ROOT / "examples" / f"{name}.py"
    done = subprocess.run(
        [sys.executable, "-W", "error", script, *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # threads of torch wait for each other where tests share the cores
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_the_first_two_commands_of_the_readme():
    commands = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert [command.strip() for command in commands[:2]] == ["make demo", "make test"]
