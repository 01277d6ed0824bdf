"""Which channels hang together, structure by structure; and that what is left computes what it did with zeros in their place."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.workers.surgery.cutting import answers, coupled, silenced, some_units, units_of, without
from tests.workers.training.networks import Reader
from workers.surgery.channels import couple


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.back = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head((x + self.back(self.inner(x).relu())).mean((2, 3)))


def test_a_residual_addition_makes_one_unit_of_both_sides():
    _, coupling = coupled(Residual(), 3, 7, 7)

    assert torch.equal(coupling.layers["first"], coupling.layers["back"])
    assert len(coupling.units) == 8 + 6
    assert units_of(coupling, "head") == 0


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right, self.after = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(10, 5, 1)
        self.norm = nn.BatchNorm2d(10)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(self.after(x.relu()).amax((2, 3)))


def test_a_concatenation_leaves_its_sides_apart():
    model, coupling = coupled(Concatenated(), 3, 5, 5)

    assert [units_of(coupling, name) for name in ("left", "right", "after")] == [4, 6, 5]
    (last,) = {int(one) for one in coupling.layers["right"][:1]}
    smaller = without(model, coupling, [last])
    assert smaller.module.get_submodule("norm").num_features == 9
    assert smaller.module.get_submodule("after").weight.shape == (5, 9, 1, 1)


class Depthwise(nn.Module):
    def __init__(self, times: int = 1) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 8, 1)
        self.depth = nn.Conv2d(8, 8 * times, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8 * times, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.point(functional.relu6(self.depth(self.wide(x)))).mean((2, 3)))


@pytest.mark.parametrize("times", [1, 2])
def test_a_depthwise_convolution_goes_with_what_it_reads(times: int):
    model, coupling = coupled(Depthwise(times), 3, 5, 5)
    unit = int(coupling.layers["wide"][2])
    smaller = without(model, coupling, [unit]).module

    assert coupling.layers["depth"].tolist().count(unit) == times
    depth, point = smaller.get_submodule("depth"), smaller.get_submodule("point")
    assert (depth.groups, depth.in_channels, depth.out_channels) == (7, 7, 7 * times)
    assert point.in_channels == 7 * times


class Grouped(nn.Module):
    def __init__(self, groups: int, transposed: bool = False) -> None:
        super().__init__()
        kind = nn.ConvTranspose2d if transposed else nn.Conv2d
        self.wide = nn.Conv2d(3, 12, 1)
        self.grouped = kind(12, 12, 3, groups=groups)
        self.narrow = nn.Conv2d(12, 4, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.narrow(self.grouped(self.wide(x)).relu()).mean((2, 3)))


@pytest.mark.parametrize("transposed", [False, True])
def test_few_groups_keep_their_number_and_become_smaller(transposed: bool):
    model, coupling = coupled(Grouped(2, transposed), 3, 7, 7)
    grouped = without(model, coupling, [int(coupling.layers["wide"][0])]).module.get_submodule("grouped")

    assert units_of(coupling, "wide") == units_of(coupling, "grouped") == 6
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (2, 10, 12)


@pytest.mark.parametrize("transposed", [False, True])
def test_of_many_groups_whole_ones_go(transposed: bool):
    model, coupling = coupled(Grouped(6, transposed), 3, 7, 7)
    grouped = without(model, coupling, [int(coupling.layers["wide"][0])]).module.get_submodule("grouped")

    assert units_of(coupling, "wide") == 6
    assert torch.equal(coupling.layers["wide"], coupling.layers["grouped"])
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (5, 10, 10)


class Shuffled(nn.Module):
    """The unit of ShuffleNetV2: a half is kept, a half is computed, both are dealt out in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 1)
        self.branch = nn.Sequential(
            nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Conv2d(4, 4, 1)
        )
        self.last = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        kept, computed = self.first(x).chunk(2, 1)
        x = torch.cat([kept, self.branch(computed)], 1)
        batch, channels, height, width = x.shape
        x = (
            x.view(batch, 2, channels // 2, height, width)
            .transpose(1, 2)
            .reshape(batch, channels, height, width)
        )
        return self.head(self.last(x).mean((2, 3)))


def test_a_channel_shuffle_keeps_the_same_places_of_every_group():
    model, coupling = coupled(Shuffled(), 3, 5, 5)
    kept, out = coupling.layers["first"][:4], coupling.layers["branch.2"]

    assert torch.equal(kept, out)
    assert units_of(coupling, "branch.0") == 4
    smaller = without(model, coupling, [int(kept[1]), int(coupling.layers["first"][6])])
    assert smaller.module.get_submodule("first").out_channels == 6
    assert smaller.module.get_submodule("last").in_channels == 6


class Flat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 6, 3), nn.GroupNorm(2, 6)
        self.middle, self.head = nn.Linear(6 * 25, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.norm(self.first(x)).flatten(1)).relu())


def test_a_flattened_channel_takes_its_places_along():
    model, coupling = coupled(Flat(), 3, 7, 7)
    smaller = without(model, coupling, [int(coupling.layers["first"][0])]).module

    assert units_of(coupling, "first") == 3, "a group norm keeps its groups of one size"
    assert smaller.get_submodule("norm").num_channels == 4
    assert smaller.get_submodule("middle").in_features == 4 * 25


def test_heads_of_attention_go_as_a_whole_and_feed_forward_parts_by_channel():
    model, coupling = coupled(Reader(), 16, dtype="int64")
    head = int(coupling.layers["mixed"][0])
    smaller = without(model, coupling, [head, int(coupling.layers["wide"][0])]).module

    assert units_of(coupling, "mixed") == 4
    assert (coupling.layers["mixed"] == head).sum() == 3 * 8
    assert units_of(coupling, "wide") == 64
    assert units_of(coupling, "words") == 32
    assert torch.equal(coupling.layers["words"], coupling.layers["joined"])
    assert smaller.get_submodule("joined").in_features == 24
    residual = without(model, coupling, [int(coupling.layers["words"][5])]).module
    assert residual.get_parameter("places").shape == (16, 31)
    assert residual.get_submodule("between").normalized_shape == (31,)


class Rotated(nn.Module):
    """Attention whose queries and keys are turned by a table that all heads share."""

    def __init__(self, heads: int = 4, size: int = 6) -> None:
        super().__init__()
        self.heads, self.size = heads, size
        self.query, self.key, self.value = (nn.Linear(10, heads * size) for _ in range(3))
        self.joined, self.head = nn.Linear(heads * size, 10), nn.Linear(10, 2)
        self.register_buffer("turn", torch.randn(5, size))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            layer(x).unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        found = functional.scaled_dot_product_attention(self._turned(query), self._turned(key), value)
        return self.head((x + self.joined(found.transpose(1, 2).flatten(2))).mean(1))

    def _turned(self, values: Tensor) -> Tensor:
        left, right = values.chunk(2, -1)
        return values * self.turn + torch.cat([-right, left], -1)


def test_a_table_that_heads_share_stays():
    model, coupling = coupled(Rotated(), 5, 10)
    smaller = without(model, coupling, [int(coupling.layers["query"][0])]).module

    assert units_of(coupling, "query") == units_of(coupling, "value") == 4
    assert smaller.get_buffer("turn").shape == (5, 6)
    assert smaller.get_submodule("value").out_features == 18


class Few(nn.Module):
    """Keys and values of two heads, queries of four: each pair of queries goes with what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 16), nn.Linear(8, 8), nn.Linear(8, 8)
        self.joined = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).unflatten(-1, (4, 4)).transpose(1, 2)
        key, value = (layer(x).unflatten(-1, (2, 4)).transpose(1, 2) for layer in (self.key, self.value))
        found = functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
        return self.joined(found.transpose(1, 2).flatten(2)).mean(1)


def test_heads_that_share_keys_go_together():
    _, coupling = coupled(Few(), 5, 8)

    assert units_of(coupling, "key") == units_of(coupling, "query") == 2


class Excited(nn.Module):
    """Channels scaled by a gate of each (squeeze and excitation), and places by a gate of each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down, self.up = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1), nn.Conv2d(3, 8, 1)
        self.place, self.head = nn.Conv2d(8, 1, 3, padding=1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x * self.up(self.down(functional.adaptive_avg_pool2d(x, 1)).relu()).sigmoid()
        return self.head((x * self.place(x).sigmoid()).mean((2, 3)))


def test_gates_go_with_their_channels_and_a_gate_of_places_stays():
    model, coupling = coupled(Excited(), 3, 5, 5)

    assert torch.equal(coupling.layers["first"], coupling.layers["up"])
    assert units_of(coupling, "down") == 3
    without(model, coupling, [int(coupling.layers["first"][0])])


class Padded(nn.Module):
    """A shortcut whose missing channels are zeros (He et al., 2015, option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 3, stride=2, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.head(
            (functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + self.second(x)).mean((2, 3))
        )


def test_channels_of_zeros_are_cut_too():
    model, coupling = coupled(Padded(), 3, 6, 6)
    second = coupling.layers["second"]

    assert torch.equal(second[2:6], coupling.layers["first"])
    assert (
        without(model, coupling, [int(second[0]), int(second[3])]).module.get_submodule("head").in_features
        == 6
    )


class Sliced(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.left, self.right = nn.Linear(5, 9), nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.left(x[:, :4]) + self.right(x[:, -5:])


def test_slices_move_with_what_is_before_them():
    model, coupling = coupled(Sliced(), 5)
    smaller = without(model, coupling, [int(one) for one in coupling.layers["first"][[1, 2, 6]]]).module

    assert smaller.get_submodule("left").in_features == 2
    assert smaller.get_submodule("right").in_features == 4


class Tied(nn.Module):
    """An embedding whose weight the head has too."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.middle, self.head = (
            nn.Embedding(11, 6),
            nn.Linear(6, 6),
            nn.Linear(6, 11, bias=False),
        )
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.words(x)) + self.words(x))


def test_a_weight_of_two_layers_stays_one():
    model, coupling = coupled(Tied(), 4, dtype="int64")
    smaller = without(model, coupling, [int(coupling.layers["words"][0])]).module

    assert units_of(coupling, "words") == 6
    assert units_of(coupling, "head") == 0
    assert smaller.get_submodule("words").weight is smaller.get_submodule("head").weight
    assert smaller.get_submodule("words").weight.shape == (11, 5)


class Unknown(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(torch.sort(self.first(x), -1).values))


def test_what_an_unknown_operator_reads_stays_and_is_told():
    _, coupling = coupled(Unknown(), 5)

    assert units_of(coupling, "first") == 0
    assert units_of(coupling, "second") == 6
    assert any(place.startswith("sort") for place in coupling.fixed)


def test_layers_are_left_out_by_name_and_pattern():
    model, _ = coupled(Shuffled(), 3, 5, 5)
    coupling = couple(model, ["branch.*", "last"])

    assert units_of(coupling, "last") == 0
    assert {name for name in coupling.layers if units_of(coupling, name)} == {"first"}


COMPUTED = [
    (Residual, (3, 7, 7)), (Concatenated, (3, 5, 5)), (Depthwise, (3, 5, 5)), (Shuffled, (3, 5, 5)), (Rotated, (5, 10)),
    (Few, (5, 8)), (Sliced, (5,)), (Padded, (3, 6, 6)), (Excited, (3, 5, 5)),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "shape"), COMPUTED, ids=[kind.__name__ for kind, _ in COMPUTED])
def test_what_is_left_computes_what_it_did_with_zeros_in_their_place(
    kind: type[nn.Module], shape: tuple[int, ...]
):
    model, coupling = coupled(kind(), *shape)
    units = some_units(coupling, 0.4, seed=1)

    assert units
    for found, wanted in zip(
        answers(without(model, coupling, units)), answers(silenced(model, coupling, units)), strict=True
    ):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "shape"), COMPUTED, ids=[kind.__name__ for kind, _ in COMPUTED])
def test_nothing_removed_changes_nothing(kind: type[nn.Module], shape: tuple[int, ...]):
    model, coupling = coupled(kind(), *shape)

    for found, wanted in zip(answers(without(model, coupling, [])), answers(model), strict=True):
        assert torch.equal(found, wanted)
