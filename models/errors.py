"""What a recipe says when it cannot go on: what happened, where, and what to do next."""

from __future__ import annotations


class ModelsError(Exception):
    """A failure with a place and a hint; it ends the command with `exit_code`.

    Attributes:
        what: one sentence telling what is wrong, with the offending value in it.
        where: the recipe, package or file that it is about.
        hint: what to do next.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str, hint: str) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.where}: {self.what}\nhint: {self.hint}"


class UsageError(ModelsError):
    """A name or an option that does not exist."""

    exit_code = 2


class DownloadError(ModelsError):
    """A package could not be had."""


class DigestError(ModelsError):
    """A file is not the one that the recipe was written for."""


class ConversionError(ModelsError):
    """A model was converted, but the result does not agree with the original."""


class MissingExtraError(ModelsError):
    """A Python package that the recipe needs is not installed."""

    def __init__(self, package: str, *, where: str) -> None:
        super().__init__(
            f"the Python package {package} is not installed",
            where=where,
            hint="run `pip install skipc[models]` (from a checkout: `pip install -e '.[models]'`) and try again",
        )
