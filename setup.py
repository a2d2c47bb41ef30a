"The package's metadata, read from settings.ini so that each fact stands in one place."
from configparser import ConfigParser
from pathlib import Path
from shutil import copy2

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

root = Path(__file__).resolve().parent
ini = ConfigParser(delimiters=["="], interpolation=None)
ini.read(root / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]
extras = {key.removeprefix("extra_"): cfg[key].split() for key in cfg if key.startswith("extra_")}
extras["all"] = sorted({requirement for names in extras.values() for requirement in names})
extras["dev"] = cfg["dev_requirements"].split()
low, high = (int(cfg[key].split(".")[1]) for key in ("min_python", "max_python"))


class BuildWithTemplates(build_py):
    "Puts the experiment templates into the wheel, so that `alphaplus run` works without a checkout"

    def run(self):
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib) / "alphaplus_ml" / "_templates"
        target.mkdir(parents=True, exist_ok=True)
        for template in sorted((root / "nbs" / "experiments").glob("*.ipynb")):
            copy2(template, target)


setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=cfg["git_url"],
    author=cfg["author"],
    author_email=cfg["author_email"],
    license="Apache-2.0",
    keywords=cfg["keywords"].split(),
    classifiers=[f"Programming Language :: Python :: 3.{minor}" for minor in range(low, high + 1)],
    python_requires=f">=3.{low},<3.{high + 1}",
    packages=find_packages(include=["alphaplus_ml", "alphaplus_ml.*"]),
    package_data={"alphaplus_ml": ["store/migrations/*", "store/migrations/versions/*"]},
    install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": cfg["console_scripts"].split(), "nbdev": ["alphaplus_ml=alphaplus_ml._modidx:d"]},  # links of names in pages
    cmdclass={"build_py": BuildWithTemplates},
    zip_safe=False,
)
