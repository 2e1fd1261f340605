"""Warnings of what networks were not trained for."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from wsigen.nn.model import Model
from wsigen.sampling.spec import AnySpec, UpscaleSpec, diffused
from wsigen.synthesis.job import SlideJob

log = logging.getLogger(__name__)


def warn_of_unusual(job: SlideJob, specs: Sequence[AnySpec], model: Model) -> None:
    """Warn where stages have patches or µm/px that their network has not seen.

    Args:
        job: the slide.
        specs: of its stages.
        model: the networks.
    """
    sampled = diffused(specs)
    upscaled = [spec for spec in specs if isinstance(spec, UpscaleSpec)]
    trained = model.denoiser.config["patch_sizes"]
    for patch in sorted({spec.patch for spec in sampled} - set(trained)):
        log.warning(
            "%d px in %d stages means patches of %d px; the model was trained on %s px, expect less of it",
            job.size,
            job.stages,
            patch,
            ", ".join(map(str, trained)),
        )
    _warn_of_scale("stages", [spec.mpp for spec in sampled], model.denoiser.config["mpp_range"])
    if upscaled and model.upscaler:
        scales, seen = [spec.mpp for spec in upscaled], model.upscaler.config["mpp_range"]
        _warn_of_scale("stages by the upscaler", scales, seen)


def _warn_of_scale(what: str, scales: Sequence[float], trained: Sequence[float]) -> None:
    low, high = trained
    if scales and (min(scales) < low * 0.99 or max(scales) > high * 1.01):
        log.warning(
            "%s run from %g to %g µm/px; the model was trained on %g to %g, expect less of it outside",
            what,
            max(scales),
            min(scales),
            low,
            high,
        )
