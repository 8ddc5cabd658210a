"""Builds the C parts of Warpline. Each is optional: without a compiler Warpline runs on its slower Python paths."""

from setuptools import setup

setup()
