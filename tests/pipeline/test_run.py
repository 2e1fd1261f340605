"""What all runs do: warn of a disk that may fill up."""

from __future__ import annotations

import logging

from wsigen.pipeline.run import warn_of_disk


def test_room_on_the_disk(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        warn_of_disk(tmp_path, 1)
        assert not caplog.records
        warn_of_disk(tmp_path / "new", 2**60)
    assert "a slide can take 1073741824.0 GiB while it is made" in caplog.text
    assert "run the same command again" in caplog.text
