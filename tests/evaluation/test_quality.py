"""Quality measures on edges, blocks and noises whose score is known by hand, and their order."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from scipy.ndimage import correlate1d
from scipy.stats import gennorm

from tests.synthetic import he_image
from wsigen.errors import InvalidValueError
from wsigen.evaluation.quality import (
    Niqe,
    _asymmetric_gaussian,
    _impaired,
    _noisy,
    mscn,
    niqe_blocks,
    piqe,
    sobel,
)


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(np.clip(np.round(values), 0, 255).astype(np.uint8)[..., None], 3, axis=-1)


def degraded(image: np.ndarray, how: str) -> np.ndarray:
    if how == "blur":
        return cv2.GaussianBlur(image, (0, 0), 1.5)
    if how == "noise":
        noise = np.random.default_rng(1).normal(0, 20, image.shape[:2])[..., None]
        return np.clip(image + noise, 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 5])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def test_sobel_of_an_edge_by_hand():
    rising = np.where(np.arange(40) >= 20, 110.0, 100.0)
    image = np.broadcast_to(rising, (30, 40))
    assert sobel(grey(image)) == pytest.approx(0.5 * 4 * 10 * 2 / 40)  # two columns of 40
    assert sobel(grey(image.T)) == sobel(grey(image))
    assert sobel(grey(image[:, ::-1])) == 0  # falling edges clip
    steep = np.where(np.arange(40) >= 20, 200.0, 0.0)
    assert sobel(grey(np.broadcast_to(steep, (30, 40)))) == pytest.approx(0.5 * 255 * 2 / 40)


def test_mscn_is_normalised_locally():
    rng = np.random.default_rng(0)
    quiet, loud = rng.normal(100, 5, (128, 128)), rng.normal(100, 25, (128, 128))
    assert mscn(loud)[0].std() == pytest.approx(mscn(quiet)[0].std(), rel=0.25)
    assert abs(mscn(loud)[0].mean()) < 0.02
    assert np.abs(mscn(np.full((32, 32), 7))[0]).max() < 1e-12


def test_piqe_by_hand():
    assert piqe(grey(np.full((64, 64), 100))) == 100
    block = np.random.default_rng(2).normal(0, 1, (1, 16, 16))
    assert not _impaired(block)[0]
    flat_side = block.copy()
    flat_side[0, 5:11, 15] = 0.3
    assert _impaired(flat_side)[0]
    flat_side[0, [4, 10], 15] = 3
    assert not _impaired(flat_side)[0]
    assert _noisy(block)[0]  # deviation 1, ratio about 1: β about 0
    assert not _noisy(0.4 * block)[0]  # deviation 0.4, ratio still 1: β = 0.6


def test_piqe_counts_what_its_blocks_count():
    """White noise: every block active and noisy, none impaired, so the score is that of the mean variance."""
    image = grey(np.random.default_rng(3).normal(128, 30, (128, 128)))
    blocks = mscn(image[..., 0])[0].reshape(8, 16, 8, 16).swapaxes(1, 2).reshape(-1, 256)
    variance = blocks.var(axis=1, ddof=1)
    assert piqe(image) == pytest.approx(100 * (variance.sum() + 1) / 65, rel=0.02)


def published_piqe(rgb: np.ndarray) -> float:
    """Venkatanath et al. 2015, block by block, as MATLAB's piqe: luminance of BT.601, σ of n - 1, C = 1."""
    image = np.round(rgb @ [0.298936, 0.587043, 0.114021])
    kernel = np.exp(-0.5 * (np.arange(-3, 4) / (7 / 6)) ** 2)

    def smooth(x: np.ndarray) -> np.ndarray:
        for axis in (0, 1):
            x = correlate1d(x, kernel / kernel.sum(), axis, mode="nearest")
        return x

    mean = smooth(image)
    mscn = (image - mean) / (np.sqrt(np.abs(smooth(image**2) - mean**2)) + 1)
    score, active = 0.0, 0
    for y, x in np.ndindex(mscn.shape[0] // 16, mscn.shape[1] // 16):
        block = mscn[16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        variance = block.var(ddof=1)
        if variance <= 0.1:
            continue
        active += 1
        sides = (block[0], block[15], block[:, 0], block[:, 15])
        if any(side[i : i + 6].std(ddof=1) < 0.1 for side in sides for i in range(11)):
            score += 1 - variance
        rest = np.delete(np.delete(block, 7, 1), 8, 1)  # of the 15 columns that are left
        ratio, deviation = block[:, 7:9].std(ddof=1) / rest.std(ddof=1), np.sqrt(variance)
        if deviation > 2 * abs(deviation - ratio) / max(deviation, ratio):
            score += variance
    return 100 * (score + 1) / (active + 1)


@pytest.mark.parametrize("how", [None, "blur", "noise", "jpeg"])
def test_piqe_is_the_published_one(how):
    image = he_image(256, seed=3)
    image = degraded(image, how) if how else image
    assert piqe(image) == pytest.approx(published_piqe(image), abs=0.02)  # grey levels can round otherwise


def test_piqe_finds_compression_and_noise_worse():
    rng = np.random.default_rng(4)
    scales = [s * cv2.GaussianBlur(rng.standard_normal((256, 256)), (0, 0), s) for s in (1, 2, 4, 8, 16)]
    image = grey(128 + 25 * np.sum(scales, axis=0))
    clean = piqe(image)
    assert piqe(degraded(image, "jpeg")) > clean + 10
    assert piqe(degraded(image, "noise")) > clean + 10
    assert 0 < clean < 100


@pytest.mark.parametrize("shape", [0.8, 1.0, 2.0, 4.0])
def test_generalised_gaussians_are_recovered(shape):
    x = gennorm.rvs(shape, scale=2.0, size=(1, 400, 500), random_state=0)
    found, left, right = _asymmetric_gaussian(x)
    assert found[0] == pytest.approx(shape, rel=0.04)
    assert left[0] == pytest.approx(2, rel=0.04)
    assert right[0] == pytest.approx(2, rel=0.04)
    x[x > 0] *= 3
    _, left, right = _asymmetric_gaussian(x)
    assert right[0] / left[0] == pytest.approx(3, rel=0.02)


@pytest.fixture(scope="module")
def fitted() -> Niqe:
    return Niqe.fit([he_image(384, seed=s)[48:-48, 48:-48] for s in range(12)])


def test_niqe_prefers_what_it_was_fitted_on(fitted):
    image = he_image(384, seed=50)[48:-48, 48:-48]
    clean = fitted.score(image)
    for how in ("blur", "noise", "jpeg"):
        assert fitted.score(degraded(image, how)) > 1.3 * clean
    many = [he_image(384, seed=s)[48:-48, 48:-48] for s in (51, 52, 53)]
    assert fitted.score(many) < clean


def test_niqe_is_the_distance_between_gaussians():
    """One deviation along one axis of a covariance that both share is a distance of 1."""
    image = grey(np.random.default_rng(5).normal(128, 20, (768, 768)))
    blocks = niqe_blocks(image)[0]
    mean, covariance = blocks.mean(axis=0), np.cov(blocks, rowvar=False)
    variances, axes = np.linalg.eigh(covariance)
    assert len(blocks) == 64
    assert Niqe(mean, covariance).score(image) == 0
    moved = Niqe(mean + 3 * np.sqrt(variances[-1]) * axes[:, -1], covariance)
    assert moved.score(image) == pytest.approx(3, rel=1e-6)


def test_niqe_says_what_it_needs(fitted):
    with pytest.raises(InvalidValueError, match="more than 36 sharp blocks"):
        Niqe.fit([he_image(96, seed=0)])
    with pytest.raises(InvalidValueError, match="at least 96"):
        fitted.score(he_image(95))
    assert np.isnan(fitted.score(grey(np.full((96, 96), 200))))
    with pytest.raises(InvalidValueError, match="uint8"):
        sobel(np.zeros((8, 8), np.uint8))


def test_turning_an_image_leaves_sobel_of_symmetric_edges():
    board = grey(128 + 40 * np.kron(np.indices((8, 8)).sum(0) % 2 * 2 - 1, np.ones((8, 8))))
    assert sobel(np.ascontiguousarray(np.rot90(board))) == pytest.approx(sobel(board), rel=0.05)
    assert sobel(cv2.GaussianBlur(board, (0, 0), 2)) < 0.8 * sobel(board)


def test_piqe_of_odd_sizes_is_that_of_the_repeated_edge():
    image = grey(np.random.default_rng(6).normal(128, 30, (61, 75)))
    assert 0 < piqe(image) <= 110
    assert piqe(image) == pytest.approx(piqe(image[:48, :64]), abs=25)


def test_niqe_grows_with_the_flaw(fitted):
    image = he_image(384, seed=60)[48:-48, 48:-48]
    scores = [fitted.score(cv2.GaussianBlur(image, (0, 0), s) if s else image) for s in (0, 0.8, 1.5, 3)]
    assert scores == sorted(scores)
