import pytest
import torch

from fieldforge.encodings.composite import Composite
from fieldforge.encodings.frequency import Frequency
from fieldforge.encodings.one_blob import OneBlob
from fieldforge.encodings.random_fourier import RandomFourier
from fieldforge.encodings.triangle_wave import TriangleWave
from fieldforge.registry import ConfigError, build

IDENTITY = {"otype": "Identity"}


def take(n, begin=None, otype="Identity", **keys):
    """A nested configuration."""
    place = {"n_dims_to_encode": n} | ({} if begin is None else {"dims_to_encode_begin": begin})
    return {"otype": otype, **keys, **place}


def read(nested, n_input_dims=5):
    """Which coordinates a concatenation of identities reads."""
    return Composite(n_input_dims, nested=nested)(torch.arange(float(n_input_dims))).tolist()


def test_parts_stand_side_by_side_in_their_order(generator):
    x = torch.rand(7, 5, generator=generator)
    nested = [take(2, otype="Frequency", n_frequencies=3), take(1, otype="OneBlob"), {"otype": "TriangleWave"}]
    expected = (Frequency(2, n_frequencies=3)(x[:, :2]), OneBlob(1)(x[:, 2:3]), TriangleWave(2)(x[:, 3:]))
    encoding = Composite(5, nested=nested)
    assert torch.equal(encoding(x), torch.cat(expected, -1))
    assert encoding.n_output_dims == 12 + 16 + 24


@pytest.mark.parametrize(("reduction", "join"), [("Sum", torch.add), ("Product", torch.mul)])
def test_a_reduction_joins_channel_by_channel(reduction, join, generator):
    x = torch.rand(7, 2, generator=generator)
    nested = [take(1, otype="Frequency", n_frequencies=2), take(1, otype="OneBlob", n_bins=4)]
    encoding = Composite(2, nested=nested, reduction=reduction)
    expected = join(Frequency(1, n_frequencies=2)(x[:, :1]), OneBlob(1, n_bins=4)(x[:, 1:]))
    torch.testing.assert_close(encoding(x), expected)
    assert encoding.n_output_dims == 4


def test_slices_follow_each_other():
    assert read([take(2), take(1)]) == [0, 1, 2]  # the last two coordinates are left unread


def test_the_one_without_a_count_takes_what_is_left_wherever_it_stands():
    assert read([take(2), IDENTITY]) == [0, 1, 2, 3, 4]
    nested = [{"otype": "Identity", "scale": 10.0}, take(2)]
    assert read(nested) == [0, 10, 20, 3, 4]


def test_a_begin_moves_the_following_slices_too():
    assert read([take(2, begin=3), take(1, begin=0), take(1)]) == [3, 4, 0, 1]


def test_a_part_with_nothing_left_is_left_out():
    encoding = Composite(2, nested=[take(2), {"otype": "SphericalHarmonics"}])
    assert encoding.n_output_dims == 2
    assert encoding.config()["nested"][1] == {"otype": "SphericalHarmonics"}


@pytest.mark.parametrize(
    ("nested", "message"),
    [
        ([IDENTITY, IDENTITY], r"^nested\[1\].n_dims_to_encode: only one may leave it out"),
        ([take(1, begin=0), IDENTITY], r"^nested\[1\].n_dims_to_encode: needed"),
        ([{**IDENTITY, "dims_to_encode_begin": 1}], r"^nested\[0\].dims_to_encode_begin: also needs"),
        ([take(2), take(2)], r"^nested\[1\]: the parts reach coordinate 4 of 3"),
        ([take(2), take(2), IDENTITY], r"^nested\[1\]: the parts reach coordinate 4 of 3"),
        ([take(2, begin=2)], r"^nested\[0\]: the parts reach coordinate 4 of 3"),
        ([take(4)], r"^nested\[0\].n_dims_to_encode: expected an integer from 0 to 3"),
        ([take(1, begin=-1)], r"^nested\[0\].dims_to_encode_begin: expected an integer from 0 to 3"),
        ([], "^nested: expected at least one"),
        ([take(0)], "^nested: expected at least one"),
        ([take(1)] * 65, "^nested: expected at most 64"),
        ([take(2, otype="OneBlob", n_bin=4)], r"^nested\[0\].n_bin: .*did you mean n_bins"),
        ([take(0, otype="OneBlob", n_bin=4), take(1)], r"^nested\[0\].n_bin: .*did you mean n_bins"),
    ],
)
def test_refuses_by_place(nested, message):
    with pytest.raises(ValueError, match=message):
        Composite(3, nested=nested)


def test_a_message_names_the_whole_path():
    inner = {"otype": "Composite", "nested": [take(1), {"otype": "OneBlob", "n_bins": 3}]}
    config = {"otype": "Composite", "nested": [take(1), inner]}
    with pytest.raises(ConfigError, match=r"^encoding.nested\[1\].nested\[1\].n_bins: expected a power of two"):
        build("encoding", config, path="encoding", n_input_dims=3)


def test_refuses_a_bottomless_configuration():
    config = IDENTITY
    for _ in range(200):
        config = {"otype": "Composite", "nested": [config]}
    with pytest.raises(ConfigError, match="8 composites deep"):
        build("encoding", config, n_input_dims=1)


def test_a_reduction_needs_equal_widths():
    with pytest.raises(ValueError, match=r"^nested: reduction Sum needs parts of equal width, got \[1, 16\]"):
        Composite(2, nested=[take(1), take(1, otype="OneBlob")], reduction="sum")


def test_config_rebuilds_it_with_every_default_spelt_out(generator):
    nested = [take(2, begin=1, otype="onebLOB"), take(1, begin=0, otype="Composite", nested=[IDENTITY])]
    encoding = build("encoding", {"otype": "composite", "nested": nested}, n_input_dims=3)
    config = encoding.config()
    place = {"n_dims_to_encode": 2, "dims_to_encode_begin": 1}
    assert config["nested"][0] == {"otype": "OneBlob", "n_bins": 16, **place}
    again = build("encoding", config, n_input_dims=3)
    assert again.config() == config
    x = torch.rand(4, 3, generator=generator)
    assert torch.equal(again(x), encoding(x))


def test_the_generator_reaches_the_parts():
    nested = [take(1, otype="RandomFourier", n_features=4), take(1, otype="RandomFourier", n_features=4)]
    one, other = (Composite(2, nested=nested, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    generator = torch.Generator().manual_seed(3)
    alone = [RandomFourier(1, n_features=4, generator=generator).frequencies for _ in range(2)]
    assert torch.equal(one.parts[1].frequencies, other.parts[1].frequencies)
    assert torch.equal(one.parts[1].frequencies, alone[1])


def test_is_as_smooth_as_its_roughest_part():
    assert Composite(2, nested=[take(1), take(1, otype="OneBlob")]).smoothness == 2
    assert Composite(2, nested=[take(1, otype="OneBlob"), {"otype": "TriangleWave"}]).smoothness == 0


def test_channel_order_keeps_that_of_the_parts():
    waves = take(1, otype="TriangleWave", n_frequencies=3)
    assert Composite(2, nested=[waves, take(1)]).channel_order().tolist() == [0, 1, 2, 0]
    assert Composite(2, nested=[IDENTITY]).channel_order() is None
    assert Composite(2, nested=[waves, waves], reduction="Product").channel_order().tolist() == [0, 1, 2]
    assert Composite(4, nested=[waves, take(3)], reduction="Product").channel_order() is None


def test_first_and_second_derivatives(generator):
    nested = [take(1, otype="Frequency", n_frequencies=2), take(1, otype="OneBlob", n_bins=4)]
    x = torch.rand(4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    for reduction in ("Concatenation", "Sum", "Product"):
        encoding = Composite(2, nested=nested, reduction=reduction)
        assert torch.autograd.gradcheck(encoding, x)
        assert torch.autograd.gradgradcheck(encoding, x)
