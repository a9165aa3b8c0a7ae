import fcntl
import os
import pathlib
import re

from tfadv import launcher
from tfadv.config import parsing

# What may differ when a run is continued: it does not change what is trained.
FREE = (
    "resume check run_dir data_dir keep_checkpoints eval_num_steps eval_every eval_limit "
    "strong_eval_num_steps strong_eval_every rematerialize image_pairs"
).split()


class RunDirectory:
    """The directory of one run, and the rules that keep its contents safe.

    `flags.txt` (the resolved flags, a flagfile), `log.jsonl`, `checkpoints/epoch-0001.keras` and so
    on, `checkpoints/best.keras`, `model.keras`, `statistics.png`, `evaluation.json`,
    `tensorboard/`.

    Args:
        path: Of the directory.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.flags = self.path / "flags.txt"
        self.log = self.path / "log.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.keras"
        self.model = self.path / "model.keras"
        self.statistics = self.path / "statistics.png"
        self.evaluation = self.path / "evaluation.json"
        self.tensorboard = self.path / "tensorboard"
        self._lock = None

    def check(self, table, settings):
        """Raises `ValueError` if training with `settings` would touch what another run left.

        Args:
            table: The flags' table.
            settings: The namespace of the new run.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"run_dir must be a directory; received {self.path}")
        if self.flags.exists():
            if not settings.resume:
                raise ValueError(
                    f"run_dir must be new, or --resume must be given to continue the run it holds; "
                    f"received {self.path}"
                )
            before = self.settings(table)
            for flag in table:
                old, new = getattr(before, flag.name), getattr(settings, flag.name)
                if flag.name not in FREE and old != new:
                    raise ValueError(
                        f"{flag.name} must be {old} to continue the run in {self.path}; "
                        f"received {new}"
                    )
        elif self.path.is_dir() and any(p.name != ".lock" for p in self.path.iterdir()):
            raise ValueError(
                f"run_dir must be new, empty or a run of tfadv; received {self.path}, which holds "
                "other files"
            )
        if launcher.rank() == 0 and self.path.is_dir():
            self._take_lock()
            self.close()

    def open(self, table, settings):
        """Takes the directory for a run: on rank 0, and until the process ends."""
        if launcher.rank() == 0:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            self._take_lock()
            if not self.flags.exists():
                temporary = self.flags.with_suffix(".tmp")
                temporary.write_text(parsing.flagfile(table, settings), encoding="utf-8")
                temporary.replace(self.flags)

    def close(self):
        """Gives the directory free."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def settings(self, table):
        """The settings that the run in this directory was started with."""
        self._check_run()
        return parsing.parse("run", "", table, [f"--flagfile={self.flags}"])

    def saved_epochs(self):
        """Paths of the checkpoints by number of finished epochs, oldest first."""
        found = {}
        for path in self.checkpoints.glob("epoch-*.keras"):
            match = re.fullmatch(r"epoch-(\d+)\.keras", path.name)
            if match:
                found[int(match[1])] = path
        return dict(sorted(found.items()))

    def checkpoint(self, which):
        """Path of a checkpoint: `"last"`, `"best"` or the number of an epoch.

        Raises:
            ValueError: If there is none.
        """
        self._check_run()
        saved = self.saved_epochs()
        if which == "best" and self.best.is_file():
            return self.best
        if which == "last" and self.model.is_file():
            return self.model
        if which == "last" and saved:
            return list(saved.values())[-1]
        if which.isdigit() and int(which) in saved:
            return saved[int(which)]
        kept = ", ".join(map(str, saved)) or "none"
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
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise ValueError(
                f"run_dir must not be in use by another training; received {self.path}"
            ) from None
        self._lock = descriptor
