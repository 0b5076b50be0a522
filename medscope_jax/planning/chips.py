"""What a TPU chip can do at most, by its maker's word, and the least time that this allows.

Sources, read in November 2026: docs.cloud.google.com/tpu/docs/v4, /v5e, /v5p-training and /v6e,
tables of key specifications: peak compute a chip in bfloat16, HBM bandwidth, and the bidirectional
bandwidth of the inter-chip interconnect (ICI) of a chip's links together, of which each direction
has half. v4's page leaves the latter out: six links of 50 GB/s a direction (Jouppi et al., "TPU
v4", ISCA 2023, table 4).
"""

import dataclasses

SIDES = ("arithmetic", "memory", "interconnect")


@dataclasses.dataclass(frozen=True)
class Chip:
    """Peak rates of one chip, which no program reaches."""

    flops: float  # bfloat16 operations a second
    hbm: float  # bytes a second between chip and its HBM
    ici: float  # bytes a second that all links together send, one direction


CHIPS = {
    "v4": Chip(flops=275e12, hbm=1200e9, ici=300e9),
    "v5e": Chip(flops=197e12, hbm=819e9, ici=200e9),
    "v5p": Chip(flops=459e12, hbm=2765e9, ici=600e9),
    "v6e": Chip(flops=918e12, hbm=1638e9, ici=400e9),
}


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that each side of a chip needs at its peak rate; at best they overlap."""

    arithmetic: float  # matrix products
    memory: float  # bytes between chip and HBM
    interconnect: float  # bytes to other chips, all links at work in one direction each

    @property
    def seconds(self) -> float:
        """The slowest side's time: no run is faster."""
        return max(self.arithmetic, self.memory, self.interconnect)

    @property
    def binds(self) -> str:
        """Which of SIDES is the slowest."""
        return max(SIDES, key=lambda side: getattr(self, side))

    def minus(self, other: "Roofline") -> "Roofline":
        """What is left without another part of the same program."""
        return Roofline(*(getattr(self, side) - getattr(other, side) for side in SIDES))


def roofline(chip: Chip, flops: float, hbm_bytes: float, ici_bytes: float) -> Roofline:
    """The Roofline of one chip's share of a program.

    Args:
        flops: operations of this chip.
        hbm_bytes: bytes that it reads from its memory and writes to it.
        ici_bytes: bytes that it sends to other chips.
    """
    return Roofline(flops / chip.flops, hbm_bytes / chip.hbm, ici_bytes / chip.ici)
