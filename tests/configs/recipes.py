"""Names of all configs that are no base of others."""

from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
#: Paths below the folder of configs.
RECIPES = sorted(
    path.relative_to(CONFIGS).as_posix()
    for path in CONFIGS.rglob('*.py')
    if path.parent.name != '_base_'
)
