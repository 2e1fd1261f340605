"""How far a slide that is being sampled is."""

from __future__ import annotations

import time

from tqdm.auto import tqdm

from wsigen.pipeline.plan import SlidePlan
from wsigen.pipeline.run import Progress
from wsigen.sampling.spec import StageProgress


class ProgressBar:
    """A bar for each stage, with the time left for the whole slide.

    The time left is that of the pixels that networks have yet to see in all stages, at the pace of the stage
    that is running. Where background is skipped that pace carries over, since all stages show the same
    tissue.
    """

    def __init__(self, plan: SlidePlan) -> None:
        self.plan = plan
        self._bar: tqdm | None = None
        self._stage = -1
        self._started = self._last = time.perf_counter()

    def update(self, done: StageProgress, progress: Progress | None = None) -> None:
        """Show a finished batch of patches, and pass it on."""
        if done.stage != self._stage:
            self._next_stage(done)
        assert self._bar is not None
        self._last = time.perf_counter()
        elapsed, stages = self._last - self._started, self.plan.stages
        each = stages[done.stage].work / stages[done.stage].patches
        left = each * (done.patches_total - done.patches) + sum(s.work for s in stages[done.stage + 1 :])
        left_text = tqdm.format_interval(int(elapsed / (each * done.patches) * left))
        self._bar.set_postfix_str(f"slide in {left_text}", refresh=False)
        self._bar.update(done.patches - self._bar.n)
        if progress:
            progress(done)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _next_stage(self, done: StageProgress) -> None:
        self.close()
        stage = self.plan.stages[done.stage]
        label = f"stage {done.stage}/{len(self.plan.stages) - 1} {stage.size} px {stage.mpp:g} µm/px"
        unit = "tile" if stage.network == "upscaler" else "patch"
        self._bar = tqdm(total=done.patches_total, desc=label, unit=unit, smoothing=0.1)
        # The first report of a stage comes when its first batch is done, and that may be all of it.
        self._stage, self._started = done.stage, self._last
