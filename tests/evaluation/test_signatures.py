"""Copies are found through every disguise, at any place; unrelated patches are far."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from tests.evaluation.slides import signatures_of
from tests.synthetic import he_image
from wsigen.errors import InvalidValueError
from wsigen.evaluation.signatures import (
    SIDE,
    local_contrast,
    nearest_signatures,
    signature,
    signature_distances,
    turned,
)


def recoloured(patch: np.ndarray) -> np.ndarray:
    """Other stains, less haematoxylin and more eosin."""
    density = -np.log(np.maximum(patch, 1) / 255)
    old = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
    new = np.array([[0.50, 0.75, 0.43], [0.20, 0.90, 0.39], [0.27, 0.57, 0.78]])
    return np.clip(255 * np.exp(-(density @ np.linalg.inv(old) * (0.8, 1.2, 1)) @ new), 0, 255).astype(
        np.uint8
    )


def jpeg(patch: np.ndarray) -> np.ndarray:
    return cv2.imdecode(cv2.imencode(".jpg", patch, [cv2.IMWRITE_JPEG_QUALITY, 30])[1], cv2.IMREAD_COLOR)


DISGUISES = {
    "itself": lambda p: p,
    "flipped": lambda p: p[:, ::-1],
    "turned": lambda p: np.rot90(p, 3),
    "both": lambda p: np.rot90(p[::-1]),
    "recoloured": recoloured,
    "blurred": lambda p: cv2.GaussianBlur(p, (0, 0), 2),
    "noisy": lambda p: np.clip(p + np.random.default_rng(0).normal(0, 15, p.shape), 0, 255).astype(np.uint8),
    "compressed": jpeg,
    "faded": lambda p: (255 - 0.5 * (255.0 - p)).astype(np.uint8),
    "everything": lambda p: jpeg(cv2.GaussianBlur(recoloured(np.rot90(p[:, ::-1]).copy()), (0, 0), 1.5)),
}


@pytest.fixture(scope="module")
def real() -> np.ndarray:
    """Patches of three slides, 12 each."""
    slides = [he_image(640, seed=s)[130:510, 130:510] for s in (1, 2, 3)]
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 380 - 128, (12, 2))
    return np.stack([slide[y : y + 128, x : x + 128] for slide in slides for y, x in corners])


@pytest.mark.parametrize("name", DISGUISES)
def test_copies_are_found_through_disguises(real, name):
    chosen = [0, 13, 26]
    copies = signatures_of(np.ascontiguousarray(DISGUISES[name](real[i])) for i in chosen)
    nearest = nearest_signatures(copies, signatures_of(real))
    np.testing.assert_array_equal(nearest.index, chosen)
    assert nearest.distance.max() < 0.12


def test_other_slides_are_far(real):
    labels = np.repeat([0, 1, 2], 12)
    prints = signatures_of(real)
    apart = nearest_signatures(prints, prints, query_slides=labels, gallery_slides=labels)
    assert apart.distance.min() > 0.35
    assert (labels[apart.index] != labels).all()
    assert nearest_signatures(prints, prints).distance.max() < 1e-5  # each finds itself


def test_half_a_cell_of_shift_is_still_a_copy():
    image = he_image(640, seed=4)[130:510, 130:510]
    there, moved = signature(image[:256, :256]), signature(image[4:260, 4:260])
    assert signature_distances(there[None], moved[None])[0][0, 0] < 0.3


@pytest.mark.parametrize("orientation", range(8))
def test_the_orientation_found_undoes_the_disguise(real, orientation):
    disguised = turned(real[5, ..., 0][None], orientation)[0]
    nearest = nearest_signatures(
        signature(np.repeat(disguised[..., None], 3, -1))[None], signatures_of(real[5:6])
    )
    back = turned(disguised[None], int(nearest.orientation[0]))[0]
    np.testing.assert_array_equal(back, real[5, ..., 0])


def test_fingerprints_are_unit_vectors_and_blank_patches_match_nothing():
    prints = signatures_of([he_image(64, seed=1), np.full((64, 64, 3), 240, np.uint8)])
    assert np.linalg.norm(prints[0]) == pytest.approx(1, abs=1e-6)
    assert prints[0].mean() == pytest.approx(0, abs=1e-7)
    assert not prints[1].any()
    assert signature_distances(prints, prints)[0][1] == pytest.approx([1, 1])


def test_chunks_do_not_matter(real):
    prints = signatures_of(real)
    many = np.concatenate([prints] * 8)
    nearest = nearest_signatures(many, prints[:7])
    np.testing.assert_array_equal(nearest.index[:36], nearest.index[36:72])
    np.testing.assert_allclose(nearest.distance[252:288], nearest.distance[:36], atol=1e-6)


def test_bad_sizes_are_named():
    with pytest.raises(InvalidValueError, match="at least 32 px"):
        signature(np.zeros((31, 64, 3), np.uint8))
    with pytest.raises(InvalidValueError, match="no patches"):
        nearest_signatures(np.zeros((1, SIDE, SIDE), np.float32), np.zeros((0, SIDE, SIDE), np.float32))
    with pytest.raises(InvalidValueError, match="uint8"):
        local_contrast(np.zeros((40, 40, 3), np.float32))


def test_the_eight_orientations_are_a_group():
    square = np.arange(9.0).reshape(1, 3, 3)
    every = [turned(square, k) for k in range(8)]
    assert len({a.tobytes() for a in every}) == 8
    for a in every:
        assert {turned(a, k).tobytes() for k in range(8)} == {b.tobytes() for b in every}


def test_distances_are_symmetric(real):
    prints = signatures_of(real[::4])
    there, back = (signature_distances(a, b)[0] for a, b in ((prints, prints[::-1]), (prints[::-1], prints)))
    np.testing.assert_allclose(there, back.T, atol=1e-5)
    assert 0 <= there.min() <= there.max() <= 2


@pytest.mark.parametrize("size", [32, 50, 200])
def test_size_does_not_matter(size):
    image = he_image(640, seed=9)[200:400, 200:400]
    other = cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    distances, _ = signature_distances(signature(image)[None], signature(other)[None])
    assert distances[0, 0] < 0.02
