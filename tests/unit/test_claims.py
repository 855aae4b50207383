"""Claims of pretend devices by real processes, and what is said where no GPU can be had."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from seqprior import claims, device, training
from seqprior.claims import ASSIGNED, assigned_by, claim_device, lock_folder
from seqprior.device import claimed_device, cuda_index, device_names
from seqprior.errors import BadInput

SCRIPTS = Path(claims.__file__).resolve().parents[1]
TWO = ["pretend-0", "pretend-1"]
NOBODY = 65534
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")
# Claims one of two devices, says which and when, holds it, says until when. Clocks of one machine can be compared.
HOLD = """
import sys, time
from pathlib import Path
from seqprior.claims import claim_device
with claim_device(["pretend-0", "pretend-1"], Path(sys.argv[1])) as index:
    print(index, time.monotonic(), flush=True)
    time.sleep(float(sys.argv[2]))
    print(time.monotonic(), flush=True)
"""
# Claims the only device, forks a child that stays, and says the child's number.
FORK = """
import os, sys, time
from pathlib import Path
from seqprior.claims import claim_device
with claim_device(["pretend-0"], Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@pytest.fixture(autouse=True)
def no_scheduler(monkeypatch):
    """The tests may themselves run on a cluster, or with a GPU hidden."""
    for name in (*ASSIGNED, claims.FOLDER_VARIABLE):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start():
    """Start a Python program that can import seqprior; whatever runs on is killed."""
    with ExitStack() as ends:

        def run(code: str, *arguments: object) -> subprocess.Popen:
            command = [sys.executable, "-c", code, *map(str, arguments)]
            process = subprocess.Popen(
                command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(SCRIPTS)}
            )
            ends.callback(process.stdout.close)
            ends.callback(process.wait)
            ends.callback(process.kill)
            return process

        yield run


def refused(names, folder, seconds=0.0) -> str:
    with pytest.raises(BadInput) as caught, claim_device(names, folder, seconds):
        pytest.fail("a device was claimed")
    return str(caught.value)


def free(names, folder) -> list[bool]:
    """Whether each device is free, by a look at the locks from another process."""
    code = (
        "import fcntl, sys\n"
        "for path in sys.argv[1:]:\n"
        "    with open(path, 'r+') as lock:\n"
        "        try:\n"
        "            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
        "            print('free')\n"
        "        except BlockingIOError:\n"
        "            print('held')\n"
    )
    paths = [str(folder / f"{name}.lock") for name in names]
    answer = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, check=True).stdout
    return [line == "free" for line in answer.split()]


@pytest.fixture
def public_folder():
    """A folder that other users reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="seqprior-test-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def without_root():
    """Run the block with the effective rights of an ordinary user."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_eight_jobs_share_two_devices_and_none_is_used_by_two_at_a_time(start, tmp_path):
    jobs = [start(HOLD, tmp_path / "locks", 0.2) for _ in range(8)]
    uses = {0: [], 1: []}
    for job in jobs:
        said = job.communicate(timeout=60)[0].split()
        assert job.returncode == 0
        uses[int(said[0])].append((float(said[1]), float(said[2])))
    assert sum(map(len, uses.values())) == 8
    for spans in uses.values():
        assert spans
        spans.sort()
        assert all(ended <= begun for (_, ended), (begun, _) in pairwise(spans))


def test_the_devices_are_taken_in_order_and_given_back(tmp_path):
    with claim_device(TWO, tmp_path) as first:
        assert first == 0
        assert free(TWO[:1], tmp_path) == [False]
        with claim_device(TWO, tmp_path) as second:  # the same process: record locks alone would give it 0 again
            assert second == 1
            assert refused(TWO, tmp_path).count(f"process {os.getpid()} of ") == 2
            assert free(TWO, tmp_path) == [False, False]
        assert free(TWO, tmp_path) == [False, True]
    assert free(TWO, tmp_path) == [True, True]
    with claim_device(TWO, tmp_path) as again:
        assert again == 0


def test_an_error_in_the_block_gives_the_device_back(tmp_path):
    with pytest.raises(ZeroDivisionError), claim_device(TWO, tmp_path):
        _ = 1 / 0
    assert free(TWO[:1], tmp_path) == [True]


def test_the_lock_file_says_who_holds_the_device(tmp_path):
    with claim_device(TWO, tmp_path):
        said = (tmp_path / "pretend-0.lock").read_text()
        # Reading it here has closed a descriptor of the locked file, which ends a record lock: hence no more asserts on
        # the lock itself.
        assert re.fullmatch(rf"process {os.getpid()} of \S+ on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d\S+\n", said)
    assert (tmp_path / "pretend-0.lock").read_text() == ""


def test_a_killed_job_frees_its_device(start, tmp_path):
    job = start(HOLD, tmp_path, 60)
    assert job.stdout.readline().startswith("0 ")
    assert "pretend-0 by process" in refused(TWO[:1], tmp_path)
    job.send_signal(signal.SIGKILL)
    job.wait()
    with claim_device(TWO[:1], tmp_path, 0.0) as index:
        assert index == 0


def test_a_forked_child_that_outlives_its_job_does_not_keep_the_device(start, tmp_path):
    job = start(FORK, tmp_path)
    child = int(job.stdout.readline())
    try:
        assert f"process {job.pid} of" in refused(TWO[:1], tmp_path)
        job.kill()
        job.wait()
        os.kill(child, 0)  # it lives, and still has the descriptor
        with claim_device(TWO[:1], tmp_path, 0.0) as index:
            assert index == 0
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_that_leaves_the_block_leaves_the_claim_and_the_signature_alone(tmp_path):
    lock = tmp_path / "pretend-0.lock"
    with ExitStack() as stack:
        stack.enter_context(claim_device(TWO, tmp_path))
        child = os.fork()
        if child == 0:
            status = 1
            try:
                stack.close()
                with claim_device(TWO, tmp_path, 0.0) as index:  # the parent's is held, and the child sees that
                    status = 0 if index == 1 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert free(TWO[:1], tmp_path) == [False]
        assert lock.stat().st_size > 0


def test_waiting_is_told_once_and_ends_when_a_device_is_free(start, tmp_path, caplog):
    job = start(HOLD, tmp_path, 0.8)
    job.stdout.readline()
    with caplog.at_level("INFO"), claim_device(TWO[:1], tmp_path, 30) as index:
        claimed = time.monotonic()
    assert index == 0
    assert claimed >= float(job.communicate()[0])
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith(f"no device is free, claimed are pretend-0 by process {job.pid} of ")


def test_waiting_ends_with_a_sentence_when_the_time_is_over(start, tmp_path):
    jobs = [start(HOLD, tmp_path, 60) for _ in range(2)]
    holders = {int(job.stdout.readline().split()[0]): job.pid for job in jobs}
    begun = time.monotonic()
    said = refused(TWO, tmp_path, 0.5)
    assert 0.5 <= time.monotonic() - begun < 5
    assert re.fullmatch(
        rf"no device is free, claimed are pretend-0 by process {holders[0]} of [^;]+; "
        rf"pretend-1 by process {holders[1]} of [^;]+; wait for those jobs to end, "
        rf"or start fewer at a time: --resources gpu=2",
        said,
    )


@pytest.mark.parametrize("name", ASSIGNED)
def test_no_claim_is_made_where_devices_were_assigned(name, tmp_path, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert assigned_by() == name
    with claim_device(TWO, tmp_path / "locks") as first, claim_device(TWO, tmp_path / "locks") as second:
        assert (first, second) == (0, 0)
    assert not (tmp_path / "locks").exists()


def test_what_images_of_nvidia_set_assigns_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", "all")
    assert assigned_by() is None
    with claim_device(TWO, tmp_path), claim_device(TWO, tmp_path) as second:
        assert second == 1


def test_files_left_from_before_a_reboot_are_no_obstacle(tmp_path):
    (tmp_path / "pretend-0.lock").write_text("process 1 of root on elsewhere since 2001-01-01 00:00:00\n" * 9)
    with claim_device(TWO, tmp_path) as index:
        assert index == 0
        assert (tmp_path / "pretend-0.lock").stat().st_size < 200


def test_a_lock_on_a_file_that_was_removed_meanwhile_does_not_count(tmp_path, monkeypatch):
    lockf, path = fcntl.lockf, tmp_path / "pretend-0.lock"

    def remove_first(*arguments):
        monkeypatch.setattr(fcntl, "lockf", lockf)
        path.unlink()
        return lockf(*arguments)

    monkeypatch.setattr(fcntl, "lockf", remove_first)
    with claim_device(TWO[:1], tmp_path, 30):
        assert free(TWO[:1], tmp_path) == [False]  # of the file that the name leads to now


def test_names_with_slashes_make_a_file_each_in_the_folder(tmp_path):
    with ExitStack() as stack:
        for name in ("MIG-GPU-8932/3/0", "MIG-GPU-8932/4/0", "MIG-GPU-8932%2F3/0", "../x"):
            stack.enter_context(claim_device([name], tmp_path / "locks", 0.0))
        assert len(list((tmp_path / "locks").iterdir())) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def test_folder_and_files_are_for_all_users_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        with claim_device(TWO, tmp_path / "locks"):
            assert os.umask(0o077) == 0o077
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "locks").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "locks" / "pretend-0.lock").stat().st_mode) == 0o666


@needs_root
def test_another_users_folder_and_files_serve_as_well(public_folder):
    locks = public_folder / "locks"
    public_folder.chmod(0o777)
    with claim_device(TWO[:1], locks):
        pass
    with without_root():
        with claim_device(TWO[:1], locks) as index:
            assert index == 0
            assert "by process" in refused(TWO[:1], locks)
        with claim_device(["pretend-2"], locks):
            pass
    assert (locks / "pretend-2.lock").stat().st_uid == NOBODY
    with claim_device(["pretend-2"], locks) as index:
        assert index == 0


def test_an_existing_file_is_opened_without_o_creat(tmp_path, monkeypatch):
    """Linux refuses O_CREAT on another user's file in a sticky folder where fs.protected_regular is set."""
    with claim_device(TWO[:1], tmp_path):
        pass
    opened, flags_of = os.open, []

    def spy(path, flags, *rest, **options):
        flags_of.append((str(path), flags))
        return opened(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", spy)
    with claim_device(TWO, tmp_path), claim_device(TWO, tmp_path):
        pass
    seen = [flags for name, flags in flags_of if name == "pretend-0.lock"]
    assert seen
    assert not any(flags & os.O_CREAT for flags in seen)
    made = [flags for name, flags in flags_of if name == "pretend-1.lock" and flags & os.O_CREAT]
    assert made
    assert all(flags & os.O_EXCL for flags in made)


@pytest.mark.parametrize("target", ["a folder", "nothing"])
def test_a_link_for_a_folder_is_refused(tmp_path, target):
    elsewhere = tmp_path / "elsewhere"
    if target == "a folder":
        elsewhere.mkdir()
    (tmp_path / "locks").symlink_to(elsewhere)
    assert refused(TWO, tmp_path / "locks") == (
        f"{tmp_path}/locks: no folder for the locks of devices (it is a symbolic link); set SEQPRIOR_DEVICE_LOCKS to "
        f"one on a local disk that all who use the devices may write"
    )
    assert target == "nothing" or not list(elsewhere.iterdir())
    assert elsewhere.exists() == (target == "a folder")


def test_a_file_for_a_folder_and_a_missing_parent_are_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    assert "file: no folder for the locks of devices (Not a directory)" in refused(TWO, tmp_path / "file")
    assert "locks of devices (No such file or directory)" in refused(TWO, tmp_path / "none" / "locks")


def test_a_folder_and_a_file_that_may_not_be_written_are_refused(public_folder):
    locks = public_folder / "locks"
    locks.mkdir()
    locks.chmod(0o555)
    with without_root():
        assert "locks/pretend-0.lock: no lock file of a device (Permission denied)" in refused(TWO, locks)
    locks.chmod(0o777)
    (locks / "pretend-0.lock").touch()
    (locks / "pretend-0.lock").chmod(0o444)
    with without_root():
        assert "locks/pretend-0.lock: no lock file of a device (Permission denied)" in refused(TWO, locks)
    locks.chmod(0)
    with without_root():
        assert "locks: no folder for the locks of devices (Permission denied)" in refused(TWO, locks)
    locks.chmod(0o755)


@pytest.mark.parametrize("kind", ["link", "second name", "pipe"])
def test_a_lock_file_that_leads_elsewhere_is_refused_and_not_written(tmp_path, kind):
    precious, lock = tmp_path / "precious", tmp_path / "locks" / "pretend-0.lock"
    precious.write_text("do not touch")
    lock.parent.mkdir()
    if kind == "link":
        lock.symlink_to(precious)
    elif kind == "second name":
        lock.hardlink_to(precious)
    else:
        os.mkfifo(lock)
    reason = os.strerror(errno.ELOOP) if kind == "link" else "it is no plain file or has a second name"
    assert refused(TWO, tmp_path / "locks") == (
        f"{lock}: no lock file of a device ({reason}); have its owner delete it, or set SEQPRIOR_DEVICE_LOCKS to "
        f"another folder for all jobs"
    )
    assert precious.read_text() == "do not touch"


def test_a_signature_that_would_steer_the_terminal_is_not_printed(start, tmp_path):
    start(HOLD, tmp_path, 60).stdout.readline()
    (tmp_path / "pretend-0.lock").write_text("\x1b[2Jprocess 1\n")
    assert "pretend-0 by a process that has not signed;" in refused(TWO[:1], tmp_path)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def none(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "lockf", none)
    assert refused(TWO, tmp_path) == (
        f"{tmp_path}/pretend-0.lock: the file system has no locks for devices (No locks available); set "
        f"SEQPRIOR_DEVICE_LOCKS to a folder on a local disk"
    )


def test_refusals_leave_no_descriptor_open_and_no_claim(start, tmp_path):
    start(HOLD, tmp_path, 60).stdout.readline()
    (tmp_path / "pretend-1.lock").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pretend-2.lock")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for name in ("pretend-0", "pretend-1", "pretend-2"):
        refused([name], tmp_path)
    with claim_device(["pretend-3"], tmp_path):
        refused(["pretend-3"], tmp_path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert claims._claimed == {}


def test_the_folder_is_the_machines_or_the_chosen_one(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # Snakemake sets it for each job
    assert lock_folder() == Path("/tmp/seqprior-devices")
    monkeypatch.setenv("SEQPRIOR_DEVICE_LOCKS", str(tmp_path / "locks"))
    assert lock_folder() == tmp_path / "locks"


LISTED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f)
  MIG 1g.5gb      Device  0: (UUID: MIG-3d7ef5cd-0f2a-5c1a-8b0e-000000000001)
GPU 1: Tesla T4 (UUID: GPU-aaaaaaaa-d268-c3f3-1b07-005d5ae1dc3f)
"""
UUIDS = ["GPU-5c89852c-d268-c3f3-1b07-005d5ae1dc3f", "GPU-aaaaaaaa-d268-c3f3-1b07-005d5ae1dc3f"]


def nvidia_smi(folder: Path, monkeypatch, body: str) -> None:
    """Put a program of this name at the front of the search path."""
    folder.mkdir()
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\n{body}\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """What PyTorch says on a machine with two GPUs, of which the second slot holds the faster one."""
    nvidia_smi(tmp_path / "bin", monkeypatch, f"cat <<'END'\n{LISTED}END")
    monkeypatch.setenv("SEQPRIOR_DEVICE_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    order = [uuid.removeprefix("GPU-") for uuid in reversed(UUIDS)]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=order[index]))
    current = []
    monkeypatch.setattr(torch.cuda, "device", lambda index: current.append(index) or nullcontext())
    return current


def test_the_claimed_gpu_is_the_one_of_the_uuid_and_the_current_one(two_gpus, tmp_path):
    with claimed_device("gpu") as first:
        assert first == torch.device("cuda", 1)
        with claimed_device("gpu") as second:
            assert second == torch.device("cuda", 0)
            with pytest.raises(BadInput, match="no device is free"), claimed_device("gpu", 0.0):
                pass
    assert two_gpus == [1, 0]
    assert sorted(path.stem for path in (tmp_path / "locks").iterdir()) == UUIDS


def test_an_assigned_gpu_is_the_first_that_is_visible(two_gpus, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with claimed_device("gpu") as place:
        assert place == torch.device("cuda", 0)
    assert two_gpus == [0]
    assert not (tmp_path / "locks").exists()


def test_a_uuid_that_pytorch_does_not_know_is_taken_by_its_place(two_gpus, monkeypatch):
    assert cuda_index("GPU-other", 1) == 1
    assert cuda_index("gpu-1", 1) == 1
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace())
    assert cuda_index(UUIDS[0], 0) == 0


def test_names_are_uuids_if_nvidia_smi_lists_as_many_and_numbers_otherwise(tmp_path, monkeypatch):
    nvidia_smi(tmp_path / "bin", monkeypatch, f"cat <<'END'\n{LISTED}END")
    assert device_names(2) == UUIDS
    assert device_names(3) == ["gpu-0", "gpu-1", "gpu-2"]
    nvidia_smi(tmp_path / "broken", monkeypatch, f"cat <<'END'\n{LISTED}END\nexit 9")
    assert device_names(2) == ["gpu-0", "gpu-1"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device_names(2) == ["gpu-0", "gpu-1"]


def test_an_nvidia_smi_that_hangs_is_refused(tmp_path, monkeypatch):
    nvidia_smi(tmp_path / "bin", monkeypatch, "exec sleep 30")
    monkeypatch.setattr(device, "ANSWER_SECONDS", 0.3)
    with pytest.raises(BadInput) as caught:
        device_names(2)
    assert str(caught.value) == (
        "nvidia-smi has not listed the GPUs within 0.3 seconds; call nvidia-smi -L to see what is wrong with the driver"
    )


def test_the_cpu_is_claimed_by_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQPRIOR_DEVICE_LOCKS", str(tmp_path / "locks"))
    with claimed_device("cpu") as first, claimed_device("cpu") as second:
        assert first == second == torch.device("cpu")
    assert not (tmp_path / "locks").exists()


def test_training_holds_its_gpu_and_uses_one_process(tmp_path, monkeypatch):
    held, runs = [], []

    @contextmanager
    def pretend(name):
        held.append(name)
        yield torch.device("cpu")
        held.clear()

    monkeypatch.setattr(training, "claimed_device", pretend)
    monkeypatch.setattr(
        training, "train_process", lambda rank, world, *rest: runs.append((rank, world, rest[-1].type, list(held)))
    )
    settings = training.TrainingSettings(test=(), validation=(), crop_length=8, crops_per_step=2, processes=2)
    training.train({"one": np.zeros(100, np.uint8)}, settings, tmp_path / "out", "gpu")
    assert runs == [(0, 1, "cpu", ["gpu"])]
    assert held == []


def no_gpu(monkeypatch, cuda: str | None, reason: str) -> str:
    """What is said where PyTorch is built for this CUDA and starting it fails for this reason."""

    def fail():
        raise RuntimeError(reason)

    monkeypatch.setattr(torch, "__version__", "2.13.0+pretend")
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(BadInput) as caught, claimed_device("gpu"):
        pytest.fail("a device was given")
    return str(caught.value)


def test_a_build_of_pytorch_without_gpus_is_named(monkeypatch):
    assert no_gpu(monkeypatch, None, "not reached") == (
        "scoring.device is gpu but PyTorch 2.13.0+pretend is a build without GPU support; install one for CUDA or set "
        "it to cpu"
    )


@pytest.mark.parametrize("value", ["", "-1"])
def test_hidden_gpus_are_named(monkeypatch, value):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert no_gpu(monkeypatch, "13.0", "No CUDA GPUs are available") == (
        f"scoring.device is gpu but CUDA_VISIBLE_DEVICES is '{value}', which hides all GPUs; give the job a GPU, unset "
        f"CUDA_VISIBLE_DEVICES or set scoring.device to cpu"
    )


def test_a_driver_that_is_too_old_is_named_in_one_sentence(monkeypatch):
    said = "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver ...\nMore."
    assert no_gpu(monkeypatch, "13.0", said) == (
        "scoring.device is gpu but PyTorch 2.13.0+pretend cannot use one (The NVIDIA driver on your system is too old "
        "(found version 11040)); give the job a GPU, update its driver or set it to cpu"
    )


def test_claims_import_no_torch():
    code = "import sys, seqprior.claims; print('torch' in sys.modules)"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(SCRIPTS)}
    )
    assert answer.stdout == "False\n"
