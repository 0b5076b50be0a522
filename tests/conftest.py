"""Every test runs on the CPU, as eight virtual devices, so that sharding is testable anywhere."""

import os
import sys
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
# The project is run from its folder, not installed: tests import it from there too.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
