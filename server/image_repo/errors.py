"""Every error this package raises, as one tree.

ImageRepoError
├── ConfigError          the configuration or command line is wrong: exit 2
│   └── OptionError      one option is; a file says in which line
├── BadRequestError      the URL has no meaning
├── UnauthorisedError    a write without a token, an expired or altered link
├── ForbiddenError       a write with the wrong token or from a foreign origin
├── UnknownImageError    no such original
├── ConflictError        an upload to a name that exists
├── TooLargeError        more bytes, pixels or frames than allowed
├── BadImageError        bytes that are not an image we read
├── TooCostlyError       a derivation passed its deadline
├── DeriveError          a derivation failed through no fault of the image
│   └── CrashError       a worker died at its work
├── StoreError           the store failed
└── BusyError            the queue is full; try again later

A class exists only where some code treats it differently. What each means in HTTP
is one row of `image_repo.web.errors`.
"""

from __future__ import annotations


class ImageRepoError(Exception):
    """Base of all errors raised on purpose; its text may be shown to a client."""


class ConfigError(ImageRepoError):
    """An option is unknown, of the wrong type, or out of its range."""


class OptionError(ConfigError):
    """One option is wrong.

    Args:
        message: Names the option.
        path: Names of the sections it is in, and its own, as the file has them.
        variable: What gives it in the environment; empty: the file does.
    """

    def __init__(self, message: str, path: tuple[str, ...], variable: str = "") -> None:
        super().__init__(message)
        self.path = path
        self.variable = variable


class BadRequestError(ImageRepoError):
    """The request's path or query has no meaning."""


class UnauthorisedError(ImageRepoError):
    """The request lacks a credential that is needed, or its link has expired."""


class ForbiddenError(ImageRepoError):
    """The request's credential or origin does not permit what it asks."""


class UnknownImageError(ImageRepoError):
    """No original has that name."""


class ConflictError(ImageRepoError):
    """An image of that name exists already."""


class TooLargeError(ImageRepoError):
    """The image has more bytes, pixels or frames than the limits allow."""


class BadImageError(ImageRepoError):
    """The bytes are not a complete image of a format that is read here."""


class TooCostlyError(ImageRepoError):
    """A derivation took longer than its deadline and was stopped."""


class DeriveError(ImageRepoError):
    """A derivation failed in a way that says nothing about the image."""


class CrashError(DeriveError):
    """A worker died at its work; if the same image does it again, it is to blame."""


class StoreError(ImageRepoError):
    """The store could not be read or written."""


class BusyError(ImageRepoError):
    """Too many derivations are waiting.

    Args:
        message: What is full.
        retry_after: Whole seconds after which a new try is reasonable.
    """

    def __init__(self, message: str, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after
