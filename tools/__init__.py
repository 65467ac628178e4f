"""Scripts that generate files of the repository: assets, docs/settings.md, docs/architecture.svg."""
