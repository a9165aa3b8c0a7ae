"""What a run costs on one GPU, within eight minutes: `python -m benchmarks.gpu`.

Its parts run one after the other, the most valuable first. Each is a process of its own with a time
limit of its own, so a part that fails or hangs loses no other. Every result is printed as soon as
it is known: a line of JSON, and a line for readers that begins with `#`.

    numbers   the quickstart's network trained for a few steps, on the GPU and on its CPU
    resnet50  the attack in bfloat16, in turns with PyTorch's (torch.compile, channels_last,
              bfloat16 autocast); larger batches; the update's pass with and without XLA
    resnet152 the same without PyTorch, for the largest batch
    float32   ResNet-50 in float32, which is TF32 on GPUs that have it
    restart   the seconds of compilation at a first and at a second start, with XLA's cache on disk
    flags     the attack without CUDA graphs, and with XLA's two layouts of convolutions
    memory    the peak memory of an update's pass by depth, with and without rematerialization
    jax       the attack on ResNet-50 in JAX (jit of the whole attack, bfloat16), PyTorch and tfadv,
              in turns
    study     the runs of docs/study.md, one on each core, until the time is over

The study's runs lie in runs/gpu (`--study` names another folder), apart from those of `make study`,
since a GPU rounds otherwise; a second start goes on with them. They need Fashion-MNIST on the
machine (docs/study.md).

`--quick` tries everything on a CPU with a tiny network and says nothing about speed. `--parts`
chooses parts, and `--seconds` sets another limit for all. `share_of_peak` of the attack and of the
pass are `efficiency` and `update_efficiency` in tfadv/tables/devices.tsv. PyTorch and JAX may live
in other Pythons than TensorFlow: `--torch_python` and `--jax_python` name them. What is missing is
said and left out.

TensorFlow comes onto a machine that reaches a package index with `make setup TENSORFLOW=gpu`.
Without a network, bring the wheels: on a machine of the same kind with a network,

    pip download -d wheels "tensorflow[and-cuda]" tensorflow-datasets absl-py pandas matplotlib
    split -b 60M wheels/tensorflow-2.21.0-*.whl piece.      # where files of limited size travel

and over there, in a fresh environment,

    cat piece.* > tensorflow-2.21.0-....whl
    pip install --no-index --find-links=. tensorflow-2.21.0-....whl

The CUDA libraries are most of the gigabytes. TensorFlow can take those that came with PyTorch: put
their folders (site-packages/nvidia/*/lib) into LD_LIBRARY_PATH, and where a major version differs,
a folder of links with the names that TensorFlow looks for, such as libcublas.so.12 for
libcublas.so.13. The table of attacks on an H200 was measured with such a mixture (TensorFlow for
CUDA 12.5, the cuBLAS of CUDA 13.0, cuDNN 9.14). This script itself has not yet run on a GPU.
"""

import argparse
import contextlib
import json
import os
import pathlib
import queue
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
LAYOUTS = {
    "as XLA chooses": "",
    "without CUDA graphs": "--xla_gpu_enable_command_buffer=",
    "channels last": "--xla_gpu_force_conv_nhwc=true",
    "channels first": "--xla_gpu_force_conv_nchw=true",
}


def emit(text, **result):
    """Prints a result as JSON, and a line for readers."""
    print(json.dumps(result))
    print(f"# {text}", flush=True)


class Child:
    """A job in a process of its own, which prints a line of JSON for each result.

    Args:
        job: Name of a function in `JOBS`, and its arguments.
        deadline: Time on the clock `time.monotonic` at which it has had enough.
        python: The interpreter.
        environment: Variables that differ from this process's.
    """

    def __init__(self, job, deadline, python=sys.executable, environment=None):
        self.deadline = deadline
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # Else the first process takes all memory of the GPU.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            **(environment or {}),
        }
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.gpu", f"--child={json.dumps(job)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=variables,
        )
        self.lines = queue.Queue()
        self.errors = []
        self.readers = [
            threading.Thread(target=self._read, args=each, daemon=True)
            for each in (
                (self.process.stdout, self.lines.put),
                (self.process.stderr, self.errors.append),
            )
        ]
        for reader in self.readers:
            reader.start()

    def _read(self, stream, take):
        with stream:
            for line in stream:
                take(line)
        if stream is self.process.stdout:
            self.lines.put(None)

    def result(self):
        """Returns the next result; None after the last one.

        Raises:
            TimeoutError: The time is over.
            RuntimeError: The process failed.
        """
        while True:
            try:
                line = self.lines.get(timeout=max(0.01, self.deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError("its time was over") from None
            if line is None:
                if self.process.wait():
                    self.readers[1].join()
                    said = [text.strip() for text in self.errors if text.strip()]
                    raise RuntimeError(said[-1] if said else f"status {self.process.returncode}")
                return None
            if line.startswith("{"):
                return json.loads(line)

    def turn(self, name):
        """Lets a job that serves turns take one, and returns its seconds."""
        self.process.stdin.write(name + "\n")
        self.process.stdin.flush()
        return self.result()["seconds"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()  # so that the study stops its programs
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(10)
        self.process.kill()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        for reader in self.readers:
            reader.join()


# What runs in the children.


def _measured(contestants, rounds):
    """Yields each contestant's name, seconds of its first call, and median of the later ones."""
    for name, contestant in contestants.items():
        first = _seconds(contestant)
        yield name, first, statistics.median(_seconds(contestant) for _ in range(rounds))


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def _serve(contestants):
    """Takes a turn for every line on the standard input, after a first call of each contestant."""
    print(json.dumps({"first": {n: _seconds(c) for n, c in contestants.items()}}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": _seconds(contestants[line.strip()])}), flush=True)


def _network(depth, dtype, quick):
    import keras

    from tfadv import models

    keras.config.set_dtype_policy("float32" if dtype == "float32" else f"mixed_{dtype}")
    if quick:
        return models.SmallResNet(8, norm="mbn", width=4, image_size=8, seed=0)
    return models.ResNet(depth, norm="mbn", num_classes=1000, image_size=224, seed=0)


def _data(model, images):
    import numpy as np
    import tensorflow as tf

    rng = np.random.default_rng(0)
    x = tf.constant(rng.uniform(0, 255, (images, *model.input_shape[1:])), tf.float32)
    return x, tf.constant(rng.integers(0, model.output_shape[-1], images), tf.int32)


def _attack(model, dtype, images, num_steps):
    """Returns a function that attacks a batch."""
    from tfadv import attacks, models

    network = models.Frozen(model, precision=dtype)
    pgd = attacks.PGD(num_steps=num_steps)
    x, y = _data(model, images)
    classes = model.output_shape[-1]

    def run():
        options = {"value_range": (0, 255), "seed": (0, 0), "num_classes": classes}
        return float(pgd(network, x, y, **options)[0, 0, 0, 0])  # waits for the GPU

    return run


def _pass(model, images, jit_compile, rematerialize="none"):
    """Returns a function that makes an update without an attack's steps."""
    import keras
    import tensorflow as tf

    from tfadv import attacks
    from tfadv.training import AdversarialStep

    model.compile(
        keras.optimizers.SGD(1e-3, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.optimizer.build(model.trainable_variables)
    pgd = attacks.PGD(num_steps=0)
    step = AdversarialStep(
        model, pgd, (0, 255), jit_compile=jit_compile, rematerialize=rematerialize
    )
    data = _data(model, images)
    step.build(tuple(tf.TensorSpec(t.shape, t.dtype) for t in data))
    function = tf.function(lambda: step(data), autograph=False)
    return lambda: float(function()["loss"])


def job_numbers(quick):
    import keras
    import numpy as np
    import tensorflow as tf

    from tfadv import attacks, callbacks, models

    model = models.SmallResNet(8, norm="mbn", width=4 if quick else 16, image_size=8, seed=0)
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 255, (5 * 32, 8, 8, 3)).astype("float32")
    y = rng.integers(0, 10, len(x))
    losses = []
    log = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: losses.append(logs))
    training = callbacks.AdversarialTraining(attacks.PGD(epsilon=80, step_size=10, num_steps=10))
    model.fit(x, y, batch_size=32, shuffle=False, verbose=0, callbacks=[training, log])
    gpus = [
        tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name)
        for gpu in tf.config.list_physical_devices("GPU")
    ]
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    losses = [float(logs["loss"]) for logs in losses]
    print(json.dumps({"losses": losses, "gpus": gpus, "versions": versions}), flush=True)


def job_speed(quick, depth, dtype, attacks, passes, num_steps, rounds, serve=False):
    """Measures attacks on batches of several sizes, and passes with and without XLA."""
    from tfadv.programs import costs

    model = _network(depth, dtype, quick)
    contestants = {f"attack of {n}": _attack(model, dtype, n, num_steps) for n in attacks}
    if serve:
        return _serve(contestants)
    cost = costs.network_cost(model)
    flops = {f"attack of {n}": n * num_steps * cost.image_gradient for n in attacks}
    images = {f"attack of {n}": n for n in attacks}
    batch = attacks[0]
    for jit_compile in passes:
        name = f"pass on {batch} + {batch}, {'XLA' if jit_compile else 'no XLA'}"
        contestants[name] = _pass(model, batch, jit_compile)
        flops[name], images[name] = 2 * batch * cost.update, batch
    for name, first, seconds in _measured(contestants, rounds):
        result = {"what": name, "first_seconds": first, "seconds": seconds}
        result |= {"images_per_second": images[name] / seconds, "flops": flops[name] / seconds}
        print(json.dumps(result), flush=True)
    return None


def job_memory(quick, depth, rematerialize):
    import tensorflow as tf

    run = _pass(_network(depth, "float32", quick), 2 if quick else 32, False, rematerialize)
    run()
    peak = None
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.reset_memory_stats("GPU:0")
    seconds = _seconds(run)
    if tf.config.list_physical_devices("GPU"):
        peak = tf.config.experimental.get_memory_info("GPU:0")["peak"]
    print(json.dumps({"peak_bytes": peak, "seconds": seconds}), flush=True)


def job_torch(quick, images, num_steps):
    """PGD as a PyTorch user would compile it; the same loss, steps and projection."""
    try:
        import torch
        from torchvision import models
    except ImportError as error:
        print(json.dumps({"missing": error.name}), flush=True)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = models.resnet18() if quick else models.resnet50()
    model = model.eval().requires_grad_(False).to(device, memory_format=torch.channels_last)
    compiled = torch.compile(model)
    size = 32 if quick else 224
    clean = 255 * torch.rand(images, 3, size, size, device=device)
    clean = clean.to(memory_format=torch.channels_last)
    targets = torch.randint(0, 1000, [images], device=device)
    low, high = (clean - 16).clamp(0, 255), (clean + 16).clamp(0, 255)

    def run():
        current = clean + torch.empty_like(clean).uniform_(-16, 16)
        for _ in range(num_steps):
            current = current.detach().requires_grad_()
            with torch.autocast(device, torch.bfloat16):
                logits = compiled(current / 127.5 - 1)
            loss = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="sum")
            [slope] = torch.autograd.grad(loss, current)
            current = torch.clamp(current.detach() - 1.6 * slope.sign(), low, high)
        return float(current[0, 0, 0, 0])

    _serve({f"attack of {images}": run})


def resnet_shapes(blocks, width, classes):
    """The shapes of the kernels of tfadv's ResNet, by the names of its layers."""
    shapes, channels = {"conv0": (7, 7, 3, width)}, width
    for stage, count in enumerate(blocks):
        inner = width * 2**stage
        for block in range(count):
            name = f"res{stage + 2}_block{block}"
            if block == 0:
                shapes[f"{name}_convshortcut"] = (1, 1, channels, 4 * inner)
            shapes[f"{name}_conv1"] = (1, 1, channels, inner)
            shapes[f"{name}_conv2"] = (3, 3, inner, inner)
            shapes[f"{name}_conv3"] = (1, 1, inner, 4 * inner)
            channels = 4 * inner
    return shapes | {"logits": (channels, classes)}


def jax_logits(parameters, images, blocks):
    """tfadv's ResNet at inference, as a JAX user would write it: normalization as scale and shift.

    Args:
        parameters: Dictionary, name of a layer -> its kernel, and scale and shift of the
            normalization after it, or the bias of the last one. Their dtype is that of the pass.
        images: float32 `[batch, height, width, 3]`, pixels from 0 to 255.
        blocks: The number of blocks in each stage.

    Returns:
        float32 `[batch, classes]`.
    """
    import jax

    def convolved(x, name, strides=1):
        kernel, scale, shift = parameters[name]
        layout = ("NHWC", "HWIO", "NHWC")
        strides = (strides, strides)
        x = jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=layout)
        return x * scale + shift

    x = (images / 127.5 - 1).astype(parameters["conv0"][0].dtype)
    x = jax.nn.relu(convolved(x, "conv0", 2))
    window, strides = (1, 3, 3, 1), (1, 2, 2, 1)
    x = jax.lax.reduce_window(x, -float("inf"), jax.lax.max, window, strides, "SAME")
    for stage, count in enumerate(blocks):
        for block in range(count):
            name = f"res{stage + 2}_block{block}"
            strides = 2 if stage and not block else 1
            y = jax.nn.relu(convolved(x, f"{name}_conv1"))
            y = jax.nn.relu(convolved(y, f"{name}_conv2", strides))
            shortcut = x if block else convolved(x, f"{name}_convshortcut", strides)
            x = jax.nn.relu(shortcut + convolved(y, f"{name}_conv3"))
    kernel, bias = (each.astype("float32") for each in parameters["logits"])
    return x.astype("float32").mean((1, 2)) @ kernel + bias


def job_jax(quick, images, num_steps):
    """PGD as a JAX user would compile it; the same loss, steps and projection."""
    try:
        import jax
    except ImportError as error:
        print(json.dumps({"missing": error.name}), flush=True)
        return
    import numpy as np

    blocks, width, size = ((1, 1, 1, 1), 8, 32) if quick else ((3, 4, 6, 3), 64, 224)
    rng = np.random.default_rng(0)
    parameters = {}
    for name, shape in resnet_shapes(blocks, width, 1000).items():
        kernel = rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        scale = [] if name == "logits" else [np.ones(shape[-1])]
        arrays = kernel, *scale, np.zeros(shape[-1])
        parameters[name] = [jax.numpy.asarray(each, "bfloat16") for each in arrays]
    clean = jax.numpy.asarray(rng.uniform(0, 255, (images, size, size, 3)), "float32")
    targets = jax.numpy.asarray(rng.integers(0, 1000, images))

    @jax.jit
    def attack(parameters, clean, targets, key):
        low, high = (jax.numpy.clip(clean + change, 0, 255) for change in (-16, 16))

        def loss(current):
            chances = jax.nn.log_softmax(jax_logits(parameters, current, blocks))
            return -jax.numpy.take_along_axis(chances, targets[:, None], 1).sum()

        def step(_, current):
            slope = jax.grad(loss)(current)
            return jax.numpy.clip(current - 1.6 * jax.numpy.sign(slope), low, high)

        start = clean + jax.random.uniform(key, clean.shape, minval=-16, maxval=16)
        return jax.lax.fori_loop(0, num_steps, step, start)

    def run():
        return float(attack(parameters, clean, targets, jax.random.key(0))[0, 0, 0, 0])

    _serve({f"attack of {images}": run})


class _Said:
    """A standard output that makes a line of JSON of each line."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        if text.strip():
            print(json.dumps({"said": text.strip()}), file=self.stream, flush=True)

    def flush(self):
        self.stream.flush()


def job_study(quick, folder):
    """Goes on with the study's runs in a folder of their own; `quick` lists a few of them."""
    sys.path.append(str(ROOT / "tools"))
    import study

    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "flags").exists():
        (folder / "flags").symlink_to(ROOT / "flags")
    study.ROOT = folder
    signal.signal(signal.SIGTERM, study.stop)  # so that no program goes on alone
    with contextlib.redirect_stdout(_Said(sys.stdout)):
        study.main(["--list", "study/mbn/seed0"] if quick else ["study/"])


JOBS = {
    "numbers": job_numbers,
    "speed": job_speed,
    "memory": job_memory,
    "torch": job_torch,
    "jax": job_jax,
    "study": job_study,
}


# The parts, which run in the parent.


class Script:
    """The parts of the script.

    Args:
        options: Of the command line.
    """

    def __init__(self, options):
        self.options = options
        self.quick = options.quick
        self.gpu = None  # its row's name in the table of devices
        self.batches = [2, 4] if self.quick else [32, 64, 128]
        self.steps, self.rounds = (2, 1) if self.quick else (10, 5)

    def parts(self):
        """Dictionary, name -> function of a deadline, and the seconds that it may take."""
        parts = {
            "numbers": (self.numbers, 60),
            "resnet50": (self.resnet50, 150),
            "resnet152": (self.resnet152, 120),
            "float32": (self.float32, 80),
            "restart": (self.restart, 80),
            "flags": (self.flags, 100),
            "memory": (self.memory, 120),
            "jax": (self.jax, 90),
            "study": (self.study, 3600),
        }
        # Where it is only tried, a part fails by an error alone.
        slow = 10 if self.quick else 1
        return {name: (part, slow * limit) for name, (part, limit) in parts.items()}

    def child(self, job, deadline, environment=None, python=sys.executable, **arguments):
        arguments |= {"job": job, "quick": self.quick}
        return Child(arguments, deadline, python, environment)

    def numbers(self, deadline):
        with self.child("numbers", deadline) as child:
            here = child.result()
        with self.child("numbers", deadline, {"CUDA_VISIBLE_DEVICES": "-1"}) as child:
            cpu = child.result()
        pairs = zip(here["losses"], cpu["losses"], strict=True)
        largest = max(abs(a - b) / abs(b) for a, b in pairs)
        name = ", ".join(here["gpus"]) or "no GPU"
        emit(
            f"{name}: the losses of {len(cpu['losses'])} steps differ from the CPU's by at most "
            f"{largest:.1e} of their size",
            part="numbers",
            largest_relative_difference=largest,
            cpu=cpu["losses"],
            **here,
        )

    def resnet50(self, deadline):
        self.in_turns("resnet50", deadline, ["PyTorch"])
        self.speed("resnet50", deadline, 50, "bfloat16", self.batches, [True, False])

    def jax(self, deadline):
        self.in_turns("jax", deadline, ["JAX", "PyTorch"])

    def in_turns(self, part, deadline, others):
        """Prints what the attack takes in tfadv and in other libraries, in turns."""
        batch = self.batches[0]
        name = f"attack of {batch}"
        ours = {"depth": 50, "dtype": "bfloat16", "attacks": [batch], "passes": []}
        ours |= {"num_steps": self.steps, "rounds": 0, "serve": True}
        theirs = {"images": batch, "num_steps": self.steps}
        jobs = {
            "PyTorch": ("torch", self.options.torch_python, theirs),
            "JAX": ("jax", self.options.jax_python, theirs),
            "tfadv": ("speed", sys.executable, ours),
        }
        with contextlib.ExitStack() as stack:
            children = {}
            for who in (*others, "tfadv"):
                job, python, given = jobs[who]
                child = stack.enter_context(self.child(job, deadline, python=python, **given))
                started = child.result()
                if "missing" in started:
                    missing = started["missing"]
                    emit(f"{who}: {missing} is missing", part=part, who=who, missing=missing)
                else:
                    first = started["first"][name]
                    emit(f"{who}: first call {first:.1f} s", part=part, who=who, first=first)
                    children[who] = child
            turns = []
            for number in range(self.rounds):
                order = list(children.items())[:: 1 - 2 * (number % 2)]
                turns.append({who: child.turn(name) for who, child in order})
                emit(
                    ", ".join(f"{who} {seconds:.4f} s" for who, seconds in turns[-1].items()),
                    part=part,
                    what=name,
                    seconds=turns[-1],
                )
        for who in children.keys() - {"tfadv"}:
            ratio = statistics.median(turn[who] / turn["tfadv"] for turn in turns)
            emit(
                f"ResNet-50, bfloat16, {name}: tfadv is {ratio:.2f} times as fast as {who}",
                part=part,
                who=who,
                times_as_fast=ratio,
            )

    def resnet152(self, deadline):
        self.speed("resnet152", deadline, 152, "bfloat16", [self.batches[0]], [True])
        self.speed("resnet152", deadline, 152, "bfloat16", [self.batches[-1]], [])

    def float32(self, deadline):
        self.speed("float32", deadline, 50, "float32", self.batches[:2], [True, False])

    def speed(self, part, deadline, depth, dtype, batches, passes, environment=None, **labels):
        """Prints the results of `job_speed`, and the pass's share of an update with PGD-30."""
        arguments = {"depth": depth, "dtype": dtype, "attacks": batches, "passes": passes}
        arguments |= {"num_steps": self.steps, "rounds": self.rounds}
        step, seconds = None, {}
        with self.child("speed", deadline, environment, **arguments) as child:
            while (result := child.result()) is not None:
                peak = self.peak(dtype)
                share = result["flops"] / peak if peak else None
                label = "".join(f", {value}" for value in labels.values())
                seconds[result["what"]] = result["seconds"]
                emit(
                    f"ResNet-{depth}, {dtype}, {result['what']}{label}: "
                    f"{result['images_per_second']:.1f} images/s, "
                    f"{result['flops'] / 1e12:.3g} TFLOP/s"
                    + (f", {share:.1%} of the peak" if share else "")
                    + f"; first call {result['first_seconds']:.1f} s",
                    part=part,
                    depth=depth,
                    dtype=dtype,
                    share_of_peak=share,
                    **labels,
                    **result,
                )
        for what, once in seconds.items():
            if what.startswith("pass"):
                step = seconds[f"attack of {batches[0]}"] / self.steps
                share = once / (once + 30 * step)
                emit(
                    f"ResNet-{depth}, {dtype}, {what}: {share:.1%} of an update with PGD-30",
                    part=part,
                    what=what,
                    share_of_pgd30=share,
                )
        return seconds

    def peak(self, dtype):
        """FLOP/s that the GPU could reach, if the table of devices knows it."""
        from tfadv.tables import devices

        if self.gpu is None:
            names = _gpu_names()
            known = [name for name in devices.known_devices() if name.upper() in names]
            self.gpu = known[0] if known else ""
        return devices.known_device(self.gpu, dtype).peak if self.gpu else None

    def restart(self, deadline):
        job = {"depth": 50, "dtype": "bfloat16", "attacks": self.batches[:1], "passes": [True]}
        job |= {"num_steps": self.steps, "rounds": 1}
        with tempfile.TemporaryDirectory() as cache:
            flags = f"--tf_xla_persistent_cache_directory={cache}"
            if not self.quick:
                flags += " --tf_xla_persistent_cache_device_types=GPU"
            for start in ("first", "second"):
                firsts = []
                with self.child("speed", deadline, {"TF_XLA_FLAGS": flags}, **job) as child:
                    while (result := child.result()) is not None:
                        firsts.append(result["first_seconds"])
                files = len(list(pathlib.Path(cache).iterdir()))
                emit(
                    f"{start} start: {sum(firsts):.1f} s until attack and pass have run once; "
                    f"{files} files in XLA's cache",
                    part="restart",
                    start=start,
                    first_seconds=firsts,
                    files=files,
                )

    def flags(self, deadline):
        for label, flag in LAYOUTS.items():
            variables = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}
            try:
                self.speed(
                    "flags", deadline, 50, "bfloat16", self.batches[:1], [], variables, flags=label
                )
            except RuntimeError as error:  # another XLA may not know a flag
                emit(f"{label}: failed: {error}", part="flags", flags=label, failed=str(error))

    def memory(self, deadline):
        for depth in (50, 152):
            for kind in ("none", "step"):
                with self.child("memory", deadline, depth=depth, rematerialize=kind) as child:
                    result = child.result()
                peak = result["peak_bytes"]
                text = "unknown without a GPU" if peak is None else f"{peak / 2**30:.2f} GiB"
                emit(
                    f"ResNet-{depth}, float32, pass on 32 + 32, rematerialize={kind}: {text}, "
                    f"{result['seconds']:.3f} s",
                    part="memory",
                    depth=depth,
                    rematerialize=kind,
                    **result,
                )

    def study(self, deadline):
        with self.child("study", deadline, folder=self.options.study) as child:
            try:
                while (result := child.result()) is not None:
                    emit(result["said"], part="study", **result)
            except TimeoutError:
                emit("the study goes on here with the next start", part="study", goes_on=True)


def _gpu_names():
    """The names of the GPUs, in capitals, without TensorFlow in this process."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.upper()
    except OSError:
        return ""


def run_parts(parts, seconds, clock=time.monotonic):
    """Runs parts one after the other; a part that fails loses none of the others.

    Args:
        parts: Dictionary, name -> function of a deadline, and the seconds that it may take.
        seconds: The time for all parts together.
        clock: Function that returns seconds.

    Returns:
        The names of the parts that did not end well.
    """
    end, lost = clock() + seconds, []
    for name, (part, limit) in parts.items():
        print(f"# {name} begins", flush=True)
        started = clock()
        if end - started < 5:
            emit(f"{name}: left out, no time is left", part=name, left_out=True)
            lost.append(name)
            continue
        try:
            part(min(end, started + limit))
        except Exception as error:
            failed = f"{type(error).__name__}: {error}"
            emit(f"{name}: failed: {failed}", part=name, failed=failed)
            lost.append(name)
        took = clock() - started
        emit(f"{name} took {took:.0f} s", part=name, part_seconds=took)
    return lost


def parsed(argv=None):
    """Parses the command line; exits with status 2 if it names no parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu")
    parser.add_argument("--quick", action="store_true", help="Try everything with a tiny network.")
    parser.add_argument("--seconds", type=float, default=460, help="Limit of the whole script.")
    parser.add_argument("--parts", help="Names of parts, separated by commas.")
    parser.add_argument("--torch_python", default=sys.executable, help="The Python with PyTorch.")
    parser.add_argument("--jax_python", default=sys.executable, help="The Python with JAX.")
    parser.add_argument("--study", default=str(ROOT / "runs" / "gpu"), help="The study's folder.")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    known = list(Script(options).parts())
    options.parts = options.parts.split(",") if options.parts else known
    unknown = [name for name in options.parts if name not in known]
    if unknown:
        parser.error(f"parts must be of {', '.join(known)}; received {', '.join(unknown)}")
    return options


def main(argv=None):
    options = parsed(argv)
    if options.child:
        job = options.child
        JOBS[job.pop("job")](**job)
        return 0
    parts = Script(options).parts()
    parts = {name: parts[name] for name in options.parts}
    return int(bool(run_parts(parts, options.seconds)))


if __name__ == "__main__":
    sys.exit(main())
