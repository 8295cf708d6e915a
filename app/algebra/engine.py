"""The one door to SymPy, typed as `Any` on purpose.

SymPy's own annotations are partial; everything that leaves this package is a typed
dataclass, so nothing untyped spreads.
"""

from typing import Any

import sympy as _sympy
import sympy.integrals.manualintegrate as _manual

sympy: Any = _sympy
_rules: Any = _manual
manualintegrate: Any = _rules.manualintegrate
