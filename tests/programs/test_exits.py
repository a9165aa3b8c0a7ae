"""Exit statuses and error messages, as the caller of a program sees them."""

import errno
import os
import signal
import subprocess
import sys
import warnings

import pytest

from tfadv import launcher
from tfadv.data.decoding import FAILED, UNREADABLE
from tfadv.programs import exits


@pytest.fixture
def status(tmp_path, monkeypatch):
    monkeypatch.setenv("TFADV_STATUS_FILE", str(tmp_path / "status"))
    return tmp_path / "status"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.ENOENT])
def test_a_file_that_cannot_be_written_is_one_line_and_status_1(number, status, capsys):
    with pytest.raises(SystemExit) as ended, exits.input_errors("train"):
        raise OSError(number, os.strerror(number), "runs/x/checkpoints/epoch-0001.keras")
    assert ended.value.code == 1 and status.read_text() == "1"
    assert capsys.readouterr().err == (
        f"tfadv.train: [Errno {number}] {os.strerror(number)}: "
        "'runs/x/checkpoints/epoch-0001.keras'\n"
    )


def test_an_error_in_the_setup_is_a_usage_error(status, capsys):
    with pytest.raises(SystemExit) as ended, exits.user_errors("train"):
        raise PermissionError(errno.EACCES, "Permission denied", "/root/run")
    assert ended.value.code == 2 and status.read_text() == "2"
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOSPC])
def test_a_failing_machine_is_no_usage_error(number, status, monkeypatch, capsys):
    monkeypatch.setenv("HOROVOD_RANK", "1")  # only the worker that meets it knows
    with pytest.raises(SystemExit) as ended, exits.user_errors("train"):
        raise OSError(number, os.strerror(number), "data/train")
    assert ended.value.code == 1 and status.read_text() == "1"
    assert capsys.readouterr().err.startswith(f"tfadv.train: [Errno {number}] ")


@pytest.mark.parametrize("everyone", [True, False])
def test_only_what_rank_0_does_not_report_is_reported_by_another_worker(
    everyone, status, monkeypatch, capsys
):
    def sleep(seconds):
        if everyone:
            raise SystemExit  # the launcher's signal, when rank 0 has ended

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("HOROVOD_RANK", "1")
    with pytest.raises(SystemExit), exits.user_errors("train"):
        raise ValueError("data/train is not there")
    assert status.read_text() == "2"
    assert capsys.readouterr().err == ("" if everyone else "tfadv.train: data/train is not there\n")


def test_a_worker_that_prepares_ends_with_one_line_when_another_has_ended(monkeypatch, capsys):
    monkeypatch.setenv("HOROVOD_SIZE", "2")
    slept = []  # so that the other one has ended before, when the launcher looks for the first
    monkeypatch.setattr("time.sleep", slept.append)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended, exits.user_errors("train"):
        raise RuntimeError("Horovod has been shut down.\nThis was caused by ...")
    assert (ended.value.code, slept) == (1, [10])
    line = "tfadv.train: worker 0 stopped, since another one ended\n"
    assert capsys.readouterr().err == line


def test_the_status_of_the_worker_that_ended_first_counts(status):
    for each in (2, 75):
        launcher.report_status(each)
    assert status.read_text() == "2"


@pytest.mark.parametrize("detail, code", [("", 2), (" (a BMP with a palette)", 2), (FAILED, 1)])
def test_an_unreadable_image_is_a_usage_error_and_a_failing_disk_is_not(
    detail, code, status, tmp_path, capsys
):
    (tmp_path / "1.jpg").touch()
    text = f"assertion failed: [{UNREADABLE}] [{tmp_path}/1.jpg{detail}]"
    with pytest.raises(SystemExit) as ended, exits.input_errors("train"):
        raise RuntimeError(text)  # of TensorFlow's
    assert ended.value.code == code and status.read_text() == str(code)
    assert capsys.readouterr().err == f"tfadv.train: {UNREADABLE}: {tmp_path}/1.jpg{detail}\n"


def test_a_status_file_on_another_machine_is_ignored(monkeypatch, tmp_path):
    monkeypatch.setenv("TFADV_STATUS_FILE", str(tmp_path / "elsewhere" / "status"))
    launcher.report_status(75)
    assert list(tmp_path.iterdir()) == []


PREPARATION = """
import os, signal
from tfadv.programs import exits

exits.stop_without_loss()
try:
    os.kill(os.getpid(), {number})
finally:
    # A second one ends it at once.
    print(signal.getsignal({number}) == signal.SIG_DFL)
print("went on")
"""


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_a_signal_before_the_first_update_asks_for_a_restart(number, status):
    # In a new process, where no other test has set handlers.
    done = subprocess.run(
        [sys.executable, "-c", PREPARATION.format(number=int(number))],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (75, "True\n")
    assert status.read_text() == "75"


def test_a_warning_is_one_line_once_and_from_rank_0(monkeypatch, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = lambda message, *_: print("as Python does:", message)
        exits.show_warnings("train")
        for _ in range(2):
            warnings.warn("epsilon=0.03 is\nin pixels of 255", stacklevel=1)
        monkeypatch.setenv("HOROVOD_RANK", "1")
        warnings.warn("another", stacklevel=1)
        # Python still prints a library's warning that is not meant for users.
        warnings.warn("overflow", RuntimeWarning, stacklevel=1)
    said = capsys.readouterr()
    assert said.err == "tfadv.train: warning: epsilon=0.03 is in pixels of 255\n"
    assert said.out == "as Python does: overflow\n"


def test_a_missing_package_is_named_with_the_extra_that_brings_it(status, capsys):
    with pytest.raises(SystemExit) as ended, exits.user_errors("report"):
        raise ModuleNotFoundError("No module named 'pandas'", name="pandas")
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "tfadv.report: No module named 'pandas': pip install 'tfadv[programs]' brings it\n"
    )
