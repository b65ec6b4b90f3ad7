"""For all tests: what one of them measured is nothing to another."""

from __future__ import annotations

import os

os.environ["SKIPC_NO_CACHE"] = "1"
