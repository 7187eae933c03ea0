"""Which rows of a comparison a call trains."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from nightaug.errors import ConfigError
from nightaug.experiment.arms import CHECKPOINT, NIGHT_MARK, hint_of


def wanted_rows(
    only: Sequence[str], arms: Sequence[str], seeds: Sequence[int], once: Collection[str] = ()
) -> list[tuple[str, int]]:
    """The (arm, seed) pairs to train now: all, or those that ``only`` names: ``ARM``, ``ARM@SEED`` or ``@SEED``.

    The order is seed by seed, so that a comparison stopped early has whole seeds. ``checkpoint`` stands for the day
    checkpoint alone; it comes first.

    Args:
        once: arms of the first seed only, unless ``ARM@SEED`` names another one.

    Raises:
        ConfigError: ``only`` names an arm or a seed that is not in this comparison.
    """
    every = [(arm, seed) for seed in seeds for arm in (CHECKPOINT, *arms)]
    usual = [row for row in every if row[0] not in once or row[1] == seeds[0]]
    if not only:
        return [row for row in usual if row[0] != CHECKPOINT]
    chosen: set[tuple[str, int]] = set()
    for item in only:
        arm, at, seed = item.partition("@")
        arm = arm.removesuffix(NIGHT_MARK)
        pool = every if arm and at else usual
        some = [row for row in pool if arm in ("", row[0]) and (not at or str(row[1]) == seed)]
        if not some:
            raise ConfigError(
                f"--only {item}: no such arm and seed here{hint_of(arm, arms)} (arms: {', '.join(arms)}; seeds: "
                f"{', '.join(map(str, seeds))}; write ARM, ARM@SEED or @SEED)"
            )
        chosen.update(some)
    return [row for row in every if row in chosen]
