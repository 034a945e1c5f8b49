"""Whom can we measure? Every peer by name, whether it is installed or not."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys

from safepool.bench.frameworks import Joblib, Ray
from safepool.bench.libraries import Deadpool, Loky, Mpire, Pebble, Safepool
from safepool.bench.peer import Peer
from safepool.bench.standard import MpPool, Stdlib, StdlibFork

__all__ = ["PEERS", "installed", "version_of"]

PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Safepool, Stdlib, StdlibFork, MpPool, Loky, Pebble, Deadpool, Mpire, Joblib, Ray)
}


def installed() -> list[str]:
    """Return the names of the peers that can be measured here."""
    return [name for name, peer in PEERS.items() if not peer.module or importlib.util.find_spec(peer.module)]


def version_of(name: str) -> str:
    """Return the version of a peer that is installed."""
    peer = PEERS[name]
    if not peer.distribution:
        return f"Python {sys.version.split()[0]}"
    try:
        return importlib.metadata.version(peer.distribution)
    except importlib.metadata.PackageNotFoundError:  # safepool itself, run from a checkout
        return str(getattr(importlib.import_module(peer.module), "__version__", "unknown"))
