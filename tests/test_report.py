"""A page says what is true, holds everything in itself, and nothing that strangers named becomes markup."""

import itertools
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import xarray as xr
import zarr

import xwalloc
from xwalloc.frames import configuration, watch
from xwalloc.info import describe

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

HOSTILE = '<script>alert("1")</script>\'$\\frac$&ü\u202e'


class Stored:
    """A pair of an array in memory and one in a store."""

    def __init__(self, array, data, template, path):
        self.array, self.data, self.template, self.path = array, data, template, path
        self.configuration = configuration(array) if watch(array, lambda frame: None) is not None else None

    def regions(self):
        unit = self.array.shards or self.array.chunks
        for start in itertools.product(*(range(0, n, u) for n, u in zip(self.array.shape, unit, strict=True))):
            yield tuple(slice(a, min(a + u, n)) for a, u, n in zip(start, unit, self.array.shape, strict=True))

    def read(self, region):
        return self.data[region], self.array[region]


def page(ds, folder, **arguments):
    from xwalloc.reporting import write_page

    ds.to_zarr(folder / "s.zarr", encoding=xwalloc.encoding(ds, **arguments), consolidated=False)
    root = zarr.open_group(folder / "s.zarr", mode="r")
    pairs = [Stored(root[name], v.values, v, name) for name, v in ds.data_vars.items()]
    target = write_page(
        pairs, folder / "page.html", title=HOSTILE, provenance={HOSTILE: [HOSTILE], "n": {"a": HOSTILE}}
    )
    assert sorted(path.name for path in folder.iterdir()) == ["page.html", "s.zarr"]
    return target.read_text("utf-8"), pairs


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.seen, self.sources = set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.sources += [value for key, value in attrs if key in ("src", "href", "xlink:href")]


def cube(shape=(6, 40, 50)):
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=shape), -1).astype("f4")


def test_figures_of_a_cube(tmp_path):
    text, pairs = page(xr.Dataset({"cube": (("band", "y", "x"), cube(), {"units": "K"})}), tmp_path, max_error=0.1,
                       channel_dim="band", chunks={"y": 16, "x": 16})  # fmt: skip
    error = np.abs(pairs[0].data.astype("f8") - pairs[0].array[:].astype("f8"))
    assert f"<dd>{error.max():.5g} K</dd>" in text
    assert f"<dd>{pairs[0].array.nbytes / pairs[0].array.nbytes_stored():.4g}</dd>" in text
    assert "Every value lies within the bound" in text
    for words in (
        "compression ratio of chunks",
        "Spectra of four pixels",
        "largest error of each pixel",
        "RMSE of each pixel",
        "spectral angle",
    ):
        assert words in text
    assert text.count("<img") == 6


def test_errors_of_each_pixel_are_those_of_numpy(tmp_path):
    from xwalloc.reporting.measure import measure

    values = cube()
    values[:, 3, 4] = np.nan
    _, (pair,) = page(xr.Dataset({"cube": (("band", "y", "x"), values)}), tmp_path, max_error=0.1,
                      channel_dim="band", chunks={"y": 16, "x": 16})  # fmt: skip
    found = measure(pair, (0,), 0.0)
    error = np.abs(pair.data.astype("f8") - pair.array[:].astype("f8")) / 0.1
    error[:, 3, 4] = np.nan
    np.testing.assert_allclose(found.rmse, np.sqrt((error**2).mean(0)), rtol=1e-6)
    np.testing.assert_allclose(found.error, np.nan_to_num(error.max(0)), rtol=1e-6)
    assert np.nanmax(found.rmse) < found.error.max() <= 1


def test_the_ratio_is_that_of_info(tmp_path):
    dataset = xr.Dataset({"cube": (("band", "y", "x"), cube())})
    text, _ = page(dataset, tmp_path, max_error=0.1, channel_dim="band", chunks={"y": 16, "x": 16})
    (item,) = describe(tmp_path / "s.zarr")
    assert item.storage.nbytes == dataset.cube.nbytes
    assert f"<dt>compression ratio</dt><dd>{item.storage.ratio:.4g}</dd>" in text
    assert re.search(r"<dt>stored</dt><dd>chunks [\d.]+ kB, metadata [\d.]+ (kB|bytes)</dd>", text)
    assert "units of storage" not in text


def test_a_miss_is_said(tmp_path):
    from xwalloc.reporting import write_page

    _, pairs = page(xr.Dataset({"cube": (("band", "y", "x"), cube())}), tmp_path, max_error=0.1, channel_dim="band")
    pairs[0].data = pairs[0].data.copy()
    pairs[0].data[1, 2, 3] += 5
    pairs[0].data[0, 0, 0] = np.nan
    text = write_page(pairs, tmp_path / "page.html", title="t").read_text()
    assert "1 values differ from the original by more than the bound" in text
    assert "does not hold" in text
    assert "Missing values that changed" in text
    assert "<td>1, 2, 3</td>" in text


def test_strangers_names_are_text(tmp_path):
    attrs = {"units": HOSTILE, "long_name": HOSTILE * 50, HOSTILE: HOSTILE}
    coords = {"wavelength": ("b", np.linspace(400, 900, 6), {"units": HOSTILE})}
    ds = xr.Dataset({"v": (("b", HOSTILE, "x"), cube(), attrs)}, coords)
    text, _ = page(ds, tmp_path, max_error=0.1, channel_dim="b", signal_dims=(HOSTILE, "x"))
    tags = Tags()
    tags.feed(text)
    assert "script" not in tags.seen
    assert "\u202e" not in text
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in tags.sources)
    assert not re.findall(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)


@pytest.mark.parametrize(
    ("dims", "shape", "channel"),
    [
        (("time",), (3000,), None),
        (("time", "lead"), (3000, 2), "lead"),
        (("y", "x"), (40, 50), None),
        (("t", "band", "y", "x"), (3, 4, 20, 30), "band"),
        (("y", "x", "band"), (1, 30, 5), "band"),
    ],
)
def test_arrays_of_all_kinds(tmp_path, dims, shape, channel):
    values = cube(shape)
    values.flat[:3] = np.nan
    signal = tuple(d for d in dims if d not in (channel, "t"))
    ds = xr.Dataset({"v": (dims, values), "exact": ("i", np.arange(9))})
    text, _ = page(ds, tmp_path, max_error={"v": 0.1}, channel_dim=channel, signal_dims=signal)
    assert ("Middle of the series" in text) == ("time" in dims)
    assert "3 values are missing" in text
    assert "Every value is equal to the original." in text


def test_packed_values_are_shown_as_users_see_them(tmp_path):
    packed = (cube() * 100).astype("i2")
    ds = xr.Dataset({"v": (("band", "y", "x"), packed, {"scale_factor": 0.01, "add_offset": 300.0, "units": "K"})})
    text, _ = page(ds, tmp_path, max_error={"v": 4}, channel_dim="band")
    assert "<dd>0.04 K</dd>" in text


def test_a_page_without_a_folder_is_refused_first(tmp_path):
    with pytest.raises(xwalloc.errors.ConfigError, match="folder that exists for the page"):
        xwalloc.report("nothing.nc", tmp_path / "nothing.zarr", tmp_path / "none" / "page.html")
