"""Octaves against what defines them, and coefficients against the properties that they are chosen for."""

import pytest
import torch

from wsigen.diffusion.precondition import precondition
from wsigen.diffusion.spectrum import combine, image_std, merge, noise_std, split

STD = (0.1, 0.2, 0.05, 0.6)
SIGMA = torch.tensor([0.01, 0.3, 4.0, 60.0])


def drawn(std=STD, batch=4, size=128, seed=0):
    """Gaussian images whose octaves have the given strengths, nearly."""
    generator = torch.Generator().manual_seed(seed)
    parts = split(torch.randn(batch, 3, size, size, generator=generator), len(std) - 1)
    return merge([s / n * p for s, n, p in zip(std, noise_std(len(std) - 1), parts, strict=True)])


@pytest.mark.parametrize("octaves", [0, 1, 3, 5])
def test_octaves_add_up_to_the_image(octaves):
    x = torch.randn(2, 3, 32, 64, generator=torch.Generator().manual_seed(1))
    parts = split(x, octaves)
    assert [tuple(p.shape[2:]) for p in parts] == [(32 >> k, 64 >> k) for k in range(octaves + 1)]
    torch.testing.assert_close(merge(parts), x)


def test_a_constant_image_has_no_octaves():
    parts = split(torch.full((1, 3, 16, 16), 0.7), 3)
    assert all(p.abs().max() < 1e-6 for p in parts[:-1])
    torch.testing.assert_close(parts[-1], torch.full((1, 3, 2, 2), 0.7))


def test_strength_of_noise_is_what_noise_has():
    noise = torch.randn(8, 3, 256, 256, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(image_std(noise, 4), noise_std(4), rtol=0.03, atol=0)


def test_detail_of_one_wavelength_lies_in_its_octave():
    x = torch.arange(64) // 4 % 2  # 8 px: neither the finest octave nor what remains below three
    wave = (2.0 * x - 1).expand(1, 3, 64, 64)
    strengths = image_std(wave, 3)
    assert max(range(4), key=strengths.__getitem__) in (1, 2)
    assert strengths[3] < 1e-6


def test_without_octaves_it_is_edm():
    x, F_x = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(3))
    c = precondition(SIGMA[:, None, None, None], 0.5)
    torch.testing.assert_close(combine(x, F_x, SIGMA, (0.5,)), c.c_skip * x + c.c_out * F_x)


def test_without_the_network_the_error_is_less_than_edms():
    clean = drawn()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(4))
    x = clean + SIGMA[:, None, None, None] * noise
    nothing, std = torch.zeros_like(x), image_std(clean, 3)
    whole = float(clean.square().mean().sqrt())
    ours, edms = (
        (combine(x, nothing, SIGMA, s) - clean).square().mean(dim=(1, 2, 3)) for s in (std, (whole,))
    )
    assert (ours < 1.01 * edms).all()
    assert ours[1] < 0.5 * edms[1]  # where detail drowns and structure does not


def test_images_of_a_batch_have_coefficients_of_their_own():
    x, F_x = torch.randn(2, 4, 3, 16, 16, generator=torch.Generator().manual_seed(7))
    together = combine(x, F_x, SIGMA, STD)
    for i in range(4):
        alone = combine(x[i : i + 1], F_x[i : i + 1], SIGMA[i : i + 1], STD)
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("level", [0.01, 0.3, 4.0, 60.0])
def test_white_images_have_edms_coefficients_in_every_octave(level):
    # octaves as strong as those of white images of σ_data: the filter is EDM's c_skip, whatever the split
    x, F_x = torch.randn(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(8))
    sigma, white = torch.full((2,), level), tuple(0.5 * n for n in noise_std(3))
    torch.testing.assert_close(combine(x, F_x * 0, sigma, white), combine(x, F_x * 0, sigma, (0.5,)))
    noise_gain = combine(x * 0, F_x, sigma, white)
    parts = [n * p for n, p in zip(noise_std(3), split(F_x, 3), strict=True)]
    torch.testing.assert_close(noise_gain, combine(x * 0, merge(parts), sigma, (0.5,)))
