"""Install merit_modules: see pyproject.toml. The YAML files come with it."""

from setuptools import find_packages, setup

# The repository's hparams/ is merit_modules/shipped/ where it is installed.
SHIPPED = "merit_modules.shipped"

setup(
    packages=[*find_packages(include=["merit_modules*"]), SHIPPED],
    package_dir={SHIPPED: "hparams"},
    package_data={
        SHIPPED: ["**/*.yaml"],
        "merit_modules.report": ["page.html.j2"],
        "merit_modules.ssl": ["mini/*"],
    },
)
