"""Instructions for using a model that reconstructs images."""

from job.report.recipe import Recipe


def restoring_recipes() -> list[Recipe]:
    """Return the recipe for predict.py. Other tools cannot open the file, since they have no names for its layers."""
    return [
        Recipe(
            "Cog",
            "BASE is a base model of Stage C (docs/cascade.md). The file changes Stage B; other weights can be added.",
            "cog run -i prompt='a photo' -i base_model=BASE -i lora=@weights.safetensors\n\n"
            "# or without a container\npython predict.py 'a photo' --base_model BASE --weights weights.safetensors",
        )
    ]
