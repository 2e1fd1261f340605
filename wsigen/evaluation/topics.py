"""Every metric of the report, and the questions that its sections answer."""

from __future__ import annotations

from wsigen.evaluation import (
    copies,
    fidelity,
    pairs,
    phase,
    privacy,
    realism,
    samples,
    scales,
    seam_classifier,
    seams,
    spectrum,
    stains,
    tilings,
)
from wsigen.evaluation.verdict import Metric

# By key, in the order of the report
METRICS: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        *(*fidelity.METRICS, *realism.METRICS, *spectrum.METRICS, *phase.METRICS, *stains.METRICS),
        *(*samples.METRICS, *scales.METRICS),
        *(seams.SEAM, seams.EDGE, seams.STRONGEST_LINE, seam_classifier.VISIBILITY, seams.JPEG),
        *(*tilings.METRICS, copies.COPIES, *privacy.METRICS, copies.OVERVIEW_COPIES, copies.NEAR_SLIDES),
        *pairs.METRICS,
    )
}

SECTIONS = {
    "fidelity": "Do patches look real?",
    "diversity": "Is everything there?",
    "realism": "Can a classifier tell?",
    "spectrum": "Is detail as fine as it should be?",
    "phase": "Is detail in step?",
    "stain": "Are the colours right?",
    "quality": "Sharpness and naturalness",
    "nuclei": "Are nuclei as many and as large?",
    "scale": "Do the scales agree?",
    "seams": "Do seams show?",
    "privacy": "Are training slides given away?",
    "pairs": "Does the IHC slide fit?",
}
INTRODUCTIONS = {
    "fidelity": "Features of patches of each set beside those of real slides. Patches are crops of whole "
    "slides, taken at each µm/px from wherever tissue is, so that detail is judged at every scale, and not "
    "only the overview: with Inception's features the Fréchet distance at a µm/px is the crop-FID of Harb et "
    "al. (2024). Fréchet and kernel distance compare the sets as wholes; precision and density ask of each "
    "patch whether it could be real.",
    "diversity": "A set can look real and show the same few things over and over. Recall and coverage ask "
    "of each real patch whether the set has one like it.",
    "realism": "A linear classifier learns to tell the set from real patches, and is tested on patches "
    "(of other slides, where there are several) that it has not seen.",
    "spectrum": "Power of detail by wavelength, as a multiple of that of the real slides.",
    "phase": "No spectrum sees whether waves are in step, as outlines, fibres and nuclei are. Noise with the "
    "spectrum of tissue has no edges and little coherence; nuclei embossed from one side have relief.",
    "stain": "Amounts of stain by colour deconvolution, in optical density, and hues.",
    "quality": "Measures of pictures that know nothing of tissue. None of them sees seams. Rows of IHC "
    "slides stand beside real slides of their stain.",
    "nuclei": "Counted and measured by classical segmentation, in the same way on both sides; good for "
    "comparing, not for counting.",
    "scale": "A slide's finest detail, averaged, should be its overview. A slide that wsigen made is "
    "compared with the overview that it grew from, which lies beside it; and every slide with the one "
    "that its file stores, where rounding and compression alone disagree.",
    "seams": "The step across the lines on which a slide was joined, beside that across all other lines, "
    "within windows of whole slides. IHC slides stand beside the slides that they were translated from. "
    "Slides of one name in two sets are compared pixel by pixel: one image made with other tiles must not "
    "differ.",
    "privacy": "How near the patches of a set come to real ones, beside how near patches of different real "
    "slides come to one another. Neighbours on the same slide (or case) do not count between real and real.",
    "pairs": "The IHC slide of each H&E slide, at the same places: are nuclei still where they were, and is "
    "the stain that of real IHC slides?",
}


def of_section(section: str) -> list[str]:
    """Return the keys of a section's metrics, in their order."""
    return [key for key, metric in METRICS.items() if metric.section == section]
