"""The config of a comparison: its TOML file, read strictly and checked."""
