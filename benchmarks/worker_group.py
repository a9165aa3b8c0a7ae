"""Horovod workers that train in turns: `python -m benchmarks.worker_group FOLDER` is one of them.

A group trains with `fit` and is suspended between its turns, so that groups of different sizes can
be measured in turns on the same machine. The workers communicate through files in a folder:
`settings` holds the group's settings; `ready0` holds a worker's process ID, once its graph is
compiled; `turn3` starts a turn; `done3.0` holds worker 0's seconds for each update; `end` ends the
training, and `result0` holds worker 0's results.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
_POLL = 0.005  # seconds
_REDUCTIONS = 40
_ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    # On a busy machine the workers are ready minutes apart.
    "HOROVOD_GLOO_TIMEOUT_SECONDS": "300",
    "TF_CPP_MIN_LOG_LEVEL": "2",
}


class Group:
    """Workers of one launch, each with one thread, and with its own core if there are enough.

    Args:
        count: Number of workers.
        **settings: `depth`, `images`, `num_steps` and `wait` (seconds that replace all arithmetic,
            or None) of `_training`; `updates` (in a turn), `measure` (whether to measure at the end
            which throughput the machine reaches), `core` (the first worker's).
    """

    def __init__(self, count, **settings):
        self.count = count
        self._folder = tempfile.TemporaryDirectory()
        self.folder = pathlib.Path(self._folder.name)
        (self.folder / "settings").write_text(json.dumps(settings), encoding="utf-8")
        launcher = pathlib.Path(sys.executable).parent / "horovodrun"
        module = [sys.executable, "-m", "benchmarks.worker_group", str(self.folder)]
        self._log = open(self.folder / "log", "w+", encoding="utf-8")
        self._process = subprocess.Popen(
            [launcher, "-np", str(count), "--gloo", *module],
            cwd=ROOT,
            env={**os.environ, **_ONE_THREAD},
            stdout=self._log,
            stderr=subprocess.STDOUT,
        )
        self._turn = 0
        self._pids = [int(self._wait_for(f"ready{rank}")) for rank in range(count)]
        self._send(signal.SIGSTOP)

    def turn(self):
        """Runs one turn of updates; returns rank 0's seconds for each, as a list."""
        self.start()
        return self.finish()

    def start(self):
        """Starts a turn, without waiting for its updates."""
        self._send(signal.SIGCONT)
        (self.folder / f"turn{self._turn}").touch()

    def finish(self):
        """Waits for the end of a turn; returns what `turn` returns."""
        seconds = json.loads(self._wait_for(f"done{self._turn}.0"))
        for rank in range(1, self.count):
            self._wait_for(f"done{self._turn}.{rank}")
        self._send(signal.SIGSTOP)
        self._turn += 1
        return seconds

    def end(self):
        """Ends the workers; returns the results of all ranks, a list of dictionaries."""
        self._send(signal.SIGCONT)
        (self.folder / "end").touch()
        results = [json.loads(self._wait_for(f"result{rank}")) for rank in range(self.count)]
        # At its exit, Python would wait for the iterator's autotuning, which checks once a minute
        # whether to stop.
        self._send(signal.SIGKILL)
        self._process.wait()
        self._log.close()
        self._folder.cleanup()
        return results

    def _send(self, number):
        # This suspends Horovod's own threads too, which look for work a thousand times a second.
        for pid in self._pids:
            os.kill(pid, number)

    def _wait_for(self, name):
        path = self.folder / name
        while not path.exists():
            if self._process.poll() is not None:
                self._log.seek(0)
                raise RuntimeError(f"a group of {self.count} workers ended: {self._log.read()}")
            time.sleep(_POLL)
        return path.read_text(encoding="utf-8")


def _write(path, value):
    aside = path.with_name(path.name + ".new")
    aside.write_text(json.dumps(value), encoding="utf-8")
    aside.rename(path)


def _pin(first):
    """Gives each worker a core, from `first` on; call it before TensorFlow starts its threads."""
    cores = sorted(os.sched_getaffinity(0))[first:]
    if int(os.environ["HOROVOD_LOCAL_SIZE"]) <= len(cores):
        os.sched_setaffinity(0, {cores[int(os.environ["HOROVOD_LOCAL_RANK"])]})


def _work(folder):
    """Runs one worker."""
    settings = json.loads((folder / "settings").read_text(encoding="utf-8"))
    _pin(settings["core"])
    import keras

    import tfadv
    from tfadv import distributed

    distributed.init()
    model, data, attack, work = _training(**settings)
    turns = _turns(keras.callbacks.Callback, folder, distributed.rank(), settings["updates"])
    training = tfadv.callbacks.AdversarialTraining(attack, value_range=(0, 255))
    model.fit(data, steps_per_epoch=10**6, verbose=0, shuffle=False, callbacks=[training, turns])
    result = {"communication_share": turns.share, "reductions": _reductions(model), **work}
    if settings["measure"]:
        from tfadv.programs import costs

        cost = costs.network_cost(model)
        attack_rate, update_rate = costs.measure_rates(
            model, attack, cost, images=settings["images"]
        )
        result |= {"attack_rate": attack_rate, "update_rate": update_rate}
    _write(folder / f"result{distributed.rank()}", result)


def _training(depth, images, num_steps, wait, **_):
    """Returns a model, endless data, an attack, and the number of the network's parameters."""
    import keras
    import numpy as np
    import tensorflow as tf

    import tfadv

    keras.utils.set_random_seed(0)
    attack = tfadv.attacks.PGD(16, num_steps=num_steps)
    network = tfadv.models.SmallResNet(depth, norm="bn")
    parameters = int(sum(np.prod(v.shape) for v in network.trainable_variables))
    if wait is not None:
        # Gradients of the same size that take hardly any arithmetic, and an attack that waits.
        images, layers = 1, 20
        width = round((parameters / layers) ** 0.5)
        inputs = keras.Input((1, 1, width))
        x = keras.layers.Flatten()(inputs)
        for _ in range(layers):
            x = keras.layers.Dense(width)(x)
        network = keras.Model(inputs, x)

        def attack(logits_fn, images, labels, **_):
            waited = tf.py_function(lambda: time.sleep(wait), [], [])
            with tf.control_dependencies([waited] if waited is not None else []):
                return tf.identity(images), tf.argmax(labels, axis=-1)

        attack.targeted = True
    # The linear layers would soon overflow on pixels up to 255.
    rate = 0.01 if wait is None else 0.0
    network.compile(
        keras.optimizers.SGD(rate, momentum=0.9, nesterov=True),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    classes = network.output_shape[-1]
    generator = np.random.default_rng(0)
    x = generator.uniform(0, 255, (images, *network.input_shape[1:])).astype("float32")
    y = np.eye(classes, dtype="float32")[generator.integers(0, classes, images)]
    data = tf.data.Dataset.from_tensors((tf.constant(x), tf.constant(y))).repeat()
    return network, data, attack, {"parameters": parameters}


def _turns(base, folder, rank, updates):
    """Returns a callback that waits for each turn and times its updates, except the first."""

    class Turns(base):
        share = None

        def on_train_begin(self, logs=None):
            self.turn, self.times = -1, [0.0] * updates

        def on_train_batch_end(self, batch, logs=None):
            float(logs["loss"])
            self.share = float(logs.get("communication_share", 0.0))
            self.times.append(time.perf_counter())
            if len(self.times) <= updates:
                return
            if self.turn < 0:  # compiled
                _write(folder / f"ready{rank}", os.getpid())
            else:
                pairs = zip(self.times, self.times[1:], strict=False)
                _write(folder / f"done{self.turn}.{rank}", [after - at for at, after in pairs])
            self.turn, self.times = self.turn + 1, []
            while not (folder / f"turn{self.turn}").exists():
                if (folder / "end").exists():
                    self.model.stop_training = True
                    return
                time.sleep(_POLL)

    return Turns()


def _reductions(model):
    """Measures the seconds of an all-reduce of everything that an update sends, and of a number."""
    import statistics

    import tensorflow as tf

    from tfadv import distributed

    floats = [v for v in model.non_trainable_variables if v.dtype == "float32"]
    everything = [tf.zeros(v.shape) for v in [*model.trainable_variables, *floats]]
    size = sum(4 * int(tf.size(tensor)) for tensor in everything)
    results = {"bytes": size}
    for name, tensors in (("all", everything), ("one", [tf.zeros([1])])):

        @tf.function(autograph=False)
        def reduce(tensors=tensors, name=name):
            return distributed.mean(tensors, f"measured_{name}")

        seconds = []
        for _ in range(_REDUCTIONS):
            start = time.perf_counter()
            reduce()[-1].numpy()
            seconds.append(time.perf_counter() - start)
        results[name] = statistics.median(seconds[5:])
    return results


if __name__ == "__main__":
    _work(pathlib.Path(sys.argv[1]))
