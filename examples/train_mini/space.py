"""Dimensions of a token's state that have a meaning of their own.

The first belongs to `<s>`, which is the only token that has it. The next two, of opposite sign, say that a token matters
little: in MaxSim such tokens match one another in every language, and the dense vector leaves the two out. Content follows.
The end serves the sparse head (`saturation.py`), and the other heads leave it out: a code by which a token knows its other
occurrences, then minus the sum of the last three, so that a state has mean zero; a token's lexical weight; a measure of how
short the text is; how rare the token is in its language.
"""

# Tokens before the first of the language: `<s>`, `<pad>`, `</s>`, `<unk>`. Width of an attention head.
SPECIALS, HEAD = 4, 64
MARK = 0
NEUTRAL = (1, 2)
OWN = 1 + len(NEUTRAL)
BALANCE, WEIGHT, SHORTNESS, RARITY = -4, -3, -2, -1
CODE = 24
RESERVED = CODE + 4
