"""Numeric profiles: which rewrites that change rounding a build may make, and by what right.

    strict         none: every operator rounds where the program says
    deterministic  what keeps every sum's error bound and gives the same bits on every run (the default)
    fast           also what real numbers would not show

Every such rewrite is a rule here, with its equation; a pass asks before it applies one, and leaves a note when it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tessera.errors import SourceError

__all__ = ["DEFAULT", "PROFILES", "RULES", "Rule", "allows", "profile_of", "rules_table"]

PROFILES = ("strict", "deterministic", "fast")
DEFAULT = "deterministic"


@dataclass(frozen=True)
class Rule:
    """A rewrite that may change rounding. `profile` is the first that allows it."""

    name: str
    equation: str
    profile: str
    why: str


RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("split-sum", "sum over E = sum over chunks of (sum over a chunk)", "deterministic",
             "long reductions with few results run in parallel; the chunk is a constant"),
        Rule("stream-weights", "exp(x - max x) = exp(x - m) * exp(m - max x), sum(w * v / L) = sum(w * v) / L",
             "deterministic", "attention in one pass over blocks of fixed size, without its matrix of weights"),
        Rule("transpose-product", "x^T @ y^T = (y @ x)^T", "deterministic",
             "one transposition in place of two; sums may follow the shape of the product"),
        Rule("inverse-transform", "ifft(fft(x)) = x, fft(ifft(x)) = x", "fast", "two transforms less"),
        Rule("convolution-theorem", "ifft(fft(x) * fft(y)) = x (*) y, (*) the circular convolution", "fast",
             "products of spectra for long operands, sums of products for short ones"),
        Rule("spectral-convolution", "conv(x, w) = ifft(sum over channels of fft(x) * conj(fft(w)))", "fast",
             "large windows by products of spectra, where that takes fewer multiplications"),
        Rule("reciprocal", "x / c = x * (1 / c), c a number or a smaller tensor", "fast",
             "one division in place of many"),
        Rule("reciprocal-root", "x / sqrt(y) = x * rsqrt(y)", "fast", "one function in place of two"),
        Rule("reassociate", "(x * a) * b = x * (a * b), (x + a) + b = x + (a + b) for numbers a, b", "fast",
             "constants are computed now"),
        Rule("factor-out", "sum(x * a) = sum(x) * a, (x * a) @ y = (x @ y) * a for a number a", "fast",
             "the factor is applied to the result"),
        Rule("scale-behind-rounding", "sum(round(w * c) * v) = sum(round(w) * v) * c, c the same for all terms", "fast",
             "attention whose rounded weights are divided by their sum takes one pass in place of two"),
        Rule("excess-precision", "cast_f32(cast_narrow(x)) = x for x of type f32", "fast",
             "values between operators keep what a narrow type would drop"),
        Rule("contract", "x * y + z = fma(x, y, z)", "fast", "one instruction, one rounding"),
        Rule("approximate-exponential", "exp(x) = 2^(x log2 e), 2^x within 2 ulp and 0 below 2^-126", "fast",
             "GPUs have an instruction for 2^x of f32"),
    )
}  # fmt: skip


def allows(profile: str, rule: str) -> bool:
    """Whether a profile lets a rule be applied."""
    return PROFILES.index(profile) >= PROFILES.index(RULES[rule].profile)


def profile_of(options: Mapping[str, object]) -> str:
    """The profile that the options of ts.jit name. Raises E305 for another word."""
    found = str(options.get("numerics", DEFAULT))
    if found not in PROFILES:
        raise SourceError("E305", f"jit has no numerics `{found}`", help=f"profiles are {', '.join(PROFILES)}")
    return found


def rules_table() -> str:
    """The table of specs/determinism.md."""
    lines = ["| rule | equation | from | why |", "|---|---|---|---|"]
    lines += [f"| {rule.name} | `{rule.equation}` | {rule.profile} | {rule.why} |" for rule in RULES.values()]
    return "\n".join(lines) + "\n"
