"""The processor's set-up: a user's choice stays, and a container's limits are respected."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from shared_files import PROJECT

from lm_core import blas

AVX512 = "fpu sse2 avx2 avx512f avx512bw avx512dq avx512vl avx512cd"
ZEN4 = {"vendor_id": "AuthenticAMD", "flags": AVX512}


@pytest.mark.parametrize(
    ("cpu", "kernels"),
    [
        (ZEN4, "SkylakeX"),
        ({**ZEN4, "flags": AVX512 + " avx512_vnni"}, "SkylakeX"),
        ({**ZEN4, "flags": AVX512.replace(" avx512dq", "")}, None),
        ({**ZEN4, "flags": "sse2 avx2"}, None),
        ({**ZEN4, "vendor_id": "GenuineIntel"}, None),
        ({}, None),
    ],
)
def test_kernels_are_chosen_where_openblas_would_not(cpu: dict[str, str], kernels: str | None) -> None:
    """AMD with every part of AVX-512; others are recognized by OpenBLAS itself."""
    environment: dict[str, str] = {}
    blas.prepare(environment, cpu)
    assert environment.get("OPENBLAS_CORETYPE") == kernels


@pytest.mark.parametrize("chosen", ["Haswell", "Zen", ""])
def test_a_users_choice_stays(chosen: str) -> None:
    """Even an empty one."""
    environment = {"OPENBLAS_CORETYPE": chosen}
    blas.prepare(environment, ZEN4)
    assert environment == {"OPENBLAS_CORETYPE": chosen}


def test_too_late_is_not_pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once NumPy is there, the variable would lie to whoever reads it."""
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    assert "numpy" in sys.modules
    blas.prepare(cpu=ZEN4)
    assert "OPENBLAS_CORETYPE" not in os.environ


def test_caches_are_read_from_the_system(tmp_path: Path) -> None:
    """Those that hold data, by level; the one for instructions does not count."""
    caches = [
        ("1", "Data", "32K"),
        ("1", "Instruction", "64K"),
        ("2", "Unified", "2048K"),
        ("3", "Unified", "36M"),
    ]
    for index, described in enumerate(caches):
        folder = tmp_path / f"index{index}"
        folder.mkdir()
        for name, text in zip(("level", "type", "size"), described, strict=True):
            (folder / name).write_text(text + "\n")
    assert blas.cache_bytes(tmp_path) == {1: 32 << 10, 2: 2 << 20, 3: 36 << 20}
    assert blas.second_level_cache_bytes(tmp_path) == 2 << 20
    (tmp_path / "index2/size").write_text("\n")
    (tmp_path / "index3/level").unlink()
    assert blas.cache_bytes(tmp_path) == {1: 32 << 10}
    assert blas.second_level_cache_bytes(tmp_path) == blas.USUAL_SECOND_LEVEL_CACHE


def test_setting_up_does_not_import_numpy() -> None:
    """Or it would be too late already; nor does the package itself, until a name of it is used."""
    code = (
        "import sys, lm_core; from lm_core import blas; blas.prepare(); blas.available_cores(); "
        "assert 'numpy' not in sys.modules; lm_core.SamplingParams; assert 'numpy' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=PROJECT, timeout=60)


def control_group(root: Path, **files: str) -> Path:
    """A folder like ``/sys/fs/cgroup``; ``__`` in a name is a slash."""
    for name, content in files.items():
        file = root / name.replace("__", "/")
        file.parent.mkdir(exist_ok=True)
        file.write_text(content)
    return root


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "400000 100000\n"}, 4.0),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "max\n"}, None),
        ({"cpu__cpu.cfs_quota_us": "250000\n", "cpu__cpu.cfs_period_us": "100000\n"}, 2.5),
        ({"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu__cpu.cfs_quota_us": "250000\n"}, None),
        ({"cpu.max": "garbage\n"}, None),
        ({"cpu.max": "100000 0\n"}, None),
        ({}, None),
    ],
)
def test_quotas_of_control_groups(files: dict[str, str], quota: float | None, tmp_path: Path) -> None:
    """Version 2, version 1, no limit, and what cannot be read."""
    assert blas._cgroup_quota(control_group(tmp_path, **files)) == quota


@pytest.mark.parametrize(
    ("affinity", "quota", "cores"), [(8, None, 8), (8, 2.5, 2), (2, 16.0, 2), (4, 0.5, 1), (1, None, 1)]
)
def test_available_cores(
    affinity: int, quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller of the affinity mask and the quota, whole, and never none."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(blas, "_physical_cores", len)
    monkeypatch.setattr(blas, "_cgroup_quota", lambda _: quota)
    assert blas.available_cores() == cores


def test_processors_of_one_core_count_once(tmp_path: Path) -> None:
    """Two that share a core share its arithmetic; where the system does not tell, each counts."""
    for number, siblings in enumerate(["0,2", "1,3", "0,2", "1,3"]):
        topology = tmp_path / f"cpu{number}" / "topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{siblings}\n")
    assert blas._physical_cores({0, 1, 2, 3}, tmp_path) == 2
    assert blas._physical_cores({0, 2}, tmp_path) == 1
    assert blas._physical_cores({0, 1}, tmp_path) == 2
    assert blas._physical_cores({0, 7, 8}, tmp_path) == 3


def test_the_crew_has_as_many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was set, by hand or by the environment; else the cores."""
    monkeypatch.setattr(blas, "_threads", None)
    for name in blas.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert blas.threads() == blas.available_cores()
    monkeypatch.setattr(blas, "_threads", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert blas.threads() == 5
    monkeypatch.setattr(blas, "_threads", None)
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "many")
    assert blas.threads() == 5


def test_available_cores_without_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some systems have no such call, and may not even tell how many cores there are."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(blas, "_cgroup_quota", lambda _: None)
    for count, cores in ((3, 3), (None, 1)):
        monkeypatch.setattr(os, "cpu_count", lambda count=count: count)
        assert blas.available_cores() == cores


def test_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """As asked for, or as the environment says, or one for each core; ``describe`` tells what is."""
    for name in blas.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    before = blas.describe()
    try:
        blas.set_threads(1)
        assert blas.describe().threads == 1
        blas.set_threads()
        assert blas.describe().threads == blas.available_cores()
        blas.set_threads(1)
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
        blas.set_threads()
        assert blas.describe().threads == 1
    finally:
        blas.set_threads(before.threads)
    assert blas.describe() == before


def test_describe_names_what_multiplies() -> None:
    """For logs: exactness holds while none of these change."""
    found = blas.describe()
    assert re.fullmatch(r"\S+ [\d.]+\S*, \S+ kernels, \d+ threads", str(found))
    assert "unknown" not in str(found)
