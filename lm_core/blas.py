"""The processor and NumPy's BLAS: kernels are chosen before NumPy is imported, threads at any time.

This module imports neither NumPy nor anything of this project, so that every program can call
:func:`prepare` as its first act.
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from threadpoolctl import threadpool_info, threadpool_limits

CORETYPE_VARIABLE = "OPENBLAS_CORETYPE"
"""OpenBLAS reads it once, while it is being loaded."""

_AVX512_KERNELS = "SkylakeX"
_NEEDED_FOR_AVX512_KERNELS = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}
_VENDOR_TAKEN_FOR_HASWELL = "AuthenticAMD"


def prepare(
    environment: MutableMapping[str, str] | None = None, cpu: Mapping[str, str] | None = None
) -> None:
    """Choose the faster OpenBLAS kernels where OpenBLAS itself would not.  Call before importing NumPy.

    OpenBLAS takes AMD processors with AVX-512 for a Haswell; with the AVX-512 kernels GEMM is
    about 1.5 times as fast on them and matrix-vector products are the same (``doc/performance.md``).
    A choice that the user made stays.
    """
    environment = os.environ if environment is None else environment
    if CORETYPE_VARIABLE in environment or "numpy" in sys.modules and environment is os.environ:
        return
    cpu = _cpu_fields() if cpu is None else cpu
    flags = set(cpu.get("flags", "").split())
    if cpu.get("vendor_id") == _VENDOR_TAKEN_FOR_HASWELL and flags >= _NEEDED_FOR_AVX512_KERNELS:
        environment[CORETYPE_VARIABLE] = _AVX512_KERNELS


def _cpu_fields() -> dict[str, str]:
    """The first processor's fields of ``/proc/cpuinfo``; empty where there is no such file."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return {}
    fields: dict[str, str] = {}
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                name, separator, value = line.partition(":")
                if not separator:
                    break
                fields[name.strip()] = value.strip()
    except OSError:
        return {}
    return fields


PROCESSORS = Path("/sys/devices/system/cpu")
"""Where Linux describes the processors."""

CACHES = PROCESSORS / "cpu0/cache"
"""Where it describes the first core's caches."""

USUAL_SECOND_LEVEL_CACHE = 1 << 20
"""Bytes, where the system does not tell."""


def second_level_cache_bytes(root: Path = CACHES) -> int:
    """The size of the cache that a core has to itself."""
    return cache_bytes(root).get(2, USUAL_SECOND_LEVEL_CACHE)


def cache_bytes(root: Path = CACHES) -> dict[int, int]:
    """Bytes of the first core's caches that hold data, by level; empty where the system does not tell."""
    sizes: dict[int, int] = {}
    for index in root.glob("index*"):
        try:
            level, kind, size = ((index / name).read_text().strip() for name in ("level", "type", "size"))
            if kind != "Instruction":
                sizes[int(level)] = int(size[:-1]) << {"K": 10, "M": 20}[size[-1:]]
        except (OSError, ValueError, KeyError):
            continue
    return sizes


THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
"""What OpenBLAS reads when it is loaded."""


def available_cores() -> int:
    """Physical cores this process may use: the affinity mask, and a container's quota where it is smaller."""
    # The affinity call is missing on some systems.
    affinity = getattr(os, "sched_getaffinity", None)
    cores = _physical_cores(affinity(0)) if affinity is not None else os.cpu_count() or 1
    quota = _cgroup_quota(Path("/sys/fs/cgroup"))
    return max(1, min(cores, int(quota)) if quota is not None else cores)


def _physical_cores(processors: Iterable[int], root: Path = PROCESSORS) -> int:
    """How many cores these processors are: two that share one share its arithmetic and its cache."""
    cores = set()
    for number in processors:
        try:
            cores.add((root / f"cpu{number}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(f"{number}\n")
    return len(cores)


def _cgroup_quota(root: Path) -> float | None:
    """Processors granted by a control group, version 2 or 1; None without a limit."""
    try:
        quota, _, period = (root / "cpu.max").read_text().partition(" ")
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        pass
    try:
        granted = int((root / "cpu/cpu.cfs_quota_us").read_text())
        return None if granted < 0 else granted / int((root / "cpu/cpu.cfs_period_us").read_text())
    except (OSError, ValueError, ZeroDivisionError):
        return None


def set_threads(count: int | None = None) -> None:
    """Compute with ``count`` threads from now on: those of BLAS, and those of :mod:`lm_core.crew`.

    By default one for each available core, unless the environment has chosen already.
    """
    global _threads
    _threads = count
    if count is not None or _threads_by_environment() is None:
        threadpool_limits(limits=threads(), user_api="blas")


_threads: int | None = None


def threads() -> int:
    """How many threads may compute at once: what :func:`set_threads` has set, or would set."""
    global _threads
    if _threads is None:
        _threads = _threads_by_environment() or available_cores()
    return _threads


def _threads_by_environment() -> int | None:
    """The number that the user gave to OpenBLAS; None without one."""
    for name in THREAD_VARIABLES:
        number = os.environ.get(name, "")
        if number.isdecimal() and int(number) > 0:
            return int(number)
    return None


@dataclass(frozen=True)
class BlasDescription:
    """What multiplies the matrices: exactness holds while none of these change."""

    library: str
    version: str
    kernels: str
    threads: int

    def __str__(self) -> str:
        return f"{self.library} {self.version}, {self.kernels} kernels, {self.threads} threads"


@cache
def has_small_products() -> bool:
    """Whether BLAS multiplies small matrices as they lie, instead of rearranging them first."""
    return describe().kernels == _AVX512_KERNELS


def describe() -> BlasDescription:
    """The BLAS that NumPy has loaded."""
    import numpy  # noqa: F401 - the library is only there once NumPy is

    for library in threadpool_info():
        if library.get("user_api") == "blas":
            return BlasDescription(
                library=str(library.get("internal_api", "unknown")),
                version=str(library.get("version", "unknown")),
                kernels=str(library.get("architecture", "unknown")),
                threads=int(library.get("num_threads", 1)),
            )
    return BlasDescription("unknown", "unknown", "unknown", 1)
