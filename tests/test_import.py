"""What a fresh interpreter imports, and what it can read without importing xwalloc."""

import json
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import xarray as xr

import xwalloc

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
