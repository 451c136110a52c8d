"""Flow++ on TensorFlow, Keras and TensorFlow Probability."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
REQUIREMENTS = [
  line for line in (HERE / "requirements.txt").read_text().splitlines() if line and not line.startswith("#")
]
VERSION = (HERE / "flowpp_tf" / "version.py").read_text().split('"')[-2]
COMMANDS = ("train", "evaluate", "sample", "score", "export", "demo", "compress", "decompress", "reproduce")
EXTRAS = {
  "demo": ["gradio>=6.15,<7"],
  "codecs": ["imagecodecs>=2024.9"],
  "compression": ["constriction>=0.5,<0.6"],
  "onnx": ["onnx>=1.16"],
  "gpu": ["tensorflow[and-cuda]"],
  "docs": [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.6,<10",
    "mkdocstrings[python]>=0.29",
    "mkdocs-jupyter>=0.25",
    "playwright>=1.45",
    "ruff>=0.8",
  ],
  "test": [
    "pytest>=8",
    "pytest-xdist>=3.7",
    "filelock>=3.16",
    "mpmath>=1.3",
    "hypothesis>=6.100",
    "beartype>=0.20",
    "playwright>=1.45",
    "ruff>=0.8",
    "mypy>=1.13",
  ],
}
EXTRAS["test"] += EXTRAS["codecs"] + EXTRAS["compression"] + EXTRAS["onnx"] + ["onnxruntime>=1.20"]

setuptools.setup(
  name="flowpp_tf",
  version=VERSION,
  description=__doc__.strip(),
  long_description=(HERE / "README.md").read_text(),
  long_description_content_type="text/markdown",
  author="The flowpp_tf authors",
  license="Apache-2.0",
  license_files=["LICENSE", "NOTICE"],
  keywords="normalizing flow, Flow++, density estimation, likelihood, image generation, lossless compression",
  classifiers=[
    "Development Status :: 4 - Beta",
    "Intended Audience :: Science/Research",
    "Operating System :: POSIX",
    "Programming Language :: Python :: 3",
    *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
    "Topic :: Scientific/Engineering :: Artificial Intelligence",
    "Typing :: Typed",
  ],
  # The recipes lie at the top of a clone, and inside of the installed package.
  packages=[*setuptools.find_packages(include=["flowpp_tf", "flowpp_tf.*"]), "flowpp_tf.configs"],
  package_dir={"flowpp_tf.configs": "configs"},
  package_data={"flowpp_tf": ["py.typed", "pretrained/*/*"], "flowpp_tf.configs": ["*.flags"]},
  python_requires=">=3.10,<3.14",
  install_requires=REQUIREMENTS,
  extras_require=EXTRAS,
  entry_points={
    "console_scripts": [
      "flowpp = flowpp_tf.programs.commands:main",
      *(f"flowpp-{name} = flowpp_tf.programs.commands:{name}" for name in COMMANDS),
    ]
  },
)
