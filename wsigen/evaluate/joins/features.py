"""Fidelity, diversity and realism: distances and overlap of features, and how well they can be told apart."""

from __future__ import annotations

import numpy as np

from wsigen.evaluate.collect import heeding
from wsigen.evaluate.estimate import Estimate
from wsigen.evaluate.fidelity import fid, frechet_distance, kid, polynomial_mmd
from wsigen.evaluate.joins.sides import Comparison, Reals
from wsigen.evaluate.manifold import Manifold, manifold
from wsigen.evaluate.realism import two_sample_test
from wsigen.evaluate.results import Result

SUBSETS = 20
OVERLAP = ("precision", "density", "recall", "coverage")


def features_rows(c: Comparison) -> list[Result]:
    """Fréchet and kernel distance, precision, density, recall, coverage; and the classifier's AUC.

    Patches are crops of whole slides at one µm/px: with Inception's features the Fréchet distance is what
    Harb et al. 2024 call crop-FID, at every µm/px that the slides have, however much finer than
    their overview.
    """
    features = c.reals.patches.features
    ours, theirs = c.ours, c.theirs
    labels = {"generated_slides": ours.groups, "real_slides": theirs.groups, "seed": c.seed}
    distance, cautions = heeding(lambda: fid(ours.features, theirs.features, **labels))
    floors = c.reals.floor("fid", lambda i, j: [frechet_distance(features[i], features[j])], (0, np.inf))
    rows = c.rows(["fid"], _one(distance), floors, cautions)
    distance, cautions = heeding(lambda: kid(ours.features, theirs.features, subsets=SUBSETS, **labels))
    floors = c.reals.floor("kid", lambda i, j: [polynomial_mmd(features[i], features[j])])
    rows += c.rows(["kid"], _one(distance), floors, cautions)
    overlap, cautions = heeding(lambda: manifold(ours.features, theirs.features, **labels))
    floors = c.reals.floor("manifold", lambda i, j: _points(c.reals, i, j), (0, np.inf))
    rows += c.rows(OVERLAP, overlap and _four(overlap), floors, cautions)
    told, cautions = heeding(lambda: two_sample_test(ours.features, theirs.features, **labels))
    floors = c.reals.floor("auc", lambda i, j: [_auc(c.reals, i, j)], (0, 1))
    return rows + c.rows(["auc"], _one(told), floors, cautions)


def _one(estimate: Estimate | None) -> list[Estimate] | None:
    return None if estimate is None else [estimate]


def _four(found: Manifold) -> list[Estimate]:
    return [getattr(found, name) for name in OVERLAP]


def _points(reals: Reals, i: np.ndarray, j: np.ndarray) -> list[float]:
    features = reals.patches.features
    return [e.value for e in _four(manifold(features[i], features[j], draws=2))]


def _auc(reals: Reals, i: np.ndarray, j: np.ndarray) -> float:
    features, groups = reals.patches.features, np.asarray(reals.patches.groups)
    return two_sample_test(
        features[i],
        features[j],
        generated_slides=groups[i],
        real_slides=groups[j],
        draws=2,
        seed=reals.seed,
    ).value
