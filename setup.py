"Packaging: turn settings.ini into the metadata that pyproject.toml lists as dynamic."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]


def lines(key):
    return [line.strip() for line in settings[key].splitlines() if line.strip()]


python = "Programming Language :: Python :: "
setup(
    author=settings["author"],
    license_expression=settings["license"],
    keywords=settings["keywords"].split(),
    classifiers=[
        "Development Status :: " + settings["status"],
        "Intended Audience :: Education",
        "Intended Audience :: Science/Research",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ]
    + [python + v for v in ["3", *settings["python_versions"].split()]],
    python_requires=">=" + settings["min_python"],
    install_requires=lines("requirements"),
    extras_require={"dev": lines("dev_requirements")},
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": ["charlm = charlm._modidx:d"],
    },
    packages=find_packages(include=["charlm"]),
    package_data={"charlm": ["texts/*", "page/*"]},
)
