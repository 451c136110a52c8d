"""Flow++ on TensorFlow, Keras and TensorFlow Probability."""

import pathlib

import setuptools

HERE = pathlib.Path(__file__).parent
REQUIREMENTS = [line for line in (HERE / "requirements.txt").read_text().splitlines()
                if line and not line.startswith("#")]
VERSION = (HERE / "flowpp_tf" / "version.py").read_text().split('"')[-2]

setuptools.setup(
    name="flowpp_tf",
    version=VERSION,
    description=__doc__.strip(),
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    packages=setuptools.find_packages(include=["flowpp_tf", "flowpp_tf.*"]),
    package_data={"flowpp_tf": ["py.typed", "presets/*/*"]},
    python_requires=">=3.10,<3.14",
    install_requires=REQUIREMENTS,
    extras_require={
        "test": ["pytest>=8", "mpmath>=1.3", "hypothesis>=6.100", "pytest-xdist>=3.6",
                 "playwright>=1.45", "imagecodecs>=2024.9", "constriction>=0.5,<0.6", "ruff>=0.8", "mypy>=1.13"],
        "demo": ["gradio>=6.15,<7"],
        "codecs": ["imagecodecs>=2024.9"],
        "compression": ["constriction>=0.5,<0.6"]},
    entry_points={"console_scripts": [
        f"flowpp-{name} = flowpp_tf.programs.{name}:main" for name in (
            "train", "evaluate", "sample", "score", "export", "demo", "compress", "decompress")]},
)
