import torch

from wsigen.stain.style.network import EPSILON, LARGEST_GAIN, FeatureStats, adain_map, feature_stats


def stats(mean, std):
    return FeatureStats(torch.tensor([mean]), torch.tensor([std]))


def test_statistics_by_hand():
    x = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]], [[2.0, 2.0], [2.0, 2.0]]]])
    found = feature_stats(x)
    torch.testing.assert_close(found.mean, torch.tensor([[4.0, 2.0]]))
    expected = torch.tensor([[5.0, 0.0]]) + EPSILON  # ((-3)² + (-1)² + 1² + 3²) / 4, biased
    torch.testing.assert_close(found.std, expected.sqrt())


def test_weighted_statistics_are_those_of_the_positions_that_count():
    x = torch.randn(2, 3, 6, 8, generator=torch.Generator().manual_seed(0))
    weight = torch.zeros(2, 1, 6, 8)
    weight[:, :, 1:4, 2:5] = 0.25
    inside = feature_stats(x[:, :, 1:4, 2:5])
    found = feature_stats(x, weight)
    torch.testing.assert_close(found.mean, inside.mean)
    torch.testing.assert_close(found.std, inside.std)


def test_half_weights_by_hand():
    x = torch.tensor([[[[0.0, 4.0, 100.0]]]])
    found = feature_stats(x, torch.tensor([[[[3.0, 1.0, 0.0]]]]))
    torch.testing.assert_close(found.mean, torch.tensor([[1.0]]))
    torch.testing.assert_close(found.std, torch.tensor([[(0.75 * 1 + 0.25 * 9 + EPSILON) ** 0.5]]))


def test_statistics_are_float32_of_half_precision_features():
    x = torch.full((1, 1, 64, 64), 300.0, dtype=torch.bfloat16)
    found = feature_stats(x)
    assert found.mean.dtype == torch.float32
    torch.testing.assert_close(found.mean, torch.tensor([[300.0]]))


def test_adain_by_hand():
    moved = adain_map(stats([4.0, 0.0], [2.0, 1.0]), stats([10.0, -1.0], [3.0, 0.5]))
    x = torch.tensor([[[[4.0, 6.0]], [[0.0, 2.0]]]])
    torch.testing.assert_close(moved(x), torch.tensor([[[[10.0, 13.0]], [[-1.0, 0.0]]]]))


def test_transferred_features_have_the_statistics_of_the_style():
    generator = torch.Generator().manual_seed(0)
    content = 2 * torch.randn(2, 5, 9, 7, generator=generator) + 1
    style = torch.randn(2, 5, 4, 11, generator=generator) - 3
    wanted = feature_stats(style)
    found = feature_stats(adain_map(feature_stats(content), wanted)(content))
    torch.testing.assert_close(found.mean, wanted.mean)
    torch.testing.assert_close(found.std, wanted.std, atol=1e-4, rtol=1e-4)


def test_strength_blends_with_the_unchanged_features():
    content, style = stats([1.0], [2.0]), stats([5.0], [1.0])
    x = torch.linspace(-2, 2, 12).reshape(1, 1, 3, 4)
    full = adain_map(content, style)(x)
    torch.testing.assert_close(adain_map(content, style, 0.25)(x), 0.75 * x + 0.25 * full)
    assert torch.equal(adain_map(content, style, 0.0)(x), x)


def test_like_itself_changes_nothing_at_all():
    same = feature_stats(torch.randn(1, 6, 5, 5, generator=torch.Generator().manual_seed(0)))
    x = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    assert torch.equal(adain_map(same, same)(x), x)


def test_a_channel_that_is_dead_in_the_thumbnail_is_not_blown_up():
    dead = feature_stats(torch.zeros(1, 1, 4, 4))
    alive = stats([7.0], [2.0])
    moved = adain_map(dead, alive)
    assert moved.scale.item() == LARGEST_GAIN
    assert moved(torch.zeros(1, 1, 2, 2)).eq(7.0).all()
