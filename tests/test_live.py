from __future__ import annotations

from dataclasses import replace

from image_repo import live, options
from image_repo.config import Config
from image_repo.live import LIVE, changes, merged

OLD = Config()
NEW = replace(
    OLD,
    image_default_format="png",
    data="/elsewhere",
    http=replace(OLD.http, max_age=1, uploads=3),
)


def test_only_what_may_change_while_it_serves_is_taken() -> None:
    taken = merged(OLD, NEW)

    assert taken == replace(
        OLD, image_default_format="png", http=replace(OLD.http, max_age=1)
    )
    assert set(changes(OLD, taken)) == {"image_default_format", "http.max_age"}
    assert set(changes(taken, NEW)) == {"data", "http.uploads"}


def test_behind_nginx_only_what_nginx_does_not_know_is_taken() -> None:
    old = replace(OLD, behind_nginx=True)

    taken = merged(old, replace(NEW, behind_nginx=True))

    assert set(changes(old, taken)) == {"http.max_age"}
    assert live.BEHIND_NGINX < LIVE


def test_nothing_changes_where_nothing_is_different() -> None:
    assert merged(OLD, OLD) == OLD
    assert not list(changes(OLD, Config()))


def test_what_is_live_is_an_option_and_in_no_recipe() -> None:
    known = {".".join(item.path): item.about for item in options.describe(Config)}

    assert known.keys() >= LIVE
    assert not any(known[path].pixels or known[path].secret for path in live.LIVE)
