"""Install merit_modules; ``requirements.txt`` holds the one tested set."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "merit_modules/__init__.py").read_text()
).group(1)

setup(
    name="merit-modules",
    version=VERSION,
    description="Joint speech enhancement and emotion recognition with a "
    "sparse mixture of experts on self-supervised speech features",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["merit_modules", "merit_modules.*"]),
    package_data={"merit_modules.report": ["page.html.j2"]},
    entry_points={
        "console_scripts": ["merit = merit_modules.commands.__main__:main"]
    },
    python_requires=">=3.10",
    install_requires=[
        "speechbrain>=1.1,<2",
        "torch>=2.6,<2.15",
        "torchaudio>=2.6",
        "hyperpyyaml>=1.2.3",
        "transformers>=4.48",
        "safetensors>=0.4",
        "ruamel.yaml>=0.17.28",
        "numpy>=1.24",
        "soundfile>=0.12",
        "scipy>=1.10",
        "scikit-learn>=1.3",
        "statsmodels>=0.14",
        "matplotlib>=3.8",
        "jinja2>=3.1",
        "pystoi>=0.4.1",
        "tensorboard>=2.12",
        "tqdm>=4.60",
    ],
    extras_require={
        # Compiled from source where no wheel exists: needs a C compiler.
        "pesq": ["pesq>=0.0.4"],
        # Runs the model of DNSMOS.
        "dnsmos": ["onnxruntime>=1.17"],
        # Exports to ONNX, and runs it.
        "onnx": ["onnx>=1.17", "onnxscript>=0.5.6", "onnxruntime>=1.20"],
        # Shows a model on a page in the browser.
        "demo": ["gradio>=6.31,<7"],
        # Speaks the embedded corpus MiniEmo.
        "miniemo": ["espeakng-loader>=0.2"],
        "dev": ["pytest>=8", "pytest-xdist>=3", "hypothesis>=6", "ruff>=0.6"],
    },
)
