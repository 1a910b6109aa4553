# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: complete or absent, whatever happens in between."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from core import files

ROOT = Path(__file__).resolve().parents[2]


def test_content_appears_only_at_the_end(tmp_path):
    path = tmp_path / "a.txt"
    with files.atomic_write(path, "w") as file:
        file.write("Grüße\n")
        assert not path.exists()
    assert path.read_bytes() == "Grüße\n".encode()
    assert os.listdir(tmp_path) == ["a.txt"]


def test_exception_keeps_the_old_content_and_leaves_no_debris(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyboardInterrupt), files.atomic_write(path) as file:
        file.write(b"new")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_short_forms_and_permissions(tmp_path):
    path = tmp_path / "a"
    files.write_bytes(path, b"x\r\n")
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o600)
    files.write_text(path, "y\r\n")
    assert path.read_bytes() == b"y\r\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_link_keeps_pointing_at_the_replaced_file(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    files.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_is_explained(tmp_path, monkeypatch, code):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(files.DiskFullError, match=r"cannot write .*a\.bin: .*MiB free in"):
        files.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_other_system_errors_pass_unchanged(tmp_path, monkeypatch):
    def broken(descriptor):
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError) as caught:
        files.write_bytes(tmp_path / "a", b"new")
    assert not isinstance(caught.value, files.DiskFullError)
    assert os.listdir(tmp_path) == []


def test_a_real_size_limit_of_the_system(tmp_path):
    """The operating system itself refuses the write (file size limit of a child process)."""
    program = f"""
import resource, signal, sys
sys.path.insert(0, {str(ROOT)!r})
from core import files
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    files.write_bytes("out.bin", bytes(100_000))
except files.DiskFullError as error:
    print("explained:", error)
"""
    (tmp_path / "out.bin").write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert "explained: " in done.stdout and "out.bin" in done.stdout, done.stderr
    assert (tmp_path / "out.bin").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["out.bin"]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match="mode must be one of"), files.atomic_write("x", "a"):
        pass
    with (
        pytest.raises(FileNotFoundError, match="folder .*missing does not exist"),
        files.atomic_write(tmp_path / "missing" / "x"),
    ):
        pass
    with pytest.raises(IsADirectoryError, match="is a folder"), files.atomic_write(tmp_path):
        pass


def test_lock_is_exclusive_and_ends_with_its_holder(tmp_path):
    lock = tmp_path / "lock"
    program = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from core import files\n"
        "with files.exclusive_lock('lock'):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with (
            pytest.raises(files.FileInUseError, match="another process"),
            files.exclusive_lock(lock),
        ):
            pass
        holder.kill()
        holder.wait()
    with files.exclusive_lock(lock):
        pass
