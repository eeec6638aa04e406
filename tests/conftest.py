"""What all tests share: settings of the property tests. Modules of this folder can be imported by every test."""

from __future__ import annotations

from hypothesis import settings

# No deadline (machines are shared and busy), no database (a run depends on the code alone).
settings.register_profile("onnxgrow", deadline=None, database=None, derandomize=True)
settings.load_profile("onnxgrow")
