"""What a comparison is told: its TOML file, read strictly and checked."""
