"""Every measure of the report: what it is called, what it is, and what good looks like in plain words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

ANY = (-math.inf, math.inf)
Better = Literal["lower", "higher", "same"]

SECTIONS = {
    "fidelity": "Do patches look real?",
    "diversity": "Is everything there?",
    "realism": "Can a classifier tell?",
    "spectrum": "Is detail as fine as it should be?",
    "stain": "Are the colours right?",
    "quality": "Sharpness and naturalness",
    "nuclei": "Are nuclei as many and as large?",
    "scale": "Do the scales agree?",
    "seams": "Do joints show?",
    "privacy": "Are training slides given away?",
    "pairs": "Does the IHC twin fit?",
}


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        section: of `SECTIONS`.
        title: what the tables call it.
        better: "lower", "higher", or "same" as between real and real.
        good: one plain sentence: what good looks like.
        source: where its definition is from.
        unit: of the value.
        bounds: where intervals end at the latest.
    """

    section: str
    title: str
    better: Better
    good: str
    source: str
    unit: str = ""
    bounds: tuple[float, float] = (0.0, math.inf)


MEASURES: dict[str, Measure] = {
    "fid": Measure(
        "fidelity",
        "Fréchet distance",
        "lower",
        "Good is as low as between two halves of the real slides: then means and spreads of features agree.",
        "Heusel et al. 2017, eq. 6; with Inception's features it is the FID",
    ),
    "kid": Measure(
        "fidelity",
        "Kernel distance",
        "lower",
        "Good is as low as between real and real, about 0; it is unbiased, so few patches do not raise it.",
        "Bińkowski et al. 2018, section 4",
        bounds=ANY,
    ),
    "precision": Measure(
        "fidelity",
        "Precision",
        "higher",
        "Good is as high as between real and real: that share of the patches lies among real ones.",
        "Kynkäänniemi et al. 2019, eq. 1 and 2, k = 3",
        bounds=(0.0, 1.0),
    ),
    "density": Measure(
        "fidelity",
        "Density",
        "higher",
        "Good is about 1, as between real and real: patches lie where real ones are dense, not at outliers.",
        "Naeem et al. 2020, eq. 4, k = 5",
    ),
    "recall": Measure(
        "diversity",
        "Recall",
        "higher",
        "Good is as high as between real and real: that share of the real patches has its like.",
        "Kynkäänniemi et al. 2019, eq. 1 and 2, k = 3",
        bounds=(0.0, 1.0),
    ),
    "coverage": Measure(
        "diversity",
        "Coverage",
        "higher",
        "Good is as high as between real and real: real patches with a patch of the set close by.",
        "Naeem et al. 2020, eq. 6, k = 5",
        bounds=(0.0, 1.0),
    ),
    "auc": Measure(
        "realism",
        "Classifier's AUC",
        "lower",
        "Good is as low as between real and real, 0.5 being a coin toss; at 1 the set is always recognised.",
        "classifier two-sample test, Lopez-Paz & Oquab 2017, with a shrunk linear discriminant",
        bounds=(0.0, 1.0),
    ),
    "power": Measure(
        "spectrum",
        "Power",
        "same",
        "Good is 1 in every octave: below 1 in the finest is blur, above 1 is noise or a pattern.",
        "radial power spectrum, Durall et al. 2020, eq. 3 and 4",
    ),
    "checkerboard": Measure(
        "spectrum",
        "Checkerboard",
        "same",
        "Good is 1: above 1 the network's upsampling has left a pattern of 2 px.",
        "power at the Nyquist lines relative to the finest octave",
    ),
    "haematoxylin_mean": Measure(
        "stain",
        "Haematoxylin, mean",
        "same",
        "Good is as in the real slides: neither paler nor darker nuclei.",
        "Ruifrok & Johnston 2001",
        "OD",
        bounds=ANY,
    ),
    "haematoxylin_p90": Measure(
        "stain",
        "Haematoxylin, 90th percentile",
        "same",
        "Good is as in the real slides: the darkest tenth is what nuclei are made of.",
        "Ruifrok & Johnston 2001",
        "OD",
        bounds=ANY,
    ),
    "haematoxylin_kl": Measure(
        "stain",
        "Haematoxylin, KL(real ‖ set)",
        "lower",
        "Good is as low as between real and real: amounts of stain are distributed alike.",
        "Kullback-Leibler divergence of density histograms, nats",
        "nats",
    ),
    "eosin_mean": Measure(
        "stain",
        "Eosin, mean",
        "same",
        "Good is as in the real slides: neither paler nor deeper.",
        "Ruifrok & Johnston 2001",
        "OD",
        bounds=ANY,
    ),
    "brown_mean": Measure(
        "stain",
        "DAB, mean",
        "same",
        "Good is as in the real slides: neither paler nor deeper.",
        "Ruifrok & Johnston 2001",
        "OD",
        bounds=ANY,
    ),
    "eosin_p90": Measure(
        "stain",
        "Eosin, 90th percentile",
        "same",
        "Good is as in the real slides.",
        "Ruifrok & Johnston 2001",
        "OD",
        bounds=ANY,
    ),
    "brown_p90": Measure(
        "stain",
        "DAB, 90th percentile",
        "same",
        "Good is as in the real slides.",
        "Ruifrok & Johnston 2001",
        "OD",
        bounds=ANY,
    ),
    "eosin_kl": Measure(
        "stain",
        "Eosin, KL(real ‖ set)",
        "lower",
        "Good is as low as between real and real.",
        "Kullback-Leibler divergence of density histograms, nats",
        "nats",
    ),
    "brown_kl": Measure(
        "stain",
        "DAB, KL(real ‖ set)",
        "lower",
        "Good is as low as between real and real.",
        "Kullback-Leibler divergence of density histograms, nats",
        "nats",
    ),
    "hue": Measure(
        "stain",
        "Hue correlation",
        "higher",
        "Good is as high as between real and real, about 1: the same hues, equally often.",
        "histogram correlation of KIN (Ho et al. 2022) and DN: HSV hue, 10 bins",
        bounds=(-1.0, 1.0),
    ),
    "niqe": Measure(
        "quality",
        "NIQE",
        "lower",
        "Good is as low as between real and real: local contrast is distributed as in real patches.",
        "Mittal et al. 2013, its Gaussian fitted on the real patches",
    ),
    "piqe": Measure(
        "quality",
        "PIQE",
        "same",
        "Good is as in the real slides: higher is blockier or noisier, lower is smoother.",
        "Venkatanath et al. 2015",
    ),
    "sobel": Measure(
        "quality",
        "Sobel gradient",
        "same",
        "Good is as in the real slides: lower is blurred, higher is oversharp.",
        "as in KIN (Ho et al. 2022): luminance, 3 × 3",
        "grey levels",
    ),
    "nuclei_density": Measure(
        "nuclei",
        "Nuclei",
        "same",
        "Good is as many as in the real slides.",
        "watershed on haematoxylin, no network involved",
        "per mm²",
    ),
    "nuclei_area": Measure(
        "nuclei",
        "Median area of a nucleus",
        "same",
        "Good is as large as in the real slides.",
        "watershed on haematoxylin",
        "µm²",
    ),
    "nuclei_sizes": Measure(
        "nuclei",
        "Distance of sizes",
        "lower",
        "Good is as low as between real and real: by so much a nucleus is of another size, on average.",
        "Wasserstein distance of the areas",
        "µm²",
    ),
    "scale_psnr": Measure(
        "scale",
        "Overview against reduced detail, PSNR",
        "higher",
        "Good is as high as in real slides: what is seen from afar is what is there close by.",
        "finest level at 1 µm/px or so, reduced by area, against the stored overview",
        "dB",
    ),
    "scale_correlation": Measure(
        "scale",
        "Overview against reduced detail, correlation",
        "higher",
        "Good is 1: the same picture.",
        "Pearson correlation of grey levels",
        bounds=(-1.0, 1.0),
    ),
    "scale_detail": Measure(
        "scale",
        "Overview against reduced detail, contrast of detail",
        "same",
        "Good is 1: below 1 the detail is blurrier than its overview.",
        "ratio of standard deviations after the local mean is taken out",
    ),
    "seam": Measure(
        "seams",
        "Step at joints",
        "lower",
        "Good is 1, as on real slides where nothing is joined: joints step no more than any other line.",
        "step8: RMS over 64 px segments of the detrended difference of 8 px strips, E(joint) / median E",
    ),
    "strongest_line": Measure(
        "seams",
        "Step at the strongest line",
        "lower",
        "Good is as low as on real slides: no line of that spacing stands out.",
        "step8, the largest E(φ) / median E over all phases φ",
    ),
    "joint_auc": Measure(
        "seams",
        "Joints, AUC of a small network",
        "lower",
        "Good is 0.5, as on real slides: crops over joints cannot be told from crops within tiles.",
        "a convolutional network trained on half of the windows and tested on the others, in turn",
        bounds=(0.0, 1.0),
    ),
    "jpeg": Measure(
        "seams",
        "JPEG blocks",
        "lower",
        "Good is no more than in real slides; 1 is none.",
        "jump across multiples of 8 px at the slide's own µm/px",
    ),
    "copies": Measure(
        "privacy",
        "Copies of real places",
        "lower",
        "Good is 0: no patch is a copy of a real place, not even turned, flipped, recoloured or blurred.",
        "searched for at every place of the slides; a copy is nearer than 0.3, and than 0.6 times the "
        "1 % quantile of unrelated real patches",
        "%",
        bounds=(0.0, 100.0),
    ),
    "near_pixels": Measure(
        "privacy",
        "Distance to the nearest real patch, pixels",
        "higher",
        "Good is no less than between patches of different real slides.",
        "median of 1 - correlation of fingerprints at the best of 8 orientations",
    ),
    "near_features": Measure(
        "privacy",
        "Distance to the nearest real patch, features",
        "higher",
        "Good is no less than between patches of different real slides.",
        "median Euclidean distance of standardised features",
    ),
    "authenticity": Measure(
        "privacy",
        "AuthPct",
        "higher",
        "Good is as high as for held-out real patches: they are no nearer to a real patch than others.",
        "Alaa et al. 2022; patches of one slide are not compared",
        "%",
        bounds=(0.0, 100.0),
    ),
    "copying": Measure(
        "privacy",
        "C_T test of data-copying",
        "higher",
        "Good is about 0 or above; below −3 they are nearer to the training slides than real ones.",
        "Meehan et al. 2020, eq. 2 and 3",
        "σ",
        bounds=ANY,
    ),
    "membership": Measure(
        "privacy",
        "Membership, AUC",
        "lower",
        "Good is 0.5: whether a slide was trained on cannot be told from the set.",
        "distance to the nearest patch of the set, Chen et al. 2020",
        bounds=(0.0, 1.0),
    ),
    "overview_copies": Measure(
        "privacy",
        "Copies of whole overviews",
        "lower",
        "Good is 0: no slide as a whole is a copy of a real one.",
        "fingerprints of overviews, threshold as for copies",
        "%",
        bounds=(0.0, 100.0),
    ),
    "twin_correlation": Measure(
        "pairs",
        "Haematoxylin of the H&E and of its twin, correlation",
        "higher",
        "Good is well above chance, towards 1: nuclei are where they were.",
        "Ruifrok & Johnston 2001, Pearson over pixels, after a Gaussian of 2 px",
        bounds=(-1.0, 1.0),
    ),
    "twin_chance": Measure(
        "pairs",
        "The same between different places",
        "same",
        "What chance gives, about 0: it says what the correlation above is worth.",
        "the H&E of one place, the IHC of another",
        bounds=(-1.0, 1.0),
    ),
    "twin_shift": Measure(
        "pairs",
        "Shift of the twin",
        "lower",
        "Good is 0: the twin lies exactly on its H&E slide.",
        "phase correlation of haematoxylin, median",
        "µm",
    ),
    "domain_difference": Measure(
        "pairs",
        "Domain differentiation, over joints less within tiles",
        "higher",
        "Good is 0: below 0 fewer crops pass for real IHC where tiles meet.",
        "KIN (Ho et al. 2022) and DN: a classifier trained on real H&E and real IHC",
        bounds=(-1.0, 1.0),
    ),
    "domain_share": Measure(
        "pairs",
        "Crops over joints that pass for IHC",
        "higher",
        "Good is 1: a classifier of H&E and IHC takes them for IHC.",
        "KIN (Ho et al. 2022) and DN: a classifier trained on real H&E and real IHC",
        bounds=(0.0, 1.0),
    ),
    "dab_mean": Measure(
        "pairs",
        "DAB, mean",
        "same",
        "Good is as in real slides of this stain.",
        "Ruifrok & Johnston 2001",
        "OD",
        bounds=ANY,
    ),
    "dab_p90": Measure(
        "pairs",
        "DAB, 90th percentile",
        "same",
        "Good is as in real slides of this stain.",
        "Ruifrok & Johnston 2001",
        "OD",
        bounds=ANY,
    ),
    "dab_positive": Measure(
        "pairs",
        "Positive area",
        "same",
        "Good is as in real slides of this stain, if they are of like tissue.",
        "share of pixels from 0.2 OD of DAB on",
        "%",
        bounds=(0.0, 100.0),
    ),
    "dab_kl": Measure(
        "pairs",
        "DAB, KL(real ‖ twins)",
        "lower",
        "Good is as low as between real and real.",
        "Kullback-Leibler divergence of density histograms, nats",
        "nats",
    ),
    "dab_hue": Measure(
        "pairs",
        "Hue correlation of the twins",
        "higher",
        "Good is as high as between real and real, about 1.",
        "histogram correlation of KIN (Ho et al. 2022) and DN: HSV hue, 10 bins",
        bounds=(-1.0, 1.0),
    ),
}


def of_section(section: str) -> list[str]:
    """Keys of a section's measures, in their order."""
    return [key for key, measure in MEASURES.items() if measure.section == section]
