"""Packaging of tfadv; `make setup` installs it with everything that it needs."""

from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).parent / "README.md"

# Older ones trace AdversarialTraining's step wrongly or lack layers; tfadv/startup.py refuses them,
# too. tests/test_keras_internals.py says whether a newer one still has what tfadv uses of it.
KERAS = "keras>=3.10"
# Those that `make test-versions` covers and tools/build_horovod.sh knows the headers of.
TENSORFLOW = ">=2.17,<2.22"
# For the programs, their data sets and figures. New versions of these, or of what they need, want a
# newer NumPy or protobuf than older TensorFlows can use.
PROGRAMS = [
    "importlib_resources>=6",  # tensorflow-datasets imports it without declaring it
    "matplotlib>=3.8",
    "pandas>=2.2",
    "tensorflow-datasets>=4.9.9",
]

setup(
    name="tfadv",
    version="0.1.0",
    description="Adversarial training with mixture batch normalization, for TensorFlow and Keras",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    author="tfadv authors",
    license="MIT",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    # flags/ is data: installed within the package, so that `--flagfile=flags/...` and the report
    # find it there.
    packages=[*find_packages(include=["tfadv", "tfadv.*"]), "tfadv.flags"],
    package_dir={"tfadv.flags": "flags"},
    package_data={
        "tfadv": ["py.typed"],
        "tfadv.flags": ["README.md", "*.flags", "*/*.flags"],
        "tfadv.paper": ["paper.tsv"],
        "tfadv.tables": ["devices.tsv"],
    },
    # Only what the library imports, with low bounds, so that pip has no reason to change what came
    # with an installed TensorFlow: it does not look at the bounds of a package that nothing here
    # names. And nothing here can name TensorFlow: it is there already as `tensorflow`,
    # `tensorflow-cpu` or a vendor's build, and a second one beside it breaks both.
    install_requires=[
        "absl-py>=1.4",
        KERAS,
        "numpy>=1.23.5",
        # tf.summary needs it. TensorFlow installs its own version up to 2.20, and none since 2.21.
        "tensorboard",
    ],
    extras_require={
        # tensorflow-cpu is a quarter of the size, and has no wheels but for x86-64.
        "cpu": [
            f"tensorflow-cpu{TENSORFLOW}; platform_machine == 'x86_64'",
            f"tensorflow{TENSORFLOW}; platform_machine != 'x86_64'",
            *PROGRAMS,
        ],
        "gpu": [f"tensorflow[and-cuda]{TENSORFLOW}", *PROGRAMS],
        "programs": PROGRAMS,
        # Run tools/build_horovod.sh rather than installing this extra by hand: Horovod has no
        # wheel, and its sources need help to build. Once it is there, this extra is satisfied.
        "horovod": [
            "horovod==0.28.1",
            "cloudpickle",
            "packaging",
            "psutil",
            "pyyaml",
            "setuptools<81",  # gives horovodrun its distutils on Python 3.12 and newer
            "wheel",
        ],
        "test": [
            "hypothesis>=6.100",
            "mypy>=1.15",
            "packaging",
            "pillow>=11",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff",
            "scikit-learn>=1.4",
            "scipy>=1.13",
        ],
        "quickstart": ["scikit-learn>=1.4"],  # for its embedded digits
        # The libraries that benchmarks/ measures beside ours, in the versions that were measured;
        # nothing else imports them. `make benchmarks` installs this.
        "benchmarks": [
            "adversarial-robustness-toolbox==1.20.1",
            "cleverhans==4.0.0",
            "foolbox==3.3.4",
            "scikit-learn>=1.4",
        ],
    },
    entry_points={
        "console_scripts": [
            "tfadv-train=tfadv.train:main",
            "tfadv-evaluate=tfadv.evaluate:main",
            "tfadv-report=tfadv.report:main",
            "tfadv-inspect=tfadv.inspect:main",
            "tfadv-predict=tfadv.predict:main",
            "tfadv-plan=tfadv.plan:main",
        ]
    },
)
