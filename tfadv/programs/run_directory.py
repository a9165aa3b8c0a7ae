import fcntl
import os
import pathlib
import time

from tfadv import checkpoint_files, launcher, whole_files
from tfadv.programs import flags
from tfadv.programs.settings import TRAIN, Role

# What a run may leave that is killed before its flags are written.
_EARLY = (".lock", ".flags.txt.writing")


class RunDirectory:
    """The directory of one run, and the rules that keep its contents safe.

    `flags.txt` (the resolved flags, a flagfile), `log.jsonl`, `checkpoints/epoch-0001.keras` and so
    on (`tfadv.checkpoint_files`), `checkpoints/best.keras`, `model.keras`,
    `statistics.png`, `evaluation.json`, `tensorboard/`.

    Args:
        path: Of the directory.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.flags = self.path / "flags.txt"
        self.log = self.path / "log.jsonl"
        self.stalled = self.path / "stalled.log"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.keras"
        self.model = self.path / "model.keras"
        self.statistics = self.path / "statistics.png"
        self.evaluation = self.path / "evaluation.json"
        self.tensorboard = self.path / "tensorboard"
        self._lock = None

    def check(self, settings):
        """Raises `ValueError` if training with `settings` would touch what another run left.

        Args:
            settings: The namespace of the new run.
        """
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

    def open(self, settings):
        """Takes the directory for a run: on rank 0, and until the process ends."""
        if launcher.rank() == 0:
            self.path.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if not self.flags.exists():
                whole_files.write_text(self.flags, flags.flagfile(TRAIN, settings))
            self.checkpoints.mkdir(exist_ok=True)

    def close(self):
        """Releases the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def settings(self):
        """The settings that the run in this directory was started with."""
        self._check_run()
        return flags.parse(TRAIN, [f"--flagfile={self.flags}"])

    def saved(self):
        """Paths of the checkpoints by (finished epochs, updates of the next), oldest first."""
        return checkpoint_files.find(self.checkpoints)

    def checkpoint(self, which):
        """Path of a checkpoint: `"last"`, `"best"` or the number of an epoch.

        Raises:
            ValueError: If there is none.
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
        # The system frees such a lock when its process ends, however it ends.
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


def check_file(path):
    """Raises `ValueError` unless a file can be written at the path of `--output`."""
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"output must be a file; {path} is a directory")
    if not path.parent.is_dir():
        raise ValueError(f"output must be in a directory that is there; received {path}")


def check_directory(name, path):
    """Raises `ValueError` unless there is, or can be, a directory at the path of a flag."""
    path = pathlib.Path(path)
    found = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not found.is_dir():
        raise ValueError(f"{name} must be a directory; received {path}, where {found} is a file")
