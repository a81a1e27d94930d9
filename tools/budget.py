#!/usr/bin/env python3
"""Hold packages against the style guide's budgets: exit status 1 where one is exceeded.

Usage: python tools/budget.py PACKAGE_DIR ...

Nothing is imported or run; every number comes from the source text.
"""

from __future__ import annotations

import sys
from pathlib import Path

from measure import FunctionFacts, ModuleFacts, cycles, load

FILE_LINES = 400
FUNCTION_LINES = 50
NESTING = 4


def over_budget(modules: list[ModuleFacts]) -> list[str]:
    """Say for each budget that is exceeded where and by what."""
    problems = [f"{m.path}: {m.lines} lines, budget {FILE_LINES}" for m in modules if m.lines > FILE_LINES]
    problems += [line for m in modules for f in m.functions for line in _function_problems(f)]
    return problems + [f"import cycle: {', '.join(group)}" for group in cycles(modules)]


def _function_problems(facts: FunctionFacts) -> list[str]:
    where = f"{facts.path}:{facts.line} {facts.name}"
    found = []
    if facts.length > FUNCTION_LINES:
        found.append(f"{where}: {facts.length} lines, budget {FUNCTION_LINES}")
    if facts.nesting > NESTING:
        found.append(f"{where}: nested {facts.nesting} deep, budget {NESTING}")
    return found


def main(places: list[str]) -> int:
    """Print what is over budget in each package."""
    problems = [line for place in places for line in over_budget(load(Path(place)))]
    print("\n".join(problems) or f"within budget: {', '.join(places)}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
