"""How many threads may a library start in a worker? Libraries read that from the environment, when they are loaded."""

from __future__ import annotations

__all__ = ["thread_limits"]

# The same as joblib's: OpenMP, OpenBLAS, MKL, BLIS, Accelerate, Numba, numexpr.
_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def thread_limits(most: int | None) -> dict[str, str]:
    """Return the variables that keep each library to so many threads; none for None."""
    return {} if most is None else dict.fromkeys(_VARIABLES, str(most))
