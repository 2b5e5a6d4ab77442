"""What novelty is read from, for every space and layout."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces

from sb3_snd.common.preprocessing import FrameReader, map_obs

CPU = th.device("cpu")


def read(space, obs, **kwargs):
    reader = FrameReader(space, **kwargs)
    frames = reader.newest(obs, CPU)
    assert frames.shape[1:] == reader.shape
    assert th.equal(reader.newest(frames, CPU), frames)  # a frame stays a frame
    out = reader.scale(frames)
    assert out.dtype == th.float32
    return out.numpy()


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize(("channels", "stack"), [(1, 4), (3, 2), (1, 1), (3, 1)])
def test_newest_frame_of_every_layout(channels, stack, dtype):
    """An RGB stack or a grey stack, channels first or last, gives the same newest frame."""
    first = np.random.default_rng(0).integers(0, 256, (2, channels * stack, 40, 44)).astype(dtype)
    expected = first[:, -channels:] / np.float32(255)
    for obs in (first, first.transpose(0, 2, 3, 1)):
        space = spaces.Box(0, 255, obs.shape[1:], dtype)
        for layout in (first, first.transpose(0, 2, 3, 1)):  # the environment's, or that of a wrapper above
            np.testing.assert_allclose(read(space, layout), expected, rtol=1e-6)


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 1), (-0.5, 0.5)])
def test_float_images_are_scaled_by_their_bounds(low, high):
    space = spaces.Box(low, high, (36, 50, 1), np.float32)
    obs = np.full((1, 36, 50, 1), low + 0.25 * (high - low), dtype=np.float32)
    obs[0, 3, 7] = high
    out = read(space, obs)
    assert out.shape == (1, 1, 36, 50)
    assert (out[0, 0, 0, 0], out[0, 0, 3, 7], out.min()) == (0.25, 1.0, 0.25)


def test_discrete_observations_become_one_hot_vectors():
    np.testing.assert_array_equal(read(spaces.Discrete(3), np.array([2, 0])), [[0, 0, 1], [1, 0, 0]])
    np.testing.assert_array_equal(read(spaces.Discrete(3), np.array([[2], [0]])), [[0, 0, 1], [1, 0, 0]])  # of a buffer
    np.testing.assert_array_equal(read(spaces.MultiDiscrete([2, 3]), np.array([[1, 2]])), [[0, 1, 0, 0, 1]])
    np.testing.assert_array_equal(read(spaces.MultiBinary(3), np.array([[1, 0, 1]], dtype=np.int8)), [[1, 0, 1]])


def test_other_boxes_become_vectors():
    np.testing.assert_array_equal(
        read(spaces.Box(-1, 1, (2, 2)), np.arange(8.0).reshape(2, 2, 2)), [[0, 1, 2, 3], [4, 5, 6, 7]]
    )
    np.testing.assert_array_equal(read(spaces.Box(0, 9, (2,), np.int64), np.array([[3, 4]])), [[3, 4]])


def test_newest_of_stacked_vectors():
    np.testing.assert_array_equal(read(spaces.Box(-1, 1, (2,)), np.array([[1.0, 2.0, 3.0, 4.0]])), [[3, 4]])


def test_dict_entry():
    space = spaces.Dict(a=spaces.Box(-1, 1, (2,)), b=spaces.Discrete(2))
    obs = {"a": np.array([[0.5, 0.25]]), "b": np.array([1])}
    np.testing.assert_array_equal(read(space, obs, obs_key="a"), [[0.5, 0.25]])
    np.testing.assert_array_equal(read(space, obs, obs_key="b"), [[0, 1]])


def test_map_obs():
    assert map_obs(lambda a, b: a + b, 1, 2) == 3
    assert map_obs(lambda a, b: a + b, {"x": 1, "y": 2}, {"y": 20, "x": 10}) == {"x": 11, "y": 22}


@pytest.mark.parametrize(
    ("space", "obs_key", "message"),
    [
        (
            spaces.Dict(a=spaces.Text(2), b=spaces.Box(0, 1, (3, 40, 40)), c=spaces.Box(0, 1, (3, 40, 40))),
            None,
            "obs_key=None must",
        ),
        (spaces.Dict(a=spaces.Text(2)), "a", "SND cannot read Text"),
        (spaces.Dict(a=spaces.Discrete(2), b=spaces.Text(3)), ["a", "b"], "SND cannot read Text"),
        (
            spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(0, 1, (3, 40, 40))),
            ["a", "b"],
            "must name either one image or only entries that are not images",
        ),
        *(
            (spaces.Dict(a=spaces.Discrete(2), b=spaces.Discrete(3)), key, r"obs_key=.* must choose .* have 'a', 'b'\.")
            for key in ([], ["a", "c"], ["a", "a"], [["a"]], 3, ["a", 3], {"a": 1})
        ),
        (spaces.Dict(a=spaces.Discrete(2)), "c", "obs_key='c' must choose .* have 'a'"),
        (spaces.Discrete(2), "a", "obs_key='a' needs Dict observations"),
        (spaces.Tuple([spaces.Discrete(2)]), None, "SND cannot read Tuple"),
        (spaces.Box(-np.inf, np.inf, (40, 40, 3)), None, "images of float32 without bounds"),
        (spaces.Box(0, 255, (3, 3, 3), np.uint8), None, "Grids of 3 x 3 cells are smaller"),
        (spaces.Box(0, 1, (3, 40, 3)), None, "Grids of 40 x 3 cells are smaller"),
    ],
)
def test_bad_spaces(space, obs_key, message):
    with pytest.raises(ValueError, match=message):
        FrameReader(space, obs_key)


@pytest.mark.parametrize(
    ("space", "obs", "message"),
    [
        (spaces.Box(-1, 1, (4,)), np.zeros((2, 5)), r"Expected observations of shape \(n, 4\), got \(2, 5\)"),
        (spaces.Box(-1, 1, (2, 2)), np.zeros((2, 2, 4)), r"Expected observations of shape \(n, 4\)"),
        (spaces.Box(0, 255, (4, 40, 44), np.uint8), np.zeros((2, 4, 50, 50)), r"frames of shape \(1, 40, 44\), got"),
    ],
)
def test_wrong_observations(space, obs, message):
    with pytest.raises(ValueError, match=message):
        FrameReader(space).newest(obs, CPU)


@pytest.mark.parametrize(
    ("entries", "obs_key", "keys"),
    [
        (dict(speed="vector", image="image", lamp="switch"), None, ("image",)),
        (dict(speed="vector", lamp="switch"), None, ("speed", "lamp")),
        (dict(lamp="switch", text="text", speed="vector"), None, ("lamp", "speed")),
        (dict(left="image", speed="vector", right="image", lamp="switch"), None, ("speed", "lamp")),
        (dict(left="image", speed="vector", right="image"), "right", ("right",)),
        (dict(speed="vector", image="image", lamp="switch"), ["lamp", "speed"], ("speed", "lamp")),
        (dict(speed="vector", image="image"), ["image"], ("image",)),
        (dict(text="text", speed="vector"), ("speed",), ("speed",)),
    ],
)
def test_entries_that_are_read(entries, obs_key, keys):
    known = dict(
        vector=spaces.Box(-1, 1, (2,)),
        image=spaces.Box(0, 255, (40, 40, 3), np.uint8),
        switch=spaces.Discrete(3),
        text=spaces.Text(4),
    )
    reader = FrameReader(spaces.Dict(**{name: known[kind] for name, kind in entries.items()}), obs_key)
    assert reader.keys == keys
    assert reader.shape == (
        (3, 40, 40) if reader.is_image else (sum({"vector": 2, "switch": 3}[entries[key]] for key in keys),)
    )


def test_an_array_in_place_of_a_dict_is_refused():
    reader = FrameReader(spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-1, 1, (2,))))
    with pytest.raises(ValueError, match=r"Expected a dict of a, b, got an array of shape \(5, 3\)"):
        reader.newest(np.zeros((5, 3)), "cpu")


@pytest.mark.parametrize("shape", [(7, 7, 3), (3, 7, 7)])
def test_a_grid_is_read_whole_and_unscaled(shape):
    """Symbols from 0 to 10 in a space that could hold 255; six channels are a stack of two images, but one grid."""
    space = spaces.Box(0, 255, shape, np.uint8)
    grids = np.random.default_rng(0).integers(0, 11, (5, *shape)).astype(np.uint8)
    reader = FrameReader(space)
    first = np.moveaxis(grids, 3, 1) if shape[2] == 3 else grids
    np.testing.assert_array_equal(reader.scale(reader.newest(grids, th.device("cpu"))), first.astype(np.float32))
    assert not reader.has_bounds and FrameReader(spaces.Box(0, 255, (7, 7, 6), np.uint8)).shape == (6, 7, 7)


def test_symbols_become_planes():
    """Each channel one-hot by itself, by numpy; a number that cannot be a symbol is in no plane."""
    high = np.tile(np.array([2, 1], dtype=np.uint8), (5, 4, 1))
    reader = FrameReader(spaces.Box(0, high, (5, 4, 2), np.uint8))
    assert reader.symbols == (3, 2) and reader.shape == (2, 5, 4) and reader.scaled_shape == (5, 5, 4)
    grids = np.random.default_rng(0).integers(0, [3, 2], (6, 5, 4, 2)).astype(np.uint8)
    planes = np.concatenate([np.eye(3)[grids[..., 0]], np.eye(2)[grids[..., 1]]], axis=-1)
    scaled = reader.scale(reader.newest(grids, th.device("cpu")))
    np.testing.assert_array_equal(scaled, np.moveaxis(planes, 3, 1))
    assert FrameReader(spaces.Box(0, 31, (2, 5, 5), np.int64)).symbols == (32, 32)
    for space in (spaces.Box(0, 32, (2, 5, 5), np.uint8), spaces.Box(-1, 3, (2, 5, 5), np.int8), spaces.Box(0, 3, (2, 5, 5))):
        assert FrameReader(space).symbols == () and not FrameReader(space).has_bounds
