"""Derives the coefficients in tesseracc/passes/target/polynomials.py (needs mpmath; not run by the tests).

Each function g is interpolated at the Chebyshev nodes of its interval in 60-digit arithmetic, which is within a small
factor of the minimax polynomial. The measured relative error of the polynomial itself (before rounding of coefficients)
is printed beside the coefficients, lowest power first.

    python tests/tools/fit_polynomials.py
"""

from __future__ import annotations

from collections.abc import Callable

from mpmath import mp, mpf

mp.dps = 60
Function = Callable[[mpf], mpf]


def fit(g: Function, low: float, high: float, degree: int) -> tuple[list[float], float]:
    """Coefficients of the interpolating polynomial of g on [low, high], and its largest relative error."""
    middle, half = (mpf(low) + mpf(high)) / 2, (mpf(high) - mpf(low)) / 2
    nodes = [middle + half * mp.cos(mp.pi * (2 * i + 1) / (2 * degree + 2)) for i in range(degree + 1)]
    matrix = mp.matrix(degree + 1, degree + 1)
    for i, x in enumerate(nodes):
        for j in range(degree + 1):
            matrix[i, j] = x**j
    solved = mp.lu_solve(matrix, mp.matrix([g(x) for x in nodes]))
    worst = mpf(0)
    for i in range(400):
        x = mpf(low) + (mpf(high) - mpf(low)) * (mpf(i) + mpf(1) / 3) / 400
        value = sum(solved[j] * x**j for j in range(degree + 1))
        worst = max(worst, abs(value / g(x) - 1))
    return [float(c) for c in solved], float(worst)


def series(g: Function, x: mpf, limit: mpf) -> mpf:
    """g(x), or its value near the removable singularity at 0."""
    return g(x) if abs(x) > mpf(10) ** -20 else limit


LN2 = mp.log(2)
HALF = float(LN2 / 2) * 1.0001


def exp_tail(x: mpf) -> mpf:
    """(e^x - 1 - x) / x^2"""
    return series(lambda t: (mp.expm1(t) - t) / t**2, x, mpf(1) / 2)


def exp2_tail(x: mpf) -> mpf:
    """(2^x - 1) / x"""
    return series(lambda t: mp.expm1(t * LN2) / t, x, LN2)


def log_tail(x: mpf) -> mpf:
    """(log(1 + x) - x) / x^2"""
    return series(lambda t: (mp.log1p(t) - t) / t**2, x, mpf(-1) / 2)


def atanh_tail(z: mpf) -> mpf:
    """(2 atanh(s) - 2 s) / s^3 with z = s^2"""
    return series(lambda t: (2 * mp.atanh(mp.sqrt(t)) - 2 * mp.sqrt(t)) / mp.sqrt(t) ** 3, z, mpf(2) / 3)


def sin_tail(z: mpf) -> mpf:
    """(sin(x) - x) / x^3 with z = x^2"""
    return series(lambda t: (mp.sin(mp.sqrt(t)) - mp.sqrt(t)) / mp.sqrt(t) ** 3, z, mpf(-1) / 6)


def cos_tail(z: mpf) -> mpf:
    """(cos(x) - 1 + x^2 / 2) / x^4 with z = x^2"""
    return series(lambda t: (mp.cos(mp.sqrt(t)) - 1 + t / 2) / t**2, z, mpf(1) / 24)


def erf_small(z: mpf) -> mpf:
    """erf(x) / x - 1 with z = x^2"""
    return series(lambda t: mp.erf(mp.sqrt(t)) / mp.sqrt(t) - 1, z, 2 / mp.sqrt(mp.pi) - 1)


def erfc_log(x: mpf) -> mpf:
    """log(erfc(x)) / x"""
    return mp.log(mp.erfc(x)) / x


ERFC_SHIFT = 2.5


def erfc_scaled(t: mpf) -> mpf:
    """erfc(x) exp(x^2) (x + shift) with t = (x - shift) / (x + shift)"""
    shift = mpf(ERFC_SHIFT)
    x = shift * (1 + t) / (1 - t)
    return mp.erfc(x) * mp.exp(x * x) * (x + shift)


TABLES: list[tuple[str, Function, float, float, int]] = [
    ("EXP_F32", exp_tail, -HALF, HALF, 4),
    ("EXP_F64", exp_tail, -HALF, HALF, 10),
    ("EXP2_F32", exp2_tail, -0.5, 0.5, 5),
    ("EXP2_F64", exp2_tail, -0.5, 0.5, 11),
    ("LOG_F32", log_tail, -1 / 3, 1 / 3, 8),
    ("ATANH_F64", atanh_tail, 0.0, (1 / 5) ** 2 * 1.01, 8),
    ("SIN_F32", sin_tail, 0.0, (3.1416 / 4) ** 2, 2),
    ("SIN_F64", sin_tail, 0.0, (3.1416 / 4) ** 2, 5),
    ("COS_F32", cos_tail, 0.0, (3.1416 / 4) ** 2, 2),
    ("COS_F64", cos_tail, 0.0, (3.1416 / 4) ** 2, 5),
    ("ERF_F32", erf_small, 0.0, 0.9**2, 6),
    ("ERFC_F32", erfc_log, 0.9, 4.0, 9),
    ("ERF_F64", erf_small, 0.0, 1.0, 13),
    ("ERFC_F64", erfc_scaled, (1.0 - ERFC_SHIFT) / (1.0 + ERFC_SHIFT), (6.0 - ERFC_SHIFT) / (6.0 + ERFC_SHIFT), 20),
]


def main() -> None:
    for name, g, low, high, degree in TABLES:
        coefficients, worst = fit(g, low, high, degree)
        print(f"#: {' '.join((g.__doc__ or '').split())} on [{low:.6g}, {high:.6g}]; relative error {worst:.2e}")
        print(f"{name} = (")
        for value in coefficients:
            print(f"    {value!r},")
        print(")")


if __name__ == "__main__":
    main()
