"""The directory of a run: its files, its lock, and the models that other programs take from it."""

import contextlib
import fcntl
import os
import time
from pathlib import Path
from types import SimpleNamespace

from tfadv import checkpoint_files, launcher, whole_files
from tfadv.programs import flagfiles, flags
from tfadv.settings import TRAIN, Role

# Files that a run may leave if it is killed before its flags are written.
_EARLY = (".lock", ".flags.txt.writing")


class RunDirectory:
    """The directory of one run, and the rules that keep its contents safe.

    It holds `flags.txt` (the resolved flags, a flagfile), `log.jsonl`, `checkpoints/` with
    `epoch-0001.keras` and so on (`tfadv.checkpoint_files`) and `best.keras`, `model.keras`,
    `statistics.png` and `evaluation.json`. TensorBoard's runs `train`, `validation` and
    `evaluation` lie beside them, so that they are called `{name}/train` and so on.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.flags = self.path / flagfiles.WRITTEN
        self.log = self.path / "log.jsonl"
        self.stalled = self.path / "stalled.log"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.keras"
        self.model = self.path / "model.keras"
        self.statistics = self.path / "statistics.png"
        self.evaluation = self.path / "evaluation.json"
        self.inspection = self.path / "inspection"
        # Earlier versions had a directory of its own for them, in which such a run goes on.
        before = self.path / "tensorboard"
        self.tensorboard = before if before.is_dir() else self.path
        self._lock: int | None = None

    def check(self, settings: SimpleNamespace) -> None:
        """Raises `ValueError` if training with `settings` would damage what the directory holds."""
        check_directory("run_dir", self.path)
        if self.flags.exists():
            if not settings.resume:
                raise ValueError(
                    f"run_dir must be new, or --resume must be given to continue the run it holds; "
                    f"received {self.path}"
                )
            before = self.settings()
            for setting in TRAIN:
                old, new = getattr(before, setting.name), getattr(settings, setting.name)
                if not setting.roles & Role.FREE and old != new:
                    raise ValueError(
                        f"{setting.name} must be {old} to continue the run in {self.path}; "
                        f"received {new}"
                    )
        elif self.path.is_dir() and any(p.name not in _EARLY for p in self.path.iterdir()):
            raise ValueError(
                f"run_dir must be new, empty or a run of tfadv; received {self.path}, which holds "
                "other files"
            )
        if launcher.rank() == 0 and self.path.is_dir():
            self._take_lock()
            self.close()

    def open(self, settings: SimpleNamespace) -> None:
        """Locks the directory until `close` or the end of the process, and writes the flags.

        Only rank 0 does anything.
        """
        if launcher.rank() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if not self.flags.exists():
                whole_files.write_text(self.flags, flags.flagfile(TRAIN, settings))
            self.checkpoints.mkdir(exist_ok=True)

    def sign(self) -> bytes:
        """Writes something new into the lock's file, for `is_signed` on the other machines."""
        assert self._lock is not None, "sign comes after open"
        signature = os.urandom(16).hex().encode()
        os.pwrite(self._lock, signature, 0)
        os.fsync(self._lock)
        return signature

    def is_signed(self, signature: bytes) -> bool:
        """Whether this worker sees the directory that rank 0 has signed, not one of its own."""
        # A network's file system may remember that there was no directory, except when asked to
        # make it.
        created = []
        for path in (*reversed(self.path.absolute().parents), self.path):
            with contextlib.suppress(OSError):
                if not path.is_dir():
                    path.mkdir()
                    created.append(path)
        for path in reversed(created):
            path.rmdir()
        try:
            return (self.path / ".lock").read_bytes() == signature
        except OSError:
            return False

    def close(self) -> None:
        """Releases the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def settings(self) -> SimpleNamespace:
        """The settings that the run was started with."""
        self._check_run()
        return flags.parse(TRAIN, [f"--flagfile={self.flags}"])

    def saved(self) -> dict[tuple[int, int], Path]:
        """Paths of the checkpoints by (epochs, updates after them), oldest first."""
        return checkpoint_files.find(self.checkpoints)

    def checkpoint(self, which: str) -> Path:
        """Path of a checkpoint.

        Args:
            which: `"last"`, `"best"` or the number of an epoch.

        Raises:
            ValueError: If there is no such checkpoint.
        """
        self._check_run()
        saved = self.saved()
        epochs = {epoch: path for (epoch, step), path in saved.items() if step == 0}
        if which == "best" and self.best.is_file():
            return self.best
        if which == "last" and self.model.is_file():
            return self.model
        if which == "last" and saved:
            return list(saved.values())[-1]
        if which.isascii() and which.isdigit() and int(which) in epochs:
            return epochs[int(which)]
        kept = ", ".join(map(str, epochs)) or "none"
        raise ValueError(
            f"checkpoint must be last, best or an epoch that {self.path} keeps ({kept}); "
            f"received {which!r}"
        )

    def _check_run(self):
        if not self.flags.is_file():
            raise ValueError(f"run_dir must hold a run of tfadv.train; received {self.path}")

    def _take_lock(self):
        # The system releases such a lock when the process ends, however it ends.
        descriptor = os.open(self.path / ".lock", os.O_CREAT | os.O_RDWR)
        until = time.monotonic() + launcher.lock_seconds()
        while self._lock is None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._lock = descriptor
            except BlockingIOError:
                if time.monotonic() < until:
                    time.sleep(0.2)
                    continue
                os.close(descriptor)
                raise ValueError(
                    f"run_dir must not be in use by another training; received {self.path}"
                ) from None


def model_file(settings: SimpleNamespace) -> tuple[Path, RunDirectory | None]:
    """The file that `--model`, or `--run_dir` and `--checkpoint`, name, and the run.

    Settings that are None take the value of the run's setting with the same name.

    Raises:
        ValueError: If there is no such file.
    """
    if not settings.run_dir:
        path = Path(settings.model)
        if not path.is_file():
            raise ValueError(f"model must be a .keras file; received {path}")
        return path, None
    run = RunDirectory(settings.run_dir)
    path = run.checkpoint(settings.checkpoint)
    for name, value in vars(run.settings()).items():
        if getattr(settings, name, value) is None:
            setattr(settings, name, value)
    return path, run


def check_file(path: str) -> None:
    """Raises `ValueError` unless `--output` names a file that can be written."""
    if os.path.isdir(path):
        raise ValueError(f"output must be a file; {path} is a directory")
    if not Path(path).parent.is_dir():
        raise ValueError(f"output must be in a directory that exists; received {path}")


def check_directory(name: str, path: str | os.PathLike) -> None:
    """Raises `ValueError` unless a flag names a directory that exists or can be created."""
    path = Path(path)
    existing = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not existing.is_dir():
        raise ValueError(f"{name} must be a directory; received {path}, where {existing} is a file")
