"""The least time that a chip's peak rates allow."""

from medscope_jax.planning import CHIPS, roofline


def test_the_slowest_side_binds():
    chip = CHIPS["v5e"]
    line = roofline(chip, 197e12, 2 * 819e9, 100e9)
    assert (line.arithmetic, line.memory, line.interconnect) == (1.0, 2.0, 0.5)
    assert line.seconds == 2.0 and line.binds == "memory"
    assert roofline(chip, 0, 0, 1e9).binds == "interconnect"
