from __future__ import annotations

from setuptools import find_packages, setup

setup(
    name="image-repo",
    version="2.0.0.dev0",
    description="Keeps images and serves any size, crop and format of them on demand",
    author="Image Repository contributors",
    license="MIT",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Framework :: aiohttp",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Graphics :: Graphics Conversion",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    package_dir={"": "server"},
    packages=find_packages("server"),
    package_data={"": ["py.typed", "policy.xml", "srgb.icc", "nginx.conf.template"]},
    install_requires=[
        "aiohttp>=3.14,<4",
        "google-re2>=1.1,<2",
        "ExifRead>=3.5,<4",
        "keystoneauth1>=5.6,<6",
        "python-swiftclient>=4.6,<5",
        "PyYAML>=6,<7",
        "tqdm>=4.66,<5",
        "Wand>=0.6.11,<0.8",
    ],
    extras_require={
        "test": [
            "blockbuster",
            "hypothesis",
            "pillow",
            "pillow-heif",
            "pytest>=8.4",
            "pytest-aiohttp>=1.1",
            "pytest-cov",
            "pytest-timeout",
            "pytest-xdist",
            "schemathesis>=4",
        ],
        "lint": [
            "gixy-ng",
            "import-linter",
            "mypy",
            "ruff",
            "types-PyYAML",
            "types-tqdm",
        ],
    },
    entry_points={"console_scripts": ["image_repo = image_repo.cli:main"]},
)
