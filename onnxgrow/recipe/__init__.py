"""Recipes: several growths in one go, as a file that can be kept beside the model."""

from __future__ import annotations

from onnxgrow.recipe.pipeline import RunRecipe
from onnxgrow.recipe.recipe import Recipe, Step, read_recipe, recipe_of

__all__ = ["Recipe", "RunRecipe", "Step", "read_recipe", "recipe_of"]
