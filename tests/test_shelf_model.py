"""A shelf beside a dict of what was put, whatever happens in whatever order."""

from __future__ import annotations

import asyncio
import io
import shutil
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from shelves import files

from image_repo.quota import Bounds
from image_repo.shelf import Shelf

NAMES = ["a", "a/b", "b"]
KEYS = ["x", "y", "z"]
TAKEN = 9


class Model(RuleBasedStateMachine):
    """A shelf beside a dict of what was put; what is found is what the dict has."""

    root: Path

    def __init__(self) -> None:
        super().__init__()
        self.put_last: dict[tuple[str, str], bytes] = {}
        self.runner = asyncio.Runner()

    @initialize()
    def begin(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.open()

    def open(self) -> None:
        self.shelf = Shelf(self.root, Bounds(2**30, TAKEN, 0))
        self.runner.run(self.shelf.__aenter__())
        self.runner.run(self.shelf.settled())

    @rule()
    def open_again(self) -> None:
        self.close()
        self.open()

    @rule(
        image=st.sampled_from(NAMES),
        key=st.sampled_from(KEYS),
        body=st.binary(max_size=60) | st.integers(0, 600_000).map(bytes),
    )
    def put(self, image: str, key: str, body: bytes) -> None:
        self.runner.run(self.shelf.put(image, image + key, io.BytesIO(body)))
        self.put_last[image, key] = body
        assert self.read(image, key) == body

    @rule(image=st.sampled_from(NAMES), key=st.sampled_from(KEYS))
    def look(self, image: str, key: str) -> None:
        found = self.read(image, key)
        assert found is None or found == self.put_last.get((image, key))

    @rule(image=st.sampled_from(NAMES))
    def forget(self, image: str) -> None:
        there = [image + key for name, key in self.put_last if name == image]
        assert set(self.runner.run(self.shelf.forget(image))) <= set(there)
        for key in KEYS:
            self.put_last.pop((image, key), None)
            assert self.read(image, key) is None

    @rule(data=st.data(), junk=st.binary(min_size=1, max_size=40))
    def damage(self, data: st.DataObject, junk: bytes) -> None:
        there = sorted(files(self.root))
        if there:
            file = data.draw(st.sampled_from(there))
            whole = bytearray(file.read_bytes())
            at = data.draw(st.integers(0, len(whole)))
            whole[at : data.draw(st.integers(at, len(whole)))] = junk
            file.write_bytes(whole)

    @rule(data=st.data())
    def swap(self, data: st.DataObject) -> None:
        there = sorted(files(self.root))
        if there:
            shutil.copy(
                data.draw(st.sampled_from(there)), self.root / "entries" / "spare"
            )
            (self.root / "entries" / "spare").rename(
                data.draw(st.sampled_from(there)),
            )

    @rule()
    def lose(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)

    @invariant()
    def stays_within_its_bounds(self) -> None:
        assert len(files(self.root)) <= TAKEN

    def read(self, image: str, key: str) -> bytes | None:
        found = self.runner.run(self.shelf.read(image, image + key))
        return None if found is None else found[1]

    def close(self) -> None:
        self.runner.run(self.shelf.__aexit__(None, None, None))

    def teardown(self) -> None:
        self.close()
        self.runner.close()


def test_whatever_happens_in_whatever_order_what_is_found_is_what_was_put(
    tmp_path: Path,
) -> None:
    class Here(Model):
        root = tmp_path / "root"

    run_state_machine_as_test(
        Here, settings=settings(max_examples=25, stateful_step_count=25, deadline=None)
    )
