"""Dimensions of a token's state that have a meaning of their own.

The first belongs to `<s>`, which is the only token that has it. The next two, of opposite sign, say
that a token matters little: in MaxSim such tokens match one another in every language, and the dense
vector leaves the two out. The last two, of opposite sign, say how rare a token is in its language:
the sparse head starts as that, and the other heads leave them out.
"""

MARK = 0
NEUTRAL = (1, 2)
OWN = 1 + len(NEUTRAL)
RARITY = (-2, -1)
