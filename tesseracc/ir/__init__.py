"""The intermediate representation: an immutable SSA core, its text form, its verifier, and the dialects."""

from tesseracc.ir import dialects as dialects
