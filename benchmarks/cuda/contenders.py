"""What is timed against one another for one network: the original in several guises, static bypasses, gated files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx

from benchmarks.cuda.networks import Array
from benchmarks.cuda.subject import EVERYTHING, NOTHING, QUARTERS, Subject, deciding
from benchmarks.failure import BenchmarkError
from skipc.runtime.binding import Bound, bind
from skipc.runtime.plan import Block
from skipc.runtime.session import PROVIDERS, Session

ORIGINAL, GRAPH, HALF, STATIC = "original", "original, CUDA graph", "original, float16", "static bypasses"
OPPONENTS = (ORIGINAL, GRAPH, HALF, STATIC)

NONE_BYPASSED, QUARTER, ALL_BYPASSED = "none", "quarter", "all"
"""Of the blocks' time."""

FRUGAL = {"arena_extend_strategy": "kSameAsRequested"}
"""A dozen sessions share the device; by default the memory of each grows to the next power of two."""

Items = Sequence[Mapping[str, Array]]


@dataclass(frozen=True)
class Gated:
    """A file with gates.

    Attributes:
        policy: says what its gates read.
        granularity: what decides for itself.
        blocks: with their gates.
        session: of the file as it would be shipped.
    """

    policy: str
    granularity: str
    blocks: tuple[Block, ...]
    session: Session

    @property
    def name(self) -> str:
        """What results call it."""
        return f"{self.policy}, by {self.granularity}"

    def items(self, subject: Subject, size: int) -> Mapping[str, Items]:
        """Batches by the share of the blocks' time that they bypass; nothing for batches that cannot be mixed."""
        if self.granularity == "sample" and size % len(QUARTERS):
            return {}
        quarter = [subject.mixed(size)] if self.granularity == "sample" else [subject.batch(i, size) for i in QUARTERS]
        ends = {NONE_BYPASSED: [subject.batch(NOTHING, size)], ALL_BYPASSED: [subject.batch(EVERYTHING, size)]}
        return {**ends, QUARTER: quarter}


@dataclass(frozen=True)
class Field:
    """All contenders of one network in one element type.

    Attributes:
        subject: the network.
        half: the same in float16, where it is not that itself.
        provider: that runs everything.
        threads: intra-op threads, for the CPU.
        plain: sessions without gates, by name.
        gated: files with gates.
    """

    subject: Subject
    half: Subject | None
    provider: str
    threads: int
    plain: Mapping[str, Session]
    gated: tuple[Gated, ...]

    @classmethod
    def of(
        cls, subject: Subject, half: Subject | None, kinds: Sequence[tuple[str, str]], provider: str, threads: int
    ) -> Field:
        """Open everything that serves all batch sizes.

        Args:
            subject: the network.
            half: the same in float16.
            kinds: policy and granularity of each gated file.
            provider: that runs everything.
            threads: intra-op threads, for the CPU.
        """

        def opened(model: onnx.ModelProto) -> Session:
            return opened_on(subject, model, provider, threads)

        plain = {ORIGINAL: opened(subject.model), STATIC: opened(subject.static())}
        if half is not None:
            plain[HALF] = opened_on(half, half.model, provider, threads)
        taught = {policy: subject.gated(policy, provider) for policy in dict.fromkeys(policy for policy, _ in kinds)}
        blocks = [(*kind, deciding(taught[kind[0]], kind[1])) for kind in kinds]
        gated = tuple(Gated(*item, opened(subject.shipped(item[2]))) for item in blocks)
        return cls(subject, half, provider, threads, plain, gated)

    def runs(self, size: int) -> dict[tuple[str, str], tuple[Bound, ...]]:
        """What is timed at a batch size, by contender and share bypassed; bound to the device."""
        plain = {(name, ""): (bind(session, self._fed(name).batch(0, size)),) for name, session in self.plain.items()}
        gated = {
            (item.name, share): tuple(bind(item.session, feeds) for feeds in items)
            for item in self.gated
            for share, items in item.items(self.subject, size).items()
        }
        return {**plain, **gated}

    def _fed(self, name: str) -> Subject:
        return self.half if name == HALF and self.half is not None else self.subject

    def graph(self, size: int) -> Bound:
        """The original, captured in a CUDA graph for one batch size.

        Raises:
            BenchmarkError: it cannot be captured; in ONNX Runtime's words.
        """
        feeds = self.subject.batch(0, size)
        like = self.plain[ORIGINAL].run(feeds)
        try:
            session = opened_on(
                self.subject,
                self.subject.model,
                self.provider,
                self.threads,
                {"enable_cuda_graph": "1"},
                {"batch": size},
            )
            bound = bind(session, feeds, like=like)
            # The first runs allocate and capture.
            for _ in range(3):
                bound.run()
        except Exception as error:  # ONNX Runtime raises classes of its own that have no common base
            raise BenchmarkError(" ".join(str(error).split())[:300]) from error
        return bound


def opened_on(
    subject: Subject,
    model: onnx.ModelProto,
    provider: str,
    threads: int,
    provider_options: Mapping[str, str] | None = None,
    extents: Mapping[str, int] | None = None,
    *,
    optimize: bool = True,
) -> Session:
    """A session of a network's model, as it is or rewritten, that this provider really runs.

    Raises:
        BenchmarkError: another one would run it.
    """
    arena = FRUGAL if provider == "cuda" else {}
    session = subject.shelf.open(
        model,
        provider=provider,
        threads=threads,
        optimize=optimize,
        provider_options={**arena, **(provider_options or {})},
        extents=extents,
    )
    require_provider(session.inference.get_providers(), provider)
    return session


def require_provider(found: Sequence[str], provider: str) -> None:
    """Refuse to call a result what it is not.

    Args:
        found: what the session itself says of its providers.
        provider: ``cpu`` or ``cuda``.

    Raises:
        BenchmarkError: another provider comes first.
    """
    if list(found[:1]) != [PROVIDERS[provider]]:
        raise BenchmarkError(f"{PROVIDERS[provider]} was asked for, but the session runs on {', '.join(found)}")
