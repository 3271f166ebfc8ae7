from __future__ import annotations

import pytest

from image_repo.web.complaints import CURE, QUIET, Complaints


def test_each_complaint_is_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture,
) -> None:
    times = [0.0, 0.0, 1.0, 1.0, QUIET, QUIET, QUIET + 1, QUIET + 1]
    complaints = Complaints(iter(times).__next__)

    for _ in range(4):
        complaints.log("one")
        complaints.log("another")

    said = [f"one: {CURE}", f"another: {CURE}"]
    assert [record.getMessage() for record in caplog.records] == said * 2
