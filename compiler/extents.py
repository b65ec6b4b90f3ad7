"""Extents for the open axes of inputs that are made up, so that a model has something to run on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from skipc.compiler.data import synthetic
from skipc.compiler.data_types import InputSpec
from skipc.runtime.plan import Array

EXTENTS = (8, 32, 64, 224)
"""Extents tried for open axes."""

PAST = 3
"""By how much a cache is longer than what is new, so that the two can be told apart."""


@dataclass(frozen=True)
class Guess:
    """How long the open axes behind the first one are.

    Attributes:
        extent: of all but those below.
        past: of inputs that hold a cache; 0 where none is taken for one. Masks cover what is past and what is new.
    """

    extent: int
    past: int = 0

    def others(self) -> Iterator[Guess]:
        """Guesses that differ in every extent, then this one: some networks halve extents several times."""
        yield Guess(self.extent + 1, self.past + 2 if self.past else 0)
        yield Guess(self.extent * 2, self.past * 2)
        yield self

    def feeds(self, inputs: Sequence[InputSpec], *, batch: int, seed: int) -> Mapping[str, Array]:
        """Made-up values of these extents."""
        symbols = {spec.shape[0] for spec in inputs if spec.batched and isinstance(spec.shape[0], str)}
        fixed = [replace(spec, shape=self._shape(spec, batch, symbols)) for spec in inputs]
        return synthetic(fixed, batch=batch, extent=self.extent, seed=seed)

    def _shape(self, spec: InputSpec, batch: int, symbols: set[str]) -> tuple[int, ...]:
        open_extent = self._extent(spec)
        return tuple(
            dim if isinstance(dim, int) else batch if axis == 0 or dim in symbols else open_extent
            for axis, dim in enumerate(spec.shape)
        )

    def _extent(self, spec: InputSpec) -> int:
        name = spec.name.lower()
        if self.past and is_cache(spec):
            return self.past
        return self.extent + (self.past if "mask" in name else 0)


def is_cache(spec: InputSpec) -> bool:
    """Whether an input is one that decoders take their own earlier keys and values from."""
    name = spec.name.lower()
    return "past" in name or "cache" in name


def guesses(inputs: Sequence[InputSpec]) -> Iterator[Guess]:
    """What to try, one after the other."""
    cached = any(is_cache(spec) for spec in inputs)
    for extent in EXTENTS:
        yield Guess(extent, extent + PAST if cached else 0)
        if cached:
            yield Guess(extent)
