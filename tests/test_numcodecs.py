import pickle

import numcodecs
import numpy as np
import pytest

import xwalloc
from xwalloc.errors import ConfigError, FormatError, XwallocError
from xwalloc.numcodecs import Walloc

CONFIG = {"id": "xwalloc", "channel_axis": 0, "signal_axes": [1, 2], "max_error": 0.25}


@pytest.fixture
def cube():
    rng = np.random.default_rng(1)
    return rng.normal(size=(5, 20, 24)).cumsum(1).cumsum(2).astype("f4")


def deviation(a, b):
    return np.abs(a.astype("f8") - b.astype("f8")).max()


def test_found_by_its_id_and_round_trips():
    codec = numcodecs.get_codec(CONFIG)
    assert isinstance(codec, Walloc)
    assert codec.get_config() == CONFIG
    assert numcodecs.get_codec(codec.get_config()) == codec
    assert eval(repr(codec)) == codec
    assert hash(eval(repr(codec))) == hash(codec)
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert len(pickle.dumps(codec)) < 1000
    assert codec != Walloc(signal_axes=[0], lossless=True)
    assert (codec.channel_axis, codec.signal_axes, codec.max_error, codec.lossless) == (0, (1, 2), 0.25, False)
    with pytest.raises(AttributeError):
        codec.nonsense  # noqa: B018


@pytest.mark.parametrize("change", [{"max_errr": 1}, {"snr": 30}, {"max_error": -1}, {"signal_axes": [0]}])
def test_wrong_configurations_are_refused(change):
    with pytest.raises(ConfigError):
        numcodecs.get_codec({**CONFIG, **change})


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "<i4", ">i2", "u1"])
@pytest.mark.parametrize("layout", ["C", "F", "strided", "reversed", "transposed"])
def test_any_layout_comes_back_within_the_bound(cube, dtype, layout):
    array = np.abs(cube * 4).astype(dtype)
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "strided":
        array = np.repeat(array, 2, axis=2)[:, :, ::2]
    elif layout == "reversed":
        array = array[:, ::-1]
    elif layout == "transposed":
        array = array.transpose(0, 2, 1)
    array.flags.writeable = False
    before = array.copy()
    codec = Walloc(channel_axis=0, signal_axes=[1, 2], max_error=1.5)
    frame = codec.encode(array)
    decoded = codec.decode(frame)
    assert decoded.shape == array.shape
    assert decoded.dtype == array.dtype
    assert deviation(decoded, array) <= 1.5
    np.testing.assert_array_equal(array, before)
    np.testing.assert_array_equal(Walloc(signal_axes=[0], lossless=True).decode(frame), decoded)


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview, lambda b: np.frombuffer(b, "u1")])
def test_frames_may_come_in_any_buffer(cube, buffer):
    codec = numcodecs.get_codec(CONFIG)
    np.testing.assert_array_equal(codec.decode(buffer(codec.encode(cube))), codec.decode(codec.encode(cube)))


def test_decode_into_out(cube):
    codec = numcodecs.get_codec(CONFIG)
    frame = codec.encode(cube)
    expected = codec.decode(frame)
    for out in (
        np.empty_like(cube),
        np.empty((5, 20, 48), "f4")[..., ::2],
        np.empty(cube.nbytes, "u1"),
        bytearray(cube.nbytes),
    ):
        assert codec.decode(frame, out=out) is out
        values = out if getattr(out, "dtype", None) == expected.dtype else np.frombuffer(out, "f4").reshape(cube.shape)
        np.testing.assert_array_equal(values, expected)
    frozen = np.empty_like(cube)
    frozen.flags.writeable = False
    for out in (np.empty((5, 20, 23), "f4"), np.empty_like(cube, ">f4"), np.empty_like(cube, "f8"), b"", frozen):
        with pytest.raises(ConfigError, match="Expected out"):
            codec.decode(frame, out=out)


@pytest.mark.parametrize(
    "buf",
    [
        np.array([None, 1]),
        np.zeros(4, "i8"),
        np.zeros(4, "M8[s]"),
        np.array(["a"]),
        np.zeros(4, bool),
        np.zeros(4, [("a", "f4")]),
        [1.0, 2.0],
        None,
    ],
)
def test_what_cannot_be_encoded_is_a_config_error(buf):
    with pytest.raises(ConfigError):
        Walloc(signal_axes=[0], max_error=1).encode(buf)
    with pytest.raises(ConfigError):
        Walloc(signal_axes=[3], max_error=1).encode(np.zeros(3))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"XWLC" + bytes(100), None, 7, np.array([None])])
def test_foreign_bytes_are_format_errors(data):
    with pytest.raises(FormatError):
        Walloc(signal_axes=[0], max_error=1).decode(data)


def test_damage_is_noticed(cube):
    codec = numcodecs.get_codec(CONFIG)
    frame = codec.encode(cube)
    for damaged in (frame[:-1], frame + b"\0", frame[:30] + bytes([frame[30] ^ 1]) + frame[31:]):
        with pytest.raises(FormatError):
            codec.decode(damaged)
        with pytest.raises(XwallocError):
            codec.decode(damaged, out=np.empty_like(cube))


@pytest.mark.parametrize("limit", ["1GB", 0, True, None])
def test_wrong_limits_are_explained(limit):
    frame = Walloc(signal_axes=[0], max_error=0.1).encode(np.arange(9.0))
    with xwalloc.settings.set({"decode.max_bytes": limit}), pytest.raises(ConfigError, match="max_bytes"):
        Walloc(signal_axes=[0], max_error=0.1).decode(frame)
