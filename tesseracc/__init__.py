"""tesseracc: the ahead-of-time compiler for Tessera programs."""

from tessera import __version__ as __version__
