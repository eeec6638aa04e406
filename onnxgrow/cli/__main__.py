"""``python -m onnxgrow.cli``: the command line without its installed script."""

from __future__ import annotations

from onnxgrow.cli.main import main

if __name__ == "__main__":
    main()
