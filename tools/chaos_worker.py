"""A worker of tfadv.train that kills itself, or all workers, at the moment that TFADV_CHAOS names.

For tools/chaos.py, which gives TFADV_CHAOS, a `Kill` as JSON, and TFADV_CHAOS_DIR, a folder where
workers find each other. Without TFADV_CHAOS it only trains.
"""

import json
import os
import pathlib
import signal
import threading
import time

import keras
import numpy as np
import tensorflow as tf
from chaos_plan import Kill

from tfadv import callbacks, checkpoint_files, distributed, event_files, launcher
from tfadv.programs import building, start
from tfadv.training import adversarial_step, checkpoints

FOLDER = pathlib.Path(os.environ["TFADV_CHAOS_DIR"])


class Point:
    """The moment at which to kill, and the killing."""

    def __init__(self, kill):
        self.kill = kill
        self.mine = launcher.rank() == kill.rank
        self.passed = 0
        self.inside = 0

    def reach(self, kind, moment, count=None):
        """Kills, if it is this moment, and for the `count`th time here."""
        if self.mine and (kind, moment) == (self.kill.kind, self.kill.moment):
            self.passed += 1
            if self.passed == (count or self.kill.count):
                self.strike()

    def enter(self, again):
        """Kills a little later, if `leave` was not called by then; at later passages if `again`."""
        self.passed += 1
        if self.passed == self.kill.count or (again and self.passed > self.kill.count):
            self.inside = self.passed
            threading.Thread(target=self._later, args=(self.passed,), daemon=True).start()

    def leave(self):
        self.inside = 0

    def _later(self, passage):
        time.sleep(self.kill.delay)
        if self.inside == passage:
            self.strike()

    def strike(self):
        strike(self.kill)


def strike(kill, folder=FOLDER):
    """Kills whom it shall, and notes when."""
    (folder / "struck").write_text(str(time.time()))
    ranks = {path: int(path.name.partition("-")[2]) for path in folder.glob("pid-*")}
    # Ourselves at last.
    for path, rank in sorted(ranks.items(), key=lambda found: found[1] == kill.rank):
        if kill.all or rank == kill.rank:
            os.kill(int(path.read_text()), signal.SIGKILL)


class Watch(keras.callbacks.Callback):
    """Notes for tools/chaos.py how far this worker is."""

    def on_train_begin(self, logs=None):
        self.file = os.open(FOLDER / f"updates-{launcher.rank()}", os.O_CREAT | os.O_WRONLY)
        self._note()

    def on_train_batch_end(self, batch, logs=None):
        self._note()

    def _note(self):
        os.pwrite(self.file, b"%08d" % int(self.model.optimizer.iterations), 0)


class Place(keras.callbacks.Callback):
    """A place between two callbacks."""

    def __init__(self, point, last_epochs):
        super().__init__()
        self.point = point
        self.last_epochs = last_epochs
        self._updates = None

    def on_epoch_begin(self, epoch, logs=None):
        self._switch = epoch == self.params["epochs"] - self.last_epochs
        self._updates = int(self.model.optimizer.iterations)
        if self._switch:
            self.point.reach("switch", "before")

    def on_train_batch_end(self, batch, logs=None):
        if self._switch and int(self.model.optimizer.iterations) > self._updates:
            self.point.reach("switch", "update")

    def on_epoch_end(self, epoch, logs=None):
        self.point.reach("epoch's end", "callback", count=1)


def put_callbacks(point):
    """Puts ours among those of the program."""
    real = building.training_callbacks
    # A point for every update, as no flag asks for.
    building.callbacks.TrainingScalars = within_epochs(callbacks.TrainingScalars)

    def training_callbacks(settings, *arguments):
        found = real(settings, *arguments)
        if point is not None:
            behind = point.kill.count if point.kill.kind == "epoch's end" else 1
            found.insert(behind, Place(point, settings.running_statistics))
        return [*found, Watch()]

    building.training_callbacks = training_callbacks


def within_epochs(kind):
    return lambda log_dir, update_freq: kind(log_dir, update_freq=1)


def put_attack(point):
    """Every gradient of an attack in training."""

    class Attacked(adversarial_step.Frozen):
        def prepare(self):
            logits = super().prepare()

            def watched(images):
                with tf.control_dependencies([in_graph(lambda: point.reach("attack", "step"))]):
                    return logits(tf.identity(images))

            return watched

    adversarial_step.Frozen = Attacked


def put_all_reduce(point):
    """The all-reduce of a step: from before its tensors are handed over until their means come."""
    real = distributed.mean

    def enter():
        if point.mine:
            point.enter(again=point.kill.moment == "exchange")
            return
        point.passed += 1
        if point.kill.moment == "waiting" and point.passed == point.kill.count:
            time.sleep(2)  # and the other one waits

    def mean(tensors, name, half=0):
        with tf.control_dependencies(tensors):
            entered = in_graph(enter)
        with tf.control_dependencies([entered]):
            sent = [tf.identity(tensor) for tensor in tensors]
        means = real(sent, name, half)
        with tf.control_dependencies(means):
            left = in_graph(point.leave)
        with tf.control_dependencies([left]):
            return [tf.identity(tensor) for tensor in means]

    distributed.mean = mean


def put_files(point):
    """The writing of a checkpoint and its renaming, of the best and of its record."""
    write, stamp, replace = checkpoints.write, checkpoint_files.stamp, pathlib.Path.replace

    def watched_write(*arguments):
        point.reach("writing", "begun")
        if point.kill.moment == "during" and point.mine:
            point.enter(again=True)
        write(*arguments)
        point.leave()
        point.reach("writing", "not synced")

    def watched_stamp(*arguments):
        point.reach("writing", "not stamped")
        stamp(*arguments)

    def watched_replace(path, target):
        ours = pathlib.Path(target).parent.name == "checkpoints"
        if ours:
            point.reach("renaming", "before")
        found = replace(path, target)
        if ours:
            point.reach("renaming", "after")
        return found

    checkpoints.write, checkpoint_files.stamp = watched_write, watched_stamp
    pathlib.Path.replace = watched_replace


def put_records(point):
    """The writing of a TensorBoard record at an epoch's end, half done."""
    kind = event_files._Unbuffered
    write, number = kind.write, point.kill.count
    scalars = callbacks.TrainingScalars.on_epoch_end

    def on_epoch_end(self, epoch, logs=None):
        kind.write = half
        scalars(self, epoch, logs)
        kind.write = write

    def half(self, data):
        if point.passed + 1 == number:
            write(self, data[: len(data) // 2])
        point.reach("epoch's end", "record")
        write(self, data)

    callbacks.TrainingScalars.on_epoch_end = on_epoch_end


def put_switch(point):
    """Between batch statistics and running statistics."""
    install, step = callbacks.AdversarialTraining.install, adversarial_step.AdversarialStep
    call = step.__call__

    def watched_install(self):
        install(self)
        if self.step.running_statistics:
            point.reach("switch", "installed")

    def watched_call(self, data):
        found = call(self, data)
        if self.running_statistics:  # and this is the tracing of it
            point.reach("switch", "tracing")
        return found

    callbacks.AdversarialTraining.install = watched_install
    step.__call__ = watched_call


def in_graph(function):
    """An operation that calls a function when its turn in the graph has come."""

    def call():
        function()
        return np.True_

    return tf.numpy_function(call, [], tf.bool)


PUT = {
    "attack": put_attack,
    "all-reduce": put_all_reduce,
    "writing": put_files,
    "renaming": put_files,
    "switch": put_switch,
}


def main():
    (FOLDER / f"pid-{launcher.rank()}").write_text(str(os.getpid()))
    point = None
    if "TFADV_CHAOS" in os.environ:
        point = Point(Kill(**json.loads(os.environ["TFADV_CHAOS"])))
        if point.kill.moment == "record":
            put_records(point)
        elif point.kill.kind in PUT:
            PUT[point.kill.kind](point)
    put_callbacks(point)
    start.main("train")


if __name__ == "__main__":
    main()
