"""The names that skipc gives to what it adds to a graph; they are a contract with everyone who reads the file."""

from __future__ import annotations

from collections.abc import Sequence

LEVEL = "skipc.level"
"""Initializer, int64 scalar: the row of `THRESHOLDS` in force. Level 0 never skips."""

THRESHOLDS = "skipc.thresholds"
"""Initializer, float32 [levels, gates]: a block is bypassed where its score lies below its threshold."""

FLOORS = "skipc.floors"
"""Initializer, float32 [1, gates]: a score at or below the floor was never seen in calibration; the full block runs."""

WINDOW = "skipc.window"
"""Input of the instrumented model only, float32 [2, gates]: thresholds, then negated floors."""

REGION_MASK = "skipc.region_mask"
"""Input of the masked model only, float32 [regions]: a factor for what each region adds to its entry value."""

ERROR = "skipc.error"
"""Output of the learning model only, float32 [1]: by how much values are off, weighed and summed up."""

ERROR_WEIGHTS = "skipc.error_weights"
"""Input of the learning model only, float32 [values]: what the squared error of each value is multiplied by."""

DECISIONS = "skipc.decisions"
"""Optional output, float32 [batch, gates]: the share of a sample's rows for which the block was bypassed."""

SCORES = "skipc.scores"
"""Optional output, float32 [batch, gates]: the gate's score, a prediction of the log of the block's impact."""

PLAN_KEY = "skipc.plan"
"""Key in the model's `metadata_props`: the plan with its certificate, as JSON."""

ORIGINAL_KEY = "skipc.original"
"""Key in the model's `metadata_props`: what of the original the compiled graph no longer tells, as JSON."""


def shift(value: str) -> str:
    """Name of an input of the masked model only: what is added to a value, float32 of the value's shape."""
    return f"skipc/shift/{value}"


def weight(value: str) -> str:
    """Name of an input of the learning model only: what is added to the weights behind a value, float32."""
    return f"skipc/weight/{value}"


def wanted(value: str) -> str:
    """Name of an input of the learning model only: what a value should be, float32 of the value's shape."""
    return f"skipc/wanted/{value}"


def block(region: str) -> str:
    """Name of the `If` node that stands for a region."""
    return f"skipc/{region}"


def gate(region: str) -> str:
    """Name of the condition, a bool scalar: true where the region is bypassed. Prefix of the gate's own nodes."""
    return f"skipc/{region}/gate"


def score(region: str) -> str:
    """Name of the gate's score and its negative, float32 [batch, 2], or [batch, sequence, 2] for each token.

    Gates that read the same value share the one of the first of them: two columns for each, [batch, 2 * gates].
    """
    return f"skipc/{region}/score"


def is_score(value: str) -> bool:
    """Whether a value is a gate's score."""
    return is_ours(value) and value.endswith("/score")


def agreed(region: str) -> str:
    """Name of a gate's decisions row by row, float32 [batch] or [batch, sequence]: 1 where a row is bypassed."""
    return f"skipc/{region}/agreed"


def mixed(region: str) -> str:
    """Name of a region's result before the rows that do not need it are put in; prefix of what puts them in."""
    return f"skipc/{region}/mixed"


def rows(region: str) -> str:
    """Name of the branch that runs a region's bypass for some rows, and of its result."""
    return f"skipc/{region}/rows"


def index(region: str, *, agreed: bool) -> str:
    """Name of the positions of the rows that are bypassed, or that are not, int64 [n], where gates share them."""
    return f"skipc/{region}/{'agreed' if agreed else 'needed'}/index"


def mask(name: str) -> str:
    """Name of a mask's weights, float32 [batch, 1, sequence]: 1 / (tokens of the sample) for tokens, 0 for padding."""
    return f"skipc/mask/{name}"


def shape(extents: Sequence[int]) -> str:
    """Name of a constant target shape, int64, of Reshape nodes whose original computes it."""
    return f"skipc/shape/{'x'.join(map(str, extents))}"


def packed(value: str, branch: str = "") -> str:
    """Name of a value with its real tokens side by side, [tokens, features], where padding is left out."""
    return f"{branch or 'skipc'}/packed/{value}"


def padded(value: str, branch: str = "") -> str:
    """Name of such a value with its padding again, [batch, sequence, features]."""
    return f"{branch or 'skipc'}/padded/{value}"


def bypass(region: str) -> str:
    """Name of the branch that stands in for a region, and of its result."""
    return f"skipc/{region}/bypass"


def kept(region: str) -> str:
    """Prefix of the names of what is left of the region's hidden layer in a narrow bypass; its own names follow."""
    return f"skipc/{region}/bypass/kept"


def merged(region: str) -> str:
    """Name of what a bypass writes in place of the region's own value at the merge."""
    return f"skipc/{region}/bypass/merge"


def first_look(region: str) -> str:
    """Name of the class scores that a read-out gives before it is decided whether the second look is needed."""
    return f"skipc/{region}/first"


def full(region: str) -> str:
    """Name of the branch that holds the region's own nodes, and of its result."""
    return f"skipc/{region}/full"


def branch(name: str) -> str:
    """Name of the graph in a branch whose result has this name: viewers show long ones and those with dots in part."""
    return name.removeprefix("skipc/").replace(".", "-")


def is_ours(name: str) -> bool:
    """Whether a value or node with this name was added by skipc."""
    return name.startswith(("skipc.", "skipc/"))
