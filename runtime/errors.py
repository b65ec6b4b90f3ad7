"""What skipc says when it cannot go on: a code, what happened, where, and what to do next.

Every failure that a user can cause is a `SkipcError`; anything else that escapes is a bug of ours and ends with
exit code 3. The exit code belongs to the class of error, so that a script can tell a broken promise from bad input.
"""

from __future__ import annotations

from collections.abc import Mapping


class SkipcError(Exception):
    """A failure with a place and a hint.

    Attributes:
        code: stable, kebab-case identifier for programs, such as ``"data-missing-input"``.
        what: one sentence telling what is wrong, with the offending value in it.
        where: file, node, value or option that it is about; empty where the whole run is meant.
        hint: what to do next; empty where nothing can be done.
    """

    exit_code = 2

    def __init__(self, code: str, what: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.code = code
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.where else self.what

    def as_json(self) -> Mapping[str, str]:
        """The error as the JSON object that ``--output-format json`` prints under ``error``."""
        return {"code": self.code, "message": self.what, "where": self.where, "hint": self.hint}


class InputError(SkipcError):
    """Bad usage, configuration or input: exit code 2."""

    exit_code = 2


class PromiseError(SkipcError):
    """The run went well but a promise failed or nothing could be gained: exit code 1."""

    exit_code = 1


class InternalError(SkipcError):
    """A bug of ours, such as a pass that left an invalid graph: exit code 3."""

    exit_code = 3
