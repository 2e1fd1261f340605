"""What cannot be read is left out, and said once for each slide."""

from __future__ import annotations

from wsigen.errors import SlideError
from wsigen.evaluation.skipped import readable


def test_the_rest_is_read_and_each_slide_is_said_once(caplog):
    def read(job: int) -> int:
        if job in (2, 3, 7):
            raise SlideError("a.tif" if job < 5 else "b.tif", f"damaged at {job}")
        return 10 * job

    assert list(readable(read, range(9), "windows")) == [(job, 10 * job) for job in (0, 1, 4, 5, 6, 8)]
    assert [record.getMessage() for record in caplog.records] == [
        "a.tif: windows that cannot be read, left out: 2; the first: damaged at 2",
        "b.tif: windows that cannot be read, left out: 1; the first: damaged at 7",
    ]
