"""One bar per stage, and an honest time left for the whole slide."""

from __future__ import annotations

import time
from types import TracebackType

from tqdm import tqdm

from wsigen.sampling.spec import StageProgress
from wsigen.synthesis.job import JobPlan


class Reporter:
    """Shows how far a slide has come.

    The time left is that of the pixels that networks have yet to see in all stages, at the pace of the stage
    that is running. Where glass is skipped that pace carries over, since all stages show the same tissue.

    Args:
        plan: of the slide.
    """

    def __init__(self, plan: JobPlan) -> None:
        self.plan = plan
        self._bar: tqdm | None = None
        self._stage = -1
        self._started = self._last = time.perf_counter()

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def update(self, done: StageProgress) -> None:
        """Take note of a finished batch of patches."""
        if done.stage != self._stage:
            self._next_stage(done)
        assert self._bar is not None
        self._last = time.perf_counter()
        elapsed = self._last - self._started
        each = self.plan.stages[done.stage].work / self.plan.stages[done.stage].patches
        left = each * (done.patches_total - done.patches)
        left += sum(s.work for s in self.plan.stages[done.stage + 1 :])
        left_text = tqdm.format_interval(int(elapsed / (each * done.patches) * left))
        self._bar.set_postfix_str(f"slide in {left_text}", refresh=False)
        self._bar.update(done.patches - self._bar.n)

    def close(self) -> None:
        """End the bar."""
        if self._bar is not None:
            self._bar.close()
        self._bar = None

    def _next_stage(self, done: StageProgress) -> None:
        self.close()
        stage = self.plan.stages[done.stage]
        label = f"stage {done.stage}/{len(self.plan.stages) - 1} {stage.extent} px {stage.mpp:g} µm/px"
        unit = "tile" if stage.network == "upscaler" else "patch"
        self._bar = tqdm(total=done.patches_total, desc=label, unit=unit, smoothing=0.1)
        # The first report of a stage comes when its first batch is done, and that may be all of it.
        self._stage, self._started = done.stage, self._last
