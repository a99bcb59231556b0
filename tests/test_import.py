"""What a fresh interpreter imports, and what it can read without importing xwalloc."""

import json
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import xwalloc
from xwalloc.errors import ConfigError
from xwalloc.extras import CONVERT

HEAVY = ("torch", "dask", "distributed", "numba", "zarr", "xarray", "scipy", "rasterio", "matplotlib")


def fresh(code, **environment):
    """Last line that a new interpreter prints, as JSON; warnings are errors there too."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, env={**environment} or None, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_import_is_light():
    code = f"""
        import json, sys, xwalloc
        xwalloc.settings, xwalloc.errors, xwalloc.__version__
        print(json.dumps([name for name in {HEAVY} if name in sys.modules]))
    """
    assert fresh(code) == []


@pytest.mark.parametrize("order", ["import xwalloc, xarray", "import xarray, xwalloc", "import xwalloc.xarray, xarray"])
def test_accessor_in_either_order_of_imports(order):
    code = f"""
        import json, sys
        {order}
        found = [hasattr(xarray.Dataset, "walloc"), hasattr(xarray.DataArray, "walloc"), callable(xwalloc.encoding)]
        print(json.dumps([found, [name for name in ("torch", "dask", "numba") if name in sys.modules]]))
    """
    assert fresh(code) == [[True] * 3, []]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_opening_a_store_imports_nothing_that_computes(tmp_path, zarr_format):
    da = xr.DataArray(np.random.default_rng(0).normal(size=(3, 20, 20)).cumsum(1), dims=("band", "y", "x"), name="r")
    model = xwalloc.fit(da, max_error=0.5)
    options = {"model": model, "zarr_format": zarr_format, "consolidated": False}
    da.to_dataset().walloc.to_zarr(tmp_path / "s.zarr", **options)
    code = f"""
        import json, sys, xarray
        opened = xarray.open_zarr({str(tmp_path / "s.zarr")!r}, consolidated=False, chunks=None)
        assert opened.r.shape == (3, 20, 20)
        print(json.dumps([name for name in ("torch", "dask", "numba") if name in sys.modules]))
    """
    assert fresh(code) == []


def test_finding_xarray_without_importing_it_is_harmless():
    code = """
        import importlib.util, json, xwalloc
        importlib.util.find_spec("xarray")
        import xarray
        print(json.dumps(hasattr(xarray.Dataset, "walloc")))
    """
    assert fresh(code) is True


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_stores_open_without_importing_xwalloc(tmp_path, zarr_format):
    cube = np.linspace(0, 1, 4 * 32 * 32, dtype="f4").reshape(4, 32, 32)
    ds = xr.Dataset({"r": (("band", "y", "x"), cube)})
    ds.walloc.to_zarr(tmp_path / "store.zarr", max_error=0.01, zarr_format=zarr_format, consolidated=False)
    moved = (tmp_path / "store.zarr").rename(tmp_path / "moved.zarr")
    (tmp_path / "home").mkdir()
    code = f"""
        import json, sys, zarr
        array = zarr.open_group({str(moved)!r}, mode="r")["r"]
        print(json.dumps([array[...].tolist(), [name for name in ("torch", "dask", "xarray") if name in sys.modules]]))
    """
    values, heavy = fresh(code, HOME=str(tmp_path / "home"))
    assert heavy == []
    assert np.abs(np.array(values) - cube).max() <= 0.01


def test_public_names():
    import xwalloc

    assert set(xwalloc.__all__) <= set(dir(xwalloc))
    for name in xwalloc.__all__:
        assert getattr(xwalloc, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        xwalloc.nonsense  # noqa: B018
    with xwalloc.settings.set({"threads": 1}):
        assert xwalloc.settings.get("threads") == 1


def test_what_is_not_installed_is_said_with_how_to_install_it(tmp_path):
    """As after `pip install xwalloc` without extras."""
    code = """
        import json, sys
        from xwalloc.extras import CONVERT
        sys.modules.update(dict.fromkeys(CONVERT))
        import xarray, xwalloc
        from click.testing import CliRunner
        from xwalloc.cli import main
        from xwalloc.errors import MissingError

        xarray.Dataset({"r": (("y", "x"), [[0.0]])}).to_zarr("s.zarr", consolidated=False)
        said = []
        for names in ("convert s.zarr t.zarr --max-error 1", "convert s.zarr t.zarr --dry-run", "verify s.zarr t.zarr",
                      "report s.zarr t.zarr p.html", "export s.zarr p.nc", "export s.zarr p.tif"):
            done = CliRunner().invoke(main, names.split())
            said.append([done.exit_code, done.output])
        for name in ("convert", "verify", "report", "persist"):
            try:
                getattr(xwalloc, name)(None)
            except MissingError as error:
                said.append([error.name, str(error)])
        done = CliRunner().invoke(main, ["export", "s.zarr", "p.zarr"])
        print(json.dumps([said, done.output]))
    """
    said, done = fresh(f"import os; os.chdir({str(tmp_path)!r})\n{textwrap.dedent(code)}")
    cure = "Install it: pip install 'xwalloc[convert]'."
    names = ["distributed", "distributed", "dask", "dask", "dask", "rasterio", "distributed", "dask", "dask"]
    assert len(said) == 10
    for (code, text), name in zip(said, [*names, "distributed"], strict=True):
        assert code in (1, name)
        assert text.endswith(f"needs {name}. {cure}" + "\n" * (code == 1))
    assert said[0][1].startswith("Error: `xwalloc convert` needs")
    assert done == "p.zarr\n"  # which needs none of them


def test_extras_are_known():
    project = Path(__file__).parents[1] / "pyproject.toml"
    convert = tomllib.loads(project.read_text())["project"]["optional-dependencies"]["convert"]
    assert {re.match(r"\w+", package)[0] for package in convert} <= CONVERT


def test_settings_are_known_by_name():
    settings = xwalloc.settings
    for name in ("threads", "device", "batch.max_bytes", "decode.max_bytes", "model_path", "model_cache"):
        assert f"``{name}``" in settings.__doc__
        with settings.set({name: 3}):
            assert settings.get(name) == 3
    with settings.set(batch__max_bytes=5), settings.set({"decode": {"max_bytes": 7}}, threads=2):
        found = [settings.get(name) for name in ("batch.max_bytes", "decode.max_bytes", "threads")]
    assert found == [5, 7, 2]
    for wrong in ({"thread": 2}, {"batch": {"bytes": 2}}, {"batch": 2}, {"threads.most": 2}):
        with pytest.raises(ConfigError, match=r"threads, device, batch\.max_bytes, decode"):
            settings.set(wrong)
    with pytest.raises(ConfigError, match=r"Got 'batch.bytes'"):
        settings.set(batch__bytes=2)
    with pytest.raises(ConfigError, match=r"xwalloc.settings.set\(\{'threads': ...\}\)"):
        settings.threads = 2
