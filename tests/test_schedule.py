"""Noise tables, spacings and rows against published numbers and closed forms; properties; errors.

Alone: pytest tests/test_schedule.py. Trajectories are in test_schedule_trajectory.py.
Tolerances: tables 2e-5 relative (the published digits were computed in float32), lists exact,
rows 1e-6 relative (float32 rows of float64 numbers).
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgereel import schedule
from edgereel.schedule import ROW, ROW_WIDTH, SAMPLERS, SPACINGS, sampler_rows

LINEAR = schedule.alphas_cumprod_linear(1e-4, 2e-2)
SD = schedule.alphas_cumprod_scaled_linear(8.5e-4, 1.2e-2)
X4 = schedule.alphas_cumprod_scaled_linear(1e-4, 2e-2)
COSINE = schedule.alphas_cumprod_cosine()
ZERO_SNR = schedule.rescale_zero_terminal_snr(SD)
TABLES = {"linear": LINEAR, "scaled_linear": SD, "cosine": COSINE, "zero_snr": ZERO_SNR}
INTEGER_SPACINGS = [name for name in SPACINGS if name != "linspace"]

# alphas_cumprod at t: linear 1e-4..2e-2, scaled linear 8.5e-4..1.2e-2 and 1e-4..2e-2, cosine.
GOLDEN_TABLES = """
0   .9999      .99915    .9999     .999959
50  .969951    .951577   .990844   .991725
100 .895141    .894223   .971176   .971576
250 .521423    .673792   .82001    .845888
500 .0777967   .276332   .331275   .492285
750 .00330016  .0561698  .0381497  .143179
881 3.80511e-4 .0171852  .00618226 .0334387
941 1.2596e-4  .0091173  .00222579 .00814815
980 5.90375e-5 .00584378 .00106967 8.76529e-4
981 5.78779e-5 .0057755  .00104899 7.86715e-4
999 4.03583e-5 .0046601  7.33412e-4 2.42873e-9
"""
GOLDEN_ZERO_SNR = {
    0: 0.99915, 1: 0.998233, 50: 0.948135, 100: 0.886761, 250: 0.652457, 500: 0.241019,
    750: 0.0327991, 900: 0.00296039, 995: 3.19197e-6, 998: 1.968e-7,
}  # fmt: skip
ADM_50 = [
    0, 20, 41, 61, 82, 102, 122, 143, 163, 183, 204, 224, 245, 265, 285, 306, 326, 347, 367, 387,
    408, 428, 449, 469, 489, 510, 530, 550, 571, 591, 612, 632, 652, 673, 693, 714, 734, 754, 775,
    795, 816, 836, 856, 877, 897, 917, 938, 958, 979, 999,
]  # fmt: skip
UNCLIP_25 = [
    999, 957, 916, 874, 832, 791, 749, 708, 666, 624, 583, 541, 500, 458, 416, 375, 333, 291, 250,
    208, 166, 125, 83, 42, 0,
]  # fmt: skip


def column(rows: np.ndarray, name: str) -> np.ndarray:
    return rows[:, ROW.index(name)].astype(np.float64)


@pytest.mark.parametrize("line", GOLDEN_TABLES.split("\n")[1:-1])
def test_tables_have_the_published_values(line: str) -> None:
    t, *golden = line.split()
    ours = [table[int(t)] for table in (LINEAR, SD, X4, COSINE)]
    np.testing.assert_allclose(ours, [float(value) for value in golden], rtol=2e-5)


def test_zero_terminal_snr_has_the_published_values() -> None:
    ours = [ZERO_SNR[t] for t in GOLDEN_ZERO_SNR]
    # 1e-4: the published digits near t = 999 are few and of a difference in float32.
    np.testing.assert_allclose(ours, list(GOLDEN_ZERO_SNR.values()), rtol=1e-4)
    assert ZERO_SNR[999] == 0.0
    assert ZERO_SNR[0] == pytest.approx(SD[0], rel=1e-15)


@pytest.mark.parametrize(("table", "sigma_max"), [(LINEAR, 157.40727), (SD, 14.614647)])
def test_largest_sigma(table: np.ndarray, sigma_max: float) -> None:
    assert np.sqrt((1 - table[-1]) / table[-1]) == pytest.approx(sigma_max, rel=2e-6)


def test_spacings_give_the_published_lists() -> None:
    def listed(name: str, n: int) -> list[float]:
        return SPACINGS[name](n, 1000).tolist()

    assert listed("leading+1", 50) == list(range(981, 0, -20))
    assert listed("leading", 50) == list(range(980, -1, -20))
    assert listed("trailing", 50) == list(range(999, 0, -20))
    assert listed("trailing", 250) == list(range(999, 0, -4))
    assert listed("adm", 50) == ADM_50[::-1]
    assert listed("unclip", 25) == UNCLIP_25
    assert listed("unclip", 7) == [999, 832, 666, 500, 333, 166, 0]
    np.testing.assert_array_equal(SPACINGS["linspace"](50, 1000), np.linspace(0, 999, 50)[::-1])


@pytest.mark.parametrize("T", [1, 2, 10, 1000])
@pytest.mark.parametrize("name", SPACINGS)
def test_spacings_are_strictly_decreasing_for_every_count(name: str, T: int) -> None:
    for n in range(1, T if name == "leading+1" else T + 1):
        timesteps = SPACINGS[name](n, T)
        assert timesteps.shape == (n,)
        assert np.all(np.diff(timesteps) < 0)
        assert timesteps[0] <= T - 1 and timesteps[-1] >= 0
        assert name == "linspace" or np.all(timesteps == np.rint(timesteps))


def test_rounded_spacings_follow_their_formulas_for_every_count() -> None:
    """Trailing by arange, whose list can be too long; UnCLIP by products, ADM by a summing loop."""
    for n in range(2, 1001):
        published = np.round(np.arange(1000, 0, -1000 / n))[:n] - 1
        assert SPACINGS["trailing"](n, 1000).tolist() == published.tolist()
        exact = [round(1000 - Fraction(1000 * k, n)) - 1 for k in range(n)]
        ties = [1000 * k % n * 2 == n for k in range(n)]
        assert np.all((published == exact) | ties)
        stride = 999 / (n - 1)
        assert SPACINGS["unclip"](n, 1000).tolist()[::-1] == [round(k * stride) for k in range(n)]
        summed, at = [], 0.0
        for _ in range(n):
            summed.append(round(at))
            at += stride
        assert SPACINGS["adm"](n, 1000).tolist()[::-1] == summed


def test_row_layout() -> None:
    assert ROW_WIDTH == 16
    assert ROW == (
        "t", "alpha", "sigma", "c_x0", "c_eps", "c_prev", "c_noise", "logvar_min", "logvar_max",
        "x_scale",
    )  # fmt: skip
    rows = sampler_rows("ddim", LINEAR, "leading", 50)
    assert rows.shape == (50, 16) and rows.dtype == np.float32
    assert not rows[:, len(ROW) :].any()


def test_ddim_golden_levels() -> None:
    def level_after(table: np.ndarray, row: int, final: str) -> float:
        rows = sampler_rows("ddim", table, "leading+1", 50, final=final)
        return float(column(rows, "c_x0")[row] ** 2)

    assert level_after(SD, 0, "first") == pytest.approx(0.0072817, rel=1e-5)
    assert level_after(SD, -1, "first") == pytest.approx(0.99915, rel=1e-6)
    assert level_after(SD, -1, "one") == 1.0
    assert level_after(LINEAR, 0, "one") == pytest.approx(8.57310e-5, rel=1e-5)


# The digits for t = 20 were computed with 1 - alphas_cumprod[0] = 1e-4 in float32, which is off
# by up to 6e-4; the closed form below pins the same row to 1e-6.
@pytest.mark.parametrize(
    ("t", "c_x0", "c_xt", "std", "rtol"),
    [
        (980, 0.00303516, 0.821795, 0.569741, 2e-6),
        (500, 0.0601032, 0.888800, 0.420266, 2e-6),
        (20, 0.984081, 0.0159158, 0.00992116, 3e-4),
        (0, 1.0, 0.0, 0.0, 0.0),
    ],
)
def test_ddpm_golden_coefficients(
    t: int, c_x0: float, c_xt: float, std: float, rtol: float
) -> None:
    rows = sampler_rows("ddpm", LINEAR, "leading", 50)
    row = dict(zip(ROW, rows[rows[:, 0] == t][0].astype(np.float64), strict=False))
    on_xt = row["c_eps"] / row["sigma"]
    on_x0 = row["c_x0"] - on_xt * row["alpha"]
    # atol: taking c_xt * alpha off again costs one rounding of c_x0.
    np.testing.assert_allclose([on_x0, on_xt, row["c_noise"]], [c_x0, c_xt, std], rtol, 1e-7)


@pytest.mark.parametrize("name", INTEGER_SPACINGS)
@pytest.mark.parametrize("table", TABLES)
def test_ddpm_rows_are_the_posterior(name: str, table: str) -> None:
    """Rows vs eq. 7 of Ho et al. in its own x0 / x_t form, 1e-6 relative."""
    bar = TABLES[table]
    t = SPACINGS[name](25, 1000).astype(int)
    now, after = bar[t], np.append(bar[t[1:]], 1.0)
    beta, keep = 1 - now / after, np.sqrt(now / after)
    on_x0, on_xt = np.sqrt(after) * beta / (1 - now), keep * (1 - after) / (1 - now)
    posterior = np.maximum(beta * (1 - after) / (1 - now), 1e-20)
    last = np.arange(25) == 24
    for variance in schedule.VARIANCES:
        rows = sampler_rows("ddpm", bar, name, 25, variance=variance)
        expected = {
            "t": t,
            "alpha": np.sqrt(now),
            "sigma": np.sqrt(1 - now),
            "c_x0": on_x0 + on_xt * np.sqrt(now),
            "c_eps": on_xt * np.sqrt(1 - now),
            "c_prev": np.zeros(25),
            "c_noise": np.where(last, 0, np.sqrt(posterior)),
            "logvar_min": np.zeros(25),
            "logvar_max": np.zeros(25),
            "x_scale": np.ones(25),
        }
        if variance == "fixed_large":
            expected["c_noise"] = np.where(last, 0, np.sqrt(beta))
        if variance == "learned_range":
            expected |= {"c_noise": np.where(last, 0.0, 1.0)}
            expected |= {"logvar_min": np.log(posterior), "logvar_max": np.log(beta)}
        for key, value in expected.items():
            np.testing.assert_allclose(column(rows, key), value, 1e-6, 1e-12, err_msg=key)


def test_fractional_timesteps_interpolate_sigma() -> None:
    t = 123.25
    sigma_ve = np.sqrt((1 - SD) / SD)
    expected = 0.75 * sigma_ve[123] + 0.25 * sigma_ve[124]
    rows = schedule.euler_rows(SD, np.array([t, 7.0]))
    assert rows[0, 0] == t
    assert column(rows, "sigma")[0] / column(rows, "alpha")[0] == pytest.approx(expected, rel=1e-6)
    assert column(rows, "alpha")[1] == pytest.approx(np.sqrt(SD[7]), rel=1e-7)
    between = schedule.euler_rows(ZERO_SNR, np.array([998.5, 998.0]))
    assert 0 < column(between, "alpha")[0] < column(between, "alpha")[1]


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral"])
def test_first_euler_row_scales_the_noise(sampler: str) -> None:
    for spacing in ("linspace", "trailing"):
        scale = column(sampler_rows(sampler, SD, spacing, 30), "x_scale")
        assert scale[0] == pytest.approx(14.614647 / np.sqrt(14.614647**2 + 1), rel=1e-6)
        assert np.all(scale[1:] == 1)
    assert np.all(column(sampler_rows(sampler, SD, "leading+1", 30), "x_scale") == 1)
    assert column(sampler_rows(sampler, ZERO_SNR, "trailing", 30), "x_scale")[0] == 1


@settings(max_examples=200, deadline=None)
@given(
    sampler=st.sampled_from(SAMPLERS),
    spacing=st.sampled_from(sorted(SPACINGS)),
    table=st.sampled_from(sorted(TABLES)),
    steps=st.integers(1, 999),
    eta=st.floats(0, 1),
    variance=st.sampled_from(schedule.VARIANCES),
)
def test_every_table_is_finite_and_ends_clean(
    sampler: str, spacing: str, table: str, steps: int, eta: float, variance: str
) -> None:
    bar = TABLES[table]
    rows = sampler_rows(sampler, bar, spacing, steps, eta=eta, variance=variance)
    assert rows.shape == (steps, ROW_WIDTH) and rows.dtype == np.float32
    assert np.all(np.isfinite(rows))
    # float32 timesteps still differ: the closest two fractional ones are over 1 apart.
    assert np.all(np.diff(rows[:, 0]) < 0) and rows[-1, 0] >= 0 and rows[0, 0] <= 999
    np.testing.assert_allclose(column(rows, "alpha") ** 2 + column(rows, "sigma") ** 2, 1, 3e-7)
    # The row of clean x0: 1 * x0 + 0 * eps + 0 * prev + 0 * noise.
    assert rows[-1, 3:7].tolist() == [1, 0, 0, 0]
    if sampler != "dpmpp_2m" and (sampler != "ddpm" or variance.startswith("fixed_small")):
        # What a row makes has the variance of the next row's timestep.
        np.testing.assert_allclose(column(rows, "c_x0")[:-1], column(rows, "alpha")[1:], 3e-7)
        noise = column(rows, "c_eps") ** 2 + column(rows, "c_noise") ** 2
        np.testing.assert_allclose(noise[:-1], column(rows, "sigma")[1:] ** 2, 1e-6)


@settings(max_examples=100, deadline=None)
@given(
    sampler=st.sampled_from(SAMPLERS),
    spacing=st.sampled_from(sorted(SPACINGS)),
    steps=st.integers(1, 60),
    cut=st.floats(-5, 1005),
)
def test_row_range_splits_without_loss(sampler: str, spacing: str, steps: int, cut: float) -> None:
    rows = sampler_rows(sampler, LINEAR, spacing, steps)
    before = rows.copy()
    above, below = schedule.row_range(rows, 999, cut), schedule.row_range(rows, cut)
    assert len(above) + len(below) == len(rows)
    assert np.all(above[:, 0] > cut) and np.all(below[:, 0] <= cut)
    np.testing.assert_array_equal(rows, before)
    joined = np.concatenate([above, below])
    if len(below):
        # A part has no x0 of an earlier row: its first row is first order.
        assert below[0, ROW.index("c_prev")] == 0
        whole = rows[len(above)]
        assert below[0, 3] == pytest.approx(float(whole[3] + whole[5]), rel=1e-6)
        joined[len(above)] = whole
    np.testing.assert_array_equal(joined, rows)


def test_row_range_includes_high_and_excludes_low() -> None:
    rows = sampler_rows("ddim", SD, "leading+1", 50)
    assert schedule.row_range(rows, 981, 881)[:, 0].tolist() == [981, 961, 941, 921, 901]
    assert schedule.row_range(rows, 41)[:, 0].tolist() == [41, 21, 1]
    assert schedule.row_range(rows, low=941)[:, 0].tolist() == [981, 961]
    assert schedule.row_range(rows, 20, 2).shape == (0, ROW_WIDTH)


def test_row_range_makes_dpmpp_first_order() -> None:
    rows = sampler_rows("dpmpp_2m", SD, "trailing", 20)
    part, first_order = schedule.row_range(rows, 700), sampler_rows("ddim", SD, "trailing", 20)
    np.testing.assert_allclose(part[0], first_order[first_order[:, 0] <= 700][0], rtol=3e-7)


def test_renoise_coefficients() -> None:
    c_x, c_z = schedule.renoise_coefficients(SD, 881, 941)
    assert c_x == pytest.approx(np.sqrt(SD[941] / SD[881]), rel=1e-12)
    assert c_x**2 + c_z**2 == pytest.approx(1, rel=1e-12)
    assert schedule.renoise_coefficients(SD, 500, 500) == (1.0, 0.0)
    # Noise augmentation of conditions: tau 100 (zero SNR, and without), tau 50 and 20 (x4).
    for table, t, golden in [
        (ZERO_SNR, 100, (0.941680, 0.336510)),
        (SD, 100, (0.945634, 0.325234)),
        (X4, 50, (0.995411, 0.095688)),
        (X4, 20, (0.998650, 0.051949)),
    ]:
        np.testing.assert_allclose(schedule.renoise_coefficients(table, None, t), golden, 2e-5)
    assert schedule.renoise_coefficients(ZERO_SNR, None, 999) == (0.0, 1.0)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_a_bad_step_count_is_refused(spacing: str, steps: int) -> None:
    with pytest.raises(ValueError, match=rf"number of steps is {steps}. It must be between 1 and"):
        sampler_rows("ddim", LINEAR, spacing, steps)


def test_leading_plus_1_cannot_visit_every_timestep() -> None:
    with pytest.raises(ValueError, match="would start at timestep 1000"):
        sampler_rows("ddim", LINEAR, "leading+1", 1000)
    assert len(sampler_rows("ddim", LINEAR, "leading", 1000)) == 1000


def test_one_step_starts_at_pure_noise() -> None:
    starts = {name: SPACINGS[name](1, 1000).tolist() for name in SPACINGS}
    assert starts == {
        "leading": [0], "leading+1": [1], "trailing": [999], "linspace": [999], "adm": [999],
        "unclip": [999],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sampler": "plms"}, "Sampler 'plms' is unknown. Known: ddim, ddpm, euler,"),
        ({"spacing": "karras"}, "spacing 'karras' is unknown. Known: leading, leading"),
        ({"final": "zero"}, "level 'zero' is unknown. Known: one, first"),
        ({"sampler": "ddpm", "variance": "learned"}, "Variance 'learned' is unknown. Known: fixed"),
        ({"eta": -0.1}, "eta is -0.1. It must be between 0 and 1"),
        ({"eta": 1.5}, "eta is 1.5. It must be between 0 and 1"),
        ({"eta": float("nan")}, "eta is nan. It must be between 0 and 1"),
        ({"alphas_cumprod": LINEAR[::-1]}, "not a noise schedule"),
        ({"alphas_cumprod": LINEAR[None]}, r"shape \(1, 1000\) is not a noise schedule"),
        ({"alphas_cumprod": np.append(1.0, LINEAR)}, "not a noise schedule"),
        ({"alphas_cumprod": np.append(LINEAR, np.nan)}, "not a noise schedule"),
        ({"alphas_cumprod": np.array([])}, "not a noise schedule"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    settings = {"sampler": "ddim", "alphas_cumprod": LINEAR, "spacing": "leading", "steps": 50}
    with pytest.raises(ValueError, match=message):
        sampler_rows(**{**settings, **change})


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ([], "not a trajectory"),
        ([5.0, 5.0], "not a trajectory"),
        ([1.0, 5.0], "not a trajectory"),
        ([1000.0, 5.0], "leave the schedule"),
        ([5.0, -0.5], "leave the schedule"),
        ([float("nan")], "leave the schedule"),
    ],
)
def test_bad_timesteps_are_refused(timesteps: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule.ddim_rows(LINEAR, np.array(timesteps))


def test_bad_renoising_is_refused() -> None:
    for table, t_from, t_to in [(SD, 900, 800), (ZERO_SNR, 999, 999), (SD, None, 1000)]:
        with pytest.raises(ValueError, match=r"Cannot add noise from|leave the schedule"):
            schedule.renoise_coefficients(table, t_from, t_to)


def test_a_shift_divides_the_amplitude_ratio_and_one_changes_nothing() -> None:
    """simple diffusion, arXiv:2301.11093, section 3.1: logSNR moves by -2 ln(factor)."""
    table = schedule.alphas_cumprod_cosine()
    shifted = schedule.shift_alphas_cumprod(table, 5.0)
    log_snr, moved = (np.log(t / (1 - t)) for t in (table, shifted))
    np.testing.assert_allclose(moved, log_snr - 2 * np.log(5.0), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(schedule.shift_alphas_cumprod(table, 1.0), table, rtol=1e-12)
    for factor in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="factor is"):
            schedule.shift_alphas_cumprod(table, factor)
