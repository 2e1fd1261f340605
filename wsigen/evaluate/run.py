"""From a configuration to a report: draw, describe, compare."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from typing import Any

from tqdm import tqdm

from wsigen.config.evaluate import REAL, TRAIN, EvaluateConfig
from wsigen.evaluate.closely import Closely, look_closely
from wsigen.evaluate.draw import Reader, spots
from wsigen.evaluate.features import Extractor, load_extractor
from wsigen.evaluate.inputs import (
    Inputs,
    config_dict,
    load_inputs,
    versions,
)
from wsigen.evaluate.joins.colour import density_centres, density_curves, spectrum_rows, stain_rows
from wsigen.evaluate.joins.features import features_rows
from wsigen.evaluate.joins.joints import domain_rows, joint_rows
from wsigen.evaluate.joins.overviews import overview_rows
from wsigen.evaluate.joins.pairs import pair_up, twin_rows
from wsigen.evaluate.joins.phase import phase_rows
from wsigen.evaluate.joins.privacy import Findings, Privacy, unknown_training
from wsigen.evaluate.joins.samples import RealSamples, sample_rows
from wsigen.evaluate.joins.scales import scale_rows
from wsigen.evaluate.joins.seams import seam_rows
from wsigen.evaluate.joins.sides import Comparison, Reals
from wsigen.evaluate.joins.tilings import tiling_rows
from wsigen.evaluate.observe import SAMPLES, Patches, join, observe
from wsigen.evaluate.plan import ScalePlan
from wsigen.evaluate.report.sheets import columns, neighbour_sheet, overview_sheet, strip
from wsigen.evaluate.results import Report, Result, SetReport, bounded
from wsigen.evaluate.sets import SlideSet
from wsigen.runtime import choose_device, usable_cpus
from wsigen.slide.nuclei import COARSEST_MPP

log = logging.getLogger(__name__)


def measure(config: EvaluateConfig, *, progress: bool = True) -> Report:
    """Compare sets of slides with real ones; nothing is written.

    Args:
        config: what to compare.
        progress: show a bar.

    Raises:
        SlideError: a set has no slide that can be used.
        InvalidValueError: nothing can be compared, or an option that cannot be.
        SnapshotError: the features' weights cannot be had.

    Memory:
        Features and fingerprints of the patches, some whole patches of one µm/px, and one window of 4096 px;
        however large the slides are.

    Determinism:
        The numbers follow from configuration, slides and versions, not from the number of threads.
    """
    inputs = load_inputs(config)
    threads = config.workers or usable_cpus()
    extractor = load_extractor(config.features, choose_device(config.device, mps=False), threads)
    total = sum(sum(a.values()) for p in inputs.plans for a in p.allotted.values())
    with tqdm(total=total, unit="patch", disable=not progress) as bar:
        return Evaluation(inputs, extractor, threads, bar).report()


@dataclass
class Evaluation:
    """An evaluation as it goes on.

    Args:
        inputs: what is compared.
        extractor: of features.
        threads: that read and describe.
        bar: moves by patches.
    """

    inputs: Inputs
    extractor: Extractor
    threads: int
    bar: Any
    rows: dict[str, list[Result]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    curves: dict[str, Any] = field(default_factory=dict)
    captions: dict[str, list[str]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    drawn: dict[str, list[Patches]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.reader = Reader(self.inputs.config.seed)
        self.stains = "h-e" if self.inputs.config.stain == "he" else "h-dab"
        self.rows = {s.name: [] for s in self.inputs.sets}
        self.warnings = [*self.inputs.warnings, *(w for p in self.inputs.plans for w in p.warnings)]

    def report(self) -> Report:
        """Do it all."""
        for plan in self.inputs.plans:
            self._compare_at(plan)
        if len(self.inputs.plans) > 1:
            self._compare_together()
        for one in self.inputs.sets:
            self._whole_slides(one)
        self._twins()
        return self._assembled()

    def _compare_at(self, plan: ScalePlan) -> None:
        """One µm/px, all sets."""
        every = self._observe(self.inputs.real, plan, 2 * SAMPLES)
        reals = Reals(every, {plan.mpp: plan.count}, self.inputs.config.seed)
        train = None
        if self.inputs.train and plan.allotted.get(TRAIN):
            train = self._observe(self.inputs.train, plan, 0)
            self._keep(TRAIN, train, plan, None)
        close = RealSamples(self._closely(every, plan), plan.mpp, self.inputs.config.seed)
        privacy = self._privacy(every, train, plan)
        self._show(REAL, every, plan)
        self._keep(REAL, every, plan, close.seen)
        for one in self.inputs.sets:
            patches = self._observe(one, plan, SAMPLES)
            self.bar.set_description(f"{plan.mpp:g} µm/px, comparing {one.name}")
            comparison = Comparison(patches, reals, plan.mpp, self.stains)
            seen = self._closely(patches, plan)
            self.rows[one.name] += features_rows(comparison)
            self.rows[one.name] += [*spectrum_rows(comparison), *phase_rows(comparison)]
            self.rows[one.name] += stain_rows(comparison)
            self.rows[one.name] += sample_rows(seen, close)
            self._neighbours(one.name, privacy.compare(comparison), privacy, plan)
            self._show(one.name, patches, plan)
            self._keep(one.name, patches, plan, seen)

    def _compare_together(self) -> None:
        """All µm/px in one, but those at which the real slides cannot be halved."""
        self.bar.set_description("comparing all µm/px together")
        counts = {p.mpp: p.count for p in self.inputs.plans}
        halved = [i for i, real in enumerate(self.drawn[REAL]) if len(set(real.groups)) > 1]
        if len(halved) < 2:
            self.warnings.append("µm/px are not compared together: too few have two real slides or cases")
            return
        if len(halved) < len(counts):
            left = [f"{m:g}" for i, m in enumerate(counts) if i not in halved]
            self.warnings.append(
                f"not pooled, since there is one real slide or case: {', '.join(left)} µm/px"
            )
        reals = Reals(join([self.drawn[REAL][i] for i in halved]), counts, self.inputs.config.seed)
        for one in self.inputs.sets:
            ours = join([self.drawn[one.name][i] for i in halved])
            self.rows[one.name] += features_rows(Comparison(ours, reals, None, self.stains))

    def _whole_slides(self, one: SlideSet) -> None:
        self.bar.set_description(f"seams and scales of {one.name}")
        rows, profiles = seam_rows(one, self.inputs.real, seed=self.inputs.config.seed)
        self.rows[one.name] += [*rows, *scale_rows(one, self.inputs.real, seed=self.inputs.config.seed)]
        self.rows[one.name] += [] if self.inputs.train else unknown_training()
        self._overviews(one)
        if one is not self.inputs.sets[0]:
            self.rows[one.name] += tiling_rows(one, self.inputs.sets[0])
        self.curves.setdefault("seam profiles", {})[one.name] = profiles
        self._joints(one, self.inputs.real, one.name)

    def _overviews(self, one: SlideSet) -> None:
        rows, alike = overview_rows(one, self.inputs.real, self.inputs.train)
        self.rows[one.name] += rows
        if alike:
            self.pictures[f"overviews {one.name}"] = overview_sheet(alike)
            self.captions[f"overviews {one.name}"] = [
                f"{a.ours.slide}: {a.theirs.slide}, {a.distance:.2f}" for a in alike
            ]

    def _privacy(self, real: Patches, train: Patches | None, plan: ScalePlan) -> Privacy:
        self.bar.set_description(f"{plan.mpp:g} µm/px, neighbours of real patches")
        slides = self.inputs.real if train is None else self.inputs.train
        assert slides is not None
        config = self.inputs.config
        return Privacy(
            real,
            train,
            slides,
            mpp=plan.mpp,
            patch=config.patch,
            seed=config.seed,
            threads=self.threads,
        )

    def _neighbours(self, name: str, found: Findings, privacy: Privacy, plan: ScalePlan) -> None:
        self.rows[name] += found.rows
        entries = privacy.field.entries
        if found.neighbours:
            key = f"neighbours {name} {plan.mpp:g}"
            self.pictures[key] = neighbour_sheet(found.neighbours, entries, self.reader)
            self.captions[key] = [f"{entries[n.slide].slide}, {n.distance:.2f}" for n in found.neighbours]
        if plan is self.inputs.plans[0] and found.curves:
            distances = self.curves.setdefault("nearest", {"real": found.curves["real"]})
            distances[name] = found.curves["set"]

    def _twins(self) -> None:
        inputs = self.inputs
        if inputs.twins is None:
            return
        self.bar.set_description("twins")
        judged = inputs.sets[0]
        found = twin_rows(
            judged,
            inputs.twins,
            inputs.real_twins,
            mpp=inputs.plans[0].mpp,
            patch=inputs.config.patch,
            reader=self.reader,
            seed=inputs.config.seed,
            threads=self.threads,
        )
        self.rows[judged.name] += found.rows
        self.warnings += found.warnings
        self.pictures["pairs"] = columns(found.shown)
        seams, profiles = seam_rows(inputs.twins, judged, seed=inputs.config.seed)
        self.rows[judged.name] += [replace(r, label=f"twins: {r.label}".rstrip(": ")) for r in seams]
        self.curves["seam profiles"]["twins"] = profiles
        self._joints(inputs.twins, judged, judged.name, "twins: ")
        if inputs.config.joint_classifiers and inputs.real_twins:
            twins, _ = pair_up(judged, inputs.twins)
            self.rows[judged.name] += domain_rows(
                twins, inputs.real, inputs.real_twins, self.reader, **self._training()
            )

    def _joints(self, one: SlideSet, without: SlideSet, name: str, mark: str = "") -> None:
        if self.inputs.config.joint_classifiers:
            self.bar.set_description(f"classifiers of joints, {one.name}")
            self.rows[name] += joint_rows(one, without, mark=mark, **self._training())

    def _training(self) -> dict[str, Any]:
        config = self.inputs.config
        device = choose_device(config.device, mps=False)
        return {"updates": config.joint_classifiers, "device": device, "seed": config.seed}

    def _observe(self, one: SlideSet, plan: ScalePlan, keep: int) -> Patches:
        self.bar.set_description(f"{plan.mpp:g} µm/px, {one.name}")
        found = observe(
            spots(one.entries, plan.allotted[one.name], plan.mpp, self.inputs.config.patch),
            self.reader,
            self.extractor,
            stains=self.stains,
            keep=keep,
            threads=self.threads,
            progress=self.bar.update,
        )
        self.warnings += [f"{one.name}, {plan.mpp:g} µm/px: {w}" for w in found.warnings]
        return found

    def _closely(self, patches: Patches, plan: ScalePlan) -> Closely:
        return look_closely(patches, plan.mpp, stains=self.stains, threads=self.threads)

    def _keep(self, name: str, patches: Patches, plan: ScalePlan, seen: Closely | None) -> None:
        """For later: features, and the curves of the finest µm/px."""
        self.drawn.setdefault(name, []).append(patches.without_samples())
        if plan is not self.inputs.plans[0] or seen is None:
            return
        densities = self.curves.setdefault("densities", {"od": density_centres()})
        densities[name] = density_curves(patches)
        if plan.mpp <= COARSEST_MPP:
            areas = [a for n in seen.nuclei for a in n.areas]
            self.curves.setdefault("nuclei", {})[name] = areas

    def _show(self, name: str, patches: Patches, plan: ScalePlan) -> None:
        self.pictures[f"patches {name} {plan.mpp:g}"] = strip(patches, seed=self.inputs.config.seed)

    def _assembled(self) -> Report:
        inputs, extractor = self.inputs, self.extractor
        if not extractor.comparable:
            self.warnings.insert(
                0,
                f"features are {extractor.name}: distances compare with one another only, never with "
                "published FIDs",
            )
        references = [inputs.real, *([inputs.train] if inputs.train else [])]
        return Report(
            config=config_dict(inputs.config),
            versions=versions(),
            features={
                "name": extractor.name,
                "dimensions": extractor.dimensions,
                "comparable": extractor.comparable,
            },
            scales=tuple(p.mpp for p in inputs.plans),
            counts={f"{p.mpp:g}": p.count for p in inputs.plans},
            sets=tuple(self._set(s) for s in inputs.sets),
            references=tuple(self._set(s) for s in references),
            warnings=tuple(dict.fromkeys(self.warnings)),
            pictures=self.pictures,
            captions=self.captions,
            curves=self.curves,
        )

    def _set(self, one: SlideSet) -> SetReport:
        left_out = tuple(f"{f.slide}: {f.reason}" for f in one.failures)
        return SetReport(
            one.name,
            self.inputs.shares(one),
            tuple(bounded(r) for r in self.rows.get(one.name, ())),
            left_out,
        )
