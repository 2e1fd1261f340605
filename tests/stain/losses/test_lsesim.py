import math

import numpy as np
import pytest
import torch
from torch import nn

from wsigen.errors import InvalidValueError
from wsigen.stain.losses.cut import draw_places
from wsigen.stain.losses.lsesim import (
    SpatialCorrelation,
    colour_map,
    distance,
    photometric,
    self_similarity,
    window_places,
)

NUMBERS = {"seed": 0, "image_numbers": [0, 1]}


def features(seed=0, channels=4, h=9, w=7, b=2):
    return torch.randn(b, channels, h, w, generator=torch.Generator().manual_seed(seed))


class Encoder(nn.Module):
    """Stands in for VGG: two small convolutions, features after each."""

    channels = (6, 8)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.requires_grad_(False)

    def forward(self, x):
        first = self.first(x).relu()
        return [first, self.second(first).relu()]


def images(seed=0):
    return torch.rand(2, 3, 24, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_by_hand():
    # two channels in a row of four places, already centred: (1, 0), (0, 2), (-1, 0), (0, -2)
    f = torch.tensor([[1.0, 0, -1, 0], [0, 2, 0, -2]]).reshape(1, 2, 1, 4)
    s = self_similarity(f, torch.tensor([[0, 2]]), patch=4)
    torch.testing.assert_close(s, torch.tensor([[[1.0, 0, -1, 0], [-1, 0, 1, 0]]]))
    s = self_similarity(f, torch.tensor([[2, 3]]), patch=2)  # windows of places 1–2 and 2–3
    torch.testing.assert_close(s, torch.tensor([[[0.0, 1], [0, 1]]]))


def test_centring_is_over_the_image():
    f = torch.tensor([[3.0, 3, 1, 1], [0, 2, 0, 2]]).reshape(1, 2, 2, 2)  # centred: ±1 in both channels
    s = self_similarity(f, torch.tensor([[0]]), patch=2)
    torch.testing.assert_close(s, torch.tensor([[[1.0, 0, 0, -1]]]))


def test_windows_by_hand():
    places = torch.tensor([[0, 7, 14]])  # (0, 0), (1, 2), (2, 4) of 3 × 5
    expected = [[0, 1, 5, 6], [1, 2, 6, 7], [8, 9, 13, 14]]
    assert window_places(places, (3, 5), 2).tolist() == [expected]


@pytest.mark.parametrize(("patch", "rows", "cols"), [(1, 1, 1), (3, 3, 3), (4, 4, 4), (6, 6, 5), (50, 7, 5)])
def test_windows_lie_within_and_hold_their_centre(patch, rows, cols):
    places = torch.arange(35).expand(1, 35)
    windows = window_places(places, (7, 5), patch)[0]
    assert windows.shape == (35, rows * cols)
    for centre, window in zip(places[0].tolist(), windows.tolist(), strict=True):
        assert centre in window
        assert len({i // 5 for i in window}) == rows
        assert len({i % 5 for i in window}) == cols
        assert 0 <= min(window) <= max(window) < 35


def test_similarities_against_plain_loops():
    f = features()
    places = draw_places(0, [0, 1], 0, 63, 10)
    s = self_similarity(f, places, patch=4)
    windows = window_places(places, (9, 7), 4)
    unit = f - f.mean(dim=(2, 3), keepdim=True)
    for b in range(2):
        for n, i in enumerate(places[b].tolist()):
            for p, j in enumerate(windows[b, n].tolist()):
                cosine = torch.cosine_similarity(unit[b, :, i // 7, i % 7], unit[b, :, j // 7, j % 7], dim=0)
                torch.testing.assert_close(s[b, n, p], cosine, atol=1e-5, rtol=0)


def test_distances_by_hand():
    made, wanted = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]]), torch.tensor([[[0.6, 0.8], [0.6, 0.8]]])
    torch.testing.assert_close(distance(made, wanted), torch.tensor((0.4 + 0) / 2))
    torch.testing.assert_close(distance(made, wanted, "l1"), torch.tensor((0.4 + 0.8) / 4))
    torch.testing.assert_close(distance(-wanted, wanted), torch.tensor(2.0))


def test_distances_over_the_strongest_by_hand():
    # the two of four places where the output is most similar to the centre: 0 and 2
    made, wanted = torch.tensor([[[0.8, -0.9, 0.6, 0.1]]]), torch.tensor([[[0.6, 1.0, -0.8, 0.5]]])
    torch.testing.assert_close(distance(made, wanted, "l1", 0.5), torch.tensor((0.2 + 1.4) / 2))
    torch.testing.assert_close(distance(made, wanted, "cosine", 0.5), torch.tensor(1.0))
    torch.testing.assert_close(distance(made, wanted, "l1", 0.1), torch.tensor(0.2))  # one at least


@pytest.mark.parametrize("kind", ["cosine", "l1"])
@pytest.mark.parametrize("learned", [False, True])
def test_loss_of_an_image_with_itself_is_zero(kind, learned):
    loss = SpatialCorrelation((4, 4), learned=learned, width=5, places=20, patch=4, kind=kind)
    maps = [features(0), features(1)]
    torch.testing.assert_close(loss(maps, maps, **NUMBERS), torch.tensor(0.0), atol=2e-6, rtol=0)
    assert loss(maps, [features(2), features(3)], **NUMBERS) > 0.1


@pytest.mark.parametrize("kind", ["cosine", "l1"])
def test_scale_and_shift_of_the_features_do_not_matter(kind):
    loss = SpatialCorrelation((4,), places=30, patch=5, kind=kind)
    shift = torch.tensor([5.0, -3, 0, 1])[:, None, None]
    same = loss([2.5 * features() + shift], [features()], **NUMBERS)
    torch.testing.assert_close(same, torch.tensor(0.0), atol=2e-6, rtol=0)
    moved = loss([features().roll(2, dims=3)], [features()], **NUMBERS)
    assert moved > 0.1


def test_whole_loss_is_the_mean_over_layers_of_the_parts():
    loss = SpatialCorrelation((4, 3), places=12, patch=4)
    made, source = [features(0), features(1, 3, 6, 6)], [features(2), features(3, 3, 6, 6)]
    parts = []
    for layer, (m, s) in enumerate(zip(made, source, strict=True)):
        places = draw_places(9, [3, 4], layer, m[0, 0].numel(), 12)
        parts.append(distance(self_similarity(m, places, 4), self_similarity(s, places, 4)))
    torch.testing.assert_close(loss(made, source, seed=9, image_numbers=[3, 4]), sum(parts) / 2)


def test_map_smaller_than_the_window_and_the_number_of_places():
    loss = SpatialCorrelation((4,))
    f = features(h=4, w=6)
    whole = self_similarity(f, torch.arange(24).expand(2, 24), 32)
    other = self_similarity(features(1, h=4, w=6), torch.arange(24).expand(2, 24), 32)
    torch.testing.assert_close(loss([f], [features(1, h=4, w=6)], **NUMBERS), distance(whole, other))


@pytest.mark.parametrize("learned", [False, True])
def test_generator_gets_the_gradient_and_nobody_else(learned):
    encoder, loss = (
        Encoder(),
        SpatialCorrelation(Encoder.channels, learned=learned, width=5, places=16, patch=6),
    )
    source, made = images(0).requires_grad_(), images(1).requires_grad_()
    loss(encoder(made), encoder(source), **NUMBERS).backward()
    assert made.grad.abs().sum() > 0
    assert source.grad is None
    assert all(p.grad is None for p in (*loss.parameters(), *encoder.parameters()))


def test_contrast_trains_the_heads_and_nothing_else():
    encoder, loss = Encoder(), SpatialCorrelation(Encoder.channels, learned=True, width=5, places=16, patch=6)
    x = images().requires_grad_()
    loss.contrast(encoder(x), encoder(photometric(x, **NUMBERS)), **NUMBERS).backward()
    assert x.grad is None
    weights = {name: p.grad for name, p in loss.named_parameters() if name.endswith("weight")}
    assert len(weights) == 4
    assert all(g.abs().sum() > 0 for g in weights.values())


def test_contrast_by_hand():
    # places 0 and 2 of a row of four: S = (1, 0, -1, 0) and (-1, 0, 1, 0) through heads that change nothing
    loss = SpatialCorrelation((2,), learned=True, width=4, places=4, patch=4, tau=1.0)
    with torch.no_grad():  # ReLU(f), ReLU(-f), then their difference, and zeros
        first, second = loss.heads[0][0], loss.heads[0][2]
        first.weight.copy_(torch.cat([torch.eye(2), -torch.eye(2)])[:, :, None, None])
        second.weight.zero_()
        second.weight[:2].copy_(torch.cat([torch.eye(2), -torch.eye(2)], dim=1)[:, :, None, None])
    f = torch.tensor([[1.0, 0, -1, 0], [0, 2, 0, -2]]).reshape(1, 2, 1, 4)
    expected = -math.log(math.e / (math.e + math.exp(-1) + 2))  # cosines with the four places: 1, -1, 0, 0
    value = loss.contrast([f], [3 * f], seed=0, image_numbers=[0])
    torch.testing.assert_close(value, torch.tensor(expected))
    # the same image as further negatives: each of the four cosines counts three times
    value = loss.contrast([f], [3 * f], [2 * f], seed=0, image_numbers=[0])
    expected = -math.log(math.e / (3 * (math.e + math.exp(-1) + 2)))
    torch.testing.assert_close(value, torch.tensor(expected))


def test_heads_learn_to_find_places_again_in_other_colours():
    encoder = Encoder()
    loss = SpatialCorrelation(Encoder.channels, learned=True, width=8, places=24, patch=6)
    optimiser = torch.optim.Adam(loss.parameters(), lr=2e-3)
    history = []
    for step in range(40):
        numbers = {"seed": step, "image_numbers": [0, 1]}
        value = loss.contrast(encoder(images()), encoder(photometric(images(), **numbers)), **numbers)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        history.append(value.item())
    assert sum(history[-8:]) < 0.8 * sum(history[:8])


def test_fixed_loss_has_no_parameters():
    loss = SpatialCorrelation((4,))
    assert not list(loss.parameters())
    with pytest.raises(InvalidValueError, match="nothing to train"):
        loss.contrast([features()], [features()], **NUMBERS)


def test_heads_are_registered_before_use():
    loss = SpatialCorrelation((4, 6), learned=True, width=5)
    assert sum(p.numel() for p in loss.parameters()) == (4 + 6) * 5 + 2 * (5 + 25 + 5)


def test_heads_have_a_quarter_of_the_channels():
    heads = SpatialCorrelation((256, 64), learned=True).heads
    assert [[c.weight.shape[:2] for c in head.children() if hasattr(c, "weight")] for head in heads] == [
        [(64, 256), (64, 64)],
        [(32, 64), (32, 32)],
    ]


def test_autocast_computes_similarities_in_float32():
    loss = SpatialCorrelation((4,), places=20, patch=4)
    exact = loss([features()], [features(1)], **NUMBERS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss([features()], [features(1)], **NUMBERS), exact)
        rough = loss([features().bfloat16()], [features(1).bfloat16()], **NUMBERS)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, atol=0.01, rtol=0)


def test_constant_output_stays_finite():
    made = torch.full((2, 4, 9, 7), 3.0).requires_grad_()
    value = SpatialCorrelation((4,), places=20)([made], [features()], **NUMBERS)
    value.backward()
    torch.testing.assert_close(value, torch.tensor(1.0))
    assert made.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"places": 1}, "places must be at least 2"),
        ({"patch": 1}, "patch must be at least 2"),
        ({"width": 0}, "width must be at least 1"),
        ({"strongest": 0.0}, r"strongest must be in \(0, 1\]"),
        ({"tau": -1}, "tau must be positive"),
        ({"kind": "l2"}, "no distance 'l2'; choose from cosine, l1"),
    ],
)
def test_values_out_of_range(kwargs, message):
    with pytest.raises(InvalidValueError, match=message):
        SpatialCorrelation((4,), **kwargs)


def test_features_of_other_layers_are_refused():
    with pytest.raises(InvalidValueError, match=r"made for \(3,\) channels, got features of \(4,\)"):
        SpatialCorrelation((3,))([features()], [features()], **NUMBERS)


def triple(b=3):
    return torch.rand(b, 3, 6, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_no_change_is_the_identity():
    np.testing.assert_allclose(colour_map(1, 1, 0), np.eye(3), atol=1e-15)
    torch.testing.assert_close(photometric(triple(), seed=0, image_numbers=[0, 1, 2], strength=0), triple())


def test_a_third_of_a_turn_changes_red_to_green():
    np.testing.assert_allclose(colour_map(1, 1, 2 * math.pi / 3) @ [1, 0, 0], [0, 1, 0], atol=1e-12)


@pytest.mark.parametrize("hue", [0.0, 1.0, -2.5])
def test_greys_stay_grey_and_contrast_scales_them(hue):
    np.testing.assert_allclose(colour_map(1.5, 0.7, hue) @ [0.4, 0.4, 0.4], [0.6, 0.6, 0.6])


def test_without_saturation_all_is_grey():
    np.testing.assert_allclose(colour_map(2, 0, 0.3) @ [0.3, 0.6, 0.9], [1.2, 1.2, 1.2])


def test_turning_keeps_the_saturation():
    colour = np.array([0.9, -0.2, 0.1])
    turned = colour_map(1, 1, 0.8) @ colour
    assert turned.mean() == pytest.approx(colour.mean())
    assert turned.std() == pytest.approx(colour.std())


def test_every_pixel_of_an_image_gets_the_same_map():
    x = triple(1) * 0.3  # far from the clamp at this strength
    y = photometric(x, seed=1, image_numbers=[5], strength=0.2)
    pixels = torch.cat([x.flatten(2)[0], torch.ones(1, 30)]).T.double()
    solution = torch.linalg.lstsq(pixels, y.flatten(2)[0].T.double()).solution
    torch.testing.assert_close((pixels @ solution).T.float(), y.flatten(2)[0], atol=1e-5, rtol=0)
    assert solution[3].std() < 1e-6  # brightness is the same for all channels


def test_colours_depend_on_the_image_number_alone():
    x = triple(1).expand(3, -1, -1, -1)
    together = photometric(x, seed=1, image_numbers=[4, 5, 6])
    assert torch.equal(photometric(x[:1], seed=1, image_numbers=[6])[0], together[2])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(photometric(x, seed=2, image_numbers=[4, 5, 6]), together)


def test_values_stay_in_range():
    y = photometric(triple().sign(), seed=0, image_numbers=[0, 1, 2], strength=0.9)
    assert y.abs().max() == 1


@pytest.mark.parametrize("strength", [-0.1, 1.0])
def test_strength_out_of_range(strength):
    with pytest.raises(InvalidValueError, match=r"in \[0, 1\)"):
        photometric(triple(1), seed=0, image_numbers=[0], strength=strength)
