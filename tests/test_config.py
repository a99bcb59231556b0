import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xwalloc.codec.config import CodecConfig
from xwalloc.errors import ConfigError

BASE = {"signal_axes": [0], "max_error": 1.0}

configurations = st.fixed_dictionaries(
    {"signal_axes": st.lists(st.integers(1, 5), min_size=1, max_size=3, unique=True)},
    optional={
        "channel_axis": st.sampled_from([None, 0, 6]),
        "nodata": st.one_of(st.integers(-(2**60), 2**60), st.floats()),
        "levels": st.integers(0, 8),
        "tree": st.sampled_from(["dyadic", "packet"]),
        "boundary": st.sampled_from(["reflect", "periodization"]),
        "profile": st.sampled_from(["default", "parallel"]),
        "model": st.none(),
    },
).flatmap(
    lambda c: st.one_of(
        st.builds(lambda v: {**c, "max_error": v}, st.floats(0, 1e300)),
        st.builds(lambda v: {**c, "snr": v}, st.floats(1e-3, 300)),
        st.builds(lambda v: {**c, "step": v}, st.floats(1e-300, 1e300)),
        st.just({**c, "lossless": True}),
    )
)


@given(configurations)
def test_configuration_round_trips(data):
    config = CodecConfig.from_json(data)
    text = json.dumps(config.to_json(), allow_nan=False)
    again = CodecConfig.from_json(json.loads(text))
    assert again == config
    assert hash(again) == hash(config)
    assert json.dumps(again.to_json()) == text
    assert eval(repr(config)) == config
    assert pickle.loads(pickle.dumps(config)) == config
    assert len(pickle.dumps(config)) < 1000


def test_json_is_canonical():
    one = CodecConfig(channel_axis=np.int64(0), signal_axes=(2, 1), max_error=np.float32(0.5), nodata=-9999.0, levels=4)
    assert one.to_json() == {"channel_axis": 0, "signal_axes": [1, 2], "max_error": 0.5, "nodata": -9999}
    assert json.dumps(one.to_json()) == json.dumps(CodecConfig.from_json(one.to_json()).to_json())
    assert CodecConfig(signal_axes=[0], max_error=0) == CodecConfig(signal_axes=[0], lossless=True)
    assert CodecConfig(signal_axes=[0], lossless=True, nodata=math.nan).to_json() == {
        "channel_axis": None,
        "signal_axes": [0],
        "lossless": True,
    }
    assert json.dumps(CodecConfig(signal_axes=[0], lossless=True, nodata=-0.0).to_json()["nodata"]) == "0"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_errr": 1}, "Did you mean 'max_error'"),
        ({"nonsense": 1}, "Known keys are"),
        ({"max_error": None}, "exactly one of"),
        ({"snr": 40}, "Got max_error and snr"),
        ({"lossless": True}, "Got max_error and lossless"),
        ({"max_error": -1}, "finite number 0 or above"),
        ({"max_error": math.nan}, "finite number"),
        ({"max_error": math.inf}, "finite number"),
        ({"max_error": True}, "finite number"),
        ({"max_error": "1"}, "finite number"),
        ({"max_error": 10**400}, "finite number"),
        ({"max_error": None, "step": 0}, "lossless=True"),
        ({"max_error": None, "snr": -3}, "above 0"),
        ({"lossless": 1}, "true or false"),
        ({"signal_axes": []}, "1 to 3 different axes"),
        ({"signal_axes": [0, 1, 2, 3]}, "1 to 3 different axes"),
        ({"signal_axes": [0, 0]}, "1 to 3 different axes"),
        ({"signal_axes": [-1]}, "counted from 0"),
        ({"signal_axes": [True]}, "counted from 0"),
        ({"signal_axes": [0.5]}, "counted from 0"),
        ({"signal_axes": 0}, "list of 1 to 3 axes"),
        ({"signal_axes": "01"}, "list of 1 to 3 axes"),
        ({"channel_axis": -1}, "counted from 0"),
        ({"channel_axis": 0}, "none of the signal_axes"),
        ({"levels": 9}, "0 to 8"),
        ({"levels": True}, "0 to 8"),
        ({"tree": "oak"}, "'dyadic' or 'packet'"),
        ({"boundary": "zero"}, "'reflect' or 'periodization'"),
        ({"profile": 1}, "'default' or 'parallel'"),
        ({"wavelet": "nonsense"}, "wavelet"),
        ({"wavelet": 3}, "wavelet"),
        ({"model": {"id": "sha256:0"}}, "64 hexadecimal digits"),
        ({"nodata": "NaN"}, "number or null"),
        ({"nodata": False}, "number or null"),
        ({"nodata": 10**400}, "some dtype holds"),
    ],
)
def test_impossible_values_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        CodecConfig.from_json({**BASE, **change})


def test_missing_axes_and_foreign_types_are_refused():
    with pytest.raises(ConfigError, match="signal_axes"):
        CodecConfig.from_json({"max_error": 1})
    with pytest.raises(ConfigError, match="mapping"):
        CodecConfig.from_json([("max_error", 1)])


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">i2", "u2", "i4", ">u4", "f2", ">f4", "f8"])
def test_accepted_dtypes(dtype):
    CodecConfig(signal_axes=[0], lossless=True, nodata=7).check((3,), np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["i8", "u8", "c8", "?", "O", "U3", "S1", "M8[s]", "m8[s]", "V4", [("a", "f4")]])
def test_other_dtypes_are_refused_with_the_list(dtype):
    with pytest.raises(ConfigError, match=r"int8, uint8, int16.*float64"):
        CodecConfig(signal_axes=[0], lossless=True).check((3,), np.dtype(dtype))


@pytest.mark.parametrize("axes", [{"signal_axes": [3]}, {"signal_axes": [0], "channel_axis": 5}])
def test_axes_that_do_not_exist_are_refused(axes):
    with pytest.raises(ConfigError, match="among the 3 axes"):
        CodecConfig(lossless=True, **axes).check((2, 2, 2), np.dtype("f4"))


@pytest.mark.parametrize(
    ("dtype", "nodata"), [("u1", -9999), ("u1", 256), ("i2", 1.5), ("f2", 1e6), ("f4", 1e39), ("i4", 2**31)]
)
def test_nodata_that_the_dtype_cannot_hold_is_refused(dtype, nodata):
    with pytest.raises(ConfigError, match="nodata"):
        CodecConfig(signal_axes=[0], lossless=True, nodata=nodata).check((3,), np.dtype(dtype))


def test_nodata_is_a_value_of_the_stored_dtype():
    config = CodecConfig(signal_axes=[0], lossless=True, nodata=-3.4e38)
    assert config.nodata_as(np.dtype(">f4")) == np.float32(-3.4e38)
    assert CodecConfig(signal_axes=[0], lossless=True).nodata_as(np.dtype("f4")) is None
