"""``onnxgrow run``: do the steps of a recipe, prove the result, write it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from onnxgrow.cli import options

if TYPE_CHECKING:
    from onnxgrow.recipe import RunRecipe

__all__ = ["run"]


@click.command(
    epilog="A recipe is a YAML file with a list of steps, as in `steps: [{widen: {factor: 2}}, deepen]`; the keys of a "
    "step are the options of its command."
)
@click.argument("recipe", type=options.PATH)
@options.place_options
@click.option("--allow-code", is_flag=True, help="Let the recipe run code that it names as module:function.")
@options.max_change_option
@options.growing_options
def run(recipe: Path, allow_code: bool, max_change: float | None, **general: Any) -> int:
    """Do the steps of RECIPE with MODEL in one go; prove the result, then write it."""
    from onnxgrow.cli.job import Request, carry_out

    def make() -> RunRecipe:
        from onnxgrow.recipe import RunRecipe, read_recipe

        return RunRecipe(read_recipe(recipe), allow_code=allow_code)

    return carry_out("run", Request(**general), make, max_change, beside=(recipe,))
