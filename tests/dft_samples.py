"""Two structures of the classic text, for tests that put faults into them."""

GOOD = """\
Si_B1
1.0
4.0 0.0 0.0
0.5 4.0 0.0
0.0 0.0 5.0
2
cartesian
0.0 0.0 0.0
1.5 1.0 1.25
-10.5
"""
BAD = GOOD.replace("Si_B1", "Si_B2")  # the second structure, lines 11 to 20, where the tests put their faults
