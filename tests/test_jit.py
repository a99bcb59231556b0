"""Kernels run where no cache folder can be written, and from many threads at once."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import xwalloc
from xwalloc.jit import NOTICE
from xwalloc.transform.wavelet import forward, get_wavelet, plan


def test_without_a_cache_folder(tmp_path: Path) -> None:
    package = tmp_path / "xwalloc"
    source = Path(xwalloc.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc"))
    for folder in package.rglob("*/"):
        (folder / "__pycache__").touch()  # a file where the folder should be
    code = (
        "import numpy as np\n"
        "import xwalloc.codec.survey as survey\n"
        "assert survey.__file__.startswith(" + repr(str(tmp_path)) + ")\n"
        "assert survey.survey(np.arange(-9.0, 3.0), np.empty(0), outliers=False).high == 2.0\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NUMBA", "XDG", "PYTHON"))}
    environment |= {"HOME": os.devnull, "NUMBA_CACHE_DIR": os.path.join(os.devnull, "x"), "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path, check=True, timeout=120)


def test_compilation_is_announced_once(tmp_path: Path) -> None:
    code = (
        "import numpy as np\n"
        "from xwalloc.transform.kernels import largest_magnitude\n"
        "for dtype in ('f4', 'f8'):\n"
        "    largest_magnitude(np.ones(3, dtype))\n"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    said = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, timeout=120, capture_output=True, text=True
        ).stderr
        for _ in range(2)
    ]
    assert said[0].count(NOTICE) == 1
    assert said[1] == ""


def test_concurrent_callers() -> None:
    x, p, w = np.random.default_rng(0).normal(size=(16, 60, 90)), plan((60, 90), 3), get_wavelet("bior4.4")
    expected = forward(x, p, w, "reflect")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda item: forward(item, p, w, "reflect"), x))
    assert np.array_equal(np.stack(found), expected)


Name = tuple[str, str]


def decorated_kernels() -> dict[Name, tuple[str, set[Name]]]:
    """Decorator of every kernel of the package, (module, name), and the functions that it calls."""
    found = {}
    root = Path(xwalloc.__file__).parent
    for path in root.rglob("*.py"):
        module = ".".join(("xwalloc", *path.relative_to(root).with_suffix("").parts))
        tree = ast.parse(path.read_text())
        origin = {
            alias.name: node.module
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for node in ast.walk(tree):
            for decorator in getattr(node, "decorator_list", ()):
                if isinstance(decorator, ast.Name) and decorator.id.endswith("kernel"):
                    calls = [call.func for call in ast.walk(node) if isinstance(call, ast.Call)]
                    called = {call.id for call in calls if isinstance(call, ast.Name)}
                    found[module, node.name] = decorator.id, {(origin.get(name, module), name) for name in called}
    return found


def test_kernels_that_make_no_arrays_call_none_that_do() -> None:
    """numba compiles what a kernel calls with the kernel's own flags: whether it works would depend on the order."""
    kernels = decorated_kernels()
    assert {"kernel", "inline_kernel", "allocating_kernel"} == {decorator for decorator, _ in kernels.values()}
    wrong = [
        (name, other)
        for name, (decorator, called) in kernels.items()
        for other in called & set(kernels)
        if decorator != "allocating_kernel" and kernels[other][0] == "allocating_kernel"
    ]
    assert not wrong
