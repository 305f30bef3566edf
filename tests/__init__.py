"""The tests, in folders as the package has them."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The folder of the checkout."""
BYTECODE: Final = str(ROOT / ".cache" / "bytecode")
"""Where bytecode is kept of what must have none beside its sources."""
